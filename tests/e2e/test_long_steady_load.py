"""Continuous small jobs for a long time; the newest results are committed beside the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.parametrize(
    ("minutes", "nodes", "name"),
    [
        pytest.param(10, 5, "steady_load", marks=pytest.mark.long),
        pytest.param(30, 8, "steady_load_soak", marks=pytest.mark.soak),
    ],
)
def test_nodes_under_continuous_jobs_lose_nothing_and_stay_as_they_are(
    minutes: int, nodes: int, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    output = BENCH / "results" / f"{name}.json"
    with capfd.disabled():
        done = subprocess.run(
            [
                sys.executable, BENCH / "steady_load.py",
                "--minutes", str(minutes), "--nodes", str(nodes), "--output", output,
            ],
            check=False,
            timeout=minutes * 60 + 600,
        )  # fmt: skip
    assert done.returncode == 0
    report = json.loads(output.read_text())
    assert report["settled"] == report["units"] > 1000
    assert report["wrong"] == 0
