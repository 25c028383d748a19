"""Commands that talk to a running node: what they ask, what they show, how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2pfleet.config.network_file import save_network
from p2pfleet.core.errors import ExitCode
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import (
    DONE,
    JOB,
    NETWORK,
    OTHER,
    PEER,
    SANDBOX,
    FakeNode,
    Refusal,
    job,
    serving,
)


def test_status_shows_the_node_and_why_it_is_idle(invoke: Invoke, node: FakeNode) -> None:
    assert document(invoke("status", "--json")) == node.status()
    node.answers["status"] = lambda _: {**node.status(), "reason": "there is no job"}
    shown = invoke("status")
    assert shown.exit_code == 0
    assert "idle: there is no job" in shown.stdout
    assert PEER in shown.stdout
    node.answers["status"] = lambda _: {**node.status(), "paused": True, "resumes_ms": 90_000}
    assert "paused, resumes in 1 min 30 s" in invoke("status").stdout


def test_status_says_why_a_closed_network_keeps_the_node_out(
    invoke: Invoke, node: FakeNode
) -> None:
    network = {**node.status()["network"], "member": False, "outside": "the owner removed it"}
    node.answers["status"] = lambda _: {**node.status(), "network": network}
    assert "member    no: the owner removed it\n" in invoke("status").stdout


def test_status_shows_how_strong_the_sandbox_is_and_what_would_make_it_stronger(
    invoke: Invoke, node: FakeNode
) -> None:
    assert "grade A, numeric class c1c1c1c1, onnxruntime 1.32.0\n" in invoke("status").stdout
    weak = {
        **SANDBOX, "grade": "B", "reason": "There are no user namespaces.", "advice": "Allow them.",
        "numeric_class": "",
    }  # fmt: skip
    node.answers["status"] = lambda _: {**node.status(), "sandbox": weak}
    shown = invoke("status").stdout
    assert "grade B, onnxruntime 1.32.0 There are no user namespaces. Allow them.\n" in shown


@pytest.mark.parametrize(
    ("text", "ms"), [("2h", 7_200_000), ("90m", 5_400_000), ("1h30m", 5_400_000), ("45s", 45_000)]
)
def test_a_pause_lasts_as_long_as_it_says(
    invoke: Invoke, node: FakeNode, text: str, ms: int
) -> None:
    assert document(invoke("pause", "--for", text, "--json")) == {"paused": True, "for_ms": ms}
    assert node.of("pause") == [{"for_ms": ms}]


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "2x", "-1h", "9999d", "1h 30m", "２h"])
def test_a_pause_that_is_no_time_span_is_refused(invoke: Invoke, node: FakeNode, text: str) -> None:
    result = invoke("pause", "--for", text, "--json")
    assert result.exit_code == ExitCode.USAGE
    assert document(result)["error"]["code"] == ExitCode.USAGE
    assert node.requests == []


def test_pause_without_an_end_and_resume(invoke: Invoke, node: FakeNode) -> None:
    assert invoke("pause").exit_code == 0
    assert invoke("resume").exit_code == 0
    assert node.requests == [("pause", {"for_ms": None}), ("resume", {})]


def test_peers_and_reputation_are_listed(invoke: Invoke, node: FakeNode) -> None:
    shown = invoke("peers").stdout
    assert OTHER in shown
    assert "grade" in shown
    assert " B " in shown
    assert " 5e5e5e5e " in shown
    assert document(invoke("peers", "--json"))[0]["peer"] == OTHER
    assert "0.800" in invoke("reputation").stdout
    assert document(invoke("reputation", OTHER, "--json"))[0]["contradicted"] == 1
    assert node.of("reputation") == [{}, {"peer": OTHER}]


def test_bans_are_listed_with_their_end_and_lifted(invoke: Invoke, node: FakeNode) -> None:
    shown = invoke("peers", "--banned").stdout
    assert OTHER in shown
    assert "2606:4700:1:2::/64" in shown
    assert "2023-11-14 22:23 UTC" in shown
    assert "malformed message: too long" in shown
    assert document(invoke("peers", "--banned", "--json"))[1]["times"] == 2
    assert invoke("peers", "--unban", OTHER).exit_code == 0
    assert node.of("unban") == [{"who": OTHER}]
    assert invoke("peers", "--banned", "--unban", OTHER).exit_code == ExitCode.USAGE


def test_a_peer_id_that_is_none_is_refused_before_the_node_is_asked(
    invoke: Invoke, node: FakeNode
) -> None:
    assert invoke("reputation", "12D3KooWnonsense").exit_code == ExitCode.USAGE
    assert node.requests == []


def test_jobs_are_listed_all_or_own(invoke: Invoke, node: FakeNode) -> None:
    assert len(document(invoke("job", "list", "--json"))) == 2
    assert [one["id"] for one in document(invoke("job", "list", "--own", "--json"))] == [JOB]
    assert JOB[:12] in invoke("job", "list").stdout


def test_a_job_may_be_named_by_its_first_digits(invoke: Invoke, node: FakeNode) -> None:
    assert document(invoke("job", "show", "ABABABAB", "--json"))["id"] == JOB
    assert node.of("job") == [{"job": "abababab"}]
    for text in ("abababa", "xyzxyzxyz", "a" * 65):
        assert invoke("job", "show", text).exit_code == ExitCode.USAGE


def test_watching_ends_with_the_job(invoke: Invoke, node: FakeNode) -> None:
    states = [job(), job(settled=4, open=6), DONE]
    node.answers["job"] = lambda _: states.pop(0) if len(states) > 1 else states[0]
    result = invoke("job", "watch", JOB, "--json")
    assert result.exit_code == 0
    assert document(result) == DONE
    assert "0 of 10 units settled" in result.stderr


def test_watching_a_job_with_failed_units_says_which_and_why(
    invoke: Invoke, node: FakeNode
) -> None:
    node.answers["job"] = lambda _: job(
        state="completed", settled=9, failed=1, open=0, failures=[{"unit": 3, "reason": "memory"}]
    )
    result = invoke("job", "watch", JOB)
    assert result.exit_code == ExitCode.FAILED
    assert "9 of 10 units settled, 1 failed (completed)" in result.stdout
    assert "unit 3 failed: memory" in result.stdout


def test_results_are_asked_for_with_an_absolute_folder(
    invoke: Invoke, node: FakeNode, tmp_path: Path
) -> None:
    node.answers["job"] = lambda _: DONE
    result = invoke("job", "results", JOB[:8], "--output", "out", "--json")
    assert result.exit_code == 0
    assert document(result)["complete"] is True
    assert node.of("results") == [{"job": JOB, "output": str(tmp_path / "out")}]


def test_results_of_a_job_that_goes_on_are_not_complete(invoke: Invoke, node: FakeNode) -> None:
    result = invoke("job", "results", JOB, "--output", "out", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert document(result)["complete"] is False
    assert "ask again later" in result.stderr


def test_results_never_mix_with_anything_else(
    invoke: Invoke, node: FakeNode, tmp_path: Path
) -> None:
    node.answers["job"] = lambda _: DONE
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"job": {"id": JOB}}))
    (folder / "manifest.json").write_text("{}")
    assert invoke("job", "results", JOB, "--output", folder).exit_code == 0
    (folder / "report.json").write_text(json.dumps({"job": {"id": "cd" * 32}}))
    assert invoke("job", "results", JOB, "--output", folder).exit_code == ExitCode.USAGE
    (folder / "report.json").write_text(json.dumps({"job": {"id": JOB}}))
    (folder / "thesis.tex").write_text("")
    assert invoke("job", "results", JOB, "--output", folder).exit_code == ExitCode.USAGE
    file = tmp_path / "file"
    file.write_text("")
    assert invoke("job", "results", JOB, "--output", file / "x").exit_code == ExitCode.USAGE
    assert len(node.of("results")) == 1


def test_only_a_job_that_goes_on_can_be_cancelled(invoke: Invoke, node: FakeNode) -> None:
    assert invoke("job", "cancel", JOB).exit_code == 0
    assert node.of("cancel") == [{"job": JOB}]
    node.answers["job"] = lambda _: DONE
    result = invoke("job", "cancel", JOB, "--json")
    assert result.exit_code == ExitCode.FAILED
    assert document(result)["job"]["state"] == "completed"
    assert len(node.of("cancel")) == 1


def test_a_network_file_finds_the_folder_of_its_network(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    save_network(tmp_path / "fake.toml", NETWORK)
    folder = home / "networks" / f"testnet-fake-{NETWORK.id.hex()[:8]}"
    with serving(folder):
        status = document(invoke("status", "--network", tmp_path / "fake.toml", "--json"))
        assert status["data_dir"] == str(folder)
    save_network(home / "network.toml", NETWORK)  # now the default folder is on that network
    result = invoke("status", "--network", tmp_path / "fake.toml", "--json")
    assert str(home) + "." in document(result)["error"]["message"]


def test_interrupting_a_watch_leaves_the_job_alone(node: FakeNode) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pfleet.cli.main", "job", "watch", JOB, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not node.of("job") and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == ExitCode.INTERRUPTED
    assert json.loads(out)["error"]["code"] == ExitCode.INTERRUPTED
    assert "Traceback" not in err
    assert node.of("cancel") == []


def test_a_node_that_refuses_is_quoted(invoke: Invoke, node: FakeNode) -> None:
    def refuse(_: object) -> object:
        raise Refusal("The job 'abababab' is not known to this node.", "See.", ExitCode.USAGE)

    node.answers["job"] = refuse
    result = invoke("job", "show", "abababab", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert "not known" in document(result)["error"]["message"]
