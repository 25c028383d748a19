"""The asking side of the bulk channel: dials with a ticket, keeps connections for the next request.

Where a peer cannot be reached this way is remembered for a while, and blobs come over libp2p
streams meanwhile.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import trio

from p2pfleet.adapters.network.addresses import usable
from p2pfleet.adapters.network.bulk.answers import MAX_HEADER_BYTES, encoded
from p2pfleet.adapters.network.bulk.certificate import check, dialling_context
from p2pfleet.adapters.network.bulk.control import BulkControl
from p2pfleet.adapters.network.bulk.over_streams import Carrier, checked_header
from p2pfleet.adapters.network.bulk.tickets import opening
from p2pfleet.adapters.network.bulk.tls_socket import (
    SLOWEST_BYTES_PER_S,
    SLOWEST_S,
    Sink,
    TlsSocket,
)
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe
from p2pfleet.adapters.network.guard.limits import MAX_TRACKED_PEERS, is_loopback
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.streams import StreamFailed
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import NetworkId, PeerId, short_peer
from p2pfleet.core.wire.messages import BlobRequest, NoTicket, Ticket, TicketRequest

logger = logging.getLogger(__name__)

_IDLE_PER_PEER = 2
_IDLE_S = 30.0

Sign = Callable[[bytes], bytes]


class BulkCarrier:
    """The :class:`Carrier` over direct TLS connections, with another one to fall back on."""

    def __init__(
        self,
        config: NetworkConfig,
        network: NetworkId,
        host: Any,
        control: BulkControl,
        sign: Sign,
        fallback: Carrier,
    ) -> None:
        self._config = config
        self._network = network
        self._host = host
        self._control = control
        self._sign = sign
        self._fallback = fallback
        self._context = dialling_context()
        self._threads = trio.CapacityLimiter(config.fetches * config.piece_sources)
        self._idle: dict[PeerId, list[tuple[float, TlsSocket]]] = {}
        self._used: Counter[PeerId] = Counter()
        self._not_before: OrderedDict[PeerId, float] = OrderedDict()

    async def receive(self, source: PeerId, request: BlobRequest, block: int, sink: Sink) -> bool:
        """See :class:`Carrier`."""
        connection = self._kept(source)
        if connection is not None:
            try:
                return await self._receive(connection, source, request, block, sink)
            except _NotEvenAsked as error:
                logger.debug("a kept bulk connection to %s: %s", short_peer(source), error)
        if request.length >= self._config.bulk_from_bytes:
            connection = await self._dial(source)
            if connection is not None:
                return await self._receive(connection, source, request, block, sink)
        return await self._fallback.receive(source, request, block, sink)

    async def _receive(
        self, connection: TlsSocket, source: PeerId, request: BlobRequest, block: int, sink: Sink
    ) -> bool:
        self._used[source] += 1
        clean = False
        try:
            await connection.run(
                self._threads, self._config.blob_answer_s, _ask, connection, request
            )
            found: bool = await connection.run(
                self._threads,
                self._config.blob_answer_s + SLOWEST_S + request.length / SLOWEST_BYTES_PER_S,
                _receive,
                connection,
                request.length,
                block,
                sink,
            )
            clean = True
            return found
        finally:
            self._used[source] -= 1
            if not self._used[source]:
                del self._used[source]
            if clean:
                self._keep(source, connection)
            else:
                connection.abort()

    # ---- kept connections --------------------------------------------------------------------

    def _kept(self, source: PeerId) -> TlsSocket | None:
        idle = self._idle.get(source, [])
        while idle:
            since, connection = idle.pop()
            if trio.current_time() - since < _IDLE_S and connection.quiet():
                return connection
            connection.abort()
        return None

    def _keep(self, source: PeerId, connection: TlsSocket) -> None:
        idle = self._idle.setdefault(source, [])
        if len(idle) < _IDLE_PER_PEER and not connection.over:
            idle.append((trio.current_time(), connection))
        else:
            connection.abort()

    async def tidy(self) -> None:
        """Close what has not been used for a while, for ever; everything at the end."""
        try:
            while True:
                await trio.sleep(_IDLE_S / 2)
                for source in list(self._idle):
                    kept = self._idle.pop(source)
                    for since, connection in kept:
                        if trio.current_time() - since < _IDLE_S:
                            self._idle.setdefault(source, []).append((since, connection))
                        else:
                            connection.abort()
        finally:
            for source in list(self._idle):
                self.disconnected(source)

    def disconnected(self, peer: PeerId) -> None:
        """Close what is kept for ``peer``, and forget what is known about reaching it."""
        for _, connection in self._idle.pop(peer, []):
            connection.abort()
        self._not_before.pop(peer, None)

    # ---- dialling ----------------------------------------------------------------------------

    def _avoid(self, peer: PeerId, seconds: float, why: str) -> None:
        logger.debug("no bulk channel to %s for %.0f s: %s", short_peer(peer), seconds, why)
        self._not_before[peer] = trio.current_time() + seconds
        self._not_before.move_to_end(peer)
        if len(self._not_before) > MAX_TRACKED_PEERS:
            self._not_before.popitem(last=False)

    async def _dial(self, peer: PeerId) -> TlsSocket | None:
        """A new connection to ``peer``; ``None`` if there is none to be had now."""
        config = self._config
        if not config.bulk or self._not_before.get(peer, 0.0) > trio.current_time():
            return None
        if self._used[peer] >= config.bulk_connections_per_peer:
            return None
        host = self._host_of(peer)
        if host is None:
            self._avoid(peer, config.bulk_unreachable_s, "no address that it could be dialled at")
            return None
        connection = None
        self._used[peer] += 1
        try:
            ticket = await self._control.ask(
                peer, TicketRequest(self._network), config.bulk_handshake_s
            )
            if isinstance(ticket, NoTicket):
                self._avoid(peer, ticket.wait_ms / 1000, "it gives no ticket")
                return None
            if not isinstance(ticket, Ticket):
                raise Malformed("another answer than a ticket")
            with trio.fail_after(config.bulk_connect_s):
                plain = await _connect(host, ticket.port)
            connection = TlsSocket(plain, self._context, False, config.blob_chunk_s)
            await connection.run(
                self._threads, config.bulk_handshake_s, self._open, connection, ticket, peer
            )
            return connection
        except (StreamFailed, Malformed, OSError, trio.TooSlowError) as error:
            if connection is not None:
                connection.abort()
            self._avoid(peer, config.bulk_unreachable_s, describe(error))
            return None
        except BaseException:
            if connection is not None:
                connection.abort()
            raise
        finally:
            self._used[peer] -= 1
            if not self._used[peer]:
                del self._used[peer]

    def _open(self, connection: TlsSocket, ticket: Ticket, peer: PeerId) -> None:
        check(connection.handshake(), peer, ticket.certificate)
        connection.send(opening(ticket.ticket, ticket.certificate, self._sign))

    def _host_of(self, peer: PeerId) -> str | None:
        """Where ``peer`` may be dialled directly: at the address of a libp2p connection that we
        dialled, or from which it came if it says that it listens there."""
        identity = library_id(peer)
        for connection in reversed(self._host.get_network().get_connections(identity)):
            remote = connection.muxed_conn.get_remote_address()
            if remote is None:
                continue
            host = str(remote[0])
            if connection.direction.name == "OUTBOUND" or is_loopback(host):
                return host
            if host in self._claimed(identity):
                return host
        return None

    def _claimed(self, identity: Any) -> set[str]:
        try:
            addresses = list(self._host.get_peerstore().addrs(identity))
        except Exception:  # the store's word for "expired"
            return set()
        return {text.split("/")[2] for one in addresses if (text := usable(one)) is not None}


class _NotEvenAsked(StreamFailed):
    """The request could not be sent, or was not answered at all."""


def _ask(connection: TlsSocket, request: BlobRequest) -> None:
    try:
        connection.send(encoded(request))
    except StreamFailed as error:
        raise _NotEvenAsked(str(error)) from error


def _receive(connection: TlsSocket, length: int, block: int, sink: Sink) -> bool:
    try:
        header = connection.receive_message(MAX_HEADER_BYTES)
    except StreamFailed as error:
        raise _NotEvenAsked(str(error)) from error
    if not checked_header(header, length):
        return False
    connection.receive_blocks(length, block, sink)
    return True


async def _connect(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await opened.connect((host, port))
        return socket.socket(fileno=opened.detach())
    except BaseException:
        opened.close()
        raise
