"""What the tests of the inputs adapter share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """Nothing here waits for anything, so ten seconds mean that something hangs."""

    def expired(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the test took over ten seconds")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, 10)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
