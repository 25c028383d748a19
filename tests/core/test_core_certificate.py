"""The certificate rule, held against its chapter: what holds, and all that keeps one from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from core_samples import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    MALLORY,
    NETWORK,
    PAULA,
    WALL_MS,
    manifest,
    peer,
    seal,
)

from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, NetworkId, PeerId, sha256
from p2pfleet.core.model.job import Confidence, Exact, FixedQuorum, StopRule, Trust
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules.certificate import Ballot, candidate, check_certificate, closed, holds
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from tests.votes import Booth

GOOD, BAD, CLOSE = b"good", b"bad", b"close to good"
SALT = b"0123456789abcdef"
QUORUM = FixedQuorum(2, 8)
SURE = Confidence(error_ppb=1_000_000, faulty_ppm=200_000, replicas_max=16)
"""theta = .999 with a fifth of the peers faulty."""


def digest(output: bytes) -> Digest:
    return Digest(sha256(output))


def sealed(frame: ms.Frame) -> VerifiedFrame:
    body = seal(frame)
    return VerifiedFrame(body, FrameHash(body.hash), frame)


def snapshot(known: dict[PeerId, int], **changes: Any) -> VerifiedSnapshot:
    records = tuple(ms.PeerChecks(who, known[who]) for who in sorted(known))
    body = ms.Snapshot(NETWORK, PAULA, "any", 1, WALL_MS, records)
    body = msgspec.structs.replace(body, **changes)
    return VerifiedSnapshot(seal(body), Digest(seal(body).hash), body)


class World:
    """A job, its votes, and the certificates that one may make of them."""

    def __init__(
        self,
        stop: StopRule = QUORUM,
        known: dict[PeerId, int] | None = None,
        comparison: Exact | Tolerance | None = None,
    ) -> None:
        self.snapshots: dict[Digest, VerifiedSnapshot] = {}
        self.snapshot: Digest | None = None
        if known is not None:
            made = snapshot(known)
            self.snapshots[made.hash] = made
            self.snapshot = made.hash
        self.manifest = msgspec.structs.replace(
            manifest(),
            stop=stop,
            comparison=comparison or Exact(),
            trust=Trust(snapshot=self.snapshot),
        )
        self.job = JobId(seal(self.manifest).hash)
        self.booth = Booth(NETWORK, self.job, sealed)

    def vote(
        self, authors: Sequence[PeerId], output: bytes = GOOD, attempt: int = 0
    ) -> tuple[ms.VoteRef, ...]:
        return self.booth.vote(authors, 3, output, attempt)

    def certificate(
        self,
        votes: Sequence[ms.VoteRef],
        against: Sequence[ms.VoteRef] = (),
        audit: ms.VoteRef | None = None,
        output: bytes = GOOD,
    ) -> ms.Certificate:
        return ms.Certificate(
            self.job, 3, digest(output), self.snapshot, tuple(votes), tuple(against), audit
        )

    def why(
        self,
        made: ms.Certificate,
        output: bytes | None = None,
        trust: dict[PeerId, int] | None = None,
    ) -> str | None:
        own = None if trust is None else snapshot(trust).snapshot
        return check_certificate(
            self.manifest, self.job, made, self.booth.frames, self.snapshots, output, own
        )


# ---- certificates that hold ------------------------------------------------------------------


def test_as_many_closed_votes_as_the_quorum_hold() -> None:
    world = World()
    assert world.why(world.certificate(world.vote([ALICE, BOB])), GOOD) is None


def test_fewer_do_not() -> None:
    world = World()
    made = world.certificate(world.vote([ALICE]))
    assert world.why(made) == "1 votes are not enough beside 0 for other answers"
    assert "0 votes" in (world.why(world.certificate(())) or "")


def test_each_vote_by_which_another_answer_passes_the_quorum_less_one_takes_one_more() -> None:
    world = World()
    votes = world.vote([ALICE, BOB, CAROL])
    against = world.vote([DAVE, MALLORY], BAD)
    assert world.why(world.certificate(votes, against)) is None
    assert "2 votes are not enough" in (world.why(world.certificate(votes[:2], against)) or "")
    assert world.why(world.certificate(votes[:2], against[:1])) is None


def test_enough_newcomers_make_a_first_job_sure() -> None:
    peers = [peer(str(number)) for number in range(12)]
    world = World(SURE)
    votes = world.vote(peers)
    results = [world.why(world.certificate(votes[:count])) is None for count in range(1, 13)]
    assert results.index(True) == 5, "4^6 is more than 1,999, 4^5 is not"
    assert all(results[5:])


def test_peers_with_a_record_are_believed_sooner() -> None:
    world = World(SURE, {ALICE: 300, BOB: 300})
    votes = world.vote([ALICE, BOB])
    assert world.why(world.certificate(votes), GOOD) is None
    assert world.why(world.certificate(votes), GOOD, trust={ALICE: 300, BOB: 300}) is None
    assert "not enough" in (world.why(world.certificate(votes), GOOD, trust={ALICE: 20}) or "")
    assert "not enough" in (world.why(world.certificate(votes), GOOD, trust={}) or "")


def test_newcomers_count_at_most_as_often_as_known_peers() -> None:
    crowd = [peer(str(number)) for number in range(20)]
    world = World(SURE, {ALICE: 1, BOB: 1})
    votes = world.vote([ALICE, BOB, *crowd])
    assert "not enough" in (world.why(world.certificate(votes)) or "")
    assert "not enough" in (world.why(world.certificate(votes[2:])) or "")


def test_against_an_answer_every_newcomer_counts() -> None:
    assert holds(SURE, [100, 100], [[0]], snapshot=True)
    assert not holds(SURE, [100, 100], [[0] * 6], snapshot=True)


def test_more_voters_than_the_rule_knows_certify_nothing() -> None:
    assert holds(SURE, [0] * 64, [], snapshot=False)
    assert not holds(SURE, [0] * 64, [[0]], snapshot=False)


def test_an_endorsement_votes_for_the_digest_of_another() -> None:
    world = World(comparison=Tolerance())
    theirs = world.booth.commit(ALICE, 3, GOOD)
    mine = world.booth.commit(BOB, 3, CLOSE)
    first = world.booth.reveal(theirs, digest(GOOD), [theirs, mine])
    own = world.booth.reveal(mine, digest(CLOSE), [theirs, mine])
    second = world.booth.endorse(BOB, 3, own, digest(GOOD))
    assert world.why(world.certificate([first, second]), GOOD) is None
    assert world.why(world.certificate([first, own])) == "a vote is for something else"
    assert "endorses where" in (
        check_certificate(
            msgspec.structs.replace(world.manifest, comparison=Exact()),
            world.job, world.certificate([first, second]), world.booth.frames, {},
        ) or ""
    )  # fmt: skip


def test_the_publishers_word_stands_without_any_vote() -> None:
    world = World()
    word = world.booth.write(PAULA, ms.Audit(3, digest(GOOD)))
    against = world.vote([ALICE, BOB], BAD)
    ref = ms.VoteRef(word.hash, 0)
    assert world.why(world.certificate((), (), ref), GOOD) is None
    assert world.why(world.certificate((), against, ref), GOOD) is None


@pytest.mark.parametrize(
    ("author", "entry", "item", "told"),
    [
        (ALICE, ms.Audit(3, digest(GOOD)), 0, "is none"),
        (PAULA, ms.Claim((3,)), 0, "is none"),
        (PAULA, ms.Audit(4, digest(GOOD)), 0, "about something else"),
        (PAULA, ms.Audit(3, digest(BAD)), 0, "about something else"),
        (PAULA, ms.Audit(3, digest(GOOD)), 1, "is none"),
    ],
)
def test_what_is_not_the_publishers_word_on_this_answer_is_none(
    author: PeerId, entry: ms.Entry, item: int, told: str
) -> None:
    world = World()
    word = world.booth.write(author, entry)
    made = world.certificate((), (), ms.VoteRef(word.hash, 0, item))
    assert told in (world.why(made) or "")


def test_later_attempts_join_earlier_ones() -> None:
    world = World()
    first = world.vote([ALICE])
    later = world.vote([BOB], attempt=1)
    assert world.why(world.certificate([*first, *later]), GOOD) is None


# ---- certificates that do not ----------------------------------------------------------------


def test_votes_of_which_one_was_committed_to_after_another_was_revealed_are_not_closed() -> None:
    world = World()
    first = world.vote([ALICE])
    late = world.booth.commit(MALLORY, 3, GOOD)
    early = [frame for frame in world.booth.frames.values() if frame.author == ALICE][:1]
    copied = world.booth.reveal(late, digest(GOOD), [late, *early])
    assert "not closed" in (world.why(world.certificate([*first, copied])) or "")


def test_the_frames_that_a_reveal_has_seen_have_to_name_the_others_commitment() -> None:
    world = World()
    commits = [world.booth.commit(who, 3, GOOD) for who in (ALICE, BOB)]
    blind = world.booth.reveal(commits[0], digest(GOOD), commits[:1])
    seeing = world.booth.reveal(commits[1], digest(GOOD), commits)
    assert "not closed" in (world.why(world.certificate([blind, seeing])) or "")


def test_nobody_votes_twice() -> None:
    world = World()
    one = world.vote([ALICE])
    two = world.vote([ALICE], attempt=1)
    other = world.vote([ALICE], BAD, attempt=2)
    for made in (
        world.certificate([*one, *one]),
        world.certificate([*one, *two]),
        world.certificate(one, other),
    ):
        assert world.why(made) == "somebody votes twice"


def test_votes_against_are_not_for_it() -> None:
    world = World()
    votes = world.vote([ALICE, BOB, CAROL])
    assert "is for it" in (world.why(world.certificate(votes[:2], votes[2:])) or "")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"job": JobId(bytes(32))}, "it belongs to another job"),
        ({"unit": 10}, "the job has no unit 10"),
        ({"unit": 4}, "votes on another unit"),
        ({"digest": digest(BAD)}, "a vote is for something else"),
        ({"snapshot": digest(b"none")}, "is missing"),
    ],
)
def test_a_changed_certificate_does_not_hold(change: dict[str, Any], told: str) -> None:
    world = World()
    made = world.certificate(world.vote([ALICE, BOB]))
    assert told in (world.why(msgspec.structs.replace(made, **change)) or "")


def test_a_vote_that_is_not_there_does_not_hold() -> None:
    world = World()
    votes = world.vote([ALICE, BOB])
    for wrong, told in (
        (ms.VoteRef(FrameHash(bytes(32)), 0), "is missing"),
        (ms.VoteRef(votes[1].frame, 1), "is not there"),
        (ms.VoteRef(votes[1].frame, 0, 1), "has no item 1"),
        (ms.VoteRef(next(iter(world.booth.frames)), 0), "is no vote"),
    ):
        assert told in (world.why(world.certificate([votes[0], wrong])) or "")


@pytest.mark.parametrize("field", ["job", "network"])
def test_a_vote_from_another_job_or_network_does_not_hold(field: str) -> None:
    world = World()
    votes = world.vote([ALICE, BOB])
    stray = Booth(
        NetworkId(bytes(32)) if field == "network" else NETWORK,
        JobId(bytes(32)) if field == "job" else world.job,
        sealed,
    )
    (other,) = stray.vote([CAROL], 3, GOOD)
    world.booth.frames.update(stray.frames)
    assert "another job or network" in (world.why(world.certificate([votes[0], other])) or "")


def test_the_publishers_own_vote_does_not_count() -> None:
    world = World()
    made = world.certificate(world.vote([ALICE, PAULA]))
    assert world.why(made) == "the publisher's own vote does not count"


def test_a_reveal_without_its_commitment_or_of_anothers_does_not_hold() -> None:
    world = World()
    commits = [world.booth.commit(who, 3, GOOD) for who in (ALICE, BOB)]
    first = world.booth.reveal(commits[0], digest(GOOD), commits)
    entry = world.booth.frames[first.frame].frame.entries[0]
    assert isinstance(entry, ms.Reveal)
    for changes, told in (
        ({"commit": commits[1].hash}, "another's commitment"),
        ({"commit": FrameHash(bytes(32))}, "is missing"),
        ({"commit": first.frame}, "without the commitment"),
        ({"index": 1}, "without the commitment"),
        ({"seed": bytes(32)}, "the seed is not the one"),
        ({"items": (msgspec.structs.replace(entry.items[0], attempt=1),)}, "other units"),
    ):
        wrong = world.booth.write(ALICE, msgspec.structs.replace(entry, **changes))
        second = world.booth.reveal(commits[1], digest(GOOD), commits)
        made = world.certificate([ms.VoteRef(wrong.hash, 0), second])
        assert told in (world.why(made) or ""), changes


def test_a_vote_that_was_committed_to_without_the_bytes_does_not_hold_beside_them() -> None:
    world = World()
    commits = [world.booth.commit(ALICE, 3, GOOD), world.booth.commit(MALLORY, 3, b"guessed")]
    votes = [world.booth.reveal(each, digest(GOOD), commits) for each in commits]
    made = world.certificate(votes)
    assert world.why(made) is None, "without the bytes nobody can tell"
    assert "without its bytes" in (world.why(made, GOOD) or "")


def test_an_endorsement_needs_a_result_of_ones_own_on_the_unit() -> None:
    world = World(comparison=Tolerance())
    votes = world.vote([ALICE, BOB])
    elsewhere = world.booth.vote([CAROL], 4, CLOSE)[0]
    mine = world.vote([CAROL], CLOSE)[0]
    commit = next(frame for frame in world.booth.frames.values() if frame.author == CAROL)
    for own, told in (
        (votes[0], "without an own result"),
        (ms.VoteRef(commit.hash, 0), "without an own result"),
        (ms.VoteRef(mine.frame, 7), "without an own result"),
        (elsewhere, "votes on another unit"),
    ):
        made = world.booth.endorse(CAROL, 3, own, digest(GOOD))
        assert told in (world.why(world.certificate([votes[0], made])) or "")
    wrong_unit = world.booth.endorse(CAROL, 4, elsewhere, digest(GOOD))
    assert "another unit" in (world.why(world.certificate([votes[0], wrong_unit])) or "")
    good = world.booth.endorse(CAROL, 3, mine, digest(GOOD))
    item = ms.VoteRef(good.frame, 0, 1)
    assert "has no item" in (world.why(world.certificate([votes[0], item])) or "")


# ---- trust snapshots -------------------------------------------------------------------------


def test_a_certificate_must_not_leave_the_jobs_snapshot_out() -> None:
    world = World(SURE, {ALICE: 300, BOB: 300})
    made = world.certificate(world.vote([ALICE, BOB]))
    bare = msgspec.structs.replace(made, snapshot=None)
    assert world.why(bare) == "it leaves the job's trust snapshot out"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"network": NetworkId(bytes(32))}, "somebody else's"),
        ({"publisher": MALLORY}, "somebody else's"),
        ({"model_class": "other"}, "another class of models"),
    ],
)
def test_a_snapshot_of_somebody_or_something_else_weighs_nothing(
    change: dict[str, Any], told: str
) -> None:
    world = World(SURE, {ALICE: 300, BOB: 300})
    made = world.certificate(world.vote([ALICE, BOB]))
    wrong = snapshot({ALICE: 300, BOB: 300}, **change)
    world.snapshots[wrong.hash] = wrong
    assert told in (world.why(msgspec.structs.replace(made, snapshot=wrong.hash)) or "")


def test_a_later_snapshot_of_the_same_publisher_may_weigh_votes() -> None:
    world = World(SURE, {ALICE: 1})
    made = world.certificate(world.vote([ALICE, BOB]))
    assert "not enough" in (world.why(made) or "")
    later = snapshot({ALICE: 300, BOB: 300}, number=2)
    world.snapshots[later.hash] = later
    assert world.why(msgspec.structs.replace(made, snapshot=later.hash)) is None


def test_a_record_is_found_by_its_key_and_nothing_else() -> None:
    known = {peer(str(number)): number + 1 for number in range(9)}
    body = snapshot(known).snapshot
    assert {who: rule.passed(body, who) for who in known} == known
    assert rule.passed(body, ALICE) == rule.passed(None, ALICE) == 0
    assert rule.passed(snapshot({}).snapshot, ALICE) == 0


# ---- what a node makes of ballots ------------------------------------------------------------


def ballot(
    who: PeerId, output: bytes = GOOD, checks: int = 0, attempt: int = 0, seen: str = ""
) -> Ballot:
    """``seen`` names the peers whose commitments were seen, by the first letter."""
    names = tuple(sorted(FrameHash(sha256(one.encode())) for one in seen))
    mine = FrameHash(sha256(_letter(who).encode()))
    ref = ms.VoteRef(mine, attempt)
    return Ballot(who, digest(output), checks, attempt, mine, names, ref)


def _letter(who: PeerId) -> str:
    return {ALICE: "a", BOB: "b", CAROL: "c", DAVE: "d", MALLORY: "m"}[who]


def test_votes_count_together_if_each_has_seen_the_other() -> None:
    one, two = ballot(ALICE, seen="ab"), ballot(BOB, seen="ab")
    assert rule.together(one, two)
    assert not rule.together(one, ballot(BOB, seen="b"))
    assert rule.together(one, ballot(BOB, attempt=1))


def test_of_votes_that_do_not_count_together_those_with_more_checks_come_first() -> None:
    ballots = [ballot(ALICE, seen="a"), ballot(BOB, seen="bc"), ballot(CAROL, seen="bc", checks=9)]
    assert {one.peer for one in closed(ballots)} == {BOB, CAROL}
    again = ballot(ALICE, attempt=1)
    assert {one.peer for one in closed([*ballots, again])} == {ALICE, BOB, CAROL}
    assert len(closed([ballot(ALICE), ballot(ALICE, attempt=1)])) == 1


def test_a_peer_that_answered_both_ways_speaks_for_the_answer_and_not_against_it() -> None:
    ballots = [ballot(ALICE, BAD), ballot(ALICE, GOOD, attempt=1), ballot(BOB, BAD, attempt=2)]
    mine = candidate(digest(GOOD), ballots)
    assert [one.peer for one in mine.votes] == [ALICE]
    assert [one.peer for one in mine.against] == [BOB]
    assert mine.others == [[0]]


def test_against_an_answer_speaks_the_last_of_a_peers_other_answers() -> None:
    ballots = [ballot(BOB, BAD), ballot(BOB, CLOSE, attempt=1), ballot(ALICE)]
    assert [one.digest for one in candidate(digest(GOOD), ballots).against] == [digest(CLOSE)]


def test_the_weightiest_answer_leads_and_ties_go_to_the_lowest_hash() -> None:
    stop = SURE
    ballots = [ballot(ALICE, GOOD, 5), ballot(BOB, BAD, 50)]
    assert rule.ranking(ballots, stop, SALT, 3)[0].digest == digest(BAD)
    assert rule.ranking(ballots[::-1], stop, SALT, 3)[0].digest == digest(BAD)
    tie = [ballot(ALICE, GOOD), ballot(BOB, BAD)]
    lowest = min((digest(GOOD), digest(BAD)), key=lambda one: rule.tie_break(SALT, 3, one))
    assert rule.ranking(tie, QUORUM, SALT, 3)[0].digest == lowest


def test_so_many_more_votes_as_are_missing_certify_and_one_fewer_does_not() -> None:
    for stop, votes, against, checks in (
        (QUORUM, [], [], 0),
        (QUORUM, [0], [[0, 0]], 0),
        (SURE, [], [], 0),
        (SURE, [20], [[0]], 20),
        (SURE, [7, 0], [], 0),
    ):
        for trusting in (False, True):
            more = rule.missing(stop, votes, against, checks, trusting)
            enough = holds(stop, [*votes, *[checks] * more], against, trusting)
            assert enough or more == stop.replicas_max
            assert not more or not holds(stop, [*votes, *[checks] * (more - 1)], against, trusting)
