"""What the votes on each unit amount to, and which frames are here."""

from __future__ import annotations

import msgspec
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    PAULA,
    SAMPLE,
    frame,
    manifest,
    peer,
    seal,
    unseal,
    vote,
)

from p2pfleet.core.effects import Judgement, SendFrames
from p2pfleet.core.machines.frames import AHEAD_MAX, REPLY_FRAMES_MAX, FrameLog
from p2pfleet.core.machines.settlement import Outcome, Settlement
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Digest, Millis, PeerId
from p2pfleet.core.rules.reputation import Record
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import AuthorPosition, Certificate, Claim, Failure, Release

NOW = Millis(1_000_000)


def everybody(peer: PeerId) -> bool:
    return True


class Desk:
    """A settlement to which votes come, each in a frame of its own."""

    def __init__(self, quorum: int = 2, replicas_max: int = 8) -> None:
        body = manifest(quorum=quorum, replicas_max=replicas_max)
        self.settlement = Settlement(SAMPLE.job, body)
        self.muted: set[PeerId] = set()
        self.sequence = 0

    def counts(self, peer: PeerId) -> bool:
        return peer not in self.muted

    def votes(self, author: PeerId, answer: Digest, unit: int = 0) -> Outcome:
        self.sequence += 1
        return self.settlement.apply(
            frame(author, vote(unit, answer), sequence=self.sequence), NOW, self.counts
        )

    def fails(self, author: PeerId, why: str, unit: int = 0) -> Outcome:
        self.sequence += 1
        entry = Failure(unit, 0, why)
        return self.settlement.apply(frame(author, entry, sequence=self.sequence), NOW, self.counts)

    def state(self, unit: int = 0) -> str:
        return self.settlement.units[unit].state


def states(outcome: Outcome) -> list[str]:
    return [row.state for row in outcome.rows]


# ---- settlement ------------------------------------------------------------------------------


def test_a_unit_is_open_then_certified_then_settled() -> None:
    desk = Desk()
    assert states(desk.votes(ALICE, GOOD)) == []
    assert (desk.state(), desk.settlement.wanted(0)) == ("open", 1)
    outcome = desk.votes(BOB, GOOD)
    assert states(outcome) == ["certified"]
    assert decode(outcome.rows[0].detail, Certificate, 10_000).digest == GOOD
    assert sorted(outcome.judgements, key=lambda row: row.peer) == sorted(
        [Judgement(0, ALICE, True), Judgement(0, BOB, True)], key=lambda row: row.peer
    )
    assert desk.settlement.wanted(0) == 0
    assert desk.settlement.settle(0).state == "settled"
    assert [desk.settlement.count(state) for state in ("open", "certified", "settled")] == [9, 0, 1]


def test_a_late_vote_is_judged_but_changes_nothing_that_is_settled() -> None:
    desk = Desk()
    desk.votes(ALICE, GOOD)
    desk.votes(BOB, GOOD)
    desk.settlement.settle(0)
    for author in (MALLORY, CAROL, DAVE):
        outcome = desk.votes(author, BAD)
        assert outcome.rows == []
        assert outcome.judgements == [Judgement(0, author, False)]
    assert desk.state() == "settled"
    assert desk.settlement.units[0].certificate is not None
    assert desk.settlement.units[0].certificate.digest == GOOD


def test_an_author_that_votes_for_two_digests_counts_once() -> None:
    desk = Desk()
    desk.votes(MALLORY, BAD)
    assert desk.votes(MALLORY, GOOD).touched == []
    desk.votes(ALICE, GOOD)
    assert desk.state() == "open"
    assert desk.settlement.units[0].votes[MALLORY].digest == BAD


def test_an_author_that_votes_twice_counts_once() -> None:
    desk = Desk()
    desk.votes(MALLORY, BAD)
    desk.votes(MALLORY, BAD)
    assert (desk.state(), desk.settlement.wanted(0)) == ("open", 1)


def test_two_votes_of_an_author_in_one_frame_count_once() -> None:
    settlement = Settlement(SAMPLE.job, SAMPLE.manifest)
    settlement.apply(frame(MALLORY, vote(0, BAD), vote(0, BAD)), NOW, everybody)
    assert (settlement.units[0].state, settlement.wanted(0)) == ("open", 1)


