"""What a unit costs does not grow with the network, as far as two small sizes can tell."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pfleet.cli.main import cli
from p2pfleet.sim.network import CONNECTIONS_MAX
from p2pfleet.sim.scale import HEADINGS, legend, row, scale

FLAT = 1.6
"""What little there is to do in a small job is done by fewer in the smaller network."""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return int(end.value.code or 0)


def test_a_unit_costs_the_same_in_a_network_four_times_as_large() -> None:
    told: list[str] = []
    small, large = scale((128, 32), 1, told.append, units_a_node=1)
    assert (small.nodes, large.nodes) == (32, 128)
    for cost in (small, large):
        assert cost.settled == cost.units == cost.nodes
        assert 0 < cost.connections_max <= CONNECTIONS_MAX
        assert cost.doubled_a_unit < cost.messages_a_unit / 5
        assert len(row(cost)) == len(HEADINGS)
    assert large.executions_a_unit < FLAT * small.executions_a_unit
    assert large.messages_a_unit < FLAT * small.messages_a_unit
    assert told
    assert legend()


def test_the_command_prints_what_each_size_costs(capfd: Any) -> None:
    assert run("sim", "--scale", "4,8", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["done"]
    assert [size["nodes"] for size in document["sizes"]] == [4, 8]
    assert run("sim", "--scale", "4,8", "--seconds", "40", "--units", "40", "--json") == 0
    for size in json.loads(capfd.readouterr().out)["sizes"]:
        assert size["simulated_s"] == 40
        assert 0 < size["decided"] < size["units"] == 40 * size["nodes"]
        assert 1.9 < size["executions_a_unit"] < 3
    assert run("sim", "clean", "--seconds", "12") == 2
    assert run("sim", "--scale", "4,many") == 2
    assert run("sim", "--scale", "1") == 2
