"""Publishing on a network of this machine from a node in this process, and what was seen of it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import LocalNetwork
from p2pfleet.cli.logs import log_to_file
from p2pfleet.cli.output import Output
from p2pfleet.cli.waiting import wait_inside
from p2pfleet.config.node_file import load_config

if TYPE_CHECKING:
    from p2pfleet.app import RunningNode
    from p2pfleet.submission import SubmitRequest

ACQUAINTANCE_S = 20.0
PATIENCE_S = 60.0


class Published(msgspec.Struct, frozen=True):
    """The job as it was in the end, and the publisher's records of all peers.

    ``late``: the time was over before the job was.
    """

    job: dict[str, Any]
    records: list[dict[str, Any]]
    late: bool


@contextmanager
def temporary_folder(
    output: Output, interruptions: Interruptions, name: str, keep: bool
) -> Iterator[Path]:
    """A folder for as long as the block runs, or for good."""
    folder = Path(tempfile.mkdtemp(prefix=f"p2pfleet-{name}-"))
    try:
        yield folder
    finally:
        with interruptions.held():
            if keep:
                output.note(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)


def publish_here(
    output: Output,
    network: LocalNetwork,
    data_dir: Path,
    results: Path,
    request: SubmitRequest,
    *,
    until: Callable[[], float],
    go_on: str,
) -> Published:
    """Publish from a node in ``data_dir``, wait, and write what there is to ``results``.

    First every node of ``network`` gets its chance to be known: a short job would be over before
    late acquaintances heard of it. ``until`` says when to wait no longer, on the monotonic clock
    (s); it is asked once the job is published, and before. ``go_on`` says what becomes of the job
    if nobody comes. Raises :class:`KeyboardInterrupt` when a signal ended it.
    """
    from p2pfleet.cli.embedded import with_node

    log_to_file(data_dir / "node.log", "debug" if output.debug else "info")
    config = load_config(
        None, data_dir=data_dir, listen=("/ip4/127.0.0.1/tcp/0",), roles=("publisher",)
    )

    async def publish(node: RunningNode) -> Published:
        import trio

        with trio.move_on_after(min(ACQUAINTANCE_S, until() - time.monotonic())):
            while not _knows(node.peers(), [one.peer for one in network.nodes]):
                await node.wait_changed()
        warnings: list[str] = []
        job = await node.submit(request, lambda draft: warnings.extend(draft.warnings))
        for text in warnings:
            output.note(f"warning: {text}")
        output.note(f"published job {job.hex()[:12]}")
        with trio.move_on_after(until() - time.monotonic()) as waiting:
            await wait_inside(node, job, output, PATIENCE_S, go_on)
        found = node.job(job)
        await node.results(job, results)
        return Published(found, node.reputation(None), waiting.cancelled_caught)

    ended = with_node(config, publish, stop_note=lambda: output.note("stopping"))
    if ended.result is None:
        raise KeyboardInterrupt
    return ended.result


def _knows(peers: Sequence[dict[str, Any]], wanted: Sequence[str]) -> bool:
    """Whether all of these are connected and have said who they are."""
    greeted = {peer["peer"] for peer in peers if peer["software"]}
    return greeted.issuperset(wanted)
