"""What the frames of a job amount to: which unit is open, certified, contested, failed, settled."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    SAMPLE,
    UGLY,
    Poll,
    manifest,
    peer,
)

from p2pfleet.core.machines.settlement import Outcome, Settlement
from p2pfleet.core.machines.units import ATTEMPTS_A_PEER
from p2pfleet.core.model.ids import Digest, Millis, PeerId
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Audit, Certificate, Commit, Failure, Reveal
from p2pfleet.core.wire.verified import VerifiedFrame

NOW = Millis(1_000_000)


class Desk:
    """A settlement to which votes come, by hand."""

    def __init__(self, quorum: int = 2, replicas_max: int = 8) -> None:
        body = manifest(quorum=quorum, replicas_max=replicas_max)
        self.settlement = Settlement.create(SAMPLE.job, body, NOW, judge=False)
        self.poll = Poll(SAMPLE.job)
        self.muted: set[PeerId] = set()

    def counts(self, peer: PeerId) -> bool:
        return peer not in self.muted

    def takes(self, *frames: VerifiedFrame, now: Millis = NOW) -> Outcome:
        """What the last of these frames changed."""
        for item in frames:
            outcome = self.settlement.apply(item, now, self.counts)
        return outcome

    def votes(self, said: Mapping[PeerId, Digest], attempt: int = 0, unit: int = 0) -> Outcome:
        """Closed votes on a unit come, one after the other."""
        return self.takes(*self.poll.closed({who: {unit: said[who]} for who in said}, attempt))

    def fails(self, author: PeerId, why: str, unit: int = 0) -> Outcome:
        return self.takes(self.poll[author].says(Failure(unit, 0, why)))

    def state(self, unit: int = 0) -> str:
        return self.settlement.unit(unit).state

    def wants(self, unit: int = 0) -> int:
        return self.settlement.missing(unit, (), NOW)

    def certificate(self, unit: int = 0) -> Certificate | None:
        return self.settlement.unit(unit).certificate


def states(outcome: Outcome) -> list[str]:
    return [row.state for row in outcome.rows]


LIARS = {ALICE: BAD, MALLORY: BAD}
HONEST = {BOB: GOOD, CAROL: GOOD}

# ---- closed votes ----------------------------------------------------------------------------


def test_a_unit_is_open_then_certified_then_settled() -> None:
    desk = Desk()
    poll = desk.poll
    alices, bobs = poll[ALICE].commits({0: GOOD}), poll[BOB].commits({0: GOOD})
    assert states(desk.takes(alices, bobs, poll[ALICE].reveals(alices, [bobs]))) == []
    assert (desk.state(), desk.wants()) == ("open", 1)
    outcome = desk.takes(poll[BOB].reveals(bobs, [alices]))
    assert states(outcome) == ["certified"]
    assert decode(outcome.rows[0].detail, Certificate, 10_000).digest == GOOD
    assert desk.wants() == 0
    assert desk.settlement.settle(0).state == "settled"
    assert [desk.settlement.count(state) for state in ("open", "certified", "settled")] == [9, 0, 1]


def test_votes_that_have_not_seen_each_others_commitments_do_not_count_together() -> None:
    desk = Desk()
    for who in (ALICE, BOB):
        made = desk.poll[who].commits({0: GOOD})
        desk.takes(made, desk.poll[who].reveals(made))
    assert (desk.state(), desk.wants()) == ("open", 1)
    desk.votes({CAROL: GOOD}, attempt=1)
    assert desk.state() == "certified", "a vote of another attempt joins either of them"


def test_of_those_that_came_apart_each_may_commit_again_and_then_counts() -> None:
    desk = Desk()
    first, second = sorted((ALICE, BOB))
    for who in (first, second):
        made = desk.poll[who].commits({0: GOOD})
        desk.takes(made, desk.poll[who].reveals(made))
    assert desk.settlement.counts_for(0, first, GOOD, NOW, desk.counts)
    assert not desk.settlement.counts_for(0, second, GOOD, NOW, desk.counts)
    assert states(desk.votes({second: GOOD}, attempt=1)) == ["certified"]


def test_an_author_that_votes_for_two_digests_counts_once_and_may_be_proved_wrong() -> None:
    desk = Desk()
    mallory = desk.poll[MALLORY]
    made = mallory.commits({0: BAD})
    desk.takes(made, mallory.reveals(made))
    outcome = desk.takes(mallory.reveals(made, digest=GOOD))
    assert [fault.author for fault in outcome.faults] == [MALLORY]
    desk.votes({ALICE: GOOD}, attempt=1)
    assert desk.state() == "open"
    assert [vote.digest for vote in desk.settlement.units[0].votes[MALLORY]] == [BAD]


def test_an_author_that_votes_twice_counts_once() -> None:
    desk = Desk()
    for attempt in (0, 1):
        desk.votes({MALLORY: BAD}, attempt)
    assert (desk.state(), desk.wants()) == ("open", 1)


def test_two_votes_of_an_author_in_one_frame_count_once() -> None:
    desk = Desk()
    mallory = desk.poll[MALLORY]
    made = mallory.commits({0: BAD})
    opening = mallory.opening(made)
    outcome = desk.takes(made, mallory.says(opening, opening))
    assert (desk.state(), desk.wants()) == ("open", 1)
    assert outcome.faults == []


def test_a_reveal_that_contradicts_its_commitment_counts_for_nothing_and_may_be_proved() -> None:
    desk = Desk()
    bob = desk.poll[BOB]
    made = bob.commits({0: GOOD})
    opening = bob.opening(made)
    wrong = (
        msgspec.structs.replace(opening, seed=bytes(32)),
        msgspec.structs.replace(
            opening, items=(msgspec.structs.replace(opening.items[0], unit=1),)
        ),
    )
    desk.takes(made)
    for entry in wrong:
        outcome = desk.takes(bob.says(entry))
        assert [fault.author for fault in outcome.faults] == [BOB]
    assert desk.settlement.units[0].votes == {}


def test_a_second_commitment_in_one_attempt_is_nobodys_fault_and_not_taken() -> None:
    desk = Desk()
    made = [desk.poll[BOB].commits({0: answer}) for answer in (GOOD, BAD)]
    assert desk.takes(*made).faults == []
    assert [each.frame for each in desk.settlement.units[0].commits[BOB]] == [made[0].hash]


def test_what_one_author_may_commit_to_on_a_unit_is_bounded() -> None:
    desk = Desk()
    for attempt in range(2 * ATTEMPTS_A_PEER):
        desk.votes({MALLORY: BAD}, attempt)
    assert len(desk.settlement.units[0].commits[MALLORY]) == ATTEMPTS_A_PEER


def test_nobody_makes_the_others_skip_an_attempt() -> None:
    desk = Desk()
    desk.votes({MALLORY: BAD}, attempt=200)
    assert desk.settlement.units[0].attempt == 0
    desk.votes({MALLORY: BAD}, attempt=0)
    assert desk.settlement.units[0].attempt == 1


def test_one_peer_does_not_use_up_the_attempts_of_the_others() -> None:
    desk = Desk()
    for attempt in range(100):
        desk.votes({MALLORY: BAD}, attempt)
    assert desk.settlement.units[0].attempt == ATTEMPTS_A_PEER
    desk.votes({ALICE: GOOD, BOB: GOOD}, ATTEMPTS_A_PEER)
    assert desk.state() == "certified"


# ---- two answers -----------------------------------------------------------------------------


def test_a_late_vote_changes_nothing_that_is_settled() -> None:
    desk = Desk()
    desk.votes({ALICE: GOOD, BOB: GOOD})
    desk.settlement.settle(0)
    outcome = desk.votes({MALLORY: BAD, CAROL: BAD, DAVE: BAD})
    assert outcome.rows == []
    assert desk.state() == "settled"
    made = desk.certificate()
    assert made is not None
    assert made.digest == GOOD


def test_a_second_digest_that_reaches_the_quorum_contests_the_unit() -> None:
    desk = Desk()
    desk.votes({**LIARS, BOB: GOOD})
    assert desk.state() == "certified"
    assert states(desk.votes({CAROL: GOOD}, attempt=1)) == ["contested"]
    assert (desk.state(), desk.wants()) == ("contested", 1)
    assert desk.certificate() is None


def test_a_certificate_that_turns_needs_one_vote_more_and_says_so() -> None:
    desk = Desk()
    desk.votes({**LIARS, **HONEST})
    outcome = desk.votes({DAVE: GOOD}, attempt=1)
    made = decode(outcome.rows[0].detail, Certificate, 10_000)
    assert (made.digest, len(made.votes), len(made.against)) == (GOOD, 3, 2)


def test_more_votes_for_a_certified_answer_leave_its_certificate_as_it_is() -> None:
    desk = Desk()
    desk.votes({ALICE: GOOD, BOB: GOOD})
    made = desk.certificate()
    assert states(desk.votes({CAROL: GOOD}, attempt=1)) == []
    assert desk.certificate() == made
    assert states(desk.votes({DAVE: BAD}, attempt=2)) == ["certified"], "it names who is against"


def test_votes_that_are_withdrawn_reopen_only_what_is_not_final() -> None:
    desk = Desk()
    desk.votes({MALLORY: GOOD, ALICE: GOOD}, unit=0)
    desk.votes({MALLORY: GOOD}, unit=1)
    desk.votes({MALLORY: GOOD, ALICE: GOOD}, unit=2)
    desk.settlement.settle(2)
    desk.votes({ALICE: BAD}, unit=3)
    assert [desk.wants(unit) for unit in range(4)] == [0, 1, 0, 1]

    desk.muted.add(MALLORY)
    desk.settlement.again([0, 1, 2, 3], NOW, desk.counts)
    assert [desk.state(unit) for unit in range(4)] == ["open", "open", "settled", "open"]
    assert [desk.wants(unit) for unit in range(4)] == [1, 2, 0, 1]


def test_a_contested_unit_is_decided_when_the_liars_lose_their_votes() -> None:
    desk = Desk()
    desk.votes({**LIARS, **HONEST})
    assert desk.state() == "contested"
    desk.muted |= set(LIARS)
    assert states(desk.settlement.again([0], NOW, desk.counts)) == ["certified"]
    made = desk.certificate()
    assert made is not None
    assert (made.digest, made.against) == (GOOD, ())


def test_a_vote_whose_commitment_held_other_bytes_counts_no_more() -> None:
    desk = Desk()
    desk.votes({ALICE: GOOD, MALLORY: GOOD})
    desk.settlement.units[0].opened[MALLORY, 0] = False
    assert states(desk.settlement.again([0], NOW, desk.counts)) == ["open"]
    assert desk.wants() == 1


def test_the_publishers_word_is_final_for_everybody_else() -> None:
    desk = Desk()
    desk.votes(LIARS)
    assert states(desk.takes(desk.poll[peer("paula")].says(Audit(0, GOOD)))) == [
        "certified",
        "settled",
    ]
    made = desk.certificate()
    assert made is not None
    assert (made.digest, made.votes, len(made.against)) == (GOOD, (), 2)
    assert made.audit is not None


# ---- failures --------------------------------------------------------------------------------


def test_a_failed_unit_keeps_its_reason_and_stays_failed() -> None:
    desk = Desk()
    desk.fails(ALICE, "memory: too much")
    outcome = desk.fails(BOB, "memory: too much")
    assert [(row.state, row.detail) for row in outcome.rows] == [("failed", b"memory: too much")]
    desk.votes({CAROL: GOOD, DAVE: GOOD})
    assert desk.state() == "failed"


def test_a_vote_replaces_its_authors_failure_but_not_the_reverse() -> None:
    desk = Desk()
    desk.fails(ALICE, "cpu: too long")
    desk.votes({ALICE: GOOD})
    assert desk.settlement.units[0].failures == {}
    desk.fails(ALICE, "cpu: too long")
    assert desk.settlement.units[0].failures == {}


@pytest.mark.parametrize("answered_first", [True, False])
def test_a_failure_beside_a_commitment_says_nothing_in_either_order(answered_first: bool) -> None:
    desk = Desk()
    bob = desk.poll[BOB]
    frames = [bob.commits({0: GOOD}), bob.says(Failure(0, 0, "cpu: too long"))]
    desk.takes(*(frames if answered_first else reversed(frames)))
    assert desk.settlement.units[0].failures == {}


def test_when_the_replicas_are_used_up_a_unit_fails_with_what_they_gave() -> None:
    desk = Desk(replicas_max=3)
    outcome = desk.votes({ALICE: GOOD, BOB: BAD, CAROL: UGLY})
    assert [(row.state, row.detail) for row in outcome.rows] == [
        ("failed", b"3 replicas gave 3 different answers")
    ]
    assert desk.wants() == 0


def test_votes_that_may_still_be_joined_do_not_use_the_replicas_up() -> None:
    desk = Desk(replicas_max=2)
    for who in (ALICE, BOB):
        made = desk.poll[who].commits({0: GOOD})
        desk.takes(made, desk.poll[who].reveals(made))
    assert desk.state() == "open"
    desk.votes({max(ALICE, BOB): GOOD}, attempt=1)
    assert desk.state() == "certified"


@pytest.mark.parametrize("how", ["withdrawn", "opened"])
def test_votes_that_count_no_more_agree_with_nobody(how: str) -> None:
    desk = Desk(replicas_max=3)
    desk.votes({ALICE: GOOD, CAROL: BAD})
    unit = desk.settlement.units[0]
    if how == "withdrawn":
        unit.withdrawn[ALICE, 0] = True
    else:
        unit.opened[ALICE, 0] = False
    outcome = desk.votes({BOB: GOOD}, attempt=1)
    assert [(row.state, row.detail) for row in outcome.rows] == [
        ("failed", b"3 replicas gave 2 different answers")
    ]


def test_who_was_found_out_does_not_keep_a_unit_from_failing_that_cannot_be_run() -> None:
    desk = Desk()
    desk.votes({MALLORY: BAD})
    desk.settlement.units[0].withdrawn[MALLORY, 0] = True
    desk.fails(ALICE, "memory: too much")
    outcome = desk.fails(BOB, "memory: too much")
    assert [(row.state, row.detail) for row in outcome.rows] == [("failed", b"memory: too much")]


# ---- written down ----------------------------------------------------------------------------


def test_a_settlement_can_be_written_down_and_read_back() -> None:
    desk = Desk()
    desk.votes({ALICE: GOOD, BOB: BAD})
    desk.takes(desk.poll[CAROL].commits({1: GOOD, 2: BAD}))
    waiting = desk.poll[DAVE].commits({3: GOOD})
    desk.takes(desk.poll[DAVE].reveals(waiting))
    desk.fails(MALLORY, "cpu: too long", unit=5)
    data = msgspec.msgpack.encode(desk.settlement)
    again = msgspec.msgpack.decode(data, type=Settlement)
    assert again == desk.settlement
    assert msgspec.msgpack.encode(again) == data
    assert isinstance(waiting.frame.entries[0], Commit)
    outcome = again.apply(waiting, NOW, desk.counts)
    assert outcome.touched == [3], "what waited in it for its commitment waits still"
    assert isinstance(desk.poll[DAVE].opening(waiting), Reveal)
