"""A volunteer: which units it takes, how it holds them, and what it does when one cannot be run."""

from __future__ import annotations

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
    CAROL,
    GOOD,
    PAULA,
    SAMPLE,
    Poll,
    frame,
    peer,
    received,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.volunteer import OPEN_RETRY_MAX_MS, Held, Volunteer
from p2pfleet.core.model.ids import Millis
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedManifest


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


def busy(slots: int = 1) -> tuple[Bench, VerifiedManifest]:
    """A volunteer that knows that units take it 100 ms, and has shown that it returns them."""
    bench, job = working(units=1000, slots=slots)
    for _ in range(40):
        execute(bench, job, min(bench.volunteer().held))
        bench.wait(60)
    return bench, job


def test_a_volunteer_that_knows_its_speed_claims_two_seconds_of_work() -> None:
    bench, job = busy()
    assert bench.volunteer().mean_ms == 100
    while len(bench.volunteer().held) > 11:
        execute(bench, job, min(bench.volunteer().held))
    told = execute(bench, job, min(bench.volunteer().held))
    assert len(executed_units(told)) == 10
    assert len(bench.volunteer().held) == 20


def test_a_volunteer_commits_after_the_frame_is_saved_and_tells_who_takes_part() -> None:
    bench, job = working()
    bench.tell(received(BOB, frame(BOB, ms.Claim((1,)), job=job.job).sealed))
    unit = executed_units(bench.effects)[0]
    execute(bench, job, unit)
    told = bench.wait(60)
    assert commits(told) == [(unit, 0)]
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
    told = [*execute(bench, job, 0), *bench.wait(30_000)]
    assert executed_units(bench.effects) == [0]
    assert commits(told) == [(0, 0)]
    assert reveals(told) == [(0, 0, GOOD)]


def test_a_volunteer_releases_what_others_have_decided() -> None:
    bench, job = working()
    unit = executed_units(bench.effects)[0]
    bench.now = Millis(bench.now + 2_000)
    told = bench.hear(*Poll(job.job).closed({BOB: {unit: GOOD}, CAROL: {unit: GOOD}}))
    assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (unit,), kill=False)]
    assert ms.Release((unit,)) in entries(bench.wait(60))


def test_a_volunteer_stops_a_young_run_of_slow_units_but_lets_an_old_one_finish() -> None:
    for age_ms, kill in ((100, True), (5_000, False)):
        bench, job = working()
        bench.volunteer().mean_ms = 60_000
        unit = executed_units(bench.effects)[0]
        bench.now = Millis(bench.now + age_ms)
        told = bench.hear(*Poll(job.job).closed({BOB: {unit: GOOD}, CAROL: {unit: GOOD}}))
        assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (unit,), kill=kill)]


def test_of_too_many_claims_the_volunteer_with_the_highest_hash_gives_way() -> None:
    bench, job = working(units=1)
    others = [peer(str(number)) for number in range(20)]
    for author in others:
        bench.tell(received(BOB, frame(author, ms.Claim((0,)), job=job.job).sealed))
    assert bench.volunteer().held == {}
    assert ms.Release((0,)) in entries(bench.wait(60))


def test_a_long_unit_is_renewed_before_its_lease_ends() -> None:
    bench, _ = working(units=1, lease_ms=9_000)
    told = bench.wait(60_000)
    claims = [entry for entry in entries(told) if isinstance(entry, ms.Claim)]
    assert 9 <= len(claims) <= 11
    assert only(ef.Withdraw, told) == []
    assert executed_units(bench.effects) == [0]
    until = bench.settlement().leases.until(ALICE, 0)
    assert until is not None
    assert until > bench.now


def test_a_unit_far_longer_than_its_lease_still_ends_in_a_vote() -> None:
    bench, job = working(units=1, lease_ms=1_000)
    bench.wait(1_000_000)
    execute(bench, job, 0, wall_ms=1_000_000)
    bench.wait(job.manifest.trust.window_ms + 120)
    assert ALICE in bench.unit(0).votes


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
    assert len(executed_units(told)) == 1, "each claim that lapsed costs half of its allowance"


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
    bench, job = busy(slots=4)
    unit = min(bench.volunteer().held)
    bench.tell(ev.UnitUnavailable(job.job, unit, "nobody has it"))
    assert len(bench.volunteer().held) > 40
    bench.wait(5_000)
    assert bench.volunteer().rescan_at is None


def test_a_unit_that_is_too_slow_for_this_machine_is_left_to_others_after_three_tries() -> None:
    job = Settlement.create(SAMPLE.job, SAMPLE.manifest, Millis(0), judge=False)
    volunteer = Volunteer.create(ALICE, slots=1)
    volunteer.opened_job(job, Millis(0), ())
    released = []
    for now in range(1, 4):
        volunteer.held[0] = Held(Millis(now), Millis(now + 1000), Millis(now + 600))
        assert 0 not in volunteer.refused
        released += volunteer.faulted_unit(job, 0, "wall", "too slow", Millis(now))

    assert released == [ms.Release((0,))] * 3
    assert 0 in volunteer.refused
    assert not job.unit(0).failures
