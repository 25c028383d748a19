"""The command, and what it says of scenarios with mistakes and of seeds that fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import table

from p2pfleet.cli.main import cli
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.sim.scenario import MAX_FILE_BYTES, ScenarioError, load_scenario, parse_scenario

ALONE = """
about = "Nobody comes."
[[machines]]
name = "paula"
slots = 0
[[jobs]]
publisher = "paula-0"
units = 3
[expect]
within_ms = 20_000
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return int(end.value.code or 0)


def test_every_mistake_in_a_scenario_is_reported_at_once() -> None:
    wrong = table(
        network={"loss": 2, "speed": 3, "latency_ms": [9, 1]},
        machines=[{"name": "V"}, {"count": 5}],
        more=1,
    )
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(wrong, "wrong")
    places = [mistake.split(":")[0] for mistake in caught.value.mistakes]
    assert places == [
        "more", "network.loss", "network.speed", "network.latency_ms", "machines[0].name",
        "machines[1].name",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"jobs": []}, "there is none"),
        ({"jobs": [{"publisher": "nobody", "units": 1}]}, "no machine is called 'nobody'"),
        ({"jobs": [{"publisher": "paula-0", "units": 1, "quorum": 9}]}, "less than the quorum"),
        ({"machines": [{"name": "paula"}, {"name": "paula"}]}, "the same name"),
        ({"machines": [{"name": "paula"}, {"name": "v", "count": 512}]}, "more than 512"),
        ({"faults": [{"kind": "crash", "machines": "w"}]}, "no kind is called 'w'"),
        ({"faults": [{"kind": "flood"}]}, "faults[0].kind"),
        ({"machines": {"name": "v"}}, "[[machines]]"),
        ({"network": 7}, "a table is wanted"),
    ],
)
def test_a_scenario_that_contradicts_itself_is_refused(
    changes: dict[str, object], part: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(table(**changes), "wrong")
    assert part in str(caught.value)


def test_a_file_that_is_no_scenario_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    with pytest.raises(P2pfleetError, match="cannot be read"):
        load_scenario(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match="no TOML"):
        load_scenario(path)
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ScenarioError, match="longer than"):
        load_scenario(path)


def test_a_run_that_holds_exits_with_0_and_tells_its_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("sim", "honest", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["held"]
    assert document["events_a_second"] > 0
    assert document["runs"][0]["settled"] == document["runs"][0]["units"]


def test_a_seed_that_fails_prints_how_to_run_it_again_and_the_story(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "alone.toml"
    path.write_text(ALONE)
    assert run("sim", str(path), "--seed", "5") == 1
    said = capsys.readouterr().out
    assert "3 units are undecided at the end; this one is open" in said
    assert f"again: p2pfleet sim {path} --seed 5 --story 0" in said
    assert "the story of unit 0 of job 0, seed 5:" in said
    assert "NOT everything that must hold held." in said


def test_a_story_of_many_seeds_or_of_no_unit_is_refused() -> None:
    assert run("sim", "honest", "--seeds", "2", "--story", "1") == 2
    assert run("sim", "honest", "--story", "99999") == 2
    assert run("sim", "nowhere") != 0
