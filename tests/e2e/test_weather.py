"""Bad weather on real processes: long forms, whose newest results are kept, and short ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfleet.resources import resource_path
from tests.e2e.hosts import wants_hosts
from tests.e2e.local import p2pfleet

# The short forms take a minute on two idle cores, and many where others work as well.
pytestmark = [pytest.mark.e2e, pytest.mark.long]

STEADY = resource_path("testnet", "jobs", "steady")
RESULTS = Path(__file__).parents[1] / "bench" / "results"
JOB = """
[job]
name = "steady"
model = "{model}"
inputs = ["{inputs}"]
split = "0:1"
quorum = 2
replicas_max = 12
lease_s = 600
"""
CHURN = """
nodes = 5
seed = 3

[[events]]
at_s = 4
do = "kill"
groups = ["all"]
pick = 1
for_s = 3
every_s = [10, 14]
until_s = 30

[expect]
within_s = 400
wasted_max = 0.4
"""
PARTITION = """
network = "namespaces"
seed = 8

[[groups]]
name = "left"
count = 2

[[groups]]
name = "right"
count = 2

[[events]]
at_s = 1
do = "cut"
groups = [["left", "publisher"], "right"]
for_s = 15

[[events]]
at_s = 16
do = "expect-peers"
groups = ["right"]
peers = 3
within_s = 60

[expect]
within_s = 400
"""


def scenario(folder: Path, text: str, units: int) -> Path:
    """A file of the scenario, with the first units of the steady job."""
    inputs = folder / "inputs.npz"
    with np.load(STEADY / "steady.npz") as rows:
        np.savez_compressed(inputs, x=rows["x"][:units])
    path = folder / "scenario.toml"
    path.write_text(text + JOB.format(model=STEADY / "steady.onnx", inputs=inputs))
    return path


def run(what: str | Path, timeout_s: float) -> dict[str, Any]:
    """What came of a scenario in which everything held."""
    done = p2pfleet("testnet", "run", what, "--json", timeout_s=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["held"]
    assert (found["settled"], found["failed"]) == (found["units"], 0)
    assert found["problems"] == []
    return found


def keep(found: dict[str, Any], name: str) -> None:
    """The newest results of a long form, for everybody to read."""
    kept = {key: found[key] for key in sorted(found) if key not in ("nodes", "directory", "job")}
    RESULTS.joinpath(f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n")


def test_a_job_goes_on_while_nodes_are_killed_and_come_back(tmp_path: Path) -> None:
    found = run(scenario(tmp_path, CHURN, units=24), timeout_s=700)
    assert any("wasted" in condition["what"] for condition in found["conditions"])


@wants_hosts
def test_halves_that_certify_apart_from_each_other_agree_when_they_are_joined(
    tmp_path: Path,
) -> None:
    found = run(scenario(tmp_path, PARTITION, units=16), timeout_s=700)
    assert found["wrong_settled"] == []


def test_twelve_nodes_that_are_killed_every_three_minutes_lose_nothing() -> None:
    keep(run("churn-real", timeout_s=2_000), "churn")


@wants_hosts
@pytest.mark.parametrize(
    ("scenario_name", "timeout_s"),
    [
        ("partition-real", 1_500),
        ("rivals", 1_500),
        ("halves", 900),
        ("bad-link", 700),
        ("shared-model", 1_200),
    ],
)
def test_bad_weather_between_hosts_is_survived(scenario_name: str, timeout_s: float) -> None:
    """What each scenario expects holds: see its ``about`` and its ``[expect]``."""
    keep(run(scenario_name, timeout_s), scenario_name.removesuffix("-real"))
