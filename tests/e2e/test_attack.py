"""Three peers that attack a real network: it goes on, stays small, and throws them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.attack import MOST_MB, measure, say

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_a_network_under_attack_does_its_job_stays_small_and_bans_the_attackers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it costs is printed; ``tests.bench.attack`` alone judges that."""
    with capfd.disabled():
        report = measure(tmp_path, nodes=3, units=12, pairs=1)
        say(f"CPU seconds a settled unit: {report['cpu_s_per_unit']}")
    assert report["all_settled"]
    assert report["banned_everywhere"]
    assert report["most_memory_mb"] < MOST_MB
