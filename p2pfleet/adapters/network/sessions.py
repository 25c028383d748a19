"""The message streams: one session a peer, from the first connection to the last.

A peer is one of ours when both sides opened a stream of the frames protocol; only then is it
reported, and until its ``Disconnected`` everything it sends lies between the two events. A full
node lets newcomers in as visitors: they get no session, may use the DHT, and are sent away.

Delivery is in order. When a stream fails while the connection stands, the messages of the last
write are repeated on a new stream, so that a message may arrive twice, but is lost only with the
connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import trio

from p2pfleet.adapters.network.addresses import CIRCUIT, is_relayed, with_peer
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import Tasks, describe, refused, reset_quietly
from p2pfleet.adapters.network.guard.holding import Holding
from p2pfleet.adapters.network.guard.places import Budget, Places
from p2pfleet.adapters.network.identity import library_id, peer_of
from p2pfleet.adapters.network.streams import (
    SendQueue,
    StreamFailed,
    TooLong,
    open_stream,
    read_messages,
    read_some,
    write_patiently,
)
from p2pfleet.core.errors import Reject, Verdict
from p2pfleet.core.model.ids import PeerId, short_peer
from p2pfleet.core.wire.names import FRAME_PROTOCOL, MAX_MESSAGE_BYTES
from p2pfleet.ports import Connected, Disconnected, NetworkEvent, PeerGone, Received

logger = logging.getLogger(__name__)

_WRITE_FAILURES = 6


class _Reader:
    """One inbound stream that is being read."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()


class Session:
    """One peer, as long as at least one connection to it stands."""

    def __init__(self, peer: PeerId, config: NetworkConfig) -> None:
        self.peer = peer
        self.since = trio.current_time()
        self.identity = library_id(peer)
        self.queue = SendQueue(config.send_queue_messages, config.send_queue_bytes)
        self.outgoing = trio.Event()
        self.incoming = trio.Event()
        self.open = trio.Event()
        self.gone = trio.Event()
        self.ended = trio.Event()
        self.settled = trio.Event()
        self.reader: _Reader | None = None
        self.event: Connected | None = None
        self.strange = False
        self.leaves = False
        self.written = 0


