"""Versions of the protocol: what two nodes have in common, and what a newer one may add.

A major version changes what bytes mean. A minor one only adds stream messages and fields at the end
of known ones, so that a reader that knows less passes over both (``protocol/transport.md``). The
first elements of a greeting, and a goodbye, are the same in all versions.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from p2pfleet.core.errors import Malformed
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Goodbye, Hello, Message, SignedBody
from p2pfleet.core.wire.names import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_MINOR,
    PROTOCOL_OLDEST,
    PROTOCOL_VERSION,
)

_Version = Annotated[int, Meta(ge=0, le=65535)]
_LENGTHS: dict[str, int] = {
    str(kind.__struct_config__.tag): 1 + len(kind.__struct_fields__) for kind in get_args(Message)
}
_BODIES = frozenset(str(kind.__struct_config__.tag) for kind in get_args(SignedBody))
_parts = msgspec.msgpack.Decoder(list[msgspec.Raw])
_text = msgspec.msgpack.Decoder(str)
_version = msgspec.msgpack.Decoder(_Version)


class Versions(msgspec.Struct, frozen=True):
    """The major versions that a node speaks, and the minor one of the newest of them; whether it
    said so to take its leave."""

    oldest: int
    newest: int
    minor: int
    goodbye: bool = False

    @property
    def common(self) -> bool:
        """Whether this p2pfleet speaks one of them."""
        return self.oldest <= PROTOCOL_VERSION and self.newest >= PROTOCOL_OLDEST

    @property
    def newer(self) -> bool:
        """Whether such a node may say things that this p2pfleet does not know."""
        return (self.newest, self.minor) > (PROTOCOL_VERSION, PROTOCOL_MINOR)


OURS = Versions(PROTOCOL_OLDEST, PROTOCOL_VERSION, PROTOCOL_MINOR)


def told_versions(data: bytes) -> Versions | None:
    """What a greeting or a goodbye of whatever version says; ``None`` if it is neither."""
    try:
        parts = _parts.decode(data[:MAX_MESSAGE_BYTES])
        tag = _text.decode(parts[0])
        place = {"hello": 2, "goodbye": 1}[tag]
        oldest, newest, minor = (_version.decode(part) for part in parts[place : place + 3])
    except (msgspec.MsgspecError, ValueError, KeyError, IndexError, RecursionError):
        return None
    if oldest > newest:
        return None
    return Versions(oldest, newest, minor, goodbye=tag == "goodbye")


def read_newer(data: bytes) -> Message | None:
    """A stream message of a peer of a newer minor version, without what it has more than ours.

    ``None``: it is of a kind that this version does not know. Raises :class:`Malformed`.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise Malformed(f"{len(data)} bytes where at most {MAX_MESSAGE_BYTES} are allowed")
    try:
        parts = _parts.decode(data)
        known = _LENGTHS.get(_text.decode(parts[0]))
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
        raise Malformed(str(error)[:200]) from error
    if known is None:
        return None
    kept = parts[:known]
    head = bytes([0x90 | len(kept)])  # an array of less than 16 elements
    message: Message = decode(head + b"".join(kept), Message, MAX_MESSAGE_BYTES)
    return message


def unknown_body(body: bytes) -> bool:
    """Whether a signed body is of a kind that this version does not know."""
    try:
        tag = _text.decode(_parts.decode(body)[0])
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError):
        return False
    return tag.startswith(f"p2pfleet/{PROTOCOL_VERSION}/") and tag not in _BODIES


def hello(network: Any, record: Any) -> Hello:
    """The greeting of this version."""
    return Hello(network, OURS.oldest, OURS.newest, OURS.minor, record)


def goodbye(software: str) -> Goodbye:
    """What a peer is told that speaks none of our versions."""
    return Goodbye(OURS.oldest, OURS.newest, OURS.minor, software[:64])


def upgrade_sentence(newest_needed: int, peers: int) -> str:
    """What a person is told whose node is too old for others."""
    many = "A peer speaks" if peers == 1 else f"{peers} peers speak"
    return (
        f"{many} version {newest_needed} of the protocol and no older one; this node speaks "
        f"version {PROTOCOL_VERSION}: upgrade p2pfleet to take part with them"
    )
