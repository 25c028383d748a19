"""``unit run``: one unit in the local sandbox shows what a volunteer sees, and changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.e2e.local import affine_model, p2pfleet, publisher, wait_until
from tests.e2e.small_network import SmallNetwork, small_network
from tests.e2e.test_hostile_models import bundle_of
from tests.hostile import HOSTILE

pytestmark = pytest.mark.e2e

FEEDS = [{"x": np.full((2, 16), value, np.float32)} for value in (0.5, 2.0)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallNetwork]:
    with small_network(tmp_path_factory.mktemp("unit-run") / "net", checked=False) as network:
        network.volunteer(unit_cpu_s=30)
        yield network


@pytest.fixture(scope="module")
def model(net: SmallNetwork) -> Path:
    return affine_model(net.folder / "affine.onnx")


@pytest.fixture(scope="module")
def job(net: SmallNetwork, model: Path) -> str:
    """Two units that one volunteer ran and that wait for a second one, which never comes."""
    files = []
    for number, feeds in enumerate(FEEDS):
        files.append(net.folder / f"{number}.bundle")
        files[-1].write_bytes(bundle_of(feeds))
    found = net.submit(model, files, quorum=2, name="unfinished", cpu_s=20)
    client = net.volunteers[0].client
    wait_until(
        "both units ran once",
        lambda: any(one["id"] == found and one["votes"] == 2 for one in client.call("jobs")),
    )
    return found


def unit_run(data_dir: Path, job: str, unit: int, code: int = 0) -> dict[str, Any]:
    done = p2pfleet("unit", "run", job, str(unit), "--data-dir", data_dir, "--json")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_output(found: dict[str, Any], model: Path, unit: int) -> None:
    session = onnxruntime.InferenceSession(model)
    expected = session.run(["y"], FEEDS[unit])[0]
    (shown,) = found["outputs"]
    assert (shown["name"], shown["dtype"], shown["shape"]) == ("y", "float32", [2, 16])
    assert np.array_equal(np.float32(shown["first"]), expected.ravel()[:8])
    assert found["fault"] is None
    assert found["model"]["admitted"] is True


def test_a_volunteer_sees_its_own_answer_again_even_while_it_is_paused(
    net: SmallNetwork, model: Path, job: str
) -> None:
    volunteer = net.volunteers[0]
    before = volunteer.client.call("job", job=job), volunteer.status()["executed"]
    volunteer.client.call("pause", for_ms=None)
    kept = volunteer.children()
    try:
        found = unit_run(volunteer.node.data_dir, job, 1)
        wait_until("its own child is gone", lambda: volunteer.children() == kept)
    finally:
        volunteer.client.call("resume")

    check_output(found, model, 1)
    assert found["inputs"][0]["first"] == [2.0] * 8
    assert found["sandbox"]["grade"] == volunteer.status()["sandbox"]["grade"]
    assert found["limits"]["cpu_s"] == {"job": 20.0, "owner": 30.0, "applied": 20.0}
    assert found["beyond"] == ""
    after = volunteer.client.call("job", job=job), volunteer.status()["executed"]
    assert (after[0]["votes"], after[1]) == (before[0]["votes"], before[1])


def test_a_job_that_asks_for_too_much_is_run_within_the_limits_of_the_owner(
    net: SmallNetwork, model: Path
) -> None:
    volunteer = net.volunteers[0]
    file = net.folder / "greedy.bundle"
    file.write_bytes(bundle_of(FEEDS[0]))
    greedy = net.submit(model, [file], name="greedy", cpu_s=60)
    wait_until(
        "the volunteer has heard of it",
        lambda: greedy in [one["id"] for one in volunteer.client.call("jobs")],
    )
    found = unit_run(volunteer.node.data_dir, greedy, 0)
    check_output(found, model, 0)
    assert found["limits"]["cpu_s"] == {"job": 60.0, "owner": 30.0, "applied": 30.0}
    assert found["beyond"]
    shown = p2pfleet("unit", "run", greedy, "0", "--data-dir", volunteer.node.data_dir).stdout
    assert "30 s: the owner's limit (the job asks for 60, the owner grants 30)" in shown
    assert f"this node would leave the job to others: {found['beyond']}" in shown


def test_the_publisher_sees_whether_it_is_the_certified_answer(
    net: SmallNetwork, model: Path
) -> None:
    file = net.folder / "single.bundle"
    file.write_bytes(bundle_of(FEEDS[0]))
    done = net.submit(model, [file], name="finished", cpu_s=10)
    wait_until("it is settled", lambda: net.owner.client.call("job", job=done)["settled"] == 1)
    found = unit_run(net.owner.data_dir, done[:12], 0)

    check_output(found, model, 0)
    assert found["agrees"] is True
    assert found["digest"] == found["certified_digest"]
    shown = p2pfleet("unit", "run", done, "0", "--data-dir", net.owner.data_dir)
    assert shown.returncode == 0
    assert "certified  the same digest (the unit is settled)" in shown.stdout
    assert "admitted and loaded" in shown.stdout


def test_a_bystander_fetches_what_it_needs_and_can_do_without_a_node_afterwards(
    net: SmallNetwork, model: Path, job: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "bystander"
    network = tmp_path / "network.toml"
    address = net.owner.client.call("status")["addresses"][0]
    text = (net.folder / "network.toml").read_text()
    network.write_text(text.replace("bootstrap = [\n", f'bootstrap = [\n    "{address}",\n'))
    with publisher(data_dir, network) as bystander:
        wait_until(
            "it has heard of the job",
            lambda: job in [one["id"] for one in bystander.client.call("jobs")],
        )
        check_output(unit_run(data_dir, job, 0), model, 0)
        assert unit_run(data_dir, job, 2, code=2)["error"]["message"].startswith("The job has no")
    check_output(unit_run(data_dir, job, 0), model, 0)

    shutil.rmtree(data_dir / "packs")
    error = unit_run(data_dir, job, 0, code=4)["error"]
    assert "does not hold all that the unit needs" in error["message"]
    assert "p2pfleet run" in error["advice"]
    assert unit_run(tmp_path / "nowhere", job, 0, code=4)["error"]["code"] == 4
    assert unit_run(data_dir, "0" * 16, 0, code=2)["error"]["code"] == 2


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("external_absolute", "model", 'breaks the rule "one file"'),
        ("loop_long", "cpu", "the limit of processor time was reached"),
        ("memory_3_gb", "memory", "the memory limit was reached"),
    ],
)
def test_a_hostile_model_is_shown_with_what_became_of_it(
    net: SmallNetwork, name: str, kind: str, said: str
) -> None:
    entry = next(one for one in HOSTILE if one.name == name)
    path, file = net.folder / f"{name}.onnx", net.folder / f"{name}.bundle"
    path.write_bytes(entry.model())
    file.write_bytes(bundle_of(entry.feeds))
    found = net.submit(path, [file], cpu_s=0.5, memory_mb=256)
    for data_dir in (net.owner.data_dir, net.volunteers[0].node.data_dir):
        wait_until(
            "the job is known there",
            lambda data_dir=data_dir: p2pfleet("job", "show", found, "--data-dir", data_dir).stdout,
        )
        report = unit_run(data_dir, found, 0, code=1)
        assert report["fault"]["kind"] == kind
        assert report["model"]["admitted"] is (kind != "model")
        assert report["volunteer"] == "fails"
        assert report["outputs"] == []
    shown = p2pfleet("unit", "run", found, "0", "--data-dir", net.owner.data_dir)
    assert shown.returncode == 1
    assert said in shown.stdout
    assert "a volunteer would report the unit as failed" in shown.stdout
    assert "Traceback" not in shown.stdout + shown.stderr
