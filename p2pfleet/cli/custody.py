"""Waiting until others keep what a job needs, so that its publisher may leave."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from p2pfleet.cli.output import CommandFailed, Output, duration
from p2pfleet.cli.progress import Pace
from p2pfleet.cli.waiting import is_over, look_inside, look_through
from p2pfleet.core.errors import ExitCode

if TYPE_CHECKING:
    from p2pfleet.adapters.control.client import ControlClient
    from p2pfleet.app import RunningNode
    from p2pfleet.core.model.ids import JobId

PATIENCE_S = 60.0
LINE_EVERY_S = 5.0


def custody_text(custody: Mapping[str, Any]) -> str:
    """Who keeps what a job needs, in one line."""
    if not custody["blobs"]:
        return "the unit table is not here yet"
    text = (
        f"{custody['kept']} of {custody['blobs']} blobs are kept by {custody['copies']} volunteers "
        f"({custody['keepers']} keep something, {custody['mine']} blobs are kept here)"
    )
    return text if custody["recorded"] else f"{text}; its publisher has not recorded it yet"


class CustodyWait:
    """Looks at a job again and again. ``patience_s``: how long nothing at all may get better;
    ``None``: for ever."""

    def __init__(self, output: Output, patience_s: float | None) -> None:
        self._output = output
        self._patience_s = patience_s
        self._pace = Pace()
        self._best = -1
        self._better_at = time.monotonic()
        self._line_at = 0.0
        self._line = ""

    def done(self, job: Mapping[str, Any], go_on: str) -> bool:
        """Show ``job``; whether the publisher may leave.

        Raises :class:`CommandFailed` (UNKEPT) when nothing gets better any more. ``go_on`` says how
        to keep a node running.
        """
        if is_over(job):
            return True
        custody = job["custody"]
        if custody["blobs"] and custody["kept"] == custody["blobs"] and custody["recorded"]:
            self._show(custody, None, last=True)
            return True
        now = time.monotonic()
        wanted = custody["blobs"] * custody["copies"]
        left = self._pace.update(custody["signed"], wanted, now)
        self._show(custody, left)
        if custody["signed"] > self._best:
            self._best, self._better_at = custody["signed"], now
        if self._patience_s is not None and now - self._better_at >= self._patience_s:
            raise CommandFailed(
                self._missing(job, custody),
                f"The job goes on only while its publisher runs: {go_on} (or submit with --wait).",
                ExitCode.UNKEPT,
                {"job": job},
            )
        return False

    def _missing(self, job: Mapping[str, Any], custody: Mapping[str, Any]) -> str:
        volunteers, copies = job["volunteers"], custody["copies"]
        waited = duration(self._patience_s or 0)
        if volunteers < copies:
            return (
                f"after {waited} there are {volunteers} volunteers, and {copies} have to keep the "
                "model and the inputs before the publisher may leave."
            )
        lacking = custody["blobs"] - custody["kept"]
        return (
            f"{lacking} of {custody['blobs']} blobs of the job are kept by fewer than {copies} "
            f"volunteers, and nothing changed for {waited}: they may have no room for them."
        )

    def _show(self, custody: Mapping[str, Any], left: float | None, last: bool = False) -> None:
        line = (
            f"{custody['kept']} of {custody['blobs']} blobs kept by {custody['copies']} volunteers"
        )
        if left is not None and not last:
            line += f", about {duration(left)} left"
        now = time.monotonic()
        if line != self._line and (last or now >= self._line_at):
            self._output.note(line)
            self._line, self._line_at = line, now + LINE_EVERY_S


def keep_through(
    client: ControlClient, job: str, output: Output, patience_s: float | None, go_on: str
) -> dict[str, Any]:
    """Wait until ``job`` of the node behind ``client`` is kept; its state then."""
    wait = CustodyWait(output, patience_s)
    return look_through(client, job, lambda state: wait.done(state, go_on))


async def keep_inside(
    node: RunningNode, job: JobId, output: Output, patience_s: float | None, go_on: str
) -> dict[str, Any]:
    """Wait until ``job`` of a node in this process is kept; its state then."""
    wait = CustodyWait(output, patience_s)
    return await look_inside(node, job, lambda state: wait.done(state, go_on))
