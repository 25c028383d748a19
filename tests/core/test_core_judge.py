"""The publisher judges its own job: audits, ringers, who is believed, and when a unit is final."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from core_bench import (
    Bench,
    arrive,
    entries,
    frames,
    moves,
    only,
    publishing,
    restarted,
    states,
)
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAPABILITY,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    OUTPUT_BYTES,
    PAULA,
    UGLY,
    Poll,
    digest,
    peer,
    record,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.effects import Move
from p2pfleet.core.machines.judge import PASSES, STALLED_MS
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.model.record import MILLI, Record
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.rules.certificate import check_certificate
from p2pfleet.core.rules.reputation import served
from p2pfleet.core.wire import messages as ms

TWO_NEWCOMERS = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=8)
ALL = Trust(audit_ppm=1_000_000)
SECRET = bytes(range(32))
ASKED = (ef.OpenJob, ef.Execute, ef.Fetch, ef.Compare)

Right = Callable[[int], Digest]
Verdict = Callable[[Digest, Digest], str]


def good(unit: int) -> Digest:
    return GOOD


def different(candidate: Digest, own: Digest) -> str:
    return "different"


def attend(
    bench: Bench, told: list[Any], right: Right = good, verdict: Verdict = different
) -> list[Any]:
    """Answer whatever the publisher asks of its machine, until it asks for nothing more."""
    found = list(told)
    waiting = deque(told)
    while True:
        if not waiting:
            waiting.extend(bench.wait(60))  # what it wrote is signed
            found += waiting
            if not any(isinstance(each, ASKED) for each in waiting):
                return found
        event: ev.Event
        match waiting.popleft():
            case ef.OpenJob(job=job):
                event = ev.JobOpened(job)
            case ef.Execute(job=job, unit=unit):
                event = ev.UnitExecuted(job, unit, right(unit), OUTPUT_BYTES, 100)
            case ef.Fetch(job=job, ref=ref):
                event = ev.BlobArrived(job, ref)
            case ef.Compare(job=job, unit=unit, candidate=ref, own=own):
                candidate = Digest(ref.sha256)
                event = ev.Compared(job, unit, candidate, own, verdict(candidate, own))
            case _:
                continue
        more = bench.tell(event)
        found += more
        waiting.extend(more)


def court(stop: Confidence | None = TWO_NEWCOMERS, **how: Any) -> tuple[Bench, JobId, Poll]:
    """A publisher of a job that asks for two newcomers' votes a unit."""
    return publishing(votes=(), stop=stop, **how)


def with_ringers(known: dict[int, Digest], **how: Any) -> tuple[Bench, JobId, Poll]:
    """The same, with units whose answers it knows."""
    ringers = tuple(ms.Ringer(unit, known[unit]) for unit in sorted(known))
    hidden = Digest(ringers_hash(ms.OpenRingers(SECRET, ringers)))
    bench, job, poll = court(trust=Trust(ringers=hidden), **how)
    bench.tell(ev.RingersKnown(job, SECRET, ringers))
    return bench, job, poll


def kinds(effects: list[Any]) -> dict[tuple[int, PeerId], str]:
    """What the last move of each (unit, peer) says."""
    return {(move.unit, move.peer): move.kind for move in moves(effects)}


def valid(bench: Bench, number: int) -> bool:
    """Whether the unit's certificate holds for anybody, by the frames that were saved."""
    (job,) = bench.node.jobs.values()
    certificate = bench.unit(number).certificate
    assert certificate is not None
    return check_certificate(job.manifest, job.id, certificate, frames(bench), {}) is None


# ---- audits ----------------------------------------------------------------------------------


def test_an_audit_that_agrees_settles_the_unit_at_once_and_its_voters_pass() -> None:
    bench, _, poll = court(trust=ALL)
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}})))
    told += bench.wait(60)
    assert ms.Audit(0, GOOD) in entries(told)
    assert bench.state(0) == "settled"
    assert kinds(told) == {(0, ALICE): "audited", (0, BOB): "audited"}
    assert valid(bench, 0)


