"""One node: events in, effects out."""

from __future__ import annotations

from typing import Any

import msgspec
from core_bench import Bench, entries, execute, executed_units, only, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAY_MS,
    GOOD,
    MALLORY,
    NETWORK,
    OUTPUT_BYTES,
    PAULA,
    SAMPLE,
    WALL_MS,
    digest,
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
from p2pfleet.core.machines.node import JOBS_SUMMARY_MS, Node
from p2pfleet.core.machines.publisher import FETCHES_MAX
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.volunteer import OPEN_RETRY_MAX_MS, Held, Volunteer
from p2pfleet.core.model.ids import Digest, JobId, Millis, NetworkId, PeerId
from p2pfleet.core.wire import messages as ms

# ---- the volunteer ---------------------------------------------------------------------------


def test_a_volunteer_saves_a_job_then_opens_it_from_its_publisher_first() -> None:
    bench = Bench()
    bench.meet(BOB, PAULA)
    told = bench.tell(ev.ManifestReceived(BOB, SAMPLE))
    assert [type(effect) for effect in told] == [ef.SaveJob, ef.Report, ef.OpenJob]
    assert told[-1].sources == (PAULA, BOB)


def test_a_volunteer_claims_what_it_executes_in_its_own_order() -> None:
    bench, job = working()
    started = executed_units(bench.effects)
    assert started == bench.volunteer().order[: len(started)]
    assert len(started) == 2
    told = bench.wait(60)
    assert entries(told) == [ms.Claim(tuple(sorted(started)))]
    assert job.job in bench.node.jobs


def test_a_volunteer_that_knows_its_speed_claims_two_seconds_of_work() -> None:
    bench, job = working(units=1000)
    first = executed_units(bench.effects)
    told = [*execute(bench, job, first[0]), *execute(bench, job, first[1])]
    assert bench.volunteer().mean_ms == 100
    assert len(executed_units(told)) == 19
    assert len(bench.volunteer().held) == 19


def test_a_volunteer_votes_after_the_frame_is_saved_and_tells_who_takes_part() -> None:
    bench, job = working()
    bench.tell(received(BOB, frame(BOB, ms.Claim((1,)), job=job.job).sealed))
    unit = executed_units(bench.effects)[0]
    execute(bench, job, unit)
    told = bench.wait(60)
    assert vote(unit, GOOD) in entries(told)
    save = next(n for n, effect in enumerate(told) if isinstance(effect, ef.SaveFrame))
    send = next(
        number
        for number, effect in enumerate(told)
        if isinstance(effect, ef.Send) and effect.message == ms.Deliver(told[save].frame)
    )
    assert save < send
    assert told[send].peers == tuple(sorted((PAULA, BOB)))


def test_a_volunteer_runs_no_unit_twice_however_few_there_are() -> None:
    bench, job = working(units=1)
    told = [*execute(bench, job, 0), *bench.wait(3_000)]
    assert executed_units(bench.effects) == [0]
    assert [entry for entry in entries(told) if isinstance(entry, ms.Reveal)] == [vote(0, GOOD)]


def test_a_volunteer_releases_what_others_have_decided() -> None:
    bench, job = working()
    unit = executed_units(bench.effects)[0]
    bench.now = Millis(bench.now + 2_000)
    for author in (BOB, CAROL):
        told = bench.tell(received(BOB, frame(author, vote(unit, GOOD), job=job.job).sealed))
    assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (unit,), kill=False)]
    assert ms.Release((unit,)) in entries(bench.wait(60))


def test_a_volunteer_stops_a_young_run_of_slow_units_but_lets_an_old_one_finish() -> None:
    for age_ms, kill in ((100, True), (5_000, False)):
        bench, job = working()
        bench.volunteer().mean_ms = 60_000
        unit = executed_units(bench.effects)[0]
        bench.now = Millis(bench.now + age_ms)
        for author in (BOB, CAROL):
            told = bench.tell(received(BOB, frame(author, vote(unit, GOOD), job=job.job).sealed))
        assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (unit,), kill=kill)]


