"""Durable before announced; and what a core believes after a restart is what its disk says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.wire.messages import Deliver
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.checkers.checker import Checker
from p2pfleet.sim.signatures import unseal

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine


class Durability(Checker):
    """No judgement of an honest node is lost in a crash, none is made up in a restart."""

    name = "durability"
    looks_at = (ef.SaveJobsRecord,)

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self._records: dict[tuple[int, bytes], bool] = {}

    def synced(self, machine: Machine, write: ef.Write) -> None:
        assert isinstance(write, ef.SaveJobsRecord)
        self._records[machine.number, write.record.hash] = True

    def acting(self, machine: Machine, act: ef.Act) -> None:
        if isinstance(act, ef.Gossip):
            sealed = act.sealed
        elif isinstance(act, ef.Send) and isinstance(act.message, Deliver):
            sealed = act.message.sealed
        else:
            return
        verified = unseal(sealed)
        if isinstance(verified, VerifiedFrame):
            stored = machine.disk.jobs.get(verified.frame.job)
            if stored is not None and stored.state != "active":
                return  # the job ended, and its frames were forgotten, in the same transaction
        if (machine.number, sealed.hash) in self._records:
            return  # it may have been forgotten, or replaced, in the same transaction
        if not machine.disk.holds(sealed):
            self.violated(machine.name, "announced what is not durable")

    def restored(self, machine: Machine) -> None:
        self.compare(machine)

    def at_end(self) -> None:
        for machine in self.cluster.machines:
            if machine.on and not machine.disk.unsynced:
                self.compare(machine)

    def compare(self, machine: Machine) -> None:
        """Hold the core against the disk, while nothing is being synced."""
        node, disk = machine.node, machine.disk
        if node is None or not node.restored:
            return
        if disk.records != node.standing.totals:
            self.violated(machine.name, "its records of peers are not those on its disk")
        if sorted(disk.proofs) != sorted(node.standing.proved):
            self.violated(machine.name, "its proofs of faults are not those on its disk")
        for job_id, job in node.jobs.items():
            if job_id not in disk.jobs:
                self.violated(machine.name, "an open job is not on its disk", job_id)
                continue
            saved = disk.jobs[job_id]
            moves = {
                (unit, peer): kind
                for peer, kinds in node.standing.moves.get(job_id, {}).items()
                for unit, kind in kinds.items()
            }
            if saved.moves != moves:
                self.violated(machine.name, "its moves of records are not those on disk", job_id)
            if job.publisher is not None and job.publisher.judge.poisoned != saved.poisoned:
                self.violated(machine.name, "a poisoned job is none by its disk", job_id)
            withdrawn = {
                (number, *vote)
                for number, unit in job.settlement.units.items()
                for vote in unit.withdrawn
            }
            if withdrawn != {(each.unit, each.peer, each.attempt) for each in saved.withdrawn}:
                text = "the votes that it withdrew are not those on its disk"
                self.violated(machine.name, text, job_id)
            for number, unit in job.settlement.units.items():
                row = saved.units.get(number)
                if (row.state if row is not None else "open") != unit.state:
                    text = f"is {unit.state} in the core, on disk {row.state if row else 'open'}"
                    self.violated(machine.name, text, job_id, number)
                elif row is not None and row != job.settlement.row(number):
                    self.violated(machine.name, "has another certificate on disk", job_id, number)
