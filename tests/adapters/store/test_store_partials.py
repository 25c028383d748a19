"""Blobs that are arriving: resumed, verified, within the quota, never half visible."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stored_values import content, wanted

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import cid_of
from p2pfleet.core.model.job import BlobRef
from p2pfleet.ports import PartialBlob

DATA = content(1, 10_000)
Opener = Callable[..., FilePacks]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    known: list[FilePacks] = []

    def opener(quota_bytes: int = 10**6) -> FilePacks:
        for packs in known:
            packs.close()
        known.append(FilePacks(tmp_path, quota_bytes, 0))
        return known[-1]

    yield opener
    for packs in known:
        packs.close()


def test_a_blob_that_arrived_whole_is_kept(opened: Opener, tmp_path: Path) -> None:
    packs = opened()
    partial: PartialBlob = packs.partial(wanted(DATA))
    for start in range(0, len(DATA), 3000):
        assert partial.present == start
        partial.write(DATA[start : start + 3000])
        assert not packs.has(cid_of(DATA))

    assert partial.finish()
    assert partial.finish()

    assert packs.used_bytes == len(DATA)
    assert list((tmp_path / "partial").iterdir()) == []
    assert opened().read(cid_of(DATA)) == DATA


def test_a_range_of_a_pack_is_kept_under_its_own_cid(opened: Opener) -> None:
    packs = opened()
    ref = wanted(DATA, offset=500, inside=cid_of(b"some pack"))
    partial = packs.partial(ref)
    partial.write(DATA)

    assert partial.ref == ref
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA
    assert not packs.has(cid_of(b"some pack"))


def test_an_empty_blob_arrives_as_well(opened: Opener) -> None:
    packs = opened()

    assert packs.partial(wanted(b"")).finish()

    assert packs.read(cid_of(b"")) == b""


def test_after_a_restart_it_goes_on_where_it_stood(opened: Opener) -> None:
    opened().partial(wanted(DATA)).write(DATA[:4000])

    packs = opened()
    partial = packs.partial(wanted(DATA))

    assert partial.present == 4000
    assert packs.used_bytes == 4000
    partial.write(DATA[4000:])
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA


def test_the_bytes_before_a_restart_are_checked_as_well(opened: Opener, tmp_path: Path) -> None:
    opened().partial(wanted(DATA)).write(content(2, 4000))

    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[4000:])

    assert not partial.finish()
    assert partial.present == 0
    assert not packs.has(cid_of(DATA))
    assert packs.used_bytes == 0
    assert list((tmp_path / "partial").iterdir()) == []
    partial.write(DATA)
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA


def test_wrong_bytes_are_thrown_away(opened: Opener) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:-1] + b"!")

    assert not partial.finish()

    assert (partial.present, packs.used_bytes) == (0, 0)
    assert not packs.has(cid_of(DATA))


def test_what_is_incomplete_is_not_finished_and_not_thrown_away(opened: Opener) -> None:
    partial = opened().partial(wanted(DATA))
    partial.write(DATA[:10])

    assert not partial.finish()

    assert partial.present == 10


def test_bytes_beyond_the_end_are_refused(opened: Opener) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:9000])

    with pytest.raises(ValueError, match="no more"):
        partial.write(bytes(1001))

    assert (partial.present, packs.used_bytes) == (9000, 9000)
    partial.write(DATA[9000:])
    assert partial.finish()
    with pytest.raises(ValueError, match="complete"):
        partial.write(b"!")
    with pytest.raises(ValueError, match="complete"):
        partial.restart()


def test_a_restart_begins_at_the_front(opened: Opener) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(content(2, 5000))

    partial.restart()

    assert (partial.present, packs.used_bytes) == (0, 0)
    partial.write(DATA)
    assert partial.finish()


def test_arriving_blobs_count_towards_the_quota_and_evict_others(opened: Opener) -> None:
    packs = opened(quota_bytes=15_000)
    loose = packs.add(content(3, 4000))
    pinned = packs.add(content(4, 4000))
    packs.pin(b"job", [pinned])
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:9000])
    assert not packs.has(loose)

    partial.write(DATA[9000:])
    other = packs.partial(wanted(content(5, 2000)))
    with pytest.raises(P2pfleetError, match="quota"):
        other.write(content(5, 2000))

    assert other.present == 0
    assert partial.finish()
    assert packs.used_bytes == 14_000
    other.write(content(5, 2000))  # evicts DATA, which nobody pinned
    assert other.finish()
    assert packs.has(pinned)
    assert not packs.has(cid_of(DATA))


def test_an_arriving_blob_that_nobody_holds_gives_way_unless_pinned(opened: Opener) -> None:
    packs = opened(quota_bytes=12_000)
    packs.pin(b"job", [cid_of(DATA)])
    packs.partial(wanted(DATA)).write(DATA[:5000])
    packs.partial(wanted(content(2, 5000))).write(content(2, 5000)[:4000])
    gc.collect()

    packs.add(content(3, 7000))

    assert packs.used_bytes == 12_000
    assert packs.partial(wanted(DATA)).present == 5000
    assert packs.partial(wanted(content(2, 5000))).present == 0


def test_a_full_disk_takes_nothing_and_the_rest_can_follow(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:1000])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(P2pfleetError, match="is full"):
            partial.write(DATA[1000:])

    assert (partial.present, packs.used_bytes) == (1000, 1000)
    partial.write(DATA[1000:])
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA


def test_an_index_that_cannot_be_written_loses_nothing_that_arrived(opened: Opener) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA)
    writer = packs._index._database._writer
    writer.execute("PRAGMA query_only = 1")

    with pytest.raises(P2pfleetError, match="cannot be written"):
        partial.finish()

    writer.execute("PRAGMA query_only = 0")
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA
    assert packs.used_bytes == len(DATA)


def test_two_holders_of_one_range_do_not_spoil_each_other(opened: Opener, tmp_path: Path) -> None:
    packs = opened()
    liar, honest = packs.partial(wanted(DATA)), packs.partial(wanted(DATA))
    liar.write(content(2, 6000))
    honest.write(DATA[:5000])
    liar.write(content(3, 4000))
    honest.write(DATA[5000:])

    assert not liar.finish()
    assert honest.finish()
    liar.write(DATA)
    assert liar.finish()

    assert packs.read(cid_of(DATA)) == DATA
    assert packs.used_bytes == len(DATA)
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_range_with_another_length_cannot_disturb_the_true_one(opened: Opener) -> None:
    packs = opened()
    packs.partial(wanted(DATA)).write(DATA[:6000])
    true = wanted(DATA)
    false = BlobRef(cid=true.cid, offset=0, length=10, sha256=true.sha256)

    other = packs.partial(false)
    other.write(DATA[:10])

    assert not other.finish()
    assert packs.partial(true).present == 6000


def test_an_arriving_file_that_was_deleted_does_not_come_back_with_a_hole(
    opened: Opener, tmp_path: Path
) -> None:
    packs = opened()
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:6000])
    next((tmp_path / "partial").iterdir()).unlink()

    with pytest.raises(P2pfleetError):
        partial.write(DATA[6000:])

    assert not packs.has(cid_of(DATA))
    del partial
    gc.collect()
    assert packs.partial(wanted(DATA)).present == 0


def test_arriving_files_from_long_ago_go_at_the_start(opened: Opener, tmp_path: Path) -> None:
    opened().partial(wanted(DATA)).write(DATA[:6000])
    file = next((tmp_path / "partial").iterdir())
    os.utime(file, (1, 1))

    assert opened().used_bytes == 0
    assert not file.exists()
