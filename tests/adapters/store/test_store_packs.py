"""Blobs and packs: added, located, read, pinned, evicted, and put right after damage."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_values import content, wanted

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import cid_of, cid_text
from p2pfleet.ports import Packs

MEGABYTE = 10**6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "packs"


Opener = Callable[..., FilePacks]


@pytest.fixture
def opened(root: Path) -> Iterator[Opener]:
    """Opens packs at ``root``, as the next process would; all are closed at the end."""
    known: list[FilePacks] = []

    def opener(quota_bytes: int = MEGABYTE, min_free_bytes: int = 0) -> FilePacks:
        for packs in known:
            packs.close()
        known.append(FilePacks(root, quota_bytes, min_free_bytes))
        return known[-1]

    yield opener
    for packs in known:
        packs.close()


def located(packs: Packs, cid: bytes) -> bytes:
    """The bytes at the place that ``locate`` names."""
    place = packs.locate(cid)  # type: ignore[arg-type]
    assert place is not None
    path, offset, length = place
    return path.read_bytes()[offset : offset + length]


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and "sqlite" not in path.name)


def test_a_blob_is_found_by_its_cid_now_and_in_the_next_process(opened: Opener) -> None:
    packs: Packs = opened()
    data = content(1, 70_000)

    cid = packs.add(data)

    assert cid == cid_of(data)
    assert (packs.has(cid), packs.read(cid), located(packs, cid)) == (True, data, data)
    packs = opened()
    assert (packs.has(cid), packs.read(cid), located(packs, cid)) == (True, data, data)


def test_a_blob_added_twice_is_kept_once(opened: Opener, root: Path) -> None:
    packs = opened()

    assert packs.add(b"twice") == packs.add(b"twice")

    assert packs.used_bytes == 5
    assert len(files(root)) == 1


def test_what_is_unknown_is_not_there(opened: Opener) -> None:
    packs = opened()
    packs.add(b"something else")

    assert not packs.has(cid_of(b"missing"))
    assert packs.locate(cid_of(b"missing")) is None
    with pytest.raises(KeyError):
        packs.read(cid_of(b"missing"))


@pytest.mark.parametrize("cid", [b"", b"../../etc/passwd", bytes(36), b"\x01" * 36])
def test_what_is_no_cid_is_not_there(opened: Opener, cid: bytes) -> None:
    packs = opened()

    assert packs.locate(cid) is None  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        packs.read(cid)  # type: ignore[arg-type]


def test_members_of_a_pack_are_found_by_their_own_cid_and_by_place(opened: Opener) -> None:
    packs = opened()
    members = [content(number, number * 100) for number in range(20)]

    places = packs.add_pack(members)

    pack = places[0][0]
    packs = opened()
    whole = packs.read(pack)
    assert whole == b"".join(members)
    for member, (in_pack, offset, length) in zip(members, places, strict=True):
        assert in_pack == pack
        assert whole[offset : offset + length] == member
        assert packs.read(cid_of(member)) == member
        assert located(packs, cid_of(member)) == member


def test_equal_members_have_a_place_each(opened: Opener) -> None:
    packs = opened()

    places = packs.add_pack([b"same", b"other", b"same"])

    assert [(offset, length) for _, offset, length in places] == [(0, 4), (4, 5), (9, 4)]
    assert packs.read(cid_of(b"same")) == b"same"


def test_a_member_stays_while_one_of_its_packs_stays(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    first = packs.add_pack([b"member", bytes(400)])[0][0]
    second = packs.add_pack([b"member", b"\x01" * 400])[0][0]
    packs.pin(b"job", [second])

    packs.add(b"\x02" * 500)

    assert not packs.has(first)
    assert packs.read(cid_of(b"member")) == b"member"


def test_a_pack_that_came_as_a_blob_learns_its_members(opened: Opener) -> None:
    packs = opened()
    packs.add(b"onetwo")
    assert not packs.has(cid_of(b"two"))

    packs.add_pack([b"one", b"two"])

    assert packs.read(cid_of(b"two")) == b"two"
    assert packs.used_bytes == 6


def test_a_pack_of_nothing_is_refused(opened: Opener) -> None:
    with pytest.raises(ValueError, match="at least one member"):
        opened().add_pack([])


@settings(max_examples=25, deadline=None)
@given(groups=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=4))
def test_whatever_is_added_is_located_and_read(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[bytes]]
) -> None:
    packs = FilePacks(tmp_path_factory.mktemp("packs"), MEGABYTE, 0)
    try:
        for group in groups:
            packs.add(group[0])
            for member, (pack, offset, length) in zip(group, packs.add_pack(group), strict=True):
                assert packs.read(pack)[offset : offset + length] == member
        for data in (member for group in groups for member in group):
            assert packs.read(cid_of(data)) == located(packs, cid_of(data)) == data
        distinct = {b"".join(group) for group in groups} | {group[0] for group in groups}
        assert packs.used_bytes <= sum(map(len, distinct))
    finally:
        packs.close()


def test_a_blob_is_synced_before_it_is_named_and_named_before_it_is_entered(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = opened()
    packs.add(content(1, 100))  # another one, so that the next finds its folders made or makes them
    steps: list[str] = []
    fsync, rename, enter = os.fsync, Path.rename, packs._index.add

    def syncing(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(f"sync {kind}")
        fsync(descriptor)

    def naming(path: Path, target: Path) -> Path:
        steps.append("name")
        return rename(path, target)

    def entering(*arguments: Any) -> bool:
        steps.append("enter")
        return enter(*arguments)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "rename", naming)
    monkeypatch.setattr(packs._index, "add", entering)

    packs.add(content(2, 100))
    kept = steps[:]
    steps.clear()
    partial = packs.partial(wanted(content(3, 100)))
    partial.write(content(3, 100))
    assert partial.finish()

    for way in (kept, steps):
        assert way[0] == "sync file"
        assert way[-3:] == ["name", "sync folder", "enter"]
        assert set(way[1:-3]) <= {"sync folder"}  # of folders made for it


# ---- quota and pins --------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    old, read, fresh = (packs.add(content(number, 300)) for number in range(3))
    packs.read(read)
    packs.read(old)
    packs.read(fresh)

    packs = opened(quota_bytes=1000)  # the uses were written down
    packs.add(content(4, 300))

    assert [packs.has(cid) for cid in (old, read, fresh)] == [True, False, True]
    assert packs.used_bytes == 900


def test_what_is_pinned_is_not_evicted_even_after_a_restart(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    blob = packs.add(content(1, 300))
    pack = packs.add_pack([content(2, 100), content(3, 200)])[0][0]
    packs.pin(b"job 1", [blob])
    packs.pin(b"job 2", [cid_of(content(3, 200)), cid_of(content(9, 400))])
    later = content(9, 400)

    packs = opened(quota_bytes=1000)
    packs.add(later)

    with pytest.raises(P2pfleetError, match="the disk quota of 0 MB is used up") as caught:
        packs.add(content(4, 300))
    assert "disk_mb" in caught.value.advice
    assert all(packs.has(cid) for cid in (blob, pack, cid_of(later)))
    packs.unpin(b"job 1")
    packs.add(content(4, 300))
    assert not packs.has(blob)
    assert packs.has(pack)


def test_a_pin_of_one_owner_outlives_that_of_another(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    blob = packs.add(content(1, 600))
    packs.pin(b"job 1", [blob])
    packs.pin(b"job 2", [blob])
    packs.pin(b"job 2", [blob, cid_of(b"more")])

    packs.unpin(b"job 1")

    with pytest.raises(P2pfleetError, match="quota"):
        packs.add(content(2, 600))
    packs.unpin(b"job 2")
    packs.add(content(2, 600))
    assert not packs.has(blob)


def test_what_cannot_fit_evicts_nothing(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    small = packs.add(content(1, 300))

    with pytest.raises(P2pfleetError, match="quota"):
        packs.add(content(2, 1001))

    assert packs.has(small)
    assert packs.used_bytes == 300


def test_a_lowered_quota_takes_effect_at_the_next_start(opened: Opener) -> None:
    packs = opened(quota_bytes=1000)
    for number in range(3):
        packs.add(content(number, 300))

    assert opened(quota_bytes=700).used_bytes == 600


def test_some_of_the_disk_stays_free(opened: Opener, root: Path) -> None:
    packs = opened(min_free_bytes=2**60)

    with pytest.raises(P2pfleetError, match="are to stay free") as caught:
        packs.add(b"little")

    assert "Free some space" in caught.value.advice
    assert files(root) == []


def test_a_disk_that_fills_up_is_a_sentence_and_leaves_nothing(
    opened: Opener, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = opened()
    write = os.pwrite

    def half(descriptor: int, data: memoryview, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:10], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(P2pfleetError, match="is full"):
            packs.add(content(1, 1000))

    assert files(root) == []
    assert packs.used_bytes == 0
    assert packs.read(packs.add(content(1, 1000))) == content(1, 1000)


def test_an_index_that_cannot_be_written_leaves_no_blob_behind(opened: Opener, root: Path) -> None:
    packs = opened()
    writer = packs._index._database._writer
    writer.execute("PRAGMA query_only = 1")

    with pytest.raises(P2pfleetError, match="cannot be written"):
        packs.add(content(1, 1000))

    assert files(root) == []
    writer.execute("PRAGMA query_only = 0")
    assert packs.read(packs.add(content(1, 1000))) == content(1, 1000)


# ---- damage ----------------------------------------------------------------------------------


def test_a_blob_with_wrong_bytes_is_deleted_when_it_is_read(opened: Opener) -> None:
    packs = opened()
    cid = packs.add(content(1, 1000))
    path, _, _ = packs.locate(cid) or (Path(), 0, 0)
    path.write_bytes(content(2, 1000))

    with pytest.raises(P2pfleetError, match="damaged") as caught:
        packs.read(cid)

    assert caught.value.code == ExitCode.DAMAGED
    assert not packs.has(cid)
    assert not path.exists()
    assert packs.used_bytes == 0
    assert packs.read(packs.add(content(1, 1000))) == content(1, 1000)


def test_a_damaged_member_takes_its_pack_along(opened: Opener) -> None:
    packs = opened()
    pack = packs.add_pack([b"good", b"fine"])[0][0]
    path, _, _ = packs.locate(pack) or (Path(), 0, 0)
    path.write_bytes(b"goodfind")

    with pytest.raises(P2pfleetError, match="damaged"):
        packs.read(cid_of(b"fine"))

    assert not packs.has(pack)
    assert not packs.has(cid_of(b"good"))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 5)])
def test_a_file_that_is_gone_or_cut_is_not_offered(
    opened: Opener, damage: Callable[[Path], None], restart: bool
) -> None:
    packs = opened()
    cid = packs.add_pack([content(1, 1000), b"member"])[0][0]
    path, _, _ = packs.locate(cid) or (Path(), 0, 0)
    damage(path)
    if restart:
        packs = opened()

    assert packs.locate(cid_of(b"member")) is None
    assert packs.locate(cid) is None
    assert packs.used_bytes == 0


def test_opening_adopts_whole_files_and_deletes_the_others(opened: Opener, root: Path) -> None:
    packs = opened()
    whole, false, kept = (packs.add(content(number, 100)) for number in range(3))
    paths = [packs._files.path_of(cid) for cid in (whole, false, kept)]
    packs._index.remove([whole, false])
    paths[1].write_bytes(b"not that")
    strangers = [
        paths[0].with_name("notes.txt"),
        paths[0].with_name(cid_text(cid_of(b"elsewhere"))),
        root / "temporary" / "123-4",
        root / "partial" / "what.part",
    ]
    for stranger in strangers:
        stranger.write_bytes(b"stranger")

    packs = opened()

    assert packs.read(whole) == content(0, 100)
    assert packs.read(kept) == content(2, 100)
    assert not packs.has(false)
    assert files(root) == sorted([paths[0], paths[2]])
    assert packs.used_bytes == 200


def test_without_its_index_every_blob_is_taken_up_again(opened: Opener, root: Path) -> None:
    packs = opened()
    data = [content(number, 100) for number in range(5)]
    pack = packs.add_pack(data)[0][0]
    for member in data:
        packs.add(member)
    packs.close()
    for file in root.glob("packs.sqlite*"):
        file.unlink()

    packs = opened()

    assert packs.read(pack) == b"".join(data)
    assert packs.used_bytes == 500


def test_a_damaged_index_is_a_sentence(opened: Opener, root: Path) -> None:
    opened().close()
    (root / "packs.sqlite").write_bytes(content(1, 5000))

    with pytest.raises(P2pfleetError, match="index of the kept blobs") as caught:
        opened()

    assert "the blobs themselves stay" in caught.value.advice


def test_files_and_folders_are_for_their_owner_only(opened: Opener, root: Path) -> None:
    packs = opened()
    packs.add(b"secret output")

    assert root.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in root.rglob("*"))


def test_threads_add_read_and_evict_at_once(opened: Opener) -> None:
    packs = opened(quota_bytes=20_000)
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for number in range(40):
                data = content(number % 20 + 20 * (thread % 2), 900)
                cid = packs.add(data)
                with suppress(KeyError):  # evicted by the other threads in between
                    assert packs.read(cid) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert packs.used_bytes <= 20_000
    used = packs.used_bytes
    assert opened(quota_bytes=20_000).used_bytes == used
