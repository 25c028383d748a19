"""Sortition: who may take a unit, and from when on.

Each peer has a ticket for each unit, drawn by a hash that nobody chooses. At first only as many low
tickets are eligible as the unit needs in a crowd of the size that the publisher guessed; the
threshold doubles again and again until everyone is, so that a wrong guess delays a job but cannot
stall it. So colluders cannot all meet on the units of their choice, unless they outnumber the rest.

The elapsed time is the receiver's own, from its first sight of the job: a peer that comes too early
is Ignored, never Rejected.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from p2pfleet.core.model.ids import PeerId

TICKETS = 2**64
MARGIN = 4
"""How many times more peers than are wanted become eligible at once: some are busy, some away."""

ALLOWANCE_BASE = 4
ALLOWANCE_PER_COMMITTED = 2
ALLOWANCE_MAX = 4_096


def ticket(salt: bytes, unit: int, peer: PeerId) -> int:
    """The ticket of ``peer`` for ``unit``, below ``TICKETS``.

    The first 8 bytes of SHA-256 over salt, unit (8 bytes, big-endian) and key: of its rank.
    """
    digest = hashlib.sha256(salt + unit.to_bytes(8, "big") + peer).digest()
    return int.from_bytes(digest[:8], "big")


@lru_cache(maxsize=1_024)
def doublings(crowd: int, wanted: int) -> int:
    """How often the threshold has to double until everyone is eligible."""
    count = 0
    while _threshold(crowd, wanted, count) < TICKETS:
        count += 1
    return count


@lru_cache(maxsize=4_096)
def eligible_after_ms(
    salt: bytes, unit: int, peer: PeerId, *, crowd: int, wanted: int, step_ms: int, known: bool
) -> int:
    """From how many milliseconds after the first sight of the job on a peer may take a unit.

    ``crowd`` is the publisher's guess of how many volunteers there are, ``wanted`` how many
    replicas a unit wants at first, ``step_ms`` the time after which the threshold doubles. Peers
    that are not ``known`` to the job's trust snapshot come last: they begin where the others have
    ended.
    """
    mine = ticket(salt, unit, peer)
    count = 0
    while _threshold(crowd, wanted, count) <= mine:
        count += 1
    if not known:
        count += doublings(crowd, wanted)
    return count * step_ms


def allowance(committed: int, lapsed: int) -> int:
    """How many units a peer may hold under open claims.

    ``committed``: units that it committed to in the last lease period; ``lapsed``: claims that ran
    out in that time, each of which halves it. Never less than one: who failed may try again.
    """
    grown = ALLOWANCE_BASE + ALLOWANCE_PER_COMMITTED * committed
    return max(1, min(ALLOWANCE_MAX, grown) >> min(lapsed, 16))


def _threshold(crowd: int, wanted: int, count: int) -> int:
    return (TICKETS * min(crowd, MARGIN * wanted) // crowd) << count