def test_of_too_many_claims_the_volunteer_with_the_highest_hash_gives_way() -> None:
    bench, job = working(units=1)
    others = [peer(str(number)) for number in range(20)]
    for author in others:
        bench.tell(received(BOB, frame(author, ms.Claim((0,)), job=job.job).sealed))
    assert bench.volunteer().held == {}
    assert ms.Release((0,)) in entries(bench.wait(60))


def test_a_long_unit_is_renewed_before_its_lease_ends() -> None:
    bench, job = working(units=1, lease_ms=9_000)
    told = bench.wait(60_000)
    claims = [entry for entry in entries(told) if isinstance(entry, ms.Claim)]
    assert 9 <= len(claims) <= 11
    assert only(ef.Withdraw, told) == []
    assert executed_units(bench.effects) == [0]
    unit = bench.node.jobs[job.job].settlement.units[0]
    assert unit.claims[ALICE] > bench.now


def test_a_unit_far_longer_than_its_lease_still_ends_in_a_vote() -> None:
    bench, job = working(units=1, lease_ms=1_000)
    bench.wait(1_000_000)
    execute(bench, job, 0, wall_ms=1_000_000)
    bench.wait(60)
    assert ALICE in bench.node.jobs[job.job].settlement.units[0].votes


def test_a_pause_freezes_starts_nothing_and_lets_the_claims_lapse() -> None:
    bench, job = working(lease_ms=9_000)
    held = sorted(bench.volunteer().held)
    told = bench.tell(ev.PauseRequested(None))
    assert told[0] == ef.SetPaused(True)
    bench.wait(8_000)
    assert sorted(bench.volunteer().held) == held
    told = bench.wait(2_000)
    assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, tuple(held), kill=True)]
    told = bench.wait(60_000)
    assert entries(told) == []
    assert executed_units(told) == []


def test_a_resumed_volunteer_goes_on_with_what_it_holds_and_takes_more_when_it_lapsed() -> None:
    bench, _ = working(lease_ms=9_000)
    held = sorted(bench.volunteer().held)
    bench.tell(ev.PauseRequested(None))
    bench.wait(2_000)
    told = bench.tell(ev.ResumeRequested())
    assert told[0] == ef.SetPaused(False)
    assert executed_units(told) == []
    assert sorted(bench.volunteer().held) == held
    bench.tell(ev.PauseRequested(None))
    bench.wait(20_000)
    told = bench.tell(ev.ResumeRequested())
    assert len(executed_units(told)) == 2


def test_a_pause_for_a_time_ends_by_itself() -> None:
    bench, _ = working()
    bench.tell(ev.PauseRequested(2_000))
    assert ef.SetPaused(False) not in bench.wait(1_999)
    assert ef.SetPaused(False) in bench.wait(1)


def test_a_stopping_volunteer_gives_every_claim_back_and_takes_no_more() -> None:
    bench, _ = working()
    held = tuple(sorted(bench.volunteer().held))
    told = bench.tell(ev.StopRequested())
    assert ms.Release(held) in entries(told)
    assert executed_units([*told, *bench.wait(30_000)]) == []


def test_a_machine_that_is_too_slow_releases_but_a_unit_that_cannot_run_fails() -> None:
    bench, job = working(units=2)
    first, second = executed_units(bench.effects)
    bench.tell(ev.UnitFaulted(job.job, first, "wall", "too slow"))
    bench.tell(ev.UnitFaulted(job.job, second, "memory", "x" * 500))
    said = entries(bench.wait(60))
    assert ms.Release((first,)) in said
    (failure,) = [entry for entry in said if isinstance(entry, ms.Failure)]
    assert (failure.unit, len(failure.reason)) == (second, 200)


def test_a_unit_that_crashes_again_and_again_fails() -> None:
    bench, job = working(units=1)
    for _ in range(3):
        bench.tell(ev.UnitFaulted(job.job, 0, "crash", "signal 11"))
        assert executed_units(bench.wait(1_900)) == [], "others first: they may do better"
        bench.wait(200)
    failures = [entry for entry in entries(bench.effects) if isinstance(entry, ms.Failure)]
    assert [failure.unit for failure in failures] == [0]
    assert len(executed_units(bench.effects)) == 3


