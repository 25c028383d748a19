"""A peer's record and what it says (``protocol/reputation.md``).

What moves a record are the *moves* below, each from one unit of one job, made by the publisher who
judges its own job. ``checks`` is the k of the credibility rule: it grows by one with every check
that is passed, forgets a 320th of itself each time, and falls to zero when the peer is caught. The
score for people is the expectation of a Beta distribution over all verdicts.
"""

from __future__ import annotations

from typing import Literal

from p2pfleet.core.model.record import MILLI, Record

SERVED_FROM = 0.3
FORGETTING = 320
"""Each passed check outweighs what is forgotten until 320: the last few hundred units count."""

Kind = Literal[
    "matched",
    "confirmed",
    "audited",
    "ringer",
    "contradicted",
    "failed audit",
    "failed ringer",
    "false commitment",
]
"""matched: certified with its vote. confirmed: certified without needing it, a check passed.
audited, ringer: right by the publisher's own execution. contradicted: the certificate says
otherwise. failed audit, failed ringer: the publisher's execution says otherwise. false commitment:
voted for bytes that it had not committed to."""

PASSED: tuple[str, ...] = ("confirmed", "audited", "ringer")
CAUGHT: tuple[str, ...] = ("contradicted", "failed audit", "failed ringer", "false commitment")


def moved(record: Record, kind: str) -> Record:
    """The record after one move. A peer that is caught starts from nothing."""
    if kind in CAUGHT:
        return Record(record.agreed, record.contradicted + 1, 0, record.faults)
    gained = MILLI - record.milli // FORGETTING if kind in PASSED else 0
    return Record(record.agreed + 1, record.contradicted, record.milli + gained, record.faults)


def score(record: Record) -> float:
    """The expected share of right answers, between 0 and 1; 0 once a fault is proved."""
    if record.faults:
        return 0.0
    return (record.agreed + 1) / (record.agreed + record.contradicted + 2)


def served(record: Record) -> bool:
    """Whether a node works with this peer: counts its claims, and as a publisher its votes."""
    return score(record) >= SERVED_FROM
