"""Credit: what a unit earns, whose receipts are taken, and what the ledger does about both."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Accept, Ignore, Reject, Verdict
from p2pfleet.core.machines.book import ENDED_MAX
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.judge import Judge, Trial
from p2pfleet.core.machines.ledger import (
    BACKLOG_MS,
    ISSUE_EVERY_MS,
    TELL_AGAIN_TIMES,
    TOLD_AGAIN,
    TOLD_AT_HELLO,
    Answer,
    Dues,
    Ledger,
)
from p2pfleet.core.machines.node import JOBS_SUMMARY_MS, Node
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.units import Place, Vote
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import (
    Digest,
    FrameHash,
    JobId,
    Millis,
    NetworkId,
    PeerId,
    cid_of,
    sha256,
)
from p2pfleet.core.model.job import MAX_UNITS, Exact, FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkParameters, NetworkTerms, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules import credit as rule
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedReceipt
from p2pfleet.sim.signatures import peer_of, seal, unseal

TERMS = network_terms(NetworkParameters("credit-tests", testnet=True))
PAULA, ALICE, BOB, CAROL, MALLORY = map(peer_of, ("paula", "alice", "bob", "carol", "mallory"))
WORK = 1_000_000
WALL_MS = 1_700_000_000_000
NOW = Millis(1_000_000)


def manifest(units: int = 10, work: int = WORK, lease_ms: int = 60_000) -> ms.Manifest:
    cid = cid_of(b"blob")
    return ms.Manifest(
        network=TERMS.id,
        publisher=PAULA,
        name="a job",
        model=cid,
        model_bytes=5,
        table=cid,
        table_bytes=5,
        units=units,
        total_bytes=1000,
        limits=Limits(2**20, 1000, 1000),
        comparison=Exact(),
        stop=FixedQuorum(2, 4),
        shards=1,
        lease_ms=lease_ms,
        issued_ms=WALL_MS,
        expires_ms=WALL_MS + 10**8,
        salt=bytes(16),
        work=work,
    )


MANIFEST = manifest()
JOB = JobId(seal(MANIFEST).hash)


def receipt(**changes: Any) -> ms.Receipt:
    """Three units of Alice's, one of them quick."""
    return msgspec.structs.replace(
        ms.Receipt(TERMS.id, JOB, PAULA, ALICE, 4, 3, 3 * WORK, 4 * WORK, WALL_MS), **changes
    )


# ---- what a unit earns ---------------------------------------------------------------------------


def test_a_unit_is_worth_its_operations_and_at_least_one() -> None:
    assert rule.base(7_000_000, 10) == 7_000_000
    assert rule.base(0, 10) == 1


@pytest.mark.parametrize("units", [1, 2, 3, 1000, MAX_UNITS])
def test_no_sum_over_a_job_overflows_what_a_receipt_holds(units: int) -> None:
    worth = rule.base(2**53 - 1, units)
    most = units * worth * rule.BONUS_MAX_MILLI // rule.MILLI
    top = receipt(units=units, work=units * worth, credit=most)
    assert unseal(seal(top)).receipt == top  # type: ignore[union-attr]
    assert units * worth <= ms.WORK_MAX


@pytest.mark.parametrize(
    ("elapsed_ms", "milli"),
    [
        (None, 1000),
        (0, 2000),
        (1, 2000),
        (11_250, 2000),  # a quarter of k * lease
        (11_262, 1998),
        (20_000, 1500),
        (44_955, 1000),
        (45_000, 1000),  # k * lease
        (60_000, 1000),
        (10**12, 1000),
    ],
)
def test_a_quick_answer_earns_up_to_twice_as_much(elapsed_ms: int | None, milli: int) -> None:
    assert rule.bonus_milli(60_000, elapsed_ms) == milli
    assert rule.earned(1234, 10, 60_000, elapsed_ms) == 1234 * milli // 1000


def test_slower_is_never_better() -> None:
    bonuses = [rule.bonus_milli(60_000, elapsed) for elapsed in range(0, 70_000, 7)]
    assert all(one >= two for one, two in pairwise(bonuses))


