"""What the DHT of a node keeps for strangers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, repeat
from typing import Any

import pytest
import trio
import trio.lowlevel
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.peerinfo import PeerInfo
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr
from network_harness import meet, node, seed_of, trio_test, until

from p2pfleet.adapters.network.discovery.dht import _MAX_KEYS, _MAX_KEYS_OF_ONE, _MAX_PROVIDERS
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.streams import open_stream
from p2pfleet.core.model.ids import PeerId

KAD = "/ipfs/kad/1.0.0"


def provider(number: int) -> Any:
    address = Multiaddr(f"/ip4/203.0.113.7/tcp/{1024 + number}")
    return PeerInfo(library_id(PeerId(seed_of(number))), [address] * 20)


@trio_test(30)
async def test_nobody_fills_the_store_of_provider_records_nor_do_all_together() -> None:
    async with node(1) as alone:
        store = alone._rendezvous._dht.provider_store
        for number in range(200):
            store.add_provider(b"key %d" % number, provider(1))
        assert len(store.providers) == _MAX_KEYS_OF_ONE
        store.add_provider(b"key 0", provider(1))  # what is here is renewed
        for number in range(_MAX_PROVIDERS + 20):
            store.add_provider(b"the key", provider(2 + number))
        assert len(store.get_providers(b"the key")) == _MAX_PROVIDERS
        for number in range(_MAX_KEYS + 50):
            store.add_provider(b"other %d" % number, provider(100 + number // 16))
        assert len(store.providers) == _MAX_KEYS
        assert all(len(one.addrs) <= 8 for one in store.get_providers(b"other 1000"))


def provided(identity: Any, key: bytes) -> bytes:
    message = Message(type=Message.MessageType.ADD_PROVIDER, key=key)
    mine = message.providerPeers.add()
    mine.id = identity.to_bytes()
    mine.addrs.append(Multiaddr("/ip4/203.0.113.7/tcp/1024").to_bytes())
    raw = message.SerializeToString()
    return encode_uvarint(len(raw)) + raw


async def send_records(victim: Any, other: Any, keys: Iterator[bytes]) -> None:
    """Tell ``victim`` of providers until it has parted from ``other``; of 10,000 at most."""
    identity = other._host.get_id()
    sent = 0
    while not victim.bans() and sent < 10_000:
        try:
            stream = await open_stream(other._host, library_id(victim.peer), KAD)
            while not victim.bans() and sent < 10_000:
                await stream.write(provided(identity, next(keys)))
                sent += 1
                await trio.lowlevel.checkpoint()
        except Exception:  # the stream or the connection was ended, which is what is waited for
            await trio.sleep(0.01)
    assert sent < 10_000
    assert [ban.peer for ban in victim.bans()] == [other.peer]
    await until(lambda: not victim._swarm.get_connections(identity))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (lambda: (b"key %d" % number for number in count()), "more keys than it can"),
        (lambda: repeat(b"always the same"), "without end"),
    ],
)
@trio_test(60)
async def test_who_tells_of_fake_providers_is_banned(keys: Any, why: str) -> None:
    async with node(1) as victim, node(2, victim.addresses) as other:
        await meet(victim, other)
        await send_records(victim, other, keys())
        assert why in victim.bans()[0].reason


@trio_test(30)
async def test_what_a_node_tells_of_itself_when_it_starts_is_far_from_too_much() -> None:
    async with node(1) as one, node(2, one.addresses) as two:
        await meet(one, two)
        for _ in range(20):
            await two._rendezvous._provide_once(thorough=False)
        assert one.bans() == ()
        assert one._bans.rejects(two.peer) == 0
