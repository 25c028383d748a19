"""Canonical, typed MessagePack.

A value has exactly one encoding: shortest integers, arrays in the declared order, nothing left
over. Whatever decodes but would encode differently is refused, so that a hash over bytes is a hash
over the value. Bounds stand on the types and are checked while decoding.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from p2pfleet.core.errors import Malformed

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def encode(value: Any) -> bytes:
    """The canonical encoding of a message."""
    return _encoder.encode(value)


def decode(data: bytes, kind: Any, limit: int) -> Any:
    """The message of type ``kind`` that ``data`` is the canonical encoding of.

    ``limit`` is the largest size in bytes that is looked at at all. Raises :class:`Malformed` with
    a reason that names the field.
    """
    if len(data) > limit:
        raise Malformed(f"{len(data)} bytes where at most {limit} are allowed")
    try:
        value = _decoder(kind).decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(str(error)[:200]) from error
    if _encoder.encode(value) != data:
        raise Malformed("not the canonical encoding")
    return value