def test_who_voted_or_was_found_right_earns_and_who_was_found_wrong_does_not() -> None:
    assert rule.earners([BOB, ALICE], [], []) == sorted([ALICE, BOB])
    assert rule.earners([ALICE], [CAROL, ALICE], []) == sorted([ALICE, CAROL])
    assert rule.earners([ALICE, BOB], [CAROL], [BOB, CAROL, MALLORY]) == [ALICE]
    assert rule.earners([], [], [ALICE]) == []


# ---- whose receipts are taken --------------------------------------------------------------------


def judged(given: ms.Receipt, **known: Any) -> Verdict:
    facts: dict[str, Any] = {"me": ALICE, "manifest": MANIFEST, "held": None, "terms": TERMS}
    return rule.judge_receipt(given, **facts | known)


def test_a_receipt_of_the_jobs_publisher_for_oneself_is_taken() -> None:
    assert isinstance(judged(receipt()), Accept)
    assert isinstance(judged(receipt(), held=receipt(number=3)), Accept)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": NetworkId(bytes(32))}, "another network"),
        ({"peer": BOB}, "somebody else"),
        ({"publisher": ALICE}, "its own job"),
        ({"publisher": MALLORY}, "than the job's publisher"),
        ({"units": 11, "work": 11 * WORK, "credit": 11 * WORK}, "more units"),
        ({"work": 3 * WORK + 1}, "other work"),
        ({"credit": 3 * WORK - 1}, "other credit"),
        ({"credit": 6 * WORK + 1}, "other credit"),
    ],
)
def test_a_receipt_that_cannot_be_right_is_rejected(changes: dict[str, Any], why: str) -> None:
    verdict = judged(receipt(**changes))
    assert isinstance(verdict, Reject)
    assert why in verdict.reason


def test_a_receipt_of_a_publisher_whose_key_does_not_fit_is_rejected() -> None:
    terms = next(
        terms
        for terms in (NetworkTerms(NetworkId(sha256(b"%d" % n)), 8) for n in range(99))
        if not fits(terms, PAULA)
    )
    assert isinstance(judged(receipt(network=terms.id), terms=terms), Reject)


@pytest.mark.parametrize(
    ("held", "given"),
    [
        ({}, {}),
        ({}, {"credit": 5 * WORK}),
        ({"number": 5}, {}),
        ({"number": 3, "credit": 5 * WORK}, {}),
        ({"number": 3, "units": 4, "work": 4 * WORK}, {}),
    ],
)
def test_what_is_no_news_or_takes_something_back_is_ignored(
    held: dict[str, Any], given: dict[str, Any]
) -> None:
    assert isinstance(judged(receipt(**given), held=receipt(**held)), Ignore)


def test_a_receipt_of_an_unknown_job_is_nobodys_fault() -> None:
    assert isinstance(judged(receipt(), manifest=None), Ignore)


# ---- the publisher's dues ------------------------------------------------------------------------


def vote_ref(peer: PeerId, unit: int) -> ms.VoteRef:
    return ms.VoteRef(FrameHash(sha256(peer + unit.to_bytes(4, "big"))), 0)


