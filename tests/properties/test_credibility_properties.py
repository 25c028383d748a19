"""The credibility rule against a second, naive implementation, and what holds for every vote."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.rules.credibility import (
    VOTERS_MAX,
    joint,
    joint_common_cause,
    reaches,
    replicas_missing,
)

CHECKS = st.one_of(st.integers(0, 60), st.integers(0, 1_000_000))
FAULTY = st.one_of(st.sampled_from([50_000, 100_000, 200_000, 350_000]), st.integers(1, 500_000))
ERROR = st.one_of(st.sampled_from([10**7, 10**6, 10**5]), st.integers(1, 10**9))
GROUP = st.lists(CHECKS, min_size=1, max_size=5)
GROUPS = st.dictionaries(st.integers(0, 4), GROUP, min_size=1, max_size=4)


def naive_joint(groups: dict[int, list[int]], faulty_ppm: int) -> dict[int, Fraction]:
    """By enumeration of what may be true: each result right, or none; voters err independently."""
    f = Fraction(faulty_ppm, 10**6)
    worlds: dict[int | None, Fraction] = {}
    for truth in (*groups, None):
        chance = Fraction(1)
        for result, group in groups.items():
            for checks in group:
                right = 1 - f / checks if checks else 1 - f
                chance *= right if result == truth else 1 - right
        worlds[truth] = chance
    total = sum(worlds.values())
    return {result: worlds[result] / total for result in groups}


def naive_common(groups: dict[int, list[int]], faulty_ppm: int) -> dict[int, Fraction]:
    """By the best subgroup, found among all."""
    f = Fraction(faulty_ppm, 10**6)
    weights = {}
    for result, group in groups.items():
        passed = max(
            size * min(chosen)
            for size in range(1, len(group) + 1)
            for chosen in combinations(group, size)
        )
        at_most = min(passed, 64)
        lucky = Fraction(at_most**at_most, (at_most + 1) ** at_most) / (passed + 1)
        weights[result] = ((1 - f) / f) ** len(group) / lucky
    return {result: weight / (1 + sum(weights.values())) for result, weight in weights.items()}


@settings(max_examples=300)
@given(GROUPS, FAULTY, ERROR)
def test_the_rule_and_a_naive_one_agree_on_every_result(
    groups: dict[int, list[int]], faulty: int, error: int
) -> None:
    product, common = naive_joint(groups, faulty), naive_common(groups, faulty)
    assert joint(groups, faulty) == product
    assert joint_common_cause(groups, faulty) == common
    theta = 1 - Fraction(error, 10**9)
    for result in range(5):
        expected = (
            result in groups and product[result] >= 1 - (1 - theta) / 2 and common[result] >= theta
        )
        assert reaches(groups, result, faulty, error) == expected


@settings(max_examples=200)
@given(GROUPS, FAULTY, ERROR)
def test_the_order_of_votes_and_of_results_changes_nothing(
    groups: dict[int, list[int]], faulty: int, error: int
) -> None:
    shuffled = {result: sorted(groups[result]) for result in sorted(groups, reverse=True)}
    for result in groups:
        assert reaches(groups, result, faulty, error) == reaches(shuffled, result, faulty, error)
    assert joint(groups, faulty) == joint(shuffled, faulty)


@settings(max_examples=200)
@given(GROUPS, FAULTY, ERROR, CHECKS)
def test_a_vote_never_harms_its_own_result_nor_helps_another(
    groups: dict[int, list[int]], faulty: int, error: int, checks: int
) -> None:
    chosen = min(groups)
    more = {**groups, chosen: [*groups[chosen], checks]}
    for result in groups:
        before = reaches(groups, result, faulty, error)
        after = reaches(more, result, faulty, error)
        assert after >= before if result == chosen else after <= before


@settings(max_examples=200)
@given(GROUPS, FAULTY, ERROR)
def test_two_results_are_certified_only_where_half_of_the_answers_may_be_wrong(
    groups: dict[int, list[int]], faulty: int, error: int
) -> None:
    certified = [result for result in groups if reaches(groups, result, faulty, error)]
    assert len(certified) <= 1


@settings(max_examples=100)
@given(GROUPS, FAULTY, ERROR, CHECKS)
def test_the_votes_said_to_be_missing_certify_and_one_fewer_does_not(
    groups: dict[int, list[int]], faulty: int, error: int, checks: int
) -> None:
    missing = replicas_missing(groups, 0, faulty, error, checks=checks)
    own = groups.get(0, [])
    if missing is None:
        room = VOTERS_MAX - sum(map(len, groups.values()))
        assert not reaches({**groups, 0: own + [checks] * room}, 0, faulty, error)
        return
    assert own or missing
    assert reaches({**groups, 0: own + [checks] * missing}, 0, faulty, error)
    if missing > 1 or (missing and own):
        fewer = {**groups, 0: own + [checks] * (missing - 1)}
        assert not reaches(fewer, 0, faulty, error)
