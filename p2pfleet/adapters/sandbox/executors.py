"""Which executor runs whose models on this machine."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.pool import open_sandbox
from p2pfleet.adapters.sandbox.unconfined import open_unconfined
from p2pfleet.ports import Sandbox


class Executors(msgspec.Struct, frozen=True):
    """``strangers``: for other people's jobs; its report is the node's. ``own``: for the models
    that this node publishes, which are tried here first."""

    strangers: Sandbox
    own: Sandbox


@asynccontextmanager
async def open_executors(config: SandboxConfig | None = None) -> AsyncIterator[Executors]:
    """The sandbox for both, where there is one that holds.

    Where it does not hold it runs nothing, and one's own models are tried in ordinary processes;
    systems other than Linux have only those. Raises :class:`P2pfleetError` if onnxruntime cannot
    be started at all.
    """
    if not sys.platform.startswith("linux"):
        async with open_unconfined(config) as executor:
            yield Executors(executor, executor)
        return
    async with open_sandbox(config) as sandbox:
        if sandbox.report.capability.grade != "none":
            yield Executors(sandbox, sandbox)
            return
        async with open_unconfined(config) as own:
            yield Executors(sandbox, own)