class Table:
    """A settlement whose units are settled by hand, and the dues of its job."""

    def __init__(self, body: ms.Manifest = MANIFEST) -> None:
        self.settlement = Settlement.create(JOB, body, Millis(0), judge=True)
        self.dues = Dues(JOB, body)
        self.judge = Judge(PAULA, bytes(32))
        self.kinds: dict[PeerId, dict[int, str]] = {}

    def settle(self, number: int, *voters: PeerId, late: tuple[PeerId, ...] = ()) -> ef.SaveUnits:
        unit = self.settlement.unit(number)
        for peer in (*voters, *late):
            unit.votes[peer] = [
                Vote(
                    attempt=0,
                    digest=Digest(sha256(b"answer")),
                    length=9,
                    ref=vote_ref(peer, number),
                    commit=FrameHash(bytes(32)),
                    seen=(),
                    seed=bytes(32),
                    commitment=bytes(32),
                    counts_from=Millis(0),
                    place=Place(1, 0),
                )
            ]
        refs = tuple(vote_ref(peer, number) for peer in voters)
        unit.certificate = ms.Certificate(JOB, number, Digest(sha256(b"answer")), None, refs)
        self.settlement._move(number, "certified")
        return ef.SaveUnits(JOB, (self.settlement.settle(number),))

    def credit(self, *effects: ef.Effect, now: int = NOW, ending: bool = False) -> list[ef.Earning]:
        self.dues.note(effects)
        found = self.dues.credit(self.settlement, self.judge, self.kinds, Millis(now), ending)
        return [row for each in found if isinstance(each, ef.SaveEarnings) for row in each.rows]

    def sees(self, author: PeerId, now: int, *entries: ms.Entry, fresh: bool = True) -> None:
        frame = ms.Frame(TERMS.id, JOB, author, 1, now, entries)
        verified = unseal(seal(frame))
        assert isinstance(verified, VerifiedFrame)
        self.settlement.apply(verified, Millis(now), lambda _: True)
        self.dues.seen(self.settlement, frame, Millis(now), fresh)

    def answers(self, author: PeerId, claimed: int, committed: int, unit: int = 0) -> None:
        self.sees(author, claimed, ms.Claim((unit,)))
        self.commits(author, committed, unit)

    def commits(self, author: PeerId, at: int, unit: int = 0) -> None:
        self.sees(author, at, ms.Commit(bytes(32), (ms.CommitItem(unit, 0, bytes(32)),)))

    def receipts(self) -> dict[PeerId, ms.Receipt]:
        signed = [each.body for each in self.dues.issue(WALL_MS) if isinstance(each, ef.Sign)]
        assert all(isinstance(body, ms.Receipt) for body in signed)
        return {body.peer: body for body in signed if isinstance(body, ms.Receipt)}


def test_everybody_in_the_certificate_earns_all_of_the_unit_and_nobody_else() -> None:
    table = Table()
    earned = table.credit(table.settle(3, ALICE, BOB, late=(CAROL,)))
    assert earned == [ef.Earning(3, peer, WORK) for peer in sorted([ALICE, BOB])]
    assert table.credit() == []


def test_an_endorsement_in_the_certificate_earns_too() -> None:
    from p2pfleet.core.machines.units import Endorsement

    table = Table()
    settled = table.settle(0, ALICE)
    unit = table.settlement.units[0]
    own, ref, later = vote_ref(BOB, 1), vote_ref(BOB, 2), vote_ref(BOB, 3)
    unit.endorsed[BOB] = [
        Endorsement(0, Digest(sha256(b"answer")), own, ref),
        Endorsement(1, Digest(sha256(b"as good")), own, later),
    ]
    assert unit.certificate is not None
    unit.certificate = msgspec.structs.replace(
        unit.certificate, votes=(*unit.certificate.votes, ref)
    )
    assert [row.peer for row in table.credit(settled)] == sorted([ALICE, BOB])


def test_the_publishers_own_execution_confirms_who_is_not_in_the_certificate() -> None:
    table = Table()
    table.kinds = {
        CAROL: {0: "audited"},
        MALLORY: {0: "failed audit", 1: "ringer"},
        BOB: {0: "contradicted"},
    }
    units = (
        table.settle(0, ALICE, BOB, late=(CAROL, MALLORY)),
        table.settle(1, ALICE, late=(MALLORY,)),
    )
    earned = table.credit(*units)
    assert [(row.unit, row.peer) for row in earned] == sorted(
        [(0, ALICE), (0, CAROL), (1, ALICE), (1, MALLORY)]
    )


def test_an_answer_that_was_not_committed_to_earns_nothing_even_if_it_is_right() -> None:
    table = Table()
    settled = table.settle(0, ALICE, late=(MALLORY,))
    table.settlement.units[0].opened = {(ALICE, 0): True, (MALLORY, 0): False}
    table.kinds = {MALLORY: {0: "audited"}}
    assert [row.peer for row in table.credit(settled)] == [ALICE]


