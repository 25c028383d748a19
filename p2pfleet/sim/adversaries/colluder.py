"""Answers wrongly in ``rate`` of the units, together with all colluders of its ring."""

from __future__ import annotations

from p2pfleet.core.model.ids import JobId
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer


class Colluder(Behaviour):
    """They pick the same units and agree on one wrong answer, of which each has the output."""

    def answer(self, job: JobId, unit: int) -> Answer | None:
        ring = (self.machine.kind.ring or self.machine.kind.name).encode()
        if self.share(job, unit, ring):
            return self.wrong(job, unit, ring), True
        return super().answer(job, unit)
