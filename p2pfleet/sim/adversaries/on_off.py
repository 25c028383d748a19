"""Honest until the publisher's snapshot thinks well of it, then lies as colluders do."""

from __future__ import annotations

from p2pfleet.core.model.ids import JobId
from p2pfleet.sim.adversaries.colluder import Colluder
from p2pfleet.sim.compute import Answer

TRUSTED_CHECKS = 10


class OnOff(Colluder):
    """Lies in ``rate`` of the units while the snapshot shows it with ``TRUSTED_CHECKS`` or more.

    Once it is caught it is a newcomer, and honest again until it has as many.
    """

    def answer(self, job: JobId, unit: int) -> Answer | None:
        if self._checks(job) >= TRUSTED_CHECKS:
            return super().answer(job, unit)
        return self.right(job, unit), True

    def _checks(self, job: JobId) -> int:
        node = self.machine.node
        known = None if node is None else node.jobs.get(job)
        return 0 if known is None else known.settlement.checks(self.machine.peer)
