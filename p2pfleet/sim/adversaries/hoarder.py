"""Claims units, renews the claims for ever, and never answers for ``rate`` of them."""

from __future__ import annotations

from p2pfleet.core.model.ids import JobId
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer


class Hoarder(Behaviour):
    """Its sandbox seems to run those units without an end, so its core keeps renewing."""

    def answer(self, job: JobId, unit: int) -> Answer | None:
        return None if self.share(job, unit, self.machine.peer) else super().answer(job, unit)
