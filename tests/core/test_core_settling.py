"""From certified to settled: when an answer is final, and what no restart of its judge forgets."""

from __future__ import annotations

import pytest
from core_bench import (
    arrive,
    entries,
    moves,
    only,
    restarted,
    states,
)
from core_court import (
    ALL,
    attend,
    court,
    kinds,
    with_ringers,
)
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    GOOD,
    MALLORY,
    PAULA,
    digest,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.effects import Move
from p2pfleet.core.machines.judge import PASSES, STALLED_MS
from p2pfleet.core.model.job import Confidence
from p2pfleet.core.wire import messages as ms

# ---- settled ---------------------------------------------------------------------------------


def test_a_unit_is_settled_only_after_three_checks_that_each_of_its_voters_passed_since() -> None:
    ringers = {unit: digest(f"ringer {unit}") for unit in range(1, 8)}
    bench, _, poll = with_ringers(ringers)
    attend(bench, bench.hear(*poll.closed({who: {0: GOOD} for who in (ALICE, BOB)})))
    assert bench.state(0) == "certified"
    alone = dict.fromkeys(range(1, 1 + PASSES), (ALICE, CAROL))
    for unit, pair in alone.items():
        attend(bench, bench.hear(*poll.closed({who: {unit: ringers[unit]} for who in pair})))
    assert bench.state(0) == "certified", "Bob has passed none"
    for unit in range(4, 4 + PASSES):
        assert bench.state(0) == "certified"
        attend(
            bench, bench.hear(*poll.closed({who: {unit: ringers[unit]} for who in (BOB, CAROL)}))
        )
    assert bench.state(0) == "settled"


def test_who_agrees_once_a_unit_is_certified_holds_its_settling_up_no_longer() -> None:
    ringers = {unit: digest(f"ringer {unit}") for unit in range(1, 4)}
    bench, _, poll = with_ringers(ringers)
    attend(bench, bench.hear(*poll.closed({who: {0: GOOD} for who in (ALICE, BOB)})))
    attend(bench, bench.hear(*poll.closed({CAROL: {0: GOOD}}, attempt=1)))
    for unit, answer in ringers.items():
        attend(bench, bench.hear(*poll.closed({who: {unit: answer} for who in (ALICE, BOB)})))
    assert bench.state(0) == "settled"


def test_checks_that_were_passed_before_a_vote_do_not_settle_it() -> None:
    ringers = {unit: digest(f"ringer {unit}") for unit in range(1, 5)}
    bench, _, poll = with_ringers(ringers)
    for unit, answer in ringers.items():
        attend(bench, bench.hear(*poll.closed({who: {unit: answer} for who in (ALICE, BOB)})))
    attend(bench, bench.hear(*poll.closed({who: {0: GOOD} for who in (ALICE, BOB)})))
    assert bench.state(0) == "certified"


def test_the_sweep_at_the_end_settles_everything() -> None:
    bench, job, poll = court(units=12)
    answers = {unit: digest(f"answer {unit}") for unit in range(12)}
    told = bench.hear(*poll.closed({ALICE: answers, BOB: answers}))
    told = attend(bench, told, right=lambda unit: answers[unit])
    told += bench.wait(60)
    assert bench.node.ended[job].counts == {"settled": 12}
    runs = [effect.unit for effect in only(ef.Execute, told)]
    assert len(runs) == len(set(runs))
    assert PASSES <= len(runs) < 12, "some checks of a voter stand for all of its units"


def test_the_sweep_finds_a_wrong_answer_that_was_certified_last() -> None:
    bench, job, poll = court(units=2)
    told = bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}}))
    told += attend(bench, told)
    told = attend(bench, bench.hear(*poll.closed({MALLORY: {1: BAD}, CAROL: {1: BAD}})))
    told += bench.wait(60)
    assert bench.node.ended[job].counts == {"settled": 2}
    assert ms.Audit(1, GOOD) in entries(told)
    assert kinds(told)[1, MALLORY] == "failed audit"


def test_a_publisher_that_cannot_run_its_own_units_settles_them_by_another_vote() -> None:
    bench, job, poll = court(units=1)
    bench.hear(*poll.closed({ALICE: {0: GOOD}}))
    bench.hear(*poll.closed({BOB: {0: GOOD}}, attempt=1))
    arrive(bench, job)
    (opening,) = only(ef.OpenJob, bench.effects)
    assert opening.sources == (PAULA,)
    told = bench.tell(ev.JobUnavailable(job, "no sandbox here", final=False))
    assert (0, "settled") in states(told)
    assert bench.node.ended[job].state == "completed"


def test_a_unit_whose_replicas_are_used_up_is_executed_by_its_publisher() -> None:
    stop = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=2)
    bench, _, poll = court(stop=stop)
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: GOOD}, MALLORY: {0: BAD}})))
    told += bench.wait(60)
    assert ms.Audit(0, GOOD) in entries(told)
    assert kinds(told) == {(0, ALICE): "audited", (0, MALLORY): "failed audit"}
    assert bench.state(0) == "settled"


def test_a_unit_that_waits_in_vain_for_a_second_answer_is_executed_by_its_publisher() -> None:
    bench, _, poll = court()
    told = bench.hear(*poll.closed({ALICE: {0: GOOD}}))
    told += bench.wait(STALLED_MS // 2)
    assert only(ef.OpenJob, told) == []
    told = attend(bench, bench.wait(2 * STALLED_MS))
    told += bench.wait(60)
    assert ms.Audit(0, GOOD) in entries(told)
    assert bench.state(0) == "settled"


def test_a_job_does_not_end_while_a_check_is_under_way() -> None:
    bench, job, poll = court(trust=ALL, units=1)
    bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}}))
    arrive(bench, job)
    bench.tell(ev.JobOpened(job))
    assert only(ef.CloseJob, bench.wait(60_000)) == []
    told = attend(bench, [ef.Execute(job, 0, ())])
    assert [effect.state for effect in only(ef.CloseJob, [*told, *bench.wait(60)])] == ["completed"]


# ---- restarts --------------------------------------------------------------------------------


@pytest.mark.parametrize("audited", [True, False])
def test_a_publisher_that_comes_back_still_distrusts_whom_it_caught(audited: bool) -> None:
    bench, _, poll = with_ringers({0: GOOD})
    attend(bench, bench.hear(*poll.closed({who: {1: GOOD} for who in (ALICE, MALLORY)})))
    if audited:
        attend(bench, bench.hear(*poll.closed({BOB: {0: BAD}, MALLORY: {0: BAD}})))
        bench.wait(60)
    again = restarted(bench)
    assert again.state(1) == ("open" if audited else "certified")
    assert again.node.standing.current == bench.node.standing.current


def test_an_audit_that_a_crash_cut_off_is_not_forgotten() -> None:
    bench, job, poll = court(units=1)
    bench.hear(*poll.closed({who: {0: BAD} for who in (ALICE, MALLORY)}))
    arrive(bench, job)
    assert only(ef.OpenJob, bench.effects) != []
    again = restarted(bench)
    again.meet(ALICE)
    told = attend(again, list(again.effects))
    told += again.wait(60)
    assert again.node.ended[job].counts == {"settled": 1}
    assert kinds(told) == {(0, ALICE): "failed audit", (0, MALLORY): "failed audit"}
    assert Move(0, ALICE, "failed audit") in moves(told)