def test_an_audit_settles_against_a_wrong_certificate_and_costs_its_voters_everything() -> None:
    bench, _, poll = court(trust=ALL)
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: BAD}, MALLORY: {0: BAD}})))
    told += bench.wait(60)
    assert ms.Audit(0, GOOD) in entries(told)
    assert states(told)[-2:] == [(0, "certified"), (0, "settled")]
    certificate = bench.unit(0).certificate
    assert certificate is not None
    assert (certificate.digest, certificate.votes) == (GOOD, ())
    assert kinds(told) == {(0, ALICE): "failed audit", (0, MALLORY): "failed audit"}
    assert bench.node.standing.record(MALLORY) == Record(0, 1, 0, 0)
    assert valid(bench, 0)


def test_before_anybody_is_blamed_the_answers_are_compared() -> None:
    bench, job, poll = court(trust=ALL)
    bench.hear(*poll.closed({ALICE: {0: BAD}, MALLORY: {0: BAD}}))
    arrive(bench, job)
    bench.tell(ev.JobOpened(job))
    told = bench.tell(ev.UnitExecuted(job, 0, GOOD, OUTPUT_BYTES, 100))
    (compare,) = only(ef.Compare, told)
    assert (compare.candidate.sha256, compare.own) == (BAD, GOOD)
    assert sorted(compare.sources) == sorted((ALICE, MALLORY))
    assert moves([*told, *bench.wait(60_000)]) == []
    assert moves(bench.tell(ev.Compared(job, 0, BAD, GOOD, "different"))) != []


def test_an_audit_within_the_tolerance_confirms_the_answer_that_the_volunteers_gave() -> None:
    bench, _, poll = court(trust=ALL, comparison=Tolerance())
    told = bench.hear(*poll.closed({ALICE: {0: BAD}, BOB: {0: BAD}}))
    told = [*attend(bench, told, verdict=lambda one, two: "same"), *bench.wait(60)]
    assert ms.Audit(0, BAD) in entries(told)
    assert kinds(told) == {(0, ALICE): "audited", (0, BOB): "audited"}
    assert bench.state(0) == "settled"


def test_answers_that_are_near_move_nothing() -> None:
    bench, _, poll = court(trust=ALL)
    said = {who: {0: GOOD} for who in (ALICE, BOB, DAVE)} | {CAROL: {0: UGLY}}
    told = bench.hear(*poll.closed(said), source=ALICE)
    told = attend(bench, told, verdict=lambda one, two: "near")
    assert kinds(told) == {(0, who): "audited" for who in (ALICE, BOB, DAVE)}
    assert bench.node.standing.record(CAROL) == Record()


def test_an_answer_that_is_gone_is_blamed_only_beside_one_of_the_same_processors() -> None:
    bench, _, poll = court(trust=ALL)
    other = Capability("A", b"other processors", "1.32.0")
    for who, capability in ((MALLORY, CAPABILITY), (DAVE, other)):
        bench.tell(ev.PeerConnected(who))
        bench.tell(ev.HelloReceived(who, record(who, capability=capability)))
    said = {who: {0: GOOD} for who in (ALICE, BOB)}
    said |= {MALLORY: {0: BAD}, DAVE: {0: UGLY}}
    more = {peer(str(number)): {0: GOOD} for number in range(3)}
    told = bench.hear(*poll.closed({**said, **more}), source=ALICE)
    told = attend(bench, told, verdict=lambda one, two: "unavailable")
    assert kinds(told)[0, MALLORY] == "failed audit"
    assert (0, DAVE) not in kinds(told)


def test_which_units_are_audited_is_drawn_by_a_secret_coin() -> None:
    drawn = []
    for coin in (b"a" * 32, b"b" * 32):
        bench, _, poll = court(units=61, trust=Trust(audit_ppm=300_000))
        bench.publisher().judge.coin = coin
        answers = {unit: digest(f"answer {unit}") for unit in range(60)}
        told = bench.hear(*poll.closed({ALICE: answers, BOB: answers}))
        attend(bench, told, right=lambda unit: digest(f"answer {unit}"))
        drawn.append({unit for unit in range(60) if bench.publisher().judge.drawn.get(unit)})
    assert all(8 <= len(units) <= 30 for units in drawn)
    assert drawn[0] != drawn[1]


def test_nobody_knows_of_an_audit_before_it_has_ended() -> None:
    bench, _, poll = court(trust=ALL)
    bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}}))
    arrive(bench, next(iter(bench.node.jobs)))
    assert entries(bench.wait(60_000)) == []


