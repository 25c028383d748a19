"""Blobs that arrive in pieces: any order, known again after a crash, kept only if right."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_values import content, wanted

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import cid_of
from p2pfleet.core.wire.names import PIECE_BYTES

DATA = content(7, 3 * PIECE_BYTES + 5)
PIECES = [DATA[at : at + PIECE_BYTES] for at in range(0, len(DATA), PIECE_BYTES)]


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[FilePacks]:
    opened = FilePacks(tmp_path, 10**8, 0)
    yield opened
    opened.close()


def reopened(packs: FilePacks, tmp_path: Path) -> FilePacks:
    packs.close()
    gc.collect()
    return FilePacks(tmp_path, 10**8, 0)


@given(order=st.permutations(range(4)), stop=st.integers(0, 4), front=st.integers(0, len(DATA)))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pieces_come_in_any_order_and_survive_a_restart(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], stop: int, front: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("packs")
    packs = FilePacks(tmp_path, 10**8, 0)
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:front])
    pieces = partial.pieces()
    whole = 4 if front == len(DATA) else front // PIECE_BYTES
    assert list(pieces.held()) == [1] * whole + [0] * (4 - whole)
    for piece in order[:stop]:
        assert pieces.write(piece, PIECES[piece]) == (piece >= whole)
    expected = [int(piece < whole or piece in order[:stop]) for piece in range(4)]
    del partial, pieces

    packs = reopened(packs, tmp_path)
    partial = packs.partial(wanted(DATA))
    pieces = partial.pieces()
    assert list(pieces.held()) == expected
    assert pieces.right() == partial.finish() == all(expected)
    for piece in order[stop:]:
        if not all(expected):
            pieces.write(piece, PIECES[piece])
    assert partial.finish()
    assert packs.read(cid_of(DATA)) == DATA
    assert packs.used_bytes == len(DATA)
    assert list((tmp_path / "partial").iterdir()) == []
    packs.close()


def test_wrong_pieces_are_found_and_thrown_away(packs: FilePacks, tmp_path: Path) -> None:
    partial = packs.partial(wanted(DATA))
    pieces = partial.pieces()
    for piece in (3, 0, 2):
        pieces.write(piece, PIECES[piece])
    pieces.write(1, PIECES[2])

    assert not pieces.right()
    assert pieces.read(1) == PIECES[2]
    assert not partial.finish()

    assert (partial.present, packs.used_bytes) == (0, 0)
    assert list((tmp_path / "partial").iterdir()) == []
    assert not pieces.write(1, PIECES[1]), "who still sends is too late"
    partial.write(DATA)
    assert partial.finish()


def test_a_piece_without_its_mark_is_not_here(packs: FilePacks, tmp_path: Path) -> None:
    partial = packs.partial(wanted(DATA))
    partial.pieces().write(0, PIECES[0])
    file = next((tmp_path / "partial").iterdir())
    with file.open("r+b") as cut:  # killed between the two
        cut.seek(PIECE_BYTES)
        cut.write(PIECES[1])
    del partial

    again = reopened(packs, tmp_path)
    assert list(again.partial(wanted(DATA)).pieces().held()) == [1, 0, 0, 0]
    again.close()


def test_a_process_that_is_killed_leaves_the_pieces_that_it_had_written(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from stored_values import content, wanted
from p2pfleet.adapters.store import FilePacks
data = content(7, {len(DATA)})
pieces = FilePacks(Path({str(tmp_path)!r}), 10**8, 0).partial(wanted(data)).pieces()
pieces.write(2, data[2 * {PIECE_BYTES}:3 * {PIECE_BYTES}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode < 0
    packs = FilePacks(tmp_path, 10**8, 0)
    pieces = packs.partial(wanted(DATA)).pieces()
    assert list(pieces.held()) == [0, 0, 1, 0]
    assert pieces.read(2) == PIECES[2]
    packs.close()


def test_the_room_for_all_of_it_is_taken_at_once(tmp_path: Path) -> None:
    packs = FilePacks(tmp_path, len(DATA) - 1, 0)
    partial = packs.partial(wanted(DATA))
    partial.write(DATA[:10])
    with pytest.raises(P2pfleetError, match="quota"):
        partial.pieces()
    assert (partial.present, packs.used_bytes) == (10, 10)
    packs.close()


def test_of_many_who_write_a_piece_one_counts(packs: FilePacks) -> None:
    pieces = packs.partial(wanted(DATA)).pieces()
    with ThreadPoolExecutor(8) as threads:
        for piece in (1, 0, 3, 2):
            kept = list(threads.map(lambda _, at=piece: pieces.write(at, PIECES[at]), range(8)))
            assert sum(kept) == 1
    assert pieces.right()


def test_a_full_disk_keeps_what_is_there(packs: FilePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = packs.partial(wanted(DATA))
    pieces = partial.pieces()
    pieces.write(0, PIECES[0])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(P2pfleetError, match="is full"):
            pieces.write(1, PIECES[1])
    assert list(pieces.held()) == [1, 0, 0, 0]
    for piece in range(4):
        pieces.write(piece, PIECES[piece])
    assert partial.finish()


def test_pieces_that_are_none_and_the_wrong_way_to_write_are_refused(packs: FilePacks) -> None:
    partial = packs.partial(wanted(DATA))
    pieces = partial.pieces()
    for piece, data in ((4, b"x"), (-1, b"x"), (0, PIECES[0][:-1]), (3, PIECES[0]), (0, b"")):
        with pytest.raises(ValueError, match="piece"):
            pieces.write(piece, data)
    with pytest.raises(ValueError, match="pieces"):
        partial.write(b"x")
    descriptor = pieces.open()
    assert descriptor is not None
    os.close(descriptor)
    partial.restart()
    assert pieces.open() is None
