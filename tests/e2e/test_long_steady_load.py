"""Ten minutes of continuous small jobs; the newest result is committed beside the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.long]

BENCH = Path(__file__).parents[1] / "bench"


def test_five_nodes_under_continuous_jobs_lose_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    output = BENCH / "results" / "steady_load.json"
    with capfd.disabled():
        done = subprocess.run(
            [sys.executable, BENCH / "steady_load.py", "--minutes", "10", "--output", output],
            check=False,
            timeout=1200,
        )
    assert done.returncode == 0
    report = json.loads(output.read_text())
    assert report["settled"] == report["units"] > 1000
    assert report["wrong"] == 0
