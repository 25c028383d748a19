"""When two numbers are the same answer, decided exactly, and what a publisher may ask for."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.comparison import (
    ABSOLUTE_UNIT,
    MAX_ABSOLUTE,
    MAX_OUTPUTS,
    MAX_RELATIVE,
    RELATIVE_UNIT,
    OutputTolerance,
    Tolerance,
)
from p2pfleet.core.model.job import Exact
from p2pfleet.core.rules.comparison import (
    DEFAULTS,
    FLOATS,
    Allowance,
    allowance,
    misplaced,
    within,
)
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.tensors import ITEM_BYTES, MAX_TENSORS

SIZES = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
RULES = st.builds(Allowance, st.integers(0, MAX_ABSOLUTE), st.integers(0, MAX_RELATIVE))


def both(data: bytes) -> Exact | Tolerance:
    """What a manifest's field will hold."""
    found: Exact | Tolerance = decode(data, Exact | Tolerance, 2**16)
    return found


# ---- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("diff", "ref", "dtype", "allowed"),
    [
        (0.0, 0.0, "float32", True),
        (9.9e-6, 0.0, "float32", True),
        (1.1e-5, 0.0, "float32", False),
        (0.01, 100.0, "float32", True),
        (0.0101, 100.0, "float32", False),
        (0.0, 0.0, "float16", True),
        (1e-7, 0.0, "float16", False),
        (0.199, 100.0, "float16", True),
        (0.201, 100.0, "float16", False),
        (9e-13, 0.0, "float64", True),
        (1e-9, 1.0, "float64", True),
        (1e-7, 1.0, "float64", False),
    ],
)
def test_the_defaults_allow_what_the_chapter_says(
    diff: float, ref: float, dtype: str, allowed: bool
) -> None:
    assert within(diff, ref, DEFAULTS[dtype]) is allowed


@given(SIZES, SIZES, RULES)
@settings(max_examples=300)
def test_the_decision_is_the_one_of_exact_fractions(
    diff: float, ref: float, rule: Allowance
) -> None:
    allowed = Fraction(rule.absolute, ABSOLUTE_UNIT) + Fraction(rule.relative, RELATIVE_UNIT) * (
        Fraction(ref)
    )
    assert within(diff, ref, rule) is (Fraction(diff) <= allowed)


@given(RULES, SIZES)
@settings(max_examples=200)
def test_the_edge_belongs_to_what_is_allowed(rule: Allowance, ref: float) -> None:
    """The next double above the largest allowed one is not allowed, whatever the rule."""
    allowed = Fraction(rule.absolute, ABSOLUTE_UNIT) + Fraction(rule.relative, RELATIVE_UNIT) * (
        Fraction(ref)
    )
    edge = float(allowed)
    below = edge if Fraction(edge) <= allowed else math.nextafter(edge, 0)
    assert within(below, ref, rule)
    assert not within(math.nextafter(below, math.inf), ref, rule)


def test_no_tolerance_at_all_allows_only_equal_values() -> None:
    assert within(0.0, 1e308, Allowance(0, 0))
    assert not within(5e-324, 1e308, Allowance(0, 0))


@pytest.mark.parametrize("diff", [math.inf, math.nan])
def test_a_difference_that_no_double_can_say_is_never_allowed(diff: float) -> None:
    assert not within(diff, 1.7e308, Allowance(MAX_ABSOLUTE, MAX_RELATIVE))


@given(st.floats(0, 1e6), st.floats(0, 1e6), RULES)
@settings(max_examples=200)
def test_a_candidate_cannot_buy_room_with_one_huge_element(
    own: float, candidate: float, rule: Allowance
) -> None:
    """The element that makes the reference large has to be matched itself."""
    if within(abs(candidate - own), candidate, rule):
        room = Fraction(own) + Fraction(rule.absolute, ABSOLUTE_UNIT)
        # The difference was rounded to a double: one part in 2**52 of room.
        limit = room / (1 - Fraction(rule.relative, RELATIVE_UNIT)) * (1 + Fraction(1, 2**50))
        assert Fraction(candidate) <= limit


# ---- which rule ------------------------------------------------------------------------------


def test_floating_outputs_have_defaults_and_all_others_are_equal_or_wrong() -> None:
    assert set(DEFAULTS) == set(FLOATS)
    for dtype in ITEM_BYTES:
        assert allowance(Tolerance(), "y", dtype) == DEFAULTS.get(dtype)


def test_an_output_may_have_its_own_tolerance_but_integers_stay_exact() -> None:
    rule = Tolerance((OutputTolerance("a", 0, 5), OutputTolerance("b", 7, 0)))
    assert allowance(rule, "a", "float64") == (0, 5)
    assert allowance(rule, "b", "float16") == (7, 0)
    assert allowance(rule, "c", "float32") == DEFAULTS["float32"]
    assert allowance(rule, "b", "int64") is None
    assert misplaced(rule, {"a": "float32", "b": "int64"}) == ("b",)
    assert misplaced(rule, {"a": "float32"}) == ("b",)
    assert misplaced(Tolerance(), {}) == ()


def test_the_defaults_are_within_the_bounds() -> None:
    for rule in DEFAULTS.values():
        assert rule.absolute <= MAX_ABSOLUTE
        assert rule.relative <= MAX_RELATIVE


# ---- the encoding ----------------------------------------------------------------------------


def test_a_tolerance_survives_its_encoding_beside_exact() -> None:
    rule = Tolerance((OutputTolerance("a", 0, MAX_RELATIVE), OutputTolerance("é", MAX_ABSOLUTE, 0)))
    for value in (Exact(), Tolerance(), rule):
        assert both(encode(value)) == value
    assert encode(Tolerance()) == b"\x92\xa9tolerance\x90"


def test_as_many_outputs_can_be_named_as_a_bundle_holds() -> None:
    assert MAX_OUTPUTS == MAX_TENSORS
    names = sorted(f"y{number}" for number in range(MAX_OUTPUTS + 1))
    outputs = [["y" + name, 1, 1] for name in names]
    assert both(encode(["tolerance", outputs[:-1]]))
    with pytest.raises(Malformed):
        both(encode(["tolerance", outputs]))


@pytest.mark.parametrize(
    "raw",
    [
        ["tolerance"],
        ["tolerance", [], []],
        ["tolerance", [["y", -1, 0]]],
        ["tolerance", [["y", 0, -1]]],
        ["tolerance", [["y", MAX_ABSOLUTE + 1, 0]]],
        ["tolerance", [["y", 0, MAX_RELATIVE + 1]]],
        ["tolerance", [["y", 0.5, 0]]],
        ["tolerance", [["", 0, 0]]],
        ["tolerance", [["y" * 257, 0, 0]]],
        ["tolerance", [["y", 0]]],
        ["tolerance", [["y", 0, 0, 0]]],
        ["tolerance", [["b", 0, 0], ["a", 0, 0]]],
        ["tolerance", [["a", 0, 0], ["a", 1, 0]]],
        ["tolerant", []],
    ],
)
def test_what_is_out_of_bounds_or_order_is_malformed(raw: list[object]) -> None:
    with pytest.raises(Malformed):
        both(encode(raw))


def test_names_out_of_order_cannot_be_made_at_home_either() -> None:
    with pytest.raises(ValueError, match="ascending"):
        Tolerance((OutputTolerance("b", 0, 0), OutputTolerance("a", 0, 0)))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(["tolerance", [["b", 0, 0], ["a", 0, 0]]], Tolerance)
