"""A publisher that lies to its volunteers: about records, the job's end, and what is right."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core import effects as ef
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.messages import (
    Closure,
    Deliver,
    Manifest,
    Message,
    PeerChecks,
    Snapshot,
    Wanted,
)
from p2pfleet.core.wire.verified import VerifiedClosure, VerifiedSnapshot
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.compute import Answer
from p2pfleet.sim.signatures import seal, unseal

WANTED_MS = 500
WANTED_UNITS = 64
LIED_CHECKS = 1_000


class Crook(Behaviour):
    """Three kinds of volunteers, by key, hear three stories.

    The first get its snapshots as they are, and from ``after_ms`` on hear that the job is
    cancelled. The second get snapshots that make newcomers of the known, and strangers trusted.
    Neither they nor the third hear of the job's end from it: all are asked for more replicas of
    every unit, for ever. In ``rate`` of the units it says that whatever they answer is wrong.
    """

    twists = True
    _called_off: dict[PeerId, bool]

    def started(self) -> None:
        self._called_off = {}
        self.machine.world.kernel.later(WANTED_MS, self._ask, self.machine.life)

    @staticmethod
    def _kind(peer: PeerId) -> int:
        return peer[0] % 3

    def answer(self, job: JobId, unit: int) -> Answer | None:
        if self.share(job, unit, self.machine.peer):
            return self.wrong(job, unit, self.machine.peer), True
        return super().answer(job, unit)

    def decide(self, effects: list[ef.Effect]) -> list[ef.Effect]:
        return [
            effect
            for effect in effects
            if not isinstance(effect, ef.Gossip)
            or not isinstance(unseal(effect.sealed), VerifiedClosure)
        ]

    def outgoing(self, peer: PeerId, message: Message) -> Sequence[Message]:
        if not isinstance(message, Deliver):
            return (message,)
        verified = unseal(message.sealed)
        if isinstance(verified, VerifiedClosure):
            return (message,) if self._kind(peer) == 0 else ()
        if isinstance(verified, VerifiedSnapshot) and self._kind(peer) == 1:
            return (Deliver(seal(self._forged(verified.snapshot))),)
        return (message,)

    def _forged(self, snapshot: Snapshot) -> Snapshot:
        listed = {each.peer for each in snapshot.records}
        others = [peer for peer in sorted(self.machine.world.by_peer) if peer not in listed]
        records = tuple(PeerChecks(peer, LIED_CHECKS) for peer in others[::2])
        return msgspec.structs.replace(snapshot, records=records)

    def _ask(self, life: int) -> None:
        machine = self.machine
        if life != machine.life or machine.node is None:
            return
        kernel, present = machine.world.kernel, machine.node.membership.present()
        for job, manifest in machine.world.manifests.items():
            if manifest.publisher != machine.peer or not present:
                continue
            count = min(WANTED_UNITS, manifest.units)
            units = kernel.random.sample(range(manifest.units), count)
            machine.send(present, Wanted(job, tuple(sorted(units))))
            if self.active:
                self._call_off(job, manifest, present)
        kernel.later(WANTED_MS, self._ask, life)

    def _call_off(self, job: JobId, manifest: Manifest, present: tuple[PeerId, ...]) -> None:
        wall_ms = self.machine.clock.wall(self.machine.world.kernel.now)
        closure = Closure(manifest.network, job, self.machine.peer, False, wall_ms)
        fresh = tuple(p for p in present if self._kind(p) == 0 and p not in self._called_off)
        if fresh:
            self._called_off.update((peer, True) for peer in fresh)
            self.machine.send(fresh, Deliver(seal(closure)))