def test_an_input_that_cannot_be_had_is_left_to_others_for_a_while() -> None:
    bench, job = working(units=2)
    first, second = executed_units(bench.effects)
    told = bench.tell(ev.UnitUnavailable(job.job, first, "nobody has it"))
    told += bench.tell(ev.UnitUnavailable(job.job, second, "nobody has it"))
    told += bench.wait(1_900)
    assert ms.Release((first,)) in entries(told)
    assert executed_units(told) == []
    assert executed_units(bench.wait(200)) != []


def test_an_unavailable_job_is_tried_again_more_and_more_rarely_but_never_without_end() -> None:
    bench = Bench()
    bench.meet(PAULA)
    bench.tell(ev.ManifestReceived(PAULA, SAMPLE))
    waits = []
    for _ in range(8):
        bench.tell(ev.JobUnavailable(SAMPLE.job, "nobody has it", final=False))
        start = bench.now
        while not only(ef.OpenJob, bench.wait(100)):
            assert bench.now - start <= OPEN_RETRY_MAX_MS
        waits.append(bench.now - start)
    assert waits == sorted(waits)
    assert waits[-1] == OPEN_RETRY_MAX_MS


def test_an_unavailable_job_does_not_spin_while_paused_or_alone() -> None:
    for event in (ev.PauseRequested(None), ev.PeerDisconnected(PAULA)):
        bench = Bench()
        bench.meet(PAULA)
        bench.tell(ev.ManifestReceived(PAULA, SAMPLE))
        bench.tell(ev.JobUnavailable(SAMPLE.job, "nobody has it", final=False))
        bench.tell(event)
        assert only(ef.OpenJob, bench.wait(60_000)) == []
    assert only(ef.OpenJob, bench.meet(PAULA)) != []


def test_a_job_that_is_wrong_for_good_is_refused() -> None:
    bench = Bench()
    bench.meet(PAULA)
    bench.tell(ev.ManifestReceived(PAULA, SAMPLE))
    told = bench.tell(ev.JobUnavailable(SAMPLE.job, "the table is no table", final=True))
    assert ef.ShutJob(SAMPLE.job, keep=False) in told
    assert bench.node.ended[SAMPLE.job].state == "refused"
    assert bench.tell(ev.ManifestReceived(PAULA, SAMPLE)) == []


def test_a_volunteer_with_more_than_half_its_lease_left_does_not_spin() -> None:
    bench, job = working(units=100, slots=4)
    unit = executed_units(bench.effects)[0]
    bench.tell(ev.UnitUnavailable(job.job, unit, "nobody has it"))
    assert len(bench.volunteer().held) > 4
    bench.wait(5_000)
    assert bench.volunteer().rescan_at is None


def test_a_restarted_volunteer_takes_its_claims_up_again_and_votes_for_nothing_twice() -> None:
    bench, job = working(units=3)
    bench.wait(60)
    first, second = executed_units(bench.effects)
    execute(bench, job, first)
    bench.wait(60)
    saved = [effect.frame for effect in only(ef.SaveFrame, bench.effects)]
    restored: list[Any] = [ev.JobRestored(job, False, "active", None, (), ())]
    restored += [ev.FrameRestored(unseal(sealed)) for sealed in saved]
    again = Bench(restore=restored)
    again.meet(PAULA)
    told = again.tell(ev.JobOpened(job.job))
    assert sorted(executed_units(told)) == sorted({0, 1, 2} - {first})
    assert second in executed_units(told)


# ---- the publisher ---------------------------------------------------------------------------


def publishing(votes: tuple[PeerId, ...] = (ALICE, BOB), **how: Any) -> tuple[Bench, JobId]:
    """A publisher whose unit 0 has these votes."""
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE, BOB, CAROL)
    job = bench.publish(**how)
    for author in votes:
        bench.tell(received(author, frame(author, vote(0, GOOD), job=job).sealed))
    return bench, job


def test_a_published_job_is_saved_before_it_is_announced() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE)
    start = len(bench.effects)
    bench.publish()
    kinds = [type(effect) for effect in bench.effects[start:]]
    assert kinds == [ef.SaveJob, ef.Gossip, ef.Send, ef.Send]


