"""A volunteer that stands still (a suspended laptop, a pulled cable): its units are taken over."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from p2pfleet.core.model.ids import parse_job, parse_peer
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Claim, Commit, Failure, Release, Sealed
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.runtime.signing import open_sealed
from tests.e2e.local import affine_model, finished, inputs, wait_until
from tests.e2e.small_network import small_network

pytestmark = pytest.mark.e2e

UNITS = 16
LEASE_S = 600
NOTICED_S = TAKEN_OVER_S = 15.0
FRAMES = (
    "SELECT sealed FROM frames JOIN peers ON peers.number = frames.author"
    " WHERE job = (SELECT number FROM jobs WHERE job = ?) AND peer = ?"
    " ORDER BY incarnation, sequence"
)


def claims(data_dir: Path, job: str, peer: str) -> tuple[set[int], set[int]]:
    """Which units a peer ever claimed, and which of them it holds still, by the store of a node
    that runs."""
    ever: set[int] = set()
    held: set[int] = set()
    file = f"file:{data_dir / 'node.sqlite'}?mode=ro"
    with closing(sqlite3.connect(file, uri=True, timeout=10)) as store:
        rows = store.execute(FRAMES, (parse_job(job), parse_peer(peer))).fetchall()
    for (row,) in rows:
        frame = open_sealed(decode(row, Sealed, len(row)))
        assert isinstance(frame, VerifiedFrame)
        for entry in frame.frame.entries:
            match entry:
                case Claim(units=units):
                    ever.update(units)
                    held.update(units)
                case Release(units=units):
                    held.difference_update(units)
                case Commit(items=items):
                    held.difference_update(item.unit for item in items)
                case Failure(unit=unit):
                    held.discard(unit)
                case _:
                    pass
    return ever, held


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
            mine = other.node.data_dir
            _, left = claims(mine, job, frozen.peer)
            assert left, "it stands still in the middle of a unit"
            wait_until(
                "its neighbour has what it left behind",
                lambda: left <= claims(mine, job, other.peer)[0],
            )
            assert time.monotonic() - began < TAKEN_OVER_S
            view = finished(network.owner.client, job)
            assert (view["settled"], view["failed"]) == (UNITS, 0)
            assert time.monotonic() - began < LEASE_S / 6
        finally:
            frozen.process.send_signal(signal.SIGCONT)
        wait_until("it is back", lambda: frozen.status()["peers"] == 2)
        assert all(against == 0 for _, against in network.records().values())
