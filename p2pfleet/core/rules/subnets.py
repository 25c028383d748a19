"""How many answers to one unit may come from one corner of the Internet (``protocol/claims.md``).

Whoever makes a thousand keys has seldom a thousand networks. A cap on the claims that a node
accepts for one unit from one /24 (IPv4) or /48 (IPv6) raises the price of a crowd of one; it does
not end it. No part of a certificate: where
a peer was connected from, only those who saw it can say.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

IPV4_BITS = 24
IPV6_BITS = 48


def subnet(address: str) -> str:
    """The /24 or /48 that a multiaddress lies in, as text; empty if it does not say.

    Behind a relay the address is the relay's and says nothing of the peer. Addresses that are not
    of the Internet (a home's, a laboratory's) belong to people who know each other.
    """
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6") or "p2p-circuit" in parts:
        return ""
    try:
        host = ipaddress.ip_address(parts[2].partition("%")[0])
    except ValueError:
        return ""
    if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
        host = host.ipv4_mapped
    if not host.is_global:
        return ""
    bits = IPV4_BITS if host.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network((host, bits), strict=False))


def crowded(mine: str, others: Iterable[str], most: int) -> bool:
    """Whether ``most`` (0: no cap) others from the same subnet are there already."""
    return bool(most and mine) and sum(other == mine for other in others) >= most
