"""Every scenario that ships holds, also under the seeds that once failed; equal seeds give equal
traces. (`make sim` runs twenty seeds of each.)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfleet.resources import resource_path
from p2pfleet.sim.run import simulate
from p2pfleet.sim.scenario import is_simulation, load_scenario

PATHS = sorted(resource_path("testnet", "scenarios").glob("*.toml"))
SIMULATIONS = {path.stem: path for path in PATHS if is_simulation(path)}
FAILED_ONCE = [
    (line.split()[0], int(line.split()[1]))
    for line in resource_path("testnet", "seeds.txt").read_text().splitlines()
    if not line.startswith("#")
]
RUNS = sorted({(name, 1) for name in SIMULATIONS} | set(FAILED_ONCE))


@pytest.mark.parametrize(("name", "seed"), RUNS)
def test_what_a_scenario_says_must_hold_does(name: str, seed: int) -> None:
    scenario = load_scenario(SIMULATIONS[name])
    outcome = simulate(scenario, seed)
    assert outcome.violations == ()
    crooks = {kind.name for kind in scenario.machines if kind.adversary}
    honest = [job for job in scenario.jobs if job.publisher.rpartition("-")[0] not in crooks]
    # What becomes of the units of a publisher that cheats is nobody's loss.
    assert outcome.settled + outcome.failed >= sum(job.units for job in honest)
    assert len(honest) < len(scenario.jobs) or outcome.settled + outcome.failed == outcome.units


def test_the_order_of_pythons_sets_changes_no_bit_of_a_trace(tmp_path: Path) -> None:
    files = []
    for hash_seed in ("1", "2"):
        file = tmp_path / hash_seed
        for name in ("honest", "liars"):
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "p2pfleet.cli.main",
                    "sim",
                    name,
                    "--seed",
                    "3",
                    "--traces",
                    file,
                ],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                check=True,
                capture_output=True,
                timeout=60,
            )
            files.append(file.read_text())
    assert files[:2] == files[2:]
    assert files[0] != files[1]


def test_another_seed_gives_another_trace() -> None:
    scenario = load_scenario(resource_path("testnet", "scenarios", "honest.toml"))
    assert simulate(scenario, 0).trace == simulate(scenario, 0).trace
    assert simulate(scenario, 0).trace != simulate(scenario, 1).trace


def test_units_of_volunteers_that_vanish_wait_for_no_lease() -> None:
    scenario = load_scenario(SIMULATIONS["vanish"])
    (job,) = scenario.jobs
    (fault,) = scenario.faults
    for seed in (0, 1):
        outcome = simulate(scenario, seed)
        assert outcome.violations == ()
        assert outcome.crashes >= 3
        assert outcome.ended_ms < 90_000 < min(job.lease_ms, fault.from_ms + fault.for_ms[0])
