"""Result files: exactly one way to write them, and not a byte may change."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.adapters.inputs import arrays_from_bundle, read_outputs_file, write_outputs
from p2pfleet.adapters.inputs import outputs as outputs_module
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, digest_of, encode_bundle

SMALL = (
    Tensor("z", "float16", (2, 1), b"\x00\x3c\x01\x7e"),
    Tensor("a", "bool", (), b"\x01"),
    Tensor("empty", "int64", (0, 3), b""),
)
AWKWARD = ["a/b:0", "..", ".", "/etc/passwd", "../../x", "C:\\x", "x.npy", "%2F", "a b", "\0"]
GOLDEN = "153f4934545b36140f07136fb2deef8443e5c8d1c0791ac3e120ed04f637bada"
AWKWARD += ["é", "\u202e", "~", " "]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == "bool":
        data = bytes(value & 1 for value in data)
    text = st.characters(exclude_categories=["Cs"])
    name = draw(st.sampled_from(AWKWARD) | st.text(text, min_size=1, max_size=256))
    return Tensor(name, dtype, shape, data)


def refusal(path: Path, **options: int) -> P2pfleetError:
    with pytest.raises(P2pfleetError) as caught:
        read_outputs_file(path, **options)
    assert str(path) in caught.value.message
    assert caught.value.advice
    return caught.value


@given(st.lists(tensors(), max_size=5, unique_by=lambda tensor: tensor.name))
@settings(max_examples=150)
def test_every_bundle_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, given_tensors: list[Tensor]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    bundle = encode_bundle(tuple(given_tensors))

    path = write_outputs(folder, 7, bundle)

    assert path == folder / "outputs" / "000007.npz"
    assert read_outputs_file(path) == bundle
    assert digest_of(read_outputs_file(path, len(bundle))) == digest_of(bundle)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    bundle = encode_bundle(SMALL)

    path = write_outputs(tmp_path, 0, bundle)

    expected = arrays_from_bundle(bundle, 10_000)
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == list(expected)
        for name, array in expected.items():
            assert archive[name].dtype == array.dtype
            np.testing.assert_array_equal(archive[name], array)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


@pytest.mark.parametrize("name", AWKWARD)
def test_a_tensors_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    bundle = encode_bundle((Tensor(name, "uint8", (1,), b"a"),))

    path = write_outputs(tmp_path, 1, bundle)

    with zipfile.ZipFile(path) as archive:
        (member,) = archive.namelist()
        assert member.endswith(".npy")
        assert not set(member) & set("/\\:\0 ")
        assert member.isascii()
        archive.extractall(tmp_path / "unpacked")
    assert [p.name for p in (tmp_path / "unpacked").iterdir()] == [member]
    assert list(arrays_from_bundle(read_outputs_file(path), 1000)) == [name]


def test_the_bytes_of_a_file_are_the_same_everywhere(tmp_path: Path) -> None:
    path = write_outputs(tmp_path, 0, encode_bundle(SMALL))

    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = write_outputs(tmp_path, 0, encode_bundle(SMALL))
    good = path.read_bytes()
    for position in range(len(good)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            data = bytearray(good)
            data[position] ^= flip
            path.write_bytes(data)
            assert refusal(path).code == ExitCode.DAMAGED

    path.write_bytes(good)
    assert read_outputs_file(path) == encode_bundle(SMALL)


def test_every_cut_and_every_added_byte_is_noticed(tmp_path: Path) -> None:
    path = write_outputs(tmp_path, 0, encode_bundle(SMALL))
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        assert refusal(path).code == ExitCode.DAMAGED
    for changed in (good + b"\0", b"\0" + good, good + good, good[:200] + b"\0" + good[200:]):
        path.write_bytes(changed)
        assert refusal(path).code == ExitCode.DAMAGED


def test_the_same_arrays_written_by_numpy_are_not_taken_for_ours(tmp_path: Path) -> None:
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", z=np.zeros(3))
        assert "not as p2pfleet writes outputs" in refusal(tmp_path / "x.npz").message


def test_a_claim_of_size_makes_nobody_take_memory(tmp_path: Path) -> None:
    path = write_outputs(tmp_path, 0, encode_bundle((Tensor("x", "uint8", (10,), bytes(10)),)))
    data = path.read_bytes()
    extra = data.index(b"\x01\x00\x10\x00") + 4
    lying = bytearray(data.replace(b"(10,), }           ", b"(1099511627775,), }", 1))
    size = (128 + 1099511627775).to_bytes(8, "little")
    lying[extra : extra + 16] = size + size
    path.write_bytes(lying)
    assert "it ends early" in refusal(path).message


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    bundle = encode_bundle((Tensor("x", "uint8", (2**21,), bytes(2**21)),))
    path = write_outputs(tmp_path, 0, bundle)

    assert "more than the 1000 allowed" in refusal(path, limit=1000).message
    assert "at most" in refusal(path, limit=len(bundle) - 1).message
    assert read_outputs_file(path, len(bundle)) == bundle


def test_more_tensors_than_a_bundle_has_are_refused(tmp_path: Path) -> None:
    many = tuple(Tensor(f"x{number}", "uint8", (), b"a") for number in range(65))
    path = tmp_path / "x.npz"
    path.write_bytes(b"".join(outputs_module._file_pieces(many)))
    assert "does not belong" in refusal(path).message

    path.write_bytes(b"".join(outputs_module._file_pieces((many[0], many[0]))))
    assert "two tensors" in refusal(path).message


def test_what_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")

    assert "not an ordinary file" in refusal(tmp_path / "pipe.npz").message
    assert "does not exist" in refusal(tmp_path / "gone.npz").message


def test_a_bundle_that_is_none_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(Malformed):
        write_outputs(tmp_path, 0, b"junk")
    assert list(tmp_path.iterdir()) == []


def test_a_later_writing_replaces_an_earlier_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_outputs(tmp_path, 3, encode_bundle(SMALL[:1]))
    path = write_outputs(tmp_path, 3, encode_bundle(SMALL))

    assert read_outputs_file(path) == encode_bundle(SMALL)
    assert [p.name for p in path.parent.iterdir()] == ["000003.npz"]


def test_a_writing_that_fails_leaves_the_earlier_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_outputs(tmp_path, 3, encode_bundle(SMALL))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(P2pfleetError, match="No space left") as caught:
        write_outputs(tmp_path, 3, encode_bundle(SMALL[:1]))

    assert caught.value.advice
    assert read_outputs_file(path) == encode_bundle(SMALL)
    assert [p.name for p in path.parent.iterdir()] == ["000003.npz"]


def test_a_folder_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")

    with pytest.raises(P2pfleetError, match="cannot be written"):
        write_outputs(tmp_path / "taken", 0, encode_bundle(SMALL))


def test_a_file_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        steps.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    write_outputs(tmp_path / "new", 0, encode_bundle(SMALL))

    assert steps[-3:] == ["file", "name", "folder"]


def test_the_data_of_a_file_is_what_numpy_would_write(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.arange(6, dtype="<i4").reshape(2, 3), version=(1, 0))
    data = np.arange(6, dtype="<i4").tobytes()

    path = write_outputs(tmp_path, 0, encode_bundle((Tensor("x", "int32", (2, 3), data),)))

    with zipfile.ZipFile(path) as archive:
        assert archive.read("x.npy") == stream.getvalue()
