"""A publisher and a few volunteers, each a process of its own with its own node.toml."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from p2pfleet.config.network_file import save_network
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from tests.e2e.local import NodeProcess, wait_until

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
NETWORK = NetworkFile(NetworkParameters("testnet-small", testnet=True))


class Volunteer:
    """A volunteer's process, and what it started for strangers' models."""

    def __init__(self, node: NodeProcess) -> None:
        self.node = node
        self.client = node.client
        self.peer = str(self.status()["peer"])
        self.process = psutil.Process(self.status()["pid"])
        # What runs before the first job: the warm fork server, in however many processes.
        self.servers = self._descendants()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.call("status")
        return found

    def children(self) -> list[psutil.Process]:
        """The children that hold models now."""
        servers = {server.pid for server in self.servers}
        return [one for one in self._descendants() if one.pid not in servers]

    def _descendants(self) -> list[psutil.Process]:
        found = []
        for one in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    def computing(self, more_s: float = 0.05) -> psutil.Process | None:
        """A child that has used so much processor time, if there is one."""
        for child in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if cpu_s(child) >= more_s and child.status() != psutil.STATUS_STOPPED:
                    return child
        return None


def cpu_s(process: psutil.Process) -> float:
    """Processor time used so far, by the kernel's count of ticks."""
    times = process.cpu_times()
    return float(times.user + times.system)


class SmallNetwork:
    """``owner`` publishes; ``volunteers`` were started in this order."""

    def __init__(self, folder: Path, owner: NodeProcess, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.owner = owner
        self.volunteers: list[Volunteer] = []
        self._stack = stack

    def volunteer(self, **keys: Any) -> Volunteer:
        """Start one more, with these keys in its node.toml, and wait until the owner knows it."""
        number = len(self.volunteers)
        bootstrap: list[str] = []
        for client in (self.owner.client, *(one.client for one in self.volunteers)):
            bootstrap += ["--bootstrap", client.call("status")["addresses"][0]]
        node = _node(self.folder / f"volunteer-{number}", "volunteer", keys, *bootstrap)
        node.start()
        self._stack.callback(node.stop)
        volunteer = Volunteer(node)
        self.volunteers.append(volunteer)

        def known() -> bool:
            everybody = [self.owner.client, *(one.client for one in self.volunteers)]
            return all(
                len([peer for peer in client.call("peers") if peer["software"]]) > number
                for client in everybody
            )

        wait_until("all know each other", known)
        return volunteer

    def submit(self, model: Path, inputs: list[Path], **terms: Any) -> str:
        """Publish with the owner's node; returns the job's id."""
        answer = self.owner.client.call(
            "submit", model=str(model), inputs=[str(path) for path in inputs],
            **{"name": model.stem, "quorum": 1, **terms},
        )  # fmt: skip
        return str(answer["job"])

    def records(self) -> dict[str, tuple[int, int]]:
        """What the owner holds for and against each volunteer."""
        rows = self.owner.client.call("reputation")
        return {row["peer"]: (row["agreed"], row["contradicted"]) for row in rows}


def careless(data_dir: Path) -> NodeProcess:
    """A publisher that publishes anything; its inputs are files of canonical bundles."""
    data_dir.mkdir(mode=0o700)
    process = NodeProcess(data_dir)
    script = Path(__file__).with_name("careless_publisher.py")
    network = data_dir.parent / "network.toml"
    process._arguments = [sys.executable, *map(str, (script, data_dir, network))]
    return process


def _node(data_dir: Path, role: str, keys: dict[str, Any], *arguments: str) -> NodeProcess:
    data_dir.mkdir(mode=0o700)
    values = {"roles": [role], **keys}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    (data_dir / "node.toml").write_text("\n".join(lines) + "\n")
    network = data_dir.parent / "network.toml"
    return NodeProcess(
        data_dir, "run", "--data-dir", data_dir, "--network", network, "--listen", LOOPBACK,
        *arguments,
    )  # fmt: skip


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("'", '"')


@contextlib.contextmanager
def small_network(
    folder: Path, checked: bool = True, network: NetworkFile = NETWORK
) -> Iterator[SmallNetwork]:
    """A network that has a publisher, while the block runs.

    Not ``checked``: it is a careless one.
    """
    folder.mkdir(exist_ok=True)
    save_network(folder / "network.toml", network)
    with contextlib.ExitStack() as stack:
        data_dir = folder / "owner"
        owner = _node(data_dir, "publisher", {}) if checked else careless(data_dir)
        owner.start()
        stack.callback(owner.stop)
        yield SmallNetwork(folder, owner, stack)
