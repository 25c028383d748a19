"""Same, near or different: what is said of another's output before anybody is blamed for it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.model.comparison import (
    ABSOLUTE_UNIT,
    MAX_ABSOLUTE,
    MAX_RELATIVE,
    RELATIVE_UNIT,
    OutputTolerance,
    Tolerance,
)
from p2pfleet.core.model.job import Exact
from p2pfleet.core.rules.comparison import DEFAULTS
from p2pfleet.runtime.comparison import NEAR, NEAR_MOST, same_answer, verdict
from tests.adapters.sandbox.models import bundle

DEFAULT = Tolerance()
F16: Any = np.float16
F32: Any = np.float32
F64: Any = np.float64
NAN, INF = np.nan, np.inf


def said(candidate: Any, own: Any, rule: Exact | Tolerance = DEFAULT) -> str:
    return verdict(bundle(y=candidate), bundle(y=own), rule)


@pytest.mark.parametrize(
    ("candidate", "own", "exact", "tolerant"),
    [
        (F32([1, 100]), F32([1, 100]), "same", "same"),
        (F32([1, 100]), F32([1.009, 100]), "near", "same"),
        (F32([1, 100]), F32([1.011, 100]), "near", "near"),
        (F32([1, 100]), F32([1.99, 100]), "near", "near"),
        (F32([1, 100]), F32([2.01, 100]), "different", "different"),
        (F32([0]), F32([9e-4]), "near", "near"),
        (F32([0]), F32([2e-3]), "different", "different"),
        (F16([100]), F16([119]), "near", "near"),
        (F16([100]), F16([121]), "different", "different"),
        (F64([1]), F64([1 + 6e-8]), "near", "near"),
        (F64([1]), F64([1 + 2e-7]), "different", "different"),
        (F32([0.0]), F32([-0.0]), "near", "same"),
        (F32([NAN]), F32([-NAN]), "near", "same"),
        (F32([NAN, 1]), F32([1, NAN]), "different", "different"),
        (F32([INF]), F32([-INF]), "different", "different"),
        (F64([1.7e308]), F64([-1.7e308]), "different", "different"),
        (np.array([1000]), np.array([1001]), "different", "different"),
        (np.array([True]), np.array([False]), "different", "different"),
        (F32([1, 2]), F32([[1, 2]]), "different", "different"),
        (F32([1]), F64([1]), "different", "different"),
    ],
)
def test_near_is_what_processors_may_differ_by_and_no_more(
    candidate: Any, own: Any, exact: str, tolerant: str
) -> None:
    assert said(candidate, own, Exact()) == exact
    assert said(candidate, own) == tolerant


def test_an_output_that_is_allowed_nothing_is_near_where_processors_differ() -> None:
    strict = Tolerance((OutputTolerance("y", 0, 0),))
    assert said(F32([1]), F32([1]), strict) == "same"
    assert said(F32([0.0]), F32([-0.0]), strict) == "same"
    assert said(F32([1]), F32([1.0000001]), strict) == "near"
    assert said(F32([1]), F32([1.02]), strict) == "different"


def test_what_is_off_by_more_than_a_fifth_is_never_near() -> None:
    widest = Tolerance((OutputTolerance("y", MAX_ABSOLUTE, MAX_RELATIVE),))
    assert said(F64([1]), F64([1.01]), widest) == "same"
    assert said(F64([1]), F64([1.2]), widest) == "near"
    assert said(F64([1]), F64([1.3]), widest) == "different"


def test_one_output_that_is_off_decides_over_all() -> None:
    own = bundle(a=F32([1]), b=F32([1]))
    assert verdict(bundle(a=F32([1.005]), b=F32([1])), own, DEFAULT) == "near"
    assert verdict(bundle(a=F32([1.005]), b=F32([2])), own, DEFAULT) == "different"
    assert verdict(bundle(a=F32([1])), own, DEFAULT) == "different"


@pytest.mark.parametrize("rule", [Exact(), DEFAULT])
@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_and_what_cannot_be_read_is_different(
    rule: Exact | Tolerance, noise: bytes
) -> None:
    own = bundle(y=F32([1]))
    assert verdict(noise, own, rule) == "different"
    assert verdict(own, noise, rule) == "different"


finite = st.floats(-1e30, 1e30, allow_nan=False, width=64)
amounts = st.integers(0, MAX_ABSOLUTE), st.integers(0, MAX_RELATIVE)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=4), *amounts)
@settings(max_examples=300, deadline=None)
def test_the_verdict_is_the_inequality_of_the_chapter(
    pairs: list[tuple[float, float]], absolute: int, relative: int
) -> None:
    candidate, own = F64([a for a, _ in pairs]), F64([b for _, b in pairs])
    rule = Tolerance((OutputTolerance("y", absolute, relative),))
    ref = max(Fraction(abs(a)) for a, _ in pairs)
    diff = max(Fraction(abs(a - b)) for a, b in pairs)

    def room(least: int, times: int, most_absolute: int, most_relative: int) -> Fraction:
        absolutely = min(most_absolute, times * max(least, absolute))
        relatively = min(most_relative, times * max(least, relative))
        return Fraction(absolutely, ABSOLUTE_UNIT) + Fraction(relatively, RELATIVE_UNIT) * ref

    near = room(1, NEAR, NEAR_MOST.absolute, NEAR_MOST.relative)
    expected = "near" if diff <= near else "different"
    if diff <= room(0, 1, MAX_ABSOLUTE, MAX_RELATIVE):
        expected = "same"
    assert said(candidate, own, rule) == expected


@given(st.floats(-(2**60), 2**60, width=32), st.floats(-1e-2, 1e-2))
@settings(max_examples=200, deadline=None)
def test_an_exact_job_is_same_by_bytes_and_else_judged_as_one_with_the_defaults(
    value: float, off: float
) -> None:
    candidate, own = F32([value]), F32([value * (1 + off)])
    found = said(candidate, own, Exact())
    assert (found == "same") is (candidate.tobytes() == own.tobytes())
    if found != "same":
        assert found == ("near" if said(candidate, own) in ("same", "near") else "different")


@given(st.lists(st.floats(width=32), min_size=1, max_size=4), st.floats(width=32))
@settings(max_examples=200, deadline=None)
def test_same_is_what_endorses_and_widening_loses_nothing(values: list[float], last: float) -> None:
    candidate, own = F32(values), F32([*values[:-1], last])
    pair = bundle(y=candidate), bundle(y=own)
    assert (verdict(*pair, DEFAULT) == "same") is same_answer(*pair, DEFAULT).same
    assert verdict(pair[0], pair[0], DEFAULT) == "same"
    assert verdict(pair[0], pair[0], Exact()) == "same"


def test_the_hundredfold_is_the_one_that_the_defaults_were_chosen_for() -> None:
    """Single precision that is handed out as doubles is a processor's, or a compiler's, matter."""
    assert NEAR * DEFAULTS["float64"].relative / RELATIVE_UNIT > np.finfo(F32).eps / 2
    assert math.isclose(NEAR * DEFAULTS["float32"].relative / RELATIVE_UNIT, 1e-2)
