"""Real nodes for tests: processes started with the command line, as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

from p2pfleet.adapters.control.client import ControlClient

COMMAND = [sys.executable, "-P", "-m", "p2pfleet.cli.main"]
PATIENCE_S = 90.0


def p2pfleet(
    *arguments: str | Path, cwd: Path | None = None, timeout_s: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def document(*arguments: str | Path, cwd: Path | None = None) -> Any:
    """The JSON document of a command that has to succeed."""
    done = p2pfleet(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def wait_until(what: str, holds: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Look again and again (another process can only be asked), until ``holds`` gives a truth."""
    deadline = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.1)
    return found


class NodeProcess:
    """One ``p2pfleet`` process with a data folder, that can be killed and started again."""

    def __init__(self, data_dir: Path, *arguments: str | Path) -> None:
        self.data_dir = data_dir
        self.client = ControlClient(data_dir, timeout_s=60)
        self._arguments = [*COMMAND, *map(str, arguments)]
        self._log = data_dir.with_name(data_dir.name + ".log")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the node ended:\n{self.log()[-2000:]}"
            return self.client.alive()

        wait_until(f"{self.data_dir.name} answers", up)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Testnet:
    """A network that ``testnet up`` started."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = directory / "network.toml"

    def client(self, number: int) -> ControlClient:
        return ControlClient(self.directory / f"node-{number}", timeout_s=60)

    def kill(self, number: int) -> list[str]:
        """SIGKILL a node; returns the command line that starts it again."""
        process = psutil.Process(self.client(number).call("ping")["pid"])
        command = process.cmdline()
        os.kill(process.pid, signal.SIGKILL)
        wait_until("the killed node is gone", lambda: not _runs(process))
        return command


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def running_testnet(directory: Path, nodes: int, liars: int = 0) -> Iterator[Testnet]:
    """``nodes`` volunteers while the block runs; afterwards none of their processes is left."""
    up = p2pfleet("testnet", "up", "--nodes", str(nodes), "--liars", str(liars), "--dir", directory)
    assert up.returncode == 0, up.stderr
    try:
        yield Testnet(directory)
    finally:
        down = p2pfleet("testnet", "down", "--dir", directory)
        assert down.returncode == 0, down.stderr


@contextlib.contextmanager
def node(data_dir: Path, *arguments: str | Path) -> Iterator[NodeProcess]:
    """A node process while the block runs."""
    process = NodeProcess(data_dir, *arguments)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def publisher(data_dir: Path, network: Path) -> contextlib.AbstractContextManager[NodeProcess]:
    """A node that publishes and runs no units."""
    return node(
        data_dir, "run", "--profile", "publisher", "--network", network, "--data-dir", data_dir,
        "--listen", "/ip4/127.0.0.1/tcp/0",
    )  # fmt: skip


def finished(client: ControlClient, job: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """The job once it is over."""

    def over() -> Any:
        view = client.call("job", job=job)
        return view if view["state"] != "active" else None

    found: dict[str, Any] = wait_until(f"job {job[:8]} is over", over, patience_s)
    return found


def affine_model(path: Path, layers: int = 1, width: int = 16) -> Path:
    """A model ``y = tanh(...tanh(x W))``; more layers and width take longer. Input x [n, width]."""
    random = np.random.default_rng(3)
    weights = (random.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
    nodes = []
    name = "x"
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [name, "w"], [f"m{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]))
        name = f"t{layer}"
    nodes.append(helper.make_node("Identity", [name], ["y"]))
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def inputs(folder: Path, count: int, rows: int = 2, width: int = 16) -> list[Path]:
    """``count`` input files for :func:`affine_model`."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(11)
    paths = []
    for number in range(count):
        path = folder / f"input-{number:03d}.npz"
        np.savez(path, x=random.standard_normal((rows, width)).astype(np.float32))
        paths.append(path)
    return paths
