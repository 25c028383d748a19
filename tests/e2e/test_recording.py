"""A recording of real nodes on a real network replays to the same effects."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from p2pfleet.app import RunningNode, SubmitRequest, open_node
from p2pfleet.config.node_file import NodeConfig
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.resources import resource_path
from p2pfleet.runtime.recording import differences, replay, segments

pytestmark = pytest.mark.e2e

NETWORK = NetworkFile(NetworkParameters("testnet-recording", testnet=True))
DIGITS = resource_path("testnet", "jobs", "digits")


def config(folder: Path, *, bootstrap: tuple[str, ...] = (), slots: int = 1) -> NodeConfig:
    return NodeConfig(
        data_dir=folder,
        network=NETWORK,
        listen=("/ip4/127.0.0.1/tcp/0",),
        bootstrap=bootstrap,
        roles=("volunteer",) if slots else ("publisher",),
        slots=slots,
        recording=True,
    )


@contextlib.asynccontextmanager
async def three_volunteers_and_a_publisher(base: Path) -> AsyncIterator[RunningNode]:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(config(base / "first")))
        bootstrap = first.addresses[:1]
        for name in ("second", "third"):
            await stack.enter_async_context(
                open_node(config(base / name, bootstrap=bootstrap), liar=name == "third")
            )
        yield await stack.enter_async_context(
            open_node(config(base / "publisher", bootstrap=bootstrap, slots=0))
        )


def test_a_recorded_job_replays_to_the_same_effects(tmp_path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(90):
            async with three_volunteers_and_a_publisher(tmp_path) as publisher:
                job = await publisher.submit(
                    SubmitRequest(
                        model=str(DIGITS / "digits.onnx"),
                        inputs=(str(DIGITS / "digits.npz"),),
                        name="recorded",
                        split="0:200",
                    )
                )
                while publisher.job(job)["state"] == "active":
                    await publisher.wait_changed()
                assert publisher.job(job)["settled"] == 9

    trio.run(main)
    for name in ("first", "second", "third", "publisher"):
        folder = tmp_path / name / "recording"
        steps = [step for segment in segments(folder) for _, step, _ in replay(segment)]
        assert len(steps) > 10
        assert any(step.effects for step in steps)
        assert differences(folder) == []


def test_a_node_lies_on_testnets_only(tmp_path: Path) -> None:
    honest = NodeConfig(
        data_dir=tmp_path,
        network=NetworkFile(NetworkParameters("earnest")),
        listen=("/ip4/127.0.0.1/tcp/0",),
        bootstrap=(),
        roles=("volunteer",),
        slots=1,
    )

    async def main() -> None:
        async with open_node(honest, liar=True):
            raise AssertionError("the node should not have started")

    with pytest.raises(P2pfleetError, match="not a testnet"):
        trio.run(main)
