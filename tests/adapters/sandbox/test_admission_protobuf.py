"""Admission reads a model as protobuf does, or refuses it: nothing is seen there but not here."""

from __future__ import annotations

import struct
from typing import Any

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from p2pfleet.adapters.sandbox.inside.admission.onnx_graph import (
    Attribute,
    Graph,
    Node,
    Reader,
    normal,
)
from p2pfleet.adapters.sandbox.inside.admission.onnx_tensor import Kind, SparseTensor, Tensor
from p2pfleet.adapters.sandbox.inside.admission.protobuf import (
    BadMessage,
    Wire,
    signed32,
    signed64,
)
from p2pfleet.adapters.sandbox.inside.admission.refusal import Refusal
from tests.hostile.building import field, varint

from .admission_models import REAL

# ---- what admission sees ---------------------------------------------------------------------


def seen_by_us(data: bytes) -> Any:
    """Raises BadMessage, Refusal."""
    wire = Wire(data)
    model = Reader(wire).model()
    return (
        model.imports,
        model.metadata,
        model.trained,
        [
            (
                function.key,
                function.imports,
                our_graph(wire, function.body),
                [our_attribute(wire, default) for default in function.defaults],
            )
            for function in model.functions
        ],
        our_graph(wire, model.graph),
    )


def our_graph(wire: Wire, graph: Graph) -> Any:
    return (
        [our_node(wire, node) for node in graph.nodes],
        [our_tensor(wire, tensor) for tensor in graph.initializers],
        [our_sparse(wire, sparse) for sparse in graph.sparse],
        [(value.name, our_kind(value.kind)) for value in graph.inputs],
        [(value.name, our_kind(value.kind)) for value in graph.outputs],
    )


def our_node(wire: Wire, node: Node) -> Any:
    return (
        node.op,
        node.domain,
        node.overload,
        wire.copy(*node.name),
        [wire.copy(*span) for span in node.inputs],
        [wire.copy(*span) for span in node.outputs],
        [(name, our_attribute(wire, given)) for name, given in node.attributes.items()],
    )


def our_attribute(wire: Wire, given: Attribute) -> Any:
    return (
        given.name,
        given.ref,
        given.type,
        given.i,
        given.s,
        given.integers(wire, 2**20),
        given.strings,
        [our_tensor(wire, tensor) for tensor in given.tensors],
        [our_sparse(wire, sparse) for sparse in given.sparse],
        [our_graph(wire, graph) for graph in given.graphs],
    )


def our_tensor(wire: Wire, tensor: Tensor) -> Any:
    return (
        tensor.name,
        tensor.dims,
        tensor.dtype,
        tensor.external,
        None if tensor.raw is None else wire.copy(*tensor.raw),
        sorted((number, count) for number, count in tensor.counts.items() if count),
        tensor.integers(wire, 2**10),
    )


def our_sparse(wire: Wire, sparse: SparseTensor) -> Any:
    return (our_tensor(wire, sparse.values), our_tensor(wire, sparse.indices), sparse.dims)


def our_kind(kind: Kind | None) -> Any:
    return None if kind is None else (kind.name.split("(")[0], kind.dtype, kind.shape)


# ---- what protobuf sees ----------------------------------------------------------------------


def seen_by_protobuf(data: bytes) -> Any:
    """Raises DecodeError."""
    model = onnx.ModelProto.FromString(data)
    return (
        [normal(one.domain) for one in model.opset_import],
        [raw(one.key) for one in model.metadata_props],
        bool(model.training_info),
        [
            (
                (normal(function.domain), function.name, function.overload),
                [normal(one.domain) for one in function.opset_import],
                (
                    [their_node(node) for node in function.node],
                    [],
                    [],
                    [(raw(name), None) for name in function.input],
                    [(raw(name), None) for name in function.output],
                ),
                [their_attribute(default) for default in function.attribute_proto],
            )
            for function in model.functions
        ],
        their_graph(model.graph),
    )


def raw(name: str | bytes) -> bytes:
    """Protobuf gives a string that is not UTF-8 as bytes."""
    return name if isinstance(name, bytes) else name.encode()


def their_graph(graph: onnx.GraphProto) -> Any:
    return (
        [their_node(node) for node in graph.node],
        [their_tensor(tensor) for tensor in graph.initializer],
        [their_sparse(sparse) for sparse in graph.sparse_initializer],
        [(raw(value.name), their_kind(value)) for value in graph.input],
        [(raw(value.name), their_kind(value)) for value in graph.output],
    )


def their_node(node: onnx.NodeProto) -> Any:
    return (
        node.op_type,
        node.domain,
        node.overload,
        raw(node.name),
        [raw(name) for name in node.input],
        [raw(name) for name in node.output],
        [(raw(given.name), their_attribute(given)) for given in node.attribute],
    )


