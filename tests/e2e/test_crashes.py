"""SIGKILL of a volunteer or of the publisher in the middle of a job: nothing is lost or doubled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core.model.ids import parse_job
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from tests.e2e.local import (
    NodeProcess,
    Testnet,
    affine_model,
    finished,
    inputs,
    p2pfleet,
    publisher,
    running_testnet,
    wait_until,
)

pytestmark = pytest.mark.e2e

UNITS = 24


class Restarts:
    """Nodes that were killed and started again, until the last test of this file."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str]) -> None:
        self._processes.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(15)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    with running_testnet(tmp_path_factory.mktemp("net") / "NET", nodes=4) as running:
        yield running


@pytest.fixture(scope="module")
def restarts() -> Iterator[Restarts]:
    started = Restarts()
    yield started
    started.stop()


@pytest.fixture
def owner(net: Testnet, tmp_path: Path) -> Iterator[NodeProcess]:
    with publisher(tmp_path / "publisher", net.network) as node:
        yield node


def submit(owner: NodeProcess, folder: Path, layers: int = 60) -> str:
    """A job of units that take about a tenth of a second each (with 60 layers)."""
    model = affine_model(folder / "model.onnx", layers=layers, width=512)
    files = [str(path) for path in inputs(folder / "in", UNITS, rows=64, width=512)]
    answer = owner.client.call(
        "submit", model=str(model), inputs=files, name="to be disturbed", lease_s=8
    )
    return str(answer["job"])


def progress(owner: NodeProcess, job: str, key: str, least: int) -> None:
    def reached() -> Any:
        view = owner.client.call("job", job=job)
        return view[key] >= least or view["state"] != "active"

    wait_until(f"{least} {key}", reached)


def check_all_settled_once(owner: NodeProcess, job: str, folder: Path) -> None:
    view = finished(owner.client, job)
    assert (view["state"], view["settled"], view["failed"]) == ("completed", UNITS, 0)
    done = p2pfleet("job", "results", job, "--output", folder, "--data-dir", owner.data_dir)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "certificates.jsonl").read_text().splitlines()]
    assert sorted(line["unit"] for line in lines) == list(range(UNITS))
    verified = p2pfleet("verify", folder, "--data-dir", owner.data_dir)
    assert verified.returncode == 0, verified.stdout
    assert all(row["contradicted"] == 0 for row in owner.client.call("reputation"))


def ledger(data_dir: Path, job: str) -> dict[int, tuple[str, bytes]]:
    """Digest by unit of what is certified or settled, straight from the store."""
    store = SqliteStore.open(data_dir / "node.sqlite")
    try:
        found = {}
        for unit, state, detail in store.units(parse_job(job)):
            if state in ("certified", "settled"):
                certificate: Certificate = decode(detail, Certificate, MAX_FRAME_BYTES)
                found[unit] = (state, bytes(certificate.digest))
        return found
    finally:
        store.close()


@pytest.mark.parametrize(("key", "least"), [("running", 1), ("votes", 6), ("settled", 12)])
def test_a_killed_volunteer_costs_nothing_and_comes_back(
    net: Testnet, owner: NodeProcess, restarts: Restarts, tmp_path: Path, key: str, least: int
) -> None:
    peer = net.client(2).call("ping")["peer"]
    job = submit(owner, tmp_path)
    progress(owner, job, key, least)
    command = net.kill(2)
    restarts.start(command)
    wait_until("it answers again", net.client(2).alive)
    assert net.client(2).call("ping")["peer"] == peer
    check_all_settled_once(owner, job, tmp_path / "out")
    wait_until("it has found the others", lambda: net.client(2).call("status")["peers"] >= 2)


@pytest.mark.parametrize(("key", "least"), [("running", 1), ("votes", 6), ("settled", 8)])
def test_a_killed_publisher_finishes_its_job_after_its_restart(
    net: Testnet, owner: NodeProcess, tmp_path: Path, key: str, least: int
) -> None:
    del net
    job = submit(owner, tmp_path)
    progress(owner, job, key, least)
    before_kill = owner.client.call("job", job=job)
    owner.kill()
    before = ledger(owner.data_dir, job)
    assert len(before) >= before_kill["settled"]
    owner.start()
    check_all_settled_once(owner, job, tmp_path / "out")
    after = ledger(owner.data_dir, job)
    for unit, (_, digest) in before.items():
        assert after[unit] == ("settled", digest)


def test_a_killed_node_leaves_no_child_behind(
    net: Testnet, owner: NodeProcess, restarts: Restarts, tmp_path: Path
) -> None:
    job = submit(owner, tmp_path, layers=600)
    node = psutil.Process(net.client(1).call("ping")["pid"])
    children = wait_until(
        "its sandbox has a fork server and a child",
        lambda: found if len(found := node.children(recursive=True)) >= 2 else None,
    )
    command = net.kill(1)
    gone, alive = psutil.wait_procs(children, timeout=2)
    assert len(gone) == len(children)
    assert not alive
    restarts.start(command)
    owner.client.call("cancel", job=job)
    assert finished(owner.client, job)["state"] == "cancelled"


def test_the_only_bootstrap_node_may_be_killed_in_the_middle_of_a_job(
    net: Testnet, owner: NodeProcess, tmp_path: Path
) -> None:
    """Last in this file: nobody new finds this network any more."""
    job = submit(owner, tmp_path)
    progress(owner, job, "votes", 6)
    net.kill(0)
    check_all_settled_once(owner, job, tmp_path / "out")
