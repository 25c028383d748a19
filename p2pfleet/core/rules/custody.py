"""Custody: who keeps the blobs of a job, so that they outlive whoever leaves (``custody.md``).

Nobody is told to keep anything: of the peers that could, those whose rank is lowest are meant, and
everybody can work out which these are. Who is not there, refuses or has no room is passed over
after a while.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from p2pfleet.core.model.ids import Digest, JobId, PeerId

COPIES = 3
"""How many peers beside the publisher hold a blob."""

SAMPLE_BYTES = 64 * 1024
"""How much of a blob a challenge asks for at most."""

STEP_MS = 10_000
SLOW_BYTES_PER_MS = 256

_RANK = b"p2pfleet-custody-1:"


@lru_cache(maxsize=4_096)
def rank(job: JobId, digest: Digest, peer: PeerId) -> bytes:
    """Where ``peer`` stands among those who may keep the blob of ``digest``: 32 bytes, the lowest
    first. SHA-256 over the domain, job, digest and key."""
    return hashlib.sha256(_RANK + job + digest + peer).digest()


def place(job: JobId, digest: Digest, peer: PeerId, others: Iterable[PeerId]) -> int:
    """How many of ``others`` are meant to keep a blob before ``peer`` is."""
    own = rank(job, digest, peer)
    return sum([rank(job, digest, other) < own for other in others])


def step_ms(length: int) -> int:
    """How long the next in rank waits for one before it, who may be fetching ``length`` bytes."""
    return STEP_MS + length // SLOW_BYTES_PER_MS


def wait_ms(place: int, missing: int, length: int) -> int:
    """After how many milliseconds of shortage whoever stands at ``place`` (from 0) among those who
    have not the blob yet is meant, where ``missing`` copies are wanted."""
    return max(0, place - missing + 1) * step_ms(length)


def meant(missing: int, short_ms: int, length: int) -> int:
    """How many of those who have not the blob are meant after ``short_ms`` of shortage."""
    return missing + short_ms // step_ms(length) if missing > 0 else 0
