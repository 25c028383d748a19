"""The hosts of a scenario: one a node, one for the publisher, with the links that it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pfleet.cli.internet import Host, Internet, Router
from p2pfleet.cli.local_network import PEERS_WANTED, Seat
from p2pfleet.cli.testnet_groups import PUBLISHER, Link, members
from p2pfleet.cli.testnet_scenario import NetworkScenario

PORT = 4001


@dataclass(frozen=True)
class ScenarioHosts:
    """``nodes`` are the hosts of the nodes, in the order of their numbers; ``groups`` and the
    publisher by their names."""

    internet: Internet
    nodes: tuple[Host, ...]
    publisher: Host
    groups: dict[str, tuple[Host, ...]]

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Where the nodes run."""
        return tuple(_seat(host) for host in self.nodes)

    @property
    def publisher_seat(self) -> Seat:
        return _seat(self.publisher)

    @property
    def peers(self) -> int:
        """How many peers each node can be asked to have: those that can be dialled."""
        return min(PEERS_WANTED, max(1, sum(host.router is None for host in self.nodes) - 1))

    def of(self, names: Iterable[str]) -> list[Host]:
        """The hosts of several groups."""
        return [host for name in names for host in self.groups[name]]

    def sent_bytes(self) -> list[int]:
        """What each host has sent so far, the publisher last."""
        return [host.traffic().sent_bytes for host in (*self.nodes, self.publisher)]


def _seat(host: Host) -> Seat:
    return Seat(host.ip, PORT, host.command)


@contextmanager
def scenario_hosts(plan: NetworkScenario) -> Iterator[ScenarioHosts | None]:
    """The hosts while the block runs; ``None`` if the scenario wants none.

    Raises :class:`P2pfleetError` where none can be built.
    """
    if plan.network != "namespaces":
        yield None
        return
    with Internet(plan.seed) as internet:
        nodes: list[Host] = []
        routers: dict[str, Router] = {}

        def build(name: str, link: Link) -> Host:
            if link.nat == "none":
                return internet.host(name, link.weather, lan=link.lan)
            where = f"lan {link.lan}" if link.lan else f"router of {name}"
            if where not in routers:
                routers[where] = internet.router(where, link.nat)
            return internet.host(name, link.weather, behind=routers[where])

        for group in plan.groups:
            nodes += [build(f"{group.name} {number}", group) for number in range(group.count)]
        publisher = build(PUBLISHER, plan.publisher)
        groups = {
            name: tuple(nodes[number] for number in numbers)
            for name, numbers in members(plan.groups).items()
        }
        yield ScenarioHosts(internet, tuple(nodes), publisher, {**groups, PUBLISHER: (publisher,)})
