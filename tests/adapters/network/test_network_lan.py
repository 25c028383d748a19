"""Multicast DNS: which records are made, and how little of others' is believed."""

from __future__ import annotations

import ipaddress

from network_harness import NETWORK, seed_of

from p2pfleet.adapters.network.discovery.lan import MAX_ADDRESSES, announced, service_type, texts
from p2pfleet.adapters.network.nat.whereabouts import on_own_lan, own_interfaces
from p2pfleet.core.model.ids import PeerId, peer_text

HERE = frozenset({ipaddress.ip_interface("192.168.7.2/24"), ipaddress.ip_interface("fd00::2/64")})
PEER = PeerId(seed_of(1))
NAME = peer_text(PEER)
NEAR = f"/ip4/192.168.7.9/tcp/4001/p2p/{NAME}"


def record(*addresses: str) -> dict[bytes, bytes | None]:
    return {
        f"dnsaddr{number}".encode(): one.encode("utf-8", "replace")
        for number, one in enumerate(addresses)
    }


def test_what_one_node_announces_the_other_reads() -> None:
    near = [NEAR, f"/ip6/fd00::9/tcp/4001/p2p/{NAME}"]
    told = {key.encode(): value.encode() for key, value in texts(near).items()}
    assert announced(dict(told), HERE) == (PEER, [one.partition("/p2p/")[0] for one in near])
    assert set(texts([NEAR])) == {"dnsaddr"}, "as libp2p has it"
    assert len(texts([NEAR] * 50)) == MAX_ADDRESSES


def test_the_service_s_name_tells_the_network_and_is_a_valid_one() -> None:
    name = service_type(NETWORK)
    assert NETWORK.hex()[:10] in name
    assert len(name.split(".")[0].removeprefix("_")) <= 15


def test_only_addresses_on_an_own_lan_are_dialled() -> None:
    far = f"/ip4/203.0.113.5/tcp/22/p2p/{NAME}"
    local = f"/ip4/127.0.0.1/tcp/4001/p2p/{NAME}"
    named = f"/dns4/victim.example/tcp/4001/p2p/{NAME}"
    relayed = f"{NEAR}/p2p-circuit/p2p/{NAME}"
    assert announced(record(far, local, named, relayed), HERE) is None
    assert announced(record(far, NEAR), HERE) == (PEER, ["/ip4/192.168.7.9/tcp/4001"])


def test_garbage_in_a_record_is_passed_over() -> None:
    other = f"/ip4/192.168.7.9/tcp/4002/p2p/{peer_text(PeerId(seed_of(2)))}"
    found = announced(record("\x00", "/ip4/x", "é" * 300, NEAR, other), HERE)
    assert found == (PEER, ["/ip4/192.168.7.9/tcp/4001"]), "and one record speaks for one peer"
    assert announced({b"dnsaddr": None, b"id": b"x"}, HERE) is None
    many = [f"/ip4/192.168.7.{number}/tcp/4001/p2p/{NAME}" for number in range(1, 60)]
    found = announced(record(*many), HERE)
    assert found is not None
    assert len(found[1]) == MAX_ADDRESSES


def test_loopback_is_no_lan() -> None:
    own = own_interfaces()
    assert not on_own_lan("127.0.0.1", own)
    assert not on_own_lan("::1", own)
    assert not on_own_lan("no address", own)
    assert all(on_own_lan(str(one.ip), own) for one in own)
