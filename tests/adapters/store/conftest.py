"""What every store test gets: an end to its patience."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

_PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def _patience() -> Iterator[None]:
    """These tests block in plain threads and processes, so an alarm ends one that hangs."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"the test took more than {_PATIENCE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
