"""Node processes in hosts of their own: far away, behind a router, cut off and joined again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2pfleet.cli.internet import Host, Internet, Weather
from p2pfleet.config.network_file import save_network
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.resources import resource_path
from tests.e2e.hosts import Tag, node_in, wants_hosts
from tests.e2e.local import NodeProcess, finished, wait_until

# A scenario of test_testnet_hosts.py is the quick one.
pytestmark = [pytest.mark.e2e, pytest.mark.long, wants_hosts]

DIGITS = resource_path("testnet", "jobs", "digits")
FAR = Weather(latency_ms=50)
VOLUNTEERS = 3


class Place:
    """A publisher, two volunteers far away, and one more behind a router."""

    def __init__(self, folder: Path, internet: Internet, stack: contextlib.ExitStack) -> None:
        self.internet = internet
        self._folder = folder
        self._stack = stack
        folder.mkdir()
        network = folder / "network.toml"
        save_network(network, NetworkFile(NetworkParameters("testnet-hosts", testnet=True)))
        self.paula = internet.host("paula")
        self.owner = self._node(self.paula, "publisher")
        self.owner.start()
        (address,) = self.owner.client.call("status")["addresses"]
        assert address.startswith(f"/ip4/{self.paula.ip}/tcp/")
        save_network(network, NetworkFile(NetworkParameters("testnet-hosts", True), (address,)))
        self.far = [internet.host(f"far-{number}", FAR) for number in range(VOLUNTEERS - 1)]
        self.home = internet.host("home", behind=internet.router("router", "cone"))
        nodes = [self._node(host, "volunteer") for host in (*self.far, self.home)]
        with ThreadPoolExecutor() as threads:
            list(threads.map(NodeProcess.start, nodes))
        wait_until("all know each other", lambda: len(self.peers()) == VOLUNTEERS)

    def peers(self) -> list[str]:
        """Where the publisher sees the volunteers that have said who they are."""
        return [one["address"] for one in self.owner.client.call("peers") if one["software"]]

    def submit(self) -> str:
        """A job whose units every volunteer has to answer."""
        job = self.owner.client.call(
            "submit", name="digits", model=str(DIGITS / "digits.onnx"),
            inputs=[str(DIGITS / "digits.npz")], split="0:200", quorum=VOLUNTEERS,
        )["job"]  # fmt: skip
        return str(job)

    def _node(self, host: Host, profile: str) -> NodeProcess:
        network = self._folder / "network.toml"
        process = node_in(
            host, self._folder / host.name, "--profile", profile, "--network", network
        )
        self._stack.callback(process.stop)
        return process


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    tag = Tag(monkeypatch)
    with Internet(seed=5) as internet, contextlib.ExitStack() as stack:
        yield Place(tmp_path / "place", internet, stack)
    assert not tag.processes()


def test_a_job_needs_the_far_and_the_hidden_and_waits_for_those_who_are_cut_off(
    place: Place,
) -> None:
    assert any(f"/{place.home.public_ip}/" in address for address in place.peers())
    client = place.owner.client
    done = finished(client, place.submit())
    assert (done["settled"], done["failed"]) == (9, 0)
    assert place.home.traffic().sent_bytes > 10_000

    place.internet.cut([place.home, place.far[0]])
    job = place.submit()
    wait_until("the volunteer that is left has voted", lambda: client.call("job", job=job)["votes"])
    assert client.call("job", job=job)["settled"] == 0
    place.internet.heal()
    done = finished(client, job)
    assert (done["settled"], done["failed"]) == (9, 0)
