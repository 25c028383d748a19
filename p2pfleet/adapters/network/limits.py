"""Counters that bound what one peer, one address, or the world can make this node do."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from collections.abc import Callable

import trio

from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import Clock

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


class Bans:
    """Peers that sent too much that was wrong, and until when they are refused."""

    def __init__(self, clock: Clock, limit: int, window_s: float, ban_s: float) -> None:
        self._clock = clock
        self._limit = limit
        self._window_ms = round(window_s * 1000)
        self._ban_ms = round(ban_s * 1000)
        self._rejects: OrderedDict[PeerId, deque[int]] = OrderedDict()
        self._until: OrderedDict[PeerId, int] = OrderedDict()

    def reject(self, peer: PeerId) -> bool:
        """Count one Reject; whether ``peer`` is banned from now on because of it."""
        now = self._clock.monotonic_ms()
        times = self._rejects.setdefault(peer, deque())
        self._rejects.move_to_end(peer)
        times.append(now)
        while times and times[0] <= now - self._window_ms:
            times.popleft()
        if len(times) < self._limit:
            if len(self._rejects) > MAX_TRACKED_PEERS:
                self._rejects.popitem(last=False)
            return False
        del self._rejects[peer]
        self.hold_off(peer)
        return True

    def hold_off(self, peer: PeerId) -> None:
        """Refuse ``peer`` for as long as a ban lasts, whatever the reason."""
        self._until[peer] = self._clock.monotonic_ms() + self._ban_ms
        self._until.move_to_end(peer)
        if len(self._until) > MAX_TRACKED_PEERS:
            self._until.popitem(last=False)

    def banned(self, peer: PeerId) -> bool:
        """Whether ``peer`` is refused now."""
        until = self._until.get(peer)
        if until is None:
            return False
        if self._clock.monotonic_ms() < until:
            return True
        del self._until[peer]
        return False


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
