"""How far a job is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from p2pfleet.cli.output import Output, duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY_S = 5.0
RATE_OVER_S = 60.0
RATE_FROM_S = 3.0


def done_units(job: Mapping[str, Any]) -> int:
    """Units that need no more work: settled or failed."""
    return int(job["settled"]) + int(job["failed"])


class Pace:
    """Estimates the time left from the units done in the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, done: int, units: int, now_s: float) -> float | None:
        """Seconds left, or ``None`` as long as nothing can be said."""
        self._seen.append((now_s, done))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - RATE_OVER_S:
            self._seen.popleft()
        first_s, first = self._seen[0]
        span_s = now_s - first_s
        if span_s < RATE_FROM_S or done <= first:
            return None
        return (units - done) * span_s / (done - first)


class JobProgress:
    """Shows one job on standard error; silent when nothing changes."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._pace = Pace()
        self._bar: Bar | None = None
        self._line_at = 0.0
        self._line = ""

    def __enter__(self) -> JobProgress:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.completed:.0f}/{task.total:.0f} units"),
                BarColumn(),
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, job: Mapping[str, Any]) -> None:
        """Show the state in the job dictionary ``job``."""
        now = time.monotonic()
        units, done = int(job["units"]), done_units(job)
        left = self._pace.update(done, units, now)
        facts = [
            f"{int(job['certified'])} certified" if job["certified"] else "",
            f"{int(job['contested'])} contested" if job["contested"] else "",
            f"{int(job['failed'])} failed" if job["failed"] else "",
            f"{int(job['running'])} replicas running",
            f"{int(job['volunteers'])} volunteers",
            f"about {duration(left)} left" if left is not None and done < units else "",
        ]
        text = ", ".join(fact for fact in facts if fact)
        if self._bar is not None:
            if not self._bar.task_ids:
                self._bar.add_task("", total=units)
            self._bar.update(self._bar.task_ids[0], completed=done, description=text)
            return
        line = f"{int(job['settled'])} of {units} units settled, {text}"
        if line != self._line and (now >= self._line_at or done == units):
            self._output.note(line)
            self._line = line
            self._line_at = now + LINE_EVERY_S
