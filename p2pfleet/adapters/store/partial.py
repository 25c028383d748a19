"""A blob that is arriving: a file that grows from the front, or in pieces.

It is kept once its hash is right.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from p2pfleet.adapters.store.blob_files import hash_file
from p2pfleet.adapters.store.durable_file import os_errors_explained, write_all
from p2pfleet.adapters.store.piece_file import FilePieces, size_in_pieces
from p2pfleet.core.model.ids import Cid, cid_from_sha256, cid_text
from p2pfleet.core.model.job import BlobRef

Resize = Callable[[Path, int], None]
"""Account for the new size in bytes of an arriving file. Raises P2pfleetError: no room."""
Keep = Callable[[Path, Cid, int], None]
"""Take over a synced file as the blob of that CID and length."""


class FilePartial:
    """The port ``PartialBlob`` on a file. Made by ``FilePacks.partial``; used by one task.

    What was written is found again after a restart (hashed anew then, since only the whole can be
    checked).
    """

    def __init__(self, ref: BlobRef, path: Path, present: int, resize: Resize, keep: Keep) -> None:
        self._ref = ref
        self._cid = cid_from_sha256(ref.sha256)
        self._path = path
        self._present = present
        self._resize = resize
        self._keep = keep
        self._kept = False
        self._hash = None if present else hashlib.sha256()
        self._pieces: FilePieces | None = None
        if present > ref.length:
            assert present == size_in_pieces(ref.length)
            self._pieces = FilePieces(ref, path)

    @property
    def ref(self) -> BlobRef:
        """The range that is wanted."""
        return self._ref

    @property
    def present(self) -> int:
        """Bytes from the start that are there already; the next ``write`` continues there."""
        return self._present if self._pieces is None else self._pieces.present()

    def pieces(self) -> FilePieces:
        """Let it arrive in pieces from now on; whole pieces that are here stay. Raises
        :class:`P2pfleetError` when there is no room for all of it."""
        if self._kept:
            raise ValueError(f"{cid_text(self._cid)} is complete and kept")
        if self._pieces is None:
            self._resize(self._path, size_in_pieces(self._ref.length))
            try:
                self._pieces = FilePieces.convert(self._ref, self._path, self._present)
            except BaseException:
                self._resize(self._path, self._present)
                raise
        return self._pieces

    def write(self, data: bytes) -> None:
        """Append. Raises :class:`P2pfleetError` when the quota or the disk is full (then nothing
        of ``data`` counts), and ValueError for bytes beyond the length or after the end."""
        if self._pieces is not None:
            raise ValueError(f"{cid_text(self._cid)} arrives in pieces")
        end = self._present + len(data)
        if self._kept or end > self._ref.length:
            raise ValueError(
                f"{end} bytes for {cid_text(self._cid)}, which has {self._ref.length} and"
                f" {'is complete' if self._kept else 'no more'}"
            )
        if not data:
            return
        self._resize(self._path, end)
        # A file that somebody deleted meanwhile must not come back with a hole at its front.
        create = 0 if self._present else os.O_CREAT
        try:
            with os_errors_explained(self._path):
                descriptor = os.open(self._path, os.O_WRONLY | create, 0o600)
                try:
                    write_all(descriptor, data, self._present)
                finally:
                    os.close(descriptor)
        except BaseException:
            self._resize(self._path, self._present)
            raise
        if self._hash is not None:
            self._hash.update(data)
        self._present = end

    def restart(self) -> None:
        """Throw away what is there (the bytes turned out wrong)."""
        if self._kept:
            raise ValueError(f"{cid_text(self._cid)} is complete and kept")
        if self._pieces is not None:
            self._pieces.end()
            self._pieces = None
        with os_errors_explained(self._path):
            self._path.unlink(missing_ok=True)
        self._resize(self._path, 0)
        self._present = 0
        self._hash = hashlib.sha256()

    def finish(self) -> bool:
        """Check the hash and keep the blob durably; ``False`` (and restarted) if it is wrong.

        ``False`` as well, with nothing thrown away, while bytes are missing. Blocks; raises
        :class:`P2pfleetError` when the disk fails.
        """
        if self._kept:
            return True
        if self.present < self._ref.length:
            return False
        if self._pieces is not None:
            return self._finish_pieces(self._pieces)
        create = 0 if self._present else os.O_CREAT
        with os_errors_explained(self._path):
            descriptor = os.open(self._path, os.O_RDWR | create, 0o600)
            try:
                os.fsync(descriptor)
                digest = hash_file(descriptor) if self._hash is None else self._hash.digest()
            finally:
                os.close(descriptor)
        if digest != self._ref.sha256:
            self.restart()
            return False
        self._keep(self._path, self._cid, self._ref.length)
        self._kept = True
        return True

    def _finish_pieces(self, pieces: FilePieces) -> bool:
        if not pieces.right():
            self.restart()
            return False
        pieces.end()
        with os_errors_explained(self._path):
            descriptor = os.open(self._path, os.O_RDWR)
            try:
                os.ftruncate(descriptor, self._ref.length)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        # Without its marks it is a file that has grown from the front to its end.
        self._present, self._pieces, self._hash = self._ref.length, None, None
        self._keep(self._path, self._cid, self._ref.length)
        self._kept = True
        return True
