"""A peer's score from its record (``protocol/reputation.md``).

The expectation of a Beta distribution over what certificates said of the peer's votes:
``(agreed + 1) / (agreed + contradicted + 2)``. A newcomer stands at one half.
"""

from __future__ import annotations

import msgspec

VOTE_THRESHOLD = 0.3


class Record(msgspec.Struct, frozen=True, array_like=True):
    """How many of a peer's votes certificates agreed with, and how many they contradicted."""

    agreed: int = 0
    contradicted: int = 0


def score(record: Record) -> float:
    """The expected share of right answers, between 0 and 1."""
    return (record.agreed + 1) / (record.agreed + record.contradicted + 2)


def has_vote(record: Record) -> bool:
    """Whether the votes of a peer with this record count."""
    return score(record) >= VOTE_THRESHOLD
