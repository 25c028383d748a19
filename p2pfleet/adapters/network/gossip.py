"""Announcements over GossipSub 1.1: one topic, content-hash ids, nothing unchecked handed on.

Gossip is lossy and costs some ten milliseconds of CPU a delivery; it carries small, rare
announcements that are repaired by pull.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.exceptions import ParseError
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.tools.anyio_service import background_trio_service

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import contain_tasks, describe, refused
from p2pfleet.adapters.network.guard.limits import TokenBucket
from p2pfleet.adapters.network.guard.places import Budget, Places
from p2pfleet.adapters.network.guard.scoring import Score, parameters
from p2pfleet.adapters.network.identity import peer_of
from p2pfleet.core.errors import Accept, Forged, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES
from p2pfleet.ports import Announced, Clock, NetworkEvent, Validator

logger = logging.getLogger(__name__)

PROTOCOL = "/meshsub/1.1.0"
_MAX_RPC_BYTES = 128 * 1024
_READ_BYTES = 64 * 1024
_MAX_VARINT_BYTES = 4
_MAX_MESSAGES_PER_RPC = 32
_MAX_IDS_PER_RPC = 256
_MAX_WANTED = 16
_MAX_BACKOFF_S = 3600
_MAX_HEADER_BYTES = 512
_MEND_S = 15.0
_MAX_WAITING = 64
_FLOOD = 64


def message_id(message: Any) -> bytes:
    """The hash of the content: the same announcement is one message, whoever publishes it."""
    return hashlib.sha256(message.data).digest()


def next_framed(buffer: bytearray) -> bytes | None:
    """Take the first message, with its length (a varint), out of ``buffer``, if it is whole.

    Raises the library's ``ParseError`` for a length that is too large or none.
    """
    length = 0
    for at, byte in enumerate(buffer[:_MAX_VARINT_BYTES]):
        length |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            if length > _MAX_RPC_BYTES:
                raise ParseError(f"a gossip message of {length} bytes")
            end = at + 1 + length
            if len(buffer) < end:
                return None
            found = bytes(buffer[at + 1 : end])
            del buffer[:end]
            return found
    if len(buffer) >= _MAX_VARINT_BYTES:
        raise ParseError("a gossip message whose length has no end")
    return None


class _ContentCache(MessageCache):  # type: ignore[misc]
    """The library's message cache, under the ids that the rest of the router uses."""

    def put(self, msg: Any) -> None:
        mid = message_id(msg)
        if mid not in self.msgs:
            self.msgs[mid] = msg
            self.history[0].append(CacheEntry(mid, msg.topicIDs))


class _Router(GossipSub):  # type: ignore[misc]
    """The mesh, with what strangers can grow or amplify cut off."""

    fleet_topic: str
    score: Score

    async def heartbeat(self) -> None:
        while True:
            try:
                await super().heartbeat()
            except Exception as error:
                logger.debug("heartbeat: %s", describe(error))
                await trio.sleep(self.heartbeat_interval)

    async def handle_rpc(self, rpc: Any, sender_peer_id: Any) -> None:
        control = self._filtered(rpc.control, sender_peer_id)
        if control is not None:
            await super().handle_rpc(rpc_pb2.RPC(control=control), sender_peer_id)

    def _filtered(self, control: Any, sender: Any) -> Any:
        """The part of a control message that concerns our topic, within bounds."""
        topics = {one.topicID for one in (*control.ihave, *control.graft, *control.prune)}
        if topics - {self.fleet_topic}:
            refused(sender, "gossip control for a topic that is not ours")
            return None
        kept = rpc_pb2.ControlMessage()
        offered = [mid for one in control.ihave for mid in one.messageIDs]
        wanted = dict.fromkeys(mid for one in control.iwant for mid in one.messageIDs)
        if len(offered) > _MAX_IDS_PER_RPC or len(wanted) > _MAX_IDS_PER_RPC:
            refused(sender, "too many message ids")
            return None
        if offered:
            kept.ihave.add(topicID=self.fleet_topic, messageIDs=offered[:_MAX_WANTED])
        if wanted:
            kept.iwant.add(messageIDs=list(wanted)[:_MAX_WANTED])
        if control.graft:
            kept.graft.add(topicID=self.fleet_topic)
        if control.prune:
            backoff = min(control.prune[0].backoff, _MAX_BACKOFF_S)
            kept.prune.add(topicID=self.fleet_topic, backoff=backoff)
        return kept

    async def publish(self, msg_forwarder: Any, pubsub_msg: Any) -> None:
        await super().publish(msg_forwarder, pubsub_msg)
        # Only the adaptive mode, which is off, ever takes something out of this again.
        self.recent_message_deliveries.clear()

    async def _maintain_mesh_quality(self, topic: str) -> None:
        """Instead of the library's, which changes the mesh without telling peers: who sent what
        was wrong leaves it, and is told."""
        for identity in [one for one in self.mesh.get(topic, ()) if self.score.graylisted(one)]:
            self.mesh[topic].discard(identity)
            await self.emit_prune(topic, identity, False, False)

    def _check_equivocation(self, msg: Any) -> bool:
        """Ids are content hashes; a sequence number that comes again means nothing."""
        return True