def test_the_publishers_votes_do_not_count() -> None:
    desk = Desk()
    desk.votes(PAULA, BAD)
    desk.votes(ALICE, BAD)
    assert (desk.state(), desk.settlement.wanted(0)) == ("open", 1)


def test_a_second_digest_that_reaches_the_quorum_contests_the_unit() -> None:
    desk = Desk()
    for author, answer in ((ALICE, BAD), (MALLORY, BAD), (BOB, GOOD)):
        desk.votes(author, answer)
    assert desk.state() == "certified"
    outcome = desk.votes(CAROL, GOOD)
    assert states(outcome) == ["contested"]
    assert (desk.state(), desk.settlement.wanted(0)) == ("contested", 1)
    assert desk.settlement.units[0].certificate is None


def test_when_a_contested_unit_turns_the_judgements_turn_with_it() -> None:
    desk, standing = Desk(), Standing()
    for author, answer in ((ALICE, BAD), (MALLORY, BAD), (BOB, GOOD), (CAROL, GOOD)):
        outcome = desk.votes(author, answer)
        standing.move(outcome.judgements, outcome.reversed)
    assert standing.record(MALLORY) == Record(1, 0)
    assert standing.record(BOB) == Record(0, 1)

    outcome = desk.votes(DAVE, GOOD)
    standing.move(outcome.judgements, outcome.reversed)
    assert states(outcome) == ["certified"]
    assert {row.peer for row in outcome.reversed} == {ALICE, MALLORY, BOB}
    for author, record in (
        (ALICE, Record(0, 1)),
        (MALLORY, Record(0, 1)),
        (BOB, Record(1, 0)),
        (CAROL, Record(1, 0)),
        (DAVE, Record(1, 0)),
    ):
        assert standing.record(author) == record


def test_a_certificate_that_turns_needs_one_vote_more_and_says_so() -> None:
    desk = Desk()
    for author, answer in ((ALICE, BAD), (MALLORY, BAD), (BOB, GOOD), (CAROL, GOOD)):
        desk.votes(author, answer)
    outcome = desk.votes(DAVE, GOOD)
    made = decode(outcome.rows[0].detail, Certificate, 10_000)
    assert (made.digest, made.attempt, len(made.votes)) == (GOOD, 1, 3)


def test_a_peer_that_loses_its_vote_reopens_only_what_is_undecided() -> None:
    desk = Desk()
    desk.votes(MALLORY, GOOD, unit=0)
    desk.votes(ALICE, GOOD, unit=0)
    desk.votes(MALLORY, GOOD, unit=1)
    desk.votes(MALLORY, GOOD, unit=2)
    desk.votes(ALICE, GOOD, unit=2)
    desk.settlement.settle(2)
    desk.votes(ALICE, BAD, unit=3)
    assert [desk.settlement.wanted(unit) for unit in range(4)] == [0, 1, 0, 1]

    desk.muted.add(MALLORY)
    outcome = desk.settlement.reconsider([MALLORY], desk.counts)
    assert outcome.touched == [1]
    assert [desk.settlement.wanted(unit) for unit in range(4)] == [0, 2, 0, 1]
    assert [desk.state(unit) for unit in range(4)] == ["certified", "open", "settled", "open"]


def test_a_contested_unit_is_decided_when_the_liars_lose_their_votes() -> None:
    desk = Desk()
    for author, answer in ((ALICE, BAD), (MALLORY, BAD), (BOB, GOOD), (CAROL, GOOD)):
        desk.votes(author, answer)
    desk.muted |= {ALICE, MALLORY}
    outcome = desk.settlement.reconsider([ALICE, MALLORY], desk.counts)
    assert states(outcome) == ["certified"]
    assert {row.peer for row in outcome.judgements if not row.agreed} == {ALICE, MALLORY}


def test_a_vote_that_comes_after_a_voter_was_muted_is_judged_all_the_same() -> None:
    desk = Desk()
    desk.votes(MALLORY, GOOD)
    desk.votes(ALICE, GOOD)
    desk.muted.add(MALLORY)
    outcome = desk.votes(BOB, BAD)
    assert desk.state() == "certified"
    assert outcome.judgements == [Judgement(0, BOB, False)]


