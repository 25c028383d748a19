"""The main job on a network of real processes, started as the README says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tests.e2e.local import (
    Testnet,
    affine_model,
    document,
    inputs,
    node,
    p2pfleet,
    publisher,
    running_testnet,
    wait_until,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    with running_testnet(tmp_path_factory.mktemp("net") / "NET", nodes=8, liars=1) as running:
        yield running


@pytest.fixture(scope="module")
def results(net: Testnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a job that was submitted from another folder."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = affine_model(elsewhere / "model.onnx")
    files = inputs(elsewhere / "in", 6)
    submitted = document(
        "submit", model.name, *(file.relative_to(elsewhere) for file in files),
        "--network", net.network, "--data-dir", elsewhere / "data", "--wait", "--output", "OUT",
        cwd=elsewhere,
    )  # fmt: skip
    assert submitted["job"]["settled"] == 6
    return elsewhere / "OUT"


def test_every_output_equals_plain_onnxruntime(results: Path) -> None:
    session = onnxruntime.InferenceSession(results.parent / "model.onnx")
    for number, file in enumerate(sorted((results.parent / "in").iterdir())):
        expected = session.run(["y"], {"x": np.load(file)["x"]})[0]
        found = np.load(results / "outputs" / f"{number:06d}.npz")["y"]
        assert found.tobytes() == expected.tobytes()


def test_the_results_folder_verifies_offline_for_who_knows_the_publisher(results: Path) -> None:
    own = p2pfleet("verify", results, "--data-dir", results.parent / "data", "--json")
    assert own.returncode == 0, own.stdout
    document_ = json.loads(own.stdout)
    stranger = p2pfleet("verify", results, "--data-dir", results.parent / "nobody")
    assert stranger.returncode == 3
    named = p2pfleet(
        "verify", results, "--publisher", document_["publisher"],
        "--data-dir", results.parent / "nobody",
    )  # fmt: skip
    assert named.returncode == 0, named.stderr


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        *[("outputs/000003.npz", share) for share in (0.0, 0.2, 0.5, 0.8, 0.99)],
        *[("frames.jsonl", share) for share in (0.01, 0.3, 0.6, 0.95)],
        *[("certificates.jsonl", share) for share in (0.02, 0.35, 0.7, 0.97)],
        *[("manifest.json", share) for share in (0.1, 0.5, 0.9)],
    ],
)
def test_a_changed_byte_does_not_verify(
    results: Path, tmp_path: Path, name: str, share: float
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    size = (copy / name).stat().st_size
    flipped(copy / name, int(size * share))
    done = p2pfleet("verify", copy, "--data-dir", results.parent / "data")
    assert done.returncode not in (0, 3), done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_a_signature_of_another_frame_does_not_verify(results: Path, tmp_path: Path) -> None:
    """Also where the report's hashes have been brought up to date."""
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    lines = [json.loads(line) for line in (copy / "frames.jsonl").read_text().splitlines()]
    assert len(lines) > 1
    first, second = lines[0]["frame"], lines[1]["frame"]
    first["signature"], second["signature"] = second["signature"], first["signature"]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (copy / "frames.jsonl").write_text(text)
    _update_report(copy)
    done = p2pfleet("verify", copy, "--data-dir", results.parent / "data")
    assert done.returncode not in (0, 3)
    assert "signature" in done.stdout + done.stderr


