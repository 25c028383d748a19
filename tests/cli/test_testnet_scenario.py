"""Scenarios for real processes: read strictly, all mistakes at once, told apart from simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pfleet.cli.testnet_scenario import (
    find_scenario,
    load_network_scenario,
    parse_network_scenario,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.job import Confidence
from p2pfleet.core.rules.certificate import holds
from p2pfleet.resources import resource_path
from p2pfleet.sim.scenario import MAX_FILE_BYTES, ScenarioError, is_simulation
from p2pfleet.submission import stop_of
from tests.cli.conftest import Invoke, document

DIGITS = resource_path("testnet", "jobs", "digits")


def plan(**changes: Any) -> dict[str, Any]:
    """A scenario without mistakes; ``job`` and ``expect`` are changes to those sections."""
    job = {"model": "digits.onnx", "inputs": ["digits.npz"], "quorum": 2}
    job |= changes.pop("job", {})
    found: dict[str, Any] = {"nodes": 5, "liars": 1, "job": job, **changes}
    return found


def mistakes(table: dict[str, Any], folder: Path = DIGITS) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as caught:
        parse_network_scenario(table, "bad", folder)
    return caught.value.mistakes


def test_a_scenario_becomes_a_request_with_paths_that_lead_somewhere() -> None:
    scenario = parse_network_scenario(plan(history=7, job={"split": "0:50"}), "small", DIGITS)
    request = scenario.request()
    assert request.model == str(DIGITS / "digits.onnx")
    assert request.inputs == (str(DIGITS / "digits.npz"),)
    assert (request.quorum, request.split, request.confidence) == (2, "0:50", None)
    assert (scenario.honest, scenario.history, scenario.slots) == (4, 7, 1)
    assert scenario.expect.wrong_settled_max == 0


def test_every_mistake_is_reported_at_once() -> None:
    found = mistakes(
        {
            "nodes": 0, "liars": "two", "speed": 3,
            "job": {"inputs": [], "quorum": 33, "audit": 1.5, "colour": "red"},
            "expect": {"within_s": 0.5, "wrong_settled_max": -1, "settled": True},
        }
    )  # fmt: skip
    named = {mistake.split(":")[0] for mistake in found}
    assert named == {
        "nodes", "liars", "speed", "job.model", "job.inputs", "job.quorum", "job.audit",
        "job.colour", "expect.within_s", "expect.wrong_settled_max", "expect.settled",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"nodes": 5}, "job: is missing"),
        ({"nodes": 5, "job": 3}, "job: a table is wanted"),
        (plan(liars=5), "no honest one"),
        (plan(job={"model": "nothing.onnx"}), "job.model: there is no file"),
        (plan(job={"inputs": ["digits.npz", "x.npz"]}), "job.inputs: there is no file or folder"),
        (plan(job={"split": "zero"}), "job.split: 'zero' is not a split"),
        (plan(job={"confidence": 0.9}), "two ways to decide"),
        (plan(job={"assume_faulty": 0.2}), "says nothing without --confidence"),
        (plan(job={"quorum": 5}), "a unit needs 5 votes"),
        (plan(job={"quorum": 5, "replicas_max": 3}), "cannot reach a quorum"),
    ],
)
def test_what_cannot_be_is_refused(table: dict[str, Any], said: str) -> None:
    found = mistakes(table)
    assert any(said in mistake for mistake in found), found


def test_a_confidence_that_the_honest_nodes_cannot_reach_is_refused() -> None:
    job = {"model": "digits.onnx", "inputs": ["digits.npz"], "confidence": 0.99}
    job["assume_faulty"] = 0.35
    strangers = {"nodes": 12, "liars": 4, "job": job}
    (said,) = mistakes(strangers)
    assert "a unit needs 9 votes that agree, of nodes with 0 checks each" in said
    parse_network_scenario({**strangers, "history": 20}, "known", DIGITS)


def test_a_scenario_for_the_simulator_is_sent_there(invoke: Invoke) -> None:
    result = invoke("testnet", "run", "honest", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert "p2pfleet sim" in document(result)["error"]["advice"]


def test_a_scenario_that_cannot_be_read_is_explained(invoke: Invoke, tmp_path: Path) -> None:
    for name, text in (("no.toml", None), ("broken.toml", b"nodes = "), ("bytes.toml", b"\xff")):
        if text is not None:
            (tmp_path / name).write_bytes(text)
        result = invoke("testnet", "run", tmp_path / name, "--json")
        assert result.exit_code == ExitCode.USAGE
        assert name in document(result)["error"]["message"]
    (tmp_path / "long.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ScenarioError, match="longer than"):
        load_network_scenario(tmp_path / "long.toml")
    with pytest.raises(P2pfleetError, match="There is no testnet/scenarios/nothing"):
        find_scenario("nothing")


def test_mistakes_stand_in_the_document(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("nodes = 1\nliars = -1\n")
    result = invoke("testnet", "run", tmp_path / "bad.toml", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert len(document(result)["error"]["mistakes"]) == 2


def test_each_known_scenario_is_of_one_kind_and_those_for_processes_are_sound() -> None:
    paths = sorted(resource_path("testnet", "scenarios").glob("*.toml"))
    real = [path for path in paths if not is_simulation(path)]
    assert "liars-third" in [path.stem for path in real]
    for path in real:
        scenario = load_network_scenario(path)
        assert scenario.about, "it says what it shows"


def test_what_makes_the_rule_hold_where_a_third_lies() -> None:
    scenario = load_network_scenario(find_scenario("liars-third"))
    stop = stop_of(scenario.request())
    assert isinstance(stop, Confidence)
    assert (stop.error_ppb, stop.faulty_ppm) == (10_000_000, 350_000)
    assert scenario.liars / scenario.nodes < 0.35
    k = scenario.history
    assert holds(stop, [k] * 2, [], True), "two known peers that agree"
    assert not holds(stop, [k], [], True), "but never one alone"
    assert not holds(stop, [k] * 2, [[k] * 2], True), "nor against two"
    assert holds(stop, [k] * 4, [[0] * 4], True), "whoever was caught weighs little"
    # Liars with a record can certify, so what is final must not rest on that: it is settled only
    # when its voters pass checks afterwards, or the publisher ran it itself.
    assert holds(stop, [k] * 4, [], True)
    assert scenario.job.ringers
    assert scenario.job.audit
