"""What strangers can make a node remember through the DHT, identify and their records: little."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import psutil
import trio
import varint
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.id import ID
from libp2p.peer.peerstore import create_signed_peer_record
from multiaddr import Multiaddr
from network_harness import QUICK, Book, node, seed_of, trio_test

from p2pfleet.adapters.network.discovery import acquaintances, dht
from p2pfleet.adapters.network.discovery.acquaintances import Acquaintances
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.core.model.ids import PeerId, peer_text

RECORDS = 10_000
BOUND_BYTES = 24 * 2**20


class _Connection:
    def __init__(self, identity: Any) -> None:
        self.peer_id = identity


class _Stream:
    """A stream of the DHT that is read to its end; what is answered is thrown away."""

    def __init__(self, identity: Any, data: bytes) -> None:
        self.muxed_conn = _Connection(identity)
        self._data = data

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        part, self._data = self._data[:n], self._data[n:] if n is not None else b""
        return part

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


def _address(luck: random.Random) -> Multiaddr:
    host = ".".join(str(luck.randrange(1, 250)) for _ in range(4))
    return Multiaddr(f"/ip4/{host}/tcp/{luck.randrange(1, 65535)}")


def fakes(count: int) -> Iterator[_Stream]:
    """Provider records of keys that nobody looks for, each from an identity of its own, signed and
    with more addresses than anybody has."""
    luck = random.Random(5)
    for _ in range(count):
        pair = create_new_key_pair(luck.randbytes(32))
        identity = ID.from_pubkey(pair.public_key)
        addresses = [_address(luck) for _ in range(12)]
        envelope = create_signed_peer_record(identity, addresses[:4], pair.private_key)
        message = Message()
        message.type = Message.MessageType.ADD_PROVIDER
        message.key = b"\x12\x20" + luck.randbytes(32)
        message.senderRecord = envelope.marshal_envelope()
        provider = message.providerPeers.add()
        provider.id = identity.to_bytes()
        provider.addrs.extend(one.to_bytes() for one in addresses)
        data = message.SerializeToString()
        yield _Stream(identity, varint.encode(len(data)) + data)


@trio_test(120)
async def test_ten_thousand_fake_records_leave_little_behind_and_the_networks_own_stand() -> None:
    async with node(1) as one:
        table = one._rendezvous._dht
        own = one._rendezvous._key
        friend = library_id(PeerId(seed_of(2)))
        info = type("Info", (), {"peer_id": friend, "addrs": [Multiaddr("/ip4/192.0.2.1/tcp/1")]})
        table.provider_store.add_provider(own, info)
        for stream in fakes(300):  # fills caches that are no matter of these records
            await table._do_handle_stream(stream)
        gc.collect()
        before = psutil.Process().memory_info().rss
        for stream in fakes(RECORDS):
            await table._do_handle_stream(stream)
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        print(f"{RECORDS} fake records: {grown / 2**20:.1f} MiB more")
        assert grown < BOUND_BYTES
        store, peers = table.provider_store.providers, one._host.get_peerstore()
        assert 0 < sum(map(len, store.values())) <= dht._MAX_RECORDS
        assert len(store) <= dht._MAX_KEYS
        assert len(peers.peer_data_map) <= acquaintances.MAX_PEERS
        assert len(peers.peer_record_map) <= acquaintances.MAX_RECORDS
        assert [one.peer_id for one in table.provider_store.get_providers(own)] == [friend]
        # The library would have thrown out the one without addresses: this node's own key.
        assert peers.privkey(one._host.get_id()) is not None


def test_of_one_peer_few_addresses_and_protocols_are_kept() -> None:
    store = Acquaintances()
    identity = library_id(PeerId(seed_of(1)))
    luck = random.Random(1)
    addresses = [_address(luck) for _ in range(50)]
    store.add_addrs(identity, [*addresses, Multiaddr("/ip4/1.2.3.4/udp/5")], 60)
    assert store.addrs(identity) == addresses[-acquaintances.MAX_ADDRESSES :]
    store.set_protocols(identity, [f"/p/{number}" for number in range(1000)] + ["x" * 10_000])
    assert len(store.get_protocols(identity)) == acquaintances.MAX_PROTOCOLS
    store.add_protocols(identity, ["/more"])
    assert len(store.get_protocols(identity)) == acquaintances.MAX_PROTOCOLS


def test_who_is_connected_is_not_forgotten_for_strangers() -> None:
    store = Acquaintances()
    friend = library_id(PeerId(seed_of(1)))
    store.keep = lambda identity: identity == friend
    for number in range(acquaintances.MAX_PEERS + 50):
        store.add_addrs(library_id(PeerId(seed_of(number))), [_address(random.Random(number))], 60)
    assert store.has_peer(friend)
    assert not store.has_peer(library_id(PeerId(seed_of(2))))
    assert len(store.peer_data_map) == acquaintances.MAX_PEERS


@trio_test(60)
async def test_who_was_there_before_is_dialled_before_whom_strangers_name() -> None:
    friend = PeerId(seed_of(900_000))
    address = "/ip4/192.0.2.9/tcp/4001"
    book = Book([(friend, f"{address}/p2p/{peer_text(friend)}")])
    quiet = msgspec.structs.replace(QUICK, target_peers=0)
    async with node(1, config=quiet, book=book) as one:
        dialler = one._dialler
        dialler._known[friend].failures = 2
        for number in range(5000):
            dialler.learn(PeerId(seed_of(number)), [f"/ip4/203.0.113.{number % 250}/tcp/4001"])
        assert len(dialler._known) <= quiet.known_peers
        assert min(dialler._known.values(), key=lambda known: known.promise).peer == friend
        for _ in range(50):
            dialler._failed(dialler._known[friend])
        assert friend in dialler._known
        before = dialler._known[friend].not_before
        assert trio.current_time() + 10 < before
        dialler.start_over()
        assert dialler._known[friend].not_before < trio.current_time() + 1
