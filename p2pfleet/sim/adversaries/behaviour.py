"""What a machine does where an adversary may do otherwise; this one is honest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.wire.messages import Message
from p2pfleet.sim.compute import Answer, right_digest

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine


class Behaviour:
    """Replaces, drops or adds what its machine does or sends.

    ``twists`` tells whether :meth:`outgoing` changes anything. An adversary draws from the
    kernel's chance or from hashes, so that it does the same again under the same seed.
    """

    twists = False

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def started(self) -> None:
        """The machine was switched on."""

    def decide(self, effects: list[ef.Effect]) -> list[ef.Effect]:
        """What becomes of the effects of one batch."""
        return effects

    def outgoing(self, peer: PeerId, message: Message) -> Sequence[Message]:
        """What is sent to ``peer`` instead of ``message``."""
        return (message,)

    def unit_ms(self, ms: int) -> int:
        """How long an execution takes that would honestly take ``ms``."""
        return ms

    def answer(self, job: JobId, unit: int) -> Answer | None:
        """The digest voted for, and whether its output is here; ``None``: no answer, ever."""
        return self.right(job, unit), True

    def committed_bytes(self, digest: Digest) -> bytes | None:
        """What an adversary commits to where it has not the output; ``None``: it cannot."""
        return None

    def keeps(self, digest: Digest) -> bool:
        """Whether it really keeps what it fetches to keep."""
        return True

    def gives(self, output: Digest) -> bool:
        """Whether an adversary lets others have an output of its own."""
        return True

    # ---- for adversaries ---------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether its time has come."""
        return self.machine.world.kernel.now >= self.machine.kind.after_ms

    def right(self, job: JobId, unit: int) -> Digest:
        """What an honest machine of this numeric class gets."""
        divergent = self.machine.world.divergent.get(job, 0.0)
        salt = self.machine.world.salts.get(job, job)
        return right_digest(salt, unit, self.machine.kind.numeric_class, divergent)

    def share(self, job: JobId, unit: int, who: bytes) -> bool:
        """Whether a unit is among the ``rate`` of all in which ``who`` misbehaves."""
        mark = hashlib.sha256(who + job + unit.to_bytes(8, "big")).digest()
        return self.active and int.from_bytes(mark[:4], "big") < self.machine.kind.rate * 2**32

    def wrong(self, job: JobId, unit: int, who: bytes) -> Digest:
        """The wrong answer of ``who``: always the same for one unit."""
        return Digest(hashlib.sha256(b"wrong" + who + self.right(job, unit)).digest())
