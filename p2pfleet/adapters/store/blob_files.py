"""Blob files in a folder: named by CID in two levels of sub-folders, whole or not there at all.

A blob is written under ``temporary/``, synced, renamed to its name, and the folder is synced. So
whatever carries a CID as its name was complete on the disk before it got it.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from p2pfleet.adapters.store.durable_file import make_folder, sync_folder, write_all
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Cid, cid_from_sha256, cid_sha256, cid_text, parse_cid

_log = logging.getLogger(__name__)

_READ_BYTES = 2**20
_DIGITS = "0123456789abcdef"


class BlobFiles:
    """The files below ``root``: ``blobs/<1st digit>/<2nd digit>/<cid>`` and ``temporary/``.

    The digits are those of the SHA-256, so that a sub-folder is a range of CIDs. Raises OSError
    throughout; the caller explains.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._temporary = root / "temporary"
        self._numbers = itertools.count()
        for folder in (self._blobs, self._temporary):
            make_folder(folder)

    def path_of(self, cid: Cid) -> Path:
        """Where the blob ``cid`` lies if it is here."""
        digits = cid_sha256(cid).hex()
        return self._blobs / digits[0] / digits[1] / cid_text(cid)

    def write_temporary(self, chunks: Iterable[bytes]) -> Path:
        """Write the chunks, one behind the other, into a new synced file without a name yet."""
        path = self._temporary / f"{os.getpid()}-{next(self._numbers)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            try:
                offset = 0
                for chunk in chunks:
                    write_all(descriptor, chunk, offset)
                    offset += len(chunk)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def publish(self, file: Path, cid: Cid) -> None:
        """Give a synced file (of the same file system) the name of its content, durably."""
        path = self.path_of(cid)
        make_folder(path.parent)
        file.rename(path)
        sync_folder(path.parent)

    def remove(self, cid: Cid) -> None:
        """Delete the blob's file; it may be gone already."""
        self.path_of(cid).unlink(missing_ok=True)

    def remove_temporary(self) -> None:
        """Delete what an earlier process left half-written."""
        for path in sorted(self._temporary.iterdir()):
            path.unlink(missing_ok=True)

    def ranges(self) -> Iterator[tuple[bytes, bytes, dict[Cid, int]]]:
        """Each sub-folder: lowest and highest SHA-256 in it, and the lengths of its files.

        What is no regular file under its own CID's name does not belong there and is deleted.
        """
        for first, second in itertools.product(_DIGITS, _DIGITS):
            low = bytes.fromhex(first + second) + bytes(31)
            high = bytes.fromhex(first + second) + b"\xff" * 31
            yield low, high, self._files_in(self._blobs / first / second)

    def _files_in(self, folder: Path) -> dict[Cid, int]:
        files: dict[Cid, int] = {}
        if not folder.is_dir():
            return files
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                cid = _named(entry.name)
                if (
                    cid is not None
                    and entry.is_file(follow_symlinks=False)
                    and self.path_of(cid) == folder / entry.name
                ):
                    files[cid] = entry.stat(follow_symlinks=False).st_size
                elif not entry.is_dir(follow_symlinks=False):
                    _log.warning("%s is no blob and is deleted", entry.path)
                    Path(entry.path).unlink(missing_ok=True)
        return files

    def is_whole(self, cid: Cid) -> bool:
        """Whether the file has the content that its name says."""
        try:
            with self.path_of(cid).open("rb", buffering=0) as file:
                return cid_from_sha256(hash_file(file.fileno())) == cid
        except FileNotFoundError:
            return False


def _named(name: str) -> Cid | None:
    try:
        cid = parse_cid(name)
    except Malformed:
        return None
    return cid if cid_text(cid) == name else None


def hash_file(descriptor: int) -> bytes:
    """The SHA-256 of a whole open file."""
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _READ_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.digest()
