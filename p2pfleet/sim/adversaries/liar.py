"""Answers wrongly in ``rate`` of the units, each liar in its own way; serves the wrong output."""

from __future__ import annotations

from p2pfleet.core.model.ids import JobId
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer


class Liar(Behaviour):
    """A machine that is broken, or whose owner plays alone."""

    def answer(self, job: JobId, unit: int) -> Answer | None:
        if self.share(job, unit, self.machine.peer):
            return self.wrong(job, unit, self.machine.peer), True
        return super().answer(job, unit)
