"""A volunteer that stands still (a suspended laptop, a pulled cable): its units are taken over."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.local import affine_model, finished, inputs, wait_until
from tests.e2e.small_network import small_network

pytestmark = pytest.mark.e2e

UNITS = 16
LEASE_S = 600
NOTICED_S = 15.0


def test_units_of_a_frozen_volunteer_are_taken_over_within_seconds_and_it_comes_back(
    tmp_path: Path,
) -> None:
    with small_network(tmp_path / "net") as network:
        frozen, other = network.volunteer(), network.volunteer()
        model = affine_model(tmp_path / "model.onnx", layers=60, width=512)
        files = inputs(tmp_path / "in", UNITS, rows=64, width=512)
        job = network.submit(model, files, lease_s=LEASE_S)
        wait_until("it computes", frozen.computing)
        frozen.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            wait_until(
                "its neighbour knows",
                lambda: frozen.peer not in [row["peer"] for row in other.client.call("peers")],
            )
            # Nine seconds of silence; on a busy machine the news travels for a while.
            assert time.monotonic() - began < NOTICED_S
            view = finished(network.owner.client, job)
            assert (view["settled"], view["failed"]) == (UNITS, 0)
            assert time.monotonic() - began < LEASE_S / 6
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        wait_until("it is back", lambda: frozen.status()["peers"] == 2)
        assert all(against == 0 for _, against in network.records().values())
