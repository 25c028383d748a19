"""How many answers to one unit may come from one corner of the Internet."""

from __future__ import annotations

import pytest

from p2pfleet.core.rules.subnets import crowded, subnet


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/ip4/8.8.8.8/tcp/4001/p2p/12D3", "8.8.8.0/24"),
        ("/ip4/8.8.8.250/udp/1/quic-v1", "8.8.8.0/24"),
        ("/ip6/2001:4860:4860:1::8888/tcp/1", "2001:4860:4860::/48"),
        ("/ip6/2001:4860:4860:2::1/tcp/1", "2001:4860:4860::/48"),
        ("/ip6/::ffff:8.8.8.8/tcp/1", "8.8.8.0/24"),
        ("/ip4/8.8.8.8/tcp/1/p2p/12D3/p2p-circuit/p2p/12D4", ""),
        ("/ip4/127.0.0.1/tcp/1", ""),
        ("/ip4/192.168.1.7/tcp/1", ""),
        ("/ip6/fe80::1%eth0/tcp/1", ""),
        ("/dns4/example.org/tcp/1", ""),
        ("/ip4/300.1.1.1/tcp/1", ""),
        ("/ip4", ""),
        ("", ""),
    ],
)
def test_a_subnet_is_a_24_or_a_48_of_the_internet_or_nothing(address: str, expected: str) -> None:
    assert subnet(address) == expected


def test_a_corner_is_full_when_as_many_others_are_there_as_the_network_allows() -> None:
    assert not crowded("8.8.8.0/24", ["8.8.8.0/24"], 2)
    assert crowded("8.8.8.0/24", ["8.8.8.0/24", "1.1.1.0/24", "8.8.8.0/24"], 2)
    assert not crowded("", ["", "", ""], 1), "nothing is known of them"
    assert not crowded("8.8.8.0/24", ["8.8.8.0/24"] * 9, 0), "the network asks for no cap"
