"""Credit between real nodes: signed at the end of a job, kept by both sides, checked offline."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfleet.core.errors import ExitCode
from tests.e2e.local import affine_model, document, p2pfleet, wait_until
from tests.e2e.small_network import SmallNetwork, small_network

pytestmark = pytest.mark.e2e

UNITS = 4


def earned(data_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document("credit", "--data-dir", data_dir)["publishers"]
    return found


def publish(net: SmallNetwork, folder: Path, name: str) -> str:
    folder.mkdir()
    files = []
    for number in range(UNITS):
        files.append(folder / f"{number}.npz")
        np.savez(files[-1], x=np.full((2, 16), number, np.float32))
    model = affine_model(folder / "affine.onnx")
    return net.submit(model, files, quorum=2, name=name, cpu_s=20)


def test_volunteers_hold_receipts_that_a_stranger_can_check(tmp_path: Path) -> None:
    with small_network(tmp_path / "net") as net:
        volunteers = [net.volunteer(unit_cpu_s=30) for _ in range(2)]
        job = publish(net, tmp_path / "job", "=first")
        wait_until(
            "both hold a receipt for every unit",
            lambda: all(
                any(said["units"] == UNITS for said in one.client.call("credit")["publishers"])
                for one in volunteers
            ),
        )

        (owed,) = earned(net.owner.data_dir)
        assert (owed["own"], owed["units"], owed["receipts"]) == (True, 2 * UNITS, 2)
        assert [line["job"] for line in owed["jobs"]] == [job]
        held = [earned(one.node.data_dir)[0] for one in volunteers]
        assert [one["publisher"] for one in held] == [owed["publisher"]] * 2
        assert [one["units"] for one in held] == [UNITS] * 2
        for name in ("work", "credit"):
            assert sum(one[name] for one in held) == owed[name]
        worth = owed["work"] // owed["units"]
        assert worth > 1, "the model's operations were counted"

        file = tmp_path / "receipts.jsonl"
        document("credit", "--export", file, "--data-dir", volunteers[0].node.data_dir)
        sheet = p2pfleet("credit", "--csv", "--data-dir", volunteers[0].node.data_dir)
        (row,) = csv.DictReader(io.StringIO(sheet.stdout))
        assert (row["kind"], row["credit"]) == ("earned", str(held[0]["credit"]))

        volunteers[1].node.kill()
        volunteers[1].node.start()
        assert earned(volunteers[1].node.data_dir) == [held[1]]

    # No node runs any more.
    stranger = tmp_path / "stranger"
    unknown = p2pfleet("credit", "--verify", file, "--data-dir", stranger, "--json")
    assert unknown.returncode == ExitCode.UNTRUSTED, unknown.stderr
    named = document("credit", "--verify", file, "--publisher", owed["publisher"])
    assert named["publishers"][0]["credit"] == held[0]["credit"]
    own = p2pfleet("credit", "--verify", file, "--data-dir", tmp_path / "net" / "owner")
    assert own.returncode == 0, own.stdout + own.stderr
    line = json.loads(file.read_text())
    line["body"] = line["body"][:-8] + "AAAAAAA="
    file.write_text(json.dumps(line))
    broken = p2pfleet("credit", "--verify", file, "--publisher", owed["publisher"])
    assert broken.returncode == ExitCode.FAILED
    assert "Traceback" not in broken.stderr
