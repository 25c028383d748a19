"""Whose jobs are opened now: opening asks for blobs, and anybody may publish jobs without any.

Of one publisher few jobs are opened at once. When one of them could not be had, the next of that
publisher waits, the longer the more of them failed one after the other; one that opens, or the
publisher's own greeting, ends the waiting.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.model.ids import JobId, Millis, PeerId

AT_ONCE = 4
PAUSE_MS = 1_000
PAUSE_MAX_MS = 15_000
PUBLISHERS_MAX = 1_024


class Openings(msgspec.Struct):
    """``begun`` by publisher; ``failures``: of how many of its jobs one after the other; ``until``:
    when the next one may be begun."""

    begun: dict[PeerId, dict[JobId, bool]] = {}
    failures: dict[PeerId, int] = {}
    until: dict[PeerId, Millis] = {}

    def wait(self, publisher: PeerId, now: Millis) -> bool:
        """Whether no further job of this publisher is to be begun now."""
        if len(self.begun.get(publisher, ())) >= AT_ONCE:
            return True
        return now < self.until.get(publisher, now)

    def begin(self, publisher: PeerId, job: JobId) -> None:
        """A job is being opened."""
        self.begun.setdefault(publisher, {})[job] = True

    def end(self, publisher: PeerId, job: JobId) -> None:
        """It is being opened no more, whatever came of it. Idempotent."""
        begun = self.begun.get(publisher)
        if begun is not None:
            begun.pop(job, None)
            if not begun:
                del self.begun[publisher]

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
