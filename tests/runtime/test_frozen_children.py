"""The pause over a real child that is still loading: frozen time counts for no limit."""

from __future__ import annotations

import numpy as np
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.core.model.ids import JobId
from p2pfleet.core.model.job import Limits
from p2pfleet.runtime.children import Children
from p2pfleet.runtime.governor import Governor
from tests.adapters.sandbox import models

JOB = JobId(b"\1" * 32)
LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=10_000, output_bytes=2**20)
CONFIG = SandboxConfig(load_wall_ms=1_000)
ONE = models.bundle(x=np.ones(1, np.float32))


def test_a_model_may_take_its_wall_time_to_load_however_long_it_was_frozen() -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with open_sandbox(CONFIG) as sandbox, trio.open_nursery() as nursery:
                governor = Governor()
                children = Children(sandbox, 1, governor)
                nursery.start_soon(governor.run)
                outputs = []

                async def unit() -> None:
                    async with children.child(JOB, models.doubling, LIMITS) as child:
                        outputs.append((await child.execute(ONE)).outputs)

                async def pause_while_it_loads() -> None:
                    while not governor._children:
                        await trio.lowlevel.checkpoint()
                    children.set_paused(True)
                    await trio.sleep(1.5)
                    assert outputs == []
                    children.set_paused(False)

                async with trio.open_nursery() as both:
                    both.start_soon(pause_while_it_loads)
                    both.start_soon(unit)
                assert outputs == [models.bundle(y=np.full(1, 2, np.float32))]
                children.close()
                nursery.cancel_scope.cancel()

    trio.run(main)
