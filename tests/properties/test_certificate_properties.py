"""The certificate rule against a naive one, and what holds for every set of votes."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from core_samples import PAULA
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from naive_certificate import (
    CHANCE,
    CHECKS,
    DIGESTS,
    OUTPUTS,
    PEERS,
    STOPS,
    UNIT,
    WORLDS,
    Cast,
    World,
    a_certificate,
    naive_check,
    naive_closed,
    naive_holds,
    vote_of,
)

from p2pfleet.core.model.ids import FrameHash, sha256
from p2pfleet.core.model.job import FixedQuorum, StopRule
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules.certificate import Ballot, check_certificate
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame


@settings(max_examples=1_000)
@given(WORLDS, CHANCE)
def test_a_certificate_holds_if_and_only_if_the_naive_rule_says_so(
    world: World, chance: Random
) -> None:
    made = a_certificate(world, chance)
    output = chance.choice([None, OUTPUTS[0], OUTPUTS[0], OUTPUTS[1]])
    why = check_certificate(world.manifest, world.job, made, world.frames, world.snapshots, output)
    assert (why is None) == naive_check(world, made, output), why


@settings(max_examples=300)
@given(WORLDS, CHANCE)
def test_a_certificate_without_one_of_its_frames_does_not_hold(
    world: World, chance: Random
) -> None:
    made = a_certificate(world, chance)
    named = {ref.frame for ref in (*made.votes, *made.against)}
    if made.audit is not None:
        named.add(made.audit.frame)
    assume(named)
    fewer = dict(world.frames)
    fewer.pop(chance.choice(sorted(named)), None)
    assert check_certificate(world.manifest, world.job, made, fewer, world.snapshots)


BALLOTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 2), CHECKS, st.integers(0, 2), st.sets(st.integers(0, 4))
    ),
    max_size=8,
    unique_by=lambda one: (one[0], one[3]),
)


def ballots_of(drawn: Iterable[tuple[int, int, int, int, set[int]]]) -> list[Ballot]:
    """Ballots of peers who committed in one frame an attempt, and say whose they have seen."""
    return [
        Ballot(
            PEERS[who],
            DIGESTS[answer],
            checks,
            attempt,
            _commit(who, attempt),
            tuple(sorted(_commit(other, attempt) for other in seen)),
            ms.VoteRef(_commit(who, attempt), 1),
        )
        for who, answer, checks, attempt, seen in drawn
    ]


def _commit(who: int, attempt: int) -> FrameHash:
    return FrameHash(sha256(bytes([who, attempt])))


@settings(max_examples=300)
@given(BALLOTS)
def test_the_votes_that_count_together_are_the_first_closed_subset(drawn: Any) -> None:
    ballots = ballots_of(drawn)
    assert rule.closed(ballots) == naive_closed(ballots)


@settings(max_examples=300)
@given(BALLOTS, st.randoms(use_true_random=False), STOPS)
def test_the_order_of_ballots_changes_nothing(drawn: Any, random: Any, stop: StopRule) -> None:
    ballots = ballots_of(drawn)
    shuffled = list(ballots)
    random.shuffle(shuffled)
    assert rule.ranking(ballots, stop, bytes(16), UNIT) == rule.ranking(
        shuffled, stop, bytes(16), UNIT
    )


@settings(max_examples=300)
@given(BALLOTS)
def test_every_peer_speaks_once_for_a_result_or_against_it(drawn: Any) -> None:
    ballots = ballots_of(drawn)
    for each in rule.ranking(ballots, FixedQuorum(1, 1), bytes(16), UNIT):
        voters = [one.peer for one in (*each.votes, *each.against)]
        assert len(voters) == len(set(voters))
        assert all(one.digest == each.digest for one in each.votes)
        assert all(one.digest != each.digest for one in each.against)
        support = {one.peer for one in ballots if one.digest == each.digest}
        assert {one.peer for one in each.against} == {one.peer for one in ballots} - support


GROUP = st.lists(CHECKS, min_size=1, max_size=4)


@settings(max_examples=500)
@given(STOPS, st.lists(CHECKS, max_size=6), st.lists(GROUP, max_size=3), st.booleans())
def test_votes_are_enough_if_and_only_if_the_naive_rule_says_so(
    stop: StopRule, votes: list[int], against: list[list[int]], snapshot: bool
) -> None:
    assert rule.holds(stop, votes, against, snapshot) == naive_holds(stop, votes, against, snapshot)


@settings(max_examples=300)
@given(STOPS, st.lists(CHECKS, max_size=6), st.lists(GROUP, max_size=3), st.booleans(), CHECKS)
def test_a_vote_for_a_result_never_harms_it_and_one_against_it_never_helps(
    stop: StopRule, votes: list[int], against: list[list[int]], snapshot: bool, checks: int
) -> None:
    before = rule.holds(stop, votes, against, snapshot)
    assert rule.holds(stop, [*votes, checks], against, snapshot) >= before
    assert rule.holds(stop, votes, [*against, [checks]], snapshot) <= before
    for number in range(len(against)):
        more = [[*group, checks] if at == number else group for at, group in enumerate(against)]
        assert rule.holds(stop, votes, more, snapshot) <= before


@settings(max_examples=300)
@given(WORLDS)
def test_what_a_node_certifies_by_its_ballots_holds_for_everybody_else(world: World) -> None:
    records = None if world.snapshot is None else world.snapshots[world.snapshot].snapshot
    ballots = []
    for ref in world.refs:
        entry = world.frames[ref.frame].frame.entries[0]
        who = world.frames[ref.frame].author
        if not Cast(world, UNIT, ref).valid:
            continue
        reveal = entry
        if isinstance(entry, ms.Endorse):
            reveal = world.frames[entry.own.frame].frame.entries[0]
        assert isinstance(reveal, ms.Reveal)
        checks = rule.passed(records, who)
        digest = vote_of(world, ref)
        assert digest is not None
        ballots.append(
            Ballot(who, digest, checks, reveal.items[0].attempt, reveal.commit, reveal.seen, ref)
        )
    for each in rule.ranking(ballots, world.manifest.stop, bytes(16), UNIT):
        made = ms.Certificate(
            world.job,
            UNIT,
            each.digest,
            world.snapshot,
            tuple(one.ref for one in each.votes),
            tuple(one.ref for one in each.against),
        )
        why = check_certificate(world.manifest, world.job, made, world.frames, world.snapshots)
        enough = each.holds(world.manifest.stop, world.snapshot is not None)
        assert (why is None) == enough, why


@settings(max_examples=200)
@given(WORLDS, CHANCE)
def test_honest_frames_prove_nothing_against_their_authors(world: World, chance: Random) -> None:
    """Whoever opens what it committed to and answers in each attempt once proves nothing."""
    frames = list(world.frames.values())
    assume(frames and not any(_contradicts(world, frame) for frame in frames))
    one, two = chance.choice(frames), chance.choice(frames)
    assert fault(one, two) == "" == fault(two, one)


def _contradicts(world: World, frame: VerifiedFrame) -> bool:
    entry = frame.frame.entries[0]
    return isinstance(entry, ms.Reveal) and not Cast(world, UNIT, ms.VoteRef(frame.hash, 0)).valid


@settings(max_examples=200)
@given(WORLDS)
def test_a_lying_reveal_and_its_commitment_prove_a_fault(world: World) -> None:
    for frame in list(world.frames.values()):
        entry = frame.frame.entries[0]
        if isinstance(entry, ms.Reveal) and _contradicts(world, frame):
            commits = world.frames[entry.commit]
            if commits.author == frame.author != PAULA:
                assert "reveal" in fault(frame, commits)
                assert "reveal" in fault(commits, frame)
            else:
                assert fault(frame, commits) == ""
