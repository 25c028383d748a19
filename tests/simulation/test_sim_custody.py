"""What a job needs outlives whoever leaves; and the checker finds it out where it does not."""

from __future__ import annotations

import pytest

from p2pfleet.core.machines.custody import Custody
from p2pfleet.resources import resource_path
from p2pfleet.sim.run import simulate
from p2pfleet.sim.scenario import Scenario, load_scenario


def scenario() -> Scenario:
    return load_scenario(resource_path("testnet", "scenarios", "publisher-leaves.toml"))


def test_a_publisher_that_left_collects_everything_though_four_volunteers_died() -> None:
    outcome = simulate(scenario(), 4)
    assert outcome.violations == ()
    assert outcome.settled == outcome.units
    assert outcome.executions <= 2.2 * outcome.units, "nothing had to be made again"


def test_without_custody_outputs_die_with_their_voters_and_the_checker_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Custody, "_look", lambda *_: None)
    outcome = simulate(scenario(), 1)
    assert {violation.checker for violation in outcome.violations} >= {"custody"}


def test_who_only_says_that_it_keeps_something_is_found_out_by_challenges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[bytes, int] = {}
    challenged = Custody.challenged

    def watch(self: Custody, digest: object, peer: bytes, verdict: str, now: object) -> None:
        challenged(self, digest, peer, verdict, now)  # type: ignore[arg-type]
        if self.challenges.liars.get(peer, 0) >= 2:  # type: ignore[call-overload]
            found[peer] = found.get(peer, 0) + 1

    monkeypatch.setattr(Custody, "challenged", watch)
    outcome = simulate(scenario(), 1)
    assert outcome.held
    assert len(found) == 2, "both boasters, and nobody else"
