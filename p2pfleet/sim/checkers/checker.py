"""What a checker is told, and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from p2pfleet.core import effects as ef
from p2pfleet.core.events import Event
from p2pfleet.core.model.ids import JobId

if TYPE_CHECKING:
    from p2pfleet.sim.cluster import Cluster
    from p2pfleet.sim.machine import Machine

VIOLATIONS_MAX = 20


class Violation(msgspec.Struct, frozen=True):
    """Something that must not be; ``at_ms`` is true time, ``unit`` one of ``job``, if any."""

    checker: str
    at_ms: int
    machine: str
    text: str
    job: JobId | None = None
    unit: int | None = None


class Checker:
    """Looks on and finds violations; the first are kept. A subclass overrides what it needs."""

    name = "checker"
    looks_at: tuple[type, ...] = ()
    """The kinds of writes of which :meth:`synced` is told."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.found: list[Violation] = []

    def violated(
        self, machine: str, text: str, job: JobId | None = None, unit: int | None = None
    ) -> None:
        """Something must not be."""
        if len(self.found) < VIOLATIONS_MAX:
            now = self.cluster.kernel.now
            self.found.append(Violation(self.name, now, machine, text, job, unit))

    def stepped(self, machine: Machine, event: Event, effects: Sequence[ef.Effect]) -> None:
        """A core took an event in."""

    def synced(self, machine: Machine, write: ef.Write) -> None:
        """A write became durable."""

    def acting(self, machine: Machine, act: ef.Act) -> None:
        """An act is about to be carried out."""

    def restored(self, machine: Machine) -> None:
        """A core has taken in what the disk holds."""

    def died(self, machine: Machine) -> None:
        """A machine broke for good."""

    def at_end(self) -> None:
        """The simulation is over."""
