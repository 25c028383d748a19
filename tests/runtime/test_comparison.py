"""Two bundles are the same answer or not, whatever stands in them."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.job import Exact
from p2pfleet.core.rules.comparison import DEFAULTS
from p2pfleet.core.wire.tensors import Tensor, encode_bundle
from p2pfleet.runtime.comparison import Distance, distance, same_answer, suggested
from tests.adapters.sandbox.models import bundle

DEFAULT = Tolerance()
F16: Any = np.float16
F32: Any = np.float32
F64: Any = np.float64
NAN, INF = np.nan, np.inf


def verdict(candidate: Any, own: Any, rule: Exact | Tolerance = DEFAULT) -> bool:
    """Whether two arrays are the same output; a reason stands exactly where they are not."""
    found = same_answer(bundle(y=candidate), bundle(y=own), rule)
    assert bool(found.reason) is not found.same
    assert bool(found) is found.same
    return found.same


def tensor(array: Any) -> Tensor:
    array = np.asarray(array)
    return Tensor("y", array.dtype.name, array.shape, array.tobytes())


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "own", "same"),
    [
        (F32([1, 100]), F32([1.009, 100]), True),
        (F32([1, 100]), F32([1.011, 100]), False),
        (F32([0, 0]), F32([9e-6, 0]), True),
        (F32([0, 0]), F32([2e-5, 0]), False),
        (F16([1, 100]), F16([1.19, 100]), True),
        (F16([1, 100]), F16([1.25, 100]), False),
        (F16([65504]), F16([-65504]), False),
        (F64([1e300]), F64([1.0000000001e300]), True),
        (F64([1]), F64([1 + 1e-7]), False),
        (F64([1.7e308]), F64([-1.7e308]), False),
        (F32([3.4e38]), F32([-3.4e38]), False),
        (np.array([1, 2], np.int8), np.array([1, 2], np.int8), True),
        (np.array([1, 2]), np.array([1, 3]), False),
        (np.array([True]), np.array([False]), False),
        (np.zeros((0, 7), F32), np.zeros((0, 7), F32), True),
        (np.zeros((0, 7), F32), np.zeros((7, 0), F32), False),
        (F32([1, 2]), F32([1, 2, 3]), False),
        (F32([[1, 2]]), F32([1, 2]), False),
        (F32(1), F32(1.00005), True),
        (F32([1]), F64([1]), False),
        (np.array([0], np.int32), F32([0]), False),
    ],
)
def test_outputs_are_compared_by_dtype(candidate: Any, own: Any, same: bool) -> None:
    assert verdict(candidate, own) is same


@pytest.mark.parametrize("dtype", [F16, F32, F64])
def test_nans_and_infinities_have_to_stand_at_the_same_places(dtype: Any) -> None:
    def same(candidate: list[float], own: list[float]) -> bool:
        return verdict(np.array(candidate, dtype), np.array(own, dtype))

    assert same([NAN, 1], [NAN, 1])
    assert same([NAN, INF, -INF, 1], [-NAN, INF, -INF, 1])
    assert same([NAN, NAN], [NAN, -NAN])
    assert not same([NAN, 1], [1, NAN])
    assert not same([NAN, 1], [1, 1])
    assert not same([1, 1], [NAN, 1])
    assert not same([INF], [-INF])
    assert not same([INF], [NAN])
    assert not same([INF, 1], [1, INF])
    assert not same([INF], [float(np.finfo(dtype).max)])
    assert not same([float(np.finfo(dtype).max)], [INF])
    assert not same([INF, 1], [INF, 2])


def test_negative_zero_is_zero_under_tolerance_but_other_bytes_under_exact() -> None:
    strict = Tolerance((OutputTolerance("y", 0, 0),))
    assert verdict(F32([0.0]), F32([-0.0]))
    assert verdict(F32([0.0]), F32([-0.0]), strict)
    assert not verdict(F32([0.0]), F32([-0.0]), Exact())
    assert not verdict(F32([1]), F32([1.0000001]), strict)
    assert verdict(F32([1]), F32([1]), Exact())


def test_the_candidate_is_the_reference() -> None:
    rule = Tolerance((OutputTolerance("y", 0, 10_000_000),))
    assert verdict(F64([100]), F64([99]), rule)
    assert not verdict(F64([99]), F64([100]), rule), "1 % of 99 is less than 1"


def test_agreeing_with_one_representative_is_not_transitive() -> None:
    a, b, c = F32([1]), F32([1.00009]), F32([1.00018])
    assert verdict(b, a)
    assert verdict(b, c)
    assert not verdict(a, c)


def test_one_huge_element_buys_no_room() -> None:
    own = np.linspace(0, 1, 50, dtype=F32)
    forged = own * 0
    forged[7] = 1e30
    assert not verdict(forged, own)


def test_each_output_follows_its_own_rule_and_the_reason_names_it() -> None:
    rule = Tolerance((OutputTolerance("b", 0, 10_000_000),))
    own = bundle(a=F32([1]), b=F32([1]))
    assert same_answer(bundle(a=F32([1]), b=F32([1.005])), own, rule)
    found = same_answer(bundle(a=F32([1.005]), b=F32([1])), own, rule)
    assert not found
    assert "'a'" in found.reason
    assert "0.00" in found.reason


def test_a_tolerance_for_integers_loosens_nothing() -> None:
    rule = Tolerance((OutputTolerance("y", 10**9, 10**7),))
    assert not verdict(np.array([1000]), np.array([1001]), rule)


# ---- shape of the bundles ---------------------------------------------------------------------


def test_outputs_have_to_be_the_same_ones_in_the_same_order() -> None:
    a, b = F32([1]), F32([1])
    own = bundle(a=a, b=b)
    assert same_answer(bundle(a=a, b=b), own, DEFAULT)
    for other in (bundle(b=b, a=a), bundle(a=a), bundle(a=a, b=b, c=a), bundle(), bundle(a=a, c=b)):
        found = same_answer(other, own, DEFAULT)
        assert not found
        assert found.reason


HONEST = bundle(y=F32([1, 2, 3]))
HOSTILE = {
    "nothing": b"",
    "noise": b"\xff\x00 no bundle",
    "cut short": HONEST[:-1],
    "something behind it": HONEST + b"\x00",
    "deep": b"\x91" * 100_000,
    "an array that is not there": b"\xdd\xff\xff\xff\xff",
    "too little data": encode_bundle((Tensor("y", "float32", (4,), b"\x00" * 12),)),
    "a shape without end": encode_bundle((Tensor("y", "float32", (2**39, 2**39), b""),)),
    "one name twice": encode_bundle((tensor(F32([1])), tensor(F32([1])))),
    "a bool of two": encode_bundle((Tensor("y", "bool", (1,), b"\x02"),)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("rule", [Exact(), DEFAULT])
def test_a_malformed_bundle_is_not_the_same_and_says_why(
    name: str, rule: Exact | Tolerance
) -> None:
    for pair in ((HOSTILE[name], HONEST), (HONEST, HOSTILE[name])):
        found = same_answer(*pair, rule)
        assert not found
        assert found.reason


def test_empty_tensors_of_impossible_shapes_are_compared_without_making_them() -> None:
    empty = encode_bundle((Tensor("y", "float64", (2**39, 0, 2**39, 2**39), b""),))
    other = encode_bundle((Tensor("y", "float64", (2**39, 2**39, 2**39, 0), b""),))
    assert same_answer(empty, empty, DEFAULT)
    assert not same_answer(empty, other, DEFAULT)


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise(noise: bytes, behind: bool) -> None:
    candidate = HONEST[: len(HONEST) // 2] + noise if behind else noise
    assert same_answer(candidate, HONEST, DEFAULT).same is (candidate == HONEST)


@given(st.integers(0, len(HONEST) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_flipped_byte_raises_or_passes_unless_the_number_hardly_moved(
    place: int, flip: int
) -> None:
    changed = bytearray(HONEST)
    changed[place] ^= flip
    found = same_answer(bytes(changed), HONEST, DEFAULT)
    if found:
        data = F32([1, 2, 3]).tobytes()
        start = HONEST.index(data)
        assert start <= place < start + len(data)
        moved = np.frombuffer(bytes(changed[start : start + 12]), F32)
        assert np.max(np.abs(moved - F32([1, 2, 3]))) < 4e-4


# ---- size ------------------------------------------------------------------------------------


def test_the_distance_of_a_long_tensor_is_the_one_of_all_its_pieces() -> None:
    rng = np.random.default_rng(3)
    for size in (1, 2**16 - 1, 2**16, 2**16 + 1, 200_003):
        one = rng.standard_normal(size).astype(F32)
        two = one + rng.standard_normal(size).astype(F32) * F32(1e-6)
        one[size // 2] = two[size // 2] = NAN
        finite = np.isfinite(one)
        expected = Distance(0.0, 0.0)
        if finite.any():
            a, b = one[finite].astype(F64), two[finite].astype(F64)
            expected = Distance(float(np.abs(a - b).max()), float(np.abs(a).max()))
        assert distance(tensor(one), tensor(two)) == expected


def test_a_huge_tensor_needs_no_huge_temporaries() -> None:
    one = tensor(np.ones(8_000_000, F16))
    two = tensor(np.full(8_000_000, 1.001, F16))
    tracemalloc.start()
    try:
        assert distance(one, two) is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20, "16 MB a side, and 128 MB if it were widened at once"


# ---- for the publisher ------------------------------------------------------------------------


def test_doubles_that_were_computed_in_single_precision_get_its_tolerance() -> None:
    single, double = F64(F32([0.1, 2.7, NAN, INF])), F64([0.1, 2.7])
    own = bundle(z=single, b=single, d=double, f=F32([0.1]), whole=F64([1, 7]), none=F64([]))
    single_rule = DEFAULTS["float32"]
    assert suggested(own) == Tolerance(
        (OutputTolerance("b", *single_rule), OutputTolerance("z", *single_rule))
    )
    assert suggested(bundle(y=F64([1e300, 0.5]))) == DEFAULT
    with pytest.raises(Malformed):
        suggested(b"")
