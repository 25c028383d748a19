"""Carrying connections for nodes that nobody can dial: libp2p's circuit relay v2, the relay's part.

A node behind a router reserves a place here and tells others the way through this node. What is
carried is bounded in number, in time, in bytes, and for each peer and each address. The library's
own relay works, but enforces no limit for an address and reads a circuit's deadline only when
something passes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused, reset_quietly
from p2pfleet.adapters.network.guard.limits import TokenBucket, address_group
from p2pfleet.adapters.network.nat.circuit import (
    HOP,
    STOP,
    Refused,
    finish,
    read_message,
    relayed,
    remote_endpoint,
    write_message,
)
from p2pfleet.adapters.network.streams import (
    StreamFailed,
    TooLong,
    open_stream,
    read_some,
    write_patiently,
)

logger = logging.getLogger(__name__)

_READ_BYTES = 32 * 1024
_REQUESTS_PER_S = 2.0


class _Budget:
    """What one circuit may still carry, in both directions together."""

    def __init__(self, size: int) -> None:
        self.left = size


class Relay:
    """Reservations and circuits of others. ``serves`` says whether this node carries now."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        serves: Callable[[], bool],
        addresses: Callable[[], list[Any]],
    ) -> None:
        self._config = config
        self._host = host
        self._serves = serves
        self._addresses = addresses
        self._reserved: OrderedDict[Any, tuple[float, str]] = OrderedDict()
        self._circuits: Counter[Any] = Counter()
        self._requests = TokenBucket(_REQUESTS_PER_S, 64.0)
        self._bytes = TokenBucket(config.relay_bytes_per_s, config.relay_bytes_per_s)
        host.set_stream_handler(HOP, self.serve)

    @property
    def circuits(self) -> int:
        """How many connections are carried now."""
        return self._circuits.total() // 2

    async def serve(self, stream: Any) -> None:
        """The stream handler: one request."""
        try:
            message = await read_message(stream, HopMessage)
            if message.type == HopMessage.RESERVE:
                await self._reserve(stream)
            elif message.type == HopMessage.CONNECT:
                await self._connect(stream, ID(message.peer.id))
            else:
                await _say(stream, Status.MALFORMED_MESSAGE)
        except (StreamFailed, TooLong, Refused, ValueError) as error:
            logger.debug("a request to relay: %s", describe(error))
        finally:
            await reset_quietly(stream)

    def _endpoint(self, identity: Any) -> str | None:
        """Where a peer is that is connected directly."""
        for connection in self._host.get_network().get_connections(identity):
            found = None if connection.is_closed else remote_endpoint(connection)
            if found is not None:
                return address_group(found[0])
        return None

    # ---- reservations ------------------------------------------------------------------------

    def _reservation_refused(self, identity: Any, place: str | None) -> str | None:
        self._forget()
        config = self._config
        if not self._serves():
            return "this node carries nothing"
        if place is None:
            return "who comes through a relay needs none"
        if identity not in self._reserved:
            if len(self._reserved) >= config.relay_reservations:
                return "no place is left"
            here = sum(one == place for _, one in self._reserved.values())
            if here >= config.relay_reservations_per_address:
                return f"{here} places are reserved from {place}"
        return None if self._requests.take() else "too many requests"

    def _forget(self) -> None:
        connections = self._host.get_network().connections
        for identity, (until, _) in list(self._reserved.items()):
            if until < trio.current_time() or identity not in connections:
                del self._reserved[identity]

    async def _reserve(self, stream: Any) -> None:
        identity = stream.muxed_conn.peer_id
        place = None if relayed(stream.swarm_conn) else self._endpoint(identity)
        reason = self._reservation_refused(identity, place)
        if reason is not None or place is None:
            refused(identity, f"a place on this relay: {reason}")
            await _say(stream, Status.RESERVATION_REFUSED)
            return
        self._reserved[identity] = trio.current_time() + self._config.relay_reservation_s, place
        answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
        answer.reservation.expire = int(time.time() + self._config.relay_reservation_s)
        answer.reservation.addrs.extend(one.to_bytes() for one in self._addresses()[:8])
        self._limit(answer.limit)
        await write_message(stream, answer)
        await finish(stream)

    def _limit(self, limit: Any) -> None:
        limit.duration = int(self._config.relay_circuit_s)
        limit.data = self._config.relay_circuit_bytes

    # ---- circuits ----------------------------------------------------------------------------

    def _circuit_refused(self, source: Any, target: Any) -> Any:
        config = self._config
        self._forget()
        if not self._serves():
            return Status.PERMISSION_DENIED
        if target not in self._reserved:
            return Status.NO_RESERVATION
        most = config.relay_circuits_per_peer
        if (
            self._circuits.total() // 2 >= config.relay_circuits
            or self._circuits[source] >= most
            or self._circuits[target] >= most
            or not self._requests.take()
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        return None

    async def _connect(self, stream: Any, target: Any) -> None:
        source = stream.muxed_conn.peer_id
        reason = self._circuit_refused(source, target)
        if relayed(stream.swarm_conn) or source == target:
            reason = Status.PERMISSION_DENIED
        if reason is not None:
            refused(source, f"a connection through this relay: {Status.Name(reason)}")
            await _say(stream, reason)
            return
        self._circuits.update((source, target))
        onward = None
        try:
            onward = await self._onward(source, target)
            if onward is None:
                await _say(stream, Status.CONNECTION_FAILED)
                return
            answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
            self._limit(answer.limit)
            await write_message(stream, answer)
            await self._carry(stream, onward)
        finally:
            self._circuits.subtract((source, target))
            self._circuits += Counter()
            if onward is not None:
                await reset_quietly(onward)

    async def _onward(self, source: Any, target: Any) -> Any:
        """The other half of a circuit, if the target takes it."""
        stream = None
        try:
            stream = await open_stream(self._host, target, STOP, self._config.negotiate_s)
            ask = StopMessage(type=StopMessage.CONNECT)
            ask.peer.id = source.to_bytes()
            self._limit(ask.limit)
            await write_message(stream, ask)
            answer = await read_message(stream, StopMessage, self._config.negotiate_s)
            if answer.type == StopMessage.STATUS and answer.status == Status.OK:
                return stream
        except (StreamFailed, TooLong, Refused) as error:
            logger.debug("the other half of a circuit: %s", describe(error))
        if stream is not None:
            await reset_quietly(stream)
        return None

    async def _carry(self, one: Any, other: Any) -> None:
        budget = _Budget(self._config.relay_circuit_bytes)
        with trio.move_on_after(self._config.relay_circuit_s):
            async with trio.open_nursery() as nursery:
                for source, target in ((one, other), (other, one)):
                    nursery.start_soon(self._pump, source, target, budget, nursery.cancel_scope)

    async def _pump(self, source: Any, target: Any, budget: _Budget, end: trio.CancelScope) -> None:
        try:
            while budget.left > 0:
                data = await read_some(source, _READ_BYTES)
                if not data:
                    break
                budget.left -= len(data)
                pause = self._bytes.owe(len(data))
                if pause > 0:
                    await trio.sleep(pause)
                await write_patiently(target, data, self._config.stall_s)
        except StreamFailed as error:
            logger.debug("a circuit: %s", describe(error))
        end.cancel()


async def _say(stream: Any, status: Any) -> None:
    try:
        await write_message(stream, HopMessage(type=HopMessage.STATUS, status=status))
        await finish(stream)
    except StreamFailed as error:
        logger.debug("an answer: %s", describe(error))
