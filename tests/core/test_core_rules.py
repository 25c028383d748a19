"""The rules, each held against its chapter."""

from __future__ import annotations

import msgspec
import pytest
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAPABILITY,
    CAROL,
    DAVE,
    DAY_MS,
    GOOD,
    MALLORY,
    NETWORK,
    PAULA,
    SAMPLE,
    UGLY,
    WALL_MS,
    frame,
    manifest,
    peer,
    seal,
    unseal,
    vote,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ACCEPT, Ignore, Reject
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import JobId, Millis, NetworkId, PeerId
from p2pfleet.core.model.job import FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.admission import CLOCK_SKEW_MS, beyond, judge_closure, judge_manifest
from p2pfleet.core.rules.certificate import certificate, check_certificate, decide
from p2pfleet.core.rules.claims import gives_way, lease_units, preference, rank
from p2pfleet.core.rules.reputation import Record, has_vote, score
from p2pfleet.core.wire.messages import Certificate, Claim, Closure, VoteRef
from p2pfleet.core.wire.verified import VerifiedFrame

STOP = FixedQuorum(quorum=2, replicas_max=5)
SALT = b"0123456789abcdef"
TERMS = NetworkTerms(NETWORK)

# ---- decide ----------------------------------------------------------------------------------


def test_a_unit_without_votes_wants_the_quorum() -> None:
    decision = decide(STOP, {}, {})
    assert (decision.state, decision.wanted) == ("open", 2)


def test_a_unit_with_one_vote_wants_one_more() -> None:
    decision = decide(STOP, {ALICE: GOOD}, {})
    assert (decision.state, decision.wanted) == ("open", 1)


def test_the_quorum_certifies() -> None:
    decision = decide(STOP, {ALICE: GOOD, BOB: GOOD}, {})
    assert (decision.state, decision.digest, decision.attempt) == ("certified", GOOD, 0)
    assert decision.wanted == 0


def test_a_minority_of_one_does_not_stop_the_quorum() -> None:
    decision = decide(STOP, {ALICE: GOOD, BOB: GOOD, MALLORY: BAD}, {})
    assert (decision.state, decision.digest, decision.attempt) == ("certified", GOOD, 0)


def test_two_single_answers_want_one_replica_more() -> None:
    decision = decide(STOP, {ALICE: GOOD, MALLORY: BAD}, {})
    assert (decision.state, decision.wanted) == ("open", 1)


def test_two_digests_that_reach_the_quorum_contest_the_unit() -> None:
    votes = {ALICE: GOOD, BOB: GOOD, MALLORY: BAD, CAROL: BAD}
    decision = decide(STOP, votes, {})
    assert (decision.state, decision.attempt, decision.wanted) == ("contested", 1, 1)


def test_each_vote_that_the_runner_up_gains_raises_what_the_winner_needs() -> None:
    votes = {peer(str(number)): GOOD if number < 4 else BAD for number in range(7)}
    decision = decide(FixedQuorum(2, 64), votes, {})
    assert (decision.state, decision.digest, decision.attempt) == ("certified", GOOD, 2)
    votes[peer("7")] = BAD
    decision = decide(FixedQuorum(2, 64), votes, {})
    assert (decision.state, decision.attempt, decision.wanted) == ("contested", 3, 1)


def test_a_unit_fails_when_the_replicas_are_used_up() -> None:
    votes = {ALICE: GOOD, BOB: BAD, CAROL: UGLY}
    decision = decide(FixedQuorum(2, 3), votes, {})
    assert decision.state == "failed"
    assert decision.reason == "3 replicas gave 3 different answers"


def test_never_more_replicas_are_wanted_than_may_still_run() -> None:
    decision = decide(FixedQuorum(4, 5), {ALICE: GOOD, BOB: BAD, CAROL: UGLY}, {})
    assert (decision.state, decision.wanted) == ("open", 2)


def test_failures_of_a_quorum_without_any_vote_fail_the_unit_with_their_reason() -> None:
    failures = {ALICE: "memory: too much", BOB: "memory: too much", CAROL: "cpu: too long"}
    decision = decide(STOP, {}, failures)
    assert (decision.state, decision.reason) == ("failed", "memory: too much")


