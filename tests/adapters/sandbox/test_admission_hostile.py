"""Every hostile model, in the real sandbox: it ends as it should, and an honest one runs next.

P2PFLEET_HOSTILE_MODELS names a folder of further ones (see ``tests.hostile.from_folder``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, open_sandbox
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault
from tests.hostile import FAMILIES, HARMLESS_SAMPLES, HOSTILE, RUNS, Hostile, from_folder

from . import models
from .guarded import guarded
from .models import bundle

MB = 2**20
LIMITS = Limits(memory_bytes=512 * MB, cpu_ms=1_000, output_bytes=64 * MB)
# Less than the four seconds for which the catalogue is written: what ends there at a limit ends
# here at the same or at an earlier one, and the rest takes milliseconds.
CONFIG = SandboxConfig(idle=False, load_cpu_ms=2_000, load_wall_ms=8_000, max_wall_ms=4_000)


async def end_of(sandbox: SandboxPool, hostile: Hostile) -> tuple[str, str]:
    """How it ends: the kind of the fault and its reason, or ("runs", "")."""
    try:
        job = await sandbox.load(hostile.model(), LIMITS)
    except ExecutionFault as fault:
        return fault.kind, fault.reason
    try:
        await job.execute(bundle(**hostile.feeds))
    except ExecutionFault as fault:
        return fault.kind, fault.reason
    finally:
        job.kill()  # too large an output leaves it alive
    return RUNS, ""


async def check_that_it_still_serves(sandbox: SandboxPool) -> None:
    assert sandbox.children == 0
    job = await sandbox.load(models.doubling(), LIMITS)
    outputs = (await job.execute(bundle(x=np.ones(1, np.float32)))).outputs
    assert outputs == bundle(y=np.full(1, 2, np.float32))
    job.kill()


async def wrong_ends(sandbox: SandboxPool, hostiles: Sequence[Hostile]) -> list[str]:
    wrong = []
    for hostile in hostiles:
        kind, reason = await end_of(sandbox, hostile)
        if not hostile.ended_well(kind, reason):
            wrong.append(f"{hostile.name} ended as {kind} ({reason}), not as {hostile.ends}")
        await check_that_it_still_serves(sandbox)
    return wrong


@pytest.mark.parametrize("family", FAMILIES)
@guarded(90)
async def test_a_class_of_hostile_models_ends_as_it_should_and_honest_work_goes_on(
    family: str,
) -> None:
    async with open_sandbox(CONFIG) as sandbox:
        server = sandbox.server_pid
        wrong = await wrong_ends(sandbox, [one for one in HOSTILE if one.family == family])
        assert sandbox.server_pid == server

    assert wrong == []


if "P2PFLEET_HOSTILE_MODELS" in os.environ:

    @guarded(300)
    async def test_a_folder_of_hostile_models_ends_in_refusals_and_limits() -> None:
        hostiles = from_folder(Path(os.environ["P2PFLEET_HOSTILE_MODELS"]), HARMLESS_SAMPLES)
        assert hostiles
        async with open_sandbox(CONFIG) as sandbox:
            assert await wrong_ends(sandbox, hostiles) == []
