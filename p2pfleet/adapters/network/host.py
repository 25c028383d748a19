"""The libp2p host of one node: where the parts of this package meet."""

from __future__ import annotations

import logging
import socket as stdlib_socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_exchange_pair
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2pfleet.adapters.network import muxer
from p2pfleet.adapters.network.addresses import (
    endpoint,
    expand,
    is_relayed,
    on_loopback,
    parse_announced,
    parse_listen,
    usable,
)
from p2pfleet.adapters.network.bulk.carriers import Blobs
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import (
    StreamGuard,
    Tasks,
    TimedHandler,
    contain_tasks,
    describe,
    shielded,
)
from p2pfleet.adapters.network.discovery.acquaintances import Acquaintances
from p2pfleet.adapters.network.discovery.attending import Attending
from p2pfleet.adapters.network.discovery.dht import Rendezvous
from p2pfleet.adapters.network.discovery.lan import Lan
from p2pfleet.adapters.network.discovery.peers import Dialler
from p2pfleet.adapters.network.gossip import Announcements
from p2pfleet.adapters.network.guard.admission import (
    MAX_CONNECTIONS_PER_PEER,
    Admission,
    connect_quickly,
)
from p2pfleet.adapters.network.guard.bans import Bans
from p2pfleet.adapters.network.guard.holding import Holding
from p2pfleet.adapters.network.guard.members import Door
from p2pfleet.adapters.network.guard.places import Budget, Places
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.nat.circuit import remote_endpoint
from p2pfleet.adapters.network.nat.parts import Nat
from p2pfleet.adapters.network.nat.whereabouts import local_host, own_interfaces, watch_addresses
from p2pfleet.adapters.network.sessions import Session, Sessions
from p2pfleet.core.effects import Want
from p2pfleet.core.errors import Accept, P2pfleetError, Reject, Verdict
from p2pfleet.core.model.ids import NetworkId, PeerId, short_peer
from p2pfleet.core.wire.names import FRAME_PROTOCOL, announcements_topic
from p2pfleet.ports import (
    AddressBook,
    Ban,
    BanBook,
    BlobGate,
    BlobReader,
    Bulk,
    Clock,
    Connected,
    MemberGate,
    Moved,
    NetworkEvent,
    RecordRule,
    Refused,
    Validator,
)

logger = logging.getLogger(__name__)

CLOSE_S = 1.5
LEAVE_S = 1.0
_TIMED = {"/ipfs/id/1.0.0": 15.0, "/ipfs/id/push/1.0.0": 15.0, "/ipfs/ping/1.0.0": 600.0}


class _Notices(INotifee):  # type: ignore[misc]
    """Passes the swarm's connection notices on."""

    def __init__(self, owner: Host) -> None:
        self._owner = owner

    async def connected(self, network: Any, conn: Any) -> None:
        self._owner.connection_opened(conn)

    async def disconnected(self, network: Any, conn: Any) -> None: ...

    async def opened_stream(self, network: Any, stream: Any) -> None: ...

    async def closed_stream(self, network: Any, stream: Any) -> None: ...

    async def listen(self, network: Any, multiaddr: Any) -> None: ...

    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