def test_a_vote_for_bytes_that_were_not_committed_to_is_taken_off_the_record() -> None:
    bench, job, poll = court()
    made = poll[ALICE].commits({0: GOOD})
    copied = poll[MALLORY].commits({0: GOOD}, held=BAD)
    bench.hear(
        made, copied, poll[ALICE].reveals(made, [copied]), poll[MALLORY].reveals(copied, [made])
    )
    assert bench.state(0) == "certified"
    told = arrive(bench, job)
    assert kinds(told) == {(0, MALLORY): "false commitment"}
    assert bench.state(0) == "open"


def test_a_peer_that_is_not_believed_wins_its_vote_back_by_right_answers() -> None:
    bench, _, poll = court(trust=ALL, units=20)
    for unit in range(4):
        said = {ALICE: {unit: GOOD}, BOB: {unit: GOOD}, MALLORY: {unit: BAD}}
        attend(bench, bench.hear(*poll.closed(said)))
    fallen = bench.node.standing.record(MALLORY)
    assert not served(fallen)
    for unit in range(4, 14):
        said = {who: {unit: GOOD} for who in (ALICE, BOB, MALLORY)}
        told = attend(bench, bench.hear(*poll.closed(said)))
        assert kinds(told)[unit, MALLORY] == "audited"
    assert served(bench.node.standing.record(MALLORY))


# ---- ringers ---------------------------------------------------------------------------------


def test_ringers_catch_those_who_agree_on_a_wrong_answer() -> None:
    bench, _, poll = with_ringers({0: GOOD})
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: BAD}, MALLORY: {0: BAD}})))
    told += bench.wait(60)
    assert only(ef.Execute, told) == [], "its answer is known"
    assert ms.Audit(0, GOOD) in entries(told)
    assert kinds(told) == {(0, ALICE): "failed ringer", (0, MALLORY): "failed ringer"}
    certificate = bench.unit(0).certificate
    assert certificate is not None
    assert (bench.state(0), certificate.digest) == ("settled", GOOD)


def test_who_answers_a_ringer_rightly_passes_a_check() -> None:
    bench, _, poll = with_ringers({0: GOOD})
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}})))
    assert kinds(told) == {(0, ALICE): "ringer", (0, BOB): "ringer"}
    assert bench.node.standing.record(ALICE) == Record(1, 0, MILLI, 0)


def test_ringers_stay_hidden_until_the_job_ends_and_are_opened_then() -> None:
    bench, _, poll = with_ringers({0: GOOD}, units=2)
    told = attend(bench, bench.hear(*poll.closed({ALICE: {0: GOOD}, BOB: {0: GOOD}})))
    told += bench.wait(60_000)
    assert [type(entry) for entry in entries(told)] == [ms.Audit]
    told = attend(
        bench, bench.hear(*poll.closed({ALICE: {1: BAD}, BOB: {1: BAD}})), lambda unit: BAD
    )
    opened = [entry for entry in entries(told) if isinstance(entry, ms.OpenRingers)]
    assert opened == [ms.OpenRingers(SECRET, (ms.Ringer(0, GOOD),))]
    signed = [type(effect.body) for effect in only(ef.Sign, told)]
    assert signed.index(ms.Frame) < signed.index(ms.Closure)


# ---- who is caught ---------------------------------------------------------------------------


def test_a_caught_peers_votes_are_withdrawn_from_what_is_not_settled() -> None:
    bench, _, poll = with_ringers({0: GOOD, 2: GOOD})
    attend(bench, bench.hear(*poll.closed({who: {2: GOOD} for who in (ALICE, MALLORY)})))
    attend(bench, bench.hear(*poll.closed({who: {1: GOOD} for who in (ALICE, MALLORY)})))
    assert [bench.state(unit) for unit in (0, 1, 2)] == ["open", "certified", "settled"]
    told = attend(bench, bench.hear(*poll.closed({BOB: {0: BAD}, MALLORY: {0: BAD}})))
    assert [bench.state(unit) for unit in (0, 1, 2)] == ["settled", "open", "settled"]
    assert (1, "open") in states(told)
    assert bench.settlement().missing(1, (), bench.now) == 1
    told = bench.wait(20_000)
    wanted = [e.message.units for e in only(ef.Send, told) if isinstance(e.message, ms.Wanted)]
    assert (1,) in wanted, "the others, who still count the vote, are told"


