"""Arrays to canonical bundles and back, and what is refused on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2pfleet.adapters.inputs import arrays_from_bundle, bundle_from_arrays
from p2pfleet.core.errors import Malformed, P2pfleetError
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, decode_bundle, encode_bundle
from p2pfleet.ports import ModelSignature, TensorSpec

X = TensorSpec("x", "float32", (None, 3))
Y = TensorSpec("y", "int64", (2,))
ENOUGH = 2**20


def wants(*specs: TensorSpec) -> ModelSignature:
    return ModelSignature(specs, ())


def carried_arrays() -> st.SearchStrategy[np.ndarray]:
    """Arrays of every dtype that travels, in both byte orders, 0-d and empty ones too."""
    return hnp.arrays(
        st.sampled_from(sorted(ITEM_BYTES)).flatmap(
            lambda name: st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder(">")])
        ),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )


def refusal(arrays: dict[str, Any], *specs: TensorSpec) -> P2pfleetError:
    with pytest.raises(P2pfleetError) as caught:
        bundle_from_arrays(arrays, wants(*specs))
    assert caught.value.advice
    return caught.value


@given(carried_arrays(), st.booleans())
def test_every_array_that_travels_comes_back_bit_by_bit(array: np.ndarray, turned: bool) -> None:
    array = array.T if turned else array
    signature = wants(TensorSpec("a/b:0", array.dtype.name, tuple(None for _ in array.shape)))

    bundle = bundle_from_arrays({"a/b:0": array}, signature)
    back = arrays_from_bundle(bundle, len(bundle))["a/b:0"]

    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("<")
    assert back.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    assert back.flags.writeable
    assert back.flags.c_contiguous
    assert bundle_from_arrays({"a/b:0": back}, signature) == bundle


def test_a_bundle_has_the_order_of_the_models_inputs() -> None:
    arrays = {"y": np.array([1, 2]), "x": np.zeros((1, 3), np.float32)}

    bundle = bundle_from_arrays(arrays, wants(X, Y))

    assert [tensor.name for tensor in decode_bundle(bundle, ENOUGH)] == ["x", "y"]
    assert list(arrays_from_bundle(bundle, ENOUGH)) == ["x", "y"]


def test_memory_layout_and_byte_order_do_not_change_the_bundle() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = bundle_from_arrays({"x": array}, wants(X))

    assert bundle_from_arrays({"x": np.asfortranarray(array)}, wants(X)) == plain
    assert bundle_from_arrays({"x": array.astype(">f4")}, wants(X)) == plain
    assert bundle_from_arrays({"x": np.repeat(array, 2, axis=0)[::2]}, wants(X)) == plain


def test_a_bool_has_one_encoding_whatever_byte_it_came_from() -> None:
    odd = np.array([0, 1, 2, 255], np.uint8).view(np.bool_)
    spec = TensorSpec("b", "bool", (4,))

    assert bundle_from_arrays({"b": odd}, wants(spec)) == encode_bundle(
        (Tensor("b", "bool", (4,), b"\0\1\1\1"),)
    )
    bundle = encode_bundle((Tensor("b", "bool", (4,), b"\0\1\2\xff"),))
    with pytest.raises(Malformed, match="bytes other than 0 and 1"):
        arrays_from_bundle(bundle, ENOUGH)


def test_a_wrong_type_is_named_with_what_the_model_wants_and_how_to_convert() -> None:
    error = refusal({"x": np.zeros(3)}, X)

    assert "input 'x' is float64[3], the model wants float32[?,3]" in error.message
    assert "astype('float32')" in error.advice


def test_a_wrong_rank_and_a_wrong_fixed_axis_are_told_apart() -> None:
    assert "number of axes" in refusal({"x": np.zeros(3, np.float32)}, X).message
    error = refusal({"x": np.zeros((5, 4), np.float32)}, X)
    assert "input 'x' is float32[5,4], the model wants float32[?,3]: the fixed axes" in str(error)


def test_missing_and_surplus_names_are_listed() -> None:
    error = refusal({"x": np.zeros((1, 3), np.float32), "z": np.zeros(1)}, X, Y)

    assert "'y' is missing" in error.message
    assert "'z' is not an input" in error.message
    assert "'x' float32[?,3], 'y' int64[2]" in error.advice


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
        np.array([1j]),
        np.array([1], np.longdouble),
    ],
    ids=lambda array: array.dtype.name,
)
def test_what_is_not_a_plain_number_is_refused(array: np.ndarray) -> None:
    error = refusal({"x": array}, TensorSpec("x", "float32", (1,)))

    assert "not an array of numbers" in error.message


@pytest.mark.parametrize("value", [[[1.0, 2.0, 3.0]], 1.0, None, "x"])
def test_what_is_no_array_is_refused_instead_of_guessed_at(value: Any) -> None:
    assert "wants a numpy array float32[?,3]" in refusal({"x": value}, X).message


def test_a_masked_array_is_refused_because_its_hidden_values_would_be_sent() -> None:
    masked = np.ma.masked_less(np.zeros((1, 3), np.float32), 1)

    assert "MaskedArray" in refusal({"x": masked}, X).message


def test_a_model_that_wants_strings_or_too_much_is_refused() -> None:
    assert (
        "no unit can carry"
        in refusal({"s": np.array(["a"])}, TensorSpec("s", "string", (1,))).message
    )
    many = tuple(TensorSpec(f"x{number}", "uint8", ()) for number in range(65))
    assert "65 inputs" in refusal({s.name: np.uint8(0) for s in many}, *many).message
    name = "n" * 257
    assert "longer than 256" in refusal({name: np.uint8(0)}, TensorSpec(name, "uint8", ())).message


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"junk",
        encode_bundle((Tensor("x", "float32", (2,), b"short"),)),
        encode_bundle((Tensor("x", "float32", (2**39, 2**39, 0), b""),)),
        encode_bundle((Tensor("x", "uint8", (1,), b"a"), Tensor("x", "uint8", (1,), b"b"))),
    ],
    ids=["empty", "junk", "short", "uncountable", "twice"],
)
def test_a_malformed_bundle_is_refused(bundle: bytes) -> None:
    with pytest.raises(Malformed):
        arrays_from_bundle(bundle, ENOUGH)


def test_a_bundle_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(Malformed, match="at most 99"):
        arrays_from_bundle(bytes(100), 99)