class Host:
    """One node in one network: the ``Network`` port, and ``Bulk`` as :attr:`bulk`."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        seed: bytes,
        network: NetworkId,
        validator: Validator,
        addresses: AddressBook,
        blobs: BlobReader,
        may_fetch: BlobGate,
        clock: Clock,
        tasks: Tasks,
        gate: MemberGate | None = None,
        swarm_key: bytes | None = None,
        records: RecordRule | None = None,
        bans: BanBook | None = None,
    ) -> None:
        self._config = config
        self._tasks = tasks
        self._listen = [parse_listen(text) for text in config.listen]
        self._announced = [parse_announced(text) for text in config.announce]
        self._send, self._events = trio.open_memory_channel[NetworkEvent](config.events)
        self._bans = Bans(clock, config, bans, self._own_ips)
        self._places = Places(config)
        self._useless = Budget(self._places, config.useless_per_s, config.useless_burst)
        self._holding = Holding(config, self._part)
        self._door = Door(gate, swarm_key)
        self._watched: frozenset[PeerId] = frozenset()
        pair = create_new_key_pair(seed)
        acquaintances = Acquaintances()
        limit = (config.max_peers + config.visitors) * MAX_CONNECTIONS_PER_PEER + 8
        self._host = new_host(
            key_pair=pair,
            listen_addrs=self._listen,
            sec_opt={NOISE: self._door.noise(pair, create_new_exchange_pair().private_key)},
            muxer_opt={muxer.PROTOCOL: muxer.bounded_yamux(config, self._holding)},
            peerstore_opt=acquaintances,
            connection_config=ConnectionConfig(
                max_connections=limit,
                min_connections=0,
                low_watermark=0,
                high_watermark=limit,
                max_connections_per_peer=MAX_CONNECTIONS_PER_PEER + 1,
                inbound_upgrade_timeout=config.handshake_s,
                outbound_upgrade_timeout=config.dial_s,
                inbound_stream_protocol_negotiation_timeout=config.negotiate_s,
                outbound_stream_protocol_negotiation_timeout=config.negotiate_s,
            ),
            # What strangers claim to see us as is not worth more than their other claims.
            disable_identify_address_discovery=True,
        )
        swarm = self._swarm = self._host.get_network()
        me = peer_of(self._host.get_id())
        assert me is not None
        self.peer = me
        acquaintances.keep = lambda identity: identity in swarm.connections
        self._take_over(swarm)
        self._admission = Admission(config, swarm, me, self._bans, self._door)
        self._sessions = Sessions(
            config,
            self._host,
            tasks,
            self._send,
            self.report,
            self._session_opened,
            self._session_ended,
            self._places,
            self._useless,
            self._holding,
            self._makes_room,
        )
        self._dialler = Dialler(
            config, swarm, me, addresses, clock, self._sessions, self._admission
        )
        self._rendezvous = Rendezvous(
            config,
            self._host,
            network,
            self._sessions.__len__,
            self._dialler.learn,
            self.report,
            records,
        )
        self._attending = Attending(
            config,
            self._rendezvous,
            self._sessions.has,
            self._sessions.dialled,
            self._dialler.seek,
        )
        self._nat = Nat(
            config,
            self._host,
            self._admission,
            self._sessions,
            tasks,
            lambda: expand(self._host.get_transport_addrs()),
            lambda: tasks.start_soon(self._say_where),
            self._door.protected,
        )
        self._host.get_addrs = self._own_addresses
        self._lan = Lan(network, me, lambda: self.addresses, self._dialler.learn)
        self._gossip = Announcements(
            config,
            self._host,
            announcements_topic(network),
            validator,
            clock,
            self._send,
            self.report,
            lambda: [library_id(one.peer) for one in self._sessions.peers()],
            self._places,
            self._useless,
            self._bans.rejects,
        )
        self._blobs = Blobs(
            config, network, self._host, me, pair.private_key.sign, blobs, may_fetch, self.report
        )
        self._host.set_stream_handler(FRAME_PROTOCOL, self._sessions.serve)
        for protocol, seconds in _TIMED.items():
            handler = self._host.multiselect.handlers[protocol]
            self._host.set_stream_handler(
                protocol, TimedHandler(protocol, handler, seconds, at_once=4)
            )
        swarm.register_notifee(_Notices(self))

    def _take_over(self, swarm: Any) -> None:
        """Switch off what the library decides by itself about connections."""
        muxer.use_own_muxer(swarm)
        swarm.retry_config = RetryConfig(max_retries=0)
        connect_quickly(swarm, self._config.connect_s, self._door)
        # Its resource manager counts what ends abnormally for ever; admission and the stream
        # guard bound the same things.
        swarm.set_resource_manager(None)
        swarm.auto_connector.maybe_connect = _nothing
        swarm.auto_connector.run_background_task = _nothing
        # The library's notice comes a tenth of a second late, perhaps after the next connection.
        remove = swarm.remove_conn

        def removed(conn: Any) -> None:
            remove(conn)
            self.connection_closed(conn)

        swarm.remove_conn = removed
        swarm.set_stream_handler(
            StreamGuard(self._config, swarm.common_stream_handler, self._places, self.report)
        )

    # ---- Network -----------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[str, ...]:
        """Own listening multiaddresses, each ending in ``/p2p/<peer id>``."""
        return tuple(str(one) for one in self._own_addresses())

    def _own_addresses(self) -> list[Any]:
        """The same as the library has them, which would cut a way through a relay at the relay."""
        mine = f"/p2p/{self._host.get_id()}"
        listening = self._announced or expand(self._host.get_transport_addrs())
        near = [one for one in listening if on_loopback(one)]
        # Ways around a router stand before what only helps on this machine.
        ways = [*(one for one in listening if one not in near), *self._nat.addresses(), *near]
        return [one.encapsulate(Multiaddr(mine)) for one in ways]

    @property
    def events(self) -> trio.MemoryReceiveChannel[NetworkEvent]:
        """What happens, in order."""
        return self._events

    @property
    def bulk(self) -> Bulk:
        """Blobs, over the same connections."""
        return self._blobs

    def peers(self) -> tuple[Connected, ...]:
        """The peers connected now, sorted."""
        return self._sessions.peers()

    async def send(self, peer: PeerId, data: bytes) -> None:
        """Queue one message. Raises :class:`PeerGone`."""
        await self._sessions.send(peer, data)

    async def announce(self, data: bytes) -> None:
        """Gossip one announcement. Lossy."""
        await self._gossip.publish(data)

    @property
    def refused(self) -> Mapping[str, int]:
        """How often strangers were refused while hands were shaken, by reason."""
        return dict(self._door.refused)

    def leave(self, peer: PeerId) -> None:
        """Part from ``peer`` when what is queued for it has left, and refuse it for a while."""
        self._bans.hold_off(peer)
        self._tasks.start_soon(self._leave, library_id(peer))

    async def _leave(self, identity: Any) -> None:
        await trio.sleep(LEAVE_S)
        await self._sessions.close(identity)

    def reconsider(self) -> None:
        """Who belongs to the closed network has changed: part from the others, dial the new."""
        for identity in list(self._swarm.connections):
            if not self._door.admits(identity):
                self._door.turn_away(identity)
                # Not before it has heard why.
                self._tasks.start_soon(self._leave, identity)
        self._dialler.wake()

    async def put_record(self, key: str, data: bytes) -> bool:
        """Store a value under a key of the DHT; whether anybody took it."""
        return await self._rendezvous.put_record(key, data)

    async def get_record(self, key: str) -> bytes | None:
        """The best value that the DHT has for a key."""
        return await self._rendezvous.get_record(key)

    def hold_off(self, alone: bool) -> None:
        """Part from everybody and meet nobody, until told otherwise."""
        self._admission.alone = alone
        if alone:
            for identity in list(self._swarm.connections):
                self._tasks.start_soon(self._sessions.close, identity)
        else:
            self._dialler.wake()

    def attend(self, wants: Sequence[Want]) -> None:
        """Be connected with those who provide these keys, as far as they are found."""
        self._attending.attend(wants)

    def watch(self, peers: Sequence[PeerId]) -> None:
        """Notice within ``silence_s`` when one of these stops."""
        self._watched = frozenset(peers)
        for identity, connections in list(self._swarm.connections.items()):
            for connection in connections:
                connection.muxed_conn.watch(peer_of(identity) in self._watched)

    def report(self, peer: PeerId, verdict: Verdict) -> None:
        """Tell what a message of ``peer`` turned out to be."""
        if isinstance(verdict, Accept) or peer == self.peer:
            return
        key = library_id(peer).to_bytes()
        self._useless[key].owe(1)
        if not isinstance(verdict, Reject):
            return
        logger.debug("reject of %s: %s", short_peer(peer), verdict.reason)
        if self._bans.reject(peer, verdict, self._places.of(key)):
            logger.info("banned %s: %s", short_peer(peer), verdict.reason)
            self._part(key)
            self._tasks.start_soon(self._send.send, Refused(peer, self._bans.left_ms(peer)))

    def bans(self) -> tuple[Ban, ...]:
        """Whom this node refuses now, the newest first."""
        return self._bans.running()

    def unban(self, who: PeerId | str) -> bool:
        """Lift the ban of a peer or an address; whether there was one."""
        lifted = self._bans.lift(who)
        if lifted:
            self._dialler.wake()
            if not isinstance(who, str):
                self._tasks.start_soon(self._send.send, Refused(who, 0))
        return lifted

    def _part(self, key: bytes) -> None:
        """Close every connection to the peer with this library id."""
        self._tasks.start_soon(self._sessions.close, ID(key))

    def _own_ips(self) -> list[str]:
        told = [str(one) for one in self._own_addresses() if not is_relayed(one)]
        listening = [one.split("/")[2] for one in told]
        return [*listening, *(one.split("/")[2] for one in self._config.announce)]

    # ---- connections -------------------------------------------------------------------------

    def connection_opened(self, conn: Any) -> None:
        """The swarm has a new connection."""
        peer = peer_of(conn.muxed_conn.peer_id)
        if peer is None:
            return
        conn.muxed_conn.watch(peer in self._watched)
        self._places.connected(conn.muxed_conn)
        self._sessions.connected(peer)
        self._tasks.start_soon(self._introduce, peer, conn)

    async def _introduce(self, peer: PeerId, conn: Any) -> None:
        try:
            dialled = None
            if conn.direction.name == "OUTBOUND":
                remote = remote_endpoint(conn)
                dialled = None if remote is None else endpoint(*remote)
                if dialled is not None and self._nat.punching.was_punched(dialled):
                    dialled = None
            await self._dialler.connected(peer, dialled)
            listening = await self._listening(peer, conn, dialled)
            await self._rendezvous.connected(peer, listening)
            await self._sessions.settled(peer)
            if dialled is None and self._sessions.speaks_with(peer):
                await self._dialler.told(peer, [text for one in listening if (text := usable(one))])
        except Exception as error:
            logger.debug("introducing %s: %s", short_peer(peer), describe(error))

    async def _listening(self, peer: PeerId, conn: Any, dialled: str | None) -> list[Any]:
        """Where ``peer`` can be dialled: what we dialled, or what identify tells in a while."""
        if dialled is not None:
            return [Multiaddr(dialled)]
        identity = conn.muxed_conn.peer_id
        for pause in (0.1, 0.2, 0.5, 1.0, 2.0):
            await trio.sleep(pause)
            store = self._host.get_peerstore()
            if store.has_peer(identity) and (found := _known_addresses(store, identity)):
                return found
        return []

    def connection_closed(self, conn: Any) -> None:
        """The swarm lost a connection."""
        peer = peer_of(conn.muxed_conn.peer_id)
        if peer is not None:
            self._places.disconnected(conn.muxed_conn)
            self._blobs.disconnected(peer)
            self._sessions.disconnected(peer)

    def _makes_room(self, newcomer: PeerId, here: Sequence[Session]) -> PeerId | None:
        return self._attending.makes_room(newcomer, here)

    def _session_opened(self, peer: PeerId) -> None:
        self._dialler.opened(peer)

    def _session_ended(self, peer: PeerId, was_ours: bool) -> None:
        self._dialler.ended(peer, was_ours)
        if not self._bans.banned(peer):  # who was thrown out need not be made up for at once
            self._rendezvous.lost()

    # ---- life --------------------------------------------------------------------------------

    async def run(self, stop: trio.Event, started: Callable[[], None]) -> None:
        """Listen and serve until ``stop``; then close everything, within two seconds.

        Raises :class:`P2pfleetError` when an address cannot be listened on.
        """
        async with AsyncExitStack() as stack:
            manager = await stack.enter_async_context(background_trio_service(self._swarm))
            contain_tasks(manager)
            stack.push_async_callback(self._close)
            await self._bind()
            await self._blobs.start([str(one).split("/")[2] for one in self._listen], self._tasks)
            await self._bans.load()
            for ban in self._bans.running():
                if ban.peer is not None:
                    told = Refused(ban.peer, self._bans.left_ms(ban.peer))
                    self._tasks.start_soon(self._send.send, told)
            self._tasks.start_soon(self._bans.keep)
            stack.push_async_callback(self._bans.close)
            await self._dialler.load()
            await stack.enter_async_context(self._gossip.running())
            await stack.enter_async_context(self._rendezvous.running())
            self._tasks.start_soon(self._dial_on)
            self._tasks.start_soon(self._dialler.save_again)
            self._tasks.start_soon(self._attending.run)
            self._tasks.start_soon(watch_addresses, self._moved)
            self._nat.start()
            if self._config.mdns:
                self._tasks.start_soon(self._lan.run)
            started()
            await stop.wait()
            await self._hang_up()

    def _moved(self) -> None:
        """This machine has other addresses than before."""
        self._dialler.start_over()
        self._lan.moved()
        self._nat.moved()
        self._tasks.start_soon(self._say_where)

    async def _say_where(self) -> None:
        """Tell everybody the new addresses, and drop what hangs on the old ones."""
        here = {str(one.ip) for one in own_interfaces()}
        for conn in list(self._swarm.get_connections()):
            local = local_host(conn)
            if local is not None and local not in here and not ip_address(local).is_loopback:
                self._tasks.start_soon(_close_quietly, conn)
        await self._send.send(Moved(self.addresses))
        self._rendezvous.provide_soon()
        await self._host._push_identify_to_all_peers()

    async def _dial_on(self) -> None:
        while True:
            try:
                await self._dialler.run()
            except Exception as error:
                logger.error("dialling failed: %s", describe(error), exc_info=True)
                await trio.sleep(1.0)

    async def _bind(self) -> None:
        for address in self._listen:
            if await self._swarm.listen(address):
                continue
            raise P2pfleetError(
                f"Cannot listen on {address}: {_why_not(address)}.",
                "Stop the other program, or choose another port (0 lets the system choose).",
            )

    async def _hang_up(self) -> None:
        """Close every connection, all at once, and let no new one in."""
        self._admission.close()
        with trio.move_on_after(CLOSE_S):
            async with trio.open_nursery() as nursery:
                for connection in self._swarm.get_connections():
                    nursery.start_soon(_close_quietly, connection)

    async def _close(self) -> None:
        with shielded(CLOSE_S):
            await self._hang_up()
            await self._host.close()
        self._tasks.close()
        self._send.close()


async def _nothing(*_: Any) -> None:
    """Instead of a decision of the library."""


async def _close_quietly(connection: Any) -> None:
    try:
        await connection.close()
    except Exception as error:
        logger.debug("close failed: %s", describe(error))


def _known_addresses(store: Any, identity: Any) -> list[Any]:
    try:
        return list(store.addrs(identity))
    except Exception:  # the store's word for "expired"
        return []


def _why_not(address: Any) -> str:
    """The system's reason why an address cannot be bound, by trying."""
    text = str(address)
    host, port = text.split("/")[2], int(text.split("/")[4])
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    try:
        with stdlib_socket.socket(family) as probe:
            probe.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return error.strerror or str(error)
    return "the system refused it"
