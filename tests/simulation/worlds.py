"""Small scenarios for the tests of the simulator, as the tables that TOML gives."""

from __future__ import annotations

from typing import Any

from p2pfleet.sim.scenario import Scenario, parse_scenario


def table(**changes: Any) -> dict[str, Any]:
    """A publisher, five honest machines, one job of 20 units; ``changes`` replace sections."""
    sections: dict[str, Any] = {
        "about": "a test",
        "machines": [{"name": "paula", "slots": 0}, {"name": "v", "count": 5}],
        "jobs": [{"publisher": "paula-0", "units": 20}],
        "expect": {"within_ms": 60_000},
    }
    return {**sections, **changes}


def world(**changes: Any) -> Scenario:
    """The scenario of :func:`table`."""
    return parse_scenario(table(**changes), "test")


def with_adversary(kind: str, count: int = 1, **more: Any) -> list[dict[str, Any]]:
    """The machines of :func:`table` and some adversaries."""
    return [*table()["machines"], {"name": "x", "count": count, "adversary": kind, **more}]
