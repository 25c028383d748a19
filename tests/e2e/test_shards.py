"""A job of two shards on real processes: all of it settles, and frames of both are told apart."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from p2pfleet.resources import resource_path
from tests.e2e.local import p2pfleet

pytestmark = pytest.mark.e2e

DIGITS = resource_path("testnet", "jobs", "digits")
SCENARIO = f"""
nodes = 8

[job]
model = "{DIGITS / "digits.onnx"}"
inputs = ["{DIGITS / "digits.npz"}"]
split = "0:20"
quorum = 2
shards = 2

[expect]
within_s = 240
"""


def test_a_job_of_two_shards_settles_on_eight_processes(tmp_path: Path) -> None:
    scenario = tmp_path / "two-shards.toml"
    scenario.write_text(SCENARIO)
    net = tmp_path / "net"
    done = p2pfleet("testnet", "run", scenario, "--dir", net, "--json", timeout_s=420)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["held"]
    assert found["settled"] == found["units"] >= 80
    assert found["wrong_settled"] == []
    with closing(sqlite3.connect(net / "publisher" / "node.sqlite")) as store:
        rows = store.execute("SELECT shard, count(DISTINCT author) FROM frames GROUP BY shard")
        authors = dict(rows.fetchall())
    assert sorted(authors) == [0, 1]
    assert all(2 <= count <= 9 for count in authors.values())
