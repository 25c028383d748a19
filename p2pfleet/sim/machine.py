"""One computer: a core while it is on, and around it what the runtime's driver does for real.

Whatever events wait are taken as one batch; all its writes become durable in one transaction;
only then its acts are carried out. A crash in between loses the writes and the acts alike.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, assert_never, get_args

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Malformed
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import Digest, JobId, PeerId, cid_from_sha256
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.clocks import Clock
from p2pfleet.sim.compute import NETWORK, Answer, Compute, packs_of, right_digests
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.network import Network
from p2pfleet.sim.scenario import MachineKind
from p2pfleet.sim.signatures import delivered, heard, peer_of, signed, unseal
from p2pfleet.sim.trace import Trace

EVENTS_MAX = 256
INBOX_MAX = 4096


class Witness(Protocol):
    """Who looks on; see :mod:`p2pfleet.sim.checkers`."""

    def stepped(self, machine: Machine, event: ev.Event, effects: Sequence[ef.Effect]) -> None:
        """The core took an event in."""
        ...

    def synced(self, machine: Machine, writes: Sequence[ef.Write]) -> None:
        """Writes became durable."""
        ...

    def acting(self, machine: Machine, act: ef.Act) -> None:
        """An act is about to be carried out."""
        ...

    def restored(self, machine: Machine) -> None:
        """A core has taken in what the disk holds."""
        ...

    def died(self, machine: Machine) -> None:
        """A machine broke for good."""
        ...


class World:
    """What all machines share. ``divergent`` is the share of units by job, see ``right_digest``;
    ``salts`` are those of the jobs' manifests, which the right answers follow from. ``by_peer``
    keeps the identities that a machine once had."""

    def __init__(self, kernel: Kernel, network: Network, trace: Trace) -> None:
        self.kernel, self.network, self.trace = kernel, network, trace
        self.witness: Witness
        self.machines: list[Machine] = []
        self.by_peer: dict[PeerId, Machine] = {}
        self.divergent: dict[JobId, float] = {}
        self.salts: dict[JobId, bytes] = {}
        self.manifests: dict[JobId, ms.Manifest] = {}
        self.publishers: dict[PeerId, bool] = {}
        self.sync_ms = (1, 1)
        self.drift_ppm = 0
        self.core_events = 0
        self.dropped = 0


class Machine:
    """A machine; ``life`` grows with every switching on and off, so that no past act returns."""

    def __init__(
        self, world: World, number: int, name: str, kind: MachineKind, skew: int, drift: int
    ) -> None:
        self.world, self.number, self.name, self.kind = world, number, name, kind
        self.peer = peer_of(name)
        self.skew, self.drift = skew, drift
        self.disk = Disk()
        self.compute = Compute(world.kernel, self)
        self.behaviour: Behaviour = Behaviour(self)
        self.clock = Clock(0, skew, drift)
        self.node: Node | None = None
        self.life = 0
        self.identities = 1
        self.crashes = 0
        self.gone = False
        self.dies_at_write = False
        self.dies_after: int | None = None
        self._off()

    def _off(self) -> None:
        self.node = None
        self.life += 1
        self.dies_at_write = False
        self.dies_after = None
        self._inbox: deque[ev.Event] = deque()
        self._busy = False
        self._tick_at: int | None = None
        self._tick_for: int | None = None
        self.compute.clear()

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return self.node is not None

    @property
    def honest(self) -> bool:
        """Whether it does nothing but what the protocol says."""
        return not self.kind.adversary

    # ---- power -------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch on: a new core is told what the disk holds, as a real node does at start."""
        if self.on or self.gone:
            return
        kernel = self.world.kernel
        self.life += 1
        self.clock = Clock(kernel.random.randrange(10**9), self.skew, self.drift)
        publishes = self.peer in self.world.publishers
        roles = (("volunteer",) if self.kind.slots else ()) + (("publisher",) if publishes else ())
        numeric = hashlib.sha256(self.kind.numeric_class.encode()).digest()
        consent = Consent(Capability("A", numeric, "1.32.0"))
        self.node = Node.create(self.peer, NETWORK, self.kind.slots, roles, consent)
        wall_ms = self.clock.wall(kernel.now)
        incarnation = self.disk.next_incarnation(wall_ms)
        self.world.trace.note(kernel.now, self.name, "starts")
        life = self.life
        coin = kernel.random.randbytes(32)
        self.tell(ev.Started(incarnation, wall_ms, "simulated", (), coin))
        for event in list(self.disk.restore(self.peer)):
            self._inbox.append(event)
        self._turn()
        if self.life == life and not self._busy:
            self.world.witness.restored(self)
        self.world.network.rewire(self.number)
        self.behaviour.started()

    def crash(self) -> None:
        """Cut the power, now."""
        if not self.on:
            return
        self.crashes += 1
        self.world.trace.note(self.world.kernel.now, self.name, "loses power")
        self.disk.crash()
        self._off()
        self.world.network.rewire(self.number)
        self.world.network.forget(self.number)

    def rename(self) -> None:
        """Take a fresh identity, with nothing of the old one's; only while off."""
        assert not self.on
        self.identities += 1
        world, story = self.world, self.world.trace.story
        world.network.by_peer.pop(self.peer, None)
        self.peer = peer_of(f"{self.name}, identity {self.identities}")
        self.disk = Disk()
        world.by_peer[self.peer] = self
        world.network.by_peer[self.peer] = self
        if story is not None:
            story.names[self.peer] = f"{self.name}/{self.identities}"
        world.trace.note(world.kernel.now, self.name, f"is identity {self.identities} from now on")

    def stop(self) -> None:
        """End as an owner ends it: claims are given back first."""
        if self.on:
            self.tell(ev.StopRequested())
            self.world.kernel.later(500, self._power_down, self.life)

    def _power_down(self, life: int) -> None:
        if life == self.life and self.on:
            self.crash()

    # ---- events in ---------------------------------------------------------------------------

    def hear(self, event: ev.Event) -> None:
        """Take in what came over the network; what does not keep up loses messages."""
        if len(self._inbox) >= INBOX_MAX:
            self.world.dropped += 1
            return
        self.tell(event)

    def announced(self, source: PeerId, sealed: ms.Sealed) -> bool:
        """Take in a gossiped body, and whether to hand it on."""
        if not self.on:
            return False
        event = delivered(source, unseal(sealed))
        if event is None:
            return False
        self.hear(event)
        return True

    def tell(self, event: ev.Event) -> None:
        """Queue an event for the core; it is taken as soon as the disk allows."""
        if self.node is not None:
            self._inbox.append(event)
            if not self._busy:
                self._turn()

    def _turn(self) -> None:
        """Take batches until nothing waits, or until one has to be synced."""
        inbox, world = self._inbox, self.world
        # _busy also keeps an act that tells the core at once from starting a batch within a batch.
        self._busy = True
        life = self.life
        while inbox:
            effects: list[ef.Effect] = []
            for _ in range(min(len(inbox), EVENTS_MAX)):
                self._step(inbox.popleft(), effects)
            writes, acts = _sorted_out(self.behaviour.decide(effects))
            if writes:
                self.disk.write(writes)
                if self.dies_at_write:
                    self.crash()
                    return
                delay = world.kernel.draw(world.sync_ms)
                world.kernel.later(delay, self._synced, life, acts)
                return
            if acts:
                self._carry_out(acts)
                if self.life != life:
                    return
        self._busy = False
        self._plan_tick()

    def _synced(self, life: int, acts: list[ef.Act]) -> None:
        if life != self.life:
            return
        writes = self.disk.unsynced
        self.disk.sync()
        self.world.witness.synced(self, writes)
        self._carry_out(acts)
        if life == self.life:
            self._turn()

    def _step(self, event: ev.Event, into: list[ef.Effect]) -> None:
        node, world = self.node, self.world
        assert node is not None
        world.core_events += 1
        now = world.kernel.now
        effects = node.handle(event, self.clock.monotonic(now))
        world.trace.step(now, self.number, self.name, event, effects)
        world.witness.stepped(self, event, effects)
        for effect in effects:
            if type(effect) is ef.Sign:
                self._step(signed(self.peer, effect.body), into)
            else:
                into.append(effect)

    def _plan_tick(self) -> None:
        node, kernel = self.node, self.world.kernel
        if node is None or not node.restored:
            return
        deadline = node.deadline()
        if deadline is None or (self._tick_at is not None and deadline == self._tick_for):
            return
        at = self.clock.reaches(deadline, kernel.now)
        if self._tick_at is None or self._tick_at > at:
            self._tick_at, self._tick_for = at, deadline
            kernel.at(at, self._tick, self.life, at)

    def _tick(self, life: int, at: int) -> None:
        if life == self.life and self._tick_at == at:
            self._tick_at = None
            self.tell(ev.Tick())

    # ---- acts out ----------------------------------------------------------------------------

    def _carry_out(self, acts: Sequence[ef.Act]) -> None:
        life = self.life
        for act in acts:
            if self.dies_after is not None:
                self.dies_after -= 1
                if self.dies_after < 0:
                    self.crash()
            if self.life != life:
                return
            self.world.witness.acting(self, act)
            self._act(act)

    def _act(self, act: ef.Act) -> None:
        match act:
            case ef.Send(peers=peers, message=message):
                self.send(peers, message)
            case ef.SendFrames(peer=peer):
                for sealed in self.disk.frame_range(act):
                    self.send((peer,), ms.Deliver(sealed))
            case ef.SendReceipts(peer=peer, most=most):
                for sealed in self.disk.receipts_for(peer, most):
                    self.send((peer,), ms.Deliver(sealed))
            case ef.Gossip(sealed=sealed):
                self.world.network.gossip(self.number, sealed)
            case (
                ef.OpenJob() | ef.Execute() | ef.Withdraw() | ef.ShutJob() | ef.SetPaused()
                | ef.Fetch() | ef.Challenge() | ef.MakeCommitments() | ef.CheckCommitments()
                | ef.Compare()
            ):  # fmt: skip
                self.compute.act(act)
            case ef.PublishRecord():
                pass  # there is no DHT here: peers hand records on
            case ef.Prove():
                self._prove(act)
            case ef.Attend(wants=wants):
                self.world.network.attend(self.number, wants)
            case ef.Report() | ef.Reconsider() | ef.Leave() | ef.Watch():
                pass
            case ef.Sign():
                raise AssertionError("signed in _step")
            case _:
                assert_never(act)

    def _prove(self, act: ef.Prove) -> None:
        key = (act.job, act.author, act.shard, act.incarnation, act.sequence)
        stored = self.disk.frames.get(key)
        if stored is not None:
            first, second = unseal(stored), unseal(act.other)
            assert isinstance(first, VerifiedFrame)
            assert isinstance(second, VerifiedFrame)
            self.tell(ev.ProofReceived(self.peer, first, second))

    def send(self, peers: Sequence[PeerId], message: ms.Message) -> None:
        """Send a message to peers, as it is or as an adversary would rather have it."""
        network = self.world.network
        if self.behaviour.twists:
            for peer in peers:
                for twisted in self.behaviour.outgoing(peer, message):
                    self._send_one(peer, twisted)
            return
        event = heard(self.peer, message)
        if event is not None:
            first = isinstance(message, ms.Hello)
            for peer in peers:
                network.send(self.number, peer, event, first)

    def _send_one(self, peer: PeerId, message: ms.Message) -> None:
        try:
            event = heard(self.peer, message)
        except Malformed:
            return  # the receiver refuses it before its core
        if event is not None:
            self.world.network.send(self.number, peer, event, isinstance(message, ms.Hello))

    # ---- for the sandbox ---------------------------------------------------------------------

    def answer(self, job: JobId, unit: int) -> Answer | None:
        """What running a unit gives here."""
        return self.behaviour.answer(job, unit)

    def packs(self, job: JobId) -> Mapping[Digest, tuple[int, Sequence[int]]]:
        """The packs of a job: of which shard each is, and which units' inputs lie in it."""
        manifest = self.world.manifests.get(job)
        if manifest is None:
            return {}
        return packs_of(manifest.salt, manifest.units, manifest.shards)

    def keeps(self, digest: Digest) -> bool:
        """Whether what it fetches to keep is really kept."""
        return self.behaviour.keeps(digest)

    def die(self) -> None:
        """Break for good: neither it nor its disk is ever seen again."""
        self.crash()
        self.gone = True
        self.world.witness.died(self)

    def committed_bytes(self, digest: Digest) -> bytes | None:
        """What is committed to for an output that is not here."""
        return self.behaviour.committed_bytes(digest)

    def unit_ms(self) -> int:
        """How long the next execution takes."""
        return max(1, self.behaviour.unit_ms(self.world.kernel.draw(self.kind.unit_ms)))

    def right_digests(self, job: JobId, unit: int) -> frozenset[Digest]:
        """What honest machines get for a unit, those of every numeric class in the world."""
        classes = {machine.kind.numeric_class for machine in self.world.machines}
        divergent = self.world.divergent.get(job, 0.0)
        return right_digests(self.world.salts.get(job, job), unit, sorted(classes), divergent)

    def reach(self, sources: Sequence[PeerId], output: Digest | None = None) -> list[Disk]:
        """The disks of those sources that can be asked for blobs (for ``output``) now."""
        found = []
        for peer in sources:
            other = self.world.by_peer.get(peer)
            if other is None or not self.world.network.connected(self.number, peer):
                continue
            if output is None or other.gives(self.peer, output):
                found.append(other.disk)
        return found

    def gives(self, peer: PeerId, output: Digest) -> bool:
        """Whether a peer may have an output from here."""
        if self.node is None:
            return False
        if not self.honest:
            return self.behaviour.gives(output)
        return self.node.may_fetch(peer, cid_from_sha256(output))


_WRITES = frozenset(get_args(ef.Write))


def _sorted_out(effects: Sequence[ef.Effect]) -> tuple[list[ef.Write], list[ef.Act]]:
    """What has to be durable before the rest is done, and the rest."""
    writes: list[Any] = []
    acts: list[Any] = []
    for effect in effects:
        (writes if type(effect) in _WRITES else acts).append(effect)
    return writes, acts