def their_attribute(given: onnx.AttributeProto) -> Any:
    def both(one: str, many: str) -> list[Any]:
        return [
            *([getattr(given, one)] if given.HasField(one) else []),
            *getattr(given, many),
        ]

    return (
        raw(given.name),
        raw(given.ref_attr_name) if given.HasField("ref_attr_name") else None,
        given.type,
        given.i if given.HasField("i") else None,
        given.s if given.HasField("s") else None,
        list(given.ints),
        len(given.strings),
        [their_tensor(tensor) for tensor in both("t", "tensors")],
        [their_sparse(sparse) for sparse in both("sparse_tensor", "sparse_tensors")],
        [their_graph(graph) for graph in both("g", "graphs")],
    )


FIELDS = {
    4: "float_data", 5: "int32_data", 6: "string_data", 7: "int64_data", 10: "double_data",
    11: "uint64_data",
}  # fmt: skip
LETTERS = {2: "B", 3: "b", 4: "H", 5: "h", 6: "i", 7: "q", 9: "B", 12: "I", 13: "Q"}


def their_tensor(tensor: TensorProto) -> Any:
    external = tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)
    counts = [
        (number, count) for number, name in FIELDS.items() if (count := len(getattr(tensor, name)))
    ]
    return (
        raw(tensor.name),
        list(tensor.dims),
        tensor.data_type,
        external,
        tensor.raw_data if tensor.HasField("raw_data") else None,
        counts,
        None if external else their_integers(tensor, dict(counts)),
    )


def their_integers(tensor: TensorProto, counts: dict[int, int]) -> list[int] | None:
    letter = LETTERS.get(tensor.data_type)
    count = 1
    for dim in tensor.dims:
        count *= dim
    if letter is None or min(tensor.dims, default=0) < 0 or count > 2**10:
        return None
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != count * struct.calcsize(f"<{letter}"):
            return None
        return list(struct.unpack(f"<{count}{letter}", tensor.raw_data))
    number = {7: 7, 12: 11, 13: 11}.get(tensor.data_type, 5)
    if counts != ({number: count} if count else {}):
        return None
    return list(getattr(tensor, FIELDS[number]))


def their_sparse(sparse: onnx.SparseTensorProto) -> Any:
    return (their_tensor(sparse.values), their_tensor(sparse.indices), list(sparse.dims))


def their_kind(value: onnx.ValueInfoProto) -> Any:
    which = value.type.WhichOneof("value")
    if which is None:
        return None
    if which != "tensor_type":
        short = {"sequence_type": "seq", "sparse_tensor_type": "sparse_tensor"}
        return (short.get(which, which.removesuffix("_type")), 0, None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0 else None
            for dim in tensor.shape.dim
        )
    return ("tensor", tensor.elem_type, shape)


# ---- they agree ------------------------------------------------------------------------------

MODELS = {name: make() for name, (make, _) in REAL.items()}


def agree_or_refuse(data: bytes) -> bool:
    """Whether it is refused; raises AssertionError where the two see different models."""
    try:
        ours = seen_by_us(data)
    except (BadMessage, Refusal):
        return True
    try:
        theirs = seen_by_protobuf(data)
    except DecodeError as error:
        # Protobuf looks into parts that are stepped over here (documentation, inferred shapes);
        # onnxruntime does so as well, and refuses them itself.
        raise_unless_in_a_part_stepped_over(data, error)
        return False
    assert ours == theirs
    return False


def raise_unless_in_a_part_stepped_over(data: bytes, error: DecodeError) -> None:
    """What is left without those parts must be readable."""
    stripped = strip(data, ("model",))
    try:
        assert seen_by_us(stripped) == seen_by_us(data)
        theirs = seen_by_protobuf(stripped)
    except DecodeError:
        raise AssertionError("protobuf cannot read what was admitted") from error
    assert theirs == seen_by_us(data)


# Fields that admission steps over, and those within which there are some.
STEPPED_OVER = {
    "model": (2, 3, 4, 6, 20, 26), "graph": (2, 10, 13, 14, 16), "node": (6, 9, 10),
    "attribute": (13,), "tensor": (12, 13, 16), "value": (3, 4), "function": (6, 8, 12, 14),
    "note": (2,), "type": (6, 5, 7), "sparse": (), "import": (), "shape": (), "dim": (3, 2),
    "dense": (), "list": (), "sparse_type": (),
}  # fmt: skip
WITHIN = {
    "model": {7: "graph", 14: "note", 25: "function", 8: "import"},
    "graph": {1: "node", 5: "tensor", 15: "sparse", 11: "value", 12: "value"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
        14: "type", 15: "type",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "import", 11: "attribute"},
    "value": {2: "type"},
    "type": {1: "dense", 4: "list", 9: "list", 8: "sparse_type"},
    "list": {1: "type"},
    "dense": {2: "shape"},
    "sparse_type": {2: "shape"},
    "shape": {1: "dim"},
}  # fmt: skip