class _Pubsub(Pubsub):  # type: ignore[misc]
    """The library's pubsub with its own reader: every message checked in turn, nothing raised."""

    fleet: Announcements

    async def continuously_read_stream(self, stream: Any) -> None:
        identity = stream.muxed_conn.peer_id
        buffer = bytearray()
        while self.manager.is_running:
            # The library reads a length byte by byte and answers each read with a window update:
            # under a flood that was a seventh of all CPU.
            try:
                data = await stream.read(_READ_BYTES)
            except StreamEOF:
                return
            if not data:
                return
            buffer += data
            pause = self.fleet.received[identity.to_bytes()].owe(len(data))
            while (framed := next_framed(buffer)) is not None:
                pause = self.fleet.received[identity.to_bytes()].owe(64)
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(framed)
                # A signed address record rides on every message; verifying it is most of the cost
                # of a delivery, and addresses come from identify and the DHT.
                rpc.ClearField("senderRecord")
                await self._take(rpc, identity)
            if pause > 0:
                await trio.sleep(pause)

    async def _take(self, rpc: Any, identity: Any) -> None:
        if len(rpc.publish) > _MAX_MESSAGES_PER_RPC or len(rpc.subscriptions) > 16:
            refused(identity, "too much in one gossip message")
            return
        for subscription in rpc.subscriptions:
            self.handle_subscription(identity, subscription)
        for message in rpc.publish:
            await self.push_msg(identity, message)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, identity)

    async def push_msg(self, msg_forwarder: Any, msg: Any) -> None:
        try:
            own = msg_forwarder == self.my_id
            if not self._is_msg_seen(msg) if own else self.fleet.accepts(msg_forwarder, msg):
                self._mark_msg_seen(msg)
                await self.router.publish(msg_forwarder, msg)
        except Exception as error:
            refused(msg_forwarder, f"announcement: {describe(error)}")


