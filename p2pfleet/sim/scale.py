"""What a unit costs in networks of different sizes: the same job, so many times as large.

Units and shards grow with the network, and nothing goes wrong. What is counted is what cores take
in and send; processor time is that of the cores alone, as real nodes run them, without sandbox,
store and cryptography. A network is sparse: a few random neighbours, whom nodes attend to beside
them, and 50 connections at most. A job may be cut off after a while: what counts are the units that
are certified among those who serve their shards.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.rules.shards import CROWD, count_for, size_of
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Message, Sealed
from p2pfleet.sim import signatures
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.kernel import Kernel, uncollected
from p2pfleet.sim.machine import Machine
from p2pfleet.sim.scenario import (
    ClockQuality,
    DiskQuality,
    Expectation,
    JobPlan,
    MachineKind,
    NetworkQuality,
    Scenario,
)
from p2pfleet.sim.trace import Trace

UNITS_A_NODE = 2
NEIGHBOURS = 16
UNIT_MS = (2_000, 6_000)
LOOK_MS = 1_000
TELL_MS = 10_000
NODES_MAX = 20_000
END_MS = 3_600_000


class Spread(msgspec.Struct, frozen=True):
    """Of the volunteers: the one in the middle, and the one with most."""

    median: float
    worst: float


class Cost(msgspec.Struct, frozen=True):
    """What one size cost.

    ``decided`` are the units that are certified in their shards, ``settled`` those that the
    publisher has settled. ``..._a_unit`` is what the whole network spent for a decided unit;
    ``..._a_node`` is for each decided unit of a shard (there are so many times fewer than nodes)
    what a volunteer got, or its core's processor time; the ``publisher``'s is by units of the job.
    ``doubled_a_unit`` are frames that were there already. ``process_s`` is the processor time of
    the simulation as a whole.
    """

    nodes: int
    shards: int
    units: int
    decided: int
    settled: int
    simulated_s: float
    executions_a_unit: float
    messages_a_unit: float
    kib_a_unit: float
    doubled_a_unit: float
    events_a_unit: float
    messages_a_node: Spread
    kib_a_node: Spread
    cpu_us_a_node: Spread
    publisher_messages: float
    publisher_kib: float
    publisher_cpu_us: float
    connections_max: int
    lookups_a_node: float
    process_s: float


class Meter:
    """Counts, by a machine's number."""

    def __init__(self, machines: int) -> None:
        self.messages = [0] * machines
        self.octets = [0] * machines
        self.cpu_ns = [0] * machines
        self.doubled = 0
        self.steps = 0


