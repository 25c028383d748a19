"""A bounded reader of the protobuf wire format, stricter than protobuf itself.

What it accepts, every parser reads alike. Where parsers may differ or guess (groups, numbers longer
than their type, lengths beyond the end), it refuses. It goes over the bytes in place, never into a
message that nobody asked for, and counts every field that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

MAX_FIELDS = 3_000_000
"""So many fields of one model are read, about a second's work; the largest graphs have a tenth.

Each level of nesting counts its own when it is done, so a hostile model gets a few times as many.
"""

# Before Python reads the fields of a run one by one, the pattern has found its end.
_RUN_BYTES_PER_FIELD = 64
_COUNT_CHUNK = 2**16
_CONTINUED = bytes(range(0x80, 0x100))
_TOO_LONG = re.compile(rb"[\x80-\xff]{10}")

Buffer = bytes | memoryview
Runs = Mapping[int, re.Pattern[bytes]]


class BadMessage(ValueError):
    """Not a message that every parser reads alike; the message is a clause that says why."""


def runs(varint_fields: tuple[int, ...], fixed32_fields: tuple[int, ...]) -> Runs:
    """For :meth:`Wire.fields`: the keys of repeated numbers that some writers do not pack."""
    patterns: dict[int, re.Pattern[bytes]] = {}
    for number in varint_fields:
        key = number << 3 | VARINT
        patterns[key] = re.compile(rb"(?:\x%02x[\x80-\xff]{0,9}[\x00-\x7f])++" % key)
    for number in fixed32_fields:
        key = number << 3 | FIXED32
        patterns[key] = re.compile(rb"(?:\x%02x[\x00-\xff]{4})++" % key)
    return patterns


class Wire:
    """The bytes of a model, and how many more of its fields may be read."""

    def __init__(self, data: Buffer, max_fields: int = MAX_FIELDS) -> None:
        self.data = data
        self.left = max_fields

    def fields(
        self, start: int, stop: int, runs: Runs | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """The fields of the message in ``data[start:stop]``, in order.

        Yields (key, a, b), the key being ``number << 3 | wire type``: for a number written as a
        varint, a is its value modulo 2**64; for anything else ``data[a:b]`` is its content. For a
        key in ``runs`` it is a whole run of such fields, keys included. Raises BadMessage.
        """
        data = self.data
        at = start
        most, count = self.left, 0
        while at < stop:
            count += 1
            if count > most:
                raise BadMessage("it has too many fields")
            begin = at
            key = data[at]
            at += 1
            if key >= 0x80:
                key, at = self._varint(begin, stop, 5)
            if key < 8:
                raise BadMessage("a field has the number 0")
            if runs is not None and key in runs:
                match = runs[key].match(data, begin, stop)
                if match is None:
                    raise BadMessage("a number is cut off or too long")
                at = match.end()
                self.spend((at - begin) // _RUN_BYTES_PER_FIELD)
                yield key, begin, at
                continue
            kind = key & 7
            if kind == LENGTH:
                if at >= stop:
                    raise BadMessage("a field is cut off")
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = self._varint(at - 1, stop, 5)
                begin, at = at, at + size
                if at > stop:
                    raise BadMessage("a field reaches beyond the end of what contains it")
                yield key, begin, at
            elif kind == VARINT:
                if at < stop and data[at] < 0x80:
                    at += 1
                    yield key, data[at - 1], at
                    continue
                value, at = self._varint(at, stop, 10)
                yield key, value, at
            elif kind in (FIXED32, FIXED64):
                begin, at = at, at + (4 if kind == FIXED32 else 8)
                if at > stop:
                    raise BadMessage("a number is cut off")
                yield key, begin, at
            else:
                raise BadMessage(f"a field has the wire type {kind}, which ONNX does not use")
        self.spend(count)

    def varints(self, start: int, stop: int) -> Iterator[int]:
        """The packed numbers in ``data[start:stop]``, modulo 2**64. Raises BadMessage."""
        at = start
        while at < stop:
            self.spend(1)
            value, at = self._varint(at, stop, 10)
            yield value

    def count_varints(self, start: int, stop: int) -> int:
        """How many packed numbers ``data[start:stop]`` holds, without a look at each."""
        if start == stop:
            return 0
        if self.data[stop - 1] >= 0x80 or _TOO_LONG.search(self.data, start, stop):
            raise BadMessage("a number is cut off or too long")
        self.spend((stop - start) // _RUN_BYTES_PER_FIELD)
        return sum(
            len(bytes(self.data[at : min(at + _COUNT_CHUNK, stop)]).translate(None, _CONTINUED))
            for at in range(start, stop, _COUNT_CHUNK)
        )

    def spend(self, fields: int) -> None:
        """Count so many fields as read. Raises BadMessage when there have been too many."""
        self.left -= fields
        if self.left < 0:
            raise BadMessage("it has too many fields")

    def copy(self, start: int, stop: int) -> bytes:
        """A copy of ``data[start:stop]``."""
        return bytes(self.data[start:stop])

    def text(self, start: int, stop: int, what: str) -> str:
        """``data[start:stop]`` as text. Raises BadMessage."""
        try:
            return bytes(self.data[start:stop]).decode()
        except UnicodeDecodeError:
            raise BadMessage(f"{what} is not valid UTF-8") from None

    def _varint(self, at: int, stop: int, most: int) -> tuple[int, int]:
        data = self.data
        value = shift = 0
        end = min(at + most, stop)
        while at < end:
            byte = data[at]
            at += 1
            if byte < 0x80:
                value |= byte << shift
                if value >> (32 if most == 5 else 64):
                    break
                return value, at
            value |= (byte & 0x7F) << shift
            shift += 7
        raise BadMessage("a number is cut off or too long")


def signed64(value: int) -> int:
    """The int64 that a varint stands for."""
    return value - 2**64 if value >= 2**63 else value


def signed32(value: int) -> int:
    """The int32 or enum that a varint stands for. Raises BadMessage if it is out of range.

    Protobuf cuts such a number off, and then reads another one than is written.
    """
    number = signed64(value)
    if not -(2**31) <= number < 2**31:
        raise BadMessage(f"{number} stands where a number of 32 bits belongs")
    return number