class Announcements:
    """The announcements topic of one network."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        topic: str,
        validator: Validator,
        clock: Clock,
        events: trio.MemorySendChannel[NetworkEvent],
        report: Callable[[PeerId, Verdict], None],
        ours: Callable[[], list[Any]],
        places: Places,
        useless: Budget,
        rejects: Callable[[PeerId], int],
    ) -> None:
        """``useless`` is what peers may send that is of no use, ``rejects`` counts what a peer sent
        lately that was wrong, over gossip or otherwise."""
        self._ours = ours
        self._topic = topic
        self._validator = validator
        self._events = events
        self._report = report
        self._useless = useless
        self._rates = Budget(places, config.announcements_per_s, config.announcements_burst)
        self._own_rate = TokenBucket(config.announcements_per_s, config.announcements_burst)
        self._floods = Budget(places, config.announcements_per_s, _FLOOD)
        self.received = Budget(places, config.gossip_bytes_per_s, config.gossip_bytes_per_s)
        self._waiting: deque[Announced] = deque(maxlen=_MAX_WAITING)
        self._arrived = trio.Event()
        self._router = _Router(
            protocols=[PROTOCOL],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            do_px=False,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
            score_params=parameters(rejects),
        )
        self.score = self._router.score = Score(self._router.scorer, topic)
        self._router.fleet_topic = topic
        self._router.mcache = _ContentCache(3, 5)
        self._pubsub = _Pubsub(
            host,
            self._router,
            strict_signing=True,
            msg_id_constructor=message_id,
            # An Ignore depends on the moment: no verdict is remembered.
            validation_cache_ttl=-1,
            validation_cache_size=8,
            max_inbound_rpc_size=_MAX_RPC_BYTES,
            max_subscriptions_per_peer=4,
            allowed_topics={topic},
        )
        self._pubsub.fleet = self
        # Starting from the second, two runs in quick succession would reuse numbers.
        self._pubsub.counter = clock.wall_ms() * 1_000_000

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the gossip services for as long as the context lasts."""
        async with background_trio_service(self._router) as router:
            contain_tasks(router)
            async with background_trio_service(self._pubsub) as pubsub:
                contain_tasks(pubsub)
                await self._pubsub.wait_until_ready()
                await self._pubsub.subscribe(self._topic)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._mend)
                    nursery.start_soon(self._hand_over)
                    yield
                    nursery.cancel_scope.cancel()

    async def _mend(self) -> None:
        """Give peers a gossip stream again to whom the first one failed; the library does not."""
        while True:
            await trio.sleep(_MEND_S)
            for identity in self._ours():
                if identity not in self._pubsub.peers:
                    self._pubsub._schedule_peer_stream_retry(identity)

    async def publish(self, data: bytes) -> None:
        """Gossip one announcement."""
        assert 0 < len(data) <= MAX_ANNOUNCEMENT_BYTES
        if not self._own_rate.take():
            # Others would take no more, and hold it against this node. It is announced again.
            logger.debug("an announcement of this node's own was left out: too many at once")
            return
        await self._pubsub.publish(self._topic, data)

    def wanted(self, forwarder: Any, message: Any) -> bool:
        """The cheap checks, before any signature is verified."""
        if list(message.topicIDs) != [self._topic]:
            refused(forwarder, "announcement on a topic that is not ours")
            return False
        overhead = message.ByteSize() - len(message.data)
        if not 0 < len(message.data) <= MAX_ANNOUNCEMENT_BYTES or overhead > _MAX_HEADER_BYTES:
            refused(forwarder, f"announcement of {message.ByteSize()} bytes")
            peer = peer_of(forwarder)
            if peer is not None:
                self._report(peer, Reject("announcement too large"))
            return False
        if self._pubsub.seen_messages.has(message_id(message)):
            return False
        key = forwarder.to_bytes()
        if not self._rates[key].take() or self._useless[key].owe(0) > 0:
            refused(forwarder, "announces too much")
            peer = peer_of(forwarder)
            # What others made may be too much without the fault of who hands it on.
            if peer is not None and message.from_id == key and not self._floods[key].take():
                self._report(peer, Reject("announces without end"))
            return False
        if not self.score.heard(forwarder):
            refused(forwarder, "announced too much that was wrong")
            return False
        return True

    def accepts(self, forwarder: Any, message: Any) -> bool:
        """Judge what a peer hands on, the cheapest checks first; whether it is handed on further.

        Never raises.
        """
        peer = peer_of(forwarder)
        if peer is None or not self.wanted(forwarder, message):
            return False
        verdict = self._verdict(peer, message)
        self.score.judged(forwarder, verdict)
        if not isinstance(verdict, Accept):
            refused(forwarder, f"announcement: {verdict.reason}")
            self._report(peer, verdict)
            return False
        self._waiting.append(Announced(peer, bytes(message.data)))
        self._arrived.set()
        return True

    def _verdict(self, peer: PeerId, message: Any) -> Verdict:
        try:
            signed = signature_validator(message)
        except Exception as error:  # whatever the library makes of a key that is none
            return Forged(f"the announcement's key cannot be used: {describe(error)}")
        if not signed:
            return Forged("the announcement's signature does not match")
        if message.from_id == self._pubsub.my_id.to_bytes():
            return Ignore("an announcement of this node's own")
        try:
            return self._validator(peer, bytes(message.data))
        except Exception as error:
            logger.error("the announcement validator failed: %s", describe(error))
            return Ignore("the validator failed")

    async def _hand_over(self) -> None:
        """Announcements wait for their turn among the readers of streams; the oldest are lost."""
        while True:
            while self._waiting:
                await self._events.send(self._waiting.popleft())
            self._arrived = trio.Event()
            await self._arrived.wait()
