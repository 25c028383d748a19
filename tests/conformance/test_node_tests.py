"""The sandbox computes what onnxruntime does: some of ONNX's own tests, others each day."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.conformance.cases import all_cases, sample
from tests.conformance.comparison import MISTAKES, Outcome, compare
from tests.conformance.expected import surprises

SAMPLE = 500
SEED = os.environ.get("CONFORMANCE_SEED") or time.strftime("%Y-%m-%d")
AGAIN = f"python -m tests.conformance --sample {SAMPLE} --seed {SEED}"


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return compare(sample(all_cases(), SEED, SAMPLE))


def test_plain_and_sandboxed_outputs_are_equal_byte_for_byte(outcomes: list[Outcome]) -> None:
    print(f"the same again: {AGAIN}")
    wrong = {
        one.case.name: f"{one.category}: {one.reason}"
        for one in outcomes
        if one.category in MISTAKES
    }

    assert wrong == {}, AGAIN
    assert sum(one.category == "identical" for one in outcomes) >= 300, AGAIN


def test_the_rules_refuse_what_the_list_says_and_no_more(outcomes: list[Outcome]) -> None:
    assert surprises([(one.case, one.rule) for one in outcomes if one.rule]) == [], AGAIN


def test_a_comparison_leaves_nothing_behind() -> None:
    fds = len(list(Path("/proc/self/fd").iterdir()))

    compare(sample(all_cases(), SEED, 2))

    assert psutil.Process().children(recursive=True) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == fds


def test_the_same_seed_picks_the_same_cases() -> None:
    assert sample(all_cases(), "a", 20) == sample(all_cases(), "a", 20)
    assert sample(all_cases(), "a", 20) != sample(all_cases(), "b", 20)
