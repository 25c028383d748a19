"""The parts of the simulated world: time, clocks, disk, links."""

from __future__ import annotations

from worlds import world

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.sim.clocks import Clock
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.network import QUEUE_MAX, Network
from p2pfleet.sim.run import Panel
from p2pfleet.sim.scenario import NetworkQuality
from p2pfleet.sim.signatures import peer_of
from p2pfleet.sim.trace import Trace


class Ear:
    """A machine that only listens."""

    on = True

    def __init__(self, number: int) -> None:
        self.number = number
        self.peer = peer_of(str(number))
        self.heard: list[ev.Event] = []

    def hear(self, event: ev.Event) -> None:
        self.heard.append(event)

    def announced(self, source: PeerId, sealed: Sealed) -> bool:
        self.heard.append(ev.Tick())
        return True


def ears(count: int, **quality: object) -> tuple[Kernel, Network, list[Ear]]:
    kernel = Kernel(1)
    network = Network(kernel, NetworkQuality(**quality))  # type: ignore[arg-type]
    stations = [Ear(number) for number in range(count)]
    network.build(list(stations))
    network.rewire()
    kernel.run(10_000)
    return kernel, network, stations


def numbers(ear: Ear) -> list[int]:
    return [event.for_ms or 0 for event in ear.heard if isinstance(event, ev.PauseRequested)]


def test_things_of_one_millisecond_happen_in_the_order_of_their_planning() -> None:
    kernel, seen = Kernel(0), []
    for number in (5, 3, 5, 3):
        kernel.at(number, lambda n: seen.append((kernel.now, n)), len(seen) + number)
    kernel.run(4)
    assert [at for at, _ in seen] == [3, 3]
    kernel.run(9)
    assert [at for at, _ in seen] == [3, 3, 5, 5]


def test_a_clock_shows_what_it_was_asked_to_reach_and_not_a_millisecond_earlier() -> None:
    for drift in (-10_000, -50, 0, 37, 10_000):
        clock = Clock(1_000_003, 500, drift)
        for ahead in (0, 1, 7, 999, 123_456):
            goal = clock.monotonic(5_000) + ahead
            true = clock.reaches(goal, 5_000)
            assert clock.monotonic(true) >= goal
            assert true == 5_000 or clock.monotonic(true - 1) < goal


def test_a_link_keeps_the_order_and_a_broken_one_loses_what_is_under_way() -> None:
    kernel, network, (one, other) = ears(2, jitter_ms=500)
    for number in range(50):
        network.send(0, other.peer, ev.PauseRequested(number))
    kernel.run(kernel.now + 2_000)
    assert numbers(other) == list(range(50))

    network.send(0, other.peer, ev.PauseRequested(99))
    network.islands[0] = frozenset({0})
    network.rewire()
    kernel.run(kernel.now + 5_000)
    assert 99 not in numbers(other)
    assert one.heard[-1] == ev.PeerDisconnected(other.peer)


def test_a_full_link_drops_messages() -> None:
    kernel, network, (_, other) = ears(2)
    for number in range(QUEUE_MAX + 10):
        network.send(0, other.peer, ev.PauseRequested(number))
    kernel.run(kernel.now + 5_000)
    assert len(numbers(other)) == QUEUE_MAX
    assert network.lost == 10


def test_gossip_reaches_everybody_once_over_few_links() -> None:
    kernel, network, stations = ears(20, degree=3)
    network.gossip(0, Sealed(b"news", peer_of("0"), bytes(64)))
    kernel.run(kernel.now + 5_000)
    told = [ear.heard.count(ev.Tick()) for ear in stations]
    assert told == [0] + [1] * 19


def test_a_crash_loses_the_transaction_under_way_and_nothing_else() -> None:
    disk = Disk()
    me = peer_of("me")
    requirement = Sealed(b"one", me, bytes(64))
    disk.write([ef.SaveRequirement(requirement)])
    disk.sync()
    disk.write([ef.SaveRequirement(Sealed(b"two", me, bytes(64)))])
    disk.crash()
    assert disk.requirement == requirement
    assert disk.lost == 1


def test_a_machine_that_dies_before_its_sync_announces_nothing() -> None:
    kernel = Kernel(3)
    cluster = Cluster(world(), kernel, Trace())
    cluster.world.witness = Panel(cluster)
    publisher = cluster.by_name["paula-0"]
    cluster.begin()
    kernel.run(900)
    publisher.dies_at_write = True
    kernel.run(1_500)
    assert not publisher.on
    assert publisher.disk.jobs == {}
    others = [machine for machine in cluster.machines if machine is not publisher]
    assert all(machine.node is not None and not machine.node.jobs for machine in others)
