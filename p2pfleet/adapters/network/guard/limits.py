"""Counters that bound what one peer, one address, or the world can make this node do."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

import trio

MAX_TRACKED_PEERS = 4096


class TokenBucket:
    """At most ``rate`` a second in the long run, and ``burst`` at once."""

    def __init__(
        self, rate: float, burst: float, now: Callable[[], float] = trio.current_time
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._at = now()

    def _refill(self) -> None:
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def take(self, amount: float = 1.0) -> bool:
        """Take ``amount`` if it is there."""
        self._refill()
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def has(self, amount: float) -> bool:
        """Whether ``amount`` is there."""
        self._refill()
        return self._tokens >= amount

    def owe(self, amount: float) -> float:
        """Take ``amount`` in any case; the seconds to wait until the debt is worked off."""
        self._refill()
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    @property
    def full(self) -> bool:
        """Whether forgetting this bucket would change nothing."""
        self._refill()
        return self._tokens >= self._burst


class Buckets:
    """One token bucket a key; those that are full again are forgotten."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __getitem__(self, key: bytes) -> TokenBucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._rate, self._burst)
            if len(self._buckets) > MAX_TRACKED_PEERS:
                self._forget()
        return bucket

    def _forget(self) -> None:
        for key in [key for key, bucket in self._buckets.items() if bucket.full]:
            del self._buckets[key]
        while len(self._buckets) > MAX_TRACKED_PEERS:
            self._buckets.popitem(last=False)


def address_group(address: str) -> str:
    """What counts as one place: an IPv4 address, or an IPv6 /64 (a household has a whole one)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def is_loopback(group: str) -> bool:
    """Whether an address group is this machine itself."""
    return group.startswith("127.") or group.startswith("::/64")
