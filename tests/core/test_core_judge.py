"""The publisher judges its own job: audits, ringers, who is believed, and who is not."""

from __future__ import annotations

from typing import Any

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
from core_court import (
    ALL,
    SECRET,
    Verdict,
    attend,
    court,
    different,
    kinds,
    with_ringers,
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
    UGLY,
    Poll,
    digest,
    peer,
    record,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.settlement import Outcome
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.job import Trust
from p2pfleet.core.model.record import MILLI, Record
from p2pfleet.core.rules.certificate import check_certificate
from p2pfleet.core.rules.reputation import served
from p2pfleet.core.wire import messages as ms


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


def test_an_output_that_is_gone_when_commitments_are_opened_is_fetched_again() -> None:
    bench, job, _ = publishing()
    bench.prompt = False
    (check,) = only(ef.CheckCommitments, arrive(bench, job))
    asked = tuple((item.unit, item.attempt, item.peer) for item in check.items)
    told = bench.tell(ev.CommitmentsChecked(job, GOOD, (), (), asked))
    assert bench.publisher().judge.checking == {}
    assert only(ef.Fetch, told) == [], "not at once: it may be the disk's fault"
    (fetch,) = only(ef.Fetch, bench.wait(5_000))
    assert (fetch.ref.sha256, sorted(fetch.sources)) == (GOOD, sorted((ALICE, BOB)))
    (check,) = only(ef.CheckCommitments, bench.tell(ev.BlobArrived(job, fetch.ref)))
    bench.tell(bench.checked(check))
    assert bench.state(0) == "settled"
    assert bench.publisher().judge.checking == {}


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


def test_a_restarted_publisher_withdraws_the_same_votes_and_none_that_came_later() -> None:
    bench, _, poll = with_ringers({0: GOOD}, units=5)
    for unit in (1, 2):
        attend(bench, bench.hear(*poll.closed({who: {unit: GOOD} for who in (ALICE, MALLORY)})))
    attend(bench, bench.hear(*poll.closed({BOB: {0: BAD}, MALLORY: {0: BAD}})))
    later = {who: {3: GOOD} for who in (ALICE, MALLORY)}
    attend(bench, bench.hear(*poll.closed(later)))
    attend(bench, bench.hear(*poll.closed({MALLORY: {2: GOOD}}, attempt=1)))
    states_before = [bench.state(unit) for unit in range(5)]
    withdrawn_before = [bench.unit(unit).withdrawn for unit in range(5)]
    assert states_before == ["settled", "open", "certified", "certified", "open"]
    assert withdrawn_before[1:] == [{(MALLORY, 0): True}, {(MALLORY, 0): True}, {}, {}]
    again = restarted(bench)
    again.meet(ALICE, BOB, CAROL)
    assert [again.state(unit) for unit in range(5)] == states_before
    assert [again.unit(unit).withdrawn for unit in range(5)] == withdrawn_before
    # To decide it anew, without the certificate of before, comes to the same.
    again.node.jobs[poll.job].settlement.decide(
        3, again.now, again.node.standing.honest, Outcome(), keep=False
    )
    assert again.state(3) == "certified"


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


def test_a_poisoned_job_stays_so_when_its_publisher_restarts() -> None:
    bench, job, poll = publishing(votes=(), units=40)
    assert only(ef.VoidMoves, poison(bench, poll, range(8))) == [ef.VoidMoves(job)]
    again = restarted(bench)
    again.meet(ALICE, BOB, CAROL)
    assert moves(poison(again, poll, range(8, 14))) == []
    said = {who: {20: GOOD} for who in (ALICE, BOB)}
    assert moves(attend(again, again.hear(*poll.closed(said)))) == []
    assert again.state(20) == "settled", "its units are decided all the same"
    for who in (ALICE, BOB, CAROL):
        assert again.node.standing.record(who) == Record()
    assert "same answer everywhere" in again.node.jobs[job].reason
    assert again.publisher().judge.poisoned


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