def test_one_failure_alone_leaves_the_unit_open() -> None:
    decision = decide(STOP, {}, {ALICE: "memory: too much"})
    assert (decision.state, decision.wanted) == ("open", 2)


def test_a_failure_uses_a_replica_up_but_is_no_vote() -> None:
    decision = decide(FixedQuorum(2, 2), {ALICE: GOOD}, {BOB: "cpu: too long"})
    assert (decision.state, decision.reason) == ("failed", "cpu: too long")


def test_votes_that_outnumber_the_failures_give_the_reason() -> None:
    votes = {ALICE: GOOD, BOB: BAD, CAROL: GOOD, DAVE: BAD}
    decision = decide(FixedQuorum(2, 5), votes, {MALLORY: "cpu: too long"})
    assert decision.reason == "5 replicas gave 2 different answers"


# ---- certificates ----------------------------------------------------------------------------


def sample_certificate() -> tuple[Certificate, dict[bytes, VerifiedFrame]]:
    """A valid certificate of unit 3 by Alice and Bob, and the frames that it needs, and more."""
    frames = [
        frame(ALICE, Claim((3,)), vote(3, GOOD)),
        frame(BOB, vote(3, GOOD)),
        frame(CAROL, vote(3, BAD), vote(4, GOOD)),
        frame(PAULA, vote(3, GOOD)),
        frame(BOB, vote(3, GOOD), sequence=1),
        frame(DAVE, vote(3, GOOD), job=JobId(bytes(32))),
        frame(DAVE, vote(3, GOOD), network=NetworkId(bytes(32))),
    ]
    votes = {
        ALICE: (GOOD, VoteRef(frames[0].hash, 1)),
        BOB: (GOOD, VoteRef(frames[1].hash, 0)),
        CAROL: (BAD, VoteRef(frames[2].hash, 0)),
    }
    decision = decide(STOP, {who: answer for who, (answer, _) in votes.items()}, {})
    made = certificate(SAMPLE.job, 3, decision, STOP, votes)
    return made, {item.hash: item for item in frames}


def replaced(made: Certificate, position: int, ref: VoteRef) -> Certificate:
    votes = list(made.votes)
    votes[position] = ref
    return msgspec.structs.replace(made, votes=tuple(votes))


def why(made: Certificate, frames: dict[bytes, VerifiedFrame]) -> str | None:
    return check_certificate(SAMPLE.manifest, SAMPLE.job, made, frames)  # type: ignore[arg-type]


def test_a_certificate_names_the_votes_it_needs_by_author_and_holds() -> None:
    made, frames = sample_certificate()
    assert [frames[ref.frame].author for ref in made.votes] == sorted([ALICE, BOB])
    assert why(made, frames) is None


def test_a_certificate_carries_no_more_votes_than_it_needs() -> None:
    frames = [frame(peer(str(number)), vote(0, GOOD)) for number in range(5)]
    votes = {item.author: (GOOD, VoteRef(item.hash, 0)) for item in frames}
    decision = decide(STOP, dict.fromkeys(votes, GOOD), {})
    assert len(certificate(SAMPLE.job, 0, decision, STOP, votes).votes) == 2


def test_a_certificate_of_another_job_does_not_hold() -> None:
    made, frames = sample_certificate()
    made = msgspec.structs.replace(made, job=JobId(bytes(32)))
    assert why(made, frames) == "it belongs to another job"


def test_a_certificate_of_a_unit_that_the_job_lacks_does_not_hold() -> None:
    made, frames = sample_certificate()
    made = msgspec.structs.replace(made, unit=SAMPLE.manifest.units)
    assert why(made, frames) == "the job has no unit 10"


def test_a_certificate_whose_frame_is_missing_does_not_hold() -> None:
    made, frames = sample_certificate()
    del frames[made.votes[0].frame]
    assert "is missing" in (why(made, frames) or "")


@pytest.mark.parametrize("number", [5, 6])
def test_a_vote_from_another_job_or_network_does_not_hold(number: int) -> None:
    made, frames = sample_certificate()
    made = replaced(made, 0, VoteRef(list(frames.values())[number].hash, 0))
    assert "belongs to another job or network" in (why(made, frames) or "")


