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
from core_disk import Disk
from core_samples import (
    CAPABILITY,
    NETWORK,
    OUTPUT_BYTES,
    OWNER,
    WALL_MS,
    honest,
    manifest,
    peer,
    received,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId, sha256
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES, MAX_MESSAGE_BYTES

Task = tuple[JobId, int]


class Machine:
    """One computer: a node while it lives, its disk, its sandbox, and how honest it is.

    A liar answers wrongly in ``lie_share`` of the units; liars of the same ``lies`` lie alike.
    """

    def __init__(self, name: str, slots: int, work_ms: int, lies: str, lie_share: float) -> None:
        self.name, self.me = name, peer(name)
        self.slots, self.work_ms, self.lies, self.lie_share = slots, work_ms, lies, lie_share
        self.capability = CAPABILITY
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
        right = honest(job, unit)
        lying = self.lies and sha256(self.me + right)[0] < 256 * self.lie_share
        return Digest(sha256(right + self.lies.encode())) if lying else right

    def drop(self, gone: Callable[[Task], bool], kill: bool) -> None:
        self.queue = [task for task in self.queue if not gone(task)]
        if kill:
            self.running = {task: at for task, at in self.running.items() if not gone(task)}


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
        self, name: str, slots: int = 1, work_ms: int = 300, lies: str = "", lie_share: float = 1.0
    ) -> Machine:
        machine = self.machines[peer(name)] = Machine(name, slots, work_ms, lies, lie_share)
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
        machine.disk.incarnation = max(wall_ms, machine.disk.incarnation + 1)
        self.happen(machine, ev.Started(machine.disk.incarnation, wall_ms, "test", ()))
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
            case ef.SendFrames(peer=target, job=job):
                for sealed in list(machine.disk.frames.get(job, {}).values()):
                    saved = unseal(sealed).frame
                    key = (saved.author, saved.incarnation)
                    if key == (effect.author, effect.incarnation) and (
                        effect.first <= saved.sequence < effect.end
                    ):
                        self._send(machine, self.machines[target], ms.Deliver(sealed))
            case ef.Gossip(sealed=sealed):
                assert machine.disk.holds(sealed), "announced before it was durable"
                assert len(encode(sealed)) <= MAX_ANNOUNCEMENT_BYTES
                for there in self.machines.values():
                    self._pass(machine, there, received(machine.me, sealed), self.loss)
            case ef.OpenJob() | ef.Fetch():
                act = lambda: self._fetch(machine, effect)  # noqa: E731
                self._later(machine, self.random.randrange(20, 200), act)
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
            case ef.Report():
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
        match decode(encode(message), ms.Message, MAX_MESSAGE_BYTES):
            case ms.Hello(record=record):
                # Opens a reliable stream and is not repeated: lost only with the connection.
                return self._pass(machine, there, ev.HelloReceived(machine.me, unseal(record)), 0)
            case ms.Deliver(sealed=sealed):
                assert machine.disk.holds(sealed), "announced before it was durable"
                return self._pass(machine, there, received(machine.me, sealed), self.loss)
            case ms.JobsSummary(open=open_, closed=closed):
                event: ev.Event = ev.JobsSummaryReceived(machine.me, open_, closed)
            case ms.FramesSummary(job=job, positions=positions):
                event = ev.FramesSummaryReceived(machine.me, job, positions)
            case ms.Wanted(job=job, units=units):
                event = ev.WantedReceived(machine.me, job, units)
        return self._pass(machine, there, event, self.loss)

    def _pass(self, machine: Machine, there: Machine, event: ev.Event, loss: float) -> None:
        lost, twice = self.random.random() < loss, self.random.random() < self.doubled
        for _ in range(1 + twice if self._reach(machine, there) and not lost else 0):
            self._later(
                there,
                self.random.randrange(1, 80),
                lambda: self.happen(there, event) if self._reach(machine, there) else None,
            )

    def _fetch(self, machine: Machine, effect: ef.OpenJob | ef.Fetch) -> None:
        near = [m for s in effect.sources if self._reach(machine, m := self.machines[s])]
        event: ev.Event
        if isinstance(effect, ef.OpenJob):
            event = ev.JobUnavailable(effect.job, "no source", final=False)
            if any(effect.job in there.disk.models for there in near):
                machine.disk.models.add(effect.job)
                event = ev.JobOpened(effect.job)
        else:
            event = ev.BlobFailed(effect.job, effect.ref, "no source")
            if any(effect.ref.sha256 in there.disk.outputs for there in near) and (
                effect.ref.length == OUTPUT_BYTES
            ):
                event = ev.BlobArrived(effect.job, effect.ref)
        self.happen(machine, event)

    # ---- the sandbox -------------------------------------------------------------------------

    def _work(self, machine: Machine) -> None:
        while machine.queue and len(machine.running) < machine.slots and not machine.paused:
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
