"""A publisher that goes as soon as its job is kept, and comes back: with its folder, or without."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.e2e.local import (
    Testnet,
    affine_model,
    document,
    inputs,
    p2pfleet,
    running_testnet,
    wait_until,
)

pytestmark = pytest.mark.e2e

VOLUNTEERS = 10
UNITS = 30


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    with running_testnet(tmp_path_factory.mktemp("net") / "NET", nodes=VOLUNTEERS) as running:
        yield running


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    affine_model(folder / "model.onnx")
    inputs(folder / "in", UNITS)
    return folder


def detached(net: Testnet, work: Path, data: Path, name: str) -> str:
    """Publish with a process that is gone when this returns; the job's id."""
    began = time.monotonic()
    found = document(
        "submit", work / "model.onnx", work / "in", "--name", name, "--network", net.network,
        "--data-dir", data, "--detach",
    )  # fmt: skip
    custody = found["job"]["custody"]
    assert custody["kept"] == custody["blobs"] == 3  # model, table, one pack
    assert custody["recorded"]
    print(f"{name}: kept and left after {time.monotonic() - began:.1f} s")
    job: str = found["job"]["id"]
    return job


def certified_by_volunteers(net: Testnet, job: str) -> dict[str, Any]:
    """Wait until every unit is certified, and every output has its copies, at a volunteer."""
    began = time.monotonic()

    def done() -> Any:
        view = net.client(0).call("job", job=job)
        kept = view["custody"]["outputs_kept"] == view["custody"]["outputs"] > 0
        return view if view["certified"] == UNITS and kept else None

    view: dict[str, Any] = wait_until("volunteers certify and keep everything", done)
    print(f"certified and kept without the publisher after {time.monotonic() - began:.1f} s")
    return view


def check(work: Path, results: Path, data: Path) -> None:
    """Every output is right, and the folder verifies."""
    verified = p2pfleet("verify", results, "--data-dir", data, "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    session = onnxruntime.InferenceSession(work / "model.onnx")
    for number, file in enumerate(sorted((work / "in").iterdir())):
        expected = session.run(["y"], {"x": np.load(file)["x"]})[0]
        found = np.load(results / "outputs" / f"{number:06d}.npz")["y"]
        assert found.tobytes() == expected.tobytes()


def test_two_volunteers_die_while_the_publisher_is_away_and_nothing_is_lost(
    net: Testnet, work: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    job = detached(net, work, data, "leaves")
    assert p2pfleet("status", "--data-dir", data).returncode == 4  # nobody runs there
    view = certified_by_volunteers(net, job)
    assert view["publisher"]
    for number in (VOLUNTEERS - 1, VOLUNTEERS - 2):
        net.kill(number)

    began = time.monotonic()
    found = document("job", "results", job[:12], "--output", tmp_path / "OUT", "--data-dir", data)

    assert found["complete"]
    assert found["job"]["settled"] == UNITS
    print(f"collected {UNITS} of {UNITS} after {time.monotonic() - began:.1f} s")
    check(work, tmp_path / "OUT", data)


def test_the_identity_alone_finds_the_job_again(net: Testnet, work: Path, tmp_path: Path) -> None:
    data, fresh = tmp_path / "data", tmp_path / "fresh"
    job = detached(net, work, data, "forgotten")
    certified_by_volunteers(net, job)
    fresh.mkdir(mode=0o700)
    shutil.copy2(data / "identity.key", fresh)
    shutil.rmtree(data)

    began = time.monotonic()
    listed = document("job", "list", "--own", "--network", net.network, "--data-dir", fresh)
    assert [one["id"] for one in listed] == [job]  # perhaps it is collected already
    found = document(
        "job", "results", job[:12], "--output", tmp_path / "OUT", "--network", net.network,
        "--data-dir", fresh,
    )  # fmt: skip

    assert found["complete"]
    assert found["job"]["settled"] == UNITS
    print(f"an empty folder collected {UNITS} after {time.monotonic() - began:.1f} s")
    check(work, tmp_path / "OUT", fresh)
    report = json.loads((tmp_path / "OUT" / "report.json").read_text())
    assert report["unit_names"] == []
