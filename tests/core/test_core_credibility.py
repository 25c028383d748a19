"""The credibility rule, held against its formulas; the table's runner, held against the rule."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from fractions import Fraction

import pytest

from p2pfleet.core.rules.credibility import (
    CHECKS_MAX,
    VOTERS_MAX,
    beyond_bounds,
    countable_newcomers,
    credibility,
    joint,
    joint_common_cause,
    luckiest,
    odds,
    passed_together,
    reaches,
    replicas_missing,
    threshold,
    within_newcomer_share,
)
from p2pfleet.sim.table import ABSENT, ONLINE, PRODUCT, Share, lines, table
from p2pfleet.sim.table_job import JobRun, Terms
from p2pfleet.sim.table_rivals import Fleet, adaptive, majority, majority_error
from p2pfleet.sim.table_rule import QuickRule

FIFTH = 200_000
TWENTIETH = 50_000
PER_CENT, PER_MILLE = 10_000_000, 1_000_000


def test_a_newcomer_is_right_with_one_minus_f_and_a_checked_peer_with_one_minus_f_over_k() -> None:
    assert credibility(0, FIFTH) == credibility(1, FIFTH) == Fraction(4, 5)
    assert credibility(20, FIFTH) == Fraction(99, 100)
    assert odds(0, FIFTH) == 4
    assert odds(20, FIFTH) == 99


def test_joint_credibility_is_sarmentas_group_formula() -> None:
    groups = {"a": [20, 3], "b": [0], "c": [7]}
    right = {key: [credibility(k, FIFTH) for k in ks] for key, ks in groups.items()}

    def product(values: list[Fraction]) -> Fraction:
        result = Fraction(1)
        for value in values:
            result *= value
        return result

    good = {key: product(values) for key, values in right.items()}
    bad = {key: product([1 - value for value in values]) for key, values in right.items()}
    total = product(list(bad.values()))
    for key, value in good.items():
        total += value * product([bad[other] for other in bad if other != key])
    for key, value in joint(groups, FIFTH).items():
        others = product([bad[other] for other in bad if other != key])
        assert value == good[key] * others / total


def test_the_threshold_keeps_half_of_the_accepted_error_back() -> None:
    assert threshold(PER_MILLE) == Fraction(1999, 2000)
    # 4 + 1 - 1: at f = 1/5 a newcomer's odds are 4, and 4^4 = 256 > 199 > 64 = 4^3.
    assert not reaches({"a": [0] * 3}, "a", FIFTH, PER_CENT)
    assert reaches({"a": [0] * 4}, "a", FIFTH, PER_CENT)


def test_the_rule_decides_exactly_on_the_edge() -> None:
    # k = 10 at f = 1/20: odds 199 against the 199 that theta = .99 with its margin needs.
    assert odds(10, TWENTIETH) == 199
    assert reaches({"a": [10]}, "a", TWENTIETH, PER_CENT)
    assert not reaches({"a": [10]}, "a", TWENTIETH, PER_CENT - 1)
    assert not reaches({"a": [9]}, "a", TWENTIETH, PER_CENT)


def test_colluders_that_lie_on_the_same_units_need_more_than_the_product_rule_asks() -> None:
    # Two short records: 39 * 39 / ... suffices for independent errors, not for a common cause.
    pair = {"a": [10, 10]}
    assert joint(pair, FIFTH)["a"] >= threshold(PER_MILLE)
    assert joint_common_cause(pair, FIFTH)["a"] < 1 - Fraction(PER_MILLE, 10**9)
    assert not reaches(pair, "a", FIFTH, PER_MILLE)
    assert reaches({"a": [20, 20]}, "a", FIFTH, PER_MILLE)


def test_checks_passed_together_are_those_that_every_member_of_a_subgroup_passed() -> None:
    assert passed_together([]) == 0
    assert passed_together([0, 20, 20]) == 40
    assert passed_together([100, 20, 20]) == 100
    assert luckiest(0) == 1
    assert luckiest(1) == Fraction(1, 4)
    for passed in (64, 65, 1000):
        peak = Fraction(passed**passed, (passed + 1) ** (passed + 1))
        assert peak <= luckiest(passed) <= peak * Fraction(1009, 1000)


def test_a_result_without_voters_is_never_certified_and_dissent_costs_votes() -> None:
    assert not reaches({"a": [20, 20]}, "b", FIFTH, PER_MILLE)
    assert replicas_missing({}, "a", FIFTH, PER_MILLE) == 6
    assert replicas_missing({}, "a", FIFTH, PER_MILLE, checks=20) == 2
    assert replicas_missing({"a": [20, 20]}, "a", FIFTH, PER_MILLE) == 0
    assert replicas_missing({"b": [0]}, "a", FIFTH, PER_MILLE, checks=20) == 3
    assert replicas_missing({"a": [0]}, "a", FIFTH, PER_MILLE, voters_max=5) is None
    # At f = 1/2 a newcomer's vote says nothing at all.
    assert replicas_missing({}, "a", 500_000, PER_MILLE) is None


def test_newcomers_are_at_most_half_of_a_certificate_unless_there_is_no_snapshot() -> None:
    assert countable_newcomers(2, 5, snapshot=True) == 2
    assert countable_newcomers(0, 5, snapshot=True) == 0
    assert countable_newcomers(0, 5, snapshot=False) == 5
    assert within_newcomer_share(1, 1, snapshot=True)
    assert not within_newcomer_share(1, 2, snapshot=True)


@pytest.mark.parametrize(
    ("groups", "faulty", "error", "words"),
    [
        ({}, 0, 1, "faulty share"),
        ({}, 500_001, 1, "faulty share"),
        ({}, 1, 0, "accepted error"),
        ({}, 1, 10**9 + 1, "accepted error"),
        ({"a": [0] * 40, "b": [0] * 25}, 1, 1, "65 voters"),
        ({"a": [CHECKS_MAX + 1]}, 1, 1, "1000001 checks"),
        ({"a": [-1]}, 1, 1, "-1 checks"),
        ({"a": []}, 1, 1, "without a voter"),
    ],
)
def test_numbers_beyond_the_bounds_are_refused_with_the_reason(
    groups: dict[str, list[int]], faulty: int, error: int, words: str
) -> None:
    assert words in (beyond_bounds(groups, faulty, error) or "")
    with pytest.raises(ValueError, match=words):
        reaches(groups, "a", faulty, error)
    with pytest.raises(ValueError, match=words):
        replicas_missing(groups, "a", faulty, error)


def test_the_largest_inputs_stay_cheap() -> None:
    assert reaches({"a": [CHECKS_MAX] * VOTERS_MAX}, "a", 1, 1)
    assert replicas_missing({}, "a", 499_999, 1) is None


def test_majority_voting_costs_what_the_formula_says() -> None:
    assert majority_error(2, 0.2) == pytest.approx(0.104)
    assert majority_error(3, 0.2) == pytest.approx(0.0579, abs=5e-5)
    assert majority(0.2, 1e-6).m == 26
    assert majority(0.2, 1e-6).cost == pytest.approx(32.5)


def test_the_runner_decides_as_the_exact_rule_on_random_and_on_edge_votes() -> None:
    chance = random.Random(4)
    edges = 0
    for _ in range(1500):
        faulty = chance.choice([1, TWENTIETH, 100_000, FIFTH, 350_000, 500_000])
        error = chance.choice([10**9, PER_CENT, PER_MILLE, 100_000, 1])
        top = chance.choice([3, 40, 300])
        mine = [chance.randrange(top) for _ in range(chance.randrange(1, 12))]
        theirs = [chance.randrange(top) for _ in range(chance.randrange(0, 6))]
        if chance.random() < 0.1:
            # Exactly on the edge, by choice of the accepted error.
            groups = {"a": mine, "b": theirs} if theirs else {"a": mine}
            error = min(10**9, max(1, int((1 - joint(groups, faulty)["a"]) * 2 * 10**9)))
        quick = QuickRule(faulty, error, snapshot=False)
        groups = {"a": mine} | ({"b": theirs} if theirs else {})
        assert quick.reaches(mine, theirs) == reaches(groups, "a", faulty, error)
        edges += quick.exact_calls
    assert edges


def test_the_runner_asks_the_exact_rule_on_the_edge() -> None:
    quick = QuickRule(TWENTIETH, PER_CENT, snapshot=True)
    assert quick.reaches([10], [])
    assert quick.exact_calls == 1
    assert not quick.reaches([], [])
    assert not quick.reaches([0, 0, 0, 0], [])


def test_an_interval_after_wilson_holds_at_its_ends() -> None:
    low, high = Share(0, 10_000).interval
    assert low == 0
    assert high == pytest.approx(3.84e-4, rel=0.01)
    low, high = Share(10, 100).interval
    assert (low, high) == (pytest.approx(0.0552, abs=1e-4), pytest.approx(0.1744, abs=1e-4))


def test_without_faulty_peers_on_the_move_a_job_costs_its_votes_and_its_audits() -> None:
    fleet = Fleet(40, 1000, TWENTIETH, 0.0, history=20)
    outcome = JobRun(fleet, Terms(TWENTIETH, PER_MILLE), random.Random(1)).run()
    assert outcome.settled_wrong == outcome.accepted_wrong == outcome.reopened == 0
    assert outcome.executions == 2 * 1000 + outcome.audits + 2 * outcome.ringers


def test_what_a_caught_cheat_had_given_is_reopened_before_it_settles() -> None:
    fleet = Fleet(200, 5000, TWENTIETH, 1.0, history=20, on_off=True)
    ours = JobRun(fleet, Terms(TWENTIETH, PER_CENT), random.Random(2)).run()
    rival = adaptive(fleet, random.Random(2))
    assert ours.accepted_wrong > 0
    assert ours.reopened >= ours.accepted_wrong
    assert ours.settled_wrong * 10 < rival.wrong


def test_the_quick_table_has_every_cell_and_tells_what_was_missed() -> None:
    blocks: list[str] = []
    made = table(3, True, blocks.append)
    assert blocks[0] == ONLINE
    assert len(made.rows) == 3 * 12 + 5 + 9 + 3 * 12
    text = "\n".join(lines(made))
    assert made.cell(ABSENT, FIFTH, PER_MILLE).cost > 2
    assert made.cell(PRODUCT, 350_000, 100_000).cost < made.cell(ABSENT, 350_000, 100_000).cost
    assert all(target.sentence in text for target in made.targets)
    assert all(0 <= row.settled.rate <= 1 and row.cost >= 1 for row in made.rows)


def test_the_same_seed_gives_the_same_job_whatever_the_hash_seed() -> None:
    program = (
        "import random; from p2pfleet.sim.table_job import JobRun, Terms;"
        "from p2pfleet.sim.table_rivals import Fleet, adaptive;"
        "fleet = Fleet(40, 800, 350_000, 0.3, 20);"
        "print(JobRun(fleet, Terms(350_000, 100_000), random.Random('7/x')).run(),"
        " adaptive(fleet, random.Random('7/x')))"
    )
    seen = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
                timeout=60,
            ).stdout
        ).hexdigest()
        for seed in ("0", "1")
    }
    assert len(seen) == 1
