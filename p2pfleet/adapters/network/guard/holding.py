"""One account over the memory that peers make this node hold: received and not read yet, or queued
to be sent. Each peer has its share, and all together theirs. (What is being put together to a
message, a third of a MiB at most, is not counted.)

Where a buffer lies does not matter for memory, so each buffer tells the account what it holds, and
nothing else bounds it. A peer beyond its share is refused what it sends. When all shares together
are too much, whoever holds most is parted from: that one reads slowly or sends ahead more than any
other, and it may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from p2pfleet.adapters.network.config import NetworkConfig

Gauge = Callable[[], int]


class Holding:
    """How many bytes are held, for whom."""

    def __init__(self, config: NetworkConfig, part: Callable[[bytes], None]) -> None:
        """``part`` closes the connections to the peer with that library id."""
        self._per_peer = config.held_bytes_per_peer
        self._total = config.held_bytes
        self._part = part
        self._gauges: dict[bytes, dict[Hashable, Gauge]] = {}
        self._seen: dict[bytes, int] = {}
        self._sum = 0

    def watch(self, key: bytes, what: Hashable, gauge: Gauge) -> None:
        """``gauge`` says how many bytes a buffer of this peer holds, until :meth:`forget`."""
        self._gauges.setdefault(key, {})[what] = gauge

    def forget(self, key: bytes, what: Hashable) -> None:
        """The buffer is gone. Idempotent."""
        gauges = self._gauges.get(key)
        if gauges is None:
            return
        gauges.pop(what, None)
        if not gauges:
            del self._gauges[key]
            self._sum -= self._seen.pop(key, 0)

    def held(self, key: bytes) -> int:
        """Bytes held for one peer."""
        return sum(gauge() for gauge in self._gauges.get(key, {}).values())

    def measure(self) -> int:
        """Bytes held for all."""
        self._seen = {key: self.held(key) for key in self._gauges}
        self._sum = sum(self._seen.values())
        return self._sum

    def admits(self, key: bytes, more: int) -> bool:
        """Whether ``more`` bytes of a peer may be held as well; makes room by parting from others.

        The sum is as of when each peer last sent something, and is measured anew before anybody is
        parted from.
        """
        held = self.held(key) + more
        if held > self._per_peer:
            return False
        self._sum += held - self._seen.get(key, 0)
        self._seen[key] = held
        if self._sum > self._total and self.measure() + more > self._total:
            most = max(self._seen, key=lambda one: self._seen[one], default=key)
            if most == key:
                return False
            self._part(most)
        return True
