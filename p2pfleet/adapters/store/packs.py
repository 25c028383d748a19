"""Blobs and packs on disk, by CID, within a quota.

Below ``root``: ``blobs/`` (whole files, see ``blob_files``), ``partial/`` (what is arriving),
``temporary/`` (half-written, gone at the next start) and ``packs.sqlite`` (see ``pack_index``).
A file gets its name before it gets its row, and loses its row before it is deleted; opening puts
right whatever a crash left between the two.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from p2pfleet.adapters.store.blob_files import BlobFiles
from p2pfleet.adapters.store.durable_file import FREE_SPACE, make_folder, os_errors_explained
from p2pfleet.adapters.store.pack_index import Member, PackIndex, Place
from p2pfleet.adapters.store.partial import FilePartial
from p2pfleet.adapters.store.piece_file import size_in_pieces
from p2pfleet.core.errors import DiskTrouble, ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import (
    Cid,
    cid_from_sha256,
    cid_of,
    cid_text,
    parse_cid,
)
from p2pfleet.core.model.job import MAX_EXPIRY_MS, BlobRef

_log = logging.getLogger(__name__)

QUOTA_SETTING = "disk_mb"
NEARLY_FULL_BYTES = 16 * 2**20
_MEGABYTE = 2**20
_PROBE_BYTES = 2**20
_USES_REMEMBERED = 256


class FilePacks:
    """The port ``Packs`` on a folder. Every method blocks and may be called from any thread.

    ``quota_bytes`` bounds blobs and arriving blobs together; ``min_free_bytes`` of the disk stay
    free for others. What nobody pinned goes when room is needed, the least recently used first;
    after that, arriving blobs that nobody holds or pinned.

    A path that ``locate`` returned may vanish when its blob is not pinned and is evicted; whoever
    opens it must be ready for FileNotFoundError. The caller holds the lock of the data folder.
    """

    def __init__(self, root: Path, quota_bytes: int, min_free_bytes: int = 100 * 2**20) -> None:
        """Open or make the folder ``root`` and put right what a crash left.

        Raises :class:`P2pfleetError` when the folder or its index cannot be used.
        """
        self._root = root
        self._quota_bytes = quota_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.RLock()
        self._uses: dict[Cid, int] = {}
        self._reserved_bytes = 0
        self._arriving: dict[str, int] = {}
        self._live: weakref.WeakValueDictionary[str, FilePartial] = weakref.WeakValueDictionary()
        with os_errors_explained(root):
            make_folder(root)
            self._partial_folder = root / "partial"
            make_folder(self._partial_folder)
            self._files = BlobFiles(root)
        self._index = PackIndex.open(root / "packs.sqlite")
        try:
            with os_errors_explained(root):
                self._files.remove_temporary()
                self._reconcile()
                self._find_arriving()
            self._kept_bytes = self._index.total_bytes()
            self._last_use = self._index.last_use()
            # The owner may have lowered the quota since; what is pinned stays nevertheless.
            with suppress(P2pfleetError):
                self._make_room(0)
        except BaseException:
            self._index.close()
            raise

    def close(self) -> None:
        """Write down the last uses and close the index; idempotent. Nothing else needs it."""
        with self._lock:
            with suppress(P2pfleetError):
                self._note_uses()
            self._index.close()

    @property
    def used_bytes(self) -> int:
        """What counts towards the quota now: kept, arriving, and being written."""
        with self._lock:
            return self._kept_bytes + sum(self._arriving.values()) + self._reserved_bytes

    # ---- adding ------------------------------------------------------------------------------

    def add(self, data: bytes) -> Cid:
        """Keep one blob durably; returns its CID. Raises :class:`P2pfleetError` (quota, disk)."""
        cid = cid_of(data)
        if self.locate(cid) is None:
            self._keep_new(cid, len(data), (data,), ())
        return cid

    def add_pack(self, members: Sequence[bytes]) -> list[tuple[Cid, int, int]]:
        """Keep several blobs durably in one file: their bytes, one behind the other.

        Returns (pack CID, offset, length) of each; each can be located by its own CID as well.
        Raises :class:`P2pfleetError` (quota, disk), and ValueError for no members at all.
        """
        if not members:
            raise ValueError("a pack has at least one member")
        digest = hashlib.sha256()
        rows: list[Member] = []
        length = 0
        for member in members:
            digest.update(member)
            rows.append(Member(cid_of(member), length, len(member)))
            length += len(member)
        pack = cid_from_sha256(digest.digest())
        self._keep_new(pack, length, members, rows)
        return [(pack, row.offset, row.length) for row in rows]

    def partial(self, ref: BlobRef) -> FilePartial:
        """Begin or continue to fetch. The finished range is kept under the CID of its SHA-256.

        What an earlier process, or an earlier holder that let go, had written is there again.
        While another holder fetches the same range, this one begins a file of its own: neither can
        spoil the other's bytes, and the second to finish just finds the blob kept.
        """
        stem = f"{cid_text(cid_from_sha256(ref.sha256))}.{ref.length}"
        with self._lock, os_errors_explained(self._partial_folder):
            name, number = f"{stem}.part", 0
            while name in self._live:
                number += 1
                name = f"{stem}.{number}.part"
            path = self._partial_folder / name
            present = path.stat().st_size if path.exists() else 0
            if present > ref.length and present != size_in_pieces(ref.length):
                path.unlink()
                present = 0
            self._note_arriving(name, present)
            partial = FilePartial(ref, path, present, self._resize, self._keep_arrived)
            self._live[name] = partial
            return partial

    # ---- looking up --------------------------------------------------------------------------

    def locate(self, cid: Cid) -> tuple[Path, int, int] | None:
        """File, offset and length of the blob ``cid`` (which may be a member of a pack)."""
        with self._lock:
            place = self._place(cid)
            if place is None:
                return None
            return self._files.path_of(place.blob), place.offset, place.length

    def has(self, cid: Cid) -> bool:
        """Whether ``cid`` is here, as a blob or as a member of a pack."""
        return self.locate(cid) is not None

    def read(self, cid: Cid) -> bytes:
        """The blob's bytes, verified.

        Raises KeyError if it is not here; if its bytes are not what its CID says, the file is
        deleted (it can be fetched or computed again) and :class:`P2pfleetError` raised.
        """
        while True:
            with self._lock:
                place = self._place(cid)
            if place is None:
                raise KeyError(cid_text(cid))
            path = self._files.path_of(place.blob)
            with os_errors_explained(path):
                try:
                    with path.open("rb") as file:
                        file.seek(place.offset)
                        data = file.read(place.length)
                except FileNotFoundError:
                    continue  # evicted since it was located
            if cid_of(data) == cid:
                return data
            with self._lock:
                self._drop([place.blob])
            raise P2pfleetError(
                f"the kept blob {cid_text(cid)} was damaged on the disk and is deleted.",
                "It is fetched or computed again where it is needed; if this comes again, check"
                " the disk.",
                ExitCode.DAMAGED,
            )

    # ---- pins --------------------------------------------------------------------------------

    def pin(self, owner: bytes, cids: Sequence[Cid]) -> None:
        """Keep these as long as ``owner`` (a job id) needs them; the rest may be evicted.

        Adds to the owner's earlier pins, durably. What is not here yet is kept once it comes; a
        pinned member keeps its whole pack.
        """
        with self._lock:
            self._index.pin(owner, cids)

    def unpin(self, owner: bytes) -> None:
        """``owner`` needs nothing any more."""
        with self._lock:
            self._index.unpin(owner)

    # ---- keeping (under the lock, but for the writing of bytes) --------------------------------

    def _keep_new(
        self, cid: Cid, length: int, chunks: Iterable[bytes], members: Sequence[Member]
    ) -> None:
        with self._lock:
            if self._is_here(cid):
                self._use(cid)
                self._index.add(cid, length, members, self._last_use)
                return
            self._make_room(length)
            self._reserved_bytes += length
        try:
            with os_errors_explained(self._root):
                file = self._files.write_temporary(chunks)
        except BaseException:
            with self._lock:
                self._reserved_bytes -= length
            raise
        with self._lock:
            # Together with counting it as kept, so that nobody sees it counted twice.
            self._reserved_bytes -= length
            try:
                self._publish(file, cid, length, members)
            finally:
                file.unlink(missing_ok=True)

    def _keep_arrived(self, path: Path, cid: Cid, length: int) -> None:
        with self._lock:
            self._publish(path, cid, length, ())
            self._arriving.pop(path.name, None)
            self._live.pop(path.name, None)
            path.unlink(missing_ok=True)

    def _publish(self, file: Path, cid: Cid, length: int, members: Sequence[Member]) -> None:
        self._use(cid)
        if self._is_here(cid):
            self._index.add(cid, length, members, self._last_use)
            return
        with os_errors_explained(self._root):
            self._files.publish(file, cid)
        try:
            self._index.add(cid, length, members, self._last_use)
        except BaseException:
            with suppress(OSError):
                self._files.path_of(cid).rename(file)
            raise
        self._kept_bytes += length

    def _resize(self, path: Path, size: int) -> None:
        with self._lock:
            growth = size - self._arriving.get(path.name, 0)
            if growth > 0:
                self._make_room(growth)
            self._note_arriving(path.name, size)

    def _note_arriving(self, name: str, size: int) -> None:
        if size:
            self._arriving[name] = size
        else:
            self._arriving.pop(name, None)

    # ---- finding (under the lock) --------------------------------------------------------------

    def _place(self, cid: Cid) -> Place | None:
        while (place := self._index.place(cid)) is not None:
            if self._file_fits(place.blob, place.blob_length):
                self._use(place.blob)
                return place
            _log.warning("the file of blob %s is gone or cut", cid_text(place.blob))
            self._drop([place.blob])
        return None

    def _is_here(self, cid: Cid) -> bool:
        place = self._place(cid)
        return place is not None and place.blob == cid

    def _file_fits(self, blob: Cid, length: int) -> bool:
        with os_errors_explained(self._root):
            try:
                return self._files.path_of(blob).stat().st_size == length
            except FileNotFoundError:
                return False

    def _use(self, blob: Cid) -> None:
        self._last_use += 1
        self._uses[blob] = self._last_use
        # A use is no reason to wait for the disk: they are written down now and then.
        if len(self._uses) >= _USES_REMEMBERED:
            try:
                self._note_uses()
            except P2pfleetError as error:
                _log.warning("the last uses of blobs are not written down: %s", error)
                self._uses.clear()

    def _note_uses(self) -> None:
        if self._uses:
            self._index.note_use(self._uses)
            self._uses.clear()

    # ---- room (under the lock) -----------------------------------------------------------------

    def _make_room(self, need_bytes: int) -> None:
        with os_errors_explained(self._root):
            free_bytes = shutil.disk_usage(self._root).free
        over_quota = self.used_bytes + need_bytes - self._quota_bytes
        over_disk = self._reserved_bytes + need_bytes + self._min_free_bytes - free_bytes
        missing = max(over_quota, over_disk)
        if missing <= 0:
            return
        self._note_uses()
        blobs: list[Cid] = []
        partials: list[str] = []
        found = 0
        for cid, length in self._index.evictable():
            blobs.append(cid)
            found += length
            if found >= missing:
                break
        else:
            for name, size in self._idle_arriving():
                partials.append(name)
                found += size
                if found >= missing:
                    break
        if found < missing:
            raise self._no_room(over_quota > found, free_bytes)
        self._drop(blobs)
        for name in partials:
            with os_errors_explained(self._partial_folder):
                (self._partial_folder / name).unlink(missing_ok=True)
            self._arriving.pop(name, None)

    def _no_room(self, quota: bool, free_bytes: int) -> P2pfleetError:
        if quota:
            return P2pfleetError(
                f"the disk quota of {self._quota_bytes // _MEGABYTE} MB is used up.",
                f"Raise {QUOTA_SETTING} in the configuration, or wait until running jobs end and"
                " free their part.",
            )
        # A disk that is full for everything keeps the node from working; one that is too small for
        # this blob only keeps it from this job.
        full = free_bytes < self._min_free_bytes + NEARLY_FULL_BYTES
        kind = partial(DiskTrouble, remedy=FREE_SPACE) if full else P2pfleetError
        return kind(
            f"only {free_bytes // _MEGABYTE} MB are free on the disk that holds {self._root}, and"
            f" {self._min_free_bytes // _MEGABYTE} MB are to stay free.",
            "Free some space there, or choose another --data-dir.",
        )

    def check_room(self) -> None:
        """Write something small where blobs are written. Raises :class:`P2pfleetError`."""
        with self._lock:
            self._make_room(_PROBE_BYTES)
        with os_errors_explained(self._root):
            self._files.write_temporary((bytes(_PROBE_BYTES),)).unlink(missing_ok=True)

    def _idle_arriving(self) -> Iterator[tuple[str, int]]:
        for name, size in sorted(self._arriving.items()):
            if name not in self._live:
                cid = _arriving_cid(name)
                if cid is None or not self._index.is_pinned(cid):
                    yield name, size

    def _drop(self, blobs: Sequence[Cid]) -> None:
        if not blobs:
            return
        self._index.remove(blobs)
        self._kept_bytes = self._index.total_bytes()
        for blob in blobs:
            self._uses.pop(blob, None)
            with os_errors_explained(self._root):
                self._files.remove(blob)

    # ---- opening -----------------------------------------------------------------------------

    def _reconcile(self) -> None:
        for low, high, files in self._files.ranges():
            rows = self._index.blobs_between(low, high)
            gone = [cid for cid, length in rows.items() if files.get(cid) != length]
            if gone:
                _log.warning("%d kept blobs are gone from the disk or cut", len(gone))
                self._index.remove(gone)
            for cid, length in files.items():
                if rows.get(cid) == length:
                    continue
                # Named but not entered (a crash between the two), or the index is new.
                if self._files.is_whole(cid):
                    self._index.add(cid, length, (), 0)
                else:
                    self._files.remove(cid)

    def _find_arriving(self) -> None:
        oldest = time.time() - MAX_EXPIRY_MS / 1000
        for path in sorted(self._partial_folder.iterdir()):
            status = path.stat(follow_symlinks=False)
            if _arriving_cid(path.name) is None or status.st_mtime < oldest:
                path.unlink(missing_ok=True)
            else:
                self._arriving[path.name] = status.st_size


def _arriving_cid(name: str) -> Cid | None:
    """The CID of a resumable arriving file, ``<cid>.<length>.part``; ``None`` for another name."""
    parts = name.split(".")
    if len(parts) != 3 or parts[2] != "part" or not parts[1].isdigit():
        return None
    try:
        return parse_cid(parts[0])
    except Malformed:
        return None
