"""A sandbox behind the port whose children do what the test says, and remember what was done."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio

from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import (
    Execution,
    ExecutionFault,
    ModelSignature,
    SandboxJob,
    SandboxReport,
    TensorSpec,
)

LIMITS = Limits(memory_bytes=2**26, cpu_ms=1000, output_bytes=2**20)
REPORT = SandboxReport(Capability("A", b"", "1.0.0"), (), "", "")
FOREVER = math.inf


class FakeChild(SandboxJob):
    """Needs so many seconds of unfrozen time for its model and for a unit."""

    def __init__(self, sandbox: FakeSandbox, model: bytes) -> None:
        self.sandbox = sandbox
        self.model = model
        self.frozen = False
        self.dead = False
        self.loaded = False
        self.computed_s = 0.0
        self.switches = 0
        self._since = trio.current_time()
        self._moved = trio.Event()

    @property
    def signature(self) -> ModelSignature:
        return ModelSignature((TensorSpec("x", "float32", (1,)),), ())

    async def load(self) -> None:
        if self.sandbox.load_fault is not None:
            self.dead = True
            raise self.sandbox.load_fault
        await self._compute(self.sandbox.load_s)
        self.loaded = True

    async def count(self, inputs: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return 1

    async def execute(self, inputs: bytes) -> Execution:
        assert self.loaded
        if self.sandbox.unit_fault is not None:
            raise self.sandbox.unit_fault
        await self._compute(self.sandbox.unit_s)
        return Execution(inputs, 1, 1)

    async def _compute(self, seconds: float) -> None:
        end = self.measured() + seconds
        try:
            while (left := end - self.measured()) > 1e-9 or self.frozen:
                if self.dead:
                    raise ExecutionFault("killed", "it is dead")
                with trio.move_on_after(math.inf if self.frozen else left):
                    await self._moved.wait()
        except BaseException:
            self.dead = True
            raise

    def measured(self) -> float:
        """Unfrozen seconds since its start."""
        running = 0.0 if self.frozen or self.dead else trio.current_time() - self._since
        return self.computed_s + running

    def _switch(self, frozen: bool) -> None:
        self.computed_s = self.measured()
        self._since = trio.current_time()
        self.switches += self.frozen != frozen
        self.frozen = frozen
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def freeze(self) -> None:
        self._switch(True)

    def thaw(self) -> None:
        self._switch(False)

    def kill(self) -> None:
        self.computed_s = self.measured()
        self.dead = True
        self._wake()


class FakeSandbox:
    """Starts :class:`FakeChild`; ``started`` are all of them."""

    def __init__(self, load_s: float = 0.0, unit_s: float = 0.0) -> None:
        self.load_s = load_s
        self.unit_s = unit_s
        self.load_fault: ExecutionFault | None = None
        self.unit_fault: ExecutionFault | None = None
        self.started: list[FakeChild] = []
        self.on_start: Callable[[], Any] = lambda: None

    @property
    def report(self) -> SandboxReport:
        return REPORT

    async def start(self, model: bytes, limits: Limits) -> FakeChild:
        await trio.lowlevel.checkpoint()
        child = FakeChild(self, model)
        self.started.append(child)
        self.on_start()
        return child

    async def load(self, model: bytes, limits: Limits) -> FakeChild:
        child = await self.start(model, limits)
        await child.load()
        return child
