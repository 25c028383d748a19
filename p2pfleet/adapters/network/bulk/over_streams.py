"""Blobs over libp2p streams: where the bulk channel does not reach, and for what is small.

A stream carries any number of requests, one after another: a :class:`BlobRequest`, a
:class:`BlobHeader`, then the raw bytes of the range. Both messages have a 4-byte length in front.
Streams are kept for the next request, since opening one costs as much as thousands of bytes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from p2pfleet.adapters.network.bulk.answers import (
    MAX_HEADER_BYTES,
    MAX_REQUEST_BYTES,
    BlobAnswers,
    encoded,
)
from p2pfleet.adapters.network.bulk.tls_socket import SLOWEST_BYTES_PER_S, SLOWEST_S, Sink
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import refused, reset_quietly
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.streams import (
    StreamFailed,
    TooLong,
    open_stream,
    read_message,
    read_some,
    write_patiently,
)
from p2pfleet.core.errors import Malformed, Reject, Verdict
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobHeader, BlobRequest
from p2pfleet.core.wire.names import BLOB_CHUNK_BYTES, BLOB_PROTOCOL

logger = logging.getLogger(__name__)

_DISK_BYTES = 4 * BLOB_CHUNK_BYTES
_IDLE_STREAMS_PER_PEER = 2

Report = Callable[[PeerId, Verdict], None]


class Carrier(Protocol):
    """One way for the bytes of a blob."""

    async def receive(self, source: PeerId, request: BlobRequest, block: int, sink: Sink) -> bool:
        """Have ``source`` send a range, in blocks of ``block`` bytes (the last one shorter; of a
        broken transfer, the last one may be any shorter). Whether it has it.

        Raises :class:`StreamFailed` (bad luck), :class:`Malformed` and :class:`TooLong` (its
        fault), and what ``sink`` raises.
        """
        ...


def checked_header(data: bytes, length: int) -> bool:
    """Whether a header says that all of ``length`` bytes follow. Raises :class:`Malformed`."""
    header: BlobHeader = codec.decode(data, BlobHeader, MAX_HEADER_BYTES)
    if header.found and header.length != length:
        raise Malformed(f"offered {header.length} bytes instead of {length}")
    return header.found


async def answer_on(
    stream: Any,
    kind: Any,
    limit: int,
    idle_s: float,
    reply: Callable[[Any, PeerId, Any], Awaitable[None]],
    report: Report,
) -> None:
    """Have every message of ``kind`` on a stream answered by ``reply``, one after another.

    Ends the stream when nothing comes for ``idle_s``, and with the first message that is malformed
    or longer than ``limit``: a Reject.
    """
    identity = stream.muxed_conn.peer_id
    peer = peer_of(identity)
    assert peer is not None, "nobody else is let in"
    try:
        while True:
            with trio.move_on_after(idle_s) as waiting:
                data = await read_message(stream, limit)
            if waiting.cancelled_caught or data is None:
                return
            await reply(stream, peer, codec.decode(data, kind, limit))
    except (Malformed, TooLong) as error:
        refused(identity, f"blob request: {error}")
        report(peer, Reject(f"blob request: {error}"))
    except StreamFailed as error:
        logger.debug("blob stream: %s", error)
    finally:
        await reset_quietly(stream)


class BlobServer:
    """Answers requests for blobs, as long as the asking peer keeps reading."""

    def __init__(self, config: NetworkConfig, answers: BlobAnswers, report: Report) -> None:
        self._config = config
        self._answers = answers
        self._report = report

    async def serve(self, stream: Any) -> None:
        """The stream handler of the blob protocol."""
        await answer_on(
            stream,
            BlobRequest,
            MAX_REQUEST_BYTES,
            self._config.blob_idle_s,
            self._reply,
            self._report,
        )

    async def _reply(self, stream: Any, peer: PeerId, request: BlobRequest) -> None:
        await self._answers.pace(peer)
        async with self._answers.turn(peer):
            seconds = SLOWEST_S + request.length / SLOWEST_BYTES_PER_S
            with trio.move_on_after(seconds) as time:
                await self._give(stream, peer, request)
        if time.cancelled_caught:
            raise StreamFailed("took a blob too slowly")

    async def _give(self, stream: Any, peer: PeerId, request: BlobRequest) -> None:
        place = await self._answers.open(peer, request)
        if place is None:
            await self._send(stream, encoded(BlobHeader(found=False, length=0)))
            return
        descriptor, position = place
        try:
            header = encoded(BlobHeader(found=True, length=request.length))
            left = request.length
            self._answers.given_bytes += left
            while left or header:
                size = min(left, _DISK_BYTES)
                data = await _pread(descriptor, size, position)
                if len(data) != size:
                    raise StreamFailed("the file is shorter than it was")
                await self._send(stream, header + data)
                header = b""
                position += size
                left -= size
        finally:
            os.close(descriptor)

    async def _send(self, stream: Any, data: bytes) -> None:
        await write_patiently(stream, data, self._config.blob_chunk_s)


async def _pread(descriptor: int, size: int, position: int) -> bytes:
    if size == 0:
        return b""
    return await trio.to_thread.run_sync(os.pread, descriptor, size, position)


class StreamCarrier:
    """The :class:`Carrier` over libp2p streams."""

    def __init__(self, config: NetworkConfig, host: Any) -> None:
        self._config = config
        self._host = host
        self._idle: dict[PeerId, list[Any]] = {}

    async def receive(self, source: PeerId, request: BlobRequest, block: int, sink: Sink) -> bool:
        """See :class:`Carrier`."""
        stream, kept = await self._stream(source)
        try:
            found = await self._ask(stream, request)
        except StreamFailed:
            if not kept:
                raise
            # A kept stream may have ended meanwhile.
            stream = await self._open(source)
            found = await self._ask(stream, request)
        clean = False
        try:
            if found:
                await self._receive(stream, request.length, block, sink)
            clean = True
        finally:
            if clean:
                await self._keep(source, stream)
            else:
                await reset_quietly(stream)
        return found

    async def _ask(self, stream: Any, request: BlobRequest) -> bool:
        try:
            with trio.move_on_after(self._config.blob_answer_s):
                await write_patiently(stream, encoded(request), self._config.blob_chunk_s)
                data = await read_message(stream, MAX_HEADER_BYTES)
                if data is None:
                    raise StreamFailed("ended the stream instead of answering")
                return checked_header(data, request.length)
            raise StreamFailed("did not answer in time")
        except BaseException:
            await reset_quietly(stream)
            raise

    async def _receive(self, stream: Any, left: int, block: int, sink: Sink) -> None:
        gathered = bytearray()
        try:
            while left:
                data = b""
                with trio.move_on_after(self._config.blob_chunk_s):
                    most = min(left, block - len(gathered), _DISK_BYTES)
                    data = await read_some(stream, most)
                if not data:
                    raise StreamFailed("stopped sending")
                left -= len(data)
                gathered += data
                if len(gathered) == block:
                    await self._pass_on(gathered, sink)
        finally:
            # What came is kept also when the rest does not come: the next source continues.
            if gathered:
                with trio.CancelScope(shield=True):
                    await self._pass_on(gathered, sink)

    async def _pass_on(self, gathered: bytearray, sink: Sink) -> None:
        block = bytes(gathered)
        gathered.clear()
        await trio.to_thread.run_sync(sink, memoryview(block))

    # ---- kept streams ------------------------------------------------------------------------

    async def _stream(self, source: PeerId) -> tuple[Any, bool]:
        idle = self._idle.get(source, [])
        while idle:
            stream = idle.pop()
            muxed = stream.muxed_stream
            if not (muxed.closed or muxed.recv_closed or muxed.send_closed):
                return stream, True
        return await self._open(source), False

    async def _open(self, source: PeerId) -> Any:
        return await open_stream(
            self._host, library_id(source), BLOB_PROTOCOL, self._config.negotiate_s
        )

    async def _keep(self, source: PeerId, stream: Any) -> None:
        idle = self._idle.setdefault(source, [])
        if len(idle) < _IDLE_STREAMS_PER_PEER:
            idle.append(stream)
        else:
            await reset_quietly(stream)

    def disconnected(self, peer: PeerId) -> None:
        """Forget the streams kept for ``peer``."""
        self._idle.pop(peer, None)
