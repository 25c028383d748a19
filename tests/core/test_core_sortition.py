"""Who may take a unit and from when on; and commitments, which nobody makes from a digest."""

from __future__ import annotations

import pytest
from core_samples import ALICE, BOB, NETWORK, SAMPLE, peer

from p2pfleet.core.model.ids import JobId, NetworkId, PeerId, sha256
from p2pfleet.core.rules.commitment import commitment, nonce, seed_hash
from p2pfleet.core.rules.sortition import (
    ALLOWANCE_MAX,
    allowance,
    doublings,
    eligible_after_ms,
)

SALT = b"0123456789abcdef"
SEED = sha256(b"seed")


def after(unit: int, who: PeerId, crowd: int, known: bool = True) -> int:
    return eligible_after_ms(SALT, unit, who, crowd=crowd, wanted=2, step_ms=100, known=known)


def test_in_a_small_crowd_everyone_is_eligible_at_once() -> None:
    assert [after(unit, ALICE, crowd) for unit in range(20) for crowd in (1, 2, 8)] == [0] * 60


def test_in_a_large_crowd_few_are_eligible_at_once_and_everyone_in_the_end() -> None:
    crowd = [peer(f"volunteer {number}") for number in range(400)]
    waits = [after(7, one, 400) for one in crowd]
    at_once = waits.count(0)

    assert 1 <= at_once <= 24, "about 8 of 400"
    assert max(waits) <= 100 * doublings(400, 2)
    counts = [sum(wait <= 100 * step for wait in waits) for step in range(doublings(400, 2) + 1)]
    assert counts == sorted(counts)
    assert counts[-1] == 400


@pytest.mark.parametrize("guess", [1, 40, 1_000_000])
def test_a_wrong_guess_of_the_crowd_delays_but_does_not_stall(guess: int) -> None:
    waits = [after(3, peer(f"volunteer {number}"), guess) for number in range(40)]
    assert max(waits) <= 100 * 18
    assert min(waits) <= 100 * 18


def test_who_is_unknown_to_the_snapshot_comes_after_everybody_who_is_known() -> None:
    crowd = [peer(f"volunteer {number}") for number in range(100)]
    last_known = max(after(0, one, 100) for one in crowd)
    assert min(after(0, one, 100, known=False) for one in crowd) >= last_known


def test_another_unit_draws_other_tickets() -> None:
    waits = {unit: after(unit, ALICE, 10_000) for unit in range(50)}
    assert len(set(waits.values())) > 3


def test_an_allowance_grows_with_what_was_committed_and_halves_with_each_lapse() -> None:
    assert [allowance(0, 0), allowance(10, 0), allowance(10, 1), allowance(10, 2)] == [4, 24, 12, 6]
    assert allowance(0, 50) == 1
    assert allowance(10**9, 0) == ALLOWANCE_MAX


def test_a_commitment_depends_on_everything_that_it_binds() -> None:
    job, output = SAMPLE.job, b"the canonical output"
    given = (NETWORK, job, 3, 0, ALICE, SEED, output)
    other = (
        NetworkId(bytes(32)), JobId(bytes(32)), 4, 1, BOB, sha256(b"another"), output + b"\0",
    )  # fmt: skip
    made = {commitment(*given)}
    for place, value in enumerate(other):
        made.add(commitment(*(*given[:place], value, *given[place + 1 :])))  # type: ignore[arg-type]
    assert len(made) == len(other) + 1


def test_the_digest_of_an_output_does_not_make_its_commitment() -> None:
    job, output = SAMPLE.job, b"the canonical output"
    right = commitment(NETWORK, job, 3, 0, ALICE, SEED, output)
    assert commitment(NETWORK, job, 3, 0, ALICE, SEED, sha256(output)) != right


def test_nonces_of_one_seed_differ_and_the_seed_is_told_by_its_hash() -> None:
    nonces = {nonce(SEED, SAMPLE.job, unit, attempt) for unit in range(50) for attempt in range(2)}
    assert len(nonces) == 100
    assert seed_hash(SEED) not in nonces
    assert seed_hash(SEED) != seed_hash(sha256(b"another"))
