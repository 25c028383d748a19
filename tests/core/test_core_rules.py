"""The rules, each held against its chapter."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAPABILITY,
    DAY_MS,
    GOOD,
    MALLORY,
    NETWORK,
    PAULA,
    SAMPLE,
    WALL_MS,
    manifest,
    peer,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, Millis, NetworkId, PeerId
from p2pfleet.core.model.job import Confidence, Limits, Trust
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules.admission import (
    beyond,
    judge_closure,
    judge_frame,
    judge_manifest,
    judge_snapshot,
    named_units,
    ringers_hash,
)
from p2pfleet.core.rules.claims import gives_way, lease_units, preference, rank
from p2pfleet.core.rules.reputation import CAUGHT, PASSED, Kind, moved, score, served
from p2pfleet.core.wire.messages import (
    Audit,
    Claim,
    Closure,
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Failure,
    Frame,
    OpenRingers,
    Release,
    Reveal,
    RevealItem,
    Ringer,
    Snapshot,
    VoteRef,
)

SALT = b"0123456789abcdef"
TERMS = NetworkTerms(NETWORK)

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


def after(*kinds: str, record: Record | None = None) -> Record:
    """A record after these moves."""
    found = record or Record()
    for kind in kinds:
        found = moved(found, kind)
    return found


def test_every_move_passes_catches_or_is_one_that_needed_the_vote() -> None:
    assert set(PASSED) | set(CAUGHT) | {"matched"} == set(get_args(Kind))
    assert not set(PASSED) & set(CAUGHT)


def test_a_newcomer_stands_at_one_half_and_is_served() -> None:
    assert score(Record()) == 0.5
    assert served(Record())
    assert Record().checks == 0


def test_two_contradictions_of_a_newcomer_end_service_and_agreement_wins_it_back() -> None:
    assert served(after("contradicted"))
    assert not served(after("contradicted", "failed audit"))
    assert served(after("contradicted", "failed audit", "matched"))


def test_a_check_is_passed_by_what_did_not_need_the_vote_and_by_the_judges_own_hand() -> None:
    assert [after(kind).checks for kind in PASSED] == [1, 1, 1]
    assert after("matched", "matched") == Record(agreed=2)


@pytest.mark.parametrize("kind", CAUGHT)
def test_who_is_caught_starts_from_nothing(kind: str) -> None:
    before = after(*["ringer"] * 50)
    assert before.checks == 46, "50 checks, of which each later one forgot a 320th"
    caught = after(kind, record=before)
    assert (caught.checks, caught.milli) == (0, 0)
    assert (caught.agreed, caught.contradicted) == (50, 1)
    assert score(caught) < score(before)


def test_a_record_forgets_so_that_it_never_passes_320_checks() -> None:
    record = after(*["audited"] * 10_000)
    assert 319 <= record.checks <= 320
    assert after("audited", record=record).milli - record.milli <= 3
    assert after(*["audited"] * 10).checks == 9


def test_a_proved_fault_outweighs_everything() -> None:
    record = msgspec.structs.replace(after(*["ringer"] * 100), faults=1)
    assert (record.checks, score(record), served(record)) == (0, 0.0, False)
    assert moved(record, "ringer").faults == 1
    assert moved(record, "contradicted").faults == 1


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


# ---- frames and trust snapshots --------------------------------------------------------------

ZERO = FrameHash(bytes(32))
SECRET = bytes(range(32))
RINGERS = (Ringer(1, GOOD), Ringer(4, BAD))
OPENED = OpenRingers(SECRET, RINGERS)


def reveal(*units: int, length: int = 1, attempt: int = 0) -> Reveal:
    items = tuple(RevealItem(unit, attempt, GOOD, length) for unit in units)
    return Reveal(ZERO, 0, bytes(32), items, ())


def commit(*units: int) -> Commit:
    return Commit(bytes(32), tuple(CommitItem(unit, 0, bytes(32)) for unit in units))


def judged(author: PeerId, *entries: Entry, **changes: Any) -> Verdict:
    """What is made of a frame of the sample job, if its manifest were changed so."""
    body = Frame(NETWORK, SAMPLE.job, author, 1, 0, entries)
    return judge_frame(body, msgspec.structs.replace(SAMPLE.manifest, **changes), TERMS)


def soft(**changes: Any) -> dict[str, Any]:
    return {"comparison": Tolerance(), **changes}


@pytest.mark.parametrize(
    "entry",
    [Claim((9,)), Release((9,)), commit(9, 0), reveal(9, 0, length=10_000), Failure(9, 0, "x: y")],
    ids=lambda entry: type(entry).__name__,
)
def test_what_volunteers_say_of_the_units_of_a_job_is_accepted(entry: Entry) -> None:
    assert judged(ALICE, entry) == ACCEPT
    assert isinstance(judged(PAULA, entry), Reject), "the publisher does not run its own units"


def test_what_the_publisher_alone_may_say_is_accepted_from_it_alone() -> None:
    trust = Trust(ringers=Digest(ringers_hash(OPENED)))
    for entry in (Audit(9, GOOD), OPENED):
        assert judged(PAULA, entry, trust=trust) == ACCEPT
        assert isinstance(judged(ALICE, entry, trust=trust), Reject)
        assert isinstance(judged(ALICE, Claim((1,)), entry, trust=trust), Reject)


@pytest.mark.parametrize(
    ("author", "entry"),
    [
        (ALICE, Claim((0, 10))),
        (ALICE, Release((10,))),
        (ALICE, commit(0, 10)),
        (ALICE, reveal(10)),
        (ALICE, Failure(10, 0, "")),
        (ALICE, Endorse(10, 0, VoteRef(ZERO, 0), GOOD)),
        (PAULA, Audit(10, GOOD)),
    ],
)
def test_a_frame_about_a_unit_that_the_job_lacks_is_rejected(author: PeerId, entry: Entry) -> None:
    verdict = judged(author, entry, **soft())
    assert verdict == Reject("the frame names a unit that the job does not have")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (reveal(0, 1, length=10_001), "larger than the job allows"),
        (reveal(3, 4, 3), "votes twice"),
        (commit(3, 4, 3), "commits twice"),
        (Endorse(3, 0, VoteRef(ZERO, 0), GOOD), "endorses where"),
    ],
)
def test_what_contradicts_itself_or_the_job_is_rejected(entry: Entry, told: str) -> None:
    verdict = judged(ALICE, entry)
    assert isinstance(verdict, Reject)
    assert told in verdict.reason


def test_the_same_unit_may_be_committed_to_in_several_attempts() -> None:
    items = tuple(CommitItem(3, attempt, bytes(32)) for attempt in range(3))
    assert judged(ALICE, Commit(bytes(32), items)) == ACCEPT


def test_endorsements_belong_to_jobs_with_a_tolerance() -> None:
    assert judged(ALICE, Endorse(3, 0, VoteRef(ZERO, 0), GOOD), **soft()) == ACCEPT


def test_ringers_are_opened_as_the_manifest_names_them_or_not_at_all() -> None:
    trust = Trust(ringers=Digest(ringers_hash(OPENED)))
    for wrong in (
        OpenRingers(bytes(32), RINGERS),
        OpenRingers(SECRET, RINGERS[::-1]),
        OpenRingers(SECRET, RINGERS[:1]),
        OpenRingers(SECRET, (RINGERS[0], Ringer(4, GOOD))),
    ):
        assert isinstance(judged(PAULA, wrong, trust=trust), Reject)
    assert isinstance(judged(PAULA, OPENED), Reject), "a job without ringers opens none"


def test_every_entry_names_the_units_that_it_is_about() -> None:
    assert named_units(Claim((3, 1, 3))) == (3, 1, 3)
    assert named_units(commit(7, 8)) == named_units(reveal(7, 8)) == (7, 8)
    assert named_units(OPENED) == (1, 4)
    assert named_units(Audit(5, GOOD)) == named_units(Failure(5, 0, "")) == (5,)


def test_a_trust_snapshot_of_the_network_is_accepted() -> None:
    body = Snapshot(NETWORK, PAULA, "any", 1, WALL_MS, ())
    assert judge_snapshot(body, TERMS) == ACCEPT
    elsewhere = msgspec.structs.replace(body, network=NetworkId(bytes(32)))
    assert isinstance(judge_snapshot(elsewhere, TERMS), Reject)
    assert isinstance(judge_snapshot(body, NetworkTerms(NETWORK, 40)), Reject)


def test_frames_of_keys_that_do_not_fit_the_network_are_rejected() -> None:
    body = Frame(NETWORK, SAMPLE.job, ALICE, 1, 0, (Claim((1,)),))
    verdict = judge_frame(body, SAMPLE.manifest, NetworkTerms(NETWORK, 40))
    assert verdict == Reject("the author's key does not fit the network")


def test_a_job_that_asks_for_confidence_needs_no_quorum() -> None:
    body = msgspec.structs.replace(manifest(), stop=Confidence(1, 1, 1))
    assert judge_manifest(body, TERMS, WALL_MS) == ACCEPT


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
