"""Small questions beside the transfers of blobs, over libp2p streams: tickets and pieces.

A stream carries any number of questions, one after another, each with one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from p2pfleet.adapters.network.bulk.answers import BlobAnswers, encoded
from p2pfleet.adapters.network.bulk.over_streams import Report, answer_on
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import reset_quietly
from p2pfleet.adapters.network.guard.limits import Buckets
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.streams import (
    StreamFailed,
    TooLong,
    open_stream,
    read_message,
    write_patiently,
)
from p2pfleet.core.errors import Malformed, Reject
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import (
    BulkMessage,
    NoTicket,
    Pieces,
    PiecesRequest,
    Ticket,
    TicketRequest,
)
from p2pfleet.core.wire.names import BULK_PROTOCOL, MAX_PIECES

logger = logging.getLogger(__name__)

MAX_BULK_MESSAGE_BYTES = MAX_PIECES // 8 + 256
_QUESTIONS_PER_S = 200.0
_OTHERS_MS = 60_000
_IDLE_STREAMS_PER_PEER = 4

GiveTicket = Callable[[PeerId], Ticket | NoTicket]


class BulkDesk:
    """Answers the questions of peers."""

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        answers: BlobAnswers,
        ticket: GiveTicket,
        report: Report,
    ) -> None:
        self._config = config
        self._network = network
        self._answers = answers
        self._ticket = ticket
        self._report = report
        self._rates = Buckets(_QUESTIONS_PER_S, _QUESTIONS_PER_S * 2)

    async def serve(self, stream: Any) -> None:
        """The stream handler of the bulk protocol."""
        idle_s = self._config.blob_idle_s
        await answer_on(
            stream, BulkMessage, MAX_BULK_MESSAGE_BYTES, idle_s, self._reply, self._report
        )

    async def _reply(self, stream: Any, peer: PeerId, question: BulkMessage) -> None:
        await trio.sleep(self._rates[peer].owe(1))
        answer = await self._answer(peer, question)
        await write_patiently(stream, encoded(answer), self._config.blob_chunk_s)

    async def _answer(self, peer: PeerId, question: BulkMessage) -> BulkMessage:
        match question:
            case TicketRequest(network=network):
                return self._ticket(peer) if network == self._network else NoTicket(_OTHERS_MS)
            case PiecesRequest():
                return await self._answers.pieces(peer, question)
            case _:
                raise Malformed("an answer to nothing")


class BulkControl:
    """Asks peers, over streams that are kept for the next question."""

    def __init__(self, config: NetworkConfig, host: Any, report: Report) -> None:
        self._config = config
        self._host = host
        self._report = report
        self._idle: dict[PeerId, list[Any]] = {}

    async def ask(self, peer: PeerId, question: BulkMessage, seconds: float) -> BulkMessage:
        """The answer of ``peer``. Raises :class:`StreamFailed` when it gives none in time, or does
        not speak the protocol, and :class:`Malformed` (which is reported) for nonsense."""
        stream = self._kept(peer)
        with trio.move_on_after(seconds):
            if stream is not None:
                try:
                    return await self._ask(peer, stream, question)
                except StreamFailed as error:
                    logger.debug("a kept bulk stream: %s", error)
            stream = await open_stream(
                self._host, library_id(peer), BULK_PROTOCOL, self._config.negotiate_s
            )
            return await self._ask(peer, stream, question)
        raise StreamFailed("did not answer in time")

    async def _ask(self, peer: PeerId, stream: Any, question: BulkMessage) -> BulkMessage:
        try:
            await write_patiently(stream, encoded(question), self._config.blob_chunk_s)
            data = await read_message(stream, MAX_BULK_MESSAGE_BYTES)
            if data is None:
                raise StreamFailed("ended the stream instead of answering")
            answer: BulkMessage = codec.decode(data, BulkMessage, MAX_BULK_MESSAGE_BYTES)
        except (Malformed, TooLong) as error:
            await reset_quietly(stream)
            self._report(peer, Reject(f"answer about blobs: {error}"))
            raise Malformed(f"sent a malformed answer: {error}") from error
        except BaseException:
            await reset_quietly(stream)
            raise
        idle = self._idle.setdefault(peer, [])
        if len(idle) < _IDLE_STREAMS_PER_PEER:
            idle.append(stream)
        else:
            await reset_quietly(stream)
        return answer

    async def pieces(self, peer: PeerId, question: PiecesRequest, seconds: float) -> Pieces:
        """The answer about pieces; raises like :meth:`ask`."""
        answer = await self.ask(peer, question, seconds)
        if not isinstance(answer, Pieces):
            self._report(peer, Reject("another answer than about pieces"))
            raise Malformed("answered something else")
        return answer

    def _kept(self, peer: PeerId) -> Any:
        idle = self._idle.get(peer, [])
        while idle:
            stream = idle.pop()
            muxed = stream.muxed_stream
            if not (muxed.closed or muxed.recv_closed or muxed.send_closed):
                return stream
        return None

    def disconnected(self, peer: PeerId) -> None:
        """Forget the streams kept for ``peer``."""
        self._idle.pop(peer, None)
