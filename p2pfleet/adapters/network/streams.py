"""Reading and writing libp2p streams: opening, length prefixes, patience.

A message is a 4-byte big-endian length and that many bytes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import trio
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from p2pfleet.adapters.network.containment import reset_quietly
from p2pfleet.adapters.network.guard.places import Purse

logger = logging.getLogger(__name__)

PREFIX_BYTES = 4
_READ_BYTES = 256 * 1024
_BATCH_BYTES = 48 * 1024


class StreamFailed(Exception):
    """A stream could not be opened, ended in the middle, or stood still for too long."""


class TooLong(Exception):
    """A peer announced a message longer than the protocol allows."""


class SendQueue:
    """Messages on their way to one peer, bounded in number and in bytes. One reader."""

    def __init__(self, messages: int, size: int) -> None:
        self._waiting: deque[bytes] = deque()
        self._max_messages = messages
        self._max_bytes = size
        self._bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._bytes

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= self._max_messages or self._bytes >= self._max_bytes

    async def put(self, data: bytes) -> None:
        """Append one message; waits while the queue is full."""
        while self._full:
            await self._drained.wait()
        self._waiting.append(data)
        self._bytes += len(data)
        self._filled.set()

    async def batch(self) -> tuple[int, bytes]:
        """The number of messages at the head that go into one write, and their framed bytes.

        They stay in the queue until :meth:`done`, so that a failed write can be repeated.
        """
        while not self._waiting:
            self._filled = trio.Event()
            await self._filled.wait()
        framed = bytearray()
        count = 0
        for data in self._waiting:
            if count and len(framed) + len(data) > _BATCH_BYTES:
                break
            framed += len(data).to_bytes(PREFIX_BYTES, "big")
            framed += data
            count += 1
        return count, bytes(framed)

    def done(self, count: int) -> None:
        """The first ``count`` messages are written."""
        for _ in range(count):
            self._bytes -= len(self._waiting.popleft())
        self._drained.set()
        self._drained = trio.Event()


async def open_stream(host: Any, identity: Any, protocol: str, seconds: float = 20.0) -> Any:
    """A new stream of ``protocol`` over the newest connection, within ``seconds``. Never dials.

    Raises :class:`StreamFailed`.
    """
    connections = [c for c in host.get_network().get_connections(identity) if not c.is_closed]
    if not connections:
        raise StreamFailed("not connected")
    stream = None
    try:
        with trio.fail_after(seconds):
            stream = await connections[-1].new_stream()
            chosen = await host.multiselect_client.select_one_of(
                [protocol], MultiselectCommunicator(stream), seconds + 1
            )
        stream.set_protocol(chosen)
    except BaseException as error:
        if stream is not None:
            await reset_quietly(stream)
        if isinstance(error, Exception):
            raise StreamFailed(f"no {protocol} stream: {str(error)[:120]}") from error
        raise
    return stream


async def write_patiently(stream: Any, data: bytes, stall_s: float) -> None:
    """Write all of ``data``; gives up when nothing moves for ``stall_s`` seconds.

    The library fails a write after five seconds without a window, which is what a reader that is
    merely slow looks like; so the window is waited for here. Raises :class:`StreamFailed`.
    """
    muxed = stream.muxed_stream
    sent = 0
    while sent < len(data):
        pause = 0.002
        deadline = trio.current_time() + stall_s
        while muxed.send_window <= 0 and not muxed.closed and not muxed.send_closed:
            if trio.current_time() > deadline:
                raise StreamFailed(f"the peer took nothing for {stall_s:.0f} s")
            await trio.sleep(pause)
            pause = min(pause * 2, 0.1)
        part = (
            data[sent : sent + max(muxed.send_window, 1)]
            if sent or (len(data) > muxed.send_window)
            else data
        )
        try:
            with trio.fail_after(stall_s):
                await stream.write(part)
        except Exception as error:
            raise StreamFailed(f"write failed: {type(error).__name__}") from error
        sent += len(part)


async def read_some(stream: Any, limit: int) -> bytes:
    """The next bytes, at most ``limit``; empty at the end. Raises :class:`StreamFailed`."""
    from libp2p.network.stream.exceptions import StreamEOF

    try:
        data: bytes = await stream.read(limit)
    except StreamEOF:
        return b""
    except Exception as error:
        raise StreamFailed(f"read failed: {type(error).__name__}") from error
    return data


async def read_message(stream: Any, limit: int) -> bytes | None:
    """One length-prefixed message; ``None`` at a clean end.

    Reads no byte beyond it. Raises :class:`TooLong` and :class:`StreamFailed`.
    """
    prefix = await read_exactly(stream, PREFIX_BYTES, end_ok=True)
    if prefix is None:
        return None
    length = int.from_bytes(prefix, "big")
    if not 0 < length <= limit:
        raise TooLong(f"a message of {length} bytes where at most {limit} are allowed")
    return await read_exactly(stream, length)


async def read_exactly(stream: Any, length: int, end_ok: bool = False) -> bytes | None:
    """Exactly ``length`` bytes; ``None`` at a clean end if that is allowed."""
    data = bytearray()
    while len(data) < length:
        part = await read_some(stream, length - len(data))
        if not part:
            if end_ok and not data:
                return None
            raise StreamFailed("the stream ended in the middle of a message")
        data += part
    return bytes(data)


def frame(message: bytes) -> bytes:
    """``message`` with its length in front."""
    return len(message).to_bytes(PREFIX_BYTES, "big") + message


async def read_messages(
    stream: Any, limit: int, messages: Purse, size: Purse, useless: Purse
) -> AsyncIterator[list[bytes]]:
    """Every message of a stream, a list for each read, slowed down to what the purses have.

    ``useless`` is charged elsewhere, with what the messages turned out to be.

    Raises :class:`TooLong` and :class:`StreamFailed`.
    """
    buffer = bytearray()
    while True:
        data = await read_some(stream, _READ_BYTES)
        if not data:
            if buffer:
                raise StreamFailed("the stream ended in the middle of a message")
            return
        buffer += data
        at = 0
        found: list[bytes] = []
        while len(buffer) - at >= PREFIX_BYTES:
            length = int.from_bytes(buffer[at : at + PREFIX_BYTES], "big")
            if not 0 < length <= limit:
                if found:
                    yield found
                raise TooLong(f"a message of {length} bytes where at most {limit} are allowed")
            if len(buffer) - at - PREFIX_BYTES < length:
                break
            found.append(bytes(buffer[at + PREFIX_BYTES : at + PREFIX_BYTES + length]))
            at += PREFIX_BYTES + length
        del buffer[:at]
        if found:
            yield found
        pause = max(messages.owe(len(found)), size.owe(len(data)), useless.owe(0))
        if pause > 0:
            await trio.sleep(pause)
