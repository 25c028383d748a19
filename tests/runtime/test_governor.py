"""The owner's share of the processor and the pause, on a clock that jumps."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from p2pfleet.runtime.governor import PERIOD_S, Governor
from tests.runtime.fake_sandbox import FOREVER, FakeChild, FakeSandbox


def timeless(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a clock that jumps to the next deadline; at most three days of it."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(3 * 24 * 3600):
                await test(**fixtures)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


@asynccontextmanager
async def governing(percent: int) -> AsyncIterator[Governor]:
    """A governor that runs."""
    governor = Governor(percent)
    async with trio.open_nursery() as nursery:
        await nursery.start(governor.run)
        yield governor
        nursery.cancel_scope.cancel()


def new_child() -> FakeChild:
    return FakeChild(FakeSandbox(0.0, FOREVER), b"")


@pytest.mark.parametrize("percent", [1, 7, 25, 50, 90, 99])
@timeless
async def test_children_compute_the_share_of_the_time_that_the_owner_granted(percent: int) -> None:
    async with governing(percent) as governor:
        first, second = new_child(), new_child()
        governor.take(first)
        governor.take(second)
        await trio.sleep(100)

        assert first.measured() == pytest.approx(percent, abs=PERIOD_S)
        assert second.measured() == first.measured()
        assert first.switches == pytest.approx(2 * 100 / PERIOD_S, abs=4)


@timeless
async def test_the_whole_share_is_never_interrupted_and_costs_nothing() -> None:
    async with governing(100) as governor:
        child = new_child()
        governor.take(child)
        wakes = trio.lowlevel.current_statistics().seconds_to_next_deadline
        await trio.sleep(1000)

        assert wakes > 24 * 3600, "the governor waits for no deadline"
        assert (child.measured(), child.switches) == (1000, 0)


@timeless
async def test_nothing_wakes_while_no_child_serves() -> None:
    async with governing(10) as governor:
        child = new_child()
        governor.take(child)
        await trio.sleep(3)
        governor.drop(child)
        await trio.testing.wait_all_tasks_blocked()

        assert trio.lowlevel.current_statistics().seconds_to_next_deadline > 24 * 3600


@timeless
async def test_short_units_one_after_the_other_get_no_more_than_one_long_unit() -> None:
    async with governing(10) as governor:
        computed = 0.0
        began = trio.current_time()
        while trio.current_time() - began < 30:
            child = new_child()
            governor.take(child)
            await trio.sleep(0.003)
            governor.drop(child)
            child.kill()
            computed += child.measured()

        assert computed == pytest.approx(3, abs=PERIOD_S)


@timeless
async def test_a_child_that_comes_while_the_others_rest_rests_too() -> None:
    async with governing(20) as governor:
        first, second = new_child(), new_child()
        governor.take(first)
        await trio.sleep(0.2 * PERIOD_S + 0.01)
        assert first.frozen
        governor.take(second)
        assert second.frozen
        await trio.sleep(0.8 * PERIOD_S)
        assert not first.frozen
        assert not second.frozen


@timeless
async def test_a_child_from_the_shelf_is_thawed_when_it_is_taken() -> None:
    async with governing(50) as governor:
        child = new_child()
        child.freeze()
        governor.take(child)
        assert not child.frozen


@timeless
async def test_a_paused_node_never_thaws() -> None:
    async with governing(30) as governor:
        child = new_child()
        governor.take(child)
        await trio.sleep(1.05)
        governor.set_paused(True)
        assert child.frozen
        before, switches = child.measured(), child.switches
        await trio.sleep(50)
        governor.set_share(100)
        governor.set_share(5)
        late = new_child()
        governor.take(late)
        await trio.sleep(50)

        assert (child.measured(), child.switches, late.measured()) == (before, switches, 0)

        governor.set_paused(False)
        assert not child.frozen
        assert not late.frozen
        await trio.sleep(100)
        assert late.measured() == pytest.approx(5, abs=PERIOD_S)


@timeless
async def test_a_pause_that_ends_during_the_rest_does_not_cut_the_rest_short() -> None:
    async with governing(1) as governor:
        child = new_child()
        governor.take(child)
        await trio.sleep(0.1)
        assert child.frozen
        governor.set_paused(True)
        governor.set_paused(False)
        assert child.frozen
        for _ in range(1000):
            governor.set_paused(True)
            await trio.sleep(0.01)
            governor.set_paused(False)
            await trio.sleep(0.09)
        assert child.measured() <= 1.01 + PERIOD_S


@timeless
async def test_a_new_share_applies_at_once() -> None:
    async with governing(100) as governor:
        child = new_child()
        governor.take(child)
        await trio.sleep(10)
        governor.set_share(10)
        assert child.frozen, "what it computed so far was more than the new share"
        await trio.sleep(100)
        assert child.measured() == pytest.approx(20, abs=PERIOD_S)

        if not child.frozen:
            await trio.sleep(0.1 * PERIOD_S)
        assert child.frozen
        governor.set_share(100)
        assert not child.frozen
        assert governor.percent == 100


@timeless
async def test_a_late_wake_up_is_made_good_by_a_longer_rest() -> None:
    async with governing(10) as governor:
        child = new_child()
        governor.take(child)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(0.95)  # the node did not get the processor
        await trio.sleep(9.05)

        assert child.measured() <= 1.01


@timeless
async def test_a_very_late_wake_up_does_not_stop_the_children_for_days() -> None:
    async with governing(1) as governor:
        child = new_child()
        governor.take(child)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(3600)
        before = child.measured()
        await trio.sleep(900)

        assert child.measured() > before


@pytest.mark.parametrize("percent", [-1, 0, 101])
@timeless
async def test_a_share_that_is_none_is_refused_and_changes_nothing(percent: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        Governor(percent)
    governor = Governor(40)
    with pytest.raises(ValueError, match="1 to 100"):
        governor.set_share(percent)
    assert governor.percent == 40
