"""Honest nodes whose processors round differently: they agree, and nobody's record suffers."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfleet.adapters.sandbox.inside.onnx_writer import node, write_model
from p2pfleet.adapters.sandbox.inside.probe_values import floats
from p2pfleet.config.network_file import save_network
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.verify import verify_results
from tests.e2e.local import NodeProcess, finished, wait_until
from tests.masked_cpus.package import build

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        (sys.platform, platform.machine()) != ("linux", "x86_64"),
        reason="imitates x86-64 CPUs on Linux on x86-64 only",
    ),
]

LEVELS = ("native", "avx2", "avx", "sse")
EACH = 2
UNITS, EXACT_UNITS = 220, 24
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
CHECKOUT = Path(__file__).parents[2]
JOB_S = 120.0


class MaskedNode(NodeProcess):
    """A volunteer whose onnxruntime takes the CPU for another one."""

    def __init__(self, data_dir: Path, network: Path, package: Path) -> None:
        super().__init__(
            data_dir, "testnet", "node", "--data-dir", data_dir, "--network", network,
            "--listen", LOOPBACK, "--slots", "1", "--role", "volunteer",
        )  # fmt: skip
        self._paths = os.pathsep.join(map(str, (package, CHECKOUT)))

    def begin(self) -> None:
        """Start, and do not wait."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": self._paths},
            )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder for PYTHONPATH for each level."""
    folder = tmp_path_factory.mktemp("cpus")
    first = build(LEVELS[0], folder / LEVELS[0])
    others = {level: build(level, folder / level, like=first) for level in LEVELS[1:]}
    yield {LEVELS[0]: first, **others}
    # It is too large to lie about until pytest clears its old folders.
    for library in folder.glob("*/onnxruntime/capi/*.so"):
        library.unlink()


@pytest.fixture(scope="module")
def float_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of layers whose last digits depend on the instruction set: the convolution
    parts AVX from SSE, the products AVX2 from AVX, the softmax AVX-512 from AVX2."""
    nodes = [
        node("Conv", "x k", "c", group=3, pads=(1, 1, 1, 1)), node("Tanh", "c", "t"),
        node("Flatten", "t", "f", axis=1),
        node("MatMul", "f w0", "m0"), node("Tanh", "m0", "t0"),
        node("MatMul", "t0 w1", "m1"), node("Softmax", "m1", "s", axis=-1),
        node("MatMul", "s w2", "y"),
    ]  # fmt: skip
    constants = {
        "k": floats(2, 3, 1, 3, 3), "w0": (floats(3, 627, 48) / 5).astype(np.float32),
        "w1": floats(4, 48, 64), "w2": floats(5, 64, 32),
    }  # fmt: skip
    model = write_model(nodes, {"x": floats(1, 1, 3, 11, 19)}, {"y": "float32"}, constants)
    path = tmp_path_factory.mktemp("model") / "layers.onnx"
    path.write_bytes(model)
    return path


def _inputs(path: Path, units: int) -> Path:
    random = np.random.default_rng(7)
    np.savez(path, x=random.standard_normal((units, 3, 11, 19)).astype(np.float32))
    return path


_ANSWERS = """
import hashlib, sys
import numpy as np
import p2pfleet
from p2pfleet.adapters.sandbox.inside.model import open_session
session = open_session(open(sys.argv[1], "rb").read())
for row in np.load(sys.argv[2])["x"]:
    (answer,) = session.run(["y"], {"x": row[None]})
    print(hashlib.sha256(answer.tobytes()).hexdigest())
"""


