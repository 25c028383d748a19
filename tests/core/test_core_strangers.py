"""What comes from others, wrong or late or too often: refused in one place, and leaving nothing."""

from __future__ import annotations

from core_bench import Bench, entries, only, publishing, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAY_MS,
    GOOD,
    MALLORY,
    NETWORK,
    PAULA,
    SAMPLE,
    WALL_MS,
    frame,
    manifest,
    peer,
    received,
    record,
    seal,
    unseal,
    vote,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Ignore, Reject
from p2pfleet.core.machines.node import JOBS_SUMMARY_MS
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.wire import messages as ms


def test_a_manifest_for_another_network_is_refused_and_leaves_nothing() -> None:
    bench = Bench()
    bench.meet(MALLORY)
    foreign = unseal(seal(manifest(network=NetworkId(bytes(32)))))
    told = bench.tell(ev.ManifestReceived(MALLORY, foreign))
    (report,) = told
    assert (report.peer, type(report.verdict)) == (MALLORY, Reject)
    assert bench.node.jobs == {}


def test_a_manifest_from_the_future_is_nobodys_fault() -> None:
    bench = Bench()
    future = unseal(seal(manifest(issued_ms=WALL_MS + DAY_MS)))
    (report,) = bench.tell(ev.ManifestReceived(BOB, future))
    assert isinstance(report.verdict, Ignore)


def test_a_frame_of_an_unknown_job_is_ignored_and_its_summary_brings_the_manifest() -> None:
    bench, knowing = Bench(), Bench(BOB)
    bench.meet(BOB)
    knowing.meet(ALICE, PAULA)
    knowing.tell(ev.ManifestReceived(PAULA, SAMPLE))
    assert bench.hear(frame(CAROL, ms.Claim((0,))), source=BOB) == []
    (answer,) = bench.tell(ev.FramesSummaryReceived(BOB, SAMPLE.job, ()))
    assert answer == ef.Send((BOB,), ms.JobsSummary((), ()))
    (deliver,) = knowing.tell(ev.JobsSummaryReceived(ALICE, (), ()))
    assert deliver == ef.Send((ALICE,), ms.Deliver(SAMPLE.sealed))


def test_frames_that_contradict_the_job_are_held_against_their_sender() -> None:
    bench, job = working(units=10)
    wrong: tuple[tuple[PeerId, ms.Entry], ...] = (
        (PAULA, vote(0, GOOD)),
        (PAULA, ms.Claim((0,))),
        (BOB, ms.Audit(0, GOOD)),
        (BOB, ms.OpenRingers(bytes(32), (ms.Ringer(0, GOOD),))),
        (PAULA, ms.OpenRingers(bytes(32), (ms.Ringer(0, GOOD),))),
        (BOB, vote(10, GOOD)),
        (BOB, ms.Claim((0, 10))),
        (BOB, ms.Endorse(0, 0, ms.VoteRef(SAMPLE.job, 0), GOOD)),  # type: ignore[arg-type]
    )
    for author, entry in wrong:
        (report,) = bench.hear(frame(author, entry, job=job.job), source=MALLORY)
        assert (report.peer, type(report.verdict)) == (MALLORY, Reject)
    foreign = frame(BOB, vote(0, GOOD), job=job.job, network=NetworkId(bytes(32)))
    (report,) = bench.hear(foreign, source=MALLORY)
    assert (report.peer, type(report.verdict)) == (MALLORY, Reject)
    assert bench.settlement().units.keys() <= set(bench.volunteer().held), "they leave nothing"


def test_a_closure_by_somebody_else_is_rejected_and_the_job_goes_on() -> None:
    bench, job = working()
    forged = seal(ms.Closure(NETWORK, job.job, MALLORY, True, WALL_MS))
    (report,) = bench.tell(received(MALLORY, forged))
    assert isinstance(report.verdict, Reject)
    assert job.job in bench.node.jobs


def test_a_closed_job_stays_closed_whoever_brings_it_again() -> None:
    bench, job = working()
    closure = seal(ms.Closure(NETWORK, job.job, PAULA, True, WALL_MS))
    told = bench.tell(received(BOB, closure))
    assert ef.CloseJob(job.job, "completed", closure) in told
    assert bench.tell(ev.ManifestReceived(BOB, job)) == []
    assert bench.tell(ev.JobsSummaryReceived(BOB, (job.job,), ())) == [
        ef.Send((BOB,), ms.Deliver(closure))
    ]
    bench.wait(1_000)
    assert bench.tell(ev.FramesSummaryReceived(BOB, job.job, ())) == [
        ef.Send((BOB,), ms.Deliver(closure))
    ]


