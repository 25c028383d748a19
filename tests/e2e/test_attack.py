"""Peers that attack a real network: it goes on, stays small, and throws them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.attack import MOST_MB, Honest, Hostiles, banned_everywhere, measure, peer_ids, say
from tests.e2e.local import affine_model, inputs, publisher, running_testnet, wait_until

pytestmark = pytest.mark.e2e

SANE_RATIO = 20.0
"""Far above anything measured: so short a job says nothing of what a long one costs."""


def test_a_network_under_attack_does_its_job_stays_small_and_bans_the_attackers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it costs is printed; ``tests.bench.attack`` alone judges that."""
    with capfd.disabled():
        report = measure(tmp_path, nodes=2, units=8, pairs=1)
        say(f"CPU seconds a settled unit: {report['cpu_s_per_unit']}")
        say(f"largest node: {report['most_memory_mb']} MiB")
    assert report["all_settled"]
    assert report["banned_everywhere"]
    assert report["most_memory_mb"] < MOST_MB
    assert report["cpu_s_per_unit"]["ratio"] < SANE_RATIO


@pytest.mark.long
def test_who_contradicts_itself_is_banned_for_the_proof_alone(tmp_path: Path) -> None:
    """Its frames are well formed and signed, and nothing else speaks against it."""
    model = affine_model(tmp_path / "model.onnx")
    inputs(tmp_path / "in", 4)
    with (
        running_testnet(tmp_path / "NET", 1) as net,
        publisher(tmp_path / "publisher", net.network) as owner,
    ):
        wait_until("they met", lambda: owner.client.call("status")["peers"] >= 1)
        # One volunteer is no quorum of two: the job stays open.
        owner.client.call(
            "submit",
            model=str(model),
            inputs=[str(one) for one in sorted((tmp_path / "in").iterdir())],
            name="open",
            quorum=2,
        )
        honest = Honest(net, 1, owner)
        status = [one.call("status") for one in honest.clients]
        plan = {
            "victims": [one["addresses"][0] for one in status],
            "network": status[0]["network"]["id"],
        }
        hostiles = Hostiles(tmp_path / "attack", plan, None, ["equivocator"])
        try:
            hostiles.begin()
            assert banned_everywhere(honest, peer_ids(tmp_path / "attack", ["equivocator"]))
        finally:
            hostiles.end()
        reasons = [ban["reason"] for one in honest.clients for ban in one.call("bans")]
        assert len(reasons) == 2
        assert all("a proof against it" in reason for reason in reasons)
