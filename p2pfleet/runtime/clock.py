"""The machine's clocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfleet.core.events import ClockSet, Event
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Millis
from p2pfleet.ports import Clock

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 20.0
SET_BY_MS: Final = 1_000


class SystemClock:
    """Monotonic time goes on while the machine sleeps: leases end when others see them end."""

    _clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def monotonic_ms(self) -> int:
        return time.clock_gettime_ns(self._clock) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


async def watch_clock(node: Node, clock: Clock, tell: Callable[[Event], Awaitable[None]]) -> None:
    """Tell the core when the wall clock was set, and the owner when it is wrong; for ever."""
    told = ""
    while True:
        await trio.sleep(LOOK_EVERY_S)
        wall_ms = clock.wall_ms()
        if abs(wall_ms - node.wall_ms(Millis(clock.monotonic_ms()))) > SET_BY_MS:
            log.info("the wall clock was set")
            await tell(ClockSet(wall_ms))
        warning = node.skew.warning
        if warning != told:
            log.warning("%s", warning or "this machine's clock agrees with its peers' again")
            told = warning
