"""Who takes which unit, and who gives way (``protocol/claims.md``).

Every volunteer walks the units of a job in an order of its own, drawn from a hash over the job's
salt, the unit and its key, so that volunteers spread without a word. Where more claims meet on a
unit than replicas are wanted, the lowest hashes win.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from p2pfleet.core.model.ids import PeerId

LEASE_TARGET_MS = 2_000
LEASE_UNITS_MAX = 64
LEASE_UNITS_FIRST = 2
CLAIM_UNITS_MAX = 4_096


@lru_cache(maxsize=4_096)
def rank(salt: bytes, unit: int, peer: PeerId) -> bytes:
    """The rank of ``peer`` for ``unit``: SHA-256 over salt, unit (8 bytes, big-endian) and key."""
    return hashlib.sha256(salt + unit.to_bytes(8, "big") + peer).digest()


def preference(salt: bytes, units: int, peer: PeerId) -> list[int]:
    """All units of a job in the order in which ``peer`` would like to take them."""
    return preferred(salt, range(units), peer)


def preferred(salt: bytes, units: Iterable[int], peer: PeerId) -> list[int]:
    """Some units of a job in the order in which ``peer`` would like to take them."""
    return sorted(units, key=lambda unit: rank.__wrapped__(salt, unit, peer))


def gives_way(salt: bytes, unit: int, peer: PeerId, others: Iterable[PeerId], wanted: int) -> bool:
    """Whether ``peer`` should give its claim up: ``wanted`` others rank before it."""
    mine = rank(salt, unit, peer)
    return sum(rank(salt, unit, other) < mine for other in others) >= wanted


def lease_units(mean_ms: float | None, slots: int, remaining: int, volunteers: int) -> int:
    """How many units to hold at once: about two seconds of work, at least one a slot.

    Never more than half a fair share of the ``remaining`` replicas among ``volunteers`` (guided
    self-scheduling: Polychronopoulos and Kuck, 1987), so that nobody holds the last units while
    others have nothing to do.
    """
    if mean_ms is None:
        return min(CLAIM_UNITS_MAX, LEASE_UNITS_FIRST * slots)
    share = -(-remaining // (2 * max(1, volunteers)))
    return max(min(CLAIM_UNITS_MAX, slots), min(lease_units_most(mean_ms, slots), share))


@lru_cache(maxsize=4_096)
def lease_units_most(mean_ms: float | None, slots: int) -> int:
    """The same while there is plenty of work for everybody."""
    if mean_ms is None:
        return min(CLAIM_UNITS_MAX, LEASE_UNITS_FIRST * slots)
    each = round(LEASE_TARGET_MS / max(mean_ms, 1.0))
    return min(CLAIM_UNITS_MAX, max(slots, min(LEASE_UNITS_MAX, each * slots)))
