"""The children that run models: at most one a slot, kept warm from unit to unit of a job.

A child that serves a unit is under the governor, from before its model is read until the unit is
done. One that waits on the shelf is frozen: it has nothing to do, and whoever took it over shall
not compute between units either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2pfleet.core.model.ids import JobId
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault, Sandbox, SandboxJob
from p2pfleet.runtime.governor import Governor


class Children:
    """Lends children to units; ends those that nobody will want again."""

    def __init__(self, sandbox: Sandbox, slots: int, governor: Governor) -> None:
        self._sandbox = sandbox
        self._governor = governor
        self._slots = trio.Semaphore(max(1, slots))
        self._keep = max(1, slots)
        self._idle: list[tuple[JobId, SandboxJob]] = []
        self._busy: dict[int, tuple[JobId, SandboxJob]] = {}
        self._go = trio.Event()
        self._go.set()
        self._next = 0

    @asynccontextmanager
    async def child(
        self, job: JobId, model: Callable[[], bytes], limits: Limits
    ) -> AsyncIterator[SandboxJob]:
        """A child with the job's model loaded, for one unit. Raises ExecutionFault.

        A child goes back to the shelf only if the unit went well; every fault and every
        cancellation ends it.
        """
        async with self._slots:
            await self._unpaused()
            child = self._take(job)
            fresh = child is None
            if child is None:
                data = await trio.to_thread.run_sync(model)
                await self._unpaused()
                child = await self._sandbox.start(data, limits)
                del data
            key = self._next
            self._next += 1
            self._busy[key] = (job, child)
            self._governor.take(child)
            healthy = False
            try:
                if fresh:
                    await child.load()
                yield child
                healthy = True
            except ExecutionFault as fault:
                healthy = fault.kind in ("input", "output")
                raise
            finally:
                self._governor.drop(child)
                known = self._busy.pop(key, None)
                if healthy and known is not None:
                    child.freeze()
                    self._idle.append((job, child))
                    while len(self._idle) > self._keep:
                        self._idle.pop(0)[1].kill()
                else:
                    child.kill()

    async def _unpaused(self) -> None:
        while not self._go.is_set():
            await self._go.wait()

    def _take(self, job: JobId) -> SandboxJob | None:
        for place, (owner, child) in enumerate(self._idle):
            if owner == job:
                del self._idle[place]
                return child
        return None

    def set_paused(self, paused: bool) -> None:
        """Freeze what runs and start nothing more, or let it go on.

        Whoever shares the governor has to be told as well.
        """
        if paused != self._go.is_set():
            return
        self._governor.set_paused(paused)
        if paused:
            self._go = trio.Event()
        else:
            self._go.set()

    def end(self, job: JobId) -> None:
        """Kill the job's children, also those in the middle of a unit."""
        for key in [key for key, (owner, _) in self._busy.items() if owner == job]:
            self._busy.pop(key)[1].kill()
        for owner, child in self._idle:
            if owner == job:
                child.kill()
        self._idle = [item for item in self._idle if item[0] != job]

    def close(self) -> None:
        """Kill everything."""
        for _, child in [*self._busy.values(), *self._idle]:
            child.kill()
        self._busy.clear()
        self._idle.clear()
