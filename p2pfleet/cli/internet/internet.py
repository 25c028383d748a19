"""Hosts on one machine, each in a network namespace of its own, with links under some weather.

    with Internet(seed=7) as internet:
        paula = internet.host("paula")
        home = internet.router("home", "symmetric")
        victor = internet.host("victor", Weather(latency_ms=50, loss=0.02), behind=home)
        node = victor.popen([...])
        internet.cut([paula], [victor])
        internet.heal()

Everything is gone at the end of the block, and also if this process is killed in it: the guard
process, which holds all namespaces, sees that and ends whatever runs in them.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from p2pfleet.cli.internet import enter, kernel
from p2pfleet.cli.internet.guard_process import ADVICE, GuardProcess
from p2pfleet.cli.internet.leftovers import end_orphans, mark_of
from p2pfleet.cli.internet.orders import (
    AddHost,
    AddRouter,
    Built,
    ChangeWeather,
    Count,
    Cut,
    ForwardPort,
    Heal,
    Renumber,
)
from p2pfleet.cli.internet.switch import PUBLIC
from p2pfleet.cli.internet.weather import CLEAR, Weather
from p2pfleet.core.errors import P2pfleetError

ROUTERS_MAX = 250
PUBLIC_NETWORK = "10.77.0.0/16"

_PRIVATE_NETWORK = "192.168.{}.0/24"
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}

Nat = Literal["cone", "symmetric"]
Command = Sequence[str | os.PathLike[str]]


def obstacle() -> str:
    """Why no internet can be built here, in one sentence; empty if nothing speaks against it."""
    if not sys.platform.startswith("linux"):
        return "Hosts in network namespaces need Linux."
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next((one for one in status.splitlines() if one.startswith("CapEff:")), "CapEff: 0")
    capabilities = int(line.split()[1], 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not capabilities >> bit & 1]
    if lacking:
        return f"Hosts in network namespaces need root ({' and '.join(lacking)})."
    if not os.access(kernel.TUN, os.R_OK | os.W_OK):
        return f"Hosts in network namespaces need TUN devices ({kernel.TUN})."
    return ""


def sweep() -> int:
    """End the processes of internets whose guard was killed; how many there were.

    Their namespaces and devices were gone at once; only processes can stay.
    """
    return end_orphans() if sys.platform.startswith("linux") else 0


class Traffic(msgspec.Struct, frozen=True):
    """What passed a host's device, headers included, and how many packets its link has eaten:
    ``lost`` by chance, ``overflowed`` because a queue was full."""

    sent_bytes: int
    received_bytes: int
    lost: int
    overflowed: int


class Router:
    """A router with NAT. Its hosts share a LAN, in which multicast works."""

    def __init__(
        self, internet: Internet, name: str, ip: str, nat: Nat, segment: int, built: Built
    ) -> None:
        self.name = name
        self.ip = ip
        self.nat = nat
        self.segment = segment
        self.network = ipaddress.IPv4Network(_PRIVATE_NETWORK.format(segment))
        self.hosts: list[Host] = []
        self.outside, self.inside = built.ports
        self._internet = internet
        self._built = built

    def forward(self, host: Host, port: int, protocol: Literal["tcp", "udp"] = "tcp") -> None:
        """Let everybody reach ``port`` of a host behind this router at the router's own address,
        under the same number."""
        if host.router is not self:
            raise ValueError(f"{host.name} is not behind {self.name}")
        self._internet.guard.order(ForwardPort(self._built.namespace, protocol, port, host.ip))


class Host:
    """A machine with one network device, ``eth0``, whose address is ``ip``."""

    def __init__(
        self,
        internet: Internet,
        name: str,
        ip: str,
        weather: Weather,
        router: Router | None,
        built: Built,
    ) -> None:
        self.name = name
        self.ip = ip
        self.router = router
        self.weather = weather
        (self.port,) = built.ports
        self._internet = internet
        self._built = built

    @property
    def public_ip(self) -> str:
        """The address from which others see packets of this host come."""
        return self.ip if self.router is None else self.router.ip

    def command(self, arguments: Command) -> list[str]:
        """The command line that runs ``arguments`` in this host, instead of this process's own."""
        return [
            sys.executable, "-I", "-S", enter.__file__,
            f"/proc/{self._internet.guard.name.pid}/fd/{self._built.namespace}",
            mark_of(self._internet.guard.name),
            *(os.fspath(argument) for argument in arguments),
        ]  # fmt: skip

    def popen(self, arguments: Command, **options: Any) -> subprocess.Popen[Any]:
        """Start a process in this host; ``options`` are those of :class:`subprocess.Popen`."""
        return subprocess.Popen(self.command(arguments), **options)

    def run(self, arguments: Command, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command in this host to its end, as :func:`subprocess.run` does."""
        return subprocess.run(self.command(arguments), check=options.pop("check", False), **options)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in this host while the block runs: sockets that it opens are this host's
        and stay so. Do not start processes in it."""
        path = f"/proc/{self._internet.guard.name.pid}/fd/{self._built.namespace}"
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with kernel.inside(descriptor):
                yield
        finally:
            os.close(descriptor)

    def change(self, weather: Weather) -> None:
        """From now on, this weather on this host's link."""
        self._internet.guard.order(ChangeWeather(self.port, weather))
        self.weather = weather

    def renumber(self) -> str:
        """Give this host another address, as providers do over night; returns it."""
        ip = self._internet.free_address(self.router)
        self._internet.guard.order(Renumber(self.port, ip))
        self.ip = ip
        return ip

    def traffic(self) -> Traffic:
        """What has passed since this host was built."""
        answer = self._internet.guard.count(Count(self.port))
        return Traffic(answer.sent_bytes, answer.received_bytes, answer.lost, answer.overflowed)


class Internet:
    """Hosts with public addresses, and routers with hosts behind them. No way leads out of it.

    ``public`` is the network of public addresses, a /16 or larger. The same ``seed`` gives every
    link the same luck. Raises :class:`P2pfleetError` where it may
    not be built. One may be used by several threads.
    """

    def __init__(self, seed: int = 0, public: str = PUBLIC_NETWORK) -> None:
        self.guard = GuardProcess(seed)
        self._public = ipaddress.IPv4Network(public)
        self._used: dict[int, int] = {}
        self.hosts: dict[str, Host] = {}
        self.routers: dict[str, Router] = {}

    # ---- begin and end -------------------------------------------------------------------

    def __enter__(self) -> Internet:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start the guard. Ends what is left of others first."""
        found = obstacle()
        if found:
            raise P2pfleetError(found, ADVICE)
        sweep()
        self.guard.open()

    def close(self) -> None:
        """End every process in the hosts, and take everything down. Twice is once."""
        self.guard.close()

    # ---- building ------------------------------------------------------------------------

    def host(
        self,
        name: str,
        weather: Weather = CLEAR,
        *,
        behind: Router | None = None,
        lan: str = "",
    ) -> Host:
        """A new host; ``weather`` is that of its link.

        With a public address, or ``behind`` a router with a private one. Hosts with the same
        ``lan`` hear each other's multicast; so do those behind the same router.
        """
        self._unused(name)
        if behind is not None and lan:
            raise ValueError("hosts behind a router are on its LAN")
        ip = self.free_address(behind)
        network = self._network(behind)
        built = self.guard.build(
            AddHost(
                address=ip,
                prefix=network.prefixlen,
                segment=PUBLIC if behind is None else behind.segment,
                lan=f"lan {lan}" if lan else "" if behind is None else f"behind {behind.name}",
                gateway="" if behind is None else str(behind.network[1]),
                weather=weather,
            )
        )
        host = Host(self, name, ip, weather, behind, built)
        self.hosts[name] = host
        if behind is not None:
            behind.hosts.append(host)
        return host

    def router(self, name: str, nat: Nat = "cone", weather: Weather = CLEAR) -> Router:
        """A new router with a public address; ``weather`` is that of its link to the public."""
        self._unused(name)
        segment = len(self.routers) + 1
        if segment > ROUTERS_MAX:
            raise P2pfleetError(f"{ROUTERS_MAX} routers are the most there can be.", "Build fewer.")
        network = ipaddress.IPv4Network(_PRIVATE_NETWORK.format(segment))
        ip = self.free_address(None)
        built = self.guard.build(
            AddRouter(
                outside=ip,
                outside_prefix=self._public.prefixlen,
                inside=str(network[1]),
                inside_prefix=network.prefixlen,
                segment=segment,
                nat=nat,
                weather=weather,
            )
        )
        router = Router(self, name, ip, nat, segment, built)
        self.routers[name] = router
        return router

    def free_address(self, behind: Router | None) -> str:
        """An address that nobody has had yet.

        Public ones are each in a /24 of its own, as long as there are any, since votes from one
        subnet count less.
        """
        segment = PUBLIC if behind is None else behind.segment
        number = self._used.get(segment, 0)
        network = self._network(behind)
        if behind is None:
            row, subnet = divmod(number, network.num_addresses // 256 - 1)
            offset, full = (subnet + 1) * 256 + row + 1, row >= 254
        else:
            offset, full = number + 2, number + 3 >= network.num_addresses
        if full:
            raise P2pfleetError(f"{network} has no address left.", "Build fewer hosts.")
        self._used[segment] = number + 1
        return str(network[offset])

    def _network(self, behind: Router | None) -> ipaddress.IPv4Network:
        return self._public if behind is None else behind.network

    def _unused(self, name: str) -> None:
        if name in self.hosts or name in self.routers:
            raise ValueError(f"there is a {name} already")

    # ---- partitions ----------------------------------------------------------------------

    def cut(self, *sides: Iterable[Host]) -> None:
        """Nothing passes from a host of one side to a host of another until :meth:`heal`.

        A single side is cut off from everybody else. Hosts that are on no side go on talking to
        all. What is under way arrives. Raises :class:`ValueError` if two sides share a router and
        there is somebody else on a side: outside, both have the same address.
        """
        groups = [list(side) for side in sides]
        if len(groups) == 1:
            self.guard.order(Cut(self._alone(groups[0])))
        else:
            self.guard.order(Cut(tuple(self._ports(group, groups) for group in groups)))

    def heal(self) -> None:
        """Undo every cut."""
        self.guard.order(Heal())

    def _alone(self, group: list[Host]) -> tuple[tuple[int, ...], ...]:
        """The ports of a group and its own routers, and all others."""
        ports = [host.port for host in group]
        others = [host.port for host in self.hosts.values() if host not in group]
        for router in self.routers.values():
            whole = bool(router.hosts) and all(host in group for host in router.hosts)
            if whole:
                ports += [router.outside, router.inside]
            else:
                others += [router.outside, router.inside]
        return tuple(ports), tuple(others)

    def _ports(self, group: list[Host], groups: list[list[Host]]) -> tuple[int, ...]:
        """The ports of a group; with those of its routers, unless another group is there too."""
        ports = [host.port for host in group]
        for router in self.routers.values():
            here = any(host.router is router for host in group)
            there = any(host.router is router for one in groups if one is not group for host in one)
            elsewhere = any(host.router is not router for one in groups for host in one)
            if here and there and elsewhere:
                raise ValueError(f"two sides are behind {router.name}, which has one address")
            if here and not there:
                ports.append(router.outside)
        return tuple(ports)
