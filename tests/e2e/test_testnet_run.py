"""``testnet run``: scenarios on real processes; what does not hold is told, and nobody is left."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from p2pfleet.core.errors import ExitCode
from p2pfleet.resources import resource_path
from tests.e2e.local import COMMAND, p2pfleet, wait_until

pytestmark = pytest.mark.e2e

DIGITS = resource_path("testnet", "jobs", "digits")
SMALL = f"""
nodes = 3
liars = 2

[job]
model = "{DIGITS / "digits.onnx"}"
inputs = ["{DIGITS / "digits.npz"}"]
split = "0:200"
quorum = 1

[expect]
within_s = 120
"""


def _processes(folder: Path) -> list[psutil.Process]:
    """Every process that was told of a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and any(str(folder) in argument for argument in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[Path]:
    """A folder of whose nodes none may outlive the test."""
    yield tmp_path
    left = _processes(tmp_path)
    for process in left:
        process.kill()
    assert not left


def _document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_third_that_lies_and_agrees_settles_nothing_wrong_and_ends_below_everybody(
    nothing_left: Path,
) -> None:
    done = p2pfleet(
        "testnet", "run", "liars-third", "--dir", nothing_left / "net", "--json", timeout_s=360
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = _document(done)
    assert found["held"]
    assert (found["units"], found["settled"], found["failed"]) == (90, 90, 0)
    assert found["wrong_settled"] == []
    assert found["problems"] == []
    assert len(found["conditions"]) == 5
    assert all(condition["held"] for condition in found["conditions"])
    nodes = found["nodes"]
    assert [node["liar"] for node in nodes] == [False] * 8 + [True] * 4
    assert all(node["agreed"] >= 20 for node in nodes), "everybody began with a record"
    for node in nodes:
        if node["liar"]:
            assert (node["contradicted"] > 0, node["checks"]) == (True, 0), node
        else:
            assert (node["contradicted"], node["checks"] > 20) == (0, True), node
    assert not _processes(nothing_left)
    kept = {path.name for path in (nothing_left / "net").iterdir()}
    assert kept == {"network", "publisher", "results-0"}


def test_where_single_votes_of_liars_count_the_run_says_what_went_wrong(nothing_left: Path) -> None:
    scenario = nothing_left / "most-lie.toml"
    scenario.write_text(SMALL)
    done = p2pfleet("testnet", "run", scenario, "--dir", nothing_left / "net", timeout_s=300)
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert "FAILS  no wrong answer settled: " in done.stdout
    assert "holds  every certificate and output holds: " in done.stdout
    assert "every process of it is gone" in done.stdout


def test_an_interrupted_run_leaves_no_process(nothing_left: Path) -> None:
    scenario = nothing_left / "most-lie.toml"
    scenario.write_text(SMALL)
    net = nothing_left / "net"
    process = subprocess.Popen(
        [*COMMAND, "testnet", "run", str(scenario), "--dir", str(net)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Its own process, and those of at least two nodes.
        wait_until("nodes are started", lambda: len(_processes(net)) > 2)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert time.monotonic() - begin < 30
    assert not _processes(net)
