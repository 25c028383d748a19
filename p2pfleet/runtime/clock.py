"""The machine's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """Monotonic time goes on while the machine sleeps: leases end when others see them end."""

    _clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(self._clock) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