def test_a_unit_that_is_certified_again_by_others_waits_for_their_checks() -> None:
    bench, _, poll = with_ringers(dict.fromkeys((0, 5, 6, 7, 8), GOOD))
    for unit in (5, 6, 7):
        attend(bench, bench.hear(*poll.closed({who: {unit: GOOD} for who in (ALICE, CAROL)})))
    attend(bench, bench.hear(*poll.closed({who: {1: GOOD} for who in (ALICE, MALLORY)})))
    attend(bench, bench.hear(*poll.closed({BOB: {0: BAD}, MALLORY: {0: BAD}})))
    assert bench.state(1) == "open"
    told = attend(bench, bench.hear(*poll.closed({CAROL: {1: GOOD}}, attempt=1)))
    assert bench.state(1) == "certified", "neither has passed a check since"
    assert (1, CAROL) in kinds(told)


def test_a_lie_after_a_good_record_costs_all_of_it() -> None:
    bench, _, poll = with_ringers(dict.fromkeys(range(6), GOOD))
    for unit in range(5):
        said = {MALLORY: {unit: GOOD}, BOB: {unit: GOOD}}
        attend(bench, bench.hear(*poll.closed(said)))
    assert bench.node.standing.record(MALLORY).checks == 4, "a little of each is forgotten"
    attend(bench, bench.hear(*poll.closed({MALLORY: {5: BAD}, ALICE: {5: BAD}})))
    assert bench.node.standing.record(MALLORY).checks == 0


def test_when_an_answer_turns_the_moves_that_it_made_turn_with_it() -> None:
    bench, _, poll = court()
    liars = (MALLORY, DAVE)
    bench.meet(*liars)
    told = attend(bench, bench.hear(*poll.closed({who: {0: BAD} for who in liars})))
    assert kinds(told) == {(0, who): "matched" for who in liars}
    honest = [ALICE, BOB, CAROL, *(peer(str(number)) for number in range(3))]
    said = {who: {0: GOOD} for who in honest}
    told = attend(bench, bench.hear(*poll.closed(said, attempt=1), source=ALICE))
    assert {kinds(told)[0, who] for who in liars} == {"contradicted"}
    for who in liars:
        assert bench.node.standing.record(who) == Record(0, 1, 0, 0)
    for who in honest:
        assert bench.node.standing.record(who).agreed == 1


# ---- poisoned jobs ---------------------------------------------------------------------------


def poison(bench: Bench, poll: Poll, units: range, verdict: Verdict = different) -> list[Any]:
    """On each unit two of three agree, and everybody is the third in turn."""
    told: list[Any] = []
    trio = (ALICE, BOB, CAROL)
    for unit in units:
        said = {who: {unit: BAD if trio.index(who) == unit % 3 else GOOD} for who in trio}
        told += attend(bench, bench.hear(*poll.closed(said)), verdict=verdict)
    return told


def test_a_poisoned_job_moves_nothing_and_takes_back_what_it_moved() -> None:
    bench, job, poll = publishing(votes=(), units=20)
    told = poison(bench, poll, range(3))
    assert "contradicted" in kinds(told).values()
    assert bench.node.standing.record(ALICE) != Record()
    told = poison(bench, poll, range(3, 8))
    assert only(ef.VoidMoves, told) == [ef.VoidMoves(job)]
    for who in (ALICE, BOB, CAROL):
        assert bench.node.standing.record(who) == Record()
    assert moves(poison(bench, poll, range(8, 12))) == []
    assert "same answer everywhere" in bench.node.jobs[job].reason
    assert bench.state(11) == "settled", "its units are decided all the same"


def test_a_job_in_which_few_lie_is_not_poisoned() -> None:
    bench, _, poll = publishing(votes=(), units=20)
    told: list[Any] = []
    for unit in range(12):
        said = {ALICE: {unit: GOOD}, BOB: {unit: GOOD}, CAROL: {unit: GOOD}, MALLORY: {unit: BAD}}
        told += attend(bench, bench.hear(*poll.closed(said)))
    assert only(ef.VoidMoves, told) == []
    assert bench.node.standing.record(MALLORY).contradicted > 0


def test_where_processors_differ_by_little_no_record_moves_and_nothing_is_poisoned() -> None:
    bench, _, poll = publishing(votes=(), units=20)
    told = poison(bench, poll, range(8), verdict=lambda one, two: "near")
    assert only(ef.VoidMoves, told) == []
    assert set(kinds(told).values()) == {"matched"}


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
