"""Inputs in packs: first as they are read, then, for a job of several shards, shard by shard.

Whoever serves a shard fetches and looks after the packs in which its units' inputs lie. In the
order of a publisher's files every pack would hold inputs of every shard; so they are cut anew when
their number, and with it the number of shards, is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import Cid, Digest, sha256
from p2pfleet.core.model.job import MAX_PACKS, UnitInput, UnitTable
from p2pfleet.core.rules.shards import units_of
from p2pfleet.ports import Packs

PACK_BYTES = 32 * 2**20
PACK_MEMBERS = 4_096
SMALL_PACK_BYTES = 2**20
"""A pack is not ended with its shard before it has so many bytes: a request for each of many tiny
ones would cost more than the inputs of another shard beside one's own."""

Keep = Callable[[bytes], Cid]


class Packer:
    """Puts inputs into packs, one after the other, and has each one kept when it is full."""

    def __init__(self, keep: Keep) -> None:
        self.packs: list[Cid] = []
        self.size = 0
        self._keep = keep
        self._members: list[bytes] = []

    def add(self, number: int, data: bytes, into: dict[int, UnitInput]) -> None:
        """The input of unit ``number``. Raises :class:`P2pfleetError` if there are too many packs,
        or one cannot be kept."""
        full = self.size + len(data) > PACK_BYTES or len(self._members) >= PACK_MEMBERS
        if self._members and full:
            self.close()
        into[number] = UnitInput(len(self.packs), self.size, len(data), Digest(sha256(data)))
        self._members.append(data)
        self.size += len(data)

    def close(self) -> None:
        """End the pack that is being filled, if there is one."""
        if not self._members:
            return
        if len(self.packs) >= MAX_PACKS:
            raise P2pfleetError(
                f"The inputs fill more than {MAX_PACKS} packs.", "Publish them as several jobs."
            )
        self.packs.append(self._keep(b"".join(self._members)))
        self._members, self.size = [], 0


def pack(inputs: Iterable[bytes], keep: Keep) -> UnitTable:
    """Pack the inputs of all units, in the order of their numbers; there must be one at least."""
    packer, units = Packer(keep), dict[int, UnitInput]()
    for number, data in enumerate(inputs):
        packer.add(number, data, units)
    packer.close()
    return UnitTable(tuple(packer.packs), tuple(units.values()))


def parted(table: UnitTable, salt: bytes, shards: int, packs: Packs, keep: Keep) -> UnitTable:
    """The same inputs, in packs that hold those of one shard each where they are large enough.

    Reads them back one at a time. Raises :class:`P2pfleetError` if one is not as it was written.
    """
    if shards == 1 or (len(table.packs) == 1 and _size(table) <= SMALL_PACK_BYTES):
        return table
    # Half of the packs that a table may name, so that ends of shards do not use them up.
    smallest = max(SMALL_PACK_BYTES, 2 * _size(table) // MAX_PACKS)
    packer, units = Packer(keep), dict[int, UnitInput]()
    for shard in range(shards):
        for number in units_of(salt, len(table.units), shards, shard):
            packer.add(number, read_input(packs, table, number), units)
        if packer.size >= smallest:
            packer.close()
    packer.close()
    ordered = tuple(units[number] for number in range(len(table.units)))
    return UnitTable(tuple(packer.packs), ordered)


def _size(table: UnitTable) -> int:
    return sum(unit.length for unit in table.units)


def read_input(packs: Packs, table: UnitTable, number: int) -> bytes:
    """The input of one unit, out of its pack. Raises :class:`P2pfleetError` if it is damaged."""
    unit = table.units[number]
    located = packs.locate(table.packs[unit.pack])
    data = b""
    if located is not None:
        path, start, _ = located
        try:
            with path.open("rb") as file:
                file.seek(start + unit.offset)
                data = file.read(unit.length)
        except OSError:
            data = b""
    if sha256(data) != unit.sha256:
        raise P2pfleetError(
            "An input that was just packed cannot be read back.",
            "The disk may be failing or full; check it, then submit the job again.",
            ExitCode.DAMAGED,
        )
    return data
