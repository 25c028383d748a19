"""A machine's clocks: a monotonic one that starts anywhere, a wall clock that is off, and drift."""

from __future__ import annotations

from p2pfleet.core.model.ids import Millis

WALL_MS = 1_700_000_000_000
MILLION = 1_000_000


class Clock:
    """``offset`` and ``skew`` are milliseconds, ``drift`` parts per million (either sign)."""

    def __init__(self, offset: int, skew: int, drift: int) -> None:
        self.offset, self.skew, self.drift = offset, skew, drift

    def monotonic(self, true: int) -> Millis:
        """The monotonic clock at a true time; it never runs back."""
        return Millis(self.offset + true + true * self.drift // MILLION)

    def wall(self, true: int) -> int:
        """Milliseconds since 1970 as this machine sees them."""
        return WALL_MS + self.skew + true + true * self.drift // MILLION

    def reaches(self, monotonic: int, now: int) -> int:
        """The first true time from ``now`` on at which the monotonic clock shows ``monotonic``."""
        true = max(now, (monotonic - self.offset) * MILLION // (MILLION + self.drift))
        while self.monotonic(true) < monotonic:
            true += 1
        return true
