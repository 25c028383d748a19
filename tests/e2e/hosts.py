"""Hosts in network namespaces for tests, and node processes in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path

import psutil
import pytest

from p2pfleet.cli.internet import Host, obstacle
from tests.e2e.local import NodeProcess

PORT = 4001

# Where no hosts can be built, there is nothing to test.
wants_hosts = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "hosts can be built")


def node_in(
    host: Host, data_dir: Path, *arguments: str | Path, listen: str | None = None
) -> NodeProcess:
    """A node process in ``host``, not started yet: ``p2pfleet run`` with these arguments."""
    process = NodeProcess(
        data_dir, "run", "--data-dir", data_dir,
        "--listen", listen or f"/ip4/{host.ip}/tcp/{PORT}", *arguments,
    )  # fmt: skip
    process._arguments = host.command(process._arguments)
    return process


class Tag:
    """Finds every process that a test has started, however indirectly, by its environment.

    Others may run internets of their own on the machine at the same time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._value = secrets.token_hex(8)
        monkeypatch.setenv("P2PFLEET_TEST", self._value)

    def processes(self) -> list[psutil.Process]:
        """Those that run now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                tagged = process.environ().get("P2PFLEET_TEST") == self._value
                if tagged and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return [one for one in found if one.pid != os.getpid()]

    def in_hosts(self) -> list[psutil.Process]:
        """Those of them that run in a host."""
        own = Path("/proc/self/ns/net").stat().st_ino
        found = []
        for process in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process.pid}/ns/net").stat().st_ino != own:
                    found.append(process)
        return found


def in_namespaces(inodes: set[int]) -> list[int]:
    """The processes in any of these network namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino in inodes:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def mounted_namespaces() -> list[str]:
    """Namespaces that a mount keeps alive."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in mounts if " nsfs " in line]


def devices() -> list[str]:
    """The network devices of this very process's namespace."""
    return sorted(name for _, name in socket.if_nameindex())


def udp(host: Host, port: int = 0) -> socket.socket:
    """A datagram socket of a host."""
    with host.inside():
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.bind((host.ip, port))
    found.settimeout(5)
    return found
