"""Liveness: once the faults stop, every unit is settled or failed with a reason, in time.

Of a job whose publisher is no honest one only this is asked: that its volunteers get rid of it.
"""

from __future__ import annotations

from p2pfleet.core.model.ids import JobId
from p2pfleet.sim.checkers.checker import Checker

UNITS_NAMED = 3


class Liveness(Checker):
    """Looks at the end only; the run ends as soon as all is over, or at the bound."""

    name = "liveness"

    def at_end(self) -> None:
        expect = self.cluster.scenario.expect
        failed = 0
        for number, plan in enumerate(self.cluster.scenario.jobs):
            if number >= len(self.cluster.published):
                self.violated(plan.publisher, f"job {number} was never published")
        for job, manifest in self.cluster.published.items():
            machine = self.cluster.publisher(job)
            if not machine.honest:
                self._rid_of(job)
                continue
            stored = machine.disk.jobs.get(job)
            rows = {} if stored is None else stored.units
            failed += sum(row.state == "failed" for row in rows.values())
            undecided = [
                unit
                for unit in range(manifest.units)
                if unit not in rows or rows[unit].state not in ("settled", "failed")
            ]
            for unit in undecided[:UNITS_NAMED]:
                state = rows[unit].state if unit in rows else "open"
                text = f"{len(undecided)} units are undecided at the end; this one is {state}"
                self.violated(machine.name, text, job, unit)
            if not undecided and (stored is None or stored.state != "completed"):
                self.violated(machine.name, "every unit is decided, yet the job is not over", job)
            for other in self.cluster.machines:
                open_there = other.node is not None and job in other.node.jobs
                if open_there and other.honest and other is not machine and not undecided:
                    self.violated(other.name, "has not heard of the job's end", job)
            worst = [unit for unit, row in sorted(rows.items()) if row.state == "failed"]
            if failed > expect.failed_max and worst:
                text = f"{failed} units failed, {expect.failed_max} may"
                self.violated(machine.name, text, job, worst[0])

    def _rid_of(self, job: JobId) -> None:
        for machine in self.cluster.machines:
            if machine.honest and machine.node is not None and job in machine.node.jobs:
                self.violated(machine.name, "still has the job of a crook open", job)
