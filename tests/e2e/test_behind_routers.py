"""Nodes that nobody can dial: through a relay, through holes in their routers, and in a job."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2pfleet.cli.internet import Internet
from p2pfleet.resources import resource_path
from tests.e2e.hosts import Tag, wants_hosts
from tests.e2e.local import NodeProcess, finished, wait_until
from tests.e2e.test_no_bootstrap import Place, own_id, peers

pytestmark = [pytest.mark.e2e, wants_hosts]

DIGITS = resource_path("testnet", "jobs", "digits")
CIRCUIT = "/p2p-circuit/"


class Routers(Place):
    """One node that everybody can dial, and nodes behind a router each."""

    def open(self, *behind: str) -> None:
        """Start them; ``behind`` are names that begin with the kind of the router."""
        self.public = self.node(self.internet.host("public"), "bootstrap")
        self.public.start()
        self.write(*self.public.client.call("status")["addresses"][:1])
        self.hidden = {}
        for name in behind:
            kind = "cone" if name.startswith("cone") else "symmetric"
            router = self.internet.router(f"router-{name}", kind)  # type: ignore[arg-type]
            self.hidden[name] = self.node(self.internet.host(name, behind=router))
        with ThreadPoolExecutor() as threads:
            list(threads.map(NodeProcess.start, self.hidden.values()))
        self.ids = {name: own_id(one) for name, one in self.hidden.items()}

    def way(self, one: str, other: str) -> str:
        """How the first sees the second: ``direct``, ``relayed`` or empty."""
        address = peers(self.hidden[one]).get(self.ids[other], "")
        return "" if not address else "relayed" if CIRCUIT in address else "direct"

    def submit(self, node: NodeProcess, quorum: int) -> dict[str, object]:
        """A job of this node, once it is over."""
        job = node.client.call(
            "submit", name="digits", model=str(DIGITS / "digits.onnx"),
            inputs=[str(DIGITS / "digits.npz")], split="0:200", quorum=quorum,
        )["job"]  # fmt: skip
        return finished(node.client, str(job))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Routers]:
    tag = Tag(monkeypatch)
    with Internet(seed=8) as internet, ExitStack() as stack:
        yield Routers(tmp_path, internet, stack)
    assert not tag.in_hosts()


def test_two_behind_symmetric_routers_do_a_job_through_a_relay(place: Routers) -> None:
    place.open("symmetric-1", "symmetric-2")
    one, other = place.hidden.values()
    since = time.monotonic()
    wait_until("they are connected", lambda: place.way("symmetric-1", "symmetric-2"))
    print(f"connected through a relay after {time.monotonic() - since:.1f} s")
    before = place.internet.hosts["public"].traffic().sent_bytes
    done = place.submit(one, quorum=1)  # its own vote does not count
    assert (done["settled"], done["failed"]) == (9, 0)
    assert other.client.call("status")["executed"] == 9
    # The model and the inputs have passed the relay.
    assert place.internet.hosts["public"].traffic().sent_bytes - before > 50_000
    assert place.way("symmetric-1", "symmetric-2") == "relayed"


@pytest.mark.long
def test_who_reaches_whom_behind_which_routers_and_all_of_them_do_a_job(place: Routers) -> None:
    names = ["cone-1", "cone-2", "symmetric-1", "symmetric-2"]
    place.open(*names)
    pairs = list(itertools.combinations(names, 2))
    holes = [pair for pair in pairs if all(one.startswith("cone") for one in pair)]
    wait_until("all are connected", lambda: all(place.way(*pair) for pair in pairs))
    wait_until("holes are punched", lambda: all(place.way(*pair) == "direct" for pair in holes))
    for pair in pairs:
        print(f"{pair[0]:12} {pair[1]:12} {place.way(*pair)}")
        assert place.way(*pair) == ("direct" if pair in holes else "relayed")
    done = place.submit(place.hidden["symmetric-1"], quorum=3)
    assert (done["settled"], done["failed"]) == (9, 0)


@pytest.mark.long
def test_a_job_of_a_public_publisher_with_half_of_the_volunteers_behind_symmetric_routers(
    place: Routers,
) -> None:
    open_hosts = [place.internet.host(f"open-{number}") for number in range(2)]
    place.open("symmetric-1", "symmetric-2")
    open_nodes = [place.node(host) for host in open_hosts]
    publisher = place.node(place.internet.host("paula"), "publisher")
    with ThreadPoolExecutor() as threads:
        list(threads.map(NodeProcess.start, [*open_nodes, publisher]))
    wait_until("the volunteers are there", lambda: len(peers(publisher)) >= 5)
    done = place.submit(publisher, quorum=4)
    assert (done["settled"], done["failed"]) == (9, 0)
    for node in place.hidden.values():
        assert node.client.call("status")["executed"] == 9
