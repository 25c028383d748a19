"""One node on the bench, and what its effects say; for tests that speak in events and effects."""

from __future__ import annotations

from typing import Any

import msgspec
from core_disk import Disk
from core_samples import (
    ALICE,
    BOB,
    CAROL,
    CONSENT,
    GOOD,
    NETWORK,
    OUTPUT_BYTES,
    PAULA,
    WALL_MS,
    Poll,
    manifest,
    output_of,
    received,
    record,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.publisher import Publisher
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.units import Unit
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, Millis, PeerId, sha256
from p2pfleet.core.rules.commitment import commitment
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest

COIN = sha256(b"the coin of these tests")


class Bench:
    """One node on the bench: signs for it, passes time, remembers every effect.

    Unless it is told not to (``prompt``), it makes and opens commitments and finds the frames of
    proofs at once, as a runtime would that holds every output. ``restore`` is told between the
    start and its end.
    """

    def __init__(
        self,
        me: PeerId = ALICE,
        slots: int = 1,
        restore: list[Any] | None = None,
        consent: Consent = CONSENT,
        incarnation: int = WALL_MS,
        prompt: bool = True,
    ) -> None:
        roles = ("volunteer",) if slots else ("publisher",)
        self.node = Node.create(me, NETWORK, slots, roles, msgspec.structs.replace(consent))
        self.now = Millis(5_000)
        self.effects: list[ef.Effect] = []
        self.prompt = prompt
        self.seeds = 0
        self.incarnation = incarnation
        self.tell(ev.Started(incarnation, WALL_MS, "test", (), COIN))
        for event in restore or []:
            self.tell(event)
        self.tell(ev.RestoreFinished())

    def tell(self, event: ev.Event) -> list[Any]:
        """The effects of an event, and those of what it signed and committed to."""
        told: list[Any] = self._handle(event)
        self.effects += told
        return told

    def _handle(self, event: ev.Event) -> list[Any]:
        told: list[Any] = []
        for effect in self.node.handle(event, self.now):
            told.append(effect)
            if isinstance(effect, ef.Sign):
                told += self._handle(received(self.node.me, seal(effect.body)))
        if self.prompt:
            for effect in list(told):
                if isinstance(effect, ef.MakeCommitments):
                    told += self._handle(self.committed(effect))
                elif isinstance(effect, ef.CheckCommitments):
                    told += self._handle(self.checked(effect))
                elif isinstance(effect, ef.Prove):
                    for proof in self.proofs(effect, told):
                        told += self._handle(proof)
        return told

    def committed(self, effect: ef.MakeCommitments) -> ev.CommitmentsMade:
        """What a runtime answers that holds the outputs."""
        self.seeds += 1
        seed = sha256(self.node.me + str((self.incarnation, self.seeds)).encode())
        made = tuple(
            commitment(
                NETWORK,
                effect.job,
                item.unit,
                item.attempt,
                self.node.me,
                seed,
                output_of(item.digest),
            )
            for item in effect.items
        )
        return ev.CommitmentsMade(effect.job, seed, effect.items, made)

    def checked(self, effect: ef.CheckCommitments) -> ev.CommitmentsChecked:
        """The same for commitments to be opened."""
        output = output_of(effect.digest)
        good: list[tuple[int, int, PeerId]] = []
        bad: list[tuple[int, int, PeerId]] = []
        for item in effect.items:
            key = (item.unit, item.attempt, item.peer)
            right = commitment(NETWORK, effect.job, *key, item.seed, output)
            (good if right == item.commitment else bad).append(key)
        return ev.CommitmentsChecked(effect.job, effect.digest, tuple(good), tuple(bad))

    def proofs(self, effect: ef.Prove, told: list[Any]) -> list[ev.ProofReceived]:
        """The same for a fault of which there are two frames, if the first one was saved."""
        saved = (unseal(each.frame) for each in only(ef.SaveFrame, [*self.effects, *told]))
        number = (effect.author, effect.incarnation, effect.sequence)
        return [
            ev.ProofReceived(self.node.me, each, unseal(effect.other))
            for each in saved
            if (each.author, each.frame.incarnation, each.frame.sequence) == number
        ]

    def hear(self, *frames: VerifiedFrame, source: PeerId | None = None) -> list[Any]:
        """Frames arrive, from their authors unless somebody else hands them on."""
        told: list[Any] = []
        for item in frames:
            told += self.tell(ev.FrameReceived(source or item.author, item))
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

    def publisher(self) -> Publisher:
        (job,) = self.node.jobs.values()
        assert job.publisher is not None
        return job.publisher

    def settlement(self) -> Settlement:
        (job,) = self.node.jobs.values()
        return job.settlement

    def unit(self, number: int) -> Unit:
        return self.settlement().unit(number)

    def state(self, number: int) -> str:
        return self.unit(number).state


def restarted(bench: Bench, lost: tuple[type[Any], ...] = (), **how: Any) -> Bench:
    """A new process over what the old one had written (but for what was ``lost``), a second later.

    The store may be of any age: what was not yet durable is told to nobody.
    """
    disk = Disk()
    for effect in bench.effects:
        if isinstance(effect, ef.Write) and not isinstance(effect, lost):
            disk.write(effect)
    restore = list(disk.restore(bench.node.me))[:-1]
    how.setdefault("slots", bench.node.slots)
    consent = bench.node.consent
    return Bench(
        bench.node.me,
        restore=restore,
        consent=consent,
        incarnation=bench.incarnation + 1_000,
        **how,
    )


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


def execute(
    bench: Bench, job: VerifiedManifest, unit: int, wall_ms: int = 100, answer: Digest = GOOD
) -> list[Any]:
    return bench.tell(ev.UnitExecuted(job.job, unit, answer, OUTPUT_BYTES, wall_ms))


def executed_units(effects: list[Any]) -> list[int]:
    return [effect.unit for effect in only(ef.Execute, effects)]


def commits(effects: list[Any]) -> list[tuple[int, int]]:
    """(unit, attempt) of all that the node committed to."""
    found = [entry for entry in entries(effects) if isinstance(entry, ms.Commit)]
    return [(item.unit, item.attempt) for entry in found for item in entry.items]


def reveals(effects: list[Any]) -> list[tuple[int, int, Digest]]:
    """(unit, attempt, digest) of all that the node revealed."""
    found = [entry for entry in entries(effects) if isinstance(entry, ms.Reveal)]
    return [(item.unit, item.attempt, item.digest) for entry in found for item in entry.items]


def frames(bench: Bench, of: PeerId | None = None) -> dict[FrameHash, VerifiedFrame]:
    """Every frame that the node saved, or those of one author, by hash."""
    saved = [unseal(effect.frame) for effect in only(ef.SaveFrame, bench.effects)]
    return {each.hash: each for each in saved if of in (None, each.author)}


def states(effects: list[Any]) -> list[tuple[int, str]]:
    """(unit, state) of every ledger line that was written."""
    return [(row.unit, row.state) for each in only(ef.SaveUnits, effects) for row in each.rows]


def moves(effects: list[Any]) -> list[ef.Move]:
    """Every move of a record that was written."""
    return [move for each in only(ef.SaveMoves, effects) for move in each.rows]


def publishing(
    votes: tuple[PeerId, ...] = (ALICE, BOB), answer: Digest = GOOD, **how: Any
) -> tuple[Bench, JobId, Poll]:
    """A publisher whom Alice, Bob and Carol met, and on whose unit 0 these voted."""
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE, BOB, CAROL)
    job = bench.publish(**how)
    poll = Poll(job)
    bench.hear(*poll.closed({who: {0: answer} for who in votes}))
    return bench, job, poll


def arrive(bench: Bench, job: JobId) -> list[Any]:
    """Everything that the publisher wants to fetch comes."""
    told: list[Any] = []
    asked = [each.ref for each in only(ef.Fetch, bench.effects)]
    here = bench.publisher().judge.here if job in bench.node.jobs else {}
    for ref in asked:
        if Digest(ref.sha256) not in here:
            told += bench.tell(ev.BlobArrived(job, ref))
    return told
