"""What each machine's own state must fulfil after every step.

Touched units are looked at after the step that touched them; everything else is recounted every
128th step of a machine and at the end, because a recount takes as long as the job is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.publisher import FETCHES_MAX
from p2pfleet.core.machines.settlement import DECIDED
from p2pfleet.core.machines.units import Unit
from p2pfleet.core.rules.shards import SERVED_MAX
from p2pfleet.sim.checkers.checker import Checker

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine

RECOUNT_STEPS = 128
STATES = ("open", "certified", "contested", "settled", "failed")


class Invariants(Checker):
    """Counts equal sums, queues stay bounded, nobody ticks without end."""

    name = "invariants"

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self._steps: dict[int, int] = {}

    def stepped(self, machine: Machine, event: ev.Event, effects: Sequence[ef.Effect]) -> None:
        node = machine.node
        if node is None:
            return
        if type(event) is ev.Tick:
            now = machine.clock.monotonic(self.cluster.kernel.now)
            deadline = node.deadline()
            if node.restored and deadline is not None and deadline <= now:
                self.violated(machine.name, "asks to be ticked again at once")
        for effect in effects:
            if type(effect) is ef.Send:
                if list(effect.peers) != sorted(effect.peers):
                    self.violated(machine.name, "sends to peers out of order")
            elif type(effect) is ef.SaveUnits and effect.job in node.jobs:
                job = node.jobs[effect.job]
                for row in effect.rows:
                    self._unit(machine, job, row.unit, job.settlement.units[row.unit])
        count = self._steps[machine.number] = self._steps.get(machine.number, 0) + 1
        if count % RECOUNT_STEPS == 0:
            self.recount(machine, node)

    def at_end(self) -> None:
        for machine in self.cluster.machines:
            if machine.node is not None:
                self.recount(machine, machine.node)

    def recount(self, machine: Machine, node: Node) -> None:
        """Everything that can be counted twice."""
        if set(node.book.open) & set(node.book.ended):
            self.violated(machine.name, "a job is open and ended")
        for job in node.jobs.values():
            self._job(machine, job)
        for (_, peer), record in node.standing.current.items():
            if record.agreed < 0 or record.contradicted < 0 or record.milli < 0:
                name = self.cluster.world.by_peer[peer].name
                self.violated(machine.name, f"its record of {name} is below nothing")

    def _job(self, machine: Machine, job: Job) -> None:
        settlement = job.settlement
        counts = dict.fromkeys(STATES, 0)
        votes = 0
        for number, unit in settlement.units.items():
            self._unit(machine, job, number, unit)
            counts[unit.state] = counts.get(unit.state, 0) + 1
            votes += sum(map(len, unit.votes.values()))
        counts["open"] += job.manifest.units - len(settlement.units)
        for state, count in counts.items():
            if settlement.count(state) != count:
                text = f"counts {settlement.count(state)} units as {state}, there are {count}"
                self.violated(machine.name, text, job.id)
        if settlement.votes != votes:
            text = f"counts {settlement.votes} votes, there are {votes}"
            self.violated(machine.name, text, job.id)
        if job.publisher is not None and len(job.publisher.fetching) > FETCHES_MAX:
            self.violated(machine.name, "fetches too much at once", job.id)
        if job.manifest.shards > 1 and machine.node is not None and machine.node.restored:
            self._shards(machine, job)
        if job.volunteer is not None:
            both = sorted(set(job.volunteer.held) & set(job.volunteer.answers.known))
            if both:
                self.violated(machine.name, "holds a claim on what it answered", job.id, both[0])

    def _shards(self, machine: Machine, job: Job) -> None:
        """Decided units are counted by shard, and of shards that it never served it has nothing."""
        settlement = job.settlement
        decided: dict[int, int] = {}
        for number, unit in settlement.units.items():
            shard = settlement.shard(number)
            decided[shard] = decided.get(shard, 0) + (unit.state in DECIDED)
            if shard not in job.shards.known and job.publisher is None:
                self.violated(machine.name, "has a unit of a shard that it never served", job.id)
        for shard, count in decided.items():
            if settlement.decided.get(shard, 0) != count:
                text = f"counts {settlement.decided.get(shard, 0)} decided units, there are {count}"
                self.violated(machine.name, text, job.id)
        if job.publisher is None and len(job.shards.served) > SERVED_MAX:
            self.violated(machine.name, "serves too many shards", job.id)

    def _unit(self, machine: Machine, job: Job, number: int, unit: Unit) -> None:
        wrong = ""
        if not 0 <= number < job.manifest.units:
            wrong = "is none of the job's"
        elif unit.state not in STATES:
            wrong = f"is in no state: {unit.state}"
        elif (unit.certificate is not None) != (unit.state in ("certified", "settled")):
            wrong = f"is {unit.state} {'with' if unit.certificate else 'without'} a certificate"
        elif unit.state == "failed" and not unit.reason:
            wrong = "failed without a reason"
        elif not unit.failures.keys().isdisjoint(unit.votes):
            wrong = "has a vote and a failure of one peer"
        elif not unit.votes.keys() <= unit.commits.keys():
            wrong = "has a vote without a commitment"
        if wrong:
            self.violated(machine.name, wrong, job.id, number)