def _digests(package: Path, model: Path, inputs: Path) -> list[str]:
    """What a CPU of this level says to each unit."""
    paths = os.pathsep.join(map(str, (package, CHECKOUT)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _ANSWERS, str(model), str(inputs)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


class Network:
    """A publisher, and ``EACH`` volunteers of every level."""

    def __init__(self, owner: NodeProcess, volunteers: list[MaskedNode]) -> None:
        self.owner = owner
        self.volunteers = volunteers

    def classes(self) -> dict[str, str]:
        """The numeric class of each volunteer, as the publisher's ``peers`` shows it."""
        return {
            row["peer"]: row["numeric_class"]
            for row in self.owner.client.call("peers")
            if "volunteer" in row["roles"]
        }

    def run(self, model: Path, inputs: Path, results: Path, **terms: Any) -> dict[str, Any]:
        """Publish a job, wait for its end, fetch its results."""
        client = self.owner.client
        answer = client.call(
            "submit", model=str(model), inputs=[str(inputs)], name="layers", split="0:1", **terms
        )
        found = finished(client, answer["job"], JOB_S)
        client.call("results", job=answer["job"], output=str(results))
        return found

    def contradicted(self) -> dict[str, int]:
        """How often the publisher holds something against each volunteer that it has met."""
        return {row["peer"]: row["contradicted"] for row in self.owner.client.call("reputation")}


@contextlib.contextmanager
def _network(folder: Path, packages: dict[str, Path]) -> Iterator[Network]:
    file = folder / "network.toml"
    network = NetworkFile(NetworkParameters("testnet-classes", testnet=True))
    save_network(file, network)
    owner = NodeProcess(
        folder / "owner", "run", "--profile", "publisher", "--network", file,
        "--data-dir", folder / "owner", "--listen", LOOPBACK,
    )  # fmt: skip
    volunteers: list[MaskedNode] = []
    try:
        owner.start()
        addresses = tuple(owner.client.call("status")["addresses"])
        save_network(file, NetworkFile(network.parameters, addresses))
        for level in LEVELS:
            for number in range(EACH):
                volunteer = MaskedNode(folder / f"{level}-{number}", file, packages[level])
                volunteer.begin()
                volunteers.append(volunteer)
        found = Network(owner, volunteers)

        def met() -> bool:
            for one in volunteers:
                assert one.process is not None
                assert one.process.poll() is None, f"a node ended:\n{one.log()[-2000:]}"
            return len(found.classes()) == len(volunteers)

        wait_until("the publisher knows every volunteer", met)
        yield found
    finally:
        for process in (*volunteers, owner):
            if process.process is not None:
                process.process.terminate()
        for process in (*volunteers, owner):
            process.stop()


def test_honest_nodes_of_four_numeric_classes_agree_and_lose_no_reputation(
    packages: dict[str, Path], float_model: Path, tmp_path: Path
) -> None:
    inputs = _inputs(tmp_path / "inputs.npz", UNITS)
    few = _inputs(tmp_path / "few.npz", EXACT_UNITS)
    answers = {level: _digests(packages[level], float_model, inputs) for level in LEVELS}
    # Without AVX-512 a machine's own class is that of AVX2: three are left.
    wanted = len(LEVELS) - (answers["native"] == answers["avx2"])
    differing = sum(len(set(unit)) == wanted for unit in zip(*answers.values(), strict=True))
    assert differing > UNITS // 5, "all classes differ in many units"

    with _network(tmp_path, packages) as network:
        classes = network.classes()
        assert len(set(classes.values())) == wanted
        assert "" not in classes.values()

        begin = time.monotonic()
        job = network.run(float_model, inputs, tmp_path / "near", quorum=3, tolerance=True)
        near_s = time.monotonic() - begin
        assert (job["settled"], job["failed"]) == (UNITS, 0), job
        judged = network.contradicted()
        assert set(judged) == set(classes), "everybody took part"
        assert not any(judged.values()), judged
        proof = verify_results(tmp_path / "near")
        assert proof.problems == ()
        assert proof.settled == UNITS
        assert proof.endorsed > UNITS // 2, "votes for other digests stand in most certificates"

        # Byte for byte, two of a class have to meet: it costs more, but nobody is blamed.
        begin = time.monotonic()
        exact = network.run(float_model, few, tmp_path / "exact", quorum=2)
        exact_s = time.monotonic() - begin
        assert exact["state"] == "completed"
        assert exact["settled"] + exact["failed"] == EXACT_UNITS
        assert not any(network.contradicted().values()), network.contradicted()
        assert verify_results(tmp_path / "exact").problems == ()
        assert verify_results(tmp_path / "exact").endorsed == 0
        print(
            f"near: {job['votes'] / UNITS:.2f} votes a unit, {proof.endorsed} certificates with "
            f"endorsements, {near_s:.0f} s; exact: {exact['votes'] / EXACT_UNITS:.2f} votes a "
            f"unit, {exact['failed']} of {EXACT_UNITS} failed, {exact_s:.0f} s"
        )
        assert exact["votes"] / EXACT_UNITS > 2, "it costs more than the quorum"
