"""A network's owner asks for a newer onnxruntime: real nodes stop, say why, and go on later."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.config.network_file import load_network, save_network
from p2pfleet.core.model.network import NetworkFile
from tests.e2e.local import (
    NodeProcess,
    affine_model,
    document,
    finished,
    inputs,
    node,
    p2pfleet,
    publisher,
    wait_until,
)

pytestmark = pytest.mark.e2e

LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")
REACTION_S = 20.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a testnet whose owner's key lies in the folder ``owner``."""
    path = tmp_path / "network.toml"
    document(
        "network", "create", path, "--name", "testnet-owned", "--testnet", "--owned",
        "--data-dir", tmp_path / "owner",
    )  # fmt: skip
    return path


def volunteer(folder: Path, network: Path) -> contextlib.AbstractContextManager[NodeProcess]:
    return node(
        folder, "run", "--profile", "volunteer", "--network", network, "--data-dir", folder, *LISTEN
    )


def asked(file: Path, name: str, version: str) -> Path:
    """A copy of the network file in which the owner asks for this version."""
    path = file.with_name(name)
    path.write_bytes(file.read_bytes())
    document(
        "network", "require", path, "--onnxruntime", version, "--data-dir", file.parent / "owner"
    )
    return path


def reason(running: NodeProcess) -> str:
    found: str = running.client.call("status")["reason"]
    return found


def test_a_volunteer_stops_for_its_networks_owner_and_goes_on_when_less_is_asked_for(
    tmp_path: Path, file: Path
) -> None:
    with volunteer(tmp_path / "first", file) as first:
        address = first.client.call("status")["addresses"][0]
        # Whoever comes starts from the first node's address.
        known = load_network(file)
        save_network(file, NetworkFile(known.parameters, (address,)))
        high = asked(file, "high.toml", "99.0")
        assert load_network(high).id == known.id

        with publisher(tmp_path / "second", high) as second:
            wait_until("the first heard of it", lambda: "99.0" in reason(first), REACTION_S)
            shown = p2pfleet("status", "--data-dir", first.data_dir).stdout
            assert "idle: the network asks for onnxruntime 99.0 or newer, here it is 1." in shown
            mine = document("status", "--data-dir", first.data_dir)["sandbox"]

            def told() -> Any:
                peers = second.client.call("peers")
                return [one for one in peers if one["grade"]]

            (peer,) = wait_until("the first is greeted", told, REACTION_S)
            assert (peer["grade"], peer["numeric_class"], peer["onnxruntime"]) == (
                mine["grade"], mine["numeric_class"], mine["onnxruntime"],
            )  # fmt: skip
            job = second.client.call(
                "submit",
                model=str(affine_model(tmp_path / "model.onnx")),
                inputs=[str(path) for path in inputs(tmp_path / "inputs", 4)],
                name="wanted later",
                quorum=1,
            )["job"]

            def refusal() -> Any:
                return [one["reason"] for one in first.client.call("jobs") if one["id"] == job]

            (why,) = wait_until("the first hears of the job", refusal, REACTION_S)
            assert "onnxruntime 99.0" in why
            view = second.client.call("job", job=job)
            assert (view["state"], view["volunteers"], view["running"]) == ("active", 0, 0)

        # It was told once, and remembers it: neither the teller nor the file is needed any more.
        first.stop()
        first.start()
        assert "99.0" in reason(first)
        assert first.client.call("status")["executed"] == 0

        address = first.client.call("status")["addresses"][0]
        save_network(
            high, NetworkFile(known.parameters, (address,), load_network(high).requirement)
        )
        low = asked(high, "low.toml", "1.0")
        with publisher(tmp_path / "second", low) as second:
            done = finished(second.client, job)
            assert (done["state"], done["settled"]) == ("completed", 4)
            assert "99.0" not in reason(first)
            assert first.client.call("status")["executed"] == 4
