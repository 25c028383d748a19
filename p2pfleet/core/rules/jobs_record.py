"""Jobs records: which a node takes, and which of two stays (``protocol/custody.md``)."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import PeerId, peer_text
from p2pfleet.core.model.job import MAX_EXPIRY_MS
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.wire.messages import JobsRecord

NAMESPACE = "p2pfleet"


def jobs_key(publisher: PeerId) -> str:
    """Under which key of the DHT a publisher's record lies."""
    return f"/{NAMESPACE}/jobs/{peer_text(publisher)}"


def judge_jobs_record(record: JobsRecord, terms: NetworkTerms, wall_ms: int) -> Verdict:
    """Accept a publisher's record of its jobs, or why not; its signature holds already."""
    if record.network != terms.id:
        return Reject("the jobs record belongs to another network")
    if not fits(terms, record.publisher):
        return Reject("the publisher's key does not fit the network")
    if record.expires_ms <= record.issued_ms:
        return Reject("the jobs record expires before it was issued")
    if record.expires_ms - record.issued_ms > MAX_EXPIRY_MS:
        return Reject("the jobs record lasts longer than 30 days")
    if record.expires_ms + CLOCK_SKEW_MS < wall_ms:
        return Ignore("the jobs record has expired")
    if record.issued_ms - CLOCK_SKEW_MS > wall_ms:
        return Ignore("the jobs record was issued in the future by this clock")
    return ACCEPT


def newest(records: Sequence[JobsRecord]) -> int:
    """Which of a publisher's records stays: that of the highest sequence, the first of equals."""
    return max(range(len(records)), key=lambda number: (records[number].sequence, -number))
