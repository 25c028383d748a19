"""A publisher: it announces its job, fetches what is certified, and ends the job."""

from __future__ import annotations

import pytest
from core_bench import (
    Bench,
    arrive,
    entries,
    moves,
    only,
    publishing,
    restarted,
    states,
    working,
)
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    OUTPUT_BYTES,
    PAULA,
    Poll,
    digest,
    peer,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.publisher import FETCHES_MAX, REACH_MS
from p2pfleet.core.model.ids import JobId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules.shards import units_of
from p2pfleet.core.wire import messages as ms


def test_a_published_job_is_saved_before_it_is_announced() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    start = len(bench.effects)
    bench.publish()
    kinds = [type(effect) for effect in bench.effects[start:]]
    assert kinds == [ef.SaveJob, ef.Gossip, ef.Send, ef.Send]


def test_a_certified_output_is_fetched_from_its_voters_and_settles_the_unit() -> None:
    bench, job, _ = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    assert sorted(fetch.sources) == sorted((ALICE, BOB))
    assert (fetch.ref.sha256, fetch.ref.length) == (GOOD, OUTPUT_BYTES)
    assert states(bench.tell(ev.BlobArrived(job, fetch.ref))) == [(0, "settled")]


def test_nothing_is_settled_before_the_commitments_behind_it_are_opened() -> None:
    bench, job, _ = publishing()
    bench.prompt = False
    told = arrive(bench, job)
    (check,) = only(ef.CheckCommitments, told)
    assert sorted(item.peer for item in check.items) == sorted((ALICE, BOB))
    assert states([*told, *bench.wait(60_000)]) == []
    assert states(bench.tell(bench.checked(check))) == [(0, "settled")]


def test_equal_outputs_are_fetched_once_and_settle_together() -> None:
    bench, job, poll = publishing()
    bench.hear(*poll.closed({who: {1: GOOD} for who in (ALICE, BOB)}))
    (fetch,) = only(ef.Fetch, bench.effects)
    assert states(bench.tell(ev.BlobArrived(job, fetch.ref))) == [(0, "settled"), (1, "settled")]


def test_an_output_that_nobody_delivers_is_tried_again_later_and_when_a_peer_comes() -> None:
    bench, job, _ = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    assert only(ef.Fetch, bench.wait(1_999)) == []
    assert len(only(ef.Fetch, bench.wait(1))) == 1
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    bench.tell(ev.PeerDisconnected(BOB))
    assert len(only(ef.Fetch, bench.meet(MALLORY))) == 0, "it has none"
    assert len(only(ef.Fetch, bench.meet(BOB))) == 1


def test_an_output_whose_voters_are_gone_waits_for_them_without_spinning() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(CAROL)
    job = bench.publish()
    bench.hear(*Poll(job).closed({ALICE: {0: GOOD}, BOB: {0: GOOD}}), source=CAROL)
    assert only(ef.Fetch, [*bench.effects, *bench.wait(120_000)]) == []
    assert len(only(ef.Fetch, bench.meet(BOB))) == 1


def test_a_voter_that_lies_about_the_length_cannot_keep_the_output_away() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE, MALLORY)
    job = bench.publish()
    poll = Poll(job)
    mine = poll[ALICE].commits({0: GOOD})
    lie = poll[MALLORY].commits({0: GOOD}, length=1)
    bench.hear(mine, lie, poll[ALICE].reveals(mine, [lie]), poll[MALLORY].reveals(lie, [mine]))
    lengths = set()
    for _ in range(2):
        fetch = only(ef.Fetch, bench.effects)[-1]
        lengths.add(fetch.ref.length)
        bench.tell(ev.BlobFailed(job, fetch.ref, "wrong bytes"))
        bench.wait(10_000)
    assert lengths == {1, OUTPUT_BYTES}


def test_a_retry_of_an_answer_that_is_no_longer_certified_is_dropped() -> None:
    bench, job, poll = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    bench.hear(*poll.closed({peer(name): {0: BAD} for name in "xy"}, attempt=1), source=CAROL)
    assert bench.state(0) == "contested"
    assert only(ef.Fetch, bench.wait(60_000)) == []


def test_a_publisher_that_fetches_as_much_as_it_may_waits_without_spinning() -> None:
    bench, job, poll = publishing(units=100)
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    answers = {unit: digest(f"answer {unit}") for unit in range(1, FETCHES_MAX + 1)}
    bench.hear(*poll.closed({ALICE: answers, BOB: answers}))
    assert len(only(ef.Fetch, bench.effects)) == 1 + FETCHES_MAX
    assert only(ef.Fetch, bench.wait(60_000)) == []
    other = only(ef.Fetch, bench.effects)[-1]
    assert [item.ref for item in only(ef.Fetch, bench.tell(ev.BlobArrived(job, other.ref)))] == [
        fetch.ref
    ]


