"""What the DHT of a node keeps for strangers."""

from __future__ import annotations

from typing import Any

from libp2p.peer.peerinfo import PeerInfo
from multiaddr import Multiaddr
from network_harness import node, seed_of, trio_test

from p2pfleet.adapters.network.dht import _MAX_KEYS, _MAX_KEYS_OF_ONE, _MAX_PROVIDERS
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.core.model.ids import PeerId


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
