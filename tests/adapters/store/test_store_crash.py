"""SIGKILL at any moment: what was acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash_points
import pytest
from crash_child import blob, pack
from stored_values import JOB, frame, own_seed, save_frame, wanted

from p2pfleet.adapters.store import FilePacks, SqliteStore
from p2pfleet.core.effects import Move
from p2pfleet.core.model.ids import PeerId, cid_of, parse_cid, sha256

CHILD = Path(__file__).with_name("crash_child.py")
CRASH_POINTS = Path(crash_points.__file__)
ROUNDS = 4


def killed_after(what: str, folder: Path, first: int, chance: random.Random) -> int:
    """Let a child write and kill it somewhere in the midst; the last number it acknowledged."""
    acknowledged = first - 1
    with subprocess.Popen(
        [sys.executable, str(CHILD), what, str(folder), str(first)],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            for _ in range(chance.randint(1, 25)):
                acknowledged = int(child.stdout.readline())
            # Not a wait for something: the moment within the next operation is left to chance.
            time.sleep(chance.random() * 0.01)
        finally:
            child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            if line.endswith("\n"):
                acknowledged = int(line)
        assert child.wait() == -signal.SIGKILL
    return acknowledged


@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_writes_survive_a_kill_and_transactions_are_whole(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    first = 0
    for _ in range(ROUNDS):
        acknowledged = killed_after("store", tmp_path, first, chance)

        store = SqliteStore.open(tmp_path / "store.sqlite")
        frames = store.job_frames(JOB)
        count = len(frames)
        assert count > acknowledged
        assert frames == [frame(number) for number in range(count)]
        assert store.units(JOB) == [(n, "certified", b"%d" % n) for n in range(count)]
        assert store.seeds(JOB) == [own_seed(n) for n in range(count)]
        assert store.moves(JOB) == [
            Move(n, PeerId(sha256(b"%d" % n)), "matched") for n in range(count)
        ]
        store.apply([save_frame(count - 1)])
        store.close()
        first = count
    assert first >= ROUNDS


@pytest.mark.parametrize("seed", [3, 4])
def test_acknowledged_blobs_survive_a_kill_and_none_is_half(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    root = tmp_path / "packs"
    first = 0
    for _ in range(ROUNDS):
        acknowledged = killed_after("packs", tmp_path, first, chance)

        packs = FilePacks(root, 10**9, 0)
        for number in range(acknowledged + 1):
            if number % 3 == 1:
                assert all(packs.read(cid_of(member)) == member for member in pack(number))
            else:
                assert packs.read(cid_of(blob(number))) == blob(number)
            assert packs._index.is_pinned(cid_of(b"%d" % number))
        files = [path for path in (root / "blobs").rglob("*") if path.is_file()]
        for path in files:
            packs.read(parse_cid(path.name))
        assert list((root / "temporary").iterdir()) == []
        next_one = acknowledged + 1
        if next_one % 3 == 2:
            data = blob(next_one)
            partial = packs.partial(wanted(data))
            if partial.present:
                assert partial._path.read_bytes() == data[: partial.present]
        arriving = sum(path.stat().st_size for path in (root / "partial").iterdir())
        assert packs.used_bytes == arriving + sum(path.stat().st_size for path in files)
        packs.close()
        first = next_one
    assert first >= ROUNDS


def test_packs_are_whole_after_a_kill_at_any_call_that_changes_the_disk(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(CRASH_POINTS), str(tmp_path)], check=True, timeout=50)
    runs = sorted(tmp_path.iterdir(), key=lambda folder: int(folder.name))
    assert len(runs) > 50
    for folder in runs:
        root = folder / "packs"
        promised = (folder / "promised").read_text().split()
        packs = FilePacks(root, crash_points.QUOTA_BYTES, 0)
        files = sorted(path for path in (root / "blobs").rglob("*") if path.is_file())

        for path in files:
            assert cid_of(path.read_bytes()) == parse_cid(path.name)
            assert packs.has(parse_cid(path.name))
        assert list((root / "temporary").iterdir()) == []
        kept = {
            "pinned": [crash_points.PINNED],
            "pack": [*crash_points.MEMBERS, b"".join(crash_points.MEMBERS)],
            "arriving": [crash_points.ARRIVING],
            "last": [crash_points.LAST],
        }
        for name in set(promised) & set(kept):
            assert all(packs.read(cid_of(data)) == data for data in kept[name])
        arriving = [path.read_bytes() for path in (root / "partial").iterdir()]
        assert all(crash_points.ARRIVING.startswith(data) for data in arriving)
        assert packs.used_bytes == sum(map(len, arriving)) + sum(
            path.stat().st_size for path in files
        )

        # And the interrupted work can be done.
        again = crash_points.steps(packs)
        for name in ("pin", *kept):
            again[name]()
        for data in itertools.chain(*kept.values()):
            assert packs.read(cid_of(data)) == data
        packs.close()
    assert promised == list(crash_points.steps(packs))