def test_a_certificate_with_a_vote_less_does_not_verify(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    lines = [json.loads(line) for line in (copy / "certificates.jsonl").read_text().splitlines()]
    lines[0]["votes"] = lines[0]["votes"][:1]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (copy / "certificates.jsonl").write_text(text)
    _update_report(copy)
    done = p2pfleet("verify", copy, "--data-dir", results.parent / "data")
    assert done.returncode not in (0, 3)
    assert "needed" in done.stdout + done.stderr


def _update_report(folder: Path) -> None:
    import hashlib

    report = json.loads((folder / "report.json").read_text())
    for name in report["files"]:
        report["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "report.json").write_text(json.dumps(report))


def test_a_node_started_by_hand_joins_and_takes_part(net: Testnet, tmp_path: Path) -> None:
    """A quorum of all eight honest volunteers needs the one that was started by hand."""
    by_hand = tmp_path / "by-hand"
    with node(
        by_hand, "run", "--network", net.network, "--data-dir", by_hand,
        "--listen", "/ip4/127.0.0.1/tcp/0",
    ) as volunteer:  # fmt: skip
        wait_until("it has found others", lambda: volunteer.client.call("status")["peers"] >= 7)
        model = affine_model(tmp_path / "model.onnx")
        done = document(
            "submit", model, *inputs(tmp_path / "in", 2), "--network", net.network,
            "--data-dir", tmp_path / "data", "--quorum", "8", "--output", tmp_path / "out",
        )  # fmt: skip
        assert done["job"]["settled"] == 2
        assert volunteer.client.call("status")["executed"] == 2
        peer = volunteer.client.call("status")["peer"]
    authors = {
        json.loads(line)["frame"]["signer"]
        for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()
    }
    assert peer in authors


def test_the_liar_loses_its_vote_and_the_others_do_not(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "publisher", net.network) as node_:
        model = affine_model(tmp_path / "model.onnx")
        files = [str(path) for path in inputs(tmp_path / "in", 8)]
        job = node_.client.call(
            "submit", model=str(model), inputs=files, name="all vote", quorum=7, replicas_max=12
        )["job"]
        liar = net.client(7).call("status")["peer"]

        def judged() -> bool:
            records = {row["peer"]: row for row in node_.client.call("reputation")}
            return node_.client.call("job", job=job)["state"] == "completed" and (
                records.get(liar, {}).get("contradicted", 0) >= 2
            )

        wait_until("the liar was contradicted", judged)
        records = {row["peer"]: row for row in node_.client.call("reputation")}
        honest = [row for peer, row in records.items() if peer != liar]
        assert len(honest) == 7
        assert all(row["contradicted"] == 0 and row["vote"] for row in honest)
        assert records[liar]["agreed"] == 0
        assert not records[liar]["vote"]
        assert records[liar]["score"] < min(row["score"] for row in honest)


def test_a_model_that_fails_is_reported_with_its_reason(net: Testnet, tmp_path: Path) -> None:
    """More output than the manifest allows: every volunteer says so, and the unit has failed.

    The first unit is a small one: that one the publisher tries by itself.
    """
    model = affine_model(tmp_path / "model.onnx", width=512)
    files = [
        *inputs(tmp_path / "a", 1, rows=8, width=512),
        *inputs(tmp_path / "b", 1, rows=1024, width=512),
    ]
    done = p2pfleet(
        "submit", model, *files, "--network", net.network, "--data-dir", tmp_path / "data",
        "--output-mb", "1", "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    job = json.loads(done.stdout)["job"]
    assert (job["settled"], job["failed"]) == (1, 1)
    assert job["failures"][0]["unit"] == 1
    assert "output" in job["failures"][0]["reason"]


def test_a_cancelled_job_ends_everywhere(net: Testnet, tmp_path: Path) -> None:
    with publisher(tmp_path / "publisher", net.network) as node_:
        model = affine_model(tmp_path / "model.onnx", layers=400, width=512)
        files = [str(path) for path in inputs(tmp_path / "in", 40, rows=64, width=512)]
        job = node_.client.call("submit", model=str(model), inputs=files, name="long", quorum=2)[
            "job"
        ]
        wait_until("somebody works on it", lambda: node_.client.call("job", job=job)["running"] > 0)
        done = p2pfleet("job", "cancel", job[:12], "--data-dir", node_.data_dir)
        assert done.returncode == 0, done.stderr
        wait_until(
            "every volunteer has stopped",
            lambda: all(
                net.client(number).call("status")["jobs"].get("active", 0) == 0
                for number in range(8)
            ),
        )
        assert node_.client.call("job", job=job)["state"] == "cancelled"
