"""A simulated machine's sandbox and blobs answer what the real ones answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import pytest

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId, PeerId, cid_from_sha256, cid_of
from p2pfleet.core.model.job import BlobRef, Exact, FixedQuorum, Limits
from p2pfleet.core.rules.commitment import commitment
from p2pfleet.core.wire.messages import Manifest, RevealItem, job_id
from p2pfleet.sim.compute import (
    NETWORK,
    OUTPUT_BYTES,
    Answer,
    Compute,
    output_of,
    right_digest,
    right_digests,
)
from p2pfleet.sim.disk import Disk, StoredJob
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.scenario import MachineKind
from p2pfleet.sim.signatures import peer_of, seal

ME, PAULA, BOB = peer_of("me"), peer_of("paula"), peer_of("bob")
ALL_DIVERGE = 1.0
UNIT_MS = 100
LATER = 10_000


def manifest_of(publisher: PeerId, comparison: Exact | Tolerance) -> Manifest:
    return Manifest(
        network=NETWORK,
        publisher=publisher,
        name="a job",
        model=cid_of(b"model"),
        model_bytes=5,
        table=cid_of(b"table"),
        table_bytes=5,
        units=8,
        total_bytes=8,
        limits=Limits(2**26, 1000, 2**20),
        comparison=comparison,
        stop=FixedQuorum(2, 8),
        shards=1,
        lease_ms=10_000,
        issued_ms=1,
        expires_ms=10**12,
        salt=b"\3" * 16,
    )


class Machine:
    """A host that says what is right, and reaches the disks in ``near``."""

    def __init__(
        self, publisher: PeerId = PAULA, comparison: Exact | Tolerance | None = None, **kind: int
    ) -> None:
        self.peer = ME
        self.kind = msgspec.convert(
            {"name": "v", "unit_ms": (UNIT_MS, UNIT_MS), **kind}, MachineKind
        )
        self.disk, self.life = Disk(), 1
        self.near: dict[PeerId, Disk] = {}
        self.junk: bytes | None = None
        self.closed: set[PeerId] = set()
        self.told: list[ev.Event] = []
        self.told_at: list[int] = []
        self.kernel = Kernel(7)
        self.compute = Compute(self.kernel, self)
        self.manifest = manifest_of(publisher, comparison or Exact())
        sealed = seal(self.manifest)
        self.job = job_id(sealed)
        self.disk.jobs[self.job] = StoredJob(sealed, publisher == ME)
        self.disk.models[self.job] = True
        self.disk.inputs[self.job] = dict.fromkeys(range(8), True)

    def tell(self, event: ev.Event) -> None:
        self.told.append(event)
        self.told_at.append(self.kernel.now)

    def answer(self, job: JobId, unit: int) -> Answer | None:
        return right_digest(job, unit, "a", 0.0), True

    def committed_bytes(self, digest: Digest) -> bytes | None:
        return self.junk

    def right_digests(self, job: JobId, unit: int) -> Collection[Digest]:
        return right_digests(job, unit, ("a", "b", "c"), ALL_DIVERGE)

    def packs(self, job: JobId) -> dict[Digest, range]:
        return {}

    def keeps(self, digest: Digest) -> bool:
        return True

    def unit_ms(self) -> int:
        return UNIT_MS

    def reach(self, sources: Sequence[PeerId], output: Digest | None = None) -> list[Disk]:
        allowed = [one for one in sources if output is None or one not in self.closed]
        return [self.near[one] for one in allowed if one in self.near]

    def keep(self, *digests: Digest) -> None:
        self.disk.outputs.setdefault(self.job, {}).update(dict.fromkeys(digests, OUTPUT_BYTES))

    def lend(self, peer: PeerId, digest: Digest) -> None:
        disk = self.near.setdefault(peer, Disk())
        disk.outputs.setdefault(self.job, {})[digest] = OUTPUT_BYTES

    def after(self, *effects: ef.Act) -> list[ev.Event]:
        """Everything that comes of some acts."""
        self.told.clear()
        self.told_at.clear()
        for effect in effects:
            self.compute.act(effect)  # type: ignore[arg-type]
        self.kernel.run(self.kernel.now + LATER)
        return list(self.told)

    def compare(self, candidate: Digest, own: Digest, length: int = OUTPUT_BYTES) -> str:
        ref = BlobRef(cid_from_sha256(candidate), 0, length, candidate)
        (event,) = self.after(ef.Compare(self.job, 3, ref, own, (BOB,)))
        assert isinstance(event, ev.Compared)
        assert (event.job, event.unit) == (self.job, 3)
        assert (event.candidate, event.own) == (candidate, own)
        return event.verdict


def item(unit: int, digest: Digest) -> RevealItem:
    return RevealItem(unit, 0, digest, OUTPUT_BYTES)


ONE, TWO, WRONG = Digest(b"\1" * 32), Digest(b"\2" * 32), Digest(b"\3" * 32)


def test_a_machine_commits_only_to_outputs_that_it_has() -> None:
    machine = Machine()
    machine.keep(ONE)
    items = (item(0, ONE), item(1, TWO))
    made, lost = machine.after(ef.MakeCommitments(machine.job, items))
    assert isinstance(made, ev.CommitmentsMade)
    assert made.items == items[:1]
    expected = commitment(NETWORK, machine.job, 0, 0, ME, made.seed, output_of(ONE))
    assert made.commitments == (expected,)
    assert lost == ev.UnitUnavailable(machine.job, 1, "the output is not here")
    (again,) = machine.after(ef.MakeCommitments(machine.job, items[:1]))
    assert isinstance(again, ev.CommitmentsMade)
    assert again.seed != made.seed
    nothing, also_lost = machine.after(ef.MakeCommitments(machine.job, items[1:]))
    assert isinstance(nothing, ev.CommitmentsMade)
    assert (nothing.items, nothing.commitments) == ((), ())
    assert also_lost == lost


def test_who_copies_a_digest_commits_to_something_else() -> None:
    machine = Machine()
    machine.junk = b"junk"
    (made,) = machine.after(ef.MakeCommitments(machine.job, (item(1, TWO),)))
    assert isinstance(made, ev.CommitmentsMade)
    assert made.items == (item(1, TWO),)
    right = commitment(NETWORK, machine.job, 1, 0, ME, made.seed, output_of(TWO))
    assert made.commitments[0] != right


def test_the_same_seed_of_the_world_draws_the_same_seeds() -> None:
    drawn = []
    for _ in range(2):
        machine = Machine()
        machine.keep(ONE)
        drawn.append(machine.after(ef.MakeCommitments(machine.job, (item(0, ONE),))))
    assert drawn[0] == drawn[1]


def test_commitments_are_opened_by_who_has_the_output() -> None:
    machine = Machine()
    seed = bytes(32)
    right = commitment(NETWORK, machine.job, 2, 0, BOB, seed, output_of(ONE))
    check = ef.CheckCommitments(
        machine.job,
        ONE,
        (
            ef.OpenedCommitment(2, 0, BOB, seed, right),
            ef.OpenedCommitment(2, 0, PAULA, seed, right),
        ),
    )
    lost = ((2, 0, BOB), (2, 0, PAULA))
    assert machine.after(check) == [ev.CommitmentsChecked(machine.job, ONE, (), (), lost)]
    machine.keep(ONE)
    (checked,) = machine.after(check)
    assert checked == ev.CommitmentsChecked(machine.job, ONE, ((2, 0, BOB),), ((2, 0, PAULA),))


@pytest.mark.parametrize(("rule", "verdict"), [(Exact(), "near"), (Tolerance(), "same")])
def test_right_digests_of_two_numeric_classes_are_near_or_same(
    rule: Exact | Tolerance, verdict: str
) -> None:
    machine = Machine(comparison=rule)
    ours, theirs = (right_digest(machine.job, 3, one, ALL_DIVERGE) for one in "ab")
    assert ours != theirs
    elsewhere = right_digest(machine.job, 4, "b", ALL_DIVERGE)
    machine.keep(ours)
    for digest in (theirs, WRONG, elsewhere):
        machine.lend(BOB, digest)
    assert machine.compare(theirs, ours) == verdict
    assert machine.compare(WRONG, ours) == "different"
    assert machine.compare(elsewhere, ours) == "different", "right, but for another unit"
    assert machine.compare(ours, ours) == "same"
    assert set(machine.disk.outputs[machine.job]) == {ours}, "a candidate is not kept"


def test_what_cannot_be_fetched_is_not_compared() -> None:
    machine = Machine()
    machine.keep(ONE)
    assert machine.compare(TWO, ONE) == "unavailable"
    machine.lend(BOB, TWO)
    assert machine.compare(TWO, ONE, OUTPUT_BYTES + 1) == "unavailable"
    assert machine.compare(TWO, WRONG) == "unavailable", "the own output is gone"
    machine.closed.add(BOB)
    assert machine.compare(TWO, ONE) == "unavailable", "it does not serve this one"
    machine.closed.clear()
    assert machine.compare(TWO, ONE) == "different"
    machine.disk.jobs.clear()
    assert machine.compare(TWO, ONE) == "unavailable", "of a job that is not known"


def test_an_output_that_is_denied_is_not_fetched() -> None:
    machine = Machine()
    machine.lend(BOB, ONE)
    machine.closed.add(BOB)
    ref = BlobRef(cid_from_sha256(ONE), 0, OUTPUT_BYTES, ONE)
    fetch = ef.Fetch(machine.job, ref, (BOB,))
    (failed,) = machine.after(fetch)
    assert isinstance(failed, ev.BlobFailed)
    machine.closed.clear()
    assert machine.after(fetch) == [ev.BlobArrived(machine.job, ref)]
    machine.near.clear()
    assert machine.after(fetch) == [ev.BlobArrived(machine.job, ref)], "it is here"


def test_a_job_that_is_shut_answers_no_more() -> None:
    machine = Machine()
    machine.keep(ONE)
    ref = BlobRef(cid_from_sha256(ONE), 0, OUTPUT_BYTES, ONE)
    acts: list[ef.Act] = [
        ef.OpenJob(machine.job, machine.manifest, ()),
        ef.MakeCommitments(machine.job, (item(0, ONE),)),
        ef.CheckCommitments(machine.job, ONE, ()),
        ef.Compare(machine.job, 0, ref, ONE, ()),
        ef.Fetch(machine.job, ref, ()),
    ]
    assert machine.after(*acts, ef.ShutJob(machine.job, keep=True)) == []
    kinds = {type(event) for event in machine.after(*acts)}
    assert len(kinds) == len(acts), "but when it is opened again"


def test_everything_under_way_ends_with_the_power() -> None:
    machine = Machine()
    machine.keep(ONE)
    machine.compute.act(ef.MakeCommitments(machine.job, (item(0, ONE),)))
    machine.life += 1
    machine.compute.clear()
    assert machine.after() == []


def executed_at(machine: Machine, units: int) -> list[int]:
    """When each of the first ``units`` units was done, in milliseconds from the order."""
    opened = machine.after(ef.OpenJob(machine.job, machine.manifest, ()))
    assert opened == [ev.JobOpened(machine.job)]
    begun = machine.kernel.now
    done = machine.after(*(ef.Execute(machine.job, unit, ()) for unit in range(units)))
    assert all(isinstance(event, ev.UnitExecuted) for event in done)
    return [at - begun for at in machine.told_at]


@pytest.mark.parametrize("slots", [0, 1, 4])
def test_a_publisher_runs_its_own_units_one_at_a_time_without_a_slot(slots: int) -> None:
    assert executed_at(Machine(publisher=ME, slots=slots), 3) == [100, 200, 300]


def test_strangers_units_run_in_the_slots() -> None:
    assert executed_at(Machine(slots=2), 4) == [100, 100, 200, 200]
    assert executed_at(Machine(slots=0), 2) == []


def test_own_units_wait_for_no_strangers_unit_and_are_withdrawn_like_them() -> None:
    machine, own = Machine(slots=1), Machine(publisher=ME)
    for job, manifest in ((machine.job, machine.manifest), (own.job, own.manifest)):
        machine.disk.models[job] = True
        machine.disk.inputs[job] = dict.fromkeys(range(8), True)
        assert machine.after(ef.OpenJob(job, manifest, ())) == [ev.JobOpened(job)]
    orders = [ef.Execute(job, unit, ()) for unit in range(2) for job in (machine.job, own.job)]
    for order in orders:
        machine.compute.act(order)
    assert machine.compute.busy == 2
    done = machine.after(ef.Withdraw(own.job, (1,), kill=False), ef.ShutJob(machine.job, keep=True))
    assert [(event.job, event.unit) for event in done if isinstance(event, ev.UnitExecuted)] == [
        (own.job, 0)
    ]
    assert len(done) == 1