def test_a_certified_output_is_fetched_from_its_voters_and_settles_the_unit() -> None:
    bench, job = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    assert sorted(fetch.sources) == sorted((ALICE, BOB))
    assert (fetch.ref.sha256, fetch.ref.length) == (GOOD, OUTPUT_BYTES)
    told = bench.tell(ev.BlobArrived(job, fetch.ref))
    (rows,) = [effect.rows for effect in only(ef.SaveUnits, told)]
    assert [(row.unit, row.state) for row in rows] == [(0, "settled")]


def test_equal_outputs_are_fetched_once_and_settle_together() -> None:
    bench, job = publishing()
    for author in (ALICE, BOB):
        answer = frame(author, vote(1, GOOD), job=job, sequence=1)
        bench.tell(received(author, answer.sealed))
    (fetch,) = only(ef.Fetch, bench.effects)
    (saved,) = only(ef.SaveUnits, bench.tell(ev.BlobArrived(job, fetch.ref)))
    assert [row.unit for row in saved.rows] == [0, 1]


def test_an_output_that_nobody_delivers_is_tried_again_later_and_when_a_peer_comes() -> None:
    bench, job = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    assert only(ef.Fetch, bench.wait(1_999)) == []
    assert len(only(ef.Fetch, bench.wait(1))) == 1
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    assert len(only(ef.Fetch, bench.meet(MALLORY))) == 1


def test_an_output_whose_voters_are_gone_waits_for_them_without_spinning() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(CAROL)
    job = bench.publish()
    for author in (ALICE, BOB):
        bench.tell(received(CAROL, frame(author, vote(0, GOOD), job=job).sealed))
    assert only(ef.Fetch, [*bench.effects, *bench.wait(120_000)]) == []
    assert len(only(ef.Fetch, bench.meet(BOB))) == 1


def test_a_voter_that_lies_about_the_length_cannot_keep_the_output_away() -> None:
    bench = Bench(PAULA, slots=0)
    bench.meet(ALICE, MALLORY)
    job = bench.publish()
    for author, length in ((ALICE, OUTPUT_BYTES), (MALLORY, 1)):
        bench.tell(received(author, frame(author, vote(0, GOOD, length), job=job).sealed))
    lengths = set()
    for _ in range(2):
        fetch = only(ef.Fetch, bench.effects)[-1]
        lengths.add(fetch.ref.length)
        bench.tell(ev.BlobFailed(job, fetch.ref, "wrong bytes"))
        bench.wait(10_000)
    assert lengths == {1, OUTPUT_BYTES}


def test_a_retry_of_an_answer_that_is_no_longer_certified_is_dropped() -> None:
    bench, job = publishing()
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    for name in ("x", "y"):
        bench.tell(received(CAROL, frame(peer(name), vote(0, BAD), job=job).sealed))
    assert bench.node.jobs[job].settlement.units[0].state == "contested"
    assert only(ef.Fetch, bench.wait(60_000)) == []


def test_a_publisher_that_fetches_as_much_as_it_may_waits_without_spinning() -> None:
    bench, job = publishing(units=100)
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobFailed(job, fetch.ref, "nobody has it"))
    for author in (ALICE, BOB):
        votes = [vote(unit, digest(f"answer {unit}")) for unit in range(1, FETCHES_MAX + 1)]
        bench.tell(received(author, frame(author, *votes, job=job, sequence=1).sealed))
    assert len(only(ef.Fetch, bench.effects)) == 1 + FETCHES_MAX
    assert only(ef.Fetch, bench.wait(60_000)) == []
    other = only(ef.Fetch, bench.effects)[-1]
    assert [item.ref for item in only(ef.Fetch, bench.tell(ev.BlobArrived(job, other.ref)))] == [
        fetch.ref
    ]


def test_when_every_unit_is_settled_the_job_is_closed_durably_and_told() -> None:
    bench, job = publishing(units=1)
    (fetch,) = only(ef.Fetch, bench.effects)
    told = bench.tell(ev.BlobArrived(job, fetch.ref))
    kinds = [type(effect) for effect in told]
    assert kinds == [ef.SaveUnits, ef.Sign, ef.CloseJob, ef.ShutJob, ef.Gossip, ef.Send]
    assert told[2].state == "completed"
    assert told[3].keep


