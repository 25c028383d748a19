"""What nodes of different versions say to each other, from ``transport.md`` alone."""

from __future__ import annotations

from typing import Any

import msgpack
from independent import KINDS, Refused, decode, need

# How many elements the stream messages of version 1.0 have, the tag included.
LENGTHS = {
    "hello": 6, "goodbye": 5, "deliver": 2, "jobs": 3, "frames": 4, "wanted": 3, "proof": 3,
    "roster": 3,
}  # fmt: skip


def told(data: bytes) -> list[int] | None:
    """[oldest, newest, minor] of a greeting or a goodbye of any version."""
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return None
    if type(raw) is not list or not raw or raw[0] not in ("hello", "goodbye"):
        return None
    at = 2 if raw[0] == "hello" else 1
    found = raw[at : at + 3]
    if len(found) < 3 or any(type(one) is not int or not 0 <= one < 2**16 for one in found):
        return None
    return found if found[0] <= found[1] else None


def common(versions: list[int]) -> bool:
    return versions[0] <= 1 <= versions[1]


def read_newer(data: bytes) -> Any:
    """A message of somebody newer, without what we do not know; ``None``: a kind we do not know."""
    need(len(data) <= KINDS["message"][1], "size")
    try:
        raw = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise Refused("syntax") from error
    need(type(raw) is list and len(raw) > 0 and type(raw[0]) is str, "type")
    if raw[0] not in LENGTHS:
        return None
    # The head of the array and what stands before the first element that is too much, as sent.
    kept = raw[: LENGTHS[raw[0]]]
    unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
    unpacker.feed(data)
    unpacker.read_array_header()
    for _ in kept:
        unpacker.skip()
    head = {0x90: 1, 0xDC: 3, 0xDD: 5}[data[0] if data[0] >= 0xDC else data[0] & 0xF0]
    return decode(bytes([0x90 | len(kept)]) + data[head : unpacker.tell()], "message")
