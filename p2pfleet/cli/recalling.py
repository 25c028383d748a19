"""A publisher that comes back: a node of its own for the time that its jobs take to be collected.

The folder may be a new one that holds the identity alone: what jobs there are is then learnt from
others, who keep them, and from the record that the publisher once signed of them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfleet.cli.folders import Place, remembered_network
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.logs import log_to_file
from p2pfleet.cli.output import CommandFailed, Output
from p2pfleet.cli.progress import JobProgress
from p2pfleet.cli.results_folder import check_results_folder
from p2pfleet.cli.waiting import LOOK_EVERY_S, is_over
from p2pfleet.config.node_file import load_config
from p2pfleet.core.errors import ExitCode, P2pfleetError

if TYPE_CHECKING:
    from p2pfleet.app import RunningNode

FIND_S = 45.0
QUIET_S = 20.0
LIST_S = 15.0
SETTLE_S = 3.0
AGAIN_S = 5.0


def can_recall(place: Place) -> bool:
    """Whether the folder holds an identity, and it is known which network it is of."""
    folder = place.folder
    known = place.network is not None or remembered_network(folder) is not None
    return known and (folder / "identity.key").exists()


def recalled_jobs(place: Place, output: Output) -> list[dict[str, Any]]:
    """The jobs that this identity published, as far as they are known here or to others."""

    async def body(node: RunningNode) -> list[dict[str, Any]]:
        import trio

        output.note("no node is running here: asking the network for the jobs of this identity")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask_on, node)
            found = await _listed(node)
            nursery.cancel_scope.cancel()
        return found

    found: list[dict[str, Any]] = _with_node(place, output, body)
    return found


def recalled_results(
    place: Place, output: Output, job_id: str, folder: Path
) -> tuple[dict[str, Any], Path]:
    """Collect a job of this identity's own into ``folder``; its last state, and the folder's path.

    Raises :class:`P2pfleetError` when nobody knows the job.
    """

    async def body(node: RunningNode) -> tuple[dict[str, Any], Path]:
        import trio

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ask_on, node)
            job = await _find(node, job_id)
            nursery.cancel_scope.cancel()
        results = check_results_folder(folder, job["id"])
        found = await _collect(node, job["id"], output)
        await node.results(node.find_job(job["id"]), results)
        return found, results

    found: tuple[dict[str, Any], Path] = _with_node(place, output, body)
    return found


async def _ask_on(node: RunningNode) -> None:
    import trio

    while True:
        await node.recall()
        await trio.sleep(AGAIN_S)


async def _listed(node: RunningNode) -> list[dict[str, Any]]:
    """The jobs that are found; when others were there for a while, or nobody is for long."""
    import trio

    began = time.monotonic()
    met: float | None = None
    while True:
        found, missing = node.own_jobs()
        now = time.monotonic()
        if met is None and node.peers():
            met = now
        enough = met is not None and now - met >= (SETTLE_S if found and not missing else LIST_S)
        if enough or now - began >= FIND_S:
            return found
        with trio.move_on_after(LOOK_EVERY_S):
            await node.wait_changed()


async def _find(node: RunningNode, job_id: str) -> dict[str, Any]:
    import trio

    until = time.monotonic() + FIND_S
    while time.monotonic() < until:
        for job in node.jobs():
            if job["id"].startswith(job_id) and job["own"]:
                return job
        with trio.move_on_after(LOOK_EVERY_S):
            await node.wait_changed()
    if not node.peers():
        raise P2pfleetError(
            "No other node answered.",
            "Check the network file and its bootstrap addresses, then try again.",
            ExitCode.NO_PEERS,
        )
    return node.job(node.find_job(job_id))  # which says that nobody knows it


async def _collect(node: RunningNode, job_id: str, output: Output) -> dict[str, Any]:
    """Wait until the job is over, or nothing new has come for a while."""
    import trio

    job = node.find_job(job_id)
    last: tuple[int, ...] = ()
    since = time.monotonic()
    with JobProgress(output) as progress:
        while True:
            state = node.job(job)
            progress.update(state)
            seen = tuple(state[key] for key in ("certified", "settled", "failed", "votes"))
            if seen != last:
                last, since = seen, time.monotonic()
            if is_over(state) or time.monotonic() - since >= QUIET_S:
                return state
            with trio.move_on_after(LOOK_EVERY_S):
                await node.wait_changed()


def _with_node(place: Place, output: Output, body: Any) -> Any:
    from p2pfleet.cli.embedded import with_node
    from p2pfleet.cli.submit import ready_folder

    ready_folder(place)
    config = load_config(None, data_dir=place.folder, network=place.network, roles=("publisher",))
    log_to_file(config.data_dir / "results.log", "debug" if output.debug else config.log_level)
    interrupted = True
    try:
        with Interruptions().raised():
            ended = with_node(config, body, stop_note=lambda: output.note("stopping"))
        if ended.result is not None:
            return ended.result
        interrupted = ended.interrupted
    except KeyboardInterrupt:
        pass
    raise CommandFailed(
        "interrupted." if interrupted else "the node was told to stop.",
        "What has been collected is kept in the data folder; ask again for the rest.",
        ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED,
        {},
    )
