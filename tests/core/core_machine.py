"""One computer of the cluster: a node while it lives, its disk, its sandbox."""

from __future__ import annotations

from collections.abc import Callable

from core_disk import Disk
from core_samples import CAPABILITY, honest, peer

from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import Digest, JobId, sha256

Task = tuple[JobId, int]


class Machine:
    """One computer: a node while it lives, its disk, its sandbox, and how honest it is.

    A liar answers wrongly in ``lie_share`` of the units; liars of the same ``lies`` lie alike.
    Processors of another ``kind`` get other bytes, which are the same answer within a tolerance.
    """

    def __init__(
        self, name: str, slots: int, work_ms: int, lies: str, lie_share: float, kind: str
    ) -> None:
        self.name, self.me = name, peer(name)
        self.slots, self.work_ms, self.lies, self.lie_share = slots, work_ms, lies, lie_share
        self.kind = kind
        self.capability = CAPABILITY
        if kind:
            self.capability = Capability("A", sha256(kind.encode()), "1.32.0")
        self.disk = Disk()
        self.clock = 0  # its monotonic clock minus the cluster's
        self.executed: list[Task] = []
        self.life = 0
        self.power_off()

    def power_off(self) -> None:
        self.node: Node | None = None
        self.life += 1
        self.tick: int | None = None
        self.dies_after: int | None = None
        self.paused = False
        self.queue: list[Task] = []
        self.running: dict[Task, int] = {}
        self.frozen: list[tuple[Task, int]] = []

    def answer(self, job: JobId, unit: int) -> Digest:
        right = right_answer(job, unit, self.kind)
        lying = self.lies and sha256(self.me + right)[0] < 256 * self.lie_share
        return Digest(sha256(right + self.lies.encode())) if lying else right

    def drop(self, gone: Callable[[Task], bool], kill: bool) -> None:
        self.queue = [task for task in self.queue if not gone(task)]
        if kill:
            self.running = {task: at for task, at in self.running.items() if not gone(task)}


def right_answer(job: JobId, unit: int, kind: str = "") -> Digest:
    """What an honest machine with a processor of a kind gets."""
    return Digest(sha256(honest(job, unit) + kind.encode())) if kind else honest(job, unit)
