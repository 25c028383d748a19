"""A small cluster in memory: several nodes, one heap of events, one seed, no world.

It carries out effects as a runtime would: writes are durable in order, signed bodies come back at
once, messages take a seeded time and may be lost, doubled or overtaken. A killed node keeps its
disk and nothing else. What must never happen is asserted at every step: nothing is announced
before it is durable, nothing settles twice, no node asks to be ticked without end.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Any

import msgspec
from core_machine import Machine, Task, right_answer
from core_samples import (
    NETWORK,
    OUTPUT_BYTES,
    OWNER,
    WALL_MS,
    manifest,
    output_of,
    peer,
    received,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId, cid_from_sha256
from p2pfleet.core.rules.commitment import commitment
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES, MAX_MESSAGE_BYTES


class Killed(Exception):
    """The machine lost power between two effects."""


class Cluster:
    """Machines, the wires between them, and the time."""

    def __init__(
        self, seed: int, loss: float = 0.0, doubled: float = 0.0, snapshots: bool = False
    ) -> None:
        self.random = random.Random(seed)
        self.loss, self.doubled, self.snapshots = loss, doubled, snapshots
        self.now = 0
        self.events = 0
        self.trace = hashlib.sha256()
        self.machines: dict[PeerId, Machine] = {}
        self.cut: Callable[[str, str], bool] = lambda one, other: False
        self.fault: Callable[[Machine, Task], ev.Event | None] = lambda machine, task: None
        self._heap: list[tuple[int, int, Machine, int, Callable[[], None]]] = []
        self._sequence = 0

    # ---- what a test does --------------------------------------------------------------------

    def add(
        self,
        name: str,
        slots: int = 1,
        work_ms: int = 300,
        lies: str = "",
        lie_share: float = 1.0,
        kind: str = "",
    ) -> Machine:
        machine = Machine(name, slots, work_ms, lies, lie_share, kind)
        self.machines[peer(name)] = machine
        self.start(name)
        return machine

    def __getitem__(self, name: str) -> Machine:
        return self.machines[peer(name)]

    def start(self, name: str) -> None:
        """Switch a machine on: what its store holds is told to a new node."""
        machine = self[name]
        roles = ("volunteer",) if machine.slots else ("publisher",)
        consent = Consent(machine.capability, owner=OWNER)
        machine.node = Node.create(machine.me, NETWORK, machine.slots, roles, consent)
        machine.clock = self.random.randrange(10**9)
        wall_ms = WALL_MS + self.now
        coin = self.random.randbytes(32)
        machine.disk.incarnation = max(wall_ms, machine.disk.incarnation + 1)
        self.happen(machine, ev.Started(machine.disk.incarnation, wall_ms, "test", (), coin))
        for event in list(machine.disk.restore(machine.me)):
            self.happen(machine, event)
        self._wire(machine)

    def kill(self, name: str) -> None:
        """Cut the power: only the disk stays."""
        self[name].power_off()
        self._wire(self[name])

    def partition(self, cut: Callable[[str, str], bool]) -> None:
        """From now on pairs for which ``cut`` is true (either way round) are apart."""
        self.cut = cut
        for machine in self.machines.values():
            self._wire(machine)

    def publish(self, at: str, **changes: Any) -> JobId:
        """A machine publishes a job, with the terms of ``core_samples.manifest``."""
        body = manifest(publisher=peer(at), issued_ms=WALL_MS + self.now, **changes)
        verified = unseal(seal(body))
        self[at].disk.models.add(verified.job)
        self.happen(self[at], ev.ManifestReceived(peer(at), verified))
        return JobId(verified.job)

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, machine, life, act = heapq.heappop(self._heap)
        if machine.life == life:
            act()

    def run(self, until: Callable[[], bool], limit_ms: int = 3_600_000) -> None:
        """Let time pass until something holds, which must be within ``limit_ms``."""
        end = self.now + limit_ms
        while not until():
            assert self._heap, "nothing is going to happen any more"
            assert self._heap[0][0] <= end, f"not within {limit_ms} ms"
            self.step()

    def wait(self, for_ms: int) -> None:
        end = self.now + for_ms
        while self._heap and self._heap[0][0] <= end:
            self.step()
        self.now = end

    def closed(self, job: JobId) -> bool:
        """Whether a living machine knows that the job is over, and none thinks that it is open."""
        living = [m.node for m in self.machines.values() if m.node is not None]
        return any(job in node.ended for node in living) and not any(
            job in node.jobs for node in living
        )

    # ---- events in, effects out --------------------------------------------------------------

    def happen(self, machine: Machine, event: ev.Event) -> None:
        """Tell a node of an event and carry out what it answers; it may die in between."""
        try:
            if machine.node is not None:
                self._happen(machine, event)
        except Killed:
            self.kill(machine.name)

    def _happen(self, machine: Machine, event: ev.Event) -> None:
        node = machine.node
        assert node is not None
        self.events += 1
        if self.snapshots:
            node = machine.node = msgspec.msgpack.decode(msgspec.msgpack.encode(node), type=Node)
        now = Millis(self.now + machine.clock)
        effects = node.handle(event, now)
        self.trace.update(msgspec.msgpack.encode((now, machine.name, event, effects)))
        for effect in effects:
            if machine.dies_after is not None:
                machine.dies_after -= 1
                if machine.dies_after < 0:
                    raise Killed
            self._carry_out(machine, effect)
        node = machine.node  # with snapshots it was replaced while effects were carried out
        assert node is not None
        deadline = node.deadline() if node.restored else None
        if deadline is not None:
            assert not isinstance(event, ev.Tick) or deadline > now, "it spins"
            at = max(deadline - machine.clock, self.now)
            if machine.tick is None or machine.tick > at:
                machine.tick = at
                self._later(machine, at - self.now, lambda: self._tick(machine, at))

    def _tick(self, machine: Machine, at: int) -> None:
        if machine.tick == at:
            machine.tick = None
            self.happen(machine, ev.Tick())

    def _later(self, machine: Machine, delay: int, act: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay, self._sequence, machine, machine.life, act))

    def _carry_out(self, machine: Machine, effect: ef.Effect) -> None:
        match effect:
            case ef.Sign(body=body):
                self._happen(machine, received(machine.me, seal(body)))
            case ef.Send(peers=peers, message=message):
                assert list(peers) == sorted(peers)
                for target in peers:
                    self._send(machine, self.machines[target], message)
            case ef.SendReceipts(peer=target, most=most):
                for sealed in machine.disk.receipts_for(target, most):
                    self._send(machine, self.machines[target], ms.Deliver(sealed))
            case ef.SendFrames(peer=target, job=job):
                for sealed in list(machine.disk.frames.get(job, {}).values()):
                    saved = unseal(sealed).frame
                    key = (saved.author, saved.incarnation, saved.shard)
                    if key == (effect.author, effect.incarnation, effect.shard) and (
                        effect.first <= saved.sequence < effect.end
                    ):
                        self._send(machine, self.machines[target], ms.Deliver(sealed))
            case ef.Gossip(sealed=sealed):
                assert machine.disk.holds(sealed), "announced before it was durable"
                assert len(encode(sealed)) <= MAX_ANNOUNCEMENT_BYTES
                for there in self.machines.values():
                    self._pass(machine, there, received(machine.me, sealed), self.loss)
            case ef.OpenJob() | ef.Fetch() | ef.Compare():
                act = lambda: self._fetch(machine, effect)  # noqa: E731
                self._later(machine, self.random.randrange(20, 200), act)
            case ef.MakeCommitments() | ef.CheckCommitments():
                read = lambda: self._read(machine, effect)  # noqa: E731
                self._later(machine, self.random.randrange(1, 10), read)
            case ef.PublishRecord():
                assert machine.disk.holds(effect.sealed), "announced before it was durable"
            case ef.Challenge():
                raise AssertionError("nobody was told of packs")
            case ef.Prove(job=job):
                for sealed in list(machine.disk.frames.get(job, {}).values()):
                    first = unseal(sealed)
                    body = first.frame
                    number = (body.author, body.incarnation, body.sequence, body.shard)
                    wanted = (effect.author, effect.incarnation, effect.sequence, effect.shard)
                    if number == wanted:
                        proof = ev.ProofReceived(machine.me, first, unseal(effect.other))
                        self._happen(machine, proof)
            case ef.Execute(job=job, unit=unit):
                if (job, unit) not in machine.running and (job, unit) not in machine.queue:
                    machine.queue.append((job, unit))
                self._work(machine)
            case ef.Withdraw(job=job, units=units, kill=kill):
                machine.drop(lambda task: task[0] == job and task[1] in units, kill)
                self._work(machine)
            case ef.ShutJob(job=job):
                machine.drop(lambda task: task[0] == job, True)
                self._work(machine)
            case ef.SetPaused(paused=paused):
                machine.paused = paused
                frozen, machine.frozen = machine.frozen, []
                for task, token in frozen:
                    self._finish(machine, task, token)
                self._work(machine)
            case ef.Report() | ef.Watch() | ef.Attend() | ef.PublishRecord():
                pass
            case _:
                machine.disk.write(effect)

    # ---- wires -------------------------------------------------------------------------------

    def _reach(self, one: Machine, other: Machine) -> bool:
        cut = self.cut(one.name, other.name) or self.cut(other.name, one.name)
        return one.node is not None and other.node is not None and one is not other and not cut

    def _wire(self, machine: Machine) -> None:
        for other in self.machines.values():
            for here, there in ((machine, other), (other, machine)):
                stands = here.node is not None and there.me in here.node.membership.connected
                if here.node is not None and stands != self._reach(here, there):
                    event = ev.PeerDisconnected if stands else ev.PeerConnected
                    self.happen(here, event(there.me))

    def _send(self, machine: Machine, there: Machine, message: ms.Message) -> None:
        message = decode(encode(message), ms.Message, MAX_MESSAGE_BYTES)
        match message:
            case ms.Hello(record=record):
                # Opens a reliable stream and is not repeated: lost only with the connection.
                return self._pass(machine, there, ev.HelloReceived(machine.me, unseal(record)), 0)
            case ms.Deliver(sealed=sealed):
                assert machine.disk.holds(sealed), "announced before it was durable"
                return self._pass(machine, there, received(machine.me, sealed), self.loss)
            case ms.JobsSummary(open=open_, closed=closed):
                event: ev.Event = ev.JobsSummaryReceived(machine.me, open_, closed)
            case ms.FramesSummary(job=job, positions=positions, snapshot=number):
                where = (message.shard, message.serving, message.whole)
                event = ev.FramesSummaryReceived(machine.me, job, positions, number, *where)
            case ms.ShardsSummary(job=job, rows=rows):
                event = ev.ShardsSummaryReceived(machine.me, job, rows)
            case ms.Wanted(job=job, units=units):
                event = ev.WantedReceived(machine.me, job, units)
            case ms.Proof(first=first, second=second):
                event = ev.ProofReceived(machine.me, unseal(first), unseal(second))
        return self._pass(machine, there, event, self.loss)

    def _pass(self, machine: Machine, there: Machine, event: ev.Event, loss: float) -> None:
        lost, twice = self.random.random() < loss, self.random.random() < self.doubled
        for _ in range(1 + twice if self._reach(machine, there) and not lost else 0):
            self._later(
                there,
                self.random.randrange(1, 80),
                lambda: self.happen(there, event) if self._reach(machine, there) else None,
            )

    def _fetch(self, machine: Machine, effect: ef.OpenJob | ef.Fetch | ef.Compare) -> None:
        near = [m for s in effect.sources if self._reach(machine, m := self.machines[s])]
        event: ev.Event
        match effect:
            case ef.OpenJob(job=job):
                event = ev.JobUnavailable(job, "no source", final=False)
                if any(job in there.disk.models for there in (machine, *near)):
                    machine.disk.models.add(job)
                    event = ev.JobOpened(job)
            case ef.Fetch(job=job, ref=ref):
                event = ev.BlobFailed(job, ref, "no source")
                if self._given(machine, near, Digest(ref.sha256)) and ref.length == OUTPUT_BYTES:
                    machine.disk.outputs.add(Digest(ref.sha256))
                    event = ev.BlobArrived(job, ref)
            case ef.Compare(job=job, unit=unit, own=own):
                candidate = Digest(effect.candidate.sha256)
                verdict = "unavailable"
                if self._given(machine, near, candidate) and own in machine.disk.outputs:
                    verdict = self._verdict(machine, job, unit, {candidate, own})
                event = ev.Compared(job, unit, candidate, own, verdict)
        self.happen(machine, event)

    def _given(self, machine: Machine, near: list[Machine], answer: Digest) -> bool:
        """Whether an output is here, or somebody has it and may hand it out."""
        cid = cid_from_sha256(answer)
        return answer in machine.disk.outputs or any(
            answer in there.disk.outputs
            and there.node is not None
            and there.node.may_fetch(machine.me, cid)
            for there in near
        )

    def _verdict(self, machine: Machine, job: JobId, unit: int, answers: set[Digest]) -> str:
        kinds = {each.kind for each in self.machines.values()}
        if not answers <= {right_answer(job, unit, kind) for kind in kinds}:
            return "different"
        terms = unseal(machine.disk.jobs[job][0]).manifest
        return "same" if isinstance(terms.comparison, Tolerance) else "near"

    def _read(self, machine: Machine, effect: ef.MakeCommitments | ef.CheckCommitments) -> None:
        job = effect.job
        if isinstance(effect, ef.CheckCommitments):
            if effect.digest in machine.disk.outputs:
                sides: dict[bool, list[tuple[int, int, PeerId]]] = {True: [], False: []}
                for each in effect.items:
                    key = (each.unit, each.attempt, each.peer)
                    right = commitment(NETWORK, job, *key, each.seed, output_of(effect.digest))
                    sides[right == each.commitment].append(key)
                good, bad = tuple(sides[True]), tuple(sides[False])
                self.happen(machine, ev.CommitmentsChecked(job, effect.digest, good, bad))
            else:
                lost = tuple((each.unit, each.attempt, each.peer) for each in effect.items)
                self.happen(machine, ev.CommitmentsChecked(job, effect.digest, (), (), lost))
            return
        seed = self.random.randbytes(32)
        items = tuple(item for item in effect.items if item.digest in machine.disk.outputs)
        made = tuple(
            commitment(
                NETWORK, job, item.unit, item.attempt, machine.me, seed, output_of(item.digest)
            )
            for item in items
        )
        self.happen(machine, ev.CommitmentsMade(job, seed, items, made))
        for item in effect.items:
            if item not in items:
                self.happen(machine, ev.UnitUnavailable(job, item.unit, "the output is gone"))

    # ---- the sandbox -------------------------------------------------------------------------

    def _work(self, machine: Machine) -> None:
        slots = max(1, machine.slots)  # a publisher without slots runs units of its own jobs
        while machine.queue and len(machine.running) < slots and not machine.paused:
            task = machine.queue.pop(0)
            self._sequence += 1
            machine.running[task] = self._sequence
            delay = 1 + int(machine.work_ms * self.random.uniform(0.5, 1.5))
            self._later(machine, delay, self._finisher(machine, task, self._sequence))

    def _finisher(self, machine: Machine, task: Task, token: int) -> Callable[[], None]:
        return lambda: self._finish(machine, task, token)

    def _finish(self, machine: Machine, task: Task, token: int) -> None:
        if machine.running.get(task) != token:
            return
        if machine.paused:
            machine.frozen.append((task, token))
            return
        del machine.running[task]
        machine.executed.append(task)
        event = self.fault(machine, task)
        if event is None:
            answer = machine.answer(*task)
            machine.disk.outputs.add(answer)
            event = ev.UnitExecuted(*task, answer, OUTPUT_BYTES, machine.work_ms)
        self.happen(machine, event)
        self._work(machine)