def test_a_vote_behind_the_end_of_its_frame_does_not_hold() -> None:
    made, frames = sample_certificate()
    made = replaced(made, 0, VoteRef(made.votes[0].frame, 9))
    assert "has no entry 9" in (why(made, frames) or "")


def test_an_entry_that_is_no_vote_does_not_hold() -> None:
    made, frames = sample_certificate()
    claim = next(item for item in frames.values() if item.author == ALICE)
    assert "is no vote" in (why(replaced(made, 0, VoteRef(claim.hash, 0)), frames) or "")


@pytest.mark.parametrize("index", [0, 1])
def test_a_vote_for_another_unit_or_digest_does_not_hold(index: int) -> None:
    made, frames = sample_certificate()
    other = next(item for item in frames.values() if item.author == CAROL)
    reason = why(replaced(made, 0, VoteRef(other.hash, index)), frames)
    assert "votes for something else" in (reason or "")


def test_the_publishers_own_vote_does_not_hold() -> None:
    made, frames = sample_certificate()
    own = next(item for item in frames.values() if item.author == PAULA)
    reason = why(replaced(made, 0, VoteRef(own.hash, 0)), frames)
    assert reason == "the publisher's own vote does not count"


def test_two_votes_of_one_peer_count_once() -> None:
    made, frames = sample_certificate()
    again = [item for item in frames.values() if item.author == BOB]
    refs = tuple(VoteRef(item.hash, 0) for item in again)
    reason = why(msgspec.structs.replace(made, votes=refs), frames)
    assert reason == "1 voters where 2 are needed"


def test_a_later_attempt_needs_more_voters() -> None:
    made, frames = sample_certificate()
    reason = why(msgspec.structs.replace(made, attempt=1), frames)
    assert reason == "2 voters where 3 are needed"


# ---- claims ----------------------------------------------------------------------------------


def test_a_rank_depends_on_salt_unit_and_peer_alone() -> None:
    assert rank(SALT, 1, ALICE) == rank(SALT, 1, ALICE)
    ranks = {
        rank(salt, unit, who)
        for salt in (SALT, bytes(16))
        for unit in (1, 256)
        for who in (ALICE, BOB)
    }
    assert len(ranks) == 8


def test_a_preference_is_a_permutation_of_the_peers_own() -> None:
    mine, theirs = preference(SALT, 100, ALICE), preference(SALT, 100, BOB)
    assert sorted(mine) == sorted(theirs) == list(range(100))
    assert mine != theirs


@pytest.mark.parametrize("wanted", [0, 1, 2, 5, 7])
def test_of_too_many_claims_exactly_the_lowest_keep(wanted: int) -> None:
    peers = [peer(str(number)) for number in range(6)]
    keep = [
        who
        for who in peers
        if not gives_way(SALT, 9, who, [other for other in peers if other != who], wanted)
    ]
    lowest = sorted(peers, key=lambda who: rank(SALT, 9, who))[:wanted]
    assert sorted(keep) == sorted(lowest)


def test_a_lease_is_two_seconds_of_work_within_bounds() -> None:
    many = 10**6
    assert lease_units(None, 3, many, 1) == 6
    assert lease_units(100.0, 1, many, 1) == 20
    assert lease_units(100.0, 2, many, 1) == 40
    assert lease_units(0.0, 4, many, 1) == 64
    assert lease_units(60_000.0, 4, many, 1) == 4


def test_a_lease_is_at_most_half_a_fair_share_of_what_remains_but_one_a_slot() -> None:
    assert lease_units(10.0, 1, 80, 4) == 10
    assert lease_units(10.0, 1, 81, 4) == 11
    assert lease_units(10.0, 3, 1, 50) == 3
    assert lease_units(10.0, 1, 0, 0) == 1


# ---- reputation ------------------------------------------------------------------------------


def test_a_newcomer_stands_at_one_half_and_has_a_vote() -> None:
    assert score(Record()) == 0.5
    assert has_vote(Record())


def test_two_contradictions_cost_a_newcomer_its_vote_and_agreement_wins_it_back() -> None:
    assert has_vote(Record(0, 1))
    assert not has_vote(Record(0, 2))
    assert has_vote(Record(1, 2))


