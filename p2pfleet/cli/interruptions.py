"""SIGINT and SIGTERM while a command runs code that does not wait for signals itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruptions:
    """Turns both signals into KeyboardInterrupt, but never in the middle of what must be whole."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """While the block runs, both signals raise KeyboardInterrupt in it."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are not ours to handle
            return
        before = {number: signal.signal(number, self._arrived) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives while the block runs is raised at its end.

        A process that was started but not yet written down would outlive everybody who knows of
        it; a clean-up that is interrupted cleans nothing up.
        """
        if self._held:
            yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
            return
        raise KeyboardInterrupt
