"""Claims: how long they run, how many a peer may hold, and from when on it may hold which."""

from __future__ import annotations

import msgspec
import pytest
from core_bench import Bench, executed_units, only, publishing, states, working
from core_samples import (
    ALICE,
    BOB,
    GOOD,
    MALLORY,
    PAULA,
    SAMPLE,
    Poll,
    frame,
    manifest,
    peer,
    seal,
    snapshot,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.leases import GRACE_MS, HEARSAY_MS, HOLD_LEASES, TRIES_MAX, Leases
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.model.job import Trust
from p2pfleet.core.rules.claims import rank
from p2pfleet.core.rules.sortition import ALLOWANCE_BASE
from p2pfleet.core.wire.messages import Claim, Failure, Release
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest

LEASE_MS = 10_000
NOW = Millis(1_000_000)


def everybody(who: PeerId) -> bool:
    return True


def after(ms: int) -> Millis:
    return Millis(NOW + ms)


def leases() -> Leases:
    return Leases(LEASE_MS, HOLD_LEASES * LEASE_MS)


def settlement() -> Settlement:
    return Settlement.create(SAMPLE.job, SAMPLE.manifest, NOW, judge=False)


# ---- how long --------------------------------------------------------------------------------


def test_claims_run_from_first_sight_for_the_lease_and_end_with_an_answer_or_a_release() -> None:
    desk = settlement()
    alice = Poll(SAMPLE.job)[ALICE]
    desk.apply(alice.says(Claim((0, 1, 2))), NOW, everybody)
    assert desk.flying(0, after(LEASE_MS - 1), everybody) == [ALICE]
    assert desk.flying(0, after(LEASE_MS), everybody) == []
    desk.apply(alice.says(Release((1,))), NOW, everybody)
    assert [desk.leases.claimants(unit, NOW) for unit in range(3)] == [[ALICE], [], [ALICE]]
    made = alice.commits({2: GOOD})
    desk.apply(made, NOW, everybody)
    assert [desk.leases.claimants(unit, NOW) for unit in range(3)] == [[ALICE], [], []]
    assert desk.flying(2, NOW, everybody) == [ALICE], "its answer is on the way"
    desk.apply(alice.reveals(made), NOW, everybody)
    assert desk.flying(2, NOW, everybody) == []
    assert desk.running(NOW) == 1
    desk.apply(alice.says(Claim((2,))), NOW, everybody)
    assert desk.leases.claimants(2, NOW) == [], "who has answered claims no more"


def test_a_claim_that_its_release_overtook_does_not_run() -> None:
    desk = settlement()
    desk.apply(frame(ALICE, Release((0,)), sequence=1), NOW, everybody)
    desk.apply(frame(ALICE, Claim((0,)), sequence=0), NOW, everybody)
    assert desk.leases.claimants(0, NOW) == []
    desk.apply(frame(ALICE, Claim((0,)), sequence=0, incarnation=2), NOW, everybody)
    assert desk.leases.claimants(0, NOW) == [ALICE]


def test_claims_of_a_peer_without_a_vote_do_not_keep_others_away() -> None:
    desk = settlement()
    desk.apply(frame(MALLORY, Claim((0,))), NOW, everybody)
    assert desk.flying(0, NOW, lambda who: who != MALLORY) == []


def test_a_claim_is_renewed_but_not_for_ever() -> None:
    book = leases()
    steps = [number * (LEASE_MS - 1_000) for number in range(HOLD_LEASES + 1)]
    assert all(book.claim(ALICE, 0, after(step)) for step in steps)
    assert book.claimants(0, after(HOLD_LEASES * LEASE_MS - 1)) == [ALICE]
    assert book.claimants(0, after(HOLD_LEASES * LEASE_MS)) == [], "others may take it now"


def test_a_hoarder_that_never_answers_loses_the_unit_to_others() -> None:
    salt = SAMPLE.manifest.salt
    first = next(
        one
        for one in (peer(str(number)) for number in range(100))
        if rank(salt, 0, one) < rank(salt, 0, ALICE)
    )
    bench = Bench()
    bench.meet(PAULA, BOB)
    body = unseal(seal(manifest(units=1, quorum=1, lease_ms=1_000)))
    hoarder = Poll(body.job)[first]
    bench.tell(ev.ManifestReceived(PAULA, body))
    bench.tell(ev.JobOpened(body.job))
    bench.hear(hoarder.says(Claim((0,))), source=BOB)
    assert bench.volunteer().held == {}, "its claim runs, and it comes first"
    begun = bench.now
    while not bench.volunteer().held:
        bench.hear(hoarder.says(Claim((0,))), source=BOB)
        bench.wait(300)
        assert bench.now - begun < 10 * body.manifest.limits.cpu_ms, "it holds it for ever"
    assert bench.now - begun > body.manifest.limits.cpu_ms, "a long unit may take its time"


def test_a_claim_may_be_begun_anew_only_so_often() -> None:
    book = leases()
    taken = [book.claim(ALICE, 0, after(number * 5 * LEASE_MS)) for number in range(TRIES_MAX + 3)]
    assert taken == [True] * TRIES_MAX + [False] * 3
    assert book.claim(BOB, 0, after(100 * LEASE_MS))


# ---- how many --------------------------------------------------------------------------------


def taken(book: Leases, who: PeerId, first: int, now: Millis) -> int:
    """How many units from ``first`` on a peer gets that claims a hundred."""
    return sum(book.claim(who, unit, now) for unit in range(first, first + 100))


def test_a_newcomer_may_hold_a_few_units_and_who_commits_may_hold_more() -> None:
    book = leases()
    assert taken(book, ALICE, 0, NOW) == ALLOWANCE_BASE
    assert taken(book, BOB, 0, NOW) == ALLOWANCE_BASE, "each for itself"
    for unit in range(3):
        book.committed(ALICE, unit, NOW)
    assert taken(book, ALICE, 200, NOW) == ALLOWANCE_BASE + 2 * 3 - 1


def test_each_claim_that_lapses_halves_what_a_peer_may_hold() -> None:
    book = leases()
    for unit in range(3):
        book.claim(ALICE, unit, NOW)
        book.committed(ALICE, unit, NOW)
    assert book.room(ALICE, NOW) == 10
    book.claim(ALICE, 3, NOW)
    assert book.room(ALICE, after(LEASE_MS)) == 10 // 2


def test_who_let_everything_lapse_may_try_one_unit_again_and_is_forgiven_in_time() -> None:
    book = leases()
    assert taken(book, ALICE, 0, NOW) == ALLOWANCE_BASE
    assert book.room(ALICE, after(LEASE_MS)) == 1
    assert book.room(ALICE, after(2 * LEASE_MS)) == 1, "of this lease period and the last one"
    assert book.room(ALICE, after(4 * LEASE_MS)) == ALLOWANCE_BASE


def test_what_was_released_did_not_lapse() -> None:
    book = leases()
    taken(book, ALICE, 0, NOW)
    for unit in range(ALLOWANCE_BASE):
        book.release(ALICE, unit)
    assert book.room(ALICE, after(2 * LEASE_MS)) == ALLOWANCE_BASE


def test_a_decided_unit_is_held_by_nobody() -> None:
    book = leases()
    taken(book, ALICE, 0, NOW)
    book.clear(0)
    assert book.claimants(0, NOW) == []
    assert book.room(ALICE, NOW) == 1
    assert book.running(NOW) == ALLOWANCE_BASE - 1


def test_claims_beyond_the_allowance_are_ignored_and_held_against_nobody() -> None:
    bench, _, _ = publishing(votes=(), units=100)
    told = bench.hear(frame(ALICE, Claim(tuple(range(100))), job=next(iter(bench.node.jobs))))
    assert only(ef.Report, told) == []
    assert bench.settlement().running(bench.now) == ALLOWANCE_BASE


# ---- when ------------------------------------------------------------------------------------

CROWD = Trust(crowd=10_000, step_ms=10_000)


def late(desk: Settlement, unit: int) -> PeerId:
    """A peer that may not take the unit yet."""
    return next(
        who
        for who in (peer(str(number)) for number in range(100))
        if desk.eligible_at(unit, who, NOW) > desk.since
    )


def test_who_claims_too_early_by_the_receivers_clock_is_ignored_and_not_rejected() -> None:
    bench, job, poll = publishing(votes=(), trust=CROWD)
    early = late(bench.settlement(), 0)
    told = bench.hear(poll[early].says(Claim((0,))), source=ALICE)
    assert only(ef.Report, told) == []
    assert bench.settlement().leases.claimants(0, bench.now) == []
    bench.now = bench.settlement().eligible_at(0, early, bench.now)
    bench.hear(poll[early].says(Claim((0,))), source=ALICE)
    assert bench.settlement().leases.claimants(0, bench.now) == [early]
    assert job in bench.node.jobs


def test_a_vote_that_came_too_early_counts_when_its_time_has_come() -> None:
    bench, _, poll = publishing(votes=(), trust=CROWD)
    early = late(bench.settlement(), 0)
    at = bench.settlement().eligible_at(0, early, bench.now)
    told = bench.hear(*poll.closed({early: {0: GOOD}, ALICE: {0: GOOD}}), source=ALICE)
    ready = max(at, bench.settlement().eligible_at(0, ALICE, bench.now))
    assert only(ef.Report, told) == []
    assert states([*told, *bench.wait(ready - bench.now - 1)]) == []
    assert states(bench.wait(1)) == [(0, "certified")]


def test_a_failure_that_came_too_early_says_nothing() -> None:
    bench, _, poll = publishing(votes=(), trust=CROWD)
    early = late(bench.settlement(), 0)
    told = bench.hear(poll[early].says(Failure(0, 0, "cpu: too long")), source=ALICE)
    assert only(ef.Report, told) == []
    assert bench.unit(0).failures == {}


def debtor(desk: Settlement, who: PeerId, units: int = 1) -> tuple[Poll, VerifiedFrame, Millis]:
    """A peer that committed to units from 900 on and has not revealed them in time."""
    poll = Poll(SAMPLE.job)
    made = poll[who].commits({900 + unit: GOOD for unit in range(units)})
    desk.apply(made, NOW, everybody)
    return poll, made, after(desk.debt_ms)


@pytest.mark.parametrize("known", [True, False])
def test_who_is_in_debt_comes_last_until_it_reveals(known: bool) -> None:
    body = manifest(units=1_000, trust=Trust(crowd=100, step_ms=600_000))
    desk = Settlement.create(SAMPLE.job, body, NOW, judge=False)
    if known:
        desk.weigh(snapshot({ALICE: 50, BOB: 50}))
    poll, made, due = debtor(desk, ALICE)
    before = Millis(due - 1)
    theirs = [desk.eligible_at(unit, ALICE, before) for unit in range(50)]
    assert theirs == [desk.eligible_at(unit, ALICE, NOW) for unit in range(50)], "not yet"
    last = [desk.eligible_at(unit, ALICE, due) for unit in range(50)]
    assert max(desk.eligible_at(unit, BOB, due) for unit in range(50)) <= min(last)
    unit = theirs.index(min(theirs))
    assert theirs[unit] <= NOW
    desk.apply(poll[ALICE].says(Claim((unit,))), due, everybody)
    assert desk.leases.claimants(unit, due) == [], "ignored: another's clock may differ"
    desk.apply(poll[ALICE].reveals(made), due, everybody)
    assert [desk.eligible_at(unit, ALICE, due) for unit in range(50)] == theirs
    desk.apply(poll[ALICE].says(Claim((unit,))), due, everybody)
    assert desk.leases.claimants(unit, due) == [ALICE]


def test_commitments_that_are_never_revealed_gain_no_room() -> None:
    body = manifest(units=1_000)
    desk = Settlement.create(SAMPLE.job, body, NOW, judge=False)
    poll, made, due = debtor(desk, ALICE, units=20)
    claims = Claim(tuple(range(100)))
    desk.leases.activity[ALICE].period = due
    desk.apply(poll[ALICE].says(claims), due, everybody)
    assert desk.leases.running(due) == ALLOWANCE_BASE
    desk.apply(poll[ALICE].reveals(made), due, everybody)
    desk.apply(poll[ALICE].says(claims), due, everybody)
    assert desk.leases.running(due) == ALLOWANCE_BASE + 2 * 20


def test_a_volunteer_takes_no_unit_before_its_time() -> None:
    bench, _ = working(units=20, trust=CROWD)
    for _ in range(200):
        for unit in bench.volunteer().held:
            assert bench.settlement().eligible_at(unit, ALICE, bench.now) <= bench.now
        if len(bench.volunteer().held) > 1:
            break
        bench.wait(1_000)
    assert len(bench.volunteer().held) > 1


def test_leases_can_be_written_down_and_read_back() -> None:
    book = leases()
    taken(book, ALICE, 0, NOW)
    taken(book, BOB, 2, NOW)
    book.committed(ALICE, 1, NOW)
    book.room(BOB, after(LEASE_MS))
    data = msgspec.msgpack.encode(book)
    assert msgspec.msgpack.decode(data, type=Leases) == book


# ---- who vanishes ----------------------------------------------------------------------------


def test_claims_of_a_peer_that_vanished_count_for_a_moment_and_again_when_it_is_back() -> None:
    held = leases()
    assert held.claim(BOB, 3, NOW)
    held.vanished(BOB, after(GRACE_MS))
    assert held.claimants(3, after(GRACE_MS - 1)) == [BOB]
    assert held.claimants(3, after(GRACE_MS)) == []
    assert held.running(after(GRACE_MS)) == 0
    held.back(BOB)
    assert held.claimants(3, after(GRACE_MS)) == [BOB]
    assert held.room(BOB, after(GRACE_MS)) == ALLOWANCE_BASE - 1  # nothing lapsed by it


def test_who_vanished_here_and_is_heard_of_through_others_counts_for_a_while() -> None:
    held = leases()
    held.heard_of(BOB, NOW)
    assert held.claim(BOB, 3, NOW)
    held.vanished(BOB, after(GRACE_MS))
    held.heard_of(BOB, after(1_000))
    assert held.claimants(3, after(GRACE_MS)) == [BOB]
    held.lease_ms = 10 * HEARSAY_MS
    assert held.claim(BOB, 3, after(2_000))
    assert held.claimants(3, after(HEARSAY_MS + 999)) == [BOB]
    assert held.claimants(3, after(HEARSAY_MS + 1_000)) == []


def while_bob_works() -> Bench:
    """A volunteer that has nothing to do, for Bob holds every unit for ten minutes."""
    bench = Bench()
    bench.meet(PAULA, BOB)
    job: VerifiedManifest = unseal(seal(manifest(units=2, quorum=1, lease_ms=600_000)))
    bench.tell(ev.PauseRequested(None))
    bench.tell(ev.ManifestReceived(PAULA, job))
    bench.tell(ev.JobOpened(job.job))
    bench.hear(frame(BOB, Claim((0, 1)), job=job.job))
    bench.tell(ev.ResumeRequested())
    bench.wait(20_000)
    assert executed_units(bench.effects) == []
    return bench


def test_units_of_a_volunteer_that_vanished_are_taken_over_at_once() -> None:
    bench = while_bob_works()
    bench.tell(ev.PeerDisconnected(BOB))
    bench.wait(GRACE_MS - 100)
    assert executed_units(bench.effects) == []
    bench.wait(1_000)
    assert sorted(executed_units(bench.effects)) == [0, 1]


def test_units_of_a_volunteer_that_comes_back_within_the_grace_stay_its_own() -> None:
    bench = while_bob_works()
    bench.tell(ev.PeerDisconnected(BOB))
    bench.wait(GRACE_MS - 100)
    bench.meet(BOB)
    bench.wait(60_000)
    assert executed_units(bench.effects) == []


def test_who_holds_claims_in_a_job_of_ours_is_watched_until_it_has_none() -> None:
    bench = while_bob_works()
    assert only(ef.Watch, bench.effects) == [ef.Watch((BOB,))]
    (job,) = bench.node.jobs
    bench.hear(frame(BOB, Release((0, 1)), job=job, sequence=1))
    bench.wait(12_000)  # two of its rounds: it needs no tick of its own
    assert only(ef.Watch, bench.effects)[1:] == [ef.Watch(())]


def test_after_a_restart_claims_of_who_is_not_met_again_count_for_a_while_only() -> None:
    job: VerifiedManifest = unseal(seal(manifest(units=2, quorum=1, lease_ms=600_000)))
    claimed = frame(BOB, Claim((0, 1)), job=job.job)
    bench = Bench(
        restore=[ev.JobRestored(job, False, "active", None, (), ()), ev.FrameRestored(claimed)]
    )
    bench.meet(PAULA)
    bench.tell(ev.JobOpened(job.job))
    bench.wait(HEARSAY_MS - 1_000)
    assert executed_units(bench.effects) == []
    bench.wait(2_000)
    assert sorted(executed_units(bench.effects)) == [0, 1]
