"""From a relayed connection to a direct one: hole punching over TCP (libp2p's DCUtR).

Both sides dial each other at the same time, each from the port of its connection to the relay: the
router has a mapping for that port, which the relay has seen. The two dials become one connection
(TCP's simultaneous open). Who was called is the server in its handshake, as the specification asks.

The library's own works from the listening port, which two nodes could then share (SO_REUSEPORT),
and dials whatever the other side names, in rounds of many seconds.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import (
    CIRCUIT,
    endpoint,
    is_relayed,
    on_loopback,
    parse_dialable,
    usable,
)
from p2pfleet.adapters.network.containment import describe, refused, reset_quietly, shielded
from p2pfleet.adapters.network.guard.admission import Admission
from p2pfleet.adapters.network.guard.limits import Buckets
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.nat.circuit import (
    PUNCH,
    Refused,
    read_message,
    relayed,
    write_message,
)
from p2pfleet.adapters.network.nat.reachability import observed_by
from p2pfleet.adapters.network.nat.whereabouts import tcp_socket
from p2pfleet.adapters.network.streams import StreamFailed, TooLong, open_stream
from p2pfleet.core.model.ids import PeerId, short_peer

logger = logging.getLogger(__name__)

_MAX_ADDRESSES = 4
_WAITS_S = (1.0, 5.0, 20.0)
_ROUND_S = 6.0
_SYN_S = 3.5
_MAX_DELAY_S = 2.0
_GRACE_S = 2.0
_MAX_AT_ONCE = 4
_MAX_PUNCHED = 256


class Punching:
    """Makes relayed connections direct where the routers in between allow it."""

    def __init__(
        self,
        host: Any,
        admission: Admission,
        own: Callable[[], list[str]],
        protect: Callable[[Any], Any],
    ) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._admission = admission
        self._own = own
        self._protect = protect
        self._busy: set[PeerId] = set()
        self._punched: OrderedDict[str, None] = OrderedDict()
        self._allowed = Buckets(1 / 60, 6.0)
        host.set_stream_handler(PUNCH, self.serve)

    def _circuit(self, peer: PeerId) -> Any:
        """The relayed connection to a peer to which there is no other; else ``None``."""
        connections = [
            one for one in self._swarm.get_connections(library_id(peer)) if not one.is_closed
        ]
        if not connections or not all(map(relayed, connections)):
            return None
        return connections[-1]

    # ---- who was called ----------------------------------------------------------------------

    async def upgrade(self, peer: PeerId) -> None:
        """Try to replace a connection that came through a relay by a direct one."""
        if peer in self._busy or len(self._busy) >= _MAX_AT_ONCE:
            return
        self._busy.add(peer)
        try:
            for turn, wait in enumerate(_WAITS_S):
                await trio.sleep(wait)
                if self._circuit(peer) is None:
                    return
                try:
                    if turn > 0 or not await self._plainly(peer):
                        await self._attempt(peer)
                except (StreamFailed, TooLong, Refused) as error:
                    logger.debug("a hole to %s: %s", short_peer(peer), describe(error))
                if await self._done(peer):
                    return
        finally:
            self._busy.discard(peer)

    async def _plainly(self, peer: PeerId) -> bool:
        """Dial the addresses at which the peer says that it listens: perhaps only this node hides
        behind a router. Whether that led to a connection."""
        store = self._host.get_peerstore()
        identity = library_id(peer)
        told = store.addrs(identity) if store.has_peer(identity) else []
        near = on_loopback(_way(self._circuit(peer)))
        await self._dial_all(peer, _direct(told, near), None, server=False)
        return self._circuit(peer) is None

    async def _attempt(self, peer: PeerId) -> None:
        circuit = self._circuit(peer)
        if circuit is None:
            return
        local, told = await self._seen_at(circuit)
        stream = await open_stream(self._host, library_id(peer), PUNCH)
        try:
            began = trio.current_time()
            await write_message(stream, _connect(told))
            theirs = await read_message(stream, HolePunch)
            if theirs.type != HolePunch.CONNECT:
                raise Refused("no addresses")
            delay = min((trio.current_time() - began) / 2, _MAX_DELAY_S)
            await write_message(stream, HolePunch(type=HolePunch.SYNC))
            addresses = _addresses(theirs, circuit)
            await trio.sleep(delay)
            await self._dial_all(peer, addresses, local, server=True)
        finally:
            await reset_quietly(stream)

    async def _done(self, peer: PeerId) -> bool:
        """Whether there is a direct connection now; if so, end the relayed one."""
        connections = self._swarm.get_connections(library_id(peer))
        if all(map(relayed, connections)):
            return False
        logger.info("the connection to %s is direct now", short_peer(peer))
        await trio.sleep(_GRACE_S)
        for connection in connections:
            if relayed(connection):
                await connection.close()
        return True

    # ---- who called --------------------------------------------------------------------------

    async def serve(self, stream: Any) -> None:
        """The stream handler of the one that was called."""
        peer = peer_of(stream.muxed_conn.peer_id)
        try:
            if peer is None or not relayed(stream.swarm_conn) or peer in self._busy:
                raise Refused("no hole is needed")
            if len(self._busy) >= _MAX_AT_ONCE or not self._allowed[peer].take():
                refused(stream.muxed_conn.peer_id, "too many holes")
                return
            self._busy.add(peer)
            try:
                theirs = await read_message(stream, HolePunch)
                local, told = await self._seen_at(stream.swarm_conn)
                await write_message(stream, _connect(told))
                sync = await read_message(stream, HolePunch)
                if theirs.type != HolePunch.CONNECT or sync.type != HolePunch.SYNC:
                    raise Refused("out of turn")
                await self._dial_all(
                    peer, _addresses(theirs, stream.swarm_conn), local, server=False
                )
            finally:
                self._busy.discard(peer)
        except (StreamFailed, TooLong, Refused) as error:
            logger.debug("a hole: %s", describe(error))
        finally:
            await reset_quietly(stream)

    # ---- both --------------------------------------------------------------------------------

    async def _seen_at(self, circuit: Any) -> tuple[tuple[str, int] | None, list[str]]:
        """The own end of the connection to the relay, and the addresses to name: how the relay
        sees it, and those at which everybody can dial this node."""
        relay = parse_dialable(_way(circuit))
        told = list(self._own())
        local = None
        if relay is not None:
            for one in reversed(self._swarm.get_connections(library_id(relay[0]))):
                socket = tcp_socket(one)
                if socket is not None and not one.is_closed:
                    # Without it the kernel lets nobody dial from the same port again.
                    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                    local = socket.getsockname()[:2]
                    break
            seen = await observed_by(self._host, relay[0])
            if seen is not None:
                told.insert(0, endpoint(*seen))
        return local, list(dict.fromkeys(told))[:_MAX_ADDRESSES]

    async def _dial_all(
        self, peer: PeerId, addresses: list[str], local: tuple[str, int] | None, server: bool
    ) -> None:
        with trio.move_on_after(_ROUND_S + 6.0):
            async with trio.open_nursery() as nursery:

                async def dial(text: str) -> None:
                    if await self._dial(peer, text, local, server):
                        nursery.cancel_scope.cancel()

                for text in addresses:
                    nursery.start_soon(dial, text)

    async def _dial(
        self, peer: PeerId, text: str, source: tuple[str, int] | None, server: bool
    ) -> bool:
        """Dial an address until somebody answers or the round is over."""
        until = trio.current_time() + _ROUND_S
        while trio.current_time() < until:
            try:
                with trio.fail_after(_SYN_S):
                    stream = await _connected(text, source)
                return await self._handshake(peer, stream, text, server)
            except (OSError, trio.TooSlowError) as error:
                logger.debug("a hole at %s: %s", text, describe(error))
            if source is None:
                return False
            await trio.sleep(0.2)
        return False

    async def _handshake(self, peer: PeerId, stream: Any, text: str, server: bool) -> bool:
        raw = self._protect(RawConnection(TrioTCPStream(stream), not server))
        self._remember(text)
        try:
            if server:
                await self._swarm.upgrade_inbound_raw_conn(raw, Multiaddr(text))
            else:
                await self._swarm.upgrade_outbound_raw_conn(raw, library_id(peer))
            return True
        except Exception as error:
            logger.debug("a hole to nobody: %s", describe(error))
            return False
        except BaseException:
            with shielded(1.0):
                await raw.close()
            raise

    def _remember(self, text: str) -> None:
        self._punched[text] = None
        if len(self._punched) > _MAX_PUNCHED:
            self._punched.popitem(last=False)

    def was_punched(self, address: str) -> bool:
        """Whether an address leads through a hole: nobody else can dial it, nor this node later."""
        return address in self._punched


async def _connected(text: str, source: tuple[str, int] | None) -> trio.SocketStream:
    """Dial from a given own port. Raises :class:`OSError`."""
    _, family, host, _, port = text.split("/")
    kind = trio.socket.AF_INET6 if family == "ip6" else trio.socket.AF_INET
    sock = trio.socket.socket(kind)
    try:
        if source is not None:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await sock.bind(source)
        await sock.connect((host, int(port)))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _connect(addresses: list[str]) -> Any:
    message = HolePunch(type=HolePunch.CONNECT)
    message.ObsAddrs.extend(Multiaddr(one).to_bytes() for one in addresses)
    return message


def _way(circuit: Any) -> str:
    """The relay of a relayed connection, as a full address; empty if there is none any more."""
    addresses = [] if circuit is None else circuit.get_transport_addresses()
    return str(addresses[0]).partition(CIRCUIT)[0] if addresses else ""


def _addresses(message: Any, circuit: Any) -> list[str]:
    """What the other side names, as far as it could be dialled from here."""
    told = []
    for raw in message.ObsAddrs[: 2 * _MAX_ADDRESSES]:
        try:
            told.append(Multiaddr(raw))
        except ValueError:
            continue
    return _direct(told, on_loopback(_way(circuit)))


def _direct(addresses: list[Any], near: bool) -> list[str]:
    """Those that can be dialled from here; ``near``: on this very machine, too."""
    found = []
    for address in addresses:
        text = usable(address)
        if text is None or is_relayed(text) or not text.startswith(("/ip4/", "/ip6/")):
            continue
        if near or not on_loopback(text):
            found.append(text)
    return list(dict.fromkeys(found))[:_MAX_ADDRESSES]
