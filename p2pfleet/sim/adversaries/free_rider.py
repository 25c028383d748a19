"""Votes for garbage at once instead of computing, and has no output to show."""

from __future__ import annotations

from p2pfleet.core.model.ids import Digest, JobId
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer


class FreeRider(Behaviour):
    """In the other units, if ``rate`` leaves any, it works honestly but no faster than it can."""

    def unit_ms(self, ms: int) -> int:
        return 1 if self.active and self.machine.kind.rate >= 1 else ms

    def answer(self, job: JobId, unit: int) -> Answer | None:
        if self.share(job, unit, self.machine.peer):
            return self.wrong(job, unit, self.machine.peer), True
        return super().answer(job, unit)

    def gives(self, output: Digest) -> bool:
        return not self.active