def test_when_every_unit_is_settled_the_job_is_closed_durably_and_told() -> None:
    bench, job, _ = publishing(units=1)
    (fetch,) = only(ef.Fetch, bench.effects)
    told = bench.tell(ev.BlobArrived(job, fetch.ref))
    (close,), (shut,), (gossip,) = (
        only(kind, told) for kind in (ef.CloseJob, ef.ShutJob, ef.Gossip)
    )
    assert states(told) == [(0, "settled")]
    assert (close.state, close.closure, shut.keep) == ("completed", gossip.sealed, True)
    places = [told.index(each) for each in (only(ef.SaveUnits, told)[0], close, shut, gossip)]
    assert places == sorted(places)
    assert only(ef.Send, told)[-1].message == ms.Deliver(gossip.sealed)


def test_when_a_job_has_ended_its_moves_become_totals_and_a_trust_snapshot() -> None:
    bench, job, _ = publishing(votes=(ALICE, BOB, CAROL), units=1)
    told = arrive(bench, job)
    (saved,) = only(ef.SaveRecords, told)
    assert [(row.model_class, row.peer) for row in saved.rows] == [
        ("any", who) for who in sorted((ALICE, BOB, CAROL))
    ]
    assert [row.record.checks for row in saved.rows] == [1, 1, 1], "each was not needed"
    known = bench.node.snapshot_for("any")
    assert known is not None
    assert [each.peer for each in known.snapshot.records] == sorted((ALICE, BOB, CAROL))


def test_a_cancelled_job_is_closed_and_takes_no_more_frames() -> None:
    bench, job, poll = publishing(votes=())
    told = bench.tell(ev.CancelRequested(job))
    (close,) = only(ef.CloseJob, told)
    assert close.state == "cancelled"
    assert bench.tell(ev.CancelRequested(job)) == []
    assert bench.hear(*poll.closed({ALICE: {0: GOOD}})) == []


def test_an_expired_job_ends_by_itself_everywhere() -> None:
    hour = 3_600_000
    for bench in (publishing(votes=(), lasts_ms=hour)[0], working(lasts_ms=hour)[0]):
        (job,) = bench.node.jobs.values()
        told = bench.wait(hour + 10)
        (close,) = only(ef.CloseJob, told)
        assert (close.state, close.closure) == ("expired", None)
        assert bench.node.ended[job.id].state == "expired"
        assert entries(bench.wait(hour)) == []


# ---- restarts --------------------------------------------------------------------------------


def test_a_publisher_that_comes_back_goes_on_fetching_what_is_certified() -> None:
    bench, _, _ = publishing()
    again = restarted(bench)
    assert only(ef.SaveMoves, again.effects) == []
    again.meet(BOB)
    (fetch,) = only(ef.Fetch, again.effects)
    assert fetch.sources == (BOB,)


def test_a_publisher_that_comes_back_keeps_what_is_settled_and_every_move() -> None:
    bench, job, poll = publishing(votes=(ALICE, BOB, CAROL))
    arrive(bench, job)
    bench.hear(*poll.closed({who: {1: BAD} for who in (ALICE, BOB)}))
    again = restarted(bench)
    assert [again.state(0), again.state(1)] == ["settled", "certified"]
    assert again.node.standing.moves == bench.node.standing.moves
    assert again.node.standing.current == bench.node.standing.current
    assert moves(again.wait(60_000)) == []


def output(answer: bytes) -> BlobRef:
    return BlobRef(cid_from_sha256(answer), 0, OUTPUT_BYTES, answer)


@pytest.mark.parametrize("told_before", [True, False])
def test_moves_that_a_kill_cut_off_are_made_up_for_at_the_next_start(told_before: bool) -> None:
    bench, job, _ = publishing(votes=(ALICE, BOB, CAROL), stop=None)
    arrive(bench, job)
    lost = () if told_before else (ef.SaveMoves, ef.SaveUnits)
    again = restarted(bench, lost=lost)
    again.meet(ALICE)
    told = again.tell(ev.BlobArrived(JobId(job), output(GOOD)))
    assert [move.peer for move in moves(told)] == (
        [] if told_before else sorted((ALICE, BOB, CAROL))
    )
    assert again.state(0) == "settled"
    assert again.node.standing.moves == bench.node.standing.moves


def test_a_publisher_of_many_shards_looks_for_those_who_have_its_outputs() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(DAVE)
    job = bench.publish(units=2, shards=2)
    (unit,) = units_of(bench.node.jobs[job].manifest.salt, 2, 2, 0)
    frames = Poll(job).closed({who: {unit: GOOD} for who in (BOB, CAROL)})
    told = bench.hear(*frames, source=DAVE)
    assert bench.state(unit) == "certified"
    told += bench.wait(10_000)
    assert not only(ef.Fetch, told)
    wants = only(ef.Attend, told)[-1].wants
    assert {who for want in wants for who in want.whom} == {BOB, CAROL}
    told += bench.wait(REACH_MS - 15_000)
    assert not bench.publisher().lost_units(), "not met yet is not lost"
    bench.wait(30_000)
    assert bench.publisher().lost_units() == [unit]
    (fetch,) = only(ef.Fetch, bench.meet(CAROL))
    assert fetch.sources == (CAROL,)
    arrived = bench.tell(ev.BlobArrived(job, fetch.ref))
    assert states(arrived) == [(unit, "settled")]
    assert not bench.publisher().lost_units()