def test_the_score_rises_with_agreement_and_falls_with_contradiction() -> None:
    for agreed in range(5):
        for contradicted in range(5):
            here = score(Record(agreed, contradicted))
            assert 0 < here < 1
            assert score(Record(agreed + 1, contradicted)) > here
            assert score(Record(agreed, contradicted + 1)) < here


# ---- admission -------------------------------------------------------------------------------


def test_a_sound_manifest_is_accepted() -> None:
    assert judge_manifest(manifest(), TERMS, WALL_MS) == ACCEPT


def test_only_what_contradicts_itself_is_the_senders_fault() -> None:
    rejected = (
        manifest(network=NetworkId(bytes(32))),
        manifest(lasts_ms=0),
        manifest(lasts_ms=-5),
        manifest(lasts_ms=30 * DAY_MS + 1),
        manifest(quorum=5, replicas_max=4),
    )
    reasons = set()
    for body in rejected:
        verdict = judge_manifest(body, TERMS, WALL_MS)
        assert isinstance(verdict, Reject)
        reasons.add(verdict.reason)
    assert len(reasons) == 4
    assert judge_manifest(manifest(lasts_ms=30 * DAY_MS), TERMS, WALL_MS) == ACCEPT
    assert judge_manifest(manifest(quorum=4, replicas_max=4), TERMS, WALL_MS) == ACCEPT


def test_what_depends_on_the_receivers_clock_is_ignored_beyond_the_skew() -> None:
    body = manifest()
    for wall_ms in (body.issued_ms - CLOCK_SKEW_MS, body.expires_ms + CLOCK_SKEW_MS):
        assert judge_manifest(body, TERMS, wall_ms) == ACCEPT
    for wall_ms in (body.issued_ms - CLOCK_SKEW_MS - 1, body.expires_ms + CLOCK_SKEW_MS + 1):
        assert isinstance(judge_manifest(body, TERMS, wall_ms), Ignore)


def test_jobs_of_several_shards_are_ignored() -> None:
    assert isinstance(judge_manifest(manifest(shards=2), TERMS, WALL_MS), Ignore)


def test_only_the_publisher_closes_a_job_on_its_own_network() -> None:
    def closure(network: NetworkId, publisher: PeerId) -> Closure:
        return Closure(network, SAMPLE.job, publisher, True, WALL_MS)

    assert judge_closure(closure(NETWORK, PAULA), SAMPLE.manifest) == ACCEPT
    verdicts = {
        judge_closure(closure(NetworkId(bytes(32)), PAULA), SAMPLE.manifest),
        judge_closure(closure(NETWORK, MALLORY), SAMPLE.manifest),
    }
    assert len(verdicts) == 2
    assert all(isinstance(verdict, Reject) for verdict in verdicts)


# ---- the owner's limits ----------------------------------------------------------------------

OWNER = Limits(memory_bytes=2**30, cpu_ms=60_000, output_bytes=2**20)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (Limits(2**30 + 1, 60_000, 2**20), "memory"),
        (Limits(2**30, 60_001, 2**20), "processor time"),
        (Limits(2**30, 60_000, 2**20 + 1), "output"),
    ],
)
def test_a_job_beyond_the_owners_limits_is_left_to_others_with_a_reason(
    asked: Limits, word: str
) -> None:
    assert word in beyond(asked, OWNER)
    node = Node.create(ALICE, NETWORK, 1, ("volunteer",), Consent(CAPABILITY, OWNER))
    node.handle(ev.Started(1, WALL_MS, "test", ()), Millis(0))
    node.handle(ev.RestoreFinished(), Millis(0))
    body = msgspec.structs.replace(manifest(), limits=asked)
    sealed = unseal(seal(body))
    effects = node.handle(ev.ManifestReceived(BOB, sealed), Millis(1))

    assert not any(isinstance(effect, ef.OpenJob) for effect in effects)
    assert word in node.jobs[sealed.job].reason


def test_a_job_at_the_owners_limits_is_taken() -> None:
    assert beyond(OWNER, OWNER) == ""
