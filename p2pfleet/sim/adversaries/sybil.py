"""Lies as colluders do; once it is caught, its machine comes back under a fresh identity."""

from __future__ import annotations

from p2pfleet.core import effects as ef
from p2pfleet.core.model.ids import Digest, JobId
from p2pfleet.sim.adversaries.colluder import Colluder
from p2pfleet.sim.compute import Answer

IDENTITIES_MAX = 6
AWAY_MS = (100, 3_000)


class Sybil(Colluder):
    """It knows that it was caught when a unit that it lied on is certified with another answer.

    Everything of the old identity is gone then: key, records, frames, outputs.
    """

    _told: dict[tuple[JobId, int], Digest]
    _leaving = False

    def started(self) -> None:
        self._told = {}
        self._leaving = False

    def answer(self, job: JobId, unit: int) -> Answer | None:
        answer = super().answer(job, unit)
        if answer is not None and answer[0] != self.right(job, unit):
            self._told[job, unit] = answer[0]
        return answer

    def decide(self, effects: list[ef.Effect]) -> list[ef.Effect]:
        for effect in effects:
            if isinstance(effect, ef.SaveUnits) and any(
                self._contradicted(effect.job, row.unit) for row in effect.rows
            ):
                self._leave()
        return effects

    def _contradicted(self, job: JobId, unit: int) -> bool:
        node, told = self.machine.node, self._told.get((job, unit))
        known = None if node is None else node.jobs.get(job)
        if told is None or known is None or known.settlement.unit(unit).certificate is None:
            return False
        certificate = known.settlement.unit(unit).certificate
        return certificate is not None and certificate.digest != told

    def _leave(self) -> None:
        if self._leaving or self.machine.identities >= IDENTITIES_MAX:
            return
        self._leaving = True
        self.machine.world.kernel.later(0, self._gone, self.machine.life)

    def _gone(self, life: int) -> None:
        machine = self.machine
        if life != machine.life:
            return
        kernel, network = machine.world.kernel, machine.world.network
        machine.crash()
        # By then everybody has noticed that the old one is gone.
        noticed = network.quality.notice_ms[1] + 1
        kernel.later(noticed + kernel.draw(AWAY_MS), self._return, machine.life)

    def _return(self, life: int) -> None:
        if life == self.machine.life:
            self.machine.rename()
            self.machine.start()