def test_votes_of_a_peer_without_a_vote_are_judged_so_that_it_can_win_it_back() -> None:
    desk = Desk()
    desk.muted.add(MALLORY)
    desk.votes(MALLORY, GOOD)
    assert desk.settlement.wanted(0) == 2
    desk.votes(ALICE, GOOD)
    outcome = desk.votes(BOB, GOOD)
    assert Judgement(0, MALLORY, True) in outcome.judgements


def test_a_failed_unit_keeps_its_reason_and_stays_failed() -> None:
    desk = Desk()
    desk.fails(ALICE, "memory: too much")
    outcome = desk.fails(BOB, "memory: too much")
    assert [(row.state, row.detail) for row in outcome.rows] == [("failed", b"memory: too much")]
    desk.votes(CAROL, GOOD)
    desk.votes(DAVE, GOOD)
    assert desk.state() == "failed"


def test_a_vote_replaces_its_authors_failure_but_not_the_reverse() -> None:
    desk = Desk()
    desk.fails(ALICE, "cpu: too long")
    desk.votes(ALICE, GOOD)
    assert desk.settlement.units[0].failures == {}
    desk.fails(ALICE, "cpu: too long")
    assert desk.settlement.units[0].failures == {}


def test_claims_run_from_first_sight_for_the_lease_and_end_with_a_vote_or_a_release() -> None:
    settlement = Settlement(SAMPLE.job, SAMPLE.manifest)
    lease_ms = SAMPLE.manifest.lease_ms
    settlement.apply(frame(ALICE, Claim((0, 1, 2))), NOW, everybody)
    assert settlement.claimants(0, Millis(NOW + lease_ms - 1), everybody) == [ALICE]
    assert settlement.claimants(0, Millis(NOW + lease_ms), everybody) == []
    settlement.apply(frame(ALICE, Release((1,)), vote(2, GOOD), sequence=1), NOW, everybody)
    assert [settlement.claimants(unit, NOW, everybody) for unit in range(3)] == [[ALICE], [], []]
    assert settlement.running(NOW) == 1
    settlement.apply(frame(ALICE, Claim((2,)), sequence=2), NOW, everybody)
    assert settlement.claimants(2, NOW, everybody) == []


def test_a_claim_that_its_release_overtook_does_not_run() -> None:
    settlement = Settlement(SAMPLE.job, SAMPLE.manifest)
    settlement.apply(frame(ALICE, Release((0,)), sequence=1), NOW, everybody)
    settlement.apply(frame(ALICE, Claim((0,)), sequence=0), NOW, everybody)
    assert settlement.claimants(0, NOW, everybody) == []
    settlement.apply(frame(ALICE, Claim((0,)), sequence=0, incarnation=2), NOW, everybody)
    assert settlement.claimants(0, NOW, everybody) == [ALICE]


def test_claims_of_a_peer_without_a_vote_do_not_keep_others_away() -> None:
    settlement = Settlement(SAMPLE.job, SAMPLE.manifest)
    settlement.apply(frame(MALLORY, Claim((0,))), NOW, everybody)
    assert settlement.claimants(0, NOW, lambda peer: peer != MALLORY) == []


def test_replaying_the_frames_over_the_ledger_changes_no_record() -> None:
    frames = [frame(who, vote(0, GOOD)) for who in (ALICE, BOB)] + [frame(MALLORY, vote(0, BAD))]
    first = Settlement(SAMPLE.job, SAMPLE.manifest)
    outcomes = [first.apply(item, NOW, everybody) for item in frames]
    again = Settlement(SAMPLE.job, SAMPLE.manifest)
    unit = first.units[0]
    again.restore(0, unit.state, unit.certificate, "")
    again.judged = dict(first.judged)
    for item in frames:
        outcome = again.apply(item, NOW, everybody)
        assert outcome.judgements == outcome.reversed == []
        assert outcome.rows == []
    assert sum(len(outcome.judgements) for outcome in outcomes) == len(again.judged) == 3


def test_judgements_that_a_kill_cut_off_are_made_up_for_at_the_next_start() -> None:
    frames = [frame(who, vote(0, GOOD)) for who in (ALICE, BOB)]
    first = Settlement(SAMPLE.job, SAMPLE.manifest)
    for item in frames:
        first.apply(item, NOW, everybody)
    again = Settlement(SAMPLE.job, SAMPLE.manifest)
    again.restore(0, "certified", first.units[0].certificate, "")
    judged = [row for item in frames for row in again.apply(item, NOW, everybody).judgements]
    assert {row.peer for row in judged} == {ALICE, BOB}


