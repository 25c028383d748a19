"""The inputs of one job's units, fetched when they are needed.

A unit's input is a range of a pack with a hash of its own, so it can be fetched and checked alone.
Where a pack is small, the whole of it is fetched once instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pfleet.core.errors import Malformed
from p2pfleet.core.events import InputsKnown
from p2pfleet.core.model.ids import Cid, Digest, JobId, PeerId, cid_from_sha256, cid_sha256, sha256
from p2pfleet.core.model.job import BlobRef, UnitTable
from p2pfleet.core.rules.shards import shard_of
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.ports import Packs

WHOLE_PACK_BYTES = 2**20

Fetch = Callable[[JobId, BlobRef, Sequence[PeerId]], Awaitable[None]]


def pack_sizes(table: UnitTable) -> dict[int, int]:
    """How many bytes each pack of a table has, by its number: a pack is its members, one after the
    other, so that its last unit ends it."""
    sizes: dict[int, int] = {}
    for unit in table.units:
        sizes[unit.pack] = max(unit.offset + unit.length, sizes.get(unit.pack, 0))
    return sizes


def packs_known(job: JobId, manifest: Manifest, table: UnitTable) -> InputsKnown:
    """What the core needs to know of a job's packs."""
    terms = manifest.salt, manifest.units, manifest.shards
    concerned: dict[int, set[int]] = {}
    for number, unit in enumerate(table.units):  # there may be very many: not on the main thread
        concerned.setdefault(unit.pack, set()).add(shard_of(*terms, number))
    named = {
        Digest(cid_sha256(table.packs[number])): (size, tuple(sorted(concerned[number])))
        for number, size in pack_sizes(table).items()
    }
    return InputsKnown(job, tuple((digest, *named[digest]) for digest in sorted(named)))


class Inputs:
    """Looks inputs up locally, or has them fetched."""

    def __init__(self, job: JobId, table: UnitTable, packs: Packs, fetch: Fetch) -> None:
        self._job = job
        self._table = table
        self._packs = packs
        self._fetch = fetch
        self._locks: dict[Cid, trio.Lock] = {}
        self._here: set[Cid] = set()
        self._sizes = pack_sizes(table)

    async def get(self, number: int, sources: Sequence[PeerId]) -> bytes:
        """The bundle of unit ``number``, its hash checked.

        Raises BlobNotFound, P2pfleetError, KeyError if it is gone again, and :class:`Malformed` if
        table and pack disagree.
        """
        unit = self._table.units[number]
        pack = self._table.packs[unit.pack]
        size = self._sizes[unit.pack]
        whole = size <= WHOLE_PACK_BYTES or await trio.to_thread.run_sync(self._packs.has, pack)
        if whole:
            ref = BlobRef(pack, 0, size, cid_sha256(pack))
        else:
            ref = BlobRef(pack, unit.offset, unit.length, bytes(unit.sha256))
        own_cid = cid_from_sha256(ref.sha256)
        if own_cid not in self._here:
            async with self._locks.setdefault(own_cid, trio.Lock()):
                await self._fetch(self._job, ref, sources)
            self._here.add(own_cid)
            self._locks.pop(own_cid, None)
        start = unit.offset - ref.offset
        try:
            data = await trio.to_thread.run_sync(self._read, own_cid, start, unit.length)
        except KeyError:
            self._here.discard(own_cid)
            raise
        if sha256(data) != unit.sha256:
            raise Malformed(f"the input of unit {number} is not what the unit table promises")
        return data

    def _read(self, cid: Cid, start: int, length: int) -> bytes:
        place = self._packs.locate(cid)
        if place is None:
            raise KeyError(cid)
        path, offset, _ = place
        try:
            with path.open("rb") as file:
                file.seek(offset + start)
                return file.read(length)
        except FileNotFoundError:
            raise KeyError(cid) from None  # evicted in this moment; it is fetched again
