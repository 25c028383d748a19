"""Whatever a stranger sends, the victim lives, serves an honest peer, and logs what it refused."""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from network_harness import (
    QUICK,
    MemoryPartial,
    Shelf,
    meet,
    next_of,
    node,
    noise,
    ref_of,
    seed_of,
    trio_test,
    until,
)

from p2pfleet.core.wire.names import (
    BLOB_PROTOCOL,
    FRAME_PROTOCOL,
    MAX_ANNOUNCEMENT_BYTES,
    MAX_MESSAGE_BYTES,
)
from p2pfleet.ports import Received

IDENTIFY, PUSH, PING = "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0"
KAD, MESHSUB = "/ipfs/kad/1.0.0", "/meshsub/1.1.0"
PATIENT = msgspec.structs.replace(QUICK, reject_limit=10_000)

RAW = [
    b"",
    b"\x00" * 64,
    b"\xff" * 50,
    b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    b"\x13/multistream/1.0.0\n",
    b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff" * 300,
    b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x00",
    b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n" + b"\x00" * 40,
    b"\x13/multistream/1.0.0\n\x03ls\n" * 20,
    b"\xff\xff\xff\xff\x7f" + b"a" * 100,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    noise(5_000, 1),
]
BODIES = [
    b"",
    b"\xff" * 50,
    b"\x00" * 50,
    bytes([50]) + b"\xff" * 50,
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"x",
    b"\xff\xff\xff\x7f",
    b"\x05\x0a\xff\xff\xff\x0f",
    noise(40, 2),
    noise(3_000, 3),
    noise(70_000, 4),
]
PROTOCOLS = [IDENTIFY, PUSH, PING, KAD, MESHSUB, FRAME_PROTOCOL, BLOB_PROTOCOL, ""]


class Attacker:
    """A libp2p host that knows the transport and then says what it likes."""

    def __init__(self, host: Any, victim: Any) -> None:
        self.host = host
        self.victim = victim.peer
        self.identity = victim._host.get_id()

    @property
    def connection(self) -> Any:
        return self.host.get_network().get_connections(self.identity)[0]

    @property
    def connected(self) -> bool:
        connections = self.host.get_network().get_connections(self.identity)
        return any(not one.is_closed for one in connections)

    async def stream(self, protocol: str) -> Any:
        if not protocol:
            return await self.connection.new_stream()
        return await self.host.new_stream(self.identity, [protocol])

    async def drain(self, stream: Any) -> None:
        """Read until the victim ends the stream."""
        with contextlib.suppress(Exception):
            while await stream.read(4096):
                pass

    async def say(self, protocol: str, body: bytes, close: bool) -> None:
        """Send ``body`` on a new stream; then end it, or leave it open."""
        with trio.move_on_after(2):
            try:
                stream = await self.stream(protocol)
                await stream.write(body)
                if close:
                    await stream.close()
            except Exception as error:
                logging.getLogger(__name__).debug("attack: %r", error)


@asynccontextmanager
async def attacker(victim: Any, number: int) -> AsyncIterator[Attacker]:
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as exchange_pair
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.security.noise.transport import PROTOCOL_ID, Transport
    from multiaddr import Multiaddr

    pair = create_new_key_pair(seed_of(number))
    noise_only = {PROTOCOL_ID: Transport(pair, noise_privkey=exchange_pair().private_key)}
    host = new_host(key_pair=pair, sec_opt=noise_only)

    async def swallow(stream: Any) -> None:
        while await stream.read(65536):
            pass

    host.set_stream_handler(FRAME_PROTOCOL, swallow)
    async with host.run(listen_addrs=[]):
        await host.connect(info_from_p2p_addr(Multiaddr(victim.addresses[0])))
        try:
            yield Attacker(host, victim)
        finally:
            with trio.move_on_after(2, shield=True):
                await host.close()


async def check_lives(victim: Any, honest: Any) -> None:
    """An honest peer is served: both ways, and with a blob."""
    await honest.send(victim.peer, b"are you there")
    while (await next_of(victim, Received)).peer != honest.peer:
        pass
    await victim.send(honest.peer, b"I am")
    assert (await next_of(honest, Received)).data == b"I am"
    await honest.bulk.fetch(MemoryPartial(ref_of(b"a blob")), [victim.peer])


@asynccontextmanager
async def victim_and_honest(tmp_path: Any, config: Any = PATIENT) -> AsyncIterator[Any]:
    shelf = Shelf(tmp_path)
    shelf.put(b"a blob")
    async with node(1, config=config, blobs=shelf) as victim, node(2, victim.addresses) as honest:
        await meet(victim, honest)
        yield victim, honest


