"""All machines of a scenario, the network between them, their jobs, and what goes wrong."""

from __future__ import annotations

from collections.abc import Callable

from p2pfleet.core import events as ev
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId, cid_of
from p2pfleet.core.model.job import Confidence, Exact, FixedQuorum, Limits, StopRule, Trust
from p2pfleet.core.model.record import MILLI, Record
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire.messages import Manifest, OpenRingers, Ringer
from p2pfleet.core.wire.verified import VerifiedManifest
from p2pfleet.sim.adversaries.registry import ADVERSARIES
from p2pfleet.sim.clocks import WALL_MS
from p2pfleet.sim.compute import INPUT_BYTES, NETWORK, OUTPUT_BYTES, packs_of, right_digest, told_of
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.machine import Machine, World
from p2pfleet.sim.network import Network
from p2pfleet.sim.scenario import Fault, JobPlan, Scenario
from p2pfleet.sim.signatures import seal, unseal
from p2pfleet.sim.trace import Trace

MEMORY_BYTES = 2**28
OUTPUT_LIMIT_BYTES = 10_000
MODEL_CLASS = "any"
RETRY_MS = 1_000
JUDGED_MS = 1_000


class Cluster:
    """Built from a scenario and a seed; :attr:`published` fills up as jobs are published."""

    def __init__(
        self,
        scenario: Scenario,
        kernel: Kernel,
        trace: Trace,
        make: Callable[..., Machine] = Machine,
    ) -> None:
        self.scenario, self.kernel, self.trace = scenario, kernel, trace
        self._make = make
        self.network = Network(kernel, scenario.network)
        self.world = World(kernel, self.network, trace)
        self.world.sync_ms = scenario.disk.sync_ms
        self.published: dict[JobId, Manifest] = {}
        self.machines = self.world.machines
        self._build()

    def _build(self) -> None:
        clocks, chance = self.scenario.clocks, self.kernel.random
        for kind in self.scenario.machines:
            for number in range(kind.count):
                skew = chance.randint(-clocks.skew_ms, clocks.skew_ms)
                drift = chance.randint(-clocks.drift_ppm, clocks.drift_ppm)
                name = f"{kind.name}-{number}"
                machine = self._make(self.world, len(self.machines), name, kind, skew, drift)
                machine.behaviour = ADVERSARIES[kind.adversary](machine)
                self.machines.append(machine)
        self.world.by_peer = {machine.peer: machine for machine in self.machines}
        self.by_name = {machine.name: machine for machine in self.machines}
        self.network.build(list(self.machines))
        if self.trace.story is not None:
            self.trace.story.names = {machine.peer: machine.name for machine in self.machines}
        for job in self.scenario.jobs:
            publisher = self.by_name[job.publisher]
            self.world.publishers[publisher.peer] = True
            for machine in self.machines:
                passed = machine.kind.history
                if passed and machine is not publisher:
                    record = Record(agreed=passed, milli=passed * MILLI)
                    publisher.disk.records[MODEL_CLASS, machine.peer] = record

    def begin(self) -> None:
        """Plan everything that the scenario says: starts, jobs, faults."""
        for machine in self.machines:
            self.kernel.later(self.kernel.draw((0, 500)), machine.start)
        for number, job in enumerate(self.scenario.jobs):
            self.kernel.at(job.at_ms, self._publish, number, job)
        for number, fault in enumerate(self.scenario.faults):
            self.kernel.at(fault.from_ms, self._strike, number, fault, True)

    # ---- jobs --------------------------------------------------------------------------------

    def _publish(self, number: int, plan: JobPlan) -> None:
        machine = self.by_name[plan.publisher]
        if machine.node is None or not machine.node.restored:
            self.kernel.later(RETRY_MS, self._publish, number, plan)
            return
        issued = machine.clock.wall(self.kernel.now)
        snapshot = machine.node.snapshot_for(MODEL_CLASS) if plan.confidence is not None else None
        salt = self.kernel.random.randbytes(16)
        opened = self._ringers(machine, plan, salt)
        cid = cid_of(b"simulated blob %d" % number)
        manifest = Manifest(
            network=NETWORK,
            publisher=machine.peer,
            name=f"job {number}",
            model=cid,
            model_bytes=1000,
            table=cid,
            table_bytes=1000,
            units=plan.units,
            total_bytes=INPUT_BYTES * plan.units,
            limits=Limits(MEMORY_BYTES, plan.cpu_ms, OUTPUT_LIMIT_BYTES),
            comparison=Tolerance() if plan.tolerance else Exact(),
            stop=_stop(plan),
            shards=min(plan.shards, plan.units),
            lease_ms=plan.lease_ms,
            issued_ms=issued,
            expires_ms=issued + plan.lasts_ms,
            salt=salt,
            trust=Trust(
                model_class=MODEL_CLASS,
                snapshot=None if snapshot is None else snapshot.hash,
                ringers=None if opened is None else Digest(ringers_hash(opened)),
                audit_ppm=round(plan.audit * 1_000_000),
                crowd=plan.crowd,
                window_ms=plan.window_ms,
            ),
            work=plan.work,
        )
        verified = unseal(seal(manifest))
        assert isinstance(verified, VerifiedManifest)
        job = verified.job
        volunteers = [one for one in self.machines if one.kind.slots and one is not machine]
        packs = packs_of(salt, plan.units, manifest.shards)
        # One for all: whoever has everything adds nothing to it.
        inputs, whole = dict.fromkeys(range(plan.units), True), dict.fromkeys(packs, True)
        for holder in (machine, *volunteers[: plan.custodians]):
            holder.disk.models[job] = True
            holder.disk.inputs[job], holder.disk.packs[job] = inputs, whole
        machine.disk.pack_sizes[job] = told_of(packs)
        self.world.divergent[job] = plan.divergent
        self.world.salts[job] = salt
        self.world.manifests[job] = manifest
        if opened is not None:
            machine.disk.ringers[job] = (opened.secret, opened.ringers)
            for ringer in opened.ringers:
                machine.disk.outputs.setdefault(job, {})[ringer.digest] = OUTPUT_BYTES
        self.published[job] = manifest
        story = self.trace.story
        if story is not None and story.number == number:
            story.job = job
        self._tell(machine, verified)
        self.kernel.later(5 * RETRY_MS, self._republish, job, verified, plan)

    def _ringers(self, machine: Machine, plan: JobPlan, salt: bytes) -> OpenRingers | None:
        """Units whose answers the publisher computes before it publishes."""
        if not plan.ringers:
            return None
        chance = self.kernel.random
        units = sorted(chance.sample(range(plan.units), min(plan.ringers, plan.units)))
        mine = machine.kind.numeric_class
        return OpenRingers(
            chance.randbytes(32),
            tuple(Ringer(unit, right_digest(salt, unit, mine, plan.divergent)) for unit in units),
        )

    @staticmethod
    def _tell(machine: Machine, verified: VerifiedManifest) -> None:
        machine.tell(ev.ManifestReceived(machine.peer, verified))
        machine.tell(ev.InputsKnown(verified.job, machine.disk.pack_sizes[verified.job]))
        known = machine.disk.ringers.get(verified.job)
        if known is not None:
            machine.tell(ev.RingersKnown(verified.job, *known))

    def _republish(self, job: JobId, verified: VerifiedManifest, plan: JobPlan) -> None:
        """A crash may have lost the job before it was durable: it is submitted again."""
        machine = self.by_name[plan.publisher]
        if job not in machine.disk.jobs:
            self._tell(machine, verified)
            self.kernel.later(5 * RETRY_MS, self._republish, job, verified, plan)

    # ---- faults ------------------------------------------------------------------------------

    def _strike(self, number: int, fault: Fault, first: bool = False) -> None:
        kernel = self.kernel
        if kernel.now > fault.until_ms:
            return
        if not first:
            self._fail(number, fault)
        kernel.later(kernel.draw(fault.every_ms), self._strike, number, fault)

    def _fail(self, number: int, fault: Fault) -> None:
        kernel, chance = self.kernel, self.kernel.random
        there = [m for m in self.machines if fault.machines in ("all", m.kind.name)]
        lasts = kernel.draw(fault.for_ms)
        if fault.kind == "partition":
            count = max(1, round(fault.share * len(there)))
            island = frozenset(machine.number for machine in chance.sample(there, count))
            names = sorted(self.machines[member].name for member in island)
            self.trace.note(kernel.now, "network", f"cuts off {', '.join(names)}")
            self.network.islands[number] = island
            self.network.rewire()
            kernel.later(lasts, self._heal, number, island)
            return
        machine = chance.choice(there)
        if not machine.on:
            return
        if fault.kind == "pause":
            machine.tell(ev.PauseRequested(None))
            kernel.later(lasts, machine.tell, ev.ResumeRequested())
        elif fault.kind == "backup":
            kernel.later(lasts, self._put_back, machine, machine.disk.backup())
        elif fault.kind == "die":
            machine.die()
        elif fault.kind == "restart":
            machine.stop()
            kernel.later(lasts + RETRY_MS, machine.start)
        else:
            self._crash(machine)
            kernel.later(lasts, self._power_on, machine)

    def _crash(self, machine: Machine) -> None:
        """At once, or in the worst moments: before the next sync, or in the midst of its acts."""
        moment = self.kernel.random.randrange(3)
        if moment == 0:
            machine.crash()
        elif moment == 1:
            machine.dies_at_write = True
        else:
            machine.dies_after = self.kernel.random.randrange(6)

    def _put_back(self, machine: Machine, kept: Disk) -> None:
        """The folder of an earlier time comes back, and the machine starts from it."""
        machine.crash()
        self.trace.note(self.kernel.now, machine.name, "gets an old backup back")
        machine.disk = kept
        self.kernel.later(RETRY_MS, machine.start)

    def _power_on(self, machine: Machine) -> None:
        machine.dies_at_write = False
        machine.dies_after = None
        machine.start()

    def _heal(self, number: int, island: frozenset[int]) -> None:
        if self.network.islands.get(number) is island:
            del self.network.islands[number]
            self.trace.note(self.kernel.now, "network", "is whole again")
            self.network.rewire()

    # ---- questions ---------------------------------------------------------------------------

    @property
    def grace_ms(self) -> int:
        """How long after a job's expiry every clock agrees that it has expired."""
        return 2 * self.scenario.clocks.skew_ms + JUDGED_MS

    def publisher(self, job: JobId) -> Machine:
        """The machine that published a job."""
        return self.world.by_peer[self.published[job].publisher]

    def over(self) -> bool:
        """Whether every job was published and every machine that is on knows of its end."""
        if len(self.published) < len(self.scenario.jobs):
            return False
        for job, manifest in self.published.items():
            publisher = self.publisher(job)
            if not publisher.honest:  # it may never say so; then the job expires
                if WALL_MS + self.kernel.now < manifest.expires_ms + self.grace_ms:
                    return False
            elif publisher.node is None or job not in publisher.node.ended:
                return False
        return all(
            machine.node is None or not any(job in machine.node.jobs for job in self.published)
            for machine in self.machines
            if machine.honest
        )


def _stop(plan: JobPlan) -> StopRule:
    if plan.confidence is None:
        return FixedQuorum(plan.quorum, plan.replicas_max)
    error_ppb = round((1 - plan.confidence) * 1_000_000_000)
    return Confidence(error_ppb, round(plan.assume_faulty * 1_000_000), plan.replicas_max)