def test_a_cancelled_job_is_closed_and_takes_no_more_frames() -> None:
    bench, job = publishing(votes=())
    told = bench.tell(ev.CancelRequested(job))
    (close,) = only(ef.CloseJob, told)
    assert close.state == "cancelled"
    assert bench.tell(ev.CancelRequested(job)) == []
    assert bench.tell(received(ALICE, frame(ALICE, vote(0, GOOD), job=job).sealed)) == []


def test_an_expired_job_ends_by_itself_everywhere() -> None:
    hour = 3_600_000
    for bench in (publishing(votes=(), lasts_ms=hour)[0], working(lasts_ms=hour)[0]):
        (job,) = bench.node.jobs.values()
        told = bench.wait(hour + 10)
        (close,) = only(ef.CloseJob, told)
        assert (close.state, close.closure) == ("expired", None)
        assert bench.node.ended[job.id].state == "expired"
        assert entries(bench.wait(hour)) == []


def test_a_publisher_that_comes_back_goes_on_fetching_what_is_certified() -> None:
    bench, job = publishing()
    rows = tuple(row for effect in only(ef.SaveUnits, bench.effects) for row in effect.rows)
    judged = tuple(row for effect in only(ef.SaveJudgements, bench.effects) for row in effect.rows)
    own = bench.node.jobs[job].sealed
    restored: list[Any] = [
        ev.RecordsRestored(((ALICE, 1, 0), (BOB, 1, 0))),
        ev.JobRestored(own, True, "active", None, rows, judged),
    ]
    for effect in only(ef.SaveFrame, bench.effects):
        restored.append(ev.FrameRestored(unseal(effect.frame)))
    again = Bench(PAULA, slots=0, restore=restored)
    assert only(ef.SaveJudgements, again.effects) == []
    again.meet(BOB)
    (fetch,) = only(ef.Fetch, again.effects)
    assert fetch.sources == (BOB,)


# ---- strangers -------------------------------------------------------------------------------


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
    assert bench.tell(received(BOB, frame(CAROL, vote(0, GOOD)).sealed)) == []
    (answer,) = bench.tell(ev.FramesSummaryReceived(BOB, SAMPLE.job, ()))
    assert answer == ef.Send((BOB,), ms.JobsSummary((), ()))
    (deliver,) = knowing.tell(ev.JobsSummaryReceived(ALICE, (), ()))
    assert deliver == ef.Send((ALICE,), ms.Deliver(SAMPLE.sealed))


def test_frames_that_contradict_the_job_are_held_against_their_sender() -> None:
    bench, job = working(units=10)
    wrong = (
        frame(PAULA, vote(0, GOOD), job=job.job),
        frame(BOB, vote(10, GOOD), job=job.job),
        frame(BOB, ms.Claim((0, 10)), job=job.job),
        frame(BOB, vote(0, GOOD), job=job.job, network=NetworkId(bytes(32))),
    )
    for item in wrong:
        (report,) = bench.tell(received(MALLORY, item.sealed))
        assert (report.peer, type(report.verdict)) == (MALLORY, Reject)


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
    bench.tell(received(BOB, frame(CAROL, vote(0, GOOD), job=job.job).sealed))
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
    large = frame(BOB, vote(0, GOOD, length=10_001), job=job.job)
    (report,) = bench.tell(received(BOB, large.sealed))
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


def test_a_node_can_be_written_down_and_read_back_at_any_time() -> None:
    for bench in (working()[0], publishing()[0]):
        data = msgspec.msgpack.encode(bench.node)
        again = msgspec.msgpack.decode(data, type=Node)
        assert again == bench.node
        assert msgspec.msgpack.encode(again) == data
    assert isinstance(Digest(GOOD), bytes)


def test_a_unit_that_is_too_slow_for_this_machine_is_left_to_others_after_three_tries() -> None:
    job = Settlement(SAMPLE.job, SAMPLE.manifest)
    volunteer = Volunteer(ALICE, slots=1)
    volunteer.opened(job, Millis(0), ())
    released = []
    for now in range(1, 4):
        volunteer.held[0] = Held(Millis(now), Millis(now + 1000), Millis(now + 600))
        assert 0 not in volunteer.answered
        released += volunteer.faulted_unit(job, 0, "wall", "too slow", Millis(now))

    assert released == [ms.Release((0,))] * 3
    assert 0 in volunteer.answered
    assert not job.unit(0).failures
