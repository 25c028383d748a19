"""Tensor bundles without copies: where each tensor lies, and how its head is written.

Accepts and writes exactly what ``p2pfleet.core.wire.tensors`` does (the tests hold them against
each other), but needs neither msgspec nor a second copy of the data, so that the child can read a
bundle in the arena and the node can check 64 MB of output without holding up its event loop.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

ITEM_BYTES: dict[str, int] = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2,
    "uint32": 4, "uint64": 8, "float16": 2, "float32": 4, "float64": 8,
}  # fmt: skip
MAX_TENSORS = 64
MAX_RANK = 16
MAX_NAME_CHARS = 256
MAX_DIM = 2**40 - 1


class BadBundle(ValueError):
    """Not a canonical bundle; the message is a sentence that names the tensor."""


class Entry(NamedTuple):
    """One tensor of a bundle; its elements are ``data[start:stop]``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_bundle(data: memoryview) -> list[Entry]:
    """Where the tensors of the canonical bundle ``data`` lie. Raises :class:`BadBundle`."""
    cursor = _Cursor(data)
    entries: list[Entry] = []
    for index in range(cursor.array(MAX_TENSORS, "the bundle")):
        what = f"tensor {index}"
        if cursor.array(4, what) != 4:
            raise BadBundle(f"{what} is not made of name, dtype, shape and data")
        name = cursor.text(4 * MAX_NAME_CHARS, f"the name of {what}")
        if not 1 <= len(name) <= MAX_NAME_CHARS:
            raise BadBundle(f"the name of {what} is not 1 to {MAX_NAME_CHARS} characters long")
        if any(entry.name == name for entry in entries):
            raise BadBundle(f"two tensors are named {name!r}")
        what = f"tensor {name!r}"
        dtype = cursor.text(16, f"the dtype of {what}")
        if dtype not in ITEM_BYTES:
            raise BadBundle(f"{what} has the dtype {dtype!r}, which bundles do not know")
        rank = cursor.array(MAX_RANK, f"the shape of {what}")
        shape = tuple(cursor.integer(MAX_DIM, f"the shape of {what}") for _ in range(rank))
        size = cursor.data_size(f"the data of {what}")
        expected = prod(shape) * ITEM_BYTES[dtype]
        if size != expected:
            raise BadBundle(
                f"{what} holds {size} bytes where its shape {list(shape)} of {dtype} "
                f"needs {expected}"
            )
        start = cursor.take(size, f"the data of {what}")
        if dtype == "bool" and bytes(data[start : start + size]).translate(None, b"\0\1"):
            raise BadBundle(f"{what} holds a truth value that is not 0 or 1")
        entries.append(Entry(name, dtype, shape, start, start + size))
    if cursor.position != len(data):
        raise BadBundle(f"{len(data) - cursor.position} bytes follow the bundle")
    return entries


def bundle_head(count: int) -> bytes:
    """What stands before the tensors of a bundle of ``count``."""
    return _array_head(count)


def tensor_head(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the data of a tensor. Raises :class:`BadBundle` if it has no encoding."""
    size = prod(shape) * ITEM_BYTES[dtype]
    if len(shape) > MAX_RANK or size >= 2**32:
        raise BadBundle(f"tensor {name!r} with shape {list(shape)} is too large for a bundle")
    parts = [b"\x94", _text(name), _text(dtype), _array_head(len(shape))]
    parts += [_integer(dim) for dim in shape]
    parts.append(_head(size, (0xC4, 0xC5, 0xC6)))
    return b"".join(parts)


# MessagePack writes a length or an integer in the fewest bytes that hold it. The markers of the
# wider and wider forms, and from which value on each is the shortest one:
_WIDTHS = (1, 2, 4, 8)
_SHORTEST_FROM = {1: 0, 2: 2**8, 4: 2**16, 8: 2**32}


def _head(value: int, markers: tuple[int, ...]) -> bytes:
    for marker, width in zip(markers, _WIDTHS, strict=False):
        if value < 2 ** (8 * width):
            return bytes((marker,)) + value.to_bytes(width, "big")
    raise BadBundle(f"{value} is too large for a bundle")


def _integer(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else _head(value, (0xCC, 0xCD, 0xCE, 0xCF))


def _text(value: str) -> bytes:
    raw = value.encode()
    head = bytes((0xA0 | len(raw),)) if len(raw) < 32 else _head(len(raw), (0xD9, 0xDA, 0xDB))
    return head + raw


def _array_head(count: int) -> bytes:
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big")


class _Cursor:
    """Reads canonical MessagePack; every form but the shortest is refused."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int, what: str) -> int:
        """Step over ``size`` bytes; returns where they begin."""
        start = self.position
        if size > len(self.data) - start:
            raise BadBundle(f"the bundle ends within {what}")
        self.position = start + size
        return start

    def array(self, limit: int, what: str) -> int:
        marker = self._byte(what)
        if marker & 0xF0 == 0x90:
            count = marker & 0x0F
        elif marker == 0xDC:
            count = self._number(2, what)
            if count < 16:
                raise BadBundle(f"{what} is not written in the shortest form")
        else:
            raise BadBundle(f"{what} is not a list of at most {limit}")
        if count > limit:
            raise BadBundle(f"{what} is a list of {count}, at most {limit} are allowed")
        return count

    def text(self, limit: int, what: str) -> str:
        marker = self._byte(what)
        size = marker & 0x1F
        if marker & 0xE0 != 0xA0:
            size = self._sized(marker, (0xD9, 0xDA, 0xDB), 32, what)
        if size > limit:
            raise BadBundle(f"{what} is {size} bytes long, at most {limit} are allowed")
        start = self.take(size, what)
        try:
            return bytes(self.data[start : start + size]).decode()
        except UnicodeDecodeError:
            raise BadBundle(f"{what} is not valid UTF-8") from None

    def integer(self, limit: int, what: str) -> int:
        marker = self._byte(what)
        value = marker
        if marker >= 0x80:
            value = self._sized(marker, (0xCC, 0xCD, 0xCE, 0xCF), 0x80, what)
        if value > limit:
            raise BadBundle(f"{what} contains {value}, which is too large")
        return value

    def data_size(self, what: str) -> int:
        return self._sized(self._byte(what), (0xC4, 0xC5, 0xC6), 0, what)

    def _byte(self, what: str) -> int:
        return self.data[self.take(1, what)]

    def _number(self, width: int, what: str) -> int:
        start = self.take(width, what)
        return int.from_bytes(self.data[start : start + width], "big")

    def _sized(self, marker: int, markers: tuple[int, ...], least: int, what: str) -> int:
        if marker not in markers:
            raise BadBundle(f"{what} is not of the right type")
        width = _WIDTHS[markers.index(marker)]
        value = self._number(width, what)
        if value < max(least, _SHORTEST_FROM[width]):
            raise BadBundle(f"{what} is not written in the shortest form")
        return value
