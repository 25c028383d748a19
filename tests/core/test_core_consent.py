"""Whose work a node runs: its grade, its owner's trust, and what its network asks for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from cluster import Cluster
from core_bench import (
    Bench,
    commits,
    entries,
    execute,
    executed_units,
    only,
    reveals,
    working,
)
from core_samples import (
    ALICE,
    BOB,
    CAPABILITY,
    CAROL,
    GOOD,
    MALLORY,
    NETWORK,
    OUTPUT_BYTES,
    OWNER,
    PAULA,
    SAMPLE,
    Poll,
    peer,
    received,
    record,
    requirement,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ACCEPT, Ignore, Reject
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.job import SUMMARY_MS
from p2pfleet.core.machines.node import JOBS_SUMMARY_MS, Node
from p2pfleet.core.model.capability import Capability, Grade
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.rules.consent import judge_requirement, refused, version_at_least
from p2pfleet.core.wire import messages as ms
from p2pfleet.runtime.views import idle_reason

OWNED = Consent(CAPABILITY, owner=OWNER)


def graded(grade: Grade, trusted: tuple[PeerId, ...] = ()) -> Consent:
    return Consent(msgspec.structs.replace(CAPABILITY, grade=grade), trusted=trusted)


def delivered(effects: list[Any]) -> list[tuple[PeerId, ...]]:
    """To whom requirements were sent, once for each message."""
    return [
        effect.peers
        for effect in only(ef.Send, effects)
        if isinstance(effect.message, ms.Deliver) and effect.message.sealed.signer == OWNER
    ]


# ---- the rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grade", "have", "minimum", "trusted", "word"),
    [
        ("A", "1.32.0", None, False, ""),
        ("B", "1.32.0", None, False, ""),
        ("C", "1.32.0", None, False, "too weak"),
        ("C", "1.32.0", None, True, ""),
        ("none", "1.32.0", None, False, "does not hold"),
        ("none", "1.32.0", None, True, "does not hold"),
        ("A", "1.32.0", "1.32.0", False, ""),
        ("A", "1.32.0", "1.32.1", False, "onnxruntime 1.32.1 or newer, here it is 1.32.0"),
        ("A", "", "1.0", False, "here it is unknown"),
        ("A", "1.32.0", "99", True, ""),
        ("C", "1.32.0", "99", True, ""),
        ("C", "1.32.0", "99", False, "too weak"),
    ],
)
def test_work_is_refused_by_grade_and_version_unless_its_publisher_is_trusted(
    grade: Grade, have: str, minimum: str | None, trusted: bool, word: str
) -> None:
    reason = refused(Capability(grade, b"", have), minimum, trusted)
    assert word in reason
    assert bool(reason) == bool(word)


@pytest.mark.parametrize(
    ("version", "minimum", "fits"),
    [
        ("1.32.0", "1.32.0", True),
        ("1.32", "1.32.0", True),
        ("1.32.0", "1.32", True),
        ("1.32.0", "1", True),
        ("1.9.0", "1.10.0", False),
        ("1.10.0", "1.9.0", True),
        ("2.0", "1.99.99.99", True),
        ("1.32.0.1", "1.32.0", True),
        ("1.32.0", "1.32.0.1", False),
        ("1.32.0.0.9", "1.32.0", True),
        ("1.32.0rc1", "1.32.0", True),
        ("1.32.0.dev20250101", "1.32.0", True),
        ("1.32.0+cpu", "1.32.0", True),
        ("1.32rc1", "1.32.0", True),
        ("1.20250101", "1.999999", True),
        ("v1.32.0", "0", False),
        ("", "0", False),
        ("0", "0", True),
        ("١.32.0", "0", False),
    ],
)
def test_versions_are_compared_by_their_first_four_numbers(
    version: str, minimum: str, fits: bool
) -> None:
    assert version_at_least(version, minimum) == fits


def test_a_requirement_counts_if_it_is_the_owners_of_this_network_and_newer() -> None:
    asked = requirement("1.32.0", sequence=5).requirement
    for known in (None, 0, 4):
        assert judge_requirement(asked, NETWORK, OWNER, known) == ACCEPT
    for known in (5, 6, 2**53 - 1):
        assert isinstance(judge_requirement(asked, NETWORK, OWNER, known), Ignore)
    for verdict in (
        judge_requirement(asked, NetworkId(bytes(32)), OWNER, None),
        judge_requirement(asked, NETWORK, MALLORY, None),
        judge_requirement(asked, NETWORK, None, None),
        judge_requirement(asked, NETWORK, MALLORY, 9),
    ):
        assert isinstance(verdict, Reject)


# ---- grades ----------------------------------------------------------------------------------


def test_a_node_of_grade_c_leaves_strangers_work_to_others_and_says_why() -> None:
    bench = Bench(consent=graded("C"))
    bench.meet(PAULA, BOB)
    told = bench.tell(ev.ManifestReceived(PAULA, SAMPLE))
    told += bench.wait(60_000)
    assert only(ef.OpenJob, told) == []
    assert entries(told) == []
    assert "too weak" in bench.node.jobs[SAMPLE.job].reason
    assert "too weak" in idle_reason(bench.node)


def test_a_node_of_grade_c_runs_the_work_of_a_publisher_whom_its_owner_trusts() -> None:
    bench, job = working(consent=graded("C", trusted=(PAULA,)))
    assert bench.node.jobs[job.job].reason == ""
    assert executed_units(bench.effects) != []
    assert idle_reason(bench.node) == ""


def test_a_node_of_grade_none_runs_nothing_not_even_for_those_it_trusts() -> None:
    bench = Bench(consent=graded("none", trusted=(PAULA,)))
    bench.meet(PAULA)
    told = bench.tell(ev.ManifestReceived(PAULA, SAMPLE)) + bench.wait(60_000)
    assert only(ef.OpenJob, told) == []
    assert "grade none" in bench.node.jobs[SAMPLE.job].reason


def test_a_node_tells_its_capability_and_counts_only_those_who_run_strangers_work() -> None:
    bench = Bench(consent=graded("B"))
    bodies = [effect.body for effect in only(ef.Sign, bench.effects)]
    assert [body.capability for body in bodies] == [bench.node.consent.capability]
    for who, grade in ((BOB, "A"), (CAROL, "B"), (MALLORY, "C"), (PAULA, "none")):
        told = record(who, capability=Capability(grade, b"", "1.32.0"))  # type: ignore[arg-type]
        bench.tell(ev.PeerConnected(who))
        bench.tell(ev.HelloReceived(who, told))
    assert bench.node.membership.volunteers() == tuple(sorted((BOB, CAROL)))


# ---- requirements ----------------------------------------------------------------------------


def test_a_requirement_above_the_own_version_ends_the_work_and_a_lower_one_brings_it_back() -> None:
    bench, job = working(consent=OWNED)
    held = tuple(sorted(bench.volunteer().held))
    assert held
    told = bench.tell(received(BOB, requirement("99.0", 1).sealed))
    shut = told.index(ef.ShutJob(job.job, keep=True))
    save = next(n for n, effect in enumerate(told) if isinstance(effect, ef.SaveRequirement))
    assert save < shut
    assert ms.Release(held) in entries(told)
    assert "onnxruntime 99.0" in bench.node.jobs[job.job].reason
    assert "onnxruntime 99.0" in idle_reason(bench.node)
    late = bench.tell(ev.UnitExecuted(job.job, held[0], GOOD, OUTPUT_BYTES, 100))
    late += bench.tell(ev.JobOpened(job.job)) + bench.wait(60_000)
    assert entries(late) == []
    assert executed_units(late) == []
    told = bench.tell(received(BOB, requirement("1.32", 2).sealed))
    assert [effect.job for effect in only(ef.OpenJob, told)] == [job.job]
    assert bench.node.jobs[job.job].reason == ""
    told = bench.tell(ev.JobOpened(job.job))
    assert set(executed_units(told)) & set(held)
    assert ms.Claim(tuple(sorted(executed_units(told)))) in entries(bench.wait(60))


def test_what_was_committed_to_is_said_before_a_job_is_left_and_not_run_again_afterwards() -> None:
    bench, job = working(consent=OWNED, units=2)
    execute(bench, job, 0)
    told = bench.tell(received(BOB, requirement("99.0", 1).sealed))
    assert commits(told) == [(0, 0)]
    assert reveals([*told, *bench.wait(60_000)]) == [], "nobody could join it any more"
    bench.tell(received(BOB, requirement("1.0", 2).sealed))
    told = bench.tell(ev.JobOpened(job.job))
    assert executed_units(told) == [1]
    assert reveals([*told, *bench.wait(60)]) == [(0, 0, GOOD)]


def test_what_can_be_revealed_is_revealed_before_a_job_is_left() -> None:
    bench, job = working(consent=OWNED, units=2)
    execute(bench, job, 0)
    bench.wait(60)
    told = bench.tell(received(BOB, requirement("99.0", 1).sealed))
    assert reveals(told) == [(0, 0, GOOD)]
    bench.tell(received(BOB, requirement("1.0", 2).sealed))
    told = [*bench.tell(ev.JobOpened(job.job)), *bench.wait(60_000)]
    assert executed_units(told) == [1]
    assert commits(told) == []
    assert reveals(told) == []


def test_an_answer_whose_commitment_was_being_made_when_a_job_was_left_waits_for_its_return() -> (
    None
):
    bench, job = working(consent=OWNED, units=2)
    bench.prompt = False
    (make,) = only(ef.MakeCommitments, execute(bench, job, 0))
    bench.tell(received(BOB, requirement("99.0", 1).sealed))
    assert entries(bench.tell(bench.committed(make)) + bench.wait(60_000)) == []
    bench.prompt = True
    bench.tell(received(BOB, requirement("1.0", 2).sealed))
    told = [*bench.tell(ev.JobOpened(job.job)), *bench.wait(60)]
    assert (executed_units(told), commits(told)) == ([1], [(0, 0)])


def test_a_job_that_comes_while_the_version_is_too_low_is_taken_on_later() -> None:
    bench = Bench(consent=OWNED)
    bench.meet(PAULA)
    bench.tell(received(PAULA, requirement("99.0", 1).sealed))
    told = bench.tell(ev.ManifestReceived(PAULA, SAMPLE)) + bench.wait(60_000)
    assert only(ef.OpenJob, told) == []
    told = bench.tell(received(PAULA, requirement("1.0", 2).sealed))
    assert [effect.job for effect in only(ef.OpenJob, told)] == [SAMPLE.job]


def test_a_requirement_does_not_concern_those_whom_the_owner_trusts() -> None:
    consent = msgspec.structs.replace(OWNED, trusted=(PAULA,))
    bench, _ = working(consent=consent)
    held = dict(bench.volunteer().held)
    told = bench.tell(received(BOB, requirement("99.0").sealed))
    assert only(ef.ShutJob, told) == []
    assert bench.volunteer().held == held


def test_a_requirement_does_not_concern_a_publishers_own_job() -> None:
    bench = Bench(PAULA, slots=0, consent=OWNED)
    bench.meet(ALICE, BOB)
    job = bench.publish(units=1)
    assert only(ef.ShutJob, bench.tell(received(ALICE, requirement("99.0").sealed))) == []
    told = bench.hear(*Poll(job).closed({who: {0: GOOD} for who in (ALICE, BOB)}))
    assert len(only(ef.Fetch, told)) == 1


def test_a_requirement_is_saved_and_handed_on_once_but_not_to_where_it_came_from() -> None:
    bench = Bench(consent=OWNED)
    bench.meet(BOB, CAROL, PAULA)
    bench.tell(ev.PeerConnected(MALLORY))  # said no hello
    asked = requirement("1.0", 7).sealed
    told = bench.tell(received(BOB, asked))
    assert told == [
        ef.SaveRequirement(asked),
        ef.Report(BOB, ACCEPT),
        ef.Send(tuple(sorted((CAROL, PAULA))), ms.Deliver(asked)),
    ]
    for sequence in (7, 6):
        (report,) = bench.tell(received(CAROL, requirement("2.0", sequence).sealed))
        assert (report.peer, type(report.verdict)) == (CAROL, Ignore)
    assert bench.node.consent.requirement == requirement("1.0", 7)


@pytest.mark.parametrize("owner", [OWNER, None])
def test_a_requirement_of_somebody_else_is_held_against_who_brings_it(owner: PeerId | None) -> None:
    bench = Bench(consent=Consent(CAPABILITY, owner=owner))
    bench.meet(BOB)
    elsewhere = NetworkId(bytes(32))
    for wrong in (
        requirement("99.0", owner=MALLORY),
        requirement("99.0", owner=OWNER, network=elsewhere),
    ):
        (report,) = bench.tell(received(BOB, wrong.sealed))
        assert (report.peer, type(report.verdict)) == (BOB, Reject)
    assert bench.node.consent.requirement is None
    assert idle_reason(bench.node) == "there is no job on the network"


def test_a_newcomer_is_told_after_its_hello_and_before_it_hears_of_jobs() -> None:
    bench = Bench(consent=OWNED)
    bench.tell(received(bench.node.me, requirement("1.0").sealed))
    assert delivered(bench.tell(ev.PeerConnected(BOB))) == []
    told = bench.tell(ev.HelloReceived(BOB, record(BOB)))
    kinds = [type(effect.message) for effect in only(ef.Send, told)]
    assert kinds == [ms.Deliver, ms.JobsSummary]
    assert delivered(told) == [(BOB,)]
    assert delivered(bench.tell(ev.HelloReceived(BOB, record(BOB)))) == [], "only the first time"


def test_a_requirement_that_was_lost_on_the_way_is_told_again_in_turn() -> None:
    bench = Bench(consent=OWNED)
    bench.meet(BOB, CAROL)
    bench.tell(received(bench.node.me, requirement("1.0").sealed))
    told = bench.wait(2 * JOBS_SUMMARY_MS)
    assert sorted(delivered(told)) == sorted([(BOB,), (CAROL,)])


def test_a_requirement_from_the_store_applies_before_the_first_job() -> None:
    asked = requirement("99.0", 3)
    restored: list[Any] = [
        ev.RequirementReceived(ALICE, asked),
        ev.RequirementReceived(ALICE, requirement("1.0", 2)),  # the network file is older
        ev.JobRestored(SAMPLE, False, "active", None, (), ()),
    ]
    bench = Bench(restore=restored, consent=OWNED)
    bench.meet(PAULA)
    assert bench.node.consent.requirement == asked
    assert only(ef.OpenJob, [*bench.effects, *bench.wait(60_000)]) == []
    assert only(ef.Report, bench.effects) == []


def test_a_stopping_node_takes_nothing_on_for_a_lower_requirement() -> None:
    bench, _ = working(consent=OWNED)
    bench.tell(received(BOB, requirement("99.0", 1).sealed))
    bench.tell(ev.StopRequested())
    told = bench.tell(received(BOB, requirement("1.0", 2).sealed)) + bench.wait(SUMMARY_MS)
    assert only(ef.OpenJob, told) == []


def test_a_node_with_a_requirement_can_be_written_down_and_read_back() -> None:
    bench, _ = working(consent=OWNED)
    bench.tell(received(BOB, requirement("99.0").sealed))
    data = msgspec.msgpack.encode(bench.node)
    assert msgspec.msgpack.decode(data, type=Node) == bench.node


# ---- many nodes ------------------------------------------------------------------------------


def requirements(cluster: Cluster) -> list[ms.Requirement | None]:
    found = [machine.node.consent.requirement for machine in cluster.machines.values()]  # type: ignore[union-attr]
    return [None if one is None else one.requirement for one in found]


@pytest.mark.parametrize("seed", range(4))
def test_a_requirement_reaches_everybody_over_lossy_wires_and_stops_and_resumes_a_job(
    seed: int,
) -> None:
    cluster = Cluster(seed, loss=0.3, doubled=0.2, snapshots=seed == 0)
    for name in ("alice", "bob", "carol", "dave"):
        cluster.add(name)
    cluster.add("paula", slots=0)
    # Alice knows Bob, Bob knows Carol: it has to be handed on.
    chain = ["alice", "bob", "carol", "dave"]
    cluster.partition(
        lambda one, other: (
            {one, other} <= {*chain} and abs(chain.index(one) - chain.index(other)) != 1
        )
    )
    cluster.kill("dave")
    job = cluster.publish("paula", units=40)
    cluster.run(lambda: len(cluster["bob"].executed) > 2)
    asked = requirement("99.0", 1)
    cluster.happen(cluster["alice"], ev.RequirementReceived(peer("alice"), asked))
    cluster.run(
        lambda: all(
            machine.disk.requirement == asked.sealed
            for machine in cluster.machines.values()
            if machine.node is not None
        ),
        limit_ms=120_000,
    )
    cluster.wait(1_000)
    done = {name: len(cluster[name].executed) for name in chain}
    cluster.kill("carol")
    cluster.start("carol")  # what it heard is on its disk
    cluster.start("dave")  # and Dave hears of it when he comes
    cluster.run(lambda: requirements(cluster) == [asked.requirement] * 5, limit_ms=120_000)
    cluster.wait(60_000)
    assert {name: len(cluster[name].executed) for name in chain[:3]} == {
        name: done[name] for name in chain[:3]
    }
    lower = requirement("1.0", 2)
    cluster.happen(cluster["dave"], ev.RequirementReceived(peer("dave"), lower))
    cluster.run(lambda: cluster.closed(job))
    assert cluster["paula"].node is not None
    assert cluster["paula"].node.ended[job].counts == {"settled": 40}


def test_a_job_is_left_to_those_with_a_new_enough_version() -> None:
    cluster = Cluster(1)
    for name in ("alice", "bob", "carol"):
        cluster.add(name)
    old = cluster["carol"]
    old.capability = Capability("A", b"", "1.20.0")
    cluster.kill("carol")
    cluster.start("carol")
    cluster.add("paula", slots=0)
    asked = requirement("1.30")
    cluster.happen(cluster["alice"], ev.RequirementReceived(peer("alice"), asked))
    cluster.wait(5_000)
    job = cluster.publish("paula", units=10)
    cluster.run(lambda: cluster.closed(job))
    assert old.executed == []
    assert len(cluster["alice"].executed) + len(cluster["bob"].executed) == 20
