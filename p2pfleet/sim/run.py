"""One scenario under one seed: run it, have it checked, and say what happened."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core import effects as ef
from p2pfleet.sim.checkers.checker import Checker, Violation
from p2pfleet.sim.checkers.credit import Credit
from p2pfleet.sim.checkers.custody import Custody
from p2pfleet.sim.checkers.durability import Durability
from p2pfleet.sim.checkers.evidence import Evidence
from p2pfleet.sim.checkers.invariants import Invariants
from p2pfleet.sim.checkers.liveness import Liveness
from p2pfleet.sim.checkers.safety import Safety
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.kernel import Kernel, uncollected
from p2pfleet.sim.machine import Machine
from p2pfleet.sim.scenario import Scenario
from p2pfleet.sim.story import Story
from p2pfleet.sim.trace import Trace

LOOK_MS = 250


class Outcome(msgspec.Struct, frozen=True):
    """What became of a scenario under one seed.

    ``trace`` is the trace's hash; ``events`` counts all that was taken from the heap,
    ``core_events`` what cores took in; ``ended_ms`` is simulated time. ``executions`` counts units
    that were run, by anybody, for the ``units`` there are, ``audits`` those of them that publishers
    ran of their own jobs.
    """

    scenario: str
    seed: int
    trace: str
    events: int
    core_events: int
    ended_ms: int
    units: int
    settled: int
    wrong: int
    failed: int
    executions: int
    audits: int
    crashes: int
    messages: int
    lost: int
    jobs: tuple[str, ...]
    violations: tuple[Violation, ...]

    @property
    def held(self) -> bool:
        """Whether everything held that had to."""
        return not self.violations


class Panel:
    """All checkers, as one witness."""

    def __init__(self, cluster: Cluster) -> None:
        self.safety = Safety(cluster)
        self.durability = Durability(cluster)
        self.invariants = Invariants(cluster)
        self.credit = Credit(cluster)
        self.evidence = Evidence(cluster)
        self.custody = Custody(cluster)
        self.all: tuple[Checker, ...] = (
            self.safety,
            self.durability,
            Liveness(cluster),
            self.invariants,
            self.credit,
            self.evidence,
            self.custody,
        )
        self.stepped = self.invariants.stepped  # no other looks at steps, and there are many
        self._looking: dict[type, list[Checker]] = {}
        for checker in self.all:
            for kind in checker.looks_at:
                self._looking.setdefault(kind, []).append(checker)

    def synced(self, machine: Machine, writes: Sequence[ef.Write]) -> None:
        for write in writes:
            for checker in self._looking.get(type(write), ()):
                checker.synced(machine, write)

    def acting(self, machine: Machine, act: ef.Act) -> None:
        self.durability.acting(machine, act)

    def restored(self, machine: Machine) -> None:
        self.durability.restored(machine)

    def died(self, machine: Machine) -> None:
        self.custody.died(machine)

    def found(self) -> tuple[Violation, ...]:
        """What all of them found, in the order of time."""
        found = [violation for checker in self.all for violation in checker.found]
        return tuple(sorted(found, key=lambda violation: violation.at_ms))


def simulate(scenario: Scenario, seed: int, story: Story | None = None) -> Outcome:
    """Run ``scenario`` under ``seed``; equal arguments give an equal outcome.

    A ``story`` is filled on the way and changes nothing. An assertion of the core that fails is a
    violation like any other, and ends the run.
    """
    kernel = Kernel(seed)
    trace = Trace(story)
    cluster = Cluster(scenario, kernel, trace)
    panel = Panel(cluster)
    cluster.world.witness = panel
    end = scenario.calm_ms + scenario.expect.within_ms

    def look() -> None:
        if cluster.over():
            kernel.halt()
        else:
            kernel.later(LOOK_MS, look)

    cluster.begin()
    kernel.later(LOOK_MS, look)
    try:
        with uncollected():
            kernel.run(end)
    except AssertionError as error:
        panel.invariants.violated("?", f"an assertion failed: {_place(error)}")
    for checker in panel.all:
        checker.at_end()
    rows = [
        row
        for job in cluster.published
        if job in cluster.publisher(job).disk.jobs
        for row in cluster.publisher(job).disk.jobs[job].units.values()
    ]
    return Outcome(
        scenario=scenario.name,
        seed=seed,
        trace=trace.digest(),
        events=kernel.events,
        core_events=trace.steps,
        ended_ms=kernel.now,
        units=sum(job.units for job in scenario.jobs),
        settled=sum(row.state == "settled" for row in rows),
        wrong=len(panel.safety.wrong),
        failed=sum(row.state == "failed" for row in rows),
        executions=sum(machine.compute.executed for machine in cluster.machines),
        audits=sum(machine.compute.audited for machine in cluster.machines),
        crashes=sum(machine.crashes for machine in cluster.machines),
        messages=cluster.network.delivered,
        lost=cluster.network.lost + cluster.world.dropped,
        jobs=tuple(job.hex() for job in cluster.published),
        violations=panel.found(),
    )


def _place(error: AssertionError) -> str:
    """Where it failed, and what it says."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = "" if last is None else f"{last.tb_frame.f_code.co_qualname}, line {last.tb_lineno}"
    return f"{where} {error}".strip()
