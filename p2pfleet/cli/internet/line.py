"""One direction of a link: when does a packet come out at its other end, if it does?"""

from __future__ import annotations

import random

from p2pfleet.cli.internet.weather import MTU_FOUL, Weather

QUEUE_S = 0.25
QUEUE_MIN_BYTES = 16 * MTU_FOUL
FLYING_MAX_BYTES = 16 * 2**20


class Line:
    """Packets in the order in which they came, under some weather. Time is passed in (s).

    What does not fit through waits in a queue of a quarter of a second (and at least 16 packets);
    what does not fit in there either is dropped, as at any narrow place. Beside the queue, no more
    than ``FLYING_MAX_BYTES`` are on their way.
    """

    def __init__(self, weather: Weather, luck: random.Random) -> None:
        self._luck = luck
        self._free_at = 0.0
        self._last_at = 0.0
        self.flying_bytes = 0
        self.lost = 0
        self.overflowed = 0
        self.change(weather)

    def change(self, weather: Weather) -> None:
        """From now on, this weather. What is under way stays under way."""
        self._latency_s = weather.latency_ms / 1000
        self._jitter_s = weather.jitter_ms / 1000
        self._loss = weather.loss
        self._rate = weather.bandwidth_mbit * 1e6 / 8
        self._queue_bytes = max(QUEUE_MIN_BYTES, QUEUE_S * self._rate)
        # A line without any weather is not worth asking, unless something is on it.
        self._fair = not (weather.latency_ms or weather.jitter_ms or self._loss or self._rate)

    @property
    def free(self) -> bool:
        """Whether a packet comes out as soon as it goes in."""
        return self._fair and not self.flying_bytes

    def admit(self, size: int, now: float) -> float | None:
        """When a packet of ``size`` bytes, sent ``now``, comes out; ``None``: it does not.

        The caller tells :meth:`landed` when it did.
        """
        if self._loss and self._luck.random() < self._loss:
            self.lost += 1
            return None
        if self.flying_bytes + size > FLYING_MAX_BYTES:
            self.overflowed += 1
            return None
        at = now
        if self._rate:
            begin = max(now, self._free_at)
            if (begin - now) * self._rate + size > self._queue_bytes:
                self.overflowed += 1
                return None
            self._free_at = at = begin + size / self._rate
        at += self._latency_s
        if self._jitter_s:
            at += self._luck.random() * self._jitter_s
        self._last_at = at = max(at, self._last_at)
        self.flying_bytes += size
        return at

    def landed(self, size: int) -> None:
        """A packet of ``size`` bytes came out."""
        self.flying_bytes -= size
