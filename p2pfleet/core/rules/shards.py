"""Shards: which unit belongs to which part of a job, and who serves which (``protocol/shards.md``).

The units of a job are shuffled by its salt and cut into equal parts. A volunteer prefers the shards
of its lowest ranks (rendezvous hashing: Thaler and Ravishankar, 1998), so that who comes or goes
moves nobody else, but where a shard becomes too full or is left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import gcd

from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.rules.sortition import TICKETS

CROWD = 16
"""For how many volunteers a shard is meant."""

MATES_MAX = 24
"""How many volunteers a shard has room for; of more, those of the lowest ranks stay."""

SERVED_MAX = 2
"""How many shards of a job a volunteer serves at a time."""

KEEPERS = 3
"""How many members of a shard speak for it, and keep its frames when it is done."""

ENOUGH_MS = 60_000
"""Whoever has nothing to do moves only to a shard whose members have work for longer than this."""

HELPERS = 4
"""How many volunteers are called to a starving shard at first, for each that it lacks."""

_RANK = b"p2pfleet-shard-1:"
_MEETING = b"p2pfleet-meeting-1:"
_SHUFFLE = b"p2pfleet-shuffle-1:"


def count_for(volunteers: int, units: int) -> int:
    """How many shards a job gets that expects so many volunteers: no more than it has units."""
    return max(1, min(units, volunteers // CROWD))


@lru_cache(maxsize=256)
def shuffle(salt: bytes, units: int) -> tuple[int, int]:
    """The step and the start of the shuffle: unit ``u`` comes to place ``(step * u + start) %
    units``.

    Both are drawn from SHA-256 over the domain and the salt (8 bytes each, big-endian, modulo
    units); the step is the next number from there on that has no divisor in common with ``units``,
    so that every place is taken once.
    """
    drawn = hashlib.sha256(_SHUFFLE + salt).digest()
    step = int.from_bytes(drawn[:8], "big") % units
    while gcd(step, units) != 1:
        step = (step + 1) % units
    return step, int.from_bytes(drawn[8:16], "big") % units


def shard_of(salt: bytes, units: int, shards: int, unit: int) -> int:
    """The shard of a unit: the shuffled units, cut into ``shards`` parts that differ by one unit at
    most."""
    if shards == 1:
        return 0
    step, start = shuffle(salt, units)
    return (step * unit + start) % units * shards // units


def units_of(salt: bytes, units: int, shards: int, shard: int) -> list[int]:
    """All units of a shard, ascending."""
    if shards == 1:
        return list(range(units))
    step, start = shuffle(salt, units)
    back = pow(step, -1, units) if units > 1 else 0
    first, end = -(-shard * units // shards), -(-(shard + 1) * units // shards)
    return sorted((place - start) * back % units for place in range(first, end))


def size_of(units: int, shards: int, shard: int) -> int:
    """How many units a shard has."""
    return -(-(shard + 1) * units // shards) + (-shard * units // shards)


def rank(salt: bytes, shard: int, peer: PeerId) -> bytes:
    """Where a peer stands among those of a shard, the lowest first: SHA-256 over the domain, the
    salt, the shard (8 bytes, big-endian) and the key."""
    return hashlib.sha256(_RANK + salt + shard.to_bytes(8, "big") + peer).digest()


def preference(salt: bytes, shards: int, peer: PeerId) -> list[int]:
    """All shards in the order in which ``peer`` would serve them: by its ranks."""
    return sorted(range(shards), key=lambda shard: rank(salt, shard, peer))


def keepers(salt: bytes, shard: int, peers: Iterable[PeerId]) -> list[PeerId]:
    """Who of ``peers`` speaks for a shard: the lowest ranks."""
    return sorted(peers, key=lambda peer: rank(salt, shard, peer))[:KEEPERS]


def crowded_out(salt: bytes, shard: int, peer: PeerId, mates: Sequence[PeerId]) -> bool:
    """Whether a shard is so full with ``mates`` that ``peer`` has no place in it."""
    if len(mates) < MATES_MAX:
        return False
    mine = rank(salt, shard, peer)
    return sum(rank(salt, shard, mate) < mine for mate in mates) >= MATES_MAX


def meeting_key(job: JobId, shard: int) -> bytes:
    """The DHT provider key under which those who serve a shard find each other: a SHA-256
    multihash over the domain, the job and the shard (8 bytes, big-endian)."""
    return b"\x12\x20" + hashlib.sha256(_MEETING + job + shard.to_bytes(8, "big")).digest()


def common_order(salt: bytes, shard: int) -> bytes:
    """In which order starving shards with equally many members are helped: the same for all, so
    that helpers meet. SHA-256 over the domain, the salt and the shard (8 bytes, big-endian)."""
    return hashlib.sha256(_RANK + salt + shard.to_bytes(8, "big")).digest()


def called(
    salt: bytes, shard: int, peer: PeerId, lacking: int, volunteers: int, doublings: int
) -> bool:
    """Whether ``peer`` is called to help a starving shard.

    Of ``volunteers`` in all ``HELPERS`` for each that is ``lacking`` are, twice as many with each
    of the ``doublings``: so that a shard that was left is not overrun by a large network, and a
    small one finishes all shards, one after the other.
    """
    wanted = HELPERS * lacking << min(doublings, 32)
    if wanted >= volunteers:
        return True
    ticket = int.from_bytes(rank(salt, shard, peer)[:8], "big")
    return ticket < TICKETS * wanted // volunteers


def lacking(open_units: int, replicas: int, unit_ms: int, members: int) -> int:
    """How many volunteers a shard lacks to be done within ``ENOUGH_MS``, if each unit that is open
    wants so many replicas, and one takes ``unit_ms``; 0 if it lacks none."""
    work_ms = open_units * replicas * unit_ms
    return max(0, -(-work_ms // ENOUGH_MS) - members)


def most_starving(salt: bytes, members: Mapping[int, int]) -> list[int]:
    """Starving shards in the order in which they are helped: those first that lack least.

    ``members`` says how many volunteers serve each.
    """
    return sorted(members, key=lambda shard: (-members[shard], common_order(salt, shard)))
