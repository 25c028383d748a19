"""One node on the bench, and what its effects say; for tests that speak in events and effects."""

from __future__ import annotations

from typing import Any

import msgspec
from core_samples import (
    ALICE,
    BOB,
    CONSENT,
    GOOD,
    NETWORK,
    OUTPUT_BYTES,
    PAULA,
    WALL_MS,
    manifest,
    received,
    record,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedManifest


class Bench:
    """One node on the bench: signs for it, passes time, remembers every effect."""

    def __init__(
        self,
        me: PeerId = ALICE,
        slots: int = 1,
        restore: list[Any] | None = None,
        consent: Consent = CONSENT,
    ) -> None:
        roles = ("volunteer",) if slots else ("publisher",)
        self.node = Node.create(me, NETWORK, slots, roles, msgspec.structs.replace(consent))
        self.now = Millis(5_000)
        self.effects: list[ef.Effect] = []
        self.tell(ev.Started(WALL_MS, WALL_MS, "test", ()))
        for event in restore or []:
            self.tell(event)
        self.tell(ev.RestoreFinished())

    def tell(self, event: ev.Event) -> list[Any]:
        """The effects of an event, and those of what it signed."""
        told: list[Any] = []
        for effect in self.node.handle(event, self.now):
            told.append(effect)
            if isinstance(effect, ef.Sign):
                told += self.tell(received(self.node.me, seal(effect.body)))
        self.effects += told
        return told

    def wait(self, for_ms: int) -> list[Any]:
        """Let time pass; the node is ticked whenever it asked for it."""
        told: list[Any] = []
        end = self.now + for_ms
        while (at := self.node.deadline()) is not None and at <= end:
            assert at > self.now or not told or at >= self.now, "the past"
            self.now = Millis(max(at, self.now))
            told += self.tell(ev.Tick())
            after = self.node.deadline()
            assert after is None or after > self.now, "it asks to be ticked without end"
        self.now = Millis(end)
        return told

    def meet(self, *peers: PeerId) -> list[Any]:
        told = []
        for other in peers:
            told += self.tell(ev.PeerConnected(other))
            told += self.tell(ev.HelloReceived(other, record(other)))
        return told

    def publish(self, **how: Any) -> JobId:
        sealed = seal(manifest(publisher=self.node.me, **how))
        self.tell(received(self.node.me, sealed))
        return ms.job_id(sealed)

    def volunteer(self) -> Volunteer:
        (job,) = self.node.jobs.values()
        assert job.volunteer is not None
        return job.volunteer


def only(kind: type[Any], effects: list[Any]) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def entries(effects: list[Any]) -> list[ms.Entry]:
    """What the node said in signed frames."""
    bodies = [effect.body for effect in only(ef.Sign, effects)]
    return [entry for body in bodies if isinstance(body, ms.Frame) for entry in body.entries]


def working(
    units: int = 10, slots: int = 1, consent: Consent = CONSENT, **how: Any
) -> tuple[Bench, VerifiedManifest]:
    """A volunteer that met its publisher and Bob and has opened the job."""
    bench = Bench(slots=slots, consent=consent)
    bench.meet(PAULA, BOB)
    job: VerifiedManifest = unseal(seal(manifest(units=units, **how)))
    bench.tell(ev.ManifestReceived(PAULA, job))
    bench.tell(ev.JobOpened(job.job))
    return bench, job


def execute(bench: Bench, job: VerifiedManifest, unit: int, wall_ms: int = 100) -> list[Any]:
    return bench.tell(ev.UnitExecuted(job.job, unit, GOOD, OUTPUT_BYTES, wall_ms))


def executed_units(effects: list[Any]) -> list[int]:
    return [effect.unit for effect in only(ef.Execute, effects)]
