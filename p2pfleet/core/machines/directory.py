"""Which jobs publishers say that they have open: this node's own record, and those it hands on.

The own record is signed anew when the set of open jobs changes. Those of others are kept as long as
a job of theirs is open here, given to them when they come back (perhaps with an empty folder), and
put into the DHT again while they are away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from p2pfleet.core.effects import (
    Effect,
    ForgetJobsRecord,
    PublishRecord,
    Report,
    SaveJobsRecord,
    Send,
    Sign,
)
from p2pfleet.core.errors import Accept, Ignore
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.model.job import MAX_EXPIRY_MS
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.jobs_record import judge_jobs_record, newest
from p2pfleet.core.wire.messages import JOBS_RECORD_MAX, Deliver, JobsRecord, Manifest, OwnJob
from p2pfleet.core.wire.verified import VerifiedJobsRecord

SIGN_MS = 1_000
PUT_MS = 600_000
PUT_SOON_MS = 20_000
TOLD = 8


class Directory(msgspec.Struct):
    """``records`` are the newest of each publisher; ``sign_at`` is when the own one is due,
    ``put_at`` when each is put into the DHT again. ``named`` are jobs that this node's own records
    name, ``wanted`` says that its person wants any of its own."""

    me: PeerId
    records: dict[PeerId, VerifiedJobsRecord] = {}
    named: dict[JobId, int] = {}
    wanted: bool = False
    sign_at: Millis | None = None
    put_at: dict[PeerId, Millis] = {}

    def wants(self, job: JobId) -> bool:
        """Whether a job of this node's own that others bring is to be taken up."""
        return self.wanted or job in self.named

    def changed(self, now: Millis) -> None:
        """A job of this node's own begins, or ends."""
        if self.sign_at is None:
            self.sign_at = Millis(now + SIGN_MS)

    def sign(
        self, terms: NetworkTerms, own: Iterable[tuple[JobId, Manifest]], ended: Iterable[JobId],
        now: Millis, wall_ms: int,
    ) -> list[Effect]:  # fmt: skip
        """Say anew which jobs are open, if it is time to and they are others than before.

        Jobs of an earlier record that are unknown here (the folder is a new one) stay in it.
        """
        if self.sign_at is None or self.sign_at > now:
            return []
        self.sign_at = None
        over = set(ended)
        jobs = {job: until for job, until in self.named.items() if until > wall_ms}
        jobs.update((job, manifest.expires_ms) for job, manifest in own)
        for job in over:
            jobs.pop(job, None)
        longest = sorted(jobs.items(), key=lambda row: (-row[1], row[0]))[:JOBS_RECORD_MAX]
        rows = tuple(OwnJob(*row) for row in sorted(longest))
        before = self.records.get(self.me)
        if rows == (() if before is None else before.record.jobs):
            return []
        lasts = [until for _, until in longest]
        sequence = wall_ms
        if before is not None:  # an empty one has to last as long as what it replaces
            lasts.append(before.record.expires_ms)
            sequence = max(wall_ms, before.record.sequence + 1)
        expires = min(wall_ms + MAX_EXPIRY_MS, max([*lasts, wall_ms + 1]))
        return [Sign(JobsRecord(terms.id, self.me, sequence, wall_ms, expires, rows))]

    def received(
        self, source: PeerId, verified: VerifiedJobsRecord, terms: NetworkTerms,
        here: tuple[PeerId, ...], open_here: bool, now: Millis, wall_ms: int,
    ) -> list[Effect]:  # fmt: skip
        """A publisher's record; ``open_here``: a job of its is open at this node."""
        record, own = verified.record, source == self.me
        verdict = judge_jobs_record(record, terms, wall_ms)
        if (
            isinstance(verdict, Accept)
            and not own
            and not open_here
            and record.publisher != self.me
        ):
            verdict = Ignore("no job of this publisher's is open here")
        if not isinstance(verdict, Accept):
            return [] if own else [Report(source, verdict)]
        if record.publisher == self.me:
            fresh = {row.job: row.expires_ms for row in record.jobs if row.job not in self.named}
            self.named.update(fresh)
            if fresh:
                self.changed(now)  # it may be older than the one here, and name others
        before = self.records.get(record.publisher)
        if before is not None and newest((before.record, record)) == 0:
            return []
        self.records[record.publisher] = verified
        effects: list[Effect] = [SaveJobsRecord(verified.sealed)]
        mine = record.publisher == self.me
        self.put_at[record.publisher] = Millis(now + (PUT_MS if mine else PUT_SOON_MS))
        if mine:
            effects.append(PublishRecord(verified.sealed))
            others = tuple(peer for peer in here if peer != source)
            if others:
                effects.append(Send(others, Deliver(verified.sealed)))
        return effects

    def restored(self, verified: VerifiedJobsRecord) -> None:
        """A record from the store."""
        record = verified.record
        self.records[record.publisher] = verified
        if record.publisher == self.me:
            self.named.update((row.job, row.expires_ms) for row in record.jobs)

    def greet(self, peer: PeerId) -> list[Effect]:
        """What to tell a peer that said hello: its own record, ours, and some others."""
        first = [one for one in (peer, self.me) if one in self.records]
        others = [one for one in list(self.records)[-TOLD:] if one not in first]
        return [Send((peer,), Deliver(self.records[one].sealed)) for one in (*first, *others)]

    def due(
        self, here: Callable[[PeerId], bool], keeps: Callable[[PeerId], bool],
        open_of: Callable[[PeerId], bool], now: Millis, wall_ms: int,
    ) -> list[Effect]:  # fmt: skip
        """Put records again: the own one, and those of publishers that are away whose blobs this
        node ``keeps``; forget those of whom no job is open any more."""
        effects: list[Effect] = []
        for publisher in list(self.records):
            record = self.records[publisher].record
            gone = publisher != self.me and not open_of(publisher)
            if gone or record.expires_ms < wall_ms:
                del self.records[publisher]
                self.put_at.pop(publisher, None)
                effects.append(ForgetJobsRecord(publisher))
                continue
            if self.put_at.setdefault(publisher, Millis(now + PUT_SOON_MS)) > now:
                continue
            self.put_at[publisher] = Millis(now + PUT_MS)
            if publisher == self.me or (keeps(publisher) and not here(publisher)):
                effects.append(PublishRecord(self.records[publisher].sealed))
        return effects

    def deadline(self) -> Millis | None:
        """When something of it is due next."""
        put_at = min(self.put_at.values()) if self.put_at else None
        if self.sign_at is None or put_at is None:
            return put_at if self.sign_at is None else self.sign_at
        return min(self.sign_at, put_at)
