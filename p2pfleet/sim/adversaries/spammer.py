"""Floods everybody with frames full of claims and releases, and with questions, and does no work.

``rate`` 1 is twenty frames a second.
"""

from __future__ import annotations

from p2pfleet.core.model.ids import FrameHash, JobId, PeerId
from p2pfleet.core.wire.messages import (
    Claim,
    Commit,
    CommitItem,
    Deliver,
    Entry,
    Frame,
    FramesSummary,
    JobsSummary,
    Message,
    Release,
    Reveal,
    RevealItem,
)
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import OUTPUT_BYTES, Answer
from p2pfleet.sim.signatures import seal

FRAMES_A_SECOND = 20
CLAIM_UNITS = 256


class Spammer(Behaviour):
    """Its own core goes on beside it, under another incarnation, but never finishes a unit."""

    def started(self) -> None:
        kernel = self.machine.world.kernel
        kernel.later(self._pause(), self._flood, self.machine.life, 0)

    def _pause(self) -> int:
        return max(1, int(1000 / (FRAMES_A_SECOND * max(0.001, self.machine.kind.rate))))

    def answer(self, job: JobId, unit: int) -> Answer | None:
        return None if self.active else super().answer(job, unit)

    def _flood(self, life: int, number: int) -> None:
        machine = self.machine
        if life != machine.life or machine.node is None:
            return
        world = machine.world
        peers: tuple[PeerId, ...] = machine.node.membership.present()
        open_jobs = list(machine.node.jobs.values())
        if self.active and peers and open_jobs:
            job = open_jobs[number % len(open_jobs)]
            units = job.manifest.units
            claimed = tuple(
                sorted({world.kernel.random.randrange(units) for _ in range(CLAIM_UNITS)})
            )
            unit = claimed[0]
            entries: tuple[Entry, ...] = (
                Claim(claimed),
                Release(claimed[:1]),
                Commit(bytes(32), (CommitItem(unit, 0, world.kernel.random.randbytes(32)),)),
                Reveal(
                    FrameHash(world.kernel.random.randbytes(32)),
                    0,
                    bytes(32),
                    (RevealItem(unit, 0, self.wrong(job.id, unit, bytes(8)), OUTPUT_BYTES),),
                    (),
                ),
            )
            frame = Frame(job.manifest.network, job.id, machine.peer, 1 + life, number, entries)
            messages: tuple[Message, ...] = (
                Deliver(seal(frame)),
                FramesSummary(job.id, ()),
                JobsSummary((), ()),
            )
            for message in messages:
                machine.send(peers, message)
            number += 1
        world.kernel.later(self._pause(), self._flood, life, number)