@trio_test(30)
async def test_garbage_at_the_tcp_port(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")
    quick = msgspec.structs.replace(PATIENT, handshake_s=1.0)
    async with victim_and_honest(tmp_path, quick) as (victim, honest):
        _, _, host, _, port, *_ = victim.addresses[0].split("/")

        async def hit(body: bytes) -> None:
            stream = await trio.open_tcp_stream(host, int(port))
            with trio.move_on_after(4):
                try:
                    await stream.send_all(body)
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            for body in RAW:
                nursery.start_soon(hit, body)
        await check_lives(victim, honest)
        assert not victim._admission._shaking
        assert victim._admission._inbound.total() == 1
    assert sum("refused a stranger: handshake" in line for line in caplog.messages) >= len(RAW)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_garbage_on_every_protocol(
    protocol: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")

    @trio_test(30)
    async def attack() -> None:
        async with (
            victim_and_honest(tmp_path) as (victim, honest),
            attacker(victim, 66) as mallory,
        ):
            for body in BODIES:
                await mallory.say(protocol, body, True)
                await mallory.say(protocol, body, False)
                await trio.sleep(0.02)
            await check_lives(victim, honest)
            if protocol not in (IDENTIFY, PUSH, PING):  # there the library logs to itself
                await until(lambda: any("refused" in line for line in caplog.messages))

    attack()


def gossip_attacks(topic: str) -> list[bytes]:
    from libp2p.pubsub.pb import rpc_pb2

    def rpc(**fields: Any) -> bytes:
        return bytes(rpc_pb2.RPC(**fields).SerializeToString())

    def message(**fields: Any) -> Any:
        fields.setdefault("topicIDs", [topic])
        return rpc_pb2.Message(**fields)

    control = rpc_pb2.ControlMessage
    bodies = [
        b"\xff" * 50,
        rpc(publish=[message(data=b"x", from_id=b"\xff" * 9, key=b"\xff" * 40, signature=b"s")]),
        rpc(publish=[message(data=b"x", from_id=b"", key=b"\x08\x01\x12\x20" + b"k" * 32)]),
        rpc(publish=[message(data=b"x", from_id=b"\x00\x24\x08\x01\x12\x20" + b"k" * 32)]),
        rpc(publish=[message(data=bytes(MAX_ANNOUNCEMENT_BYTES + 1), from_id=b"a")]),
        rpc(publish=[message(data=b"x", from_id=b"a", seqno=bytes(5_000))]),
        rpc(publish=[message(data=b"x", topicIDs=["elsewhere", topic])]),
        rpc(publish=[message(data=b"%d" % n, from_id=b"\xff", key=b"\xff") for n in range(40)]),
        rpc(publish=[message()]),
        rpc(subscriptions=[{"subscribe": True, "topicid": f"t{n}"} for n in range(200)]),
        rpc(subscriptions=[{"subscribe": True, "topicid": "t" * 60_000}]),
        rpc(senderRecord=b"\xff" * 500, publish=[message(data=b"y", from_id=b"z")]),
        rpc(control=control(graft=[{"topicID": "elsewhere"}])),
        rpc(control=control(graft=[{"topicID": topic}] * 50, prune=[{"topicID": topic}] * 50)),
        rpc(control=control(prune=[{"topicID": topic, "backoff": 2**63}])),
        rpc(control=control(prune=[{"topicID": topic, "peers": [{"peerID": b"\xff" * 60}] * 40}])),
        rpc(control=control(ihave=[{"topicID": topic, "messageIDs": [b"\xff" * 32] * 3000}])),
        rpc(control=control(ihave=[{"topicID": topic, "messageIDs": [b"abc", b"", b"\xfe" * 99]}])),
        rpc(control=control(iwant=[{"messageIDs": [b"q" * 32] * 3000}])),
        rpc(control=control(iwant=[{"messageIDs": [b"abc", b"", b"\xfe" * 99]}])),
        rpc(control=control(idontwant=[{"messageIDs": [b"m"] * 2000}])),
    ]
    return [prefix(len(body)) + body for body in bodies]


def prefix(length: int) -> bytes:
    out = b""
    while length > 127:
        out += bytes([length & 127 | 128])
        length >>= 7
    return out + bytes([length])


@trio_test(30)
async def test_hostile_gossip(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")
    async with victim_and_honest(tmp_path) as (victim, honest), attacker(victim, 66) as mallory:
        bodies = gossip_attacks(victim._gossip._topic)
        for body in bodies:
            await mallory.say(MESHSUB, body, False)
        stream = await mallory.stream(MESHSUB)
        for body in bodies[1:]:
            await stream.write(body)
        await trio.sleep(0.3)
        await check_lives(victim, honest)
        router = victim._gossip._router
        assert set(router.mesh) == {victim._gossip._topic}
        assert set(victim._gossip._pubsub.peer_topics) <= {victim._gossip._topic}
        assert set(router.back_off) <= {victim._gossip._topic}
    refusals = [line for line in caplog.messages if "refused" in line]
    for reason in ("not ours", "announcement of", "too many message ids", "too much in one"):
        assert any(reason in line for line in refusals), reason
    assert any("announcement: " in line for line in refusals)


@trio_test(30)
async def test_a_message_that_is_too_long_ends_the_stream_and_counts_as_a_reject(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")
    strict = msgspec.structs.replace(QUICK, reject_limit=2)
    async with (
        victim_and_honest(tmp_path, strict) as (victim, honest),
        attacker(victim, 66) as mallory,
    ):
        for _ in range(2):
            stream = await mallory.stream(FRAME_PROTOCOL)
            await stream.write((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big") + bytes(100))
            await mallory.drain(stream)
        await until(lambda: not mallory.connected)
        with trio.move_on_after(2), contextlib.suppress(Exception):
            await mallory.host.new_stream(mallory.identity, [PING])
        assert {one.peer for one in victim.peers()} == {honest.peer}
        assert len(victim._swarm.connections) == 1
        await check_lives(victim, honest)
    assert any("at most 69632 are allowed" in line for line in caplog.messages)


YAMUX = [
    struct.pack("!BBHII", 9, 77, 0xFFFF, 1, 5),
    struct.pack("!BBHII", 0, 0, 0, 99, 2**32 - 1),
    struct.pack("!BBHII", 0, 0, 1, 101, 12 * 2**20) + bytes(1000),
    struct.pack("!BBHII", 0, 1, 0, 1, 2**32 - 1) * 50,
    struct.pack("!BBHII", 0, 0, 0, 12345, 10) + bytes(10),
    struct.pack("!BBHII", 0, 1, 1, 1, 0) * 300,
    b"".join(struct.pack("!BBHII", 0, 1, 1, 1001 + 2 * n, 0) for n in range(500)),
    struct.pack("!BBHII", 0, 2, 1, 0, 7) * 500,
    struct.pack("!BBHII", 0, 3, 0, 0, 1),
    noise(4_000, 9),
]


@trio_test(40)
async def test_hostile_multiplexer_frames(tmp_path: Any) -> None:
    async with victim_and_honest(tmp_path) as (victim, honest):
        for number, body in enumerate(YAMUX):
            async with attacker(victim, 70 + number) as mallory:
                with trio.move_on_after(2):
                    await mallory.connection.muxed_conn._write_frame(body)
                await trio.sleep(0.1)
            await check_lives(victim, honest)


@trio_test(30)
async def test_a_peer_that_sends_past_every_window_is_disconnected(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")
    tiny = msgspec.structs.replace(PATIENT, events=4, held_bytes_per_peer=2**20)
    async with (
        victim_and_honest(tmp_path, tiny) as (victim, honest),
        attacker(victim, 66) as mallory,
    ):
        stream = await mallory.stream(FRAME_PROTOCOL)
        await until(lambda: len(victim.peers()) == 2)
        number = stream.muxed_stream.stream_id
        message = (60_000).to_bytes(4, "big") + bytes(60_000)
        frame = struct.pack("!BBHII", 0, 0, 0, number, len(message)) + message
        sent = 0
        while mallory.connected and sent < 500:
            with trio.move_on_after(1):
                try:
                    await mallory.connection.muxed_conn._write_frame(frame)
                except Exception:
                    break
            sent += 1
        assert sent < 100
        await check_lives(victim, honest)
    assert any("sent ahead of what was read" in line for line in caplog.messages)


@trio_test(30)
async def test_streams_at_once_are_limited(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="p2pfleet")
    few = msgspec.structs.replace(PATIENT, max_streams_per_peer=12)
    async with (
        victim_and_honest(tmp_path, few) as (victim, honest),
        attacker(victim, 66) as mallory,
    ):
        for _ in range(40):
            await mallory.connection.new_stream()
        await trio.sleep(0.2)
        await check_lives(victim, honest)
    assert any("more than 12 streams at once" in line for line in caplog.messages)


@trio_test(30)
async def test_kademlia_keeps_no_foreign_records(tmp_path: Any) -> None:
    from libp2p.kad_dht.pb.kademlia_pb2 import Message

    async with victim_and_honest(tmp_path) as (victim, honest), attacker(victim, 66) as mallory:
        identity = mallory.host.get_id().to_bytes()
        for number in range(5):
            put = Message(type=Message.MessageType.PUT_VALUE, key=b"/pk/%d" % number)
            put.record.key, put.record.value = put.key, b"v" * 1000
            add = Message(type=Message.MessageType.ADD_PROVIDER, key=b"k%d" % number)
            one = add.providerPeers.add(id=identity)
            one.addrs.append(b"\xff" * 100)
            find = Message(type=Message.MessageType.FIND_NODE, key=b"\xff" * 2000)
            for message in (put, add, find):
                body = message.SerializeToString()
                await mallory.say(KAD, prefix(len(body)) + body, False)
        await trio.sleep(0.3)
        dht = victim._rendezvous._dht
        assert dht.value_store.size() == 0
        assert set(dht.provider_store.providers) <= {victim._rendezvous._key}
        await check_lives(victim, honest)
