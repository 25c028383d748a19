"""What relays, hole punching and reachability share: messages, and circuits as connections.

Messages are protobuf, with their length in front as a varint (libp2p's circuit relay v2, DCUtR and
AutoNAT v1). A circuit is a stream to a relay that carries a whole connection to somebody else:
secured and multiplexed end to end, so that the relay can cut it and count its bytes, nothing else.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import is_relayed
from p2pfleet.adapters.network.containment import describe, reset_quietly
from p2pfleet.adapters.network.streams import (
    StreamFailed,
    TooLong,
    read_exactly,
    read_some,
    write_patiently,
)

logger = logging.getLogger(__name__)

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
PUNCH = "/libp2p/dcutr"
REACH = "/libp2p/autonat/1.0.0"
IDENTIFY = "/ipfs/id/1.0.0"

MAX_MESSAGE_BYTES = 4096
_READ_BYTES = 64 * 1024

M = TypeVar("M")


class Refused(Exception):
    """The other side said no, or nothing that makes sense."""


async def write_message(stream: Any, message: Any, seconds: float = 10.0) -> None:
    """Write one message. Raises :class:`StreamFailed`."""
    data = message.SerializeToString()
    assert len(data) < MAX_MESSAGE_BYTES
    prefix = (
        bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    )
    await write_patiently(stream, prefix + data, seconds)


async def read_message(
    stream: Any, kind: type[M], seconds: float = 10.0, most: int = MAX_MESSAGE_BYTES
) -> M:
    """Read one message, and not a byte beyond it.

    Raises :class:`StreamFailed` (also when it takes too long), :class:`TooLong`, and
    :class:`Refused` when it is no such message.
    """
    message: Any = kind()
    try:
        with trio.fail_after(seconds):
            length = shift = 0
            while True:
                byte = (await read_exactly(stream, 1) or b"\0")[0]
                length |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
                if shift > 14:
                    raise TooLong("a length that is too long")
            if length > most:
                raise TooLong(f"a message of {length} bytes where at most {most} are allowed")
            data = await read_exactly(stream, length) or b""
    except trio.TooSlowError as error:
        raise StreamFailed("no answer") from error
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's own kinds
        raise Refused("a malformed message") from error
    return message  # type: ignore[no-any-return]


async def finish(stream: Any) -> None:
    """End a conversation after the last word: waits until the other side has taken it and closed,
    or two seconds. A reset would overtake it."""
    with trio.move_on_after(2.0):
        try:
            await stream.close()
            await read_some(stream, 1)
        except Exception as error:
            logger.debug("the end of a conversation: %s", describe(error))


class CircuitStream(ReadWriteCloser):  # type: ignore[misc]
    """A stream to a relay, as the library wants the bottom of a connection."""

    def __init__(self, stream: Any, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._writing = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """The next bytes; none at the end."""
        try:
            return await read_some(self._stream, _READ_BYTES if n is None else n)
        except StreamFailed as error:
            raise ConnectionClosedError(str(error), transport="circuit") from error

    async def write(self, data: bytes) -> None:
        """All of ``data``, however slow the relay is."""
        async with self._writing:
            try:
                await write_patiently(self._stream, data, self._stall_s)
            except StreamFailed as error:
                raise ConnectionClosedError(str(error), transport="circuit") from error

    async def close(self) -> None:
        """End the circuit."""
        await reset_quietly(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        """Nobody knows."""
        return None


def circuit_connection(stream: Any, relay_address: str, dialled: bool, stall_s: float) -> Any:
    """A raw connection over a circuit; ``relay_address`` ends in ``/p2p-circuit``."""
    return RawConnection(
        CircuitStream(stream, stall_s),
        dialled,
        ConnectionType.RELAYED,
        [Multiaddr(relay_address)],
    )


def relayed(connection: Any) -> bool:
    """Whether a connection of the swarm leads through a relay."""
    return any(is_relayed(one) for one in connection.get_transport_addresses())


def remote_endpoint(connection: Any) -> tuple[str, int] | None:
    """The other end's address, of a direct connection."""
    if relayed(connection):
        return None
    found: tuple[str, int] | None = connection.muxed_conn.get_remote_address()
    return found
