"""The serving side of the bulk channel: accepts TCP connections, checks tickets, sends blobs.

The first that a connection says, inside TLS, is its opening (see ``tickets``). Then it carries
requests like a blob stream. A thread works on a connection only while something moves.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections import Counter, defaultdict

import trio

from p2pfleet.adapters.network.bulk.answers import MAX_REQUEST_BYTES, BlobAnswers, encoded
from p2pfleet.adapters.network.bulk.certificate import OwnCertificate
from p2pfleet.adapters.network.bulk.over_streams import Report
from p2pfleet.adapters.network.bulk.tickets import OPENING_BYTES, Tickets
from p2pfleet.adapters.network.bulk.tls_socket import SLOWEST_BYTES_PER_S, SLOWEST_S, TlsSocket
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused
from p2pfleet.adapters.network.guard.limits import address_group, is_loopback
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.streams import StreamFailed, TooLong
from p2pfleet.core.errors import Malformed, Reject
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobHeader, BlobRequest, NoTicket, Ticket

logger = logging.getLogger(__name__)

_MESSAGE_S = 10.0
_REFUSED_MS = 5_000
_NEVER_MS = 3_600_000


class BulkServer:
    """Listens, gives tickets to connected peers, and serves who shows one."""

    def __init__(
        self,
        config: NetworkConfig,
        certificate: OwnCertificate,
        answers: BlobAnswers,
        report: Report,
    ) -> None:
        self._config = config
        self._certificate = certificate
        self._answers = answers
        self._report = report
        self._tickets = Tickets(
            certificate.digest,
            config.bulk_ticket_s,
            config.bulk_tickets,
            config.bulk_connections_per_peer,
        )
        self._from: Counter[str] = Counter()
        self._open: defaultdict[PeerId, set[TlsSocket]] = defaultdict(set)
        self._shaking = 0
        self._threads = trio.CapacityLimiter(config.serves + config.bulk_handshakes)
        self.port = 0
        self._listeners: list[trio.SocketListener] = []

    async def listen(self, hosts: list[str]) -> None:
        """Take the port on every host. Without it the node does without the bulk channel."""
        port = self._config.bulk_port
        try:
            for host in hosts:
                listeners = await trio.open_tcp_listeners(port, host=host)
                self._listeners += listeners
                port = listeners[0].socket.getsockname()[1]
        except OSError as error:
            logger.warning(
                "no bulk channel, since port %d cannot be listened on; blobs travel slowly: %s",
                port,
                describe(error),
            )
            await self._unlisten()
            return
        self.port = port

    async def _unlisten(self) -> None:
        self.port = 0
        for listener in self._listeners:
            await listener.aclose()
        self._listeners.clear()

    async def run(self) -> None:
        """Accept connections for ever."""
        if not self._listeners:
            return
        try:
            async with trio.open_nursery() as nursery:
                await trio.serve_listeners(self._accepted, self._listeners, handler_nursery=nursery)
        finally:
            with trio.CancelScope(shield=True):
                await self._unlisten()

    def ticket(self, peer: PeerId) -> Ticket | NoTicket:
        """The answer to a peer that wants to connect."""
        if not self.port:
            return NoTicket(_NEVER_MS)
        if len(self._open.get(peer, ())) >= self._config.bulk_connections_per_peer:
            return NoTicket(_REFUSED_MS)
        ticket = self._tickets.issue(peer)
        if ticket is None:
            return NoTicket(_REFUSED_MS)
        lifetime_ms = round(self._config.bulk_ticket_s * 1000)
        return Ticket(self.port, ticket, self._certificate.digest, lifetime_ms)

    def disconnected(self, peer: PeerId) -> None:
        """``peer`` has no libp2p connection any more, or is banned: end its transfers."""
        self._tickets.withdraw(peer)
        for connection in list(self._open.get(peer, ())):
            connection.abort()

    # ---- one connection ----------------------------------------------------------------------

    def _refusal(self, group: str) -> str | None:
        config = self._config
        if self._from.total() >= config.bulk_connections:
            return "too many bulk connections"
        most = (
            config.bulk_connections if is_loopback(group) else config.bulk_connections_per_address
        )
        if self._from[group] >= most:
            return f"more than {most} bulk connections from {group}"
        if self._shaking >= config.bulk_handshakes:
            return "too many bulk handshakes at once"
        if not len(self._tickets):
            return "nobody was given a ticket"
        return None

    async def _accepted(self, stream: trio.SocketStream) -> None:
        try:
            group = address_group(str(stream.socket.getpeername()[0]))
        except OSError:
            await stream.aclose()
            return
        reason = self._refusal(group)
        if reason is not None:
            refused(None, reason)
            await trio.aclose_forcefully(stream)
            return
        self._from[group] += 1
        try:
            await self._serve_stranger(stream, group)
        except Exception as error:
            logger.debug("bulk connection from %s: %s", group, describe(error))
        finally:
            self._from[group] -= 1
            if not self._from[group]:
                del self._from[group]

    async def _serve_stranger(self, stream: trio.SocketStream, group: str) -> None:
        connection = taken_over(stream, self._certificate.context, True, self._config.blob_chunk_s)
        try:
            self._shaking += 1
            try:
                said = await connection.run(
                    self._threads, self._config.bulk_handshake_s, _opened, connection
                )
            finally:
                self._shaking -= 1
            peer = self._tickets.redeem(said)
            if peer is None:
                refused(None, f"a bulk connection from {group} without a good ticket")
                return
            self._open[peer].add(connection)
            try:
                await self._serve(connection, peer)
            finally:
                self._open[peer].discard(connection)
                if not self._open[peer]:
                    del self._open[peer]
        except StreamFailed as error:
            logger.debug("bulk connection from %s: %s", group, error)
        finally:
            connection.abort()

    async def _serve(self, connection: TlsSocket, peer: PeerId) -> None:
        try:
            while not connection.over:
                with trio.move_on_after(self._config.bulk_idle_s) as waiting:
                    await connection.readable()
                if waiting.cancelled_caught:
                    return
                data = await connection.run(
                    self._threads, _MESSAGE_S, connection.receive_message, MAX_REQUEST_BYTES
                )
                request = codec.decode(data, BlobRequest, MAX_REQUEST_BYTES)
                await self._answers.pace(peer)
                async with self._answers.turn(peer):
                    await self._give(connection, peer, request)
        except (Malformed, TooLong) as error:
            refused(library_id(peer), f"bulk request: {error}")
            self._report(peer, Reject(f"bulk request: {error}"))

    async def _give(self, connection: TlsSocket, peer: PeerId, request: BlobRequest) -> None:
        place = await self._answers.open(peer, request)
        if place is None:
            absent = encoded(BlobHeader(found=False, length=0))
            await connection.run(self._threads, _MESSAGE_S, connection.send, absent)
            return
        descriptor, position = place
        try:
            self._answers.given_bytes += request.length
            await connection.run(
                self._threads,
                SLOWEST_S + request.length / SLOWEST_BYTES_PER_S,
                connection.send_file,
                encoded(BlobHeader(found=True, length=request.length)),
                descriptor,
                position,
                request.length,
            )
        finally:
            os.close(descriptor)


def _opened(connection: TlsSocket) -> bytes:
    connection.handshake()
    return connection.receive_exactly(OPENING_BYTES)


def taken_over(
    stream: trio.SocketStream, context: ssl.SSLContext, server: bool, stall_s: float
) -> TlsSocket:
    """The connection of a trio stream, for threads. Raises :class:`StreamFailed`."""
    plain = socket.socket(fileno=os.dup(stream.socket.fileno()))
    stream.socket.close()
    return TlsSocket(plain, context, server, stall_s)