def test_a_peer_that_asks_again_and_again_is_answered_now_and_then() -> None:
    bench, job = working()
    bench.hear(frame(CAROL, ms.Claim((0,)), job=job.job), source=BOB)
    questions: tuple[ev.Event, ...] = (
        ev.JobsSummaryReceived(BOB, (), ()),
        ev.FramesSummaryReceived(BOB, job.job, ()),
    )
    bench.wait(1_000)
    for question in questions:
        assert bench.tell(question) != []
        assert bench.tell(question) == []
        bench.wait(1_000)
        assert bench.tell(question) != []


def test_a_peer_record_of_another_network_is_rejected_and_the_peer_is_not_here() -> None:
    bench = Bench()
    foreign = record(BOB, network=NetworkId(bytes(32)))
    bench.tell(ev.PeerConnected(BOB))
    (report,) = bench.tell(ev.HelloReceived(BOB, foreign))
    assert (report.peer, type(report.verdict)) == (BOB, Reject)
    assert not bench.node.membership.here(BOB)


def test_one_publisher_cannot_fill_a_volunteers_table_of_jobs() -> None:
    bench = Bench()
    ignored = 0
    for number in range(200):
        flood = unseal(seal(manifest(publisher=MALLORY, name=f"job {number}")))
        told = bench.tell(ev.ManifestReceived(MALLORY, flood))
        ignored += [type(item.verdict) for item in only(ef.Report, told)] == [Ignore]
    assert ignored > 0
    assert len(bench.node.jobs) == 200 - ignored
    bench.tell(ev.ManifestReceived(PAULA, SAMPLE))
    assert SAMPLE.job in bench.node.jobs


def test_a_vote_for_an_output_larger_than_the_job_allows_is_rejected() -> None:
    bench, job = working()
    (report,) = bench.hear(frame(BOB, vote(0, GOOD, length=10_001), job=job.job))
    assert isinstance(report.verdict, Reject)


def test_who_has_not_said_hello_is_told_nothing() -> None:
    bench, job = working()
    bench.tell(ev.PeerConnected(MALLORY))
    assert bench.tell(ev.JobsSummaryReceived(MALLORY, (), ())) == []
    assert bench.tell(ev.FramesSummaryReceived(MALLORY, job.job, ())) == []
    assert bench.tell(ev.FramesSummaryReceived(CAROL, job.job, ())) == []


def test_an_answer_that_comes_after_its_job_ended_changes_nothing() -> None:
    bench, job = working()
    bench.tell(received(PAULA, seal(ms.Closure(NETWORK, job.job, PAULA, False, WALL_MS))))
    ref = only(ef.Fetch, publishing()[0].effects)[0].ref
    late: tuple[ev.Event, ...] = (
        ev.UnitExecuted(job.job, 0, GOOD, 1, 1),
        ev.UnitFaulted(job.job, 0, "crash", "late"),
        ev.UnitUnavailable(job.job, 0, "late"),
        ev.JobOpened(job.job),
        ev.JobUnavailable(job.job, "late", True),
        ev.BlobArrived(job.job, ref),
        ev.BlobFailed(job.job, ref, "late"),
        ev.CancelRequested(job.job),
        received(BOB, frame(BOB, vote(0, GOOD), job=job.job).sealed),
        ev.CommitmentsMade(job.job, bytes(32), (), ()),
        ev.CommitmentsChecked(job.job, GOOD, (), ((0, 0, BOB),)),
        ev.Compared(job.job, 0, GOOD, BAD, "same"),
        ev.RingersKnown(job.job, bytes(32), ()),
    )
    for event in late:
        assert bench.tell(event) == []
    assert entries(bench.wait(60_000)) == []


def test_summaries_go_to_two_others_in_turn_so_that_everybody_gets_one() -> None:
    bench, job = working()
    others = [peer(str(number)) for number in range(5)]
    bench.meet(*others)
    for author in others:
        bench.tell(received(BOB, frame(author, ms.Claim((1,)), job=job.job).sealed))
    told = [
        effect
        for effect in only(ef.Send, bench.wait(JOBS_SUMMARY_MS * 2))
        if isinstance(effect.message, ms.FramesSummary)
    ]
    assert {who for effect in told for who in effect.peers} == {*others, PAULA}
