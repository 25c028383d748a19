"""The jobs that a node knows: open ones, the last that ended, tombstones of all until expiry."""

from __future__ import annotations

import msgspec

from p2pfleet.core.machines.job import Ended, Job
from p2pfleet.core.model.ids import JobId, PeerId

JOBS_MAX = 512
JOBS_A_PUBLISHER = 128
ENDED_MAX = 256
TOMBSTONES_MAX = 65_536


class Book(msgspec.Struct):
    """``open`` in the order of first sight; ``ended`` in the order of their end.

    ``tombstones`` (when the job expires, wall-clock milliseconds) keep an ended job from starting
    again when somebody who has not heard of its end announces it.
    """

    open: dict[JobId, Job] = {}
    ended: dict[JobId, Ended] = {}
    tombstones: dict[JobId, int] = {}

    def knows(self, job: JobId) -> bool:
        """Whether the job is open here, or has been."""
        return job in self.open or job in self.tombstones

    def crowded(self, publisher: PeerId) -> bool:
        """Whether there is no room for another job of this publisher."""
        theirs = sum(job.manifest.publisher == publisher for job in self.open.values())
        return len(self.open) >= JOBS_MAX or theirs >= JOBS_A_PUBLISHER

    def end(self, ended: Ended) -> tuple[JobId, ...]:
        """The job is open no more; the oldest memories make room: those of the jobs returned."""
        self.open.pop(ended.id, None)
        self.ended[ended.id] = ended
        self.tombstones[ended.id] = ended.manifest.expires_ms
        if len(self.tombstones) > TOMBSTONES_MAX:
            del self.tombstones[min(self.tombstones, key=lambda job: (self.tombstones[job], job))]
        if len(self.ended) <= ENDED_MAX:
            return ()
        oldest = next(iter(self.ended))
        del self.ended[oldest]
        return (oldest,)

    def sweep(self, wall_ms: int) -> None:
        """Drop the tombstones of jobs that nobody may announce any more."""
        self.tombstones = {job: until for job, until in self.tombstones.items() if until >= wall_ms}
