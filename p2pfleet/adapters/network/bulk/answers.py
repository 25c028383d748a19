"""What this node says to requests for blobs, whichever way they come."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2pfleet.adapters.network.bulk.arriving import Arriving
from p2pfleet.adapters.network.bulk.rations import Rations
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe
from p2pfleet.adapters.network.guard.limits import Buckets
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, cid_from_sha256
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobRequest, Pieces, PiecesRequest
from p2pfleet.core.wire.names import PIECE_BYTES
from p2pfleet.ports import BlobGate, BlobReader

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256
MAX_HEADER_BYTES = 64
_REQUESTS_PER_S = 500.0
_BUSY_MS = 500
_NEWS_S = 2.0


class BlobAnswers:
    """Looks up what peers ask for, as far as they may have it, and in turn.

    A blob that ``may_fetch`` denies to a peer is not here for that peer. ``given_bytes`` counts
    what peers were given, or began to be given.
    """

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        blobs: BlobReader,
        may_fetch: BlobGate,
        arriving: Arriving,
    ) -> None:
        self._config = config
        self._network = network
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._arriving = arriving
        self._rations = Rations()
        self.given_bytes = 0
        self._nowhere = secrets.token_bytes(32)
        self._slots = trio.CapacityLimiter(config.serves)
        self._turns: dict[PeerId, trio.CapacityLimiter] = {}
        self._requests = Buckets(_REQUESTS_PER_S, _REQUESTS_PER_S * 2)

    async def pace(self, peer: PeerId) -> None:
        """Wait as long as ``peer`` has to, that asks a lot."""
        await trio.sleep(self._requests[peer].owe(1))

    @asynccontextmanager
    async def turn(self, peer: PeerId) -> AsyncIterator[None]:
        """Hold one of the places for transfers; so many at once, and fewer for each peer."""
        turn = self._turns.setdefault(peer, trio.CapacityLimiter(self._config.serves_per_peer))
        try:
            async with turn, self._slots:
                yield
        finally:
            if turn.borrowed_tokens == 0 and turn.statistics().tasks_waiting == 0:
                self._turns.pop(peer, None)

    def _wanted(self, peer: PeerId | None, cid: Cid) -> Cid:
        """What to look up for ``peer``: ``cid``, or a name that nothing has.

        A blob that is denied is looked for like one that is not here, in the same places, so that
        the time which the answer takes tells nothing either.
        """
        if peer is not None and self._may_fetch(peer, cid):
            return cid
        return cid_from_sha256(hashlib.sha256(self._nowhere + cid).digest())

    async def open(self, peer: PeerId | None, request: BlobRequest) -> tuple[int, int] | None:
        """A descriptor, which the caller closes, and a position in it where the range begins."""
        cid = self._wanted(peer, request.cid)
        if request.network != self._network:
            cid = self._wanted(None, cid)
        return await trio.to_thread.run_sync(self._open, request, cid)

    def _open(self, request: BlobRequest, cid: Cid) -> tuple[int, int] | None:
        found = self._blobs.locate(cid)
        if found is None:
            return self._arriving.open(cid, request.offset, request.length)
        path, offset, length = found
        if request.offset + request.length > length:
            return None
        descriptor = _open(path)
        return None if descriptor is None else (descriptor, offset + request.offset)

    async def pieces(self, peer: PeerId, request: PiecesRequest) -> Pieces:
        """Which pieces are here, and which ``peer`` should take; waits a while for news of a blob
        that is arriving and has nothing for it yet. Raises :class:`Malformed`."""
        count = -(-request.length // PIECE_BYTES)
        if len(request.held) > -(-count // 8):
            raise Malformed("a map of more pieces than there are")
        answer = await self._pieces(peer, request, count)
        if answer.held and not answer.take and not answer.wait_ms:
            await self._arriving.wait(request.cid, _NEWS_S)
            answer = await self._pieces(peer, request, count)
        return answer

    async def _pieces(self, peer: PeerId, request: PiecesRequest, count: int) -> Pieces:
        cid = self._wanted(peer, request.cid)
        if request.network != self._network:
            cid = self._wanted(None, cid)
        found = await trio.to_thread.run_sync(self._blobs.locate, cid)
        arriving = self._arriving.held(cid, request.offset, request.length)
        complete = found is not None and request.offset + request.length <= found[2]
        if not complete and arriving is None:
            return Pieces(complete=False, held=b"", take=(), wait_ms=0)
        held = bytearray(b"\1" * count) if complete or arriving is None else arriving
        take: tuple[int, ...] = ()
        if self._slots.available_tokens:
            take, wait_ms = self._rations.grant(
                (cid, request.offset, request.length),
                peer,
                held,
                unpacked(request.held, count),
                request.most,
                request.waited_ms,
            )
        else:
            wait_ms = _BUSY_MS
        shown = b"" if complete else packed(held)
        return Pieces(complete=complete, held=shown, take=take, wait_ms=wait_ms)


def packed(flags: bytearray) -> bytes:
    """A map of pieces from one byte each; never empty."""
    bits = bytearray(max(1, -(-len(flags) // 8)))
    for piece, flag in enumerate(flags):
        if flag:
            bits[piece // 8] |= 1 << piece % 8
    return bytes(bits)


def unpacked(bits: bytes, count: int) -> bytearray:
    """One byte each from a map of pieces; what the map says of others is left out."""
    flags = bytearray(count)
    for piece in range(min(count, 8 * len(bits))):
        flags[piece] = bits[piece // 8] >> piece % 8 & 1
    return flags


def encoded(message: object) -> bytes:
    """A message with its length in front."""
    data = codec.encode(message)
    return len(data).to_bytes(4, "big") + data


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        logger.warning("a blob cannot be read: %s", describe(error))
        return None
