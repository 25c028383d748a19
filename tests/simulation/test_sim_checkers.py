"""The checkers find what they are for, in worlds where it does happen."""

from __future__ import annotations

from typing import Any

import pytest
from worlds import table, with_adversary, world

from p2pfleet.core import effects as ef
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.run import Outcome, simulate
from p2pfleet.sim.story import Story


def found(outcome: Outcome) -> set[str]:
    return {violation.checker for violation in outcome.violations}


def test_colluders_in_the_majority_are_seen_to_settle_wrong_results() -> None:
    outcome = simulate(world(machines=with_adversary("colluder", 8)), 1)
    assert outcome.wrong > 0
    assert "safety" in found(outcome)


def test_a_job_without_volunteers_is_seen_not_to_end() -> None:
    outcome = simulate(world(machines=[{"name": "paula", "slots": 0}]), 1)
    assert found(outcome) == {"liveness"}
    assert "20 units are undecided" in outcome.violations[0].text


def test_a_judgement_that_never_reached_the_disk_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forget(self: Behaviour, effects: list[ef.Effect]) -> list[ef.Effect]:
        lost = (ef.SaveMoves, ef.SaveRecords)
        return [effect for effect in effects if not isinstance(effect, lost)]

    monkeypatch.setattr(Behaviour, "decide", forget)
    assert "durability" in found(simulate(world(), 1))


def test_a_frame_that_leaves_before_it_is_on_disk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Behaviour, effects: list[ef.Effect]) -> list[ef.Effect]:
        return [effect for effect in effects if not isinstance(effect, ef.SaveFrame)]

    monkeypatch.setattr(Behaviour, "decide", forget)
    outcome = simulate(world(), 1)
    assert any(v.text == "announced what is not durable" for v in outcome.violations)


def test_a_count_that_is_no_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Settlement._revealed

    def miscount(self: Settlement, *what: Any) -> None:
        self.votes += 1
        honest(self, *what)

    monkeypatch.setattr(Settlement, "_revealed", miscount)
    assert "invariants" in found(simulate(world(), 1))


@pytest.mark.parametrize(
    "kind",
    [
        "liar", "equivocator", "free-rider", "withholder", "hoarder", "secretive", "copier",
        "on-off", "sybil", "spammer", "leaver",
    ],
)  # fmt: skip
def test_one_adversary_among_five_honest_machines_does_no_harm(kind: str) -> None:
    # A hoarder may hold a unit as long as two executions within the job's limits take.
    patience = {"within_ms": 300_000}
    outcome = simulate(world(machines=with_adversary(kind, after_ms=2_000), expect=patience), 4)
    assert outcome.violations == ()
    assert (outcome.settled, outcome.wrong) == (20, 0)


def test_a_numeric_class_of_its_own_is_never_certified_alone() -> None:
    machines = [*table()["machines"], {"name": "odd", "numeric_class": "b"}]
    jobs = [{"publisher": "paula-0", "units": 20, "divergent": 0.5}]
    outcome = simulate(world(machines=machines, jobs=jobs), 1)
    assert outcome.violations == ()
    assert outcome.executions > 40


def test_the_story_of_a_unit_tells_its_votes_and_decisions_and_changes_no_trace() -> None:
    story = Story(7)
    told = simulate(world(), 1, story)
    assert told.trace == simulate(world(), 1).trace
    text = "\n".join(story.lines)
    for part in ("claim", "vote for", "decides: certified", "decides: settled", "judges v-"):
        assert part in text
