"""Jobs records as values of the DHT: judged before they are stored, chosen where there are several,
and looked up by a publisher that comes back with an empty folder."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfleet.core.errors import Accept, Malformed
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.jobs_record import jobs_key, judge_jobs_record, newest
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedJobsRecord
from p2pfleet.ports import Clock
from p2pfleet.runtime.signing import open_bytes

MAX_RECORD_BYTES = MAX_FRAME_BYTES + 256


def opened_record(data: bytes) -> VerifiedJobsRecord:
    """The record in a value of the DHT. Raises :class:`Malformed`."""
    if len(data) > MAX_RECORD_BYTES:
        raise Malformed("the value is too long")
    verified = open_bytes(data)
    if not isinstance(verified, VerifiedJobsRecord):
        raise Malformed("the value is another kind of signed body")
    return verified


class JobsRecords:
    """The rule of the DHT's values (the port ``RecordRule``) in a network of these ``terms``."""

    def __init__(self, terms: NetworkTerms, clock: Clock) -> None:
        self._terms = terms
        self._clock = clock

    def validate(self, key: str, data: bytes) -> None:
        """Raises :class:`Malformed` for what must not be stored under ``key``."""
        record = opened_record(data).record
        if jobs_key(record.publisher) != key:
            raise Malformed("the value lies under another's key")
        verdict = judge_jobs_record(record, self._terms, self._clock.wall_ms())
        if not isinstance(verdict, Accept):
            raise Malformed(verdict.reason)

    def select(self, key: str, values: Sequence[bytes]) -> int:
        """Which of several valid values of ``key`` stays. Raises :class:`Malformed`."""
        return newest([opened_record(data).record for data in values])
