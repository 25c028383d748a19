"""A machine's sandbox and its blobs: units take time, may fail, and need inputs from somebody."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.scenario import MachineKind

OUTPUT_BYTES = 100
FETCH_MS = (10, 150)

Task = tuple[JobId, int]
Answer = tuple[Digest, bool]
"""What a machine votes for, and whether it keeps an output with this digest."""


def right_digest(job: JobId, unit: int, numeric_class: str, divergent: float) -> Digest:
    """The digest that an honest machine of a numeric class gets.

    In a share ``divergent`` of a job's units the classes differ among each other.
    """
    plain = hashlib.sha256(job + unit.to_bytes(8, "big")).digest()
    if divergent and int.from_bytes(plain[:4], "big") < divergent * 2**32:
        plain = hashlib.sha256(plain + numeric_class.encode()).digest()
    return Digest(plain)


class Host(Protocol):
    """What the sandbox needs of its machine."""

    kind: MachineKind
    disk: Disk
    life: int

    def tell(self, event: ev.Event) -> None:
        """Tell the core."""
        ...

    def answer(self, job: JobId, unit: int) -> Answer | None:
        """What running a unit gives here; ``None``: it never ends."""
        ...

    def unit_ms(self) -> int:
        """How long the next execution takes."""
        ...

    def reach(self, sources: Sequence[PeerId]) -> list[Disk]:
        """The disks of those sources that are connected and serve what they have."""
        ...


class Compute:
    """Runs what the core asks for in ``slots`` children; all of it ends with the power."""

    def __init__(self, kernel: Kernel, host: Host) -> None:
        self.kernel, self.host = kernel, host
        self.executed = 0
        self.clear()

    def clear(self) -> None:
        """The machine went off."""
        self.paused = False
        self._tokens = 0
        self._open: dict[JobId, bool] = {}
        self._queue: dict[Task, tuple[PeerId, ...]] = {}
        self._under_way: dict[Task, int] = {}
        self._frozen: list[tuple[Task, int]] = []

    @property
    def busy(self) -> int:
        """Units that run now."""
        return len(self._under_way)

    def act(
        self, effect: ef.OpenJob | ef.Execute | ef.Withdraw | ef.ShutJob | ef.SetPaused | ef.Fetch
    ) -> None:
        """Begin what the core asked for."""
        match effect:
            case ef.OpenJob():
                self._later(FETCH_MS, self._opened, effect)
            case ef.Fetch():
                self._later(FETCH_MS, self._fetched, effect)
            case ef.Execute(job=job, unit=unit):
                task = (job, unit)
                if job in self._open and task not in self._under_way and task not in self._queue:
                    self._queue[task] = effect.sources
                    self._work()
            case ef.Withdraw(job=job, units=units, kill=kill):
                for unit in units:
                    self._queue.pop((job, unit), None)
                    if kill:
                        self._under_way.pop((job, unit), None)
                self._work()
            case ef.ShutJob(job=job, keep=keep):
                self._open.pop(job, None)
                self._queue = {t: s for t, s in self._queue.items() if t[0] != job}
                self._under_way = {t: s for t, s in self._under_way.items() if t[0] != job}
                if not keep:
                    self.host.disk.drop_blobs(job)
                self._work()
            case ef.SetPaused(paused=paused):
                self.paused = paused
                frozen, self._frozen = self._frozen, []
                for task, token in frozen:
                    self.kernel.later(0, self._alive, self.host.life, self._finish, (task, token))
                self._work()

    def _later(self, span: tuple[int, int], act: Callable[..., None], *what: object) -> None:
        self.kernel.later(self.kernel.draw(span), self._alive, self.host.life, act, what)

    def _alive(self, life: int, act: Callable[..., None], what: tuple[object, ...]) -> None:
        if life == self.host.life:
            act(*what)

    # ---- blobs -------------------------------------------------------------------------------

    def _opened(self, effect: ef.OpenJob) -> None:
        job, disk = effect.job, self.host.disk
        if job not in disk.models and any(
            job in near.models for near in self.host.reach(effect.sources)
        ):
            disk.models[job] = True
        if job in disk.models:
            self._open[job] = True
            self.host.tell(ev.JobOpened(job))
        else:
            self.host.tell(ev.JobUnavailable(job, "nobody here has the model", final=False))

    def _fetched(self, effect: ef.Fetch) -> None:
        job, ref = effect.job, effect.ref
        digest = Digest(ref.sha256)
        mine = self.host.disk.outputs.setdefault(job, {})
        for near in self.host.reach(effect.sources):
            if near.outputs.get(job, {}).get(digest) == ref.length:
                mine[digest] = ref.length
        if mine.get(digest) == ref.length:
            self.host.tell(ev.BlobArrived(job, ref))
        else:
            self.host.tell(ev.BlobFailed(job, ref, "nobody here has the output"))

    def _has_input(self, task: Task, sources: tuple[PeerId, ...]) -> bool:
        job, unit = task
        mine = self.host.disk.inputs.setdefault(job, {})
        if unit not in mine and any(
            unit in near.inputs.get(job, {}) for near in self.host.reach(sources)
        ):
            mine[unit] = True
        return unit in mine

    # ---- units -------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._queue and len(self._under_way) < self.host.kind.slots and not self.paused:
            task = next(iter(self._queue))
            sources = self._queue.pop(task)
            self._tokens += 1
            self._under_way[task] = self._tokens
            known = task[1] in self.host.disk.inputs.get(task[0], {})
            self._later((0, 0) if known else FETCH_MS, self._begin, task, self._tokens, sources)

    def _begin(self, task: Task, token: int, sources: tuple[PeerId, ...]) -> None:
        if self._under_way.get(task) != token:
            return
        if not self._has_input(task, sources):
            del self._under_way[task]
            self.host.tell(ev.UnitUnavailable(*task, "nobody here has the input"))
            self._work()
            return
        wall_ms = self.host.unit_ms()
        self._later((wall_ms, wall_ms), self._finish, task, token, wall_ms)

    def _finish(self, task: Task, token: int, wall_ms: int = 1) -> None:
        if self._under_way.get(task) != token:
            return
        if self.paused:
            self._frozen.append((task, token))
            return
        self.executed += 1
        if self.kernel.chance(self.host.kind.fails):
            kind = ("wall", "crash", "killed")[self.kernel.random.randrange(3)]
            del self._under_way[task]
            self.host.tell(ev.UnitFaulted(*task, kind, "the child died"))
        else:
            answer = self.host.answer(*task)
            del self._under_way[task]
            if answer is not None:  # else it is kept back, and its slot is free
                digest, kept = answer
                if kept:
                    self.host.disk.outputs.setdefault(task[0], {})[digest] = OUTPUT_BYTES
                self.host.tell(ev.UnitExecuted(*task, digest, OUTPUT_BYTES, wall_ms))
        self._work()
