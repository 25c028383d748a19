"""``unit run`` asks the node, shows what it says, and ends with a documented code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pfleet.core.errors import ExitCode
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import JOB, PEER, FakeNode, Refusal

TENSOR = {"name": "x", "dtype": "float32", "shape": [2], "bytes": 8, "first": [0.5, "nan"]}


def report(**changes: Any) -> dict[str, Any]:
    """What the node says of a unit that went well."""
    limit = {"job": 60.0, "owner": 3600.0, "applied": 60.0}
    return {
        "job": JOB, "name": "digits", "publisher": PEER, "unit": 3,
        "sandbox": {
            "grade": "A", "reason": "", "advice": "", "numeric_class": "", "onnxruntime": "1.2.3",
            "properties": [],
        },
        "beyond": "", "limits": {"memory_mb": limit, "cpu_s": limit, "output_mb": limit},
        "model": {"bytes": 100, "admitted": True, "reason": ""},
        "inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}], "digest": "12" * 32,
        "output_bytes": 30, "cpu_ms": 5, "wall_ms": 6, "fault": None, "volunteer": "votes",
        "state": "settled", "certified_digest": "12" * 32, "agrees": True, **changes,
    }  # fmt: skip


def test_the_node_is_asked_and_its_report_is_shown(invoke: Invoke, node: FakeNode) -> None:
    node.answers["unit_run"] = lambda _: report()
    assert document(invoke("unit", "run", JOB[:8], "3", "--json")) == report()
    shown = invoke("unit", "run", JOB[:8], "3")
    assert shown.exit_code == ExitCode.OK
    assert "the same digest (the unit is settled)" in shown.stdout
    assert "0.5 nan" in shown.stdout
    assert node.of("unit_run") == [{"job": "abababab", "unit": 3}] * 2


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        (
            {"agrees": None, "certified_digest": None, "state": "open"},
            ExitCode.OK,
            "not that this node knows of (the unit is open)",
        ),
        (
            {"agrees": False, "certified_digest": "34" * 32},
            ExitCode.FAILED,
            "ANOTHER digest: 3434",
        ),
        (
            {
                "fault": {"kind": "cpu", "reason": "it needs more than 5 ms of CPU time"},
                "volunteer": "fails",
            },
            ExitCode.FAILED,
            "the limit of processor time was reached: it needs more than 5 ms of CPU time\n"
            "a volunteer would report the unit as failed",
        ),
        (
            {"fault": {"kind": "wall", "reason": "too slow"}, "volunteer": "releases"},
            ExitCode.FAILED,
            "a volunteer would leave the unit to others; nobody is held to it",
        ),
        (
            {
                "fault": {"kind": "model", "reason": "node 0 \x1b[31m"},
                "volunteer": "fails",
                "model": {"bytes": 1, "admitted": False, "reason": "model: node 0"},
            },
            ExitCode.FAILED,
            "the model failed: node 0 \\x1b[31m",
        ),
        ({"beyond": "it needs more memory"}, ExitCode.OK, "leave the job to others: it needs"),
    ],
)
def test_every_end_has_its_sentence_and_its_exit_code(
    invoke: Invoke, node: FakeNode, changes: dict[str, Any], code: ExitCode, said: str
) -> None:
    node.answers["unit_run"] = lambda _: report(**changes)
    shown = invoke("unit", "run", JOB, "3")
    assert shown.exit_code == code
    assert said in shown.stdout
    assert document(invoke("unit", "run", JOB, "3", "--json")) == report(**changes)


def test_a_node_that_refuses_is_quoted(invoke: Invoke, node: FakeNode) -> None:
    def refuse(_: object) -> object:
        raise Refusal("The job has no unit 3.", "See.", ExitCode.USAGE)

    node.answers["unit_run"] = refuse
    result = invoke("unit", "run", JOB, "3", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert "no unit 3" in document(result)["error"]["message"]


@pytest.mark.parametrize("arguments", [("xyz", "0"), (JOB, "-1"), (JOB, "many"), (JOB,), ()])
def test_what_names_no_unit_is_refused_before_anybody_is_asked(
    invoke: Invoke, node: FakeNode, arguments: tuple[str, ...]
) -> None:
    assert invoke("unit", "run", *arguments).exit_code == ExitCode.USAGE
    assert node.requests == []


def test_without_a_node_and_without_a_store_it_says_so(invoke: Invoke, home: Path) -> None:
    result = invoke("unit", "run", JOB, "0", "--json")
    assert result.exit_code == ExitCode.NO_NODE
    error = document(result)["error"]
    assert "no job is kept there" in error["message"]
    assert "p2pfleet run" in error["advice"]
    assert not home.exists(), "nothing is made by looking"
