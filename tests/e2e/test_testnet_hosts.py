"""``testnet run`` with every node in a host of its own; and nothing is left of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfleet.core.errors import ExitCode
from p2pfleet.resources import resource_path
from tests.e2e.hosts import Tag, devices, mounted_namespaces, wants_hosts
from tests.e2e.local import COMMAND, p2pfleet, wait_until

pytestmark = [pytest.mark.e2e, wants_hosts]

DIGITS = resource_path("testnet", "jobs", "digits")
# Every unit needs all three volunteers, one of whom can be dialled by nobody.
SMALL = f"""
network = "namespaces"
seed = 6

[[groups]]
name = "far"
count = 2
latency_ms = 50

[[groups]]
name = "home"
nat = "cone"

[[events]]
at_s = 0
do = "cut"
groups = ["home", ["far", "publisher"]]
for_s = 2

[job]
model = "{DIGITS / "digits.onnx"}"
inputs = ["{DIGITS / "digits.npz"}"]
split = "0:200"
quorum = 3

[expect]
within_s = 240
sent_max = 100
"""


@pytest.fixture
def tag(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tag]:
    """No process, device or namespace may outlive the test."""
    before = (devices(), mounted_namespaces())
    found = Tag(monkeypatch)
    yield found
    left = found.processes()
    for process in left:
        process.kill()
    assert not left
    assert (devices(), mounted_namespaces()) == before


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_a_job_is_done_by_the_far_and_the_hidden_across_a_cut(scenario: Path, tag: Tag) -> None:
    done = p2pfleet(
        "testnet", "run", scenario, "--dir", scenario.parent / "net", "--json", timeout_s=400
    )
    assert not tag.processes(), "the command waits until the last one is gone"
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cut home | far+publisher" in done.stderr
    found = json.loads(done.stdout)
    assert (found["held"], found["settled"], found["votes"]) == (True, 9, 27)
    assert [node["agreed"] for node in found["nodes"]] == [9, 9, 9]
    *nodes, publisher = found["sent_bytes"]
    # The publisher has sent the model and all inputs to three, they sent votes and answers.
    assert publisher > 3 * (DIGITS / "digits.onnx").stat().st_size
    assert all(1_000 < sent < publisher for sent in nodes)


def test_a_killed_run_leaves_no_process_and_no_host(scenario: Path, tag: Tag) -> None:
    net = scenario.parent / "net"
    with subprocess.Popen(
        [*COMMAND, "testnet", "run", str(scenario), "--dir", str(net)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until("several nodes run in hosts", lambda: len(tag.in_hosts()) >= 2)
        finally:
            process.kill()
    wait_until("everybody is gone, the guard last", lambda: not tag.processes(), 15)
    down = p2pfleet("testnet", "down", "--dir", net / "network")
    assert down.returncode == 0, down.stderr
    assert "no node was running" in down.stdout


def test_who_may_not_build_hosts_is_told_so(scenario: Path, tag: Tag) -> None:
    script = (
        "import ctypes, os, sys\n"
        "for capability in (12, 21):\n"  # CAP_NET_ADMIN, CAP_SYS_ADMIN
        "    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", script, *COMMAND[1:], "testnet", "run", str(scenario)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.FAILED, done.stdout + done.stderr
    assert "need root (CAP_NET_ADMIN and CAP_SYS_ADMIN)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not tag.processes()
