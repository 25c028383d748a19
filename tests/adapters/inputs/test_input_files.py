"""Reading .npz and .npy files that may be damaged, pickled, or bombs."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from p2pfleet.adapters.inputs import read_input_file
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.wire.tensors import ITEM_BYTES
from p2pfleet.ports import ModelSignature, TensorSpec

X = ModelSignature((TensorSpec("x", "float32", (None, 3)),), ())
XY = ModelSignature((*X.inputs, TensorSpec("y", "int64", ())), ())


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def npy_of(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


def refusal(path: Path, signature: ModelSignature = X, **options: Any) -> P2pfleetError:
    with pytest.raises(P2pfleetError) as caught:
        read_input_file(path, signature, **options)
    assert str(path) in caught.value.message
    return caught.value


@given(
    st.sampled_from(sorted(ITEM_BYTES)).flatmap(
        lambda name: hnp.arrays(
            st.sampled_from([np.dtype(name), np.dtype(name).newbyteorder(">")]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        )
    ),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_what_numpy_saves_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, turned: bool, packed: bool
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    array = array.T if turned else array
    signature = ModelSignature((TensorSpec("a/b:0", array.dtype.name, array.shape),), ())
    np.save(folder / "one.npy", array)
    (np.savez_compressed if packed else np.savez)(folder / "one.npz", **{"a/b:0": array})

    for name in ("one.npy", "one.npz"):
        read = read_input_file(folder / name, signature)
        assert list(read) == ["a/b:0"]
        assert read["a/b:0"].dtype == array.dtype
        np.testing.assert_array_equal(read["a/b:0"], array)


def test_the_first_bytes_say_what_a_file_is_and_not_its_name(tmp_path: Path) -> None:
    array = np.ones((2, 3), np.float32)
    with (tmp_path / "data").open("wb") as stream:
        np.savez(stream, x=array)

    np.testing.assert_array_equal(read_input_file(tmp_path / "data", X)["x"], array)


def test_a_npy_file_fits_only_a_model_with_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))

    error = refusal(tmp_path / "x.npy", XY)

    assert "the model has 2 inputs" in error.message
    assert "'x', 'y'" in error.advice


def test_names_that_the_model_does_not_have_are_refused_before_anything_is_read(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "i.npz", images=np.ones((2, 3), np.float32))

    error = refusal(tmp_path / "i.npz")

    assert "'x' is missing; 'images' is not an input of the model" in error.message


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")

    assert "does not exist" in refusal(tmp_path / "gone.npz").message
    assert "is a folder" in refusal(tmp_path).message
    assert "not an ordinary file" in refusal(tmp_path / "pipe.npz").message
    assert "cannot be opened" in refusal(tmp_path / ("n" * 300)).message


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x93NUMP", bytes(1000)])
def test_what_is_no_numpy_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)

    assert "neither a .npz nor a .npy" in refusal(tmp_path / "x.npz").message


class Exploding:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hidden = np.array([Exploding(mark)], object)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Exploding(mark)))
    np.save(tmp_path / "array.npy", hidden, allow_pickle=True)
    np.savez(tmp_path / "archive.npz", allow_pickle=True, x=hidden)
    nested = {"descr": [("a", "O")], "fortran_order": False, "shape": (1,)}
    (tmp_path / "record.npy").write_bytes(npy_of(repr(nested), pickle.dumps(Exploding(mark))))

    for name in ("bare.npy", "array.npy", "archive.npz", "record.npy"):
        assert "pickled" in refusal(tmp_path / name).message
    assert not mark.exists()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, [("a", "i4"), ("b", "f4")]),
        np.array([1j]),
        np.zeros(2, "V8"),
    ],
    ids=lambda array: array.dtype.name,
)
def test_arrays_that_are_not_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)

    error = refusal(tmp_path / "x.npy")

    assert "has the type" in error.message
    assert "float32" in error.advice


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1099511627776)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 17 + ")}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 500 + ")" * 500 + "}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
        "{'descr': 'zzz', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (1,)}",
        "__import__('os').abort()",
        "'''",
        "",
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.npy").write_bytes(npy_of(header, bytes(4)))

    assert refusal(tmp_path / "x.npy").advice is not None


def test_a_file_of_unknown_npy_version_is_refused(tmp_path: Path) -> None:
    data = npy(np.ones((1, 3), np.float32))
    (tmp_path / "x.npy").write_bytes(data[:6] + b"\x03" + data[7:])

    assert "not plain numbers" in refusal(tmp_path / "x.npy").message


def test_the_longer_header_of_npy_2_is_read(tmp_path: Path) -> None:
    array = np.ones((1, 3), np.float32)
    (tmp_path / "x.npy").write_bytes(npy(array, version=(2, 0)))

    np.testing.assert_array_equal(read_input_file(tmp_path / "x.npy", X)["x"], array)


def test_a_file_cut_short_or_with_bytes_at_its_end_is_refused(tmp_path: Path) -> None:
    data = npy(np.ones((1, 3), np.float32))

    for changed in (data[:-1], data + b"\0", data[:20], data[:9]):
        (tmp_path / "x.npy").write_bytes(changed)
        assert "is damaged" in refusal(tmp_path / "x.npy").message


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((2**20, 3), np.float32))
    np.save(tmp_path / "x.npy", np.zeros((2**10, 3), np.float32))
    assert (tmp_path / "x.npz").stat().st_size < 20_000

    error = refusal(tmp_path / "x.npz", max_bytes=2**20)
    assert "unpacks to 12583040 bytes; at most 1048576 are read" in error.message
    assert "at most 1024" in refusal(tmp_path / "x.npy", max_bytes=2**10).message
    assert read_input_file(tmp_path / "x.npz", X, 2**24)["x"].shape == (2**20, 3)


def patched_sizes(path: Path, declared: int) -> None:
    """Make the archive's directory declare another unpacked size for its first member."""
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = declared.to_bytes(4, "little")
    path.write_bytes(data)


def test_a_bomb_that_declares_less_or_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for declared in (130, 2**31, 2**32 - 2):
        np.savez_compressed(path, x=np.zeros((2**16, 3), np.float32))
        patched_sizes(path, declared)

        assert "damaged" in refusal(path).message


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=np.zeros((64, 3), np.float32), y=np.array(1))
    data = bytearray(path.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    data[second + 20 : second + 28] = data[first + 20 : first + 28]
    path.write_bytes(data)

    assert refusal(path, XY).advice is not None


def test_archives_that_numpy_does_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    data = npy(np.ones((1, 3), np.float32))

    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", data)
    assert "compressed in a way" in refusal(path).message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not an array" in refusal(path).message
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65):
            archive.writestr(f"x{number}.npy", data)
    assert "65 arrays" in refusal(path).message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", data)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", data)
    assert "two arrays" in refusal(path).message
    with zipfile.ZipFile(path, "w"):
        pass
    assert "'x' is missing" in refusal(path).message


def test_a_changed_byte_never_ends_in_anything_but_a_refusal_or_an_array(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.arange(12, dtype=np.float32).reshape(4, 3))
    plain = npy(np.arange(12, dtype=np.float32).reshape(4, 3))
    path = tmp_path / "x"
    dice = random.Random(1)
    outcomes = {"read": 0, "refused": 0}
    for good in (stream.getvalue(), plain):
        for position in range(len(good)):
            data = bytearray(good)
            data[position] ^= dice.randrange(1, 256)
            path.write_bytes(data)
            try:
                read_input_file(path, X, 2**16)
            except P2pfleetError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1

    assert outcomes["refused"] > outcomes["read"] > 0
