"""Computes nothing: waits for what others reveal, then commits and votes for what it heard."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import Digest, JobId
from p2pfleet.core.wire.messages import Reveal, RevealItem
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer
from p2pfleet.sim.signatures import unseal

WAIT_MS = (1, 200)


class Copier(Behaviour):
    """In ``rate`` of the units it claims and runs nothing.

    It knows the digest that it votes for and has not the bytes, so it commits to junk. In every
    other such unit it dates its commitment back to the attempt of the vote that it copies.
    """

    _waiting: dict[tuple[JobId, int], bool]

    def started(self) -> None:
        self._waiting = {}

    def answer(self, job: JobId, unit: int) -> Answer | None:
        if not self.share(job, unit, self.machine.peer):
            return super().answer(job, unit)
        self._waiting[job, unit] = True
        return None

    def committed_bytes(self, digest: Digest) -> bytes | None:
        return b"whatever it may be"

    def decide(self, effects: list[ef.Effect]) -> list[ef.Effect]:
        kernel, machine = self.machine.world.kernel, self.machine
        for effect in effects:
            if isinstance(effect, ef.SaveFrame):
                for item in self._overheard(effect):
                    if self._waiting.pop((effect.job, item.unit), False):
                        event = ev.UnitExecuted(
                            effect.job, item.unit, item.digest, item.length, WAIT_MS[1]
                        )
                        delay = kernel.draw(WAIT_MS)
                        kernel.later(delay, self._pretend, machine.life, event)
        return [
            self._early(each) if isinstance(each, ef.MakeCommitments) else each for each in effects
        ]

    def _overheard(self, saved: ef.SaveFrame) -> Iterator[RevealItem]:
        verified = unseal(saved.frame)
        if isinstance(verified, VerifiedFrame) and verified.author != self.machine.peer:
            for entry in verified.frame.entries:
                if isinstance(entry, Reveal):
                    yield from entry.items

    def _pretend(self, life: int, event: ev.Event) -> None:
        if life == self.machine.life:
            self.machine.tell(event)

    @staticmethod
    def _early(effect: ef.MakeCommitments) -> ef.MakeCommitments:
        items = tuple(
            msgspec.structs.replace(item, attempt=max(0, item.attempt - item.unit % 2))
            for item in effect.items
        )
        return msgspec.structs.replace(effect, items=items)
