"""Whose jobs are opened now: opening asks for blobs, and anybody may publish jobs without any.

Of one publisher few jobs are opened at once. When one of them could not be had, the next of that
publisher waits, the longer the more of them failed one after the other; one that opens, or the
publisher's own greeting, ends the waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import msgspec

from p2pfleet.core.model.ids import JobId, Millis, PeerId

AT_ONCE = 4
PAUSE_MS = 1_000
PAUSE_MAX_MS = 15_000
PUBLISHERS_MAX = 1_024


class Openings(msgspec.Struct):
    """All by publisher: jobs that are ``begun``, and ``queued`` in the order in which they come;
    ``failures``: how many failed one after the other; ``until``: when the next may be begun."""

    begun: dict[PeerId, dict[JobId, bool]] = {}
    queued: dict[PeerId, dict[JobId, bool]] = {}
    failures: dict[PeerId, int] = {}
    until: dict[PeerId, Millis] = {}

    def wait(
        self, publisher: PeerId, job: JobId, now: Millis, wanted: Callable[[JobId], bool]
    ) -> bool:
        """Whether a job is not to be begun now; if so it keeps its place in the queue, which those
        lose who are not ``wanted`` any more."""
        queued = self.queued.setdefault(publisher, {})
        queued[job] = True
        while (first := next(iter(queued))) != job and not wanted(first):
            del queued[first]
        room = AT_ONCE - len(self.begun.get(publisher, ()))
        if room <= 0 or now < self.until.get(publisher, now):
            return True
        return job not in islice(queued, room)

    def begin(self, publisher: PeerId, job: JobId) -> None:
        """A job is being opened."""
        self.end(publisher, job)
        self.begun.setdefault(publisher, {})[job] = True

    def end(self, publisher: PeerId, job: JobId) -> None:
        """It is being opened no more, whatever came of it, and does not wait. Idempotent."""
        for jobs in (self.begun, self.queued):
            theirs = jobs.get(publisher)
            if theirs is not None:
                theirs.pop(job, None)
                if not theirs:
                    del jobs[publisher]

    def fail(self, publisher: PeerId, now: Millis) -> None:
        """Nobody had what a job needs."""
        if now < self.until.get(publisher, now):
            return  # it was begun before the last one failed: that counts once
        times = self.failures.pop(publisher, 0) + 1
        self.failures[publisher] = times
        self.until[publisher] = Millis(now + min(PAUSE_MS * 2 ** min(times - 1, 8), PAUSE_MAX_MS))
        if len(self.failures) > PUBLISHERS_MAX:
            self.forgive(next(iter(self.failures)))

    def forgive(self, publisher: PeerId) -> None:
        """One could be had, or the publisher is here now."""
        self.failures.pop(publisher, None)
        self.until.pop(publisher, None)

    def passed(self, now: Millis) -> None:
        """Forget the waiting that is over."""
        if self.until:
            self.until = {who: until for who, until in self.until.items() if until > now}

    def deadlines(self) -> list[Millis]:
        """When publishers have waited enough."""
        return list(self.until.values())
