"""The child's reader and writer of bundles are those of the core, byte for byte."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.adapters.sandbox.inside import bundle as inside
from p2pfleet.adapters.sandbox.inside.warm import WARM_MODEL
from p2pfleet.core.errors import Malformed
from p2pfleet.core.wire import tensors as core

shapes = st.lists(st.sampled_from([0, 1, 2, 3, 5, 200, 300, 70_000]), max_size=3).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> core.Tensor:
    dtype = draw(st.sampled_from(sorted(core.ITEM_BYTES)))
    shape = draw(shapes.filter(lambda shape: int(np.prod(shape)) <= 70_000))
    data = bytes(int(np.prod(shape)) * core.ITEM_BYTES[dtype])
    name = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256))
    return core.Tensor(name, dtype, shape, data)  # type: ignore[arg-type]


bundles = st.lists(tensors(), max_size=4, unique_by=lambda tensor: tensor.name).map(tuple)


def accepted_by_core(data: bytes) -> bool:
    try:
        core.decode_bundle(data, 2**31)
    except Malformed:
        return False
    return True


def accepted_inside(data: bytes) -> bool:
    try:
        inside.read_bundle(memoryview(data))
    except inside.BadBundle:
        return False
    return True


def test_the_bounds_are_those_of_the_core() -> None:
    assert inside.ITEM_BYTES == core.ITEM_BYTES
    assert inside.MAX_TENSORS == core.MAX_TENSORS
    assert inside.MAX_RANK == core.MAX_RANK


@given(bundles)
@settings(max_examples=150, deadline=None)
def test_what_the_core_writes_is_read_and_written_alike(bundle: tuple[core.Tensor, ...]) -> None:
    data = core.encode_bundle(bundle)
    entries = inside.read_bundle(memoryview(data))

    assert [(entry.name, entry.dtype, entry.shape) for entry in entries] == [
        (tensor.name, tensor.dtype, tensor.shape) for tensor in bundle
    ]
    assert [data[entry.start : entry.stop] for entry in entries] == [
        tensor.data for tensor in bundle
    ]
    assert data == inside.bundle_head(len(bundle)) + b"".join(
        inside.tensor_head(tensor.name, tensor.dtype, tensor.shape) + tensor.data
        for tensor in bundle
    )


@given(bundles, st.data())
@settings(max_examples=500, deadline=None)
def test_what_the_core_refuses_is_refused(
    bundle: tuple[core.Tensor, ...], data: st.DataObject
) -> None:
    raw = bytearray(core.encode_bundle(bundle))
    for _ in range(data.draw(st.integers(1, 3))):
        # The heads are where it matters: mostly change the first bytes.
        position = data.draw(st.integers(0, min(len(raw) - 1, 60)))
        action = data.draw(st.sampled_from(["set", "insert", "delete"]))
        value = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(list(range(0xC0, 0xE0)))))
        if action == "set":
            raw[position] = value
        elif action == "insert":
            raw.insert(position, value)
        elif len(raw) > 1:
            del raw[position]

    assert accepted_inside(bytes(raw)) == accepted_by_core(bytes(raw))


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_noise_is_judged_alike(data: bytes) -> None:
    assert accepted_inside(data) == accepted_by_core(data)


def test_forms_that_are_not_the_shortest_are_refused_at_every_place() -> None:
    tensor = core.Tensor("x", "int8", (300,), bytes(300))
    good = core.encode_bundle((tensor,))
    assert good[:3] == b"\x91\x94\xa1"
    longer = [
        b"\xdc\x00\x01" + good[1:],
        b"\xdd\x00\x00\x00\x01" + good[1:],
        good[:1] + b"\xdc\x00\x04" + good[2:],
        good[:2] + b"\xd9\x01" + good[3:],
        good.replace(b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c"),
        good.replace(b"\xcd\x01\x2c", b"\xd1\x01\x2c"),
        good.replace(b"\xc5\x01\x2c", b"\xc6\x00\x00\x01\x2c"),
        good.replace(b"\xa4int8", b"\xc4\x04int8"),
    ]

    assert accepted_inside(good)
    for data in longer:
        assert data != good
        assert not accepted_inside(data)
        assert not accepted_by_core(data)


def test_the_warm_up_model_is_a_valid_onnx_model() -> None:
    proto = onnx.load_from_string(WARM_MODEL)
    onnx.checker.check_model(proto)

    assert [node.op_type for node in proto.graph.node] == ["MatMul"]
    assert proto.SerializeToString() == WARM_MODEL
