"""Simulated time: one heap of things to come, one seed, and nothing else that decides an order.

True time is whole milliseconds from 0. Things of the same millisecond happen in the order in which
they were planned. Nothing here or above reads a clock, the global random state, or the order of a
set.
"""

from __future__ import annotations

import gc
import heapq
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Span = tuple[int, int]
"""A range of milliseconds, both ends included, from which one is drawn."""


AT_ONCE_MAX = 100_000


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for cycles before and not within: a run leaves none until it ends, and looking for them
    would take a tenth of its time. What is here already is not looked at again."""
    collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Kernel:
    """The time, the chance, and what is planned. ``events`` counts the things that happened."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (repeatable on purpose; no secret comes of it)
        self._random = self.random.random
        self.now = 0
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    def at(self, time: int, act: Callable[..., None], *what: Any) -> None:
        """Plan ``act(*what)`` for ``time``, which is not before now."""
        assert time >= self.now, "the past cannot be changed"
        self._planned += 1
        heapq.heappush(self._heap, (time, self._planned, act, what))

    def later(self, delay: int, act: Callable[..., None], *what: Any) -> None:
        """Plan ``act(*what)`` in ``delay`` milliseconds."""
        assert delay >= 0, "the past cannot be changed"
        self._planned += 1
        heapq.heappush(self._heap, (self.now + delay, self._planned, act, what))

    def draw(self, span: Span) -> int:
        """A number of milliseconds from a span, each equally likely."""
        low, high = span
        return low if low == high else low + int(self._random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """True with this probability; draws nothing where there is no doubt."""
        return share > 0 and (share >= 1 or self._random() < share)

    def run(self, until: int) -> None:
        """Let everything happen that is planned up to ``until``, or until :meth:`halt`."""
        heap, pop = self._heap, heapq.heappop
        self._halted = False
        room = AT_ONCE_MAX
        while heap and heap[0][0] <= until and not self._halted:
            time, _, act, what = pop(heap)
            if time == self.now:
                room -= 1
                assert room, "time stands still: things are planned for now without end"
            else:
                room = AT_ONCE_MAX
                self.now = time
            self.events += 1
            act(*what)

    def halt(self) -> None:
        """Let nothing further happen in the present run."""
        self._halted = True

    _halted = False
