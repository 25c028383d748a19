"""Tensors and types as ONNX writes them: what they declare, and how much data there is."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from .protobuf import BadMessage, Wire, runs, signed32, signed64

Span = tuple[int, int]

# TensorProto.DataType: number -> (name as onnxruntime says it, bits of one element, the field that
# holds it unless it is raw, entries of that field for so many elements). Types that are not here
# are unknown to onnxruntime as well.
_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11
STRING = 8


@dataclass(frozen=True)
class ElementType:
    """An element type; ``entries`` of the typed field ``number`` hold ``elements`` elements."""

    name: str
    bits: int
    number: int
    entries: int = 1
    elements: int = 1


ELEMENT_TYPES = {
    1: ElementType("float", 32, _FLOATS),
    2: ElementType("uint8", 8, _INT32S),
    3: ElementType("int8", 8, _INT32S),
    4: ElementType("uint16", 16, _INT32S),
    5: ElementType("int16", 16, _INT32S),
    6: ElementType("int32", 32, _INT32S),
    7: ElementType("int64", 64, _INT64S),
    8: ElementType("string", 0, _STRINGS),
    9: ElementType("bool", 8, _INT32S),
    10: ElementType("float16", 16, _INT32S),
    11: ElementType("double", 64, _DOUBLES),
    12: ElementType("uint32", 32, _UINT64S),
    13: ElementType("uint64", 64, _UINT64S),
    14: ElementType("complex64", 64, _FLOATS, entries=2),
    15: ElementType("complex128", 128, _DOUBLES, entries=2),
    16: ElementType("bfloat16", 16, _INT32S),
    17: ElementType("float8e4m3fn", 8, _INT32S),
    18: ElementType("float8e4m3fnuz", 8, _INT32S),
    19: ElementType("float8e5m2", 8, _INT32S),
    20: ElementType("float8e5m2fnuz", 8, _INT32S),
    21: ElementType("uint4", 4, _INT32S, elements=2),
    22: ElementType("int4", 4, _INT32S, elements=2),
    23: ElementType("float4e2m1", 4, _INT32S, elements=2),
    24: ElementType("float8e8m0", 8, _INT32S),
    25: ElementType("uint2", 2, _INT32S, elements=4),
    26: ElementType("int2", 2, _INT32S, elements=4),
}

_INTEGER_FORMATS = {2: "B", 3: "b", 4: "H", 5: "h", 6: "i", 7: "q", 9: "B", 12: "I", 13: "Q"}
_RUNS = runs((_INT32S, _INT64S, _UINT64S), (_FLOATS,))
_TYPED_PACKED = {number << 3 | 2: number for number in (4, 5, 7, 10, 11)}
_TYPED_SINGLE = {4 << 3 | 5: 4, 5 << 3: 5, 7 << 3: 7, 10 << 3 | 1: 10, 11 << 3: 11}
_WIDTHS = {_FLOATS: 4, _DOUBLES: 8}
MAX_AXES = 64


@dataclass(slots=True)
class Tensor:
    """A TensorProto. Its data stay where they are; ``counts``: entries of each typed field."""

    name: bytes = b""
    dims: list[int] = field(default_factory=list)
    dtype: int = 0
    external: bool = False
    raw: Span | None = None
    counts: dict[int, int] = field(default_factory=dict)
    typed: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """How many elements it declares; wrong if an axis is negative."""
        return prod(self.dims)

    def integers(self, wire: Wire, most: int) -> list[int] | None:
        """Its elements, if they are at most ``most`` integers or truth values; else ``None``."""
        letter = _INTEGER_FORMATS.get(self.dtype)
        if letter is None or self.external or any(dim < 0 for dim in self.dims):
            return None
        count = self.elements
        if count > most:
            return None
        if self.raw is not None:
            if self.raw[1] - self.raw[0] != count * struct.calcsize(f"<{letter}"):
                return None
            wire.spend(count)
            return list(struct.unpack(f"<{count}{letter}", wire.copy(*self.raw)))
        number = ELEMENT_TYPES[self.dtype].number
        if set(self.counts) - {number} or self.counts.get(number, 0) != count:
            return None
        values: list[int] = []
        for key, start, stop in self.typed:
            if key in _TYPED_PACKED:
                values += wire.varints(start, stop)
            else:
                values += (value for _, value, _ in wire.fields(start, stop))
        # Numbers of fewer bits travel as int32: how one that does not fit is cut, is not for us.
        if number == _INT32S:
            return [signed32(value) for value in values]
        return [signed64(value) for value in values] if self.dtype == 7 else values


def read_tensor(wire: Wire, start: int, stop: int) -> Tensor:
    """The TensorProto in ``wire.data[start:stop]``. Raises BadMessage."""
    tensor = Tensor()
    seen = set()
    for key, a, b in wire.fields(start, stop, _RUNS):
        if key == 8:
            tensor.dims.append(a if a < 2**63 else a - 2**64)
            if len(tensor.dims) > MAX_AXES:
                break  # the rules refuse it; what follows does not matter
            continue
        if key in _ONCE:
            if key in seen:
                raise BadMessage(f"a tensor says its {_ONCE[key]} twice")
            seen.add(key)
        if key == 10:
            tensor.dims += (signed64(value) for value in wire.varints(a, b))
        elif key == 16:
            tensor.dtype = signed32(a)
        elif key == 26:
            raise BadMessage("a tensor is in segments")  # which onnxruntime does not read
        elif key in _TYPED_PACKED:
            _count(wire, tensor, key, a, b)
        elif key in _TYPED_SINGLE:
            # A double that stands alone comes without its key, unlike the runs.
            _count(wire, tensor, key, a - 1 if key == _DOUBLES << 3 | 1 else a, b)
        elif key == 50:
            tensor.counts[_STRINGS] = tensor.counts.get(_STRINGS, 0) + 1
        elif key == 66:
            tensor.name = wire.copy(a, b)
        elif key == 74:
            tensor.raw = (a, b)
        elif key == 106:
            tensor.external = True
        elif key == 112:
            if a not in (0, 1):
                raise BadMessage("a tensor lies nowhere that ONNX knows")
            tensor.external = tensor.external or a == 1
        elif key not in (98, 130):
            raise unknown(key, "a tensor")
    return tensor


_ONCE = {16: "type", 66: "name", 74: "raw data", 112: "location"}


def _count(wire: Wire, tensor: Tensor, key: int, start: int, stop: int) -> None:
    if key in _TYPED_PACKED:
        number = _TYPED_PACKED[key]
        width = _WIDTHS.get(number)
        if width is None:
            count = wire.count_varints(start, stop)
        else:
            count, rest = divmod(stop - start, width)
            if rest:
                raise BadMessage("a number is cut off")
    else:
        number = _TYPED_SINGLE[key]
        width = _WIDTHS.get(number)
        # In a run each entry is a key of one byte and a number.
        count = (
            wire.count_varints(start, stop) // 2 if width is None else (stop - start) // (width + 1)
        )
    tensor.counts[number] = tensor.counts.get(number, 0) + count
    tensor.typed.append((key, start, stop))


@dataclass(slots=True)
class SparseTensor:
    """A SparseTensorProto: values, their indices, and the shape of the whole."""

    values: Tensor
    indices: Tensor
    dims: list[int]


def read_sparse(wire: Wire, start: int, stop: int) -> SparseTensor:
    """The SparseTensorProto in ``wire.data[start:stop]``. Raises BadMessage."""
    parts: dict[int, Tensor] = {}
    dims: list[int] = []
    for key, a, b in wire.fields(start, stop):
        if key in (10, 18):
            if key in parts:
                raise BadMessage("a sparse tensor is in two parts")
            parts[key] = read_tensor(wire, a, b)
        elif key == 24:
            dims.append(signed64(a))
        elif key == 26:
            dims += (signed64(value) for value in wire.varints(a, b))
        else:
            raise unknown(key, "a sparse tensor")
        if len(dims) > MAX_AXES:
            break
    return SparseTensor(parts.get(10, Tensor()), parts.get(18, Tensor()), dims)


# ---- types -----------------------------------------------------------------------------------

_MAX_TYPE_DEPTH = 8


@dataclass(frozen=True)
class Kind:
    """The type of a value: its name as onnxruntime says it, and what a tensor declares.

    ``shape`` is ``None`` where no shape, not even a number of axes, is declared; free axes are
    ``None``. ``dtype`` is 0 unless it is a dense tensor.
    """

    name: str
    dtype: int
    shape: tuple[int | None, ...] | None


def read_type(wire: Wire, start: int, stop: int, depth: int = 0) -> Kind | None:
    """The TypeProto in ``wire.data[start:stop]``; ``None`` if it says nothing."""
    if depth > _MAX_TYPE_DEPTH:
        raise BadMessage("types are nested too deeply")
    kind: Kind | None = None
    for key, a, b in wire.fields(start, stop):
        if key == 50:
            continue
        if key not in _TYPES:
            raise unknown(key, "a type")
        if kind is not None:
            raise BadMessage("a value has two types")
        kind = _TYPES[key](wire, a, b, depth)
    return kind


def _tensor_type(wire: Wire, start: int, stop: int, _depth: int) -> Kind:
    dtype: int | None = None
    shape: tuple[int | None, ...] | None = None
    for key, a, b in wire.fields(start, stop):
        if key == 8 and dtype is None:
            dtype = signed32(a)
        elif key == 18 and shape is None:
            shape = _shape(wire, a, b)
        else:
            raise unknown(key, "the type of a tensor")
    dtype = dtype or 0
    name = ELEMENT_TYPES[dtype].name if dtype in ELEMENT_TYPES else f"type {dtype}"
    return Kind(f"tensor({name})", dtype, shape)


def _shape(wire: Wire, start: int, stop: int) -> tuple[int | None, ...]:
    dims: list[int | None] = []
    for key, a, b in wire.fields(start, stop):
        if key != 10:
            raise unknown(key, "a shape")
        dim: int | None = None
        said = False
        for key_of_dim, value, _ in wire.fields(a, b):
            if key_of_dim == 26:
                continue
            if said or key_of_dim not in (8, 18):
                raise unknown(key_of_dim, "an axis of a shape")
            said = True
            dim = signed64(value) if key_of_dim == 8 else None
        # Old exporters write -1 for a free axis, and onnxruntime takes it so.
        dims.append(dim if dim is not None and dim >= 0 else None)
    return tuple(dims)


def _list_type(name: str, wire: Wire, start: int, stop: int, depth: int) -> Kind:
    inner: Kind | None = None
    for key, a, b in wire.fields(start, stop):
        if key != 10 or inner is not None:
            raise unknown(key, "a type")
        inner = read_type(wire, a, b, depth + 1)
    return Kind(f"{name}({inner.name if inner else ''})", 0, None)


def _sparse_type(wire: Wire, start: int, stop: int, depth: int) -> Kind:
    return Kind("sparse_" + _tensor_type(wire, start, stop, depth).name, 0, None)


def _other_type(name: str) -> Kind:
    return Kind(name, 0, None)


_TYPES: dict[int, Callable[[Wire, int, int, int], Kind]] = {
    10: _tensor_type,
    34: lambda wire, a, b, depth: _list_type("seq", wire, a, b, depth),
    42: lambda _wire, _a, _b, _depth: _other_type("map"),
    58: lambda _wire, _a, _b, _depth: _other_type("opaque"),
    66: _sparse_type,
    74: lambda wire, a, b, depth: _list_type("optional", wire, a, b, depth),
}


def unknown(key: int, what: str) -> BadMessage:
    """The complaint about a field that does not belong into ``what``, at least not there or so."""
    return BadMessage(f"{what} has a field {key >> 3} that is unknown, repeated or of a wrong type")
