"""Some seconds of mutated models: any child may die, the node never."""

from __future__ import annotations

import math

import psutil
import trio

from tests.fuzz.campaign import Result, run_campaign
from tests.fuzz.mutants import mutant

SEED = "ci"
SECONDS = 10


def test_the_node_survives_mutated_models_and_serves_honest_ones_in_between() -> None:
    result = trio.run(lambda: run_campaign(SEED, SECONDS))

    print(f"{result.models} models, seed {SEED}: {dict(result.endings)}")
    assert result.mistakes == [], f"again: python -m tests.fuzz --seed {SEED} --seconds {SECONDS}"
    assert result.rounds > 0
    assert result.endings["ran"] > 0
    assert result.endings["refused at load: model"] > 0


def test_a_seed_and_an_index_name_a_mutant_for_good() -> None:
    for index in range(50):
        assert repr(mutant("a", index)) == repr(mutant("a", index))
    assert mutant("a", 1) != mutant("a", 2) != mutant("b", 2)


def test_one_mutant_can_be_run_again_alone() -> None:
    result = trio.run(lambda: run_campaign(SEED, math.inf, only=7))

    assert (result.models, result.rounds, result.mistakes) == (1, 1, [])


def test_a_server_that_ends_on_the_way_is_told() -> None:
    async def kill_the_server_after_the_first_round(result: Result) -> None:
        if result.rounds == 1:
            (server,) = psutil.Process().children()
            server.kill()
            server.wait()

    result = trio.run(
        lambda: run_campaign(SEED, 3, after_round=kill_the_server_after_the_first_round)
    )

    assert any("the server was ended" in mistake for mistake in result.mistakes)
    assert len(result.mistakes) <= 2
