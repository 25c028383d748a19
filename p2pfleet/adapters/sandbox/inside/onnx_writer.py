"""Writes small ONNX models, so that nothing inside the sandbox needs the onnx package.

Knows the few protobuf messages that a graph of plain operators over tensors is made of; the field
numbers are those of onnx.proto of the ONNX project.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Attribute = int | float | str | tuple[int, ...]

OPSET = 20
_IR_VERSION = 9
_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10,
    "float64": 11,
}  # fmt: skip


class Node(NamedTuple):
    """One operator of a model; ``""`` stands for an input that is left out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


def node(op: str, inputs: str, outputs: str, **attributes: Attribute) -> Node:
    """A node; names are separated by spaces, ``-`` is an input that is left out."""
    names = tuple("" if name == "-" else name for name in inputs.split())
    return Node(op, names, tuple(outputs.split()), attributes)


def write_model(
    nodes: Sequence[Node],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, str],
    constants: Mapping[str, Array],
) -> bytes:
    """The bytes of an ONNX ModelProto of one graph, in opset ``OPSET``.

    ``inputs`` declares the type and shape of each array given, ``outputs`` maps names to dtypes.
    """
    graph = b"".join(_bytes(1, _node(one)) for one in nodes) + _bytes(2, b"probe")
    graph += b"".join(_bytes(5, _tensor(name, array)) for name, array in constants.items())
    graph += b"".join(
        _bytes(11, _value(name, array.dtype.name, array.shape)) for name, array in inputs.items()
    )
    graph += b"".join(_bytes(12, _value(name, dtype, None)) for name, dtype in outputs.items())
    return _int(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _int(2, OPSET))


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers travel as their two's complement
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _node(one: Node) -> bytes:
    parts = [_bytes(1, name.encode()) for name in one.inputs]
    parts += [_bytes(2, name.encode()) for name in one.outputs]
    parts.append(_bytes(4, one.op.encode()))
    parts += [_bytes(5, _attribute(name, value)) for name, value in one.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: Attribute) -> bytes:
    head = _bytes(1, name.encode())
    match value:
        case float():
            return head + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
        case int():
            return head + _int(3, value) + _int(20, 2)
        case str():
            return head + _bytes(4, value.encode()) + _int(20, 3)
        case tuple():
            return head + b"".join(_int(8, item) for item in value) + _int(20, 7)


def _tensor(name: str, array: Array) -> bytes:
    dims = b"".join(_int(1, dim) for dim in array.shape)
    return dims + _int(2, _TYPES[array.dtype.name]) + _bytes(8, name.encode()) + _bytes(
        9, array.tobytes()
    )  # fmt: skip


def _value(name: str, dtype: str, shape: tuple[int, ...] | None) -> bytes:
    kind = _int(1, _TYPES[dtype])
    if shape is not None:
        kind += _bytes(2, b"".join(_bytes(1, _int(1, dim)) for dim in shape))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, kind))