class Measured(Machine):
    """A machine that is measured."""

    def __init__(self, meter: Meter, *what: Any) -> None:
        self.meter = meter
        self._deep = False
        super().__init__(*what)

    def _step(self, event: ev.Event, into: list[ef.Effect]) -> None:
        meter, before = self.meter, len(into)
        meter.steps += 1
        if self._deep:
            super()._step(event, into)
            return
        self._deep = True
        began = time.thread_time_ns()
        super()._step(event, into)
        meter.cpu_ns[self.number] += time.thread_time_ns() - began
        self._deep = False
        if type(event) is ev.FrameReceived and event.source != self.peer:
            new = len(into) > before and type(into[before]) is ef.SaveFrame
            meter.doubled += not new

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Send a message to peers, and count it for them."""
        super().send(peers, message)
        size = len(encode(message))
        world = self.world
        for peer in peers:
            if world.network.connected(self.number, peer):
                self._count(world.by_peer[peer].number, size)

    def announced(self, source: PeerId, sealed: Sealed) -> bool:
        """Take in a gossiped body, and count it."""
        self._count(self.number, len(encode(sealed)))
        return super().announced(source, sealed)

    def _count(self, number: int, size: int) -> None:
        self.meter.messages[number] += 1
        self.meter.octets[number] += size


class _Unhashed(Trace):
    """No trace: it costs as much as the cores."""

    def step(self, *what: Any) -> None:
        """Nothing."""

    def note(self, *what: Any) -> None:
        """Nothing."""


class _Nobody:
    """Nobody looks on."""

    def stepped(self, *what: Any) -> None:
        """Nothing."""

    synced = acting = restored = died = stepped


def plan(nodes: int, units_a_node: int = UNITS_A_NODE) -> Scenario:
    """One publisher and ``nodes`` volunteers that have all inputs; 16 of them a shard."""
    units = units_a_node * nodes
    return Scenario(
        name="scale",
        about="",
        network=NetworkQuality(degree=min(NEIGHBOURS, nodes)),
        disk=DiskQuality(),
        clocks=ClockQuality(),
        machines=(
            MachineKind("paula", slots=0),
            MachineKind("v", count=nodes, unit_ms=UNIT_MS),
        ),
        jobs=(
            JobPlan(
                "paula-0",
                units,
                crowd=nodes,
                shards=count_for(nodes, units),
                custodians=nodes,
                lasts_ms=END_MS,
            ),
        ),
        faults=(),
        expect=Expectation(),
    )


def measure(
    nodes: int, seed: int, tell: Callable[[str], None], units_a_node: int, end_ms: int = END_MS
) -> Cost:
    """Run the job of one size to its end, or until ``end_ms``."""
    scenario = plan(nodes, units_a_node)
    meter = Meter(nodes + 1)
    kernel = Kernel(seed)
    began = time.process_time()
    cluster = Cluster(scenario, kernel, _Unhashed(), partial(Measured, meter))
    cluster.world.witness = _Nobody()

    def look() -> None:
        if cluster.over():
            kernel.halt()
            return
        if not kernel.now % TELL_MS:
            spent = time.process_time() - began
            tell(
                f"{nodes} nodes: {_settled(cluster)} of {scenario.jobs[0].units} units settled "
                f"after {kernel.now / 1000:.0f} simulated seconds and {spent:.0f} s of processor"
            )
        kernel.later(LOOK_MS, look)

    cluster.begin()
    kernel.at(LOOK_MS, look)
    kernel.run(end_ms)
    return _cost(cluster, meter, time.process_time() - began)


def _settled(cluster: Cluster) -> int:
    if not cluster.published:
        return 0
    job = next(iter(cluster.published))
    stored = cluster.publisher(job).disk.jobs.get(job)
    return 0 if stored is None else sum(row.state == "settled" for row in stored.units.values())


def _decided(cluster: Cluster) -> int:
    """Units that are certified by somebody who serves their shard, or settled."""
    job = next(iter(cluster.published), None)
    if job is None:
        return 0
    if cluster.over():
        return cluster.scenario.jobs[0].units
    least: dict[int, int] = {}
    for machine in cluster.machines:
        known = None if machine.node is None else machine.node.jobs.get(job)
        if known is not None:
            for shard in known.shards.known:
                open_ones = known.settlement.undecided(shard)
                least[shard] = min(open_ones, least.get(shard, open_ones))
    terms = cluster.scenario.jobs[0]
    return sum(size_of(terms.units, terms.shards, shard) - n for shard, n in least.items())


def _cost(cluster: Cluster, meter: Meter, process_s: float) -> Cost:
    job = cluster.scenario.jobs[0]
    units, nodes = job.units, len(cluster.machines) - 1
    decided = _decided(cluster)
    own = decided / job.shards
    executed = sum(machine.compute.executed for machine in cluster.machines)

    def spread(values: list[int], scale: float) -> Spread:
        mine = values[1:]
        return Spread(
            round(statistics.median(mine) / max(1, own) / scale, 1),
            round(max(mine) / max(1, own) / scale, 1),
        )

    def each(total: float, count: int = decided) -> float:
        return round(total / max(1, count), 1)

    return Cost(
        nodes=nodes,
        shards=job.shards,
        units=units,
        decided=decided,
        settled=_settled(cluster),
        simulated_s=round(cluster.kernel.now / 1000, 1),
        executions_a_unit=round(executed / max(1, decided), 2),
        messages_a_unit=each(sum(meter.messages)),
        kib_a_unit=each(sum(meter.octets) / 1024),
        doubled_a_unit=each(meter.doubled),
        events_a_unit=each(meter.steps),
        messages_a_node=spread(meter.messages, 1),
        kib_a_node=spread(meter.octets, 1024),
        cpu_us_a_node=spread(meter.cpu_ns, 1000),
        publisher_messages=each(meter.messages[0]),
        publisher_kib=each(meter.octets[0] / 1024),
        publisher_cpu_us=each(meter.cpu_ns[0] / 1000),
        connections_max=cluster.network.most_connections,
        lookups_a_node=each(cluster.network.lookups, nodes),
        process_s=round(process_s, 1),
    )


def scale(
    sizes: Sequence[int],
    seed: int,
    tell: Callable[[str], None],
    units_a_node: int = UNITS_A_NODE,
    end_ms: int = END_MS,
) -> list[Cost]:
    """Measure each size, the smallest first; ``tell`` hears how far it is."""
    found = []
    for nodes in sorted(sizes):
        with uncollected():
            found.append(measure(nodes, seed, tell, units_a_node, end_ms))
            signatures.unseal.cache_clear()
    return found


HEADINGS = (
    "nodes", "shards", "units", "decided", "settled", "s", "runs/unit", "msgs/unit", "KiB/unit",
    "doubled/unit", "events/unit", "msgs/node", "worst", "us/node", "worst", "publ. msgs",
    "publ. us", "conns",
)  # fmt: skip


def row(cost: Cost) -> tuple[Any, ...]:
    """One line of the table under :data:`HEADINGS`."""
    return (
        cost.nodes, cost.shards, cost.units, cost.decided, cost.settled, round(cost.simulated_s),
        cost.executions_a_unit, cost.messages_a_unit, cost.kib_a_unit, cost.doubled_a_unit,
        cost.events_a_unit, cost.messages_a_node.median, cost.messages_a_node.worst,
        round(cost.cpu_us_a_node.median), round(cost.cpu_us_a_node.worst),
        cost.publisher_messages, round(cost.publisher_cpu_us), cost.connections_max,
    )  # fmt: skip


def legend() -> list[str]:
    """What the columns mean."""
    return [
        f"One job of {CROWD} volunteers a shard. By unit that is decided in its shard: executions, "
        "messages and KiB in the whole network, frames that were there already, events into cores. "
        "By node and decided unit of a shard: messages and core microseconds of the median and the "
        "worst volunteer. The publisher's are by unit of the job. conns: most connections of a "
        "node.",
    ]