class Sessions:
    """All sessions, and the stream handler of the frames protocol."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        tasks: Tasks,
        events: trio.MemorySendChannel[NetworkEvent],
        report: Callable[[PeerId, Verdict], None],
        opened: Callable[[PeerId], None],
        ended: Callable[[PeerId, bool], None],
        places: Places,
        useless: Budget,
        holding: Holding,
        makes_room: Callable[[PeerId, Sequence[Session]], PeerId | None],
    ) -> None:
        self._makes_room = makes_room
        self._waiting: set[PeerId] = set()
        self._config = config
        self._messages = Budget(places, config.messages_per_s, config.messages_per_s * 2)
        self._bytes = Budget(places, config.message_bytes_per_s, config.message_bytes_per_s)
        self._useless = useless
        self._holding = holding
        self._host = host
        self._tasks = tasks
        self._events = events
        self._report = report
        self._opened = opened
        self._ended = ended
        self._sessions: dict[PeerId, Session] = {}

    def peers(self) -> tuple[Connected, ...]:
        """The peers that are reported as connected now, sorted."""
        found = [
            session.event
            for session in self._sessions.values()
            if session.event is not None and not session.gone.is_set()
        ]
        return tuple(sorted(found, key=lambda one: one.peer))

    def speaks_with(self, peer: PeerId) -> bool:
        """Whether ``peer`` is reported as connected now."""
        session = self._sessions.get(peer)
        return session is not None and session.event is not None and not session.gone.is_set()

    def dialled(self, peer: PeerId) -> bool:
        """Whether this node opened a connection to ``peer`` that stands."""
        return any(c.direction.name == "OUTBOUND" for c in self._connections(library_id(peer)))

    def __len__(self) -> int:
        return len(self._sessions)

    def has(self, peer: PeerId) -> bool:
        """Whether ``peer`` has a session, reported or about to be."""
        return peer in self._sessions

    def _connections(self, identity: Any) -> list[Any]:
        return [c for c in self._host.get_network().get_connections(identity) if not c.is_closed]

    def connected(self, peer: PeerId) -> None:
        """A connection to ``peer`` stands."""
        if self._session(peer) is not None or self.has(peer) or peer in self._waiting:
            return
        other = self._makes_room(peer, [one for one in self._sessions.values() if not one.leaves])
        if other is None:
            self._tasks.start_soon(self._send_away, library_id(peer))
            return
        self._waiting.add(peer)
        self._tasks.start_soon(self._displace, self._sessions[other], peer)

    async def _displace(self, session: Session, newcomer: PeerId) -> None:
        """All places are taken: part from one peer in favour of another."""
        logger.debug("%s makes room for %s", short_peer(session.peer), short_peer(newcomer))
        session.leaves = True
        try:
            await self.close(session.identity)
            with trio.move_on_after(self._config.greeting_s):
                await session.ended.wait()
        finally:
            session.leaves = False
            self._waiting.discard(newcomer)
        if self._connections(library_id(newcomer)):
            self.connected(newcomer)

    def _session(self, peer: PeerId) -> Session | None:
        """The session of a connected peer: a new one if there is none and there is room."""
        session = self._sessions.get(peer)
        if session is not None:
            return None if session.gone.is_set() else session
        if len(self._sessions) >= self._config.max_peers:
            return None
        session = self._sessions[peer] = Session(peer, self._config)
        self._tasks.start_soon(self._run, session)
        return session

    def disconnected(self, peer: PeerId) -> None:
        """A connection to ``peer`` is gone; perhaps the last."""
        session = self._sessions.get(peer)
        if session is None:
            return
        if not self._connections(session.identity) or self._has_moved(session):
            # Who comes from elsewhere now is reported anew, from there.
            session.gone.set()

    def _has_moved(self, session: Session) -> bool:
        if session.event is None or not session.open.is_set():
            return False
        place = _place(session.event.address)
        return all(_place(str(one)) != place for one in self._addresses(session))

    async def settled(self, peer: PeerId) -> None:
        """Wait until it is known whether ``peer`` is one of ours."""
        session = self._sessions.get(peer)
        if session is not None:
            await session.settled.wait()

    async def send(self, peer: PeerId, data: bytes) -> None:
        """Queue one message. Raises :class:`PeerGone`."""
        assert 0 < len(data) <= MAX_MESSAGE_BYTES
        session = self._sessions.get(peer)
        if session is None or session.event is None or session.gone.is_set():
            raise PeerGone(f"{short_peer(peer)} is not connected")
        if not self._holding.admits(session.identity.to_bytes(), len(data)):
            self._tasks.start_soon(self.close, session.identity)
            raise PeerGone(f"{short_peer(peer)} lets too much wait for it")
        with trio.move_on_after(self._config.send_patience_s):
            await session.queue.put(data)
            return
        raise PeerGone(f"{short_peer(peer)} has taken nothing for a while")

    # ---- the life of a session ---------------------------------------------------------------

    async def _run(self, session: Session) -> None:
        key = session.identity.to_bytes()
        self._holding.watch(key, session, lambda: session.queue.size)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, session)
                nursery.start_soon(self._watch, session, nursery.cancel_scope)
                with trio.move_on_after(self._config.greeting_s) as greeting:
                    await session.outgoing.wait()
                    await session.incoming.wait()
                if greeting.cancelled_caught:
                    logger.debug("%s does not speak with us", short_peer(session.peer))
                    session.strange = True
                    nursery.cancel_scope.cancel()
                else:
                    session.event = Connected(session.peer, self._address(session))
                    await self._events.send(session.event)
                    session.open.set()
                    session.settled.set()
                    self._opened(session.peer)
        except Exception as error:
            logger.debug("session with %s: %s", short_peer(session.peer), describe(error))
        self._holding.forget(key, session)
        await self._end(session)

    async def _watch(self, session: Session, scope: trio.CancelScope) -> None:
        await session.gone.wait()
        if session.event is None or session.open.is_set():
            scope.cancel()
            return
        # Connected is on its way into a full channel; it has to come before Disconnected.
        await session.open.wait()
        scope.cancel()

    async def _end(self, session: Session) -> None:
        session.gone.set()
        if session.reader is not None:
            session.reader.scope.cancel()
            await session.reader.done.wait()
        if session.event is not None:
            await self._events.send(Disconnected(session.peer))
        del self._sessions[session.peer]
        session.ended.set()
        session.settled.set()
        self._ended(session.peer, session.event is not None)
        if self._connections(session.identity):
            if session.strange:
                self._tasks.start_soon(self._send_away, session.identity)
            else:
                self.connected(session.peer)

    async def _send_away(self, identity: Any) -> None:
        """Not one of ours: it may ask the DHT for a while."""
        await trio.sleep(self._config.visit_s)
        peer = peer_of(identity)
        if peer is None or not self.has(peer):
            await self.close(identity)

    async def close(self, identity: Any) -> None:
        """Close every connection to a peer."""
        for connection in self._connections(identity):
            await connection.close()

    def _address(self, session: Session) -> str:
        return with_peer(str(next(iter(self._addresses(session)), "")), session.peer)

    def _addresses(self, session: Session) -> list[Any]:
        return [
            address
            for connection in self._connections(session.identity)
            for address in connection.get_transport_addresses()
        ]

    # ---- outgoing ----------------------------------------------------------------------------

    async def _write(self, session: Session) -> None:
        failures = 0
        while failures < _WRITE_FAILURES:
            try:
                stream = await open_stream(
                    self._host, session.identity, FRAME_PROTOCOL, self._config.negotiate_s
                )
            except StreamFailed as error:
                logger.debug("to %s: %s", short_peer(session.peer), error)
                failures += 1
                await trio.sleep(min(0.1 * 2**failures, 2.0))
                continue
            session.outgoing.set()
            before = session.written
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._notice_end, stream, nursery.cancel_scope)
                await self._write_on(session, stream)
                nursery.cancel_scope.cancel()
            await reset_quietly(stream)
            failures = failures + 1 if session.written == before else 0
            await trio.sleep(min(0.1 * 2**failures, 2.0))
        if session.event is not None:
            # A peer that takes connections but no messages is as good as gone.
            await self.close(session.identity)
            session.gone.set()

    async def _write_on(self, session: Session, stream: Any) -> None:
        """Write what is queued, until the stream fails."""
        try:
            while True:
                count, framed = await session.queue.batch()
                await write_patiently(stream, framed, self._config.stall_s)
                session.queue.done(count)
                session.written += count
        except StreamFailed as error:
            logger.debug("to %s: %s", short_peer(session.peer), error)

    async def _notice_end(self, stream: Any, writing: trio.CancelScope) -> None:
        """The other side never writes here: whatever can be read is the end of the stream."""
        try:
            await read_some(stream, 1)
        except StreamFailed as error:
            logger.debug("frames stream: %s", error)
        writing.cancel()

    # ---- incoming ----------------------------------------------------------------------------

    async def serve(self, stream: Any) -> None:
        """The stream handler of the frames protocol."""
        identity = stream.muxed_conn.peer_id
        peer = peer_of(identity)
        session = None if peer is None else await self._awaited(peer, stream)
        if session is None:
            refused(identity, "no room for another peer")
            await reset_quietly(stream)
            return
        previous, reader = session.reader, _Reader()
        session.reader = reader
        try:
            if previous is not None:
                previous.scope.cancel()
                await previous.done.wait()
            with reader.scope:
                await self._read(session, stream)
        finally:
            reader.done.set()
            await reset_quietly(stream)

    async def _awaited(self, peer: PeerId, stream: Any) -> Session | None:
        """The session that a stream belongs to.

        A stream may come before the notice of its connection, or while the last session with the
        same peer is ending.
        """
        with trio.move_on_after(self._config.greeting_s):
            pause = 0.002
            while not stream.swarm_conn.is_closed:
                session = self._sessions.get(peer)
                if session is not None and not session.gone.is_set():
                    return session
                if session is not None:
                    await session.ended.wait()
                elif len(self._sessions) >= self._config.max_peers and peer not in self._waiting:
                    return None
                await trio.sleep(pause)
                pause = min(pause * 2, 0.1)
        return None

    async def _read(self, session: Session, stream: Any) -> None:
        session.incoming.set()
        await session.open.wait()
        key = session.identity.to_bytes()
        try:
            async for messages in read_messages(
                stream,
                MAX_MESSAGE_BYTES,
                self._messages[key],
                self._bytes[key],
                self._useless[key],
            ):
                for message in messages:
                    # Readers wait here in a queue, with one message each: whoever sends more than
                    # others does not come more often than they do.
                    await self._events.send(Received(session.peer, message))
        except TooLong as error:
            refused(session.identity, str(error))
            self._report(session.peer, Reject(str(error)))
        except StreamFailed as error:
            logger.debug("from %s: %s", short_peer(session.peer), error)


def _place(address: str) -> str:
    """The machine in an address, without the port; of a relayed one the way there."""
    return address.partition("/tcp/")[0] + (CIRCUIT if is_relayed(address) else "")
