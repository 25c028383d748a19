"""Being reached through relays, and reaching others through them: circuit relay v2, the ends' part.

A circuit becomes a connection like any other: the same handshake proves who is there, and the same
admission and bans apply.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage

from p2pfleet.adapters.network.addresses import CIRCUIT, endpoint, parse_dialable, with_peer
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused, reset_quietly
from p2pfleet.adapters.network.guard.admission import Admission
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.nat.circuit import (
    HOP,
    STOP,
    Refused,
    circuit_connection,
    finish,
    read_message,
    relayed,
    remote_endpoint,
    write_message,
)
from p2pfleet.adapters.network.streams import StreamFailed, TooLong, open_stream
from p2pfleet.core.model.ids import PeerId

logger = logging.getLogger(__name__)

_RELAYS = 2
_KEEP_EVERY_S = 5.0
_ASK_AGAIN_S = 60.0
_RENEW_S = 120.0


class Circuits:
    """The ways to this node through relays, and from it through the relays of others."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        admission: Admission,
        relays: Callable[[], list[PeerId]],
        needed: Callable[[], bool],
        changed: Callable[[], None],
        arrived: Callable[[Any], None],
        protect: Callable[[Any], Any],
    ) -> None:
        self._config = config
        self._host = host
        self._swarm = host.get_network()
        self._admission = admission
        self._relays = relays
        self._needed = needed
        self._changed = changed
        self._arrived = arrived
        self._protect = protect
        self._reserved: dict[PeerId, tuple[float, str]] = {}
        self._refused: dict[PeerId, float] = {}
        admission.dial_circuit = self.dial
        host.set_stream_handler(STOP, self.serve)

    def addresses(self) -> list[str]:
        """The ways to this node through relays, without its own id."""
        return [f"{way}{CIRCUIT}" for _, way in self._reserved.values()]

    # ---- places on relays --------------------------------------------------------------------

    async def keep_places(self) -> None:
        """Hold places on relays for as long as they are needed, for ever."""
        while True:
            await trio.sleep(_KEEP_EVERY_S * random.uniform(0.8, 1.2))  # noqa: S311
            before = self.addresses()
            try:
                await self._keep()
            except Exception as error:
                logger.debug("places on relays: %s", describe(error))
            if self.addresses() != before:
                self._changed()

    async def _keep(self) -> None:
        now = trio.current_time()
        for relay, (until, _) in list(self._reserved.items()):
            connected = self._direct(relay) is not None
            if not connected or not self._needed() or until < now:
                del self._reserved[relay]
            elif until - now < _RENEW_S:
                await self._reserve(relay)
        if not self._needed():
            return
        self._refused = {one: at for one, at in self._refused.items() if at + _ASK_AGAIN_S > now}
        asked = [*self._reserved, *self._refused]
        candidates = [one for one in self._relays() if one not in asked]
        random.shuffle(candidates)
        for relay in candidates[:4]:
            if len(self._reserved) >= _RELAYS:
                return
            if not await self._reserve(relay):
                self._refused[relay] = trio.current_time()

    def _direct(self, peer: PeerId) -> Any:
        """A connection to ``peer`` that this node dialled: so others may dial the same address."""
        for connection in self._swarm.get_connections(library_id(peer)):
            outbound = connection.direction.name == "OUTBOUND"
            if not connection.is_closed and outbound and not relayed(connection):
                return connection
        return None

    async def _reserve(self, relay: PeerId) -> bool:
        connection = self._direct(relay)
        remote = None if connection is None else remote_endpoint(connection)
        if remote is None:
            return False
        stream = None
        try:
            stream = await open_stream(self._host, library_id(relay), HOP, self._config.negotiate_s)
            await write_message(stream, HopMessage(type=HopMessage.RESERVE))
            answer = await read_message(stream, HopMessage)
        except (StreamFailed, TooLong, Refused) as error:
            logger.debug("asking for a place: %s", describe(error))
            return False
        finally:
            if stream is not None:
                await reset_quietly(stream)
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            return False
        # By its own clock it tells when it ends; nobody needs to be believed for a day.
        seconds = min(max(answer.reservation.expire - time.time(), 60.0), 3600.0)
        way = with_peer(endpoint(*remote), relay)
        self._reserved[relay] = trio.current_time() + seconds, way
        return True

    # ---- connections -------------------------------------------------------------------------

    async def dial(self, identity: Any, address: Any) -> None:
        """Reach a peer through the relay in ``address``, to which a connection stands.

        Raises :class:`StreamFailed`, :class:`Refused` or what the library raises.
        """
        relay = parse_dialable(str(address).partition(CIRCUIT)[0])
        if relay is None:
            raise Refused("no relay in the address")
        stream = await open_stream(self._host, library_id(relay[0]), HOP, self._config.negotiate_s)
        try:
            ask = HopMessage(type=HopMessage.CONNECT)
            ask.peer.id = identity.to_bytes()
            await write_message(stream, ask)
            answer = await read_message(stream, HopMessage, self._config.negotiate_s)
            if answer.type != HopMessage.STATUS or answer.status != Status.OK:
                raise Refused(f"the relay said {answer.status}")
            way = f"{with_peer(relay[1], relay[0])}{CIRCUIT}"
            raw = circuit_connection(stream, way, True, self._config.stall_s)
            await self._swarm.upgrade_outbound_raw_conn(self._protect(raw), identity)
        except BaseException:
            await reset_quietly(stream)
            raise

    async def serve(self, stream: Any) -> None:
        """The stream handler of relays that bring somebody."""
        relay = peer_of(stream.muxed_conn.peer_id)
        place = None if relay is None else self._reserved.get(relay)
        try:
            ask = await read_message(stream, StopMessage)
            source = ID(ask.peer.id)
            reason = self._admission.ban(source)
            if ask.type != StopMessage.CONNECT or place is None:
                reason = "nobody asked for it"
            if reason is not None:
                refused(source, f"through a relay: {reason}")
                status = StopMessage(type=StopMessage.STATUS, status=Status.PERMISSION_DENIED)
                await write_message(stream, status)
                await finish(stream)
                return
            assert place is not None
            await write_message(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
            way = place[1] + CIRCUIT
            raw = circuit_connection(stream, way, False, self._config.stall_s)
            await self._admission.inbound_circuit(self._protect(raw), way, self._arrived)
        except (StreamFailed, TooLong, Refused, ValueError) as error:
            logger.debug("somebody through a relay: %s", describe(error))
        finally:
            await reset_quietly(stream)
