"""The faults that travel: what two frames prove of their author, and what they do not."""

from __future__ import annotations

import msgspec
import pytest
from core_samples import ALICE, BOB, NETWORK, SAMPLE, seal

from p2pfleet.core.model.ids import Digest, FrameHash, JobId, NetworkId, PeerId, sha256
from p2pfleet.core.rules.commitment import seed_hash
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame

SEED = sha256(b"seed")
ONE, TWO = Digest(sha256(b"one")), Digest(sha256(b"two"))
REF = ms.VoteRef(FrameHash(bytes(32)), 0)


def frame(
    *entries: ms.Entry,
    author: PeerId = ALICE,
    sequence: int = 0,
    incarnation: int = 1,
    job: JobId = SAMPLE.job,
    network: NetworkId = NETWORK,
) -> VerifiedFrame:
    body = ms.Frame(network, job, author, incarnation, sequence, entries)
    sealed = seal(body)
    return VerifiedFrame(sealed, FrameHash(sealed.hash), body)


def reveal(digest: Digest, unit: int = 3, attempt: int = 0) -> ms.Reveal:
    item = ms.RevealItem(unit, attempt, digest, 1)
    return ms.Reveal(FrameHash(bytes(32)), 0, SEED, (item,), ())


def commit(*units: int, seed: bytes = SEED) -> ms.Commit:
    items = tuple(ms.CommitItem(unit, 0, bytes(32)) for unit in units)
    return ms.Commit(seed_hash(seed), items)


def opening(commits: VerifiedFrame, *units: int, index: int = 0, seed: bytes = SEED) -> ms.Reveal:
    items = tuple(ms.RevealItem(unit, 0, ONE, 1) for unit in units)
    return ms.Reveal(commits.hash, index, seed, items, ())


def both_ways(one: VerifiedFrame, two: VerifiedFrame) -> str:
    """What the two prove, in either order."""
    found = fault(one, two)
    assert bool(found) == bool(fault(two, one))
    return found


# ---- two answers -----------------------------------------------------------------------------


def test_two_digests_revealed_for_one_unit_in_one_attempt_and_one_life_prove_a_fault() -> None:
    found = both_ways(frame(reveal(ONE)), frame(reveal(TWO), sequence=1))
    assert found == "two different answers (reveals) for unit 3 in attempt 0"


def test_so_do_two_endorsements() -> None:
    one = frame(ms.Endorse(3, 1, REF, ONE))
    two = frame(ms.Endorse(3, 1, REF, TWO), sequence=1)
    assert "endorsements" in both_ways(one, two)


def test_two_answers_within_one_frame_are_proved_by_that_frame_twice() -> None:
    twice = frame(reveal(ONE), reveal(TWO))
    assert fault(twice, twice)
    assert not fault(frame(reveal(ONE)), frame(reveal(ONE)))


def test_two_frames_of_one_number_prove_it_as_well() -> None:
    assert both_ways(frame(reveal(ONE)), frame(reveal(TWO)))


@pytest.mark.parametrize(
    "other",
    [
        frame(reveal(ONE), sequence=1),
        frame(reveal(TWO, attempt=1), sequence=1),
        frame(reveal(TWO, unit=4), sequence=1),
        frame(reveal(TWO), incarnation=2),
        frame(reveal(TWO), author=BOB),
        frame(reveal(TWO), job=JobId(bytes(32))),
        frame(reveal(TWO), network=NetworkId(bytes(32))),
        frame(ms.Endorse(3, 0, REF, TWO), sequence=1),
        frame(ms.Claim((3,)), sequence=1),
    ],
    ids=["the same", "attempt", "unit", "life", "author", "job", "network", "endorsement", "claim"],
)
def test_what_a_crash_a_restored_backup_or_another_peer_may_bring_about_proves_nothing(
    other: VerifiedFrame,
) -> None:
    assert both_ways(frame(reveal(ONE)), other) == ""


def test_two_commitments_alone_prove_nothing() -> None:
    one = frame(ms.Commit(seed_hash(SEED), (ms.CommitItem(3, 0, bytes(32)),)))
    two = frame(ms.Commit(seed_hash(SEED), (ms.CommitItem(3, 0, ONE),)), sequence=1)
    assert both_ways(one, two) == ""


# ---- a reveal that contradicts its commitment ------------------------------------------------


def test_a_reveal_with_another_seed_contradicts_its_commitment() -> None:
    commits = frame(commit(3, 4))
    wrong = frame(opening(commits, 3, 4, seed=bytes(32)), sequence=1)
    assert "the seed is not the one" in both_ways(commits, wrong)


@pytest.mark.parametrize("units", [(3,), (4, 3), (3, 4, 5), (3, 5)])
def test_a_reveal_of_other_units_contradicts_its_commitment(units: tuple[int, ...]) -> None:
    commits = frame(commit(3, 4))
    assert "other units" in both_ways(commits, frame(opening(commits, *units), sequence=1))


def test_a_reveal_may_come_in_a_later_life_and_still_contradicts_it() -> None:
    commits = frame(commit(3))
    wrong = frame(opening(commits, 3, seed=bytes(32)), incarnation=9)
    assert both_ways(commits, wrong)


@pytest.mark.parametrize("index", [0, 7])
def test_a_reveal_of_what_is_no_commitment_proves_a_fault(index: int) -> None:
    claims = frame(ms.Claim((3,)))
    assert "no commitment" in both_ways(claims, frame(opening(claims, 3, index=index), sequence=1))


def test_a_reveal_that_opens_its_commitment_proves_nothing() -> None:
    commits = frame(ms.Claim((3,)), commit(3, 4))
    right = frame(opening(commits, 3, 4, index=1), sequence=1)
    assert both_ways(commits, right) == ""


def test_a_reveal_of_another_frame_says_nothing_about_this_one() -> None:
    commits, elsewhere = frame(commit(3)), frame(commit(4), sequence=5)
    assert both_ways(commits, frame(opening(elsewhere, 3), sequence=1)) == ""


def test_a_commitment_of_another_author_is_not_held_against_who_reveals_it() -> None:
    commits = frame(commit(3), author=BOB)
    assert both_ways(commits, frame(opening(commits, 4), sequence=1)) == ""
    assert msgspec.structs.replace(commits.frame, author=ALICE) != commits.frame