def test_a_poisoned_job_pays_by_its_certificates_alone() -> None:
    table = Table()
    table.judge.poisoned = True
    assert len(table.credit(table.settle(0, ALICE, BOB))) == 2


def test_a_unit_under_comparison_waits_unless_the_job_ends() -> None:
    table = Table()
    table.judge.trials[0] = Trial(Digest(sha256(b"answer")), "contradicted")
    assert table.credit(table.settle(0, ALICE)) == []
    assert len(table.credit(ending=True)) == 1
    assert table.credit(ending=True) == []


def test_failed_units_earn_nothing() -> None:
    table = Table()
    assert table.credit(ef.SaveUnits(JOB, (ef.UnitRow(0, "failed", b"memory"),))) == []
    assert table.dues.issue(WALL_MS) == []


def test_the_bonus_is_measured_from_the_first_sight_of_the_claim_to_the_commitment() -> None:
    table = Table()
    table.answers(ALICE, NOW, NOW + 20_000)
    table.answers(BOB, NOW, NOW + 50_000)
    earned = {row.peer: row.credit for row in table.credit(table.settle(0, ALICE, BOB, CAROL))}
    assert earned == {ALICE: WORK * 3 // 2, BOB: WORK, CAROL: WORK}


def test_who_commits_without_a_claim_earns_no_bonus() -> None:
    table = Table()
    table.commits(ALICE, NOW)
    frame = (ms.Claim((1,)), ms.Commit(bytes(32), (ms.CommitItem(1, 0, bytes(32)),)))
    table.sees(ALICE, NOW + 1, *frame)
    earned = table.credit(table.settle(0, ALICE), table.settle(1, ALICE))
    assert [row.credit for row in earned] == [WORK, WORK]


def test_claiming_anew_does_not_set_the_clock_back() -> None:
    table = Table()
    table.sees(ALICE, NOW, ms.Claim((0,)))
    table.sees(ALICE, NOW + 30_000, ms.Release((0,)))
    table.answers(ALICE, NOW + 49_999, NOW + 50_000)
    table.commits(ALICE, NOW + 50_001)
    assert [row.credit for row in table.credit(table.settle(0, ALICE))] == [WORK]


def test_a_claim_beyond_what_a_peer_may_hold_gives_no_bonus() -> None:
    table = Table()
    table.sees(ALICE, NOW, ms.Claim(tuple(range(10))))
    beyond = [n for n in range(10) if table.settlement.leases.until(ALICE, n) is None]
    assert beyond
    table.commits(ALICE, NOW + 1, beyond[0])
    assert [row.credit for row in table.credit(table.settle(beyond[0], ALICE))] == [WORK]


def test_a_claim_of_unknown_age_gives_no_bonus_ever() -> None:
    table = Table()
    table.sees(ALICE, NOW, ms.Claim((0,)), fresh=False)
    table.answers(ALICE, NOW + 1, NOW + 2)
    assert [row.credit for row in table.credit(table.settle(0, ALICE))] == [WORK]


def test_receipts_are_cumulative_and_numbered_and_made_only_when_something_changed() -> None:
    table = Table()
    table.credit(table.settle(0, ALICE, BOB))
    first = table.receipts()
    assert {peer: each.number for peer, each in first.items()} == {ALICE: 0, BOB: 0}
    assert table.receipts() == {}
    table.credit(table.settle(1, ALICE, CAROL), table.settle(2, ALICE))
    second = table.receipts()
    assert set(second) == {ALICE, CAROL}
    assert (second[ALICE].number, second[CAROL].number) == (1, 0)
    assert (second[ALICE].units, second[ALICE].work) == (3, 3 * WORK)
    assert isinstance(judged(second[ALICE], held=first[ALICE]), Accept)
    assert not rule.receipt_fault(second[CAROL], MANIFEST)


def test_after_a_restart_nothing_is_earned_twice_and_nothing_is_lost() -> None:
    table = Table()
    table.answers(ALICE, NOW, NOW + 1)
    earned = table.credit(table.settle(0, ALICE, BOB))
    receipts = table.receipts()
    units = [
        row for number in (1, 2) for row in table.settle(number, ALICE).rows
    ]  # settled, and the power fails
    kept = [unseal(seal(each)) for each in receipts.values()]

    again = Dues(JOB, MANIFEST)
    again.restore(
        [table.settlement.row(0), *units],
        earned,
        [each for each in kept if isinstance(each, VerifiedReceipt)],
        NOW,
    )
    assert again.issue_at is None, "what was issued is all that was earned so far"
    table.dues = again
    rows = table.credit()

    assert [(row.unit, row.peer, row.credit) for row in rows] == [
        (1, ALICE, WORK),
        (2, ALICE, WORK),
    ]
    last = table.receipts()
    assert set(last) == {ALICE}
    assert (last[ALICE].number, last[ALICE].units) == (1, 3)
    assert last[ALICE].credit == receipts[ALICE].credit + 2 * WORK


def test_what_was_earned_and_not_signed_for_before_a_restart_is_signed_for_after_it() -> None:
    table = Table()
    earned = table.credit(table.settle(0, ALICE))
    again = Dues(JOB, MANIFEST)
    again.restore([table.settlement.row(0)], earned, [], NOW)
    assert again.issue_at == NOW + ISSUE_EVERY_MS
    (signed,) = again.issue(WALL_MS)
    assert isinstance(signed, ef.Sign)
    assert isinstance(signed.body, ms.Receipt)
    assert (signed.body.number, signed.body.credit) == (0, WORK)


# ---- the ledger, and the node around it ----------------------------------------------------------


def verified(body: ms.Receipt) -> VerifiedReceipt:
    found = unseal(seal(body))
    assert isinstance(found, VerifiedReceipt)
    return found


def test_frames_that_others_hand_on_or_that_a_newcomer_brings_tell_no_times() -> None:
    body = ms.Frame(TERMS.id, JOB, ALICE, 1, 0, (ms.Claim((0,)),))
    for greeted_ago, source, known in (
        (None, ALICE, None),
        (0, ALICE, "no age"),
        (BACKLOG_MS - 1, ALICE, "no age"),
        (BACKLOG_MS, ALICE, "an age"),
        (BACKLOG_MS, BOB, None),
    ):
        ledger, settlement = Ledger(), Settlement.create(JOB, MANIFEST, Millis(0), judge=True)
        dues = ledger.begin(JOB, MANIFEST)
        if greeted_ago is not None:
            ledger.greet(ALICE, Millis(NOW - greeted_ago))
        frame = unseal(seal(body))
        assert isinstance(frame, VerifiedFrame)
        settlement.apply(frame, NOW, lambda _: True)
        ledger.seen(source, settlement, body, NOW)
        answer = dues.answers.get(0, {}).get(ALICE)
        found = None if answer is None else "no age" if answer.since is None else "an age"
        assert found == known, (greeted_ago, source == ALICE)


def test_a_receipt_is_kept_before_it_is_sent_and_sent_again_a_few_times() -> None:
    ledger = Ledger()
    signed = verified(receipt())
    here = ledger.issued(signed, present=True)
    assert here == [
        ef.SaveReceipt(JOB, signed.sealed),
        ef.Send((ALICE,), ms.Deliver(signed.sealed)),
    ]
    assert ledger.issued(signed, present=False) == here[:1]
    for _ in range(TELL_AGAIN_TIMES):
        assert ledger.remind(ALICE) == [ef.SendReceipts(ALICE, TOLD_AGAIN)]
    assert ledger.remind(ALICE) == ledger.remind(BOB) == []


def test_only_a_publisher_has_receipts_to_send_to_who_comes() -> None:
    ledger = Ledger()
    assert ledger.greet(ALICE, NOW) == []
    ledger.begin(JOB, MANIFEST)
    assert ledger.greet(ALICE, NOW) == [ef.SendReceipts(ALICE, TOLD_AT_HELLO)]


def started(me: PeerId, slots: int) -> Node:
    consent = Consent(Capability("A", bytes(32), "1.32.0"))
    node = Node.create(me, TERMS.id, slots, (), consent)
    node.handle(ev.Started(1, WALL_MS, "", ()), NOW)
    node.handle(ev.RestoreFinished(), NOW)
    return node


def greet(node: Node, peer: PeerId, now: Millis = NOW) -> list[ef.Effect]:
    node.handle(ev.PeerConnected(peer), now)
    record = unseal(
        seal(
            ms.PeerRecord(
                TERMS.id, peer, 1, WALL_MS, WALL_MS + 10**6, "", ("volunteer",), 1, (),
                Capability("A", bytes(32), "1.32.0"),
            )
        )
    )  # fmt: skip
    return node.handle(ev.HelloReceived(peer, record), now)  # type: ignore[arg-type]


def knowing(me: PeerId, slots: int = 1) -> Node:
    """A node that knows the job."""
    node = started(me, slots)
    source = me if me == PAULA else PAULA
    node.handle(ev.ManifestReceived(source, unseal(seal(MANIFEST))), NOW)  # type: ignore[arg-type]
    return node


def test_a_volunteer_keeps_a_receipt_once_and_rejects_one_for_others() -> None:
    node = knowing(ALICE)
    mine = verified(receipt())
    assert node.handle(ev.ReceiptReceived(PAULA, mine), NOW) == [
        ef.SaveReceipt(JOB, mine.sealed),
        ef.Report(PAULA, Accept()),
    ]
    (again,) = node.handle(ev.ReceiptReceived(PAULA, mine), NOW)
    assert isinstance(again, ef.Report)
    assert isinstance(again.verdict, Ignore)
    (others,) = node.handle(ev.ReceiptReceived(PAULA, verified(receipt(peer=BOB))), NOW)
    assert isinstance(others, ef.Report)
    assert isinstance(others.verdict, Reject)


def test_a_receipt_of_a_job_that_has_ended_is_taken_and_of_an_unknown_one_ignored() -> None:
    node = knowing(ALICE)
    closure = ms.Closure(TERMS.id, JOB, PAULA, True, WALL_MS)
    node.handle(ev.ClosureReceived(PAULA, unseal(seal(closure))), NOW)  # type: ignore[arg-type]
    assert JOB in node.ended
    effects = node.handle(ev.ReceiptReceived(PAULA, verified(receipt())), NOW)
    assert isinstance(effects[0], ef.SaveReceipt)
    (unknown,) = started(ALICE, 1).handle(ev.ReceiptReceived(PAULA, verified(receipt())), NOW)
    assert isinstance(unknown, ef.Report)
    assert isinstance(unknown.verdict, Ignore)


def test_a_receipt_is_forgotten_with_its_job() -> None:
    node = started(ALICE, 1)
    jobs: list[JobId] = []
    for number in range(ENDED_MAX + 1):
        one = seal(msgspec.structs.replace(MANIFEST, salt=number.to_bytes(16, "big")))
        jobs.append(ms.job_id(one))
        node.handle(ev.ManifestReceived(PAULA, unseal(one)), NOW)  # type: ignore[arg-type]
        node.handle(ev.ReceiptReceived(PAULA, verified(receipt(job=jobs[-1]))), NOW)
        assert jobs[-1] in node.ledger.held
        closure = seal(ms.Closure(TERMS.id, jobs[-1], PAULA, True, WALL_MS))
        node.handle(ev.ClosureReceived(PAULA, unseal(closure)), NOW)  # type: ignore[arg-type]
    assert list(node.ledger.held) == jobs[1:] == list(node.ended)


def test_a_restarted_volunteer_knows_its_receipts_of_open_and_ended_jobs() -> None:
    for state in ("active", "completed"):
        node = started(ALICE, 1)
        node.restored = False
        manifest_ = unseal(seal(MANIFEST))
        restored = ev.JobRestored(
            manifest_,
            False,
            state,
            None,
            (),
            (),
            receipts=(verified(receipt()),),  # type: ignore[arg-type]
        )
        node.handle(restored, NOW)
        node.handle(ev.RestoreFinished(), NOW)
        (told,) = node.handle(ev.ReceiptReceived(PAULA, verified(receipt())), NOW)
        assert isinstance(told, ef.Report)
        assert isinstance(told.verdict, Ignore)


def restored_publisher(node: Node) -> None:
    """The job is taken up again with two settled units, one of them credited, nothing issued."""
    table = Table()
    rows = [table.settle(number, ALICE).rows[0] for number in (0, 1)]
    node.restored = False
    node.handle(
        ev.JobRestored(
            unseal(seal(MANIFEST)),  # type: ignore[arg-type]
            True,
            "active",
            None,
            tuple(rows),
            (),
            earnings=(ef.Earning(0, ALICE, WORK),),
        ),
        NOW,
    )
    node.handle(ev.RestoreFinished(), NOW)


def test_a_publisher_signs_about_every_minute_and_asks_to_be_woken_for_it() -> None:
    node = started(PAULA, 0)
    restored_publisher(node)
    due = Millis(NOW + ISSUE_EVERY_MS)
    assert node.ledger.deadline() == due
    assert (node.deadline() or 0) <= due
    for now in range(NOW, due, 5_000):
        effects = node.handle(ev.Tick(), Millis(now))
        assert not any(isinstance(e, ef.Sign) and isinstance(e.body, ms.Receipt) for e in effects)
    effects = node.handle(ev.Tick(), due)
    (signed,) = [
        each.body
        for each in effects
        if isinstance(each, ef.Sign) and isinstance(each.body, ms.Receipt)
    ]
    assert (signed.peer, signed.units, signed.credit) == (ALICE, 1, WORK)
    assert signed.issued_ms == WALL_MS + ISSUE_EVERY_MS
    assert node.ledger.deadline() is None


def test_when_a_job_ends_its_receipts_are_kept_with_its_end_and_sent_to_who_is_here() -> None:
    node = started(PAULA, 0)
    restored_publisher(node)
    greet(node, ALICE)
    (close,) = [
        each for each in node.handle(ev.CancelRequested(JOB), NOW) if isinstance(each, ef.Sign)
    ]
    assert isinstance(close.body, ms.Closure)
    effects = node.handle(
        ev.ClosureReceived(PAULA, unseal(seal(close.body))),  # type: ignore[arg-type]
        NOW,
    )
    (sign,) = [e for e in effects if isinstance(e, ef.Sign) and isinstance(e.body, ms.Receipt)]
    assert any(isinstance(each, ef.CloseJob) for each in effects)
    assert isinstance(sign.body, ms.Receipt)
    done = node.handle(ev.ReceiptReceived(PAULA, verified(sign.body)), NOW)
    assert [type(each) for each in done] == [ef.SaveReceipt, ef.Send]
    picked = [
        each
        for step in range(1, 6)
        for each in node.handle(ev.Tick(), Millis(NOW + step * JOBS_SUMMARY_MS))
        if isinstance(each, ef.SendReceipts)
    ]
    assert picked == [ef.SendReceipts(ALICE, TOLD_AGAIN)] * TELL_AGAIN_TIMES


def test_who_says_hello_to_a_publisher_is_sent_its_receipts() -> None:
    node = knowing(PAULA, slots=0)
    assert ef.SendReceipts(ALICE, TOLD_AT_HELLO) in greet(node, ALICE)
    assert not any(isinstance(e, ef.SendReceipts) for e in greet(knowing(BOB), ALICE))


def test_a_node_with_dues_and_receipts_survives_being_written_down() -> None:
    node = started(PAULA, 0)
    restored_publisher(node)
    greet(node, ALICE)
    dues = node.ledger.open[JOB]
    dues.answers = {3: {ALICE: Answer(NOW, 7), BOB: Answer(None)}}
    dues.issued = {ALICE: receipt()}
    node.ledger.keep(receipt())
    node.ledger.untold = {BOB: 1}

    again = msgspec.msgpack.decode(msgspec.msgpack.encode(node), type=Node)

    assert again.ledger == node.ledger
    assert again.deadline() == node.deadline()
