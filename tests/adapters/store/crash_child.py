"""Writes into a folder until it is killed, and says on stdout what it was promised is durable.

``crash_child.py store|packs FOLDER FIRST_NUMBER``; each line is a number, printed after the call
that made it durable has returned.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from stored_values import JOB, content, own_seed, save_frame, save_job, wanted

from p2pfleet.adapters.store import FilePacks, SqliteStore
from p2pfleet.core.effects import Move, SaveMoves, SaveSeed, SaveUnits, UnitRow
from p2pfleet.core.model.ids import PeerId, cid_of, sha256


def acknowledge(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def write_frames(folder: Path, first: int) -> None:
    """Each transaction holds a seed, a frame, its ledger line and its move: all four or none."""
    store = SqliteStore.open(folder / "store.sqlite")
    store.apply([save_job()])
    for number in itertools.count(first):
        peer = PeerId(sha256(b"%d" % number))
        store.apply(
            [
                SaveSeed(JOB, own_seed(number)),
                save_frame(number),
                SaveUnits(job=JOB, rows=(UnitRow(number, "certified", b"%d" % number),)),
                SaveMoves(JOB, (Move(number, peer, "matched"),)),
            ]
        )
        acknowledge(number)


def blob(number: int) -> bytes:
    return content(number, 1 + number * 7919 % 200_000)


def pack(number: int) -> list[bytes]:
    return [content(number * 100 + member, number * 31 % 20_000 + member) for member in range(5)]


def write_packs(folder: Path, first: int) -> None:
    """Numbers divided by three: blobs, packs, and blobs that arrive in pieces."""
    packs = FilePacks(folder / "packs", 10**9, 0)
    for number in itertools.count(first):
        if number % 3 == 0:
            packs.add(blob(number))
        elif number % 3 == 1:
            packs.add_pack(pack(number))
        else:
            data = blob(number)
            partial = packs.partial(wanted(data))
            for start in range(partial.present, len(data), 10_000):
                partial.write(data[start : start + 10_000])
            assert partial.finish()
        packs.pin(b"job", [cid_of(b"%d" % number)])
        acknowledge(number)


if __name__ == "__main__":
    {"store": write_frames, "packs": write_packs}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
