"""Budgets of peers, and of the addresses that they come from.

A stranger makes new keys for nothing, but not new addresses. So whatever a peer may use of this
node is counted for the peer and for the place it connects from (an IPv4 address, or an IPv6 /64),
and a place has as much as a few peers. Loopback is no place: whoever is there has this machine
already, and a testnet puts a hundred nodes on it.
"""

from __future__ import annotations

from typing import Any

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.guard.limits import Buckets, TokenBucket, address_group, is_loopback

PEERS_A_PLACE = 4.0
"""How many peers' budgets a place has."""


class Places:
    """Where the connected peers are: an address group, or ``None`` for loopback and unknown."""

    def __init__(self, config: NetworkConfig) -> None:
        self._loopback = config.budget_loopback
        self._places: dict[bytes, dict[int, str | None]] = {}

    def group(self, address: str) -> str | None:
        """What an IP address counts as."""
        group = address_group(address)
        return None if is_loopback(group) and not self._loopback else group

    def connected(self, connection: Any) -> None:
        """A connection stands; it knows the peer at its other end, and the address."""
        remote = connection.get_remote_address()
        group = self._way(connection) if remote is None else self.group(str(remote[0]))
        self._places.setdefault(connection.peer_id.to_bytes(), {})[id(connection)] = group

    def _way(self, connection: Any) -> str | None:
        """All who come through one relay are in one place, which is no address to be banned."""
        return next((str(one) for one in connection.get_transport_addresses()), None)

    def disconnected(self, connection: Any) -> None:
        """A connection is gone. Idempotent."""
        key = connection.peer_id.to_bytes()
        standing = self._places.get(key, {})
        standing.pop(id(connection), None)
        if not standing:
            self._places.pop(key, None)

    def of(self, key: bytes) -> str | None:
        """Where the peer with this library id (its bytes) connects from: the newest connection."""
        standing = self._places.get(key)
        return None if standing is None else next(reversed(standing.values()))


class Purse:
    """What one peer may spend of one thing: its own budget, and its place's."""

    def __init__(self, buckets: tuple[TokenBucket, ...]) -> None:
        self._buckets = buckets

    def owe(self, amount: float) -> float:
        """Spend ``amount`` in any case; the seconds to wait until the debts are worked off."""
        return max(bucket.owe(amount) for bucket in self._buckets)

    def take(self, amount: float = 1.0) -> bool:
        """Spend ``amount`` if both have it."""
        if any(not bucket.has(amount) for bucket in self._buckets):
            return False
        for bucket in self._buckets:
            bucket.owe(amount)
        return True


class Budget:
    """One thing that peers use up, at ``rate`` a second and at most ``burst`` at once."""

    def __init__(self, places: Places, rate: float, burst: float) -> None:
        self._places = places
        self._peers = Buckets(rate, burst)
        self._groups = Buckets(rate * PEERS_A_PLACE, burst * PEERS_A_PLACE)

    def __getitem__(self, key: bytes) -> Purse:
        """The purse of the peer with this library id; outlives its connections."""
        group = self._places.of(key)
        if group is None:
            return Purse((self._peers[key],))
        return Purse((self._peers[key], self._groups[group.encode()]))
