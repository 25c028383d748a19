"""Small models from few words, and protobuf written by hand where onnx would not write it so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT: int = TensorProto.FLOAT
INT64: int = TensorProto.INT64
INT32: int = TensorProto.INT32
BOOL: int = TensorProto.BOOL
UINT8: int = TensorProto.UINT8
STRING: int = TensorProto.STRING

Shape = Sequence[int | str] | None
Array = npt.NDArray[Any]
ONE: dict[str, Array] = {"x": np.ones(1, np.float32)}
IMAGE: dict[str, Array] = {"x": np.ones((1, 1, 4, 4), np.float32)}

node = helper.make_node


def value(name: str, kind: int = FLOAT, shape: Shape = ("n",)) -> onnx.ValueInfoProto:
    """A tensor as an input or output: a list of any length unless told otherwise."""
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    constants: Mapping[str, Any] | None = None,
    name: str = "g",
) -> onnx.GraphProto:
    """A graph whose initialisers are ``constants``: numpy values, or tensors ready made."""
    tensors = [
        given
        if isinstance(given, TensorProto)
        else numpy_helper.from_array(np.asarray(given), constant)
        for constant, given in (constants or {}).items()
    ]
    return helper.make_graph(nodes, name, inputs, outputs, tensors)


def proto(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    imports: Mapping[str, int] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model; it takes x and gives y, lists of float32, unless told otherwise."""
    return helper.make_model(
        graph(
            nodes,
            [value("x")] if inputs is None else inputs,
            [value("y", shape=None)] if outputs is None else outputs,
            constants,
        ),
        opset_imports=[
            helper.make_opsetid(domain, version)
            for domain, version in {"": opset, **(imports or {})}.items()
        ],
        ir_version=9,
        functions=functions,
    )


def model(nodes: Sequence[onnx.NodeProto], *args: Any, **options: Any) -> bytes:
    """The bytes of :func:`proto`."""
    data: bytes = proto(nodes, *args, **options).SerializeToString()
    return data


def function(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    domain: str = "local",
    inputs: Sequence[str] = ("a",),
    outputs: Sequence[str] = ("o",),
) -> onnx.FunctionProto:
    """A function of a model's own; it may call others of its domain."""
    return helper.make_function(
        domain,
        name,
        inputs,
        outputs,
        nodes,
        [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])],
    )


def external(location: str, name: str = "w", **entries: str) -> TensorProto:
    """A tensor of 16 bytes whose data lie in a file of the machine that runs it."""
    tensor = TensorProto(name=name, data_type=UINT8, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, "offset": "0", "length": "16", **entries}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def branch(nodes: Sequence[onnx.NodeProto], output: str = "o", **constants: Any) -> onnx.GraphProto:
    """One branch of an If: no inputs, one output."""
    return graph(nodes, [], [value(output, shape=None)], constants)


def loop_body(nodes: Sequence[onnx.NodeProto], *outputs: str) -> onnx.GraphProto:
    """The body of a Loop that never ends itself: ``v`` becomes ``v2``; ``outputs`` are kept."""
    return graph(
        [node("Identity", ["go"], ["go2"]), *nodes],
        [value("i", INT64, []), value("go", BOOL, []), value("v", shape=None)],
        [value("go2", BOOL, []), *(value(name, shape=None) for name in ("v2", *outputs))],
    )


def chain_of(length: int, last: str) -> bytes:
    """So many nodes, one after the other, from x to ``last``, as fields of a graph.

    By hand, because onnx takes seconds for a hundred thousand.
    """
    names = [b"x", *(f"c{i}".encode() for i in range(length - 1)), last.encode()]
    return b"".join(
        field(1, field(1, before) + field(2, after) + field(4, b"Neg"))
        for before, after in pairwise(names)
    )


# ---- protobuf by hand ------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """The shortest form."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes((number,))


def field(number: int, payload: bytes | int) -> bytes:
    """One field: an integer as a varint, bytes with their length before them."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload
