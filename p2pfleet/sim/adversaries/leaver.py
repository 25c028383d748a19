"""Works honestly until ``after_ms``, then is gone without a word, claims and outputs with it."""

from __future__ import annotations

from p2pfleet.sim.adversaries.behaviour import Behaviour


class Leaver(Behaviour):
    """``rate`` is the chance that one of its kind does leave."""

    def started(self) -> None:
        kernel = self.machine.world.kernel
        if kernel.chance(self.machine.kind.rate):
            wait = max(0, self.machine.kind.after_ms - kernel.now)
            kernel.later(wait + kernel.draw((0, 5_000)), self._leave)

    def _leave(self) -> None:
        self.machine.gone = True
        self.machine.crash()
