"""The pieces of an arriving file: written in any order, known again after a restart.

The file is as long as the blob, and behind it stands one byte a piece: 1 once the piece is written.
A piece is written before its byte, so that a killed process never leaves a mark without a piece.
(A power cut may; then the hash of the whole is wrong and everything is fetched again.)
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pfleet.adapters.store.durable_file import os_errors_explained, write_all
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.wire.names import PIECE_BYTES

_HASHED_AT_ONCE = 3


def piece_count(length: int) -> int:
    """How many pieces a blob of ``length`` bytes has."""
    return -(-length // PIECE_BYTES)


def size_in_pieces(length: int) -> int:
    """The size of the file in which a blob of ``length`` bytes arrives in pieces."""
    return length + piece_count(length)


class FilePieces:
    """The port ``ArrivingPieces`` on a file, which is in the form for pieces already."""

    def __init__(self, ref: BlobRef, path: Path) -> None:
        self._ref = ref
        self._path = path
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._over = False
        with self._opened(os.O_RDONLY) as descriptor:
            marks = os.pread(descriptor, piece_count(ref.length), ref.length)
        self._held = bytearray(1 if mark == 1 else 0 for mark in marks)

    @classmethod
    def convert(cls, ref: BlobRef, path: Path, present: int) -> FilePieces:
        """Bring a file that has grown from the front to ``present`` bytes into the form for
        pieces. Raises :class:`P2pfleetError`."""
        with os_errors_explained(path):
            create = 0 if present else os.O_CREAT
            descriptor = os.open(path, os.O_WRONLY | create, 0o600)
            try:
                os.ftruncate(descriptor, size_in_pieces(ref.length))
                whole = piece_count(present) if present == ref.length else present // PIECE_BYTES
                write_all(descriptor, b"\1" * whole, ref.length)
            finally:
                os.close(descriptor)
        return cls(ref, path)

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        with os_errors_explained(self._path):
            descriptor = os.open(self._path, flags | os.O_CLOEXEC)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _span(self, piece: int) -> tuple[int, int]:
        if not 0 <= piece < len(self._held):
            raise ValueError(f"piece {piece} of {len(self._held)}")
        start = piece * PIECE_BYTES
        return start, min(PIECE_BYTES, self._ref.length - start)

    def held(self) -> bytearray:
        """One byte a piece: 1 if it is here. A copy."""
        with self._lock:
            return bytearray(mark == 1 for mark in self._held)

    def present(self) -> int:
        """Bytes from the start that are here without a gap."""
        gap = self.held().find(0)
        return self._ref.length if gap < 0 else gap * PIECE_BYTES

    def write(self, piece: int, data: bytes | memoryview) -> bool:
        """Keep one whole piece; ``False`` if it was here already (the first that comes counts).
        Raises :class:`P2pfleetError`, and ValueError for a piece of another length."""
        start, length = self._span(piece)
        if len(data) != length:
            raise ValueError(f"{len(data)} bytes for a piece of {length}")
        with self._lock:
            # 2: somebody writes it. Two copies of one piece are never mixed.
            if self._over or self._held[piece]:
                return False
            self._held[piece] = 2
        kept = False
        try:
            with self._opened(os.O_WRONLY) as descriptor:
                write_all(descriptor, data, start)
                write_all(descriptor, b"\1", self._ref.length + piece)
            kept = True
        finally:
            with self._lock:
                self._held[piece] = int(kept)
        self._hash_on(piece, data)
        return True

    def _hash_on(self, piece: int, data: bytes | memoryview) -> None:
        """Hash a piece while it is at hand, if it is its turn, and a few that had to wait for it;
        one thread at a time, the others go on."""
        if not self._hashing.acquire(blocking=False):
            return
        try:
            if self._hashed != piece:
                return
            self._hash.update(data)
            self._hashed += 1
            self._catch_up(_HASHED_AT_ONCE)
        finally:
            self._hashing.release()

    def _catch_up(self, most: int) -> None:
        for _ in range(most):
            if self._hashed >= len(self._held) or self._held[self._hashed] != 1:
                return
            self._hash.update(self.read(self._hashed))
            self._hashed += 1

    def read(self, piece: int) -> bytes:
        """The bytes of a piece that is here. Raises :class:`P2pfleetError`."""
        start, length = self._span(piece)
        with self._opened(os.O_RDONLY) as descriptor:
            return os.pread(descriptor, length, start)

    def right(self) -> bool:
        """Whether all pieces are here and have the blob's hash. Changes nothing; blocks."""
        with self._lock:
            if any(mark != 1 for mark in self._held):
                return False
        with self._hashing:
            self._catch_up(len(self._held))
            return self._hash.digest() == self._ref.sha256

    def open(self) -> int | None:
        """A descriptor to read pieces from, at their place; ``None`` when the file is gone."""
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def end(self) -> None:
        """Take no piece any more: the file goes, or becomes the blob."""
        with self._lock:
            self._over = True