# ---- the log of frames -----------------------------------------------------------------------


def admit(log: FrameLog, sequence: int, author: PeerId = ALICE, incarnation: int = 1) -> str | None:
    body = frame(author, vote(0, GOOD), sequence=sequence, incarnation=incarnation).frame
    return log.admit(body, 10)


def test_frames_with_a_gap_are_here_but_the_position_waits_for_the_gap() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, 0) is None
    assert admit(log, 2) is None
    assert admit(log, 3) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 1),)
    assert admit(log, 1) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 4),)
    assert log.ahead == {}


def test_a_frame_is_taken_once_whether_in_order_or_ahead() -> None:
    log = FrameLog(SAMPLE.job)
    for sequence in (0, 5):
        assert admit(log, sequence) is None
        assert admit(log, sequence) == "a frame of this number is here already"


def test_a_frame_too_far_ahead_is_not_taken() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, AHEAD_MAX + 1) == "too far ahead of what is here"
    assert admit(log, AHEAD_MAX) is None
    assert admit(log, 2**53 - 1) == "too far ahead of what is here"


def test_incarnations_of_an_author_count_apart() -> None:
    log = FrameLog(SAMPLE.job)
    assert admit(log, 0, incarnation=1) is None
    assert admit(log, 0, incarnation=2) is None
    assert log.positions() == (AuthorPosition(ALICE, 1, 1), AuthorPosition(ALICE, 2, 1))


def test_what_one_author_can_write_is_bounded_and_does_not_bound_another() -> None:
    log = FrameLog(SAMPLE.job)
    big = Claim(tuple(range(10)) * 10)
    taken = 0
    while log.admit(frame(MALLORY, big, sequence=taken, incarnation=taken).frame, 10) is None:
        taken += 1
        assert taken < 100
    assert taken == (256 + 8 * 10) // 100
    assert admit(log, 0, ALICE) is None


def test_renewals_of_long_units_are_within_the_bound_as_the_job_goes_on() -> None:
    log = FrameLog(SAMPLE.job)
    for lease in range(2000):
        renewal = frame(ALICE, Claim((0, 1, 2, 3)), sequence=lease).frame
        assert log.admit(renewal, 10, leases=lease) is None


def test_a_summary_is_answered_with_what_is_missing_but_not_the_askers_own() -> None:
    log = FrameLog(SAMPLE.job)
    for author in (ALICE, BOB, CAROL):
        for sequence in range(3):
            admit(log, sequence, author)
    theirs = (AuthorPosition(BOB, 1, 2), AuthorPosition(CAROL, 1, 3), AuthorPosition(DAVE, 1, 9))
    assert log.missing(ALICE, theirs) == [SendFrames(ALICE, SAMPLE.job, BOB, 1, 2, 3)]
    assert log.missing(DAVE, (AuthorPosition(BOB, 1, 2**53 - 1),)) == [
        SendFrames(DAVE, SAMPLE.job, author, 1, 0, 3) for author in sorted((ALICE, CAROL))
    ]


def test_an_answer_is_bounded_and_the_next_one_goes_on() -> None:
    log = FrameLog(SAMPLE.job)
    for sequence in range(REPLY_FRAMES_MAX + 50):
        admit(log, sequence, ALICE)
        admit(log, sequence, BOB)
    asker = FrameLog(SAMPLE.job)
    rounds = 0
    while replies := log.missing(CAROL, asker.positions()):
        rounds += 1
        assert sum(reply.end - reply.first for reply in replies) <= REPLY_FRAMES_MAX
        for reply in replies:
            for sequence in range(reply.first, reply.end):
                assert admit(asker, sequence, reply.author) is None
    assert rounds == 3
    assert asker.positions() == log.positions()


def test_the_machines_can_be_written_down_and_read_back() -> None:
    log, desk = FrameLog(SAMPLE.job), Desk()
    admit(log, 0)
    admit(log, 2)
    desk.votes(ALICE, GOOD)
    desk.votes(BOB, BAD)
    for machine in (log, desk.settlement):
        data = msgspec.msgpack.encode(machine)
        assert msgspec.msgpack.decode(data, type=type(machine)) == machine
    assert unseal(seal(SAMPLE.manifest)) == SAMPLE
    assert peer("alice") == ALICE
