"""A wall limit that stands still while a child is frozen."""

from __future__ import annotations

import math

import trio


class Stopwatch:
    """Measures one request at a time, in seconds of trio's clock, and cancels it when it is late.

    Pausing outlasts a request: what starts while the watch is paused starts paused.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self._running_since: float | None = 0.0
        self._elapsed = 0.0
        self._limit = math.inf

    def start(self, limit: float) -> None:
        """Begin at zero; ``scope``, which is new, is cancelled after ``limit`` unpaused seconds."""
        self._limit = limit
        self._elapsed = 0.0
        self.scope = trio.CancelScope()
        if self._running_since is not None:
            self._run()

    def pause(self) -> None:
        """Stand still; idempotent."""
        if self._running_since is None:
            return
        self._elapsed += trio.current_time() - self._running_since
        self._running_since = None
        self.scope.deadline = math.inf

    def resume(self) -> None:
        """Go on; idempotent."""
        if self._running_since is None:
            self._run()

    def elapsed(self) -> float:
        """Unpaused seconds since the start."""
        if self._running_since is None:
            return self._elapsed
        return self._elapsed + trio.current_time() - self._running_since

    def _run(self) -> None:
        now = trio.current_time()
        self._running_since = now
        self.scope.deadline = now + self._limit - self._elapsed
