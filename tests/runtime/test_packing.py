"""Inputs in packs: whose shard they are of, and that none is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfleet import packing
from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.job import UnitTable
from p2pfleet.core.rules.shards import shard_of

SALT = b"0123456789abcdef"
UNITS = 90


def inputs(length: int) -> list[bytes]:
    return [number.to_bytes(4, "big") * (length // 4) for number in range(UNITS)]


def shards_by_pack(table: UnitTable, shards: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in table.packs]
    for number, unit in enumerate(table.units):
        found[unit.pack].add(shard_of(SALT, UNITS, shards, number))
    return found


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize("length", [40, 200_000])
def test_every_input_is_in_its_pack_once(packs: FilePacks, shards: int, length: int) -> None:
    given = inputs(length)
    table = packing.pack(given, packs.add)
    parted = packing.parted(table, SALT, shards, packs, packs.add)
    assert [packing.read_input(packs, parted, n) for n in range(UNITS)] == given
    ends: dict[int, int] = {}
    for unit in sorted(parted.units, key=lambda unit: (unit.pack, unit.offset)):
        assert unit.offset == ends.get(unit.pack, 0), "one after the other"
        ends[unit.pack] = unit.offset + unit.length
    assert all(packs.has(cid) for cid in parted.packs)
    assert len(ends) == len(parted.packs)


def test_packs_hold_the_inputs_of_one_shard_where_they_are_large_enough(packs: FilePacks) -> None:
    table = packing.pack(inputs(200_000), packs.add)
    assert shards_by_pack(table, 5) == [{0, 1, 2, 3, 4}]
    parted = packing.parted(table, SALT, 5, packs, packs.add)
    assert shards_by_pack(parted, 5) == [{0}, {1}, {2}, {3}, {4}]
    small = packing.parted(packing.pack(inputs(40), packs.add), SALT, 5, packs, packs.add)
    assert len(small.packs) == 1


def test_tiny_shards_share_packs(packs: FilePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALL_PACK_BYTES", 30_000)
    table = packing.pack(inputs(2_000), packs.add)
    parted = packing.parted(table, SALT, 30, packs, packs.add)
    found = shards_by_pack(parted, 30)
    assert len(found) == 6
    assert [sorted(each) for each in found] == [[*range(n, n + 5)] for n in range(0, 30, 5)]


def test_an_input_that_the_disk_damaged_stops_the_job(packs: FilePacks, tmp_path: Path) -> None:
    table = packing.pack(inputs(200_000), packs.add)
    located = packs.locate(table.packs[0])
    assert located is not None
    with located[0].open("r+b") as file:
        file.seek(located[1] + table.units[17].offset)
        file.write(b"\xff")
    with pytest.raises(P2pfleetError, match="cannot be read back"):
        packing.parted(table, SALT, 5, packs, packs.add)
