"""Who may connect: the limits on inbound sockets, handshakes, addresses and peers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import CIRCUIT, is_relayed, parse_dialable
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused, shielded
from p2pfleet.adapters.network.guard.bans import Bans
from p2pfleet.adapters.network.guard.limits import (
    Buckets,
    TokenBucket,
    address_group,
    is_loopback,
)
from p2pfleet.adapters.network.guard.members import Door
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.core.model.ids import PeerId

logger = logging.getLogger(__name__)

MAX_CONNECTIONS_PER_PEER = 2
_HANDSHAKES_PER_ADDRESS = 8
_NOBODY = "this node meets nobody now"
_SUPERSEDED_S = 3.0
_CIRCUITS = "relays"
_RETURNS_PER_S = 0.5
_RETURNS_AT_ONCE = 4.0
MAX_PAUSE_S = 4.0
"""How much later somebody is let in from where the banned come back again and again. Less than
anybody's patience with a handshake: whoever shares the address waits, but gets in."""


class _NotAdmitted(SwarmException):  # type: ignore[misc]
    """The handshake went well; the peer may not stay, which need not be its fault."""

    def __init__(self, reason: str | None, banned: bool) -> None:
        super().__init__(reason)
        self.banned = banned


class Admission:
    """The gate in front of the swarm, for both directions.

    Replaces the library's inbound path, which keeps a task and one of 250 slots for every
    connection that ever stood, so that a node stops accepting after its 250th visitor.
    """

    def __init__(
        self, config: NetworkConfig, swarm: Any, me: PeerId, bans: Bans, door: Door
    ) -> None:
        self._config = config
        self._swarm = swarm
        self._me = me
        self._bans = bans
        self._door = door
        self._inbound: Counter[str] = Counter()
        self._shaking: Counter[str] = Counter()
        self._accepts = TokenBucket(config.accepts_per_s, config.accepts_per_s * 2)
        self._accepts_from = Buckets(config.accepts_per_address_s, config.accepts_per_address_s * 8)
        self._returns = Buckets(_RETURNS_PER_S, _RETURNS_AT_ONCE)
        self.came_back = 0
        """How often somebody banned shook hands again."""
        self._adding: Counter[PeerId] = Counter()
        self._dials: dict[Any, trio.Event] = {}
        self._dialling = trio.CapacityLimiter(config.max_dials)
        self._closed = False
        self.alone = False
        self.dial_circuit: Callable[[Any, Any], Any] | None = None
        """Dials an address that leads through a relay."""
        self._add_conn: Callable[..., Any] = swarm.add_conn
        self._dial_peer: Callable[..., Any] = swarm.dial_peer
        self._upgrade: Callable[..., Any] = swarm.upgrader.upgrade_connection
        swarm.upgrader.upgrade_connection = self._upgrade_admitted
        swarm._handle_inbound_connection = self.inbound
        swarm.add_conn = self.add
        swarm.dial_peer = self.dial

    @property
    def capacity(self) -> int:
        """Peers that may be connected at once, visitors included."""
        return self._config.max_peers + self._config.visitors

    def close(self) -> None:
        """Refuse everybody from now on."""
        self._closed = True

    def _refusal_of_address(self, group: str) -> str | None:
        config = self._config
        if self._closed or self.alone:
            return _NOBODY
        if self._bans.banned(group):
            return f"{group} is banned for what its peers sent"
        local = is_loopback(group)
        limit = config.max_peers_on_loopback if local else config.max_peers_per_address
        if self._inbound[group] >= limit:
            return f"more than {limit} connections from {group}"
        if self._inbound.total() >= self.capacity * MAX_CONNECTIONS_PER_PEER:
            return "too many inbound connections"
        if self._shaking.total() >= config.max_handshakes:
            return "too many handshakes at once"
        if not local and self._shaking[group] >= _HANDSHAKES_PER_ADDRESS:
            return f"too many handshakes at once from {group}"
        return None

    async def inbound(self, socket: Any, listening: Any) -> None:
        """Serve one accepted TCP connection until it ends."""
        try:
            group = address_group(str(socket.stream.socket.getpeername()[0]))
        except OSError:
            await _close_quietly(socket)
            return
        reason = self._refusal_of_address(group)
        if reason is not None:
            refused(None, reason)
            await _close_quietly(socket)
            return
        self._inbound[group] += 1
        try:
            await trio.sleep(self._accepts.owe(1))
            if not is_loopback(group):
                await trio.sleep(self._accepts_from[group.encode()].owe(1))
            await trio.sleep(min(self._returns[group.encode()].owe(0), MAX_PAUSE_S))
            muxed = await self._shake_hands(socket, listening, group)
            if muxed is not None:
                await muxed.event_closed.wait()
        finally:
            self._inbound[group] -= 1
            if not self._inbound[group]:
                del self._inbound[group]
            await _close_quietly(socket)

    async def _shake_hands(self, socket: Any, listening: Any, group: str) -> Any:
        self._shaking[group] += 1
        try:
            with trio.fail_after(self._config.handshake_s):
                return await self._swarm.upgrade_inbound_raw_conn(
                    self._door.protected(RawConnection(socket, False)), listening
                )
        except trio.TooSlowError:
            refused(None, f"handshake from {group} took too long")
            self._bans.failed_handshake(group)
        except Exception as error:
            cause = error.__cause__ or error
            refused(None, f"handshake from {group}: {describe(cause)}")
            turned_away = next((e for e in (error, cause) if isinstance(e, _NotAdmitted)), None)
            if turned_away is None:
                self._bans.failed_handshake(group)
            elif turned_away.banned:
                self._came_back(group)
        finally:
            self._shaking[group] -= 1
            if not self._shaking[group]:
                del self._shaking[group]
        return None

    def _came_back(self, group: str) -> None:
        """Somebody banned shook hands from there: a debt that grows no larger than the pause."""
        self.came_back += 1
        returns = self._returns[group.encode()]
        if returns.owe(0) < MAX_PAUSE_S:
            returns.owe(1)

    async def _upgrade_admitted(self, secured: Any, identity: Any) -> Any:
        """The library's, which negotiates a muxer, for admitted peers only: who may not stay costs
        no more than finding out who it is."""
        self._check(identity)
        return await self._upgrade(secured, identity)

    def _check(self, identity: Any) -> None:
        """Raises :class:`_NotAdmitted`."""
        reason = self.refusal(identity)
        if reason is not None:
            refused(identity, reason)
            peer = peer_of(identity)
            # Not those who were only left for a while: that is nobody's fault.
            banned = peer is not None and self._bans.left_ms(peer) > 0
            raise _NotAdmitted(reason, banned)

    def ban(self, identity: Any) -> str | None:
        """Why a peer is banned now; ``None`` if it is not."""
        peer = peer_of(identity)
        banned = peer is not None and self._bans.banned(peer)
        return "banned, or left for a while" if banned else None

    def refusal(self, identity: Any) -> str | None:
        """Why a peer may not be connected to now; ``None`` if it may."""
        if self._closed or self.alone:
            return _NOBODY
        peer = peer_of(identity)
        if peer is None:
            return "not an Ed25519 identity"
        if peer == self._me:
            return "this node itself"
        if (ban := self.ban(identity)) is not None:
            return ban
        if not self._door.admits(identity):
            return "it does not belong to this closed network"
        if identity not in self._swarm.connections and peer not in self._adding:
            here = len(self._swarm.connections) + len(self._adding)
            if here >= self.capacity:
                return f"{here} peers are connected already"
        return None

    async def add(self, muxed: Any, direction: str = "unknown") -> Any:
        """The swarm's ``add_conn``, for admitted peers only."""
        identity = muxed.peer_id
        try:
            self._check(identity)
        except _NotAdmitted:
            await muxed.close()
            raise
        peer = peer_of(identity)
        assert peer is not None
        before = list(self._swarm.connections.get(identity, ()))
        self._adding[peer] += 1
        try:
            conn = await self._add_conn(muxed, direction)
        finally:
            self._adding[peer] -= 1
            if not self._adding[peer]:
                del self._adding[peer]
        if self.ban(identity) is not None:  # since a moment ago, and this one was not closed then
            self._swarm.manager.run_task(conn.close)
        # A peer that comes again may have lost the older connections without our noticing.
        for older in before[: len(before) + 1 - MAX_CONNECTIONS_PER_PEER]:
            self._swarm.manager.run_task(older.close)
        for older in before[len(before) + 1 - MAX_CONNECTIONS_PER_PEER :]:
            self._swarm.manager.run_task(older.muxed_conn.probe, _SUPERSEDED_S)
        return conn

    def dial_at_once(self, most: int) -> None:
        """How many peers may be dialled at the same time from now on."""
        self._dialling.total_tokens = most

    def dialling(self, identity: Any) -> bool:
        """Whether a peer is being dialled now."""
        return identity in self._dials

    async def dial(self, identity: Any) -> Any:
        """The swarm's ``dial_peer``, which the DHT's look-ups call by themselves, gated."""
        return await self._dial_once(identity, lambda: self._dial_peer(identity))

    async def dial_address(self, identity: Any, address: Any) -> None:
        """Dial one address of a peer, unless it is connected or being dialled.

        Raises what the library raises.
        """
        self._swarm.unblock_peer(identity)
        if not is_relayed(address):
            await self._dial_once(identity, lambda: self._swarm.dial_addr(address, identity))
            return
        relay = parse_dialable(str(address).partition(CIRCUIT)[0])
        dial_circuit = self.dial_circuit
        if relay is None or dial_circuit is None:
            raise SwarmException("connections through relays are switched off")
        # Before the place in the queue is taken, for the relay needs one as well.
        if not self._swarm.get_connections(library_id(relay[0])):
            await self.dial_address(library_id(relay[0]), Multiaddr(relay[1]))
        await self._dial_once(identity, lambda: dial_circuit(identity, address))

    async def inbound_circuit(self, raw: Any, way: Any, arrived: Callable[[Any], None]) -> None:
        """Serve one connection that came through a relay until it ends; ``arrived`` is told who it
        is once that is proven."""
        if self._closed or self._inbound[_CIRCUITS] >= self._config.max_peers:
            refused(None, "too many connections through relays")
            return
        self._inbound[_CIRCUITS] += 1
        try:
            with trio.fail_after(self._config.handshake_s):
                muxed = await self._swarm.upgrade_inbound_raw_conn(raw, way)
            arrived(muxed.peer_id)
            await muxed.event_closed.wait()
        except trio.TooSlowError:
            refused(None, "a handshake through a relay took too long")
        except SwarmException as error:
            refused(None, f"through a relay: {describe(error.__cause__ or error)}")
        finally:
            self._inbound[_CIRCUITS] -= 1
            if not self._inbound[_CIRCUITS]:
                del self._inbound[_CIRCUITS]

    async def _dial_once(self, identity: Any, dial: Callable[[], Any]) -> Any:
        while identity in self._dials:
            await self._dials[identity].wait()
        connected = self._swarm.get_connections(identity)
        if connected:
            return connected
        reason = self.refusal(identity)
        if reason is not None:
            raise SwarmException(reason)
        done = self._dials[identity] = trio.Event()
        try:
            async with self._dialling:
                with trio.fail_after(self._config.dial_s):
                    return await dial()
        except trio.TooSlowError as error:
            raise SwarmException("dialling took too long") from error
        finally:
            del self._dials[identity]
            done.set()


def connect_quickly(swarm: Any, seconds: float, door: Door) -> None:
    """Give up on an address that does not take a TCP connection within ``seconds``.

    The handshake may take longer: then somebody is there, and busy.
    """
    for transport in swarm.transport_manager.get_transports():
        transport.dial = _limited(transport.dial, seconds, door)


def _limited(dial: Callable[[Any], Any], seconds: float, door: Door) -> Callable[[Any], Any]:
    async def limited(address: Any) -> Any:
        try:
            with trio.fail_after(seconds):
                return door.protected(await dial(address))
        except trio.TooSlowError as error:
            raise OpenConnectionError("no answer") from error

    return limited


async def _close_quietly(socket: Any) -> None:
    with shielded(1.0):
        try:
            await socket.close()
        except Exception as error:
            logger.debug("close failed: %s", describe(error))