def strip(data: bytes, path: tuple[str, ...]) -> bytes:
    """``data`` without what is stepped over, except for a mark that training was there."""
    message = path[-1]
    out = bytearray()
    for key, a, b in Wire(data).fields(0, len(data)):
        number, kind = key >> 3, key & 7
        if number in STEPPED_OVER.get(message, ()):
            if message == "type" and number in (5, 7):
                out += field(number, b"")
            elif message == "dim" and number == 2:
                out += field(number, b"p")
            elif (message, number) in (("tensor", 13), ("model", 20)):
                out += field(number, b"")
            continue
        out += varint(key)
        if kind == 0:
            out += varint(a)
        elif kind == 2:
            inner = WITHIN.get(message, {}).get(number)
            part = data[a:b] if inner is None else strip(data[a:b], (*path, inner))
            out += varint(len(part)) + part
        else:
            out += data[a:b]
    return bytes(out)


@pytest.mark.parametrize("name", MODELS)
def test_a_real_model_is_seen_as_protobuf_sees_it(name: str) -> None:
    assert not agree_or_refuse(MODELS[name])
    assert seen_by_us(MODELS[name]) == seen_by_protobuf(MODELS[name])


FRAGMENTS = [
    field(1, 8), field(7, b""), field(1, b"x"), field(4, b"RandomNormal"), field(7, b"com.x"),
    field(14, 1), field(13, field(1, b"location")), field(8, field(2, 17)), b"\x0b\x0c", b"\x80",
    b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x7f", b"\x8a\x00", field(9, b"12345678"), field(2, 1),
    b"\x10\x81\x80\x80\x80\x10", field(1, b"\x01\x02"), b"\x3a\x80\x80\x80\x80\x08",
    b"\xd2\x01\x00",
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(sorted(MODELS.values()))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["set", "flip", "insert", "delete", "copy", "fragment"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del data[at : at + draw(st.integers(1, 8))]
            case "copy":
                end = at + draw(st.integers(1, 60))
                data[at:at] = data[at:end]
            case "fragment":
                data[at:at] = draw(st.sampled_from(FRAGMENTS))
    return bytes(data)


@given(mutated())
@settings(max_examples=1500, deadline=None)
@example(b"")
def test_a_broken_model_is_seen_as_protobuf_sees_it_or_refused(data: bytes) -> None:
    agree_or_refuse(data)


@given(st.sampled_from(sorted(MODELS)), st.lists(st.sampled_from(FRAGMENTS), max_size=3))
@settings(max_examples=300, deadline=None)
def test_what_follows_a_model_is_seen_as_protobuf_sees_it_or_refused(
    name: str, fragments: list[bytes]
) -> None:
    agree_or_refuse(MODELS[name] + b"".join(fragments))


@given(st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_noise_is_seen_as_protobuf_sees_it_or_refused(data: bytes) -> None:
    agree_or_refuse(data)
    agree_or_refuse(field(7, data))
    agree_or_refuse(field(7, field(1, data)))
    agree_or_refuse(field(7, field(5, data)))
    agree_or_refuse(field(7, field(1, field(5, data))))


# ---- the wire format itself ------------------------------------------------------------------


def fields(data: bytes, most: int = 100) -> list[tuple[int, int, int]]:
    return list(Wire(data, most).fields(0, len(data)))


def test_each_kind_of_field_is_found() -> None:
    data = b"\x08\x96\x01" + b"\x15abcd" + b"\x19abcdefgh" + b"\x22\x02hi" + b"\xa2\x01\x00"
    assert fields(data) == [(8, 150, 3), (21, 4, 8), (25, 9, 17), (34, 19, 21), (162, 24, 24)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08", b"\x08\x80", b"\x0a", b"\x0a\x01", b"\x0a\x80", b"\x15abc", b"\x19abcdefg",
        b"\x80", b"\x80\x80", b"\x00\x00", b"\x02\x00", b"\x0b", b"\x0c", b"\x0e", b"\x0f",
        b"\x08" + b"\xff" * 9 + b"\x02", b"\x08" + b"\x80" * 10 + b"\x00",
        b"\x88\x80\x80\x80\x80\x00\x01", b"\x0a\xff\xff\xff\xff\x7f", b"\x80\x00\x00",
    ],
)  # fmt: skip
def test_what_is_cut_off_too_long_or_foreign_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        fields(data)


def test_no_more_fields_are_read_than_allowed() -> None:
    assert len(fields(b"\x08\x01" * 100)) == 100
    with pytest.raises(BadMessage, match="too many"):
        fields(b"\x08\x01" * 101)


def test_a_memoryview_will_do() -> None:
    data = MODELS["looping"]
    wire = Wire(memoryview(data))
    assert len(Reader(wire).model().graph.nodes) == 3


def test_numbers_get_their_sign() -> None:
    assert [signed64(value) for value in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [
        0, 2**63 - 1, -(2**63), -1,
    ]  # fmt: skip
    assert [signed32(value) for value in (2**31 - 1, 2**64 - 2**31)] == [2**31 - 1, -(2**31)]
    for value in (2**31, 2**32 + 1, 2**64 - 2**31 - 1):
        with pytest.raises(BadMessage):
            signed32(value)
