"""Wrong use gets a sentence that says what to do next, and never a traceback."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.local import (
    Testnet,
    affine_model,
    inputs,
    node,
    p2pfleet,
    publisher,
    running_testnet,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    with running_testnet(tmp_path_factory.mktemp("net") / "NET", nodes=2) as running:
        yield running


def refused(*arguments: str | Path, code: int | None = None) -> str:
    done = p2pfleet(*arguments)
    assert done.returncode != 0, done.stdout
    if code is not None:
        assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.strip()
    return done.stderr


def test_a_missing_model(net: Testnet, tmp_path: Path) -> None:
    said = refused(
        "submit", tmp_path / "no.onnx", *inputs(tmp_path / "in", 1), "--network", net.network,
        "--data-dir", tmp_path / "d", code=2,
    )  # fmt: skip
    assert "no.onnx" in said


def test_a_missing_input(net: Testnet, tmp_path: Path) -> None:
    said = refused(
        "submit", affine_model(tmp_path / "m.onnx"), tmp_path / "no.npz", "--network",
        net.network, "--data-dir", tmp_path / "d", code=2,
    )  # fmt: skip
    assert "no.npz" in said


def test_a_model_that_is_not_onnx(net: Testnet, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"this is not a model" * 100)
    said = refused(
        "submit", model, *inputs(tmp_path / "in", 1), "--network", net.network,
        "--data-dir", tmp_path / "d",
    )  # fmt: skip
    assert "model.onnx" in said
    assert "ONNX" in said


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"wrong": np.zeros((2, 16), np.float32)}, "wrong"),
        ({"x": np.zeros((2, 15), np.float32)}, "15"),
        ({"x": np.zeros((2, 16), np.float64)}, "float64"),
        ({"x": np.zeros((2, 16), np.float32), "more": np.zeros(1)}, "more"),
    ],
)
def test_inputs_that_do_not_fit(
    net: Testnet, tmp_path: Path, arrays: dict[str, np.ndarray], word: str
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)
    said = refused(
        "submit", affine_model(tmp_path / "m.onnx"), tmp_path / "in.npz", "--network",
        net.network, "--data-dir", tmp_path / "d",
    )  # fmt: skip
    assert word in said
    assert "in.npz" in said


def test_a_damaged_store(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "d", net.network):
        pass
    for path in (tmp_path / "d").glob("node.sqlite*"):
        path.write_bytes(b"\x00garbage" * 2000)
    said = refused("run", "--data-dir", tmp_path / "d", "--listen", "/ip4/127.0.0.1/tcp/0", code=6)
    assert "node.sqlite" in said


def test_a_data_folder_of_another_version(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "d", net.network):
        pass
    version = next(path for path in (tmp_path / "d").iterdir() if path.name.lower() == "version")
    version.write_text("p2pfleet data folder 999\n")
    said = refused("run", "--data-dir", tmp_path / "d", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert "999" in said or "version" in said


def test_a_port_in_use(net: Testnet, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(
            "run", "--network", net.network, "--data-dir", tmp_path / "d",
            "--listen", f"/ip4/127.0.0.1/tcp/{port}",
        )  # fmt: skip
    assert str(port) in said


def test_two_nodes_in_one_data_folder(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "d", net.network):
        said = refused("run", "--data-dir", tmp_path / "d", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert "another node" in said


def test_an_identity_that_others_can_read(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "d", net.network):
        pass
    (tmp_path / "d" / "identity.key").chmod(0o644)
    said = refused("run", "--data-dir", tmp_path / "d", "--listen", "/ip4/127.0.0.1/tcp/0")
    assert "chmod" in said


def test_no_volunteer_on_the_network(net: Testnet, tmp_path: Path) -> None:
    """A network of the same kind where nobody is: the job is kept, and the command says so."""
    lonely = tmp_path / "network.toml"
    lonely.write_text('name = "testnet-lonely"\nbootstrap = []\n\n[parameters]\ntestnet = true\n')
    said = refused(
        "submit", affine_model(tmp_path / "m.onnx"), *inputs(tmp_path / "in", 1), "--network",
        lonely, "--data-dir", tmp_path / "d", "--wait", code=5,
    )  # fmt: skip
    assert "no volunteer answered in 30 s" in said


def test_no_node_runs_here(tmp_path: Path) -> None:
    said = refused("status", "--data-dir", tmp_path / "nothing", code=4)
    assert "p2pfleet run" in said


def test_results_of_a_stranger_job_are_not_here(net: Testnet, tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    with node(
        data_dir, "run", "--network", net.network, "--data-dir", data_dir,
        "--listen", "/ip4/127.0.0.1/tcp/0",
    ):  # fmt: skip
        said = refused(
            "job", "results", "0123456789abcdef", "--output", tmp_path / "o",
            "--data-dir", data_dir,
        )  # fmt: skip
    assert "not known" in said
    shutil.rmtree(tmp_path / "o", ignore_errors=True)
