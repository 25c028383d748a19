"""Repair by pull: what gossip or a broken connection lost, somebody else still has.

Two peers tell each other now and then which jobs, and which frames of a job, they hold; each
answers with what the other lacks. A small question may draw a large answer, so the same question
is answered only every half second.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Effect, Report, Send
from p2pfleet.core.errors import Reject
from p2pfleet.core.machines.book import JOBS_MAX, Book
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.wire.messages import AuthorPosition, Deliver, JobsSummary

ANSWER_EVERY_MS = 500
ENDED_TOLD = 64
SUBJECTS = 16
_JOBS = b""


class Repair(msgspec.Struct):
    """When each peer was last answered, by subject: a job's id with the last bits of a shard's
    number, or nothing for the list of jobs."""

    answered: dict[tuple[PeerId, bytes], Millis] = {}

    def forget(self, peer: PeerId) -> None:
        """The peer is gone."""
        self.answered = {key: at for key, at in self.answered.items() if key[0] != peer}

    def forget_job(self, job: JobId) -> None:
        """The job has ended."""
        self.answered = {key: at for key, at in self.answered.items() if key[1][: len(job)] != job}

    def _due(self, peer: PeerId, subject: bytes, now: Millis) -> bool:
        last = self.answered.get((peer, subject))
        if last is not None and now - last < ANSWER_EVERY_MS:
            return False
        self.answered[peer, subject] = now
        return True

    @staticmethod
    def known_jobs(book: Book) -> JobsSummary:
        """Open jobs, and the last that ended; who still has an older one open is told anyway."""
        return JobsSummary(
            tuple(sorted(book.open)[:JOBS_MAX]), tuple(sorted(list(book.ended)[-ENDED_TOLD:]))
        )

    def answer_jobs(
        self,
        book: Book,
        peer: PeerId,
        theirs_open: tuple[JobId, ...],
        theirs_closed: tuple[JobId, ...],
        now: Millis,
    ) -> list[Effect]:
        """Manifests that the peer lacks, and the ends of jobs that it thinks open."""
        if not self._due(peer, _JOBS, now):
            return []
        known = {*theirs_open, *theirs_closed}
        effects: list[Effect] = [
            Send((peer,), Deliver(job.sealed.sealed))
            for job_id, job in sorted(book.open.items())
            if job_id not in known
        ]
        for job_id in sorted(set(theirs_open)):
            ended = book.ended.get(job_id)
            if ended is not None and ended.closure is not None:
                effects.append(Send((peer,), Deliver(ended.closure)))
        return effects

    def answer_frames(
        self,
        book: Book,
        peer: PeerId,
        job_id: JobId,
        positions: tuple[AuthorPosition, ...],
        snapshot: int,
        now: Millis,
        shard: int = 0,
        serving: bool = True,
        only: PeerId | None = None,
    ) -> list[Effect]:
        """Frames of a shard that the peer lacks (of ``only`` one author), and a newer trust
        snapshot; what we have of it, if the peer is new there; the job's end; or that we lack the
        job itself."""
        job = book.open.get(job_id)
        if job is not None and shard >= job.manifest.shards:
            return [Report(peer, Reject("the summary names a shard that the job does not have"))]
        subject = _JOBS if job is None else job_id + bytes([shard % SUBJECTS])
        if not self._due(peer, subject, now):
            return []
        if job is not None:
            effects: list[Effect] = []
            news = job.join(peer, shard) if serving else job.kept_by(peer, shard)
            if news and job.joined and (job.takes(shard) or shard in job.logs):
                effects.extend(job.tell_once(peer, shard, now, whole=False))
            if job.snapshot is not None and job.snapshot.snapshot.number > snapshot:
                effects.append(Send((peer,), Deliver(job.snapshot.sealed)))
            if shard not in job.logs or not serving:  # who has left a shard wants no more of it
                return effects
            return [*effects, *job.logs[shard].missing(peer, positions, only)]
        ended = book.ended.get(job_id)
        if ended is not None and ended.closure is not None:
            return [Send((peer,), Deliver(ended.closure))]
        if book.knows(job_id):
            return []
        # Telling the peer what we know makes it send the manifest that we lack.
        return [Send((peer,), self.known_jobs(book))]
