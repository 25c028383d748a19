"""The second implementation of ``shards.md``, beside ``independent.py`` and under its rules."""

from __future__ import annotations

import hashlib
from math import gcd

DOMAIN = b"p2pfleet-shard-1:"


def drawn(salt: str) -> bytes:
    return hashlib.sha256(b"p2pfleet-shuffle-1:" + bytes.fromhex(salt)).digest()


def shuffle(salt: str, units: int) -> list[int]:
    step, start = (int.from_bytes(drawn(salt)[at : at + 8], "big") % units for at in (0, 8))
    steps = ((step + more) % units for more in range(units))
    return [next(one for one in steps if gcd(one, units) == 1), start]


def shard_of(salt: str, units: int, shards: int, unit: int) -> int:
    if shards == 1:
        return 0
    step, start = shuffle(salt, units)
    return ((step * unit + start) % units) * shards // units


def rank(salt: str, shard: int, peer: str) -> str:
    named = bytes.fromhex(salt) + shard.to_bytes(8, "big") + bytes.fromhex(peer)
    return hashlib.sha256(DOMAIN + named).hexdigest()


def called(rank: str, lacking: int, volunteers: int, doublings: int) -> bool:
    wanted = 4 * lacking * 2 ** min(doublings, 32)
    return wanted >= volunteers or int(rank[:16], 16) < 2**64 * wanted // volunteers


def lacking(open_units: int, replicas: int, unit_ms: int, members: int) -> int:
    minutes, rest = divmod(open_units * replicas * unit_ms, 60_000)
    return max(0, minutes + bool(rest) - members)


def meeting(job: str, shard: int) -> str:
    named = b"p2pfleet-meeting-1:" + bytes.fromhex(job) + shard.to_bytes(8, "big")
    return "1220" + hashlib.sha256(named).hexdigest()


def helped_first(salt: str, members: list[list[int]]) -> list[int]:
    """Starving shards, given as (shard, members), in the order in which they are helped."""
    ranked = sorted((-many, rank(salt, shard, ""), shard) for shard, many in members)
    return [shard for _, _, shard in ranked]
