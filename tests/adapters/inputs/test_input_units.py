"""Files to work units: whole, or cut along an axis."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from p2pfleet.adapters.inputs import (
    Split,
    arrays_from_bundle,
    bundle_from_arrays,
    parse_split,
    units_from_files,
)
from p2pfleet.adapters.inputs import units as units_module
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.ports import ModelSignature, TensorSpec

FREE = TensorSpec("x", "float32", (None, 3))
MASK = TensorSpec("mask", "bool", (None,))
FIXED = TensorSpec("x", "float32", (4, 3))
WEIGHT = TensorSpec("w", "float32", (3, 3))
BIAS = TensorSpec("b", "float32", ())


def wants(*specs: TensorSpec) -> ModelSignature:
    return ModelSignature(specs, ())


def rows(count: int) -> np.ndarray:
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def save(folder: Path, name: str = "in", **arrays: np.ndarray) -> Path:
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def unpacked(
    path: Path, signature: ModelSignature, split: Split | None
) -> list[tuple[str, dict[str, np.ndarray]]]:
    return [
        (name, arrays_from_bundle(bundle, 2**20))
        for name, bundle in units_from_files([path], signature, split)
    ]


def refusal(path: Path, signature: ModelSignature, split: Split | None) -> P2pfleetError:
    with pytest.raises(P2pfleetError) as caught:
        list(units_from_files([path], signature, split))
    assert str(path) in caught.value.message
    assert caught.value.advice
    return caught.value


@pytest.mark.parametrize(
    ("text", "split"), [("0", Split(0, 1)), ("0:50", Split(0, 50)), ("2:7", Split(2, 7))]
)
def test_a_split_is_an_axis_and_a_size(text: str, split: Split) -> None:
    assert parse_split(text) == split


@pytest.mark.parametrize(
    "text",
    ["", ":", "0:", ":5", "0:0", "-1", "0:-5", "1.5", "16", "999", "0:5:6", " 0", "0\n", "²"],
)
def test_what_is_no_split_is_a_usage_error(text: str) -> None:
    with pytest.raises(P2pfleetError) as caught:
        parse_split(text)
    assert caught.value.code == ExitCode.USAGE
    assert "--split 0:50" in caught.value.advice


def test_each_file_is_one_unit_in_the_order_given(tmp_path: Path) -> None:
    paths = [save(tmp_path, name, x=rows(size)) for name, size in (("b", 2), ("a", 5))]

    units = list(units_from_files(paths, wants(FREE)))

    assert units == [
        ("b", bundle_from_arrays({"x": rows(2)}, wants(FREE))),
        ("a", bundle_from_arrays({"x": rows(5)}, wants(FREE))),
    ]


def test_a_free_axis_is_cut_and_the_last_piece_may_be_smaller(tmp_path: Path) -> None:
    path = save(tmp_path, x=rows(7), mask=np.arange(7) % 2 == 0)

    units = unpacked(path, wants(FREE, MASK), Split(0, 3))

    assert [name for name, _ in units] == ["in[0:3]", "in[3:6]", "in[6:7]"]
    for name, whole in (("x", rows(7)), ("mask", np.arange(7) % 2 == 0)):
        np.testing.assert_array_equal(np.concatenate([a[name] for _, a in units]), whole)


def test_inputs_without_a_free_axis_there_are_repeated_whole(tmp_path: Path) -> None:
    path = save(tmp_path, x=rows(3), w=rows(3), b=np.array(2, np.float32))

    units = unpacked(path, wants(FREE, WEIGHT, BIAS), Split(0))

    assert len(units) == 3
    for number, (_, arrays) in enumerate(units):
        np.testing.assert_array_equal(arrays["x"], rows(3)[number : number + 1])
        np.testing.assert_array_equal(arrays["w"], rows(3))
        assert arrays["b"] == 2


def test_another_axis_than_the_first_can_be_cut(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", (2, None))
    whole = np.arange(10, dtype=np.float32).reshape(2, 5)

    units = unpacked(save(tmp_path, x=whole), wants(spec), Split(1, 2))

    assert [arrays["x"].shape for _, arrays in units] == [(2, 2), (2, 2), (2, 1)]
    np.testing.assert_array_equal(np.concatenate([a["x"] for _, a in units], axis=1), whole)


def test_a_model_with_a_fixed_axis_is_fed_pieces_of_that_size(tmp_path: Path) -> None:
    units = unpacked(save(tmp_path, x=rows(8)), wants(FIXED), Split(0, 4))

    assert [name for name, _ in units] == ["in[0:4]", "in[4:8]"]
    np.testing.assert_array_equal(units[1][1]["x"], rows(8)[4:])
    (only,) = unpacked(save(tmp_path, x=rows(4)), wants(FIXED), Split(0, 4))
    assert only[0] == "in[0:4]"


def test_a_smaller_last_piece_is_refused_where_the_model_fixes_the_axis(tmp_path: Path) -> None:
    error = refusal(save(tmp_path, x=rows(10)), wants(FIXED), Split(0, 4))

    assert "a last piece of 2" in error.message
    assert "Leave 2 out or add 2" in error.advice


def test_pieces_that_a_fixed_axis_does_not_take_are_refused(tmp_path: Path) -> None:
    error = refusal(save(tmp_path, x=rows(10)), wants(FIXED), Split(0, 5))

    assert "fixes axis 0 of input 'x' at 4" in error.message
    assert "--split 0:4" in error.advice


def test_free_inputs_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, x=rows(4), mask=np.zeros(1, bool))

    assert "'x' has 4, 'mask' has 1" in refusal(path, wants(FREE, MASK), Split(0)).message


def test_a_split_that_cuts_nothing_is_refused(tmp_path: Path) -> None:
    free_first = save(tmp_path, x=rows(4))

    assert "nothing can be split" in refusal(free_first, wants(FREE), Split(1)).message
    assert "nothing can be split" in refusal(free_first, wants(FREE), Split(5)).message
    empty = save(tmp_path, "empty", x=rows(0))
    assert "has length 0" in refusal(empty, wants(FREE), Split(0)).message


def test_an_array_that_does_not_fit_the_model_is_refused_with_its_file(tmp_path: Path) -> None:
    flat = save(tmp_path, x=np.zeros(3))

    for split in (None, Split(0)):
        message = refusal(flat, wants(FREE), split).message
        assert "input 'x' is float64[" in message
        assert "the model wants float32[?,3]" in message


def test_a_job_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "MAX_UNITS", 3)

    error = refusal(save(tmp_path, x=rows(4)), wants(FREE), Split(0))

    assert "more than 3 units" in error.message


def test_units_are_made_one_at_a_time(tmp_path: Path) -> None:
    spec = TensorSpec("x", "uint8", (None, 2**16))
    path = save(tmp_path, x=np.zeros((128, 2**16), np.uint8))
    tracemalloc.start()
    try:
        total = sum(len(bundle) for _, bundle in units_from_files([path], wants(spec), Split(0)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert total > 128 * 2**16
    assert peak < 1.5 * 128 * 2**16
