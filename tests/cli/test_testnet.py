"""``testnet``: processes that outlive the command, found again and stopped; never a stranger's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import p2pfleet
from p2pfleet.cli import local_network, processes
from p2pfleet.cli.processes import ProcessName, is_alive, name_process, stop_processes
from p2pfleet.config.network_file import load_network
from p2pfleet.core.errors import ExitCode
from tests.cli.conftest import Invoke, document

ROOT = Path(p2pfleet.__file__).parents[1]
FAKE_PROGRAM = (sys.executable, "-c", "from tests.cli.fake_node import main; main()")


@pytest.fixture
def net(
    tmp_path: Path, home: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder for a testnet of fake nodes; whatever runs there is stopped at the end."""
    monkeypatch.setattr(local_network, "PROGRAM", FAKE_PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(local_network, "_LOOK_EVERY_S", 0.05)
    folder = tmp_path / "net"
    yield folder
    assert invoke("testnet", "down", "--dir", folder).exit_code == 0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Some process that has nothing to do with us."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def named(pid: int) -> ProcessName:
    found = name_process(pid)
    assert found is not None
    return found


def record(net: Path) -> Any:
    return json.loads((net / "testnet.json").read_text())


def test_up_starts_nodes_that_outlive_it_and_down_stops_them(invoke: Invoke, net: Path) -> None:
    up = invoke("testnet", "up", "--nodes", 3, "--liars", 1, "--dir", net, "--json")
    assert up.exit_code == 0, up.output
    nodes = document(up)["nodes"]
    assert [node["liar"] for node in nodes] == [False, False, True]
    assert all(node["alive"] and node["answers"] for node in nodes)
    network = load_network(net / "network.toml")
    assert network.parameters.testnet
    assert len(network.bootstrap) == 1, "the others are found through the first"

    arguments = [json.loads((net / f"node-{n}" / "arguments.json").read_text()) for n in range(3)]
    assert [("--liar" in line, "bootstrap" in line) for line in arguments] == [
        (False, True), (False, False), (True, False),
    ]  # fmt: skip
    assert all("/ip4/127.0.0.1/tcp/0" in line for line in arguments)

    again = invoke("testnet", "up", "--dir", net, "--json")
    assert again.exit_code == ExitCode.FAILED
    assert "runs in" in document(again)["error"]["message"]

    status = invoke("testnet", "status", "--dir", net, "--json")
    assert status.exit_code == 0
    assert [node["peers"] for node in document(status)["nodes"]] == [4, 4, 4]

    down = invoke("testnet", "down", "--dir", net, "--json")
    assert document(down)["stopped"] == 3
    assert not any(name_process(node["pid"]) for node in nodes)
    assert document(invoke("testnet", "down", "--dir", net, "--json"))["stopped"] == 0
    assert invoke("testnet", "status", "--dir", net).exit_code == ExitCode.NO_NODE


def test_a_stopped_testnet_is_continued_under_its_name(invoke: Invoke, net: Path) -> None:
    assert invoke("testnet", "up", "--nodes", 1, "--dir", net).exit_code == 0
    name = load_network(net / "network.toml").parameters.name
    invoke("testnet", "down", "--dir", net)
    assert invoke("testnet", "up", "--nodes", 1, "--dir", net).exit_code == 0
    assert load_network(net / "network.toml").parameters.name == name


def test_a_node_that_dies_at_its_start_is_explained_and_the_others_are_stopped(
    invoke: Invoke, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NODE_DIES", "1")
    result = invoke("testnet", "up", "--nodes", 2, "--dir", net, "--json")
    assert result.exit_code == ExitCode.FAILED
    message = document(result)["error"]["message"]
    assert "node 1 ended at its start (exit code 1)" in message
    assert "the disk is full of stones" in message
    assert all(node["process"] is None for node in record(net)["nodes"])


def test_a_node_that_ignores_sigterm_is_killed(
    invoke: Invoke, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_network, "STOP_PATIENCE_S", 0.5)
    monkeypatch.setenv("FAKE_NODE_STUBBORN", "0")
    nodes = document(invoke("testnet", "up", "--nodes", 1, "--dir", net, "--json"))["nodes"]
    down = invoke("testnet", "down", "--dir", net)
    assert down.exit_code == 0
    assert "killed" in down.stderr
    assert name_process(nodes[0]["pid"]) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_no_process(net: Path, number: signal.Signals) -> None:
    code = (
        "import sys\n"
        "from p2pfleet.cli import local_network\n"
        "from p2pfleet.cli.main import cli\n"
        f"local_network.PROGRAM = {FAKE_PROGRAM!r}\n"
        "local_network.PEERS_WANTED = 99\n"  # fake nodes see 4 peers, so it waits for ever
        f"cli.main(['testnet', 'up', '--nodes', '120', '--dir', {str(net)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    nodes: list[Any] = []
    try:
        while len(nodes) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
            if (net / "testnet.json").exists():
                nodes = record(net)["nodes"]
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert len(nodes) >= 3
    started = [node["process"] for node in nodes if node["process"]]
    assert not any(is_alive(msgspec.convert(one, ProcessName)) for one in started)
    assert all(node["process"] is None for node in record(net)["nodes"])


def test_a_pid_that_was_given_to_another_process_is_never_signalled(
    invoke: Invoke, net: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    other = named(sleeper.pid)
    for changed in ({"started": other.started - 1}, {"boot": "an earlier start of the machine"}):
        stranger = msgspec.structs.replace(other, **changed)
        assert not is_alive(stranger)
        assert stop_processes([stranger], 0.1) == 0
        net.mkdir(exist_ok=True)
        nodes = [{"number": 0, "liar": False, "process": msgspec.to_builtins(stranger)}]
        (net / "testnet.json").write_text(json.dumps({"nodes": nodes}))
        down = invoke("testnet", "down", "--dir", net, "--json")
        assert document(down)["stopped"] == 0
        status = invoke("testnet", "status", "--dir", net, "--json")
        assert document(status)["nodes"][0]["alive"] is False
    assert sleeper.poll() is None
    assert is_alive(other)


def test_a_process_that_ended_but_was_not_reaped_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while name_process(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert name_process(process.pid) is None
    process.wait()


def test_what_a_node_leaves_in_its_session_goes_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    leader = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; sleep 60 & echo $! > {child}; wait"], start_new_session=True
    )
    deadline = time.monotonic() + 10
    while not (child.exists() and child.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = named(int(child.read_text()))
    assert stop_processes([named(leader.pid)], 5.0) == 0
    leader.wait()
    deadline = time.monotonic() + 10
    while is_alive(left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(left)


def test_without_pidfds_the_start_time_still_protects(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(processes.os, "pidfd_open", refuse)
    own = named(sleeper.pid)
    assert stop_processes([msgspec.structs.replace(own, started=1)], 0.1) == 0
    assert sleeper.poll() is None
    assert stop_processes([own], 5.0) == 0
    assert sleeper.wait(5) == -signal.SIGTERM


def test_a_damaged_record_is_told_and_nothing_is_signalled(
    invoke: Invoke, tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    for text in ("", "[]", '{"nodes": [{"number": 0}]}', '{"nodes": ' + "[" * 9999):
        (folder / "testnet.json").write_text(text)
        for command in ("up", "down", "status"):
            result = invoke("testnet", command, "--dir", folder, "--json")
            assert result.exit_code == ExitCode.DAMAGED
            assert "testnet.json" in document(result)["error"]["message"]


def test_no_testnet_is_started_on_top_of_a_real_network(
    invoke: Invoke, tmp_path: Path, home: Path
) -> None:
    invoke("init")
    result = invoke("testnet", "up", "--dir", home)
    assert result.exit_code == ExitCode.USAGE
    assert "no testnet" in result.stderr
    lie = invoke(
        "testnet", "node", "--liar", "--data-dir", tmp_path / "x", "--network",
        home / "network.toml", "--listen", "/ip4/127.0.0.1/tcp/0",
    )  # fmt: skip
    assert lie.exit_code == ExitCode.USAGE
    assert not (tmp_path / "x").exists()


def test_only_the_hidden_command_can_lie(invoke: Invoke, home: Path) -> None:
    invoke("init")
    assert invoke("run", "--liar").exit_code == ExitCode.USAGE
    (home / "node.toml").write_text("liar = true\n")
    assert invoke("config", "check").exit_code == ExitCode.USAGE
    assert "node" not in invoke("testnet", "--help").stdout.split("Commands:")[1].split()


def test_more_liars_than_nodes_are_refused(invoke: Invoke, home: Path, tmp_path: Path) -> None:
    for command in (("testnet", "up", "--dir", tmp_path / "n"), ("demo",)):
        result = invoke(*command, "--nodes", 3, "--liars", 4, "--json")
        assert result.exit_code == ExitCode.USAGE
        assert "liars" in document(result)["error"]["message"]
    assert not (tmp_path / "n").exists()


def test_two_commands_do_not_start_the_same_testnet(invoke: Invoke, net: Path) -> None:
    import fcntl

    net.mkdir()
    descriptor = os.open(net / "testnet.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        result = invoke("testnet", "up", "--dir", net)
        assert result.exit_code == ExitCode.FAILED
        assert "another command" in result.stderr
    finally:
        os.close(descriptor)
