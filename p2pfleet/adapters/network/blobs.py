"""Blobs over libp2p streams: models, tables, packs and outputs.

A stream carries any number of requests, one after another: a :class:`BlobRequest`, a
:class:`BlobHeader`, then the raw bytes of the range. Both messages have a 4-byte length in front.
Streams are kept for the next request, since opening one costs as much as thousands of bytes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused, reset_quietly
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.limits import Buckets
from p2pfleet.adapters.network.streams import (
    StreamFailed,
    TooLong,
    frame,
    open_stream,
    read_message,
    read_some,
    write_patiently,
)
from p2pfleet.core.errors import Malformed, Reject, Verdict
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, cid_from_sha256, short_peer
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobHeader, BlobRequest
from p2pfleet.core.wire.names import BLOB_CHUNK_BYTES, BLOB_PROTOCOL
from p2pfleet.ports import BlobGate, BlobNotFound, BlobReader, PartialBlob

logger = logging.getLogger(__name__)

_MAX_REQUEST_BYTES = 256
_MAX_HEADER_BYTES = 64
_DISK_BYTES = 4 * BLOB_CHUNK_BYTES
_WRITE_BYTES = 16 * BLOB_CHUNK_BYTES
_IDLE_STREAMS_PER_PEER = 2
_REQUESTS_PER_S = 500.0
_SLOWEST_S = 60.0
_SLOWEST_BYTES_PER_S = 16 * 1024
_ABSENT = BlobHeader(found=False, length=0)

Report = Callable[[PeerId, Verdict], None]


class BlobServer:
    """Answers requests for blobs, as long as the asking peer keeps reading.

    A blob that ``may_fetch`` denies to a peer is not here for that peer.
    """

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        blobs: BlobReader,
        may_fetch: BlobGate,
        report: Report,
    ) -> None:
        self._config = config
        self._network = network
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._nowhere = secrets.token_bytes(32)
        self._report = report
        self._slots = trio.CapacityLimiter(config.serves)
        self._turns: dict[bytes, trio.CapacityLimiter] = {}
        self._requests = Buckets(_REQUESTS_PER_S, _REQUESTS_PER_S * 2)

    async def serve(self, stream: Any) -> None:
        """The stream handler of the blob protocol."""
        identity = stream.muxed_conn.peer_id
        try:
            while True:
                with trio.move_on_after(self._config.blob_idle_s) as waiting:
                    data = await read_message(stream, _MAX_REQUEST_BYTES)
                if waiting.cancelled_caught or data is None:
                    return
                request = codec.decode(data, BlobRequest, _MAX_REQUEST_BYTES)
                await trio.sleep(self._requests[identity.to_bytes()].owe(1))
                await self._answer(stream, identity, request)
        except (Malformed, TooLong) as error:
            refused(identity, f"blob request: {error}")
            peer = peer_of(identity)
            if peer is not None:
                self._report(peer, Reject(f"blob request: {error}"))
        except StreamFailed as error:
            logger.debug("blob stream: %s", error)
        finally:
            await reset_quietly(stream)

    async def _answer(self, stream: Any, identity: Any, request: BlobRequest) -> None:
        key = identity.to_bytes()
        turn = self._turns.setdefault(key, trio.CapacityLimiter(self._config.serves_per_peer))
        try:
            async with turn, self._slots:
                with trio.move_on_after(_SLOWEST_S + request.length / _SLOWEST_BYTES_PER_S) as time:
                    await self._give(stream, identity, request)
            if time.cancelled_caught:
                raise StreamFailed("took a blob too slowly")
        finally:
            if turn.borrowed_tokens == 0 and turn.statistics().tasks_waiting == 0:
                self._turns.pop(key, None)

    async def _give(self, stream: Any, identity: Any, request: BlobRequest) -> None:
        cid = self._wanted(peer_of(identity), request.cid)
        place = await trio.to_thread.run_sync(self._locate, request, cid)
        if place is None:
            await self._send(stream, frame(codec.encode(_ABSENT)))
            return
        descriptor, position = place
        try:
            header = frame(codec.encode(BlobHeader(found=True, length=request.length)))
            left = request.length
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

    def _wanted(self, peer: PeerId | None, cid: Cid) -> Cid:
        """What to look up for ``peer``: ``cid``, or a name that nothing has.

        A blob that is denied is looked for like one that is not here, in the same places, so that
        the time which the answer takes tells nothing either.
        """
        if peer is not None and self._may_fetch(peer, cid):
            return cid
        return cid_from_sha256(hashlib.sha256(self._nowhere + cid).digest())

    def _locate(self, request: BlobRequest, cid: Cid) -> tuple[int, int] | None:
        """An open file with the blob ``cid``, and the position of the range in it."""
        if request.network != self._network:
            return None
        found = self._blobs.locate(cid)
        if found is None:
            return None
        path, offset, length = found
        if request.offset + request.length > length:
            return None
        descriptor = _open(path)
        return None if descriptor is None else (descriptor, offset + request.offset)

    async def _send(self, stream: Any, data: bytes) -> None:
        await write_patiently(stream, data, self._config.blob_chunk_s)


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        logger.warning("a blob cannot be read: %s", describe(error))
        return None


async def _pread(descriptor: int, size: int, position: int) -> bytes:
    if size == 0:
        return b""
    return await trio.to_thread.run_sync(os.pread, descriptor, size, position)


class BlobFetcher:
    """The ``Bulk`` port."""

    def __init__(
        self, config: NetworkConfig, network: NetworkId, host: Any, report: Report
    ) -> None:
        self._config = config
        self._network = network
        self._host = host
        self._report = report
        self._slots = trio.CapacityLimiter(config.fetches)
        self._idle: dict[PeerId, list[Any]] = {}

    async def fetch(self, partial: PartialBlob, sources: Sequence[PeerId]) -> PeerId:
        """Fill ``partial`` from the first source that can. Raises :class:`BlobNotFound`."""
        answers: list[str] = []
        alone: PeerId | None = None
        async with self._slots:
            for source in dict.fromkeys(sources):
                # Bytes that were there before may be the wrong ones: whoever completes them is
                # to blame only for what came from it alone.
                for _ in range(2):
                    if partial.present == 0:
                        alone = source
                    mixed = alone != source
                    answer = await self._fetch_from(source, partial)
                    if answer is not None:
                        answers.append(f"{short_peer(source)}: {answer}")
                        break
                    if await trio.to_thread.run_sync(partial.finish):
                        return source
                    if partial.present:
                        await trio.to_thread.run_sync(partial.restart)
                    if not mixed:
                        refused(library_id(source), "a blob with other bytes than its name says")
                        self._report(source, Reject("wrong bytes of a blob"))
                        answers.append(f"{short_peer(source)}: sent wrong bytes")
                        break
        raise BlobNotFound("; ".join(answers) or "nobody to ask")

    async def _fetch_from(self, source: PeerId, partial: PartialBlob) -> str | None:
        """Let ``source`` send what is missing; ``None``, or why it did not."""
        ref = partial.ref
        left = ref.length - partial.present
        if left <= 0:
            return None
        try:
            stream, kept = await self._stream(source)
            try:
                header = await self._ask(stream, partial, left)
            except StreamFailed:
                if not kept:
                    raise
                # A kept stream may have ended meanwhile.
                stream = await self._open(source)
                header = await self._ask(stream, partial, left)
        except StreamFailed as error:
            return str(error)
        except (Malformed, TooLong) as error:
            self._report(source, Reject(f"blob header: {error}"))
            return f"sent a malformed header: {error}"
        if not header.found:
            await self._keep(source, stream)
            return "has it not"
        if header.length != left:
            await reset_quietly(stream)
            self._report(source, Reject("blob of another length than asked for"))
            return f"offered {header.length} bytes instead of {left}"
        clean = False
        try:
            await self._receive(stream, partial, left)
            clean = True
        except StreamFailed as error:
            return f"{error}, {partial.present} of {ref.length} bytes are here"
        finally:
            if clean:
                await self._keep(source, stream)
            else:
                await reset_quietly(stream)
        return None

    async def _ask(self, stream: Any, partial: PartialBlob, left: int) -> BlobHeader:
        ref = partial.ref
        request = BlobRequest(
            network=self._network,
            cid=ref.cid,
            offset=ref.offset + partial.present,
            length=left,
        )
        try:
            with trio.move_on_after(self._config.blob_answer_s):
                message = frame(codec.encode(request))
                await write_patiently(stream, message, self._config.blob_chunk_s)
                data = await read_message(stream, _MAX_HEADER_BYTES)
                if data is None:
                    raise StreamFailed("ended the stream instead of answering")
                header: BlobHeader = codec.decode(data, BlobHeader, _MAX_HEADER_BYTES)
                return header
            raise StreamFailed("did not answer in time")
        except BaseException:
            await reset_quietly(stream)
            raise

    async def _receive(self, stream: Any, partial: PartialBlob, left: int) -> None:
        gathered = bytearray()
        try:
            while left:
                data = b""
                with trio.move_on_after(self._config.blob_chunk_s):
                    data = await read_some(stream, min(left, _DISK_BYTES))
                if not data:
                    raise StreamFailed("stopped sending")
                left -= len(data)
                gathered += data
                if len(gathered) >= _WRITE_BYTES:
                    await trio.to_thread.run_sync(partial.write, bytes(gathered))
                    gathered.clear()
        finally:
            # What came is kept also when the rest does not come: the next source continues.
            if gathered:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(partial.write, bytes(gathered))

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
