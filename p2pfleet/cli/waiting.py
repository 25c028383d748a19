"""Waiting for a job: until it is over, or until it is plain that nobody is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from p2pfleet.cli.output import CommandFailed, Output
from p2pfleet.cli.progress import JobProgress, done_units
from p2pfleet.core.errors import ExitCode

if TYPE_CHECKING:
    from p2pfleet.adapters.control.client import ControlClient
    from p2pfleet.app import RunningNode
    from p2pfleet.core.model.ids import JobId

PATIENCE_S = 30.0
LOOK_EVERY_S = 0.5


Over = Callable[[Mapping[str, Any]], bool]


class Wait:
    """Looks at a job again and again. ``patience_s``: how long no volunteer at all may be there."""

    def __init__(self, progress: JobProgress, patience_s: float | None) -> None:
        self._progress = progress
        self._lonely_at = None if patience_s is None else time.monotonic() + patience_s
        self._patience_s = patience_s or 0.0

    def over(self, job: Mapping[str, Any], go_on: str) -> bool:
        """Show ``job``; whether there is nothing more to wait for.

        Raises :class:`CommandFailed` (NO_PEERS) when nobody came. ``go_on`` says what becomes of
        the job then.
        """
        self._progress.update(job)
        if is_over(job):
            return True
        if job["volunteers"] or done_units(job) or job["certified"]:
            self._lonely_at = None
        if self._lonely_at is not None and time.monotonic() >= self._lonely_at:
            raise CommandFailed(
                f"no volunteer answered in {self._patience_s:.0f} s.",
                "Check that volunteers run on this very network ('p2pfleet peers' on one of them),"
                " that the bootstrap addresses in its network.toml are right and reachable, and"
                f" that no firewall is in between. {go_on}"
                " To wait for volunteers however long it takes, add --wait-for-peers.",
                ExitCode.NO_PEERS,
                {"job": job},
            )
        return False


def is_over(job: Mapping[str, Any]) -> bool:
    """Whether the job will not change any more."""
    return str(job["state"]) != "active"


def look_through(client: ControlClient, job: str, over: Over) -> dict[str, Any]:
    """Look at ``job`` of the node behind ``client`` until it is ``over``; its last state."""
    while True:
        state: dict[str, Any] = client.call("job", job=job)
        if over(state):
            return state
        time.sleep(LOOK_EVERY_S)


async def look_inside(node: RunningNode, job: JobId, over: Over) -> dict[str, Any]:
    """Look at ``job`` of a node in this process until it is ``over``; its last state."""
    import trio

    while True:
        state: dict[str, Any] = node.job(job)
        if over(state):
            return state
        with trio.move_on_after(LOOK_EVERY_S):
            await node.wait_changed()


def wait_through(
    client: ControlClient, job: str, output: Output, patience_s: float | None, go_on: str
) -> dict[str, Any]:
    """Wait for ``job`` of the node behind ``client``; its last state."""
    with JobProgress(output) as progress:
        wait = Wait(progress, patience_s)
        return look_through(client, job, lambda state: wait.over(state, go_on))


async def wait_inside(
    node: RunningNode, job: JobId, output: Output, patience_s: float | None, go_on: str
) -> dict[str, Any]:
    """Wait for ``job`` of a node in this process; its last state."""
    with JobProgress(output) as progress:
        wait = Wait(progress, patience_s)
        return await look_inside(node, job, lambda state: wait.over(state, go_on))


def outcome(job: Mapping[str, Any]) -> list[str]:
    """What became of a job, for a person."""
    units = job["units"]
    lines = [f"{job['settled']} of {units} units settled"]
    if job["certified"]:
        lines[0] += f", {job['certified']} certified"
    if job["failed"]:
        lines[0] += f", {job['failed']} failed"
    lines[0] += f" ({job['state']})"
    if job.get("reason"):
        lines.append(f"reason: {job['reason']}")
    lines += [
        f"unit {failure['unit']} failed: {failure['reason']}" for failure in job.get("failures", ())
    ]
    return lines


def succeeded(job: Mapping[str, Any]) -> bool:
    """Whether every unit of the job has an answer that counts."""
    return int(job["certified"]) + int(job["settled"]) == int(job["units"]) and not job["failed"]
