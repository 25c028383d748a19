"""Children are lent to units, frozen with the rest, and ended when nobody wants them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from p2pfleet.core.model.ids import JobId
from p2pfleet.ports import ExecutionFault
from p2pfleet.runtime.children import Children
from p2pfleet.runtime.governor import Governor
from tests.runtime.fake_sandbox import FOREVER, LIMITS, FakeSandbox

JOB = JobId(b"\1" * 32)
OTHER = JobId(b"\2" * 32)


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(10):
                await test(**fixtures)

        trio.run(main)

    return run


@asynccontextmanager
async def children_of(
    sandbox: FakeSandbox, slots: int = 1, percent: int = 100
) -> AsyncIterator[tuple[Children, trio.Nursery]]:
    governor = Governor(percent)
    children = Children(sandbox, slots, governor)
    async with trio.open_nursery() as nursery:
        await nursery.start(governor.run)
        try:
            yield children, nursery
        finally:
            nursery.cancel_scope.cancel()
            children.close()


async def serve(children: Children, job: JobId = JOB) -> None:
    async with children.child(job, lambda: b"model", LIMITS) as child:
        await child.execute(b"")


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.002)


@guarded
async def test_a_child_is_kept_for_the_next_unit_of_its_job_and_frozen_meanwhile() -> None:
    sandbox = FakeSandbox()
    async with children_of(sandbox) as (children, _):
        await serve(children)
        (child,) = sandbox.started
        assert child.frozen
        assert not child.dead
        await serve(children)
        assert sandbox.started == [child]
        await serve(children, OTHER)
        assert len(sandbox.started) == 2
        assert child.dead, "one slot keeps one child"


@guarded
async def test_a_child_that_loads_is_frozen_by_a_pause_and_goes_on_after_it() -> None:
    sandbox = FakeSandbox(load_s=0.05)
    async with children_of(sandbox) as (children, nursery):
        done = trio.Event()

        async def unit() -> None:
            await serve(children)
            done.set()

        nursery.start_soon(unit)
        await until(lambda: sandbox.started)
        (child,) = sandbox.started
        children.set_paused(True)
        assert child.frozen
        assert not child.loaded
        await trio.sleep(0.1)
        assert not child.loaded
        children.set_paused(False)
        await done.wait()
        assert child.loaded


@guarded
async def test_a_child_born_into_a_pause_is_frozen_before_it_loads() -> None:
    sandbox = FakeSandbox(load_s=0.01)
    async with children_of(sandbox) as (children, nursery):
        sandbox.on_start = lambda: children.set_paused(True)
        nursery.start_soon(serve, children)
        await until(lambda: sandbox.started)
        await trio.testing.wait_all_tasks_blocked()
        (child,) = sandbox.started
        assert child.frozen
        assert not child.loaded


@guarded
async def test_a_paused_node_starts_no_child() -> None:
    sandbox = FakeSandbox()
    async with children_of(sandbox) as (children, nursery):
        children.set_paused(True)
        nursery.start_soon(serve, children)
        await trio.testing.wait_all_tasks_blocked()
        assert sandbox.started == []
        children.set_paused(False)
        children.set_paused(True)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sandbox.started == [], "the pause was back before it could start"
        children.set_paused(False)
        await until(lambda: sandbox.started)


@guarded
async def test_a_model_read_when_the_pause_began_waits_for_its_end() -> None:
    sandbox = FakeSandbox()
    async with children_of(sandbox) as (children, nursery):

        def model() -> bytes:
            trio.from_thread.run_sync(children.set_paused, True)
            return b"model"

        async def unit() -> None:
            async with children.child(JOB, model, LIMITS):
                pass

        nursery.start_soon(unit)
        await until(lambda: children._governor.paused)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert sandbox.started == []


@guarded
async def test_two_shelves_under_one_governor_pause_and_go_on_together() -> None:
    ours, theirs = FakeSandbox(unit_s=0.05), FakeSandbox(unit_s=0.05)
    async with children_of(ours) as (children, nursery):
        others = Children(theirs, 1, children._governor)
        nursery.start_soon(serve, children)
        await until(lambda: ours.started and ours.started[0].loaded)
        for shelf in (children, others):
            shelf.set_paused(True)
        nursery.start_soon(serve, others)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert ours.started[0].frozen
        assert theirs.started == []
        for shelf in (children, others):
            shelf.set_paused(False)
        await until(lambda: theirs.started and children._governor._children == {})
        others.close()


@guarded
async def test_a_frozen_child_is_killed_when_its_unit_is_cancelled() -> None:
    sandbox = FakeSandbox(unit_s=FOREVER)
    async with children_of(sandbox) as (children, nursery):
        scope = trio.CancelScope()

        async def unit() -> None:
            with scope:
                await serve(children)

        nursery.start_soon(unit)
        await until(lambda: sandbox.started and sandbox.started[0].loaded)
        children.set_paused(True)
        scope.cancel()
        await until(lambda: sandbox.started[0].dead)
        assert children._governor._children == {}


@pytest.mark.parametrize(
    ("kind", "kept"), [("input", True), ("output", True), ("model", False), ("wall", False)]
)
@guarded
async def test_a_child_outlives_only_faults_that_leave_it_whole(kind: str, kept: bool) -> None:
    sandbox = FakeSandbox()
    sandbox.unit_fault = ExecutionFault(kind, "so it is")
    async with children_of(sandbox) as (children, _):
        with pytest.raises(ExecutionFault, match="so it is"):
            await serve(children)
        (child,) = sandbox.started
        assert child.dead != kept
        assert children._governor._children == {}


@guarded
async def test_a_model_that_does_not_load_leaves_nothing() -> None:
    sandbox = FakeSandbox()
    sandbox.load_fault = ExecutionFault("model", "refused")
    async with children_of(sandbox) as (children, _):
        for _ in range(3):
            with pytest.raises(ExecutionFault, match="refused"):
                await serve(children)
        assert all(child.dead for child in sandbox.started)
        assert children._governor._children == {}
        sandbox.load_fault = None
        await serve(children)


@guarded
async def test_ending_a_job_kills_its_busy_and_its_shelved_children_only() -> None:
    sandbox = FakeSandbox()
    async with children_of(sandbox, slots=3) as (children, nursery):
        await serve(children, OTHER)
        await serve(children)
        sandbox.unit_s = FOREVER

        async def unit() -> None:
            with pytest.raises(ExecutionFault, match="killed"):
                await serve(children)

        nursery.start_soon(unit)
        await until(lambda: not sandbox.started[1].frozen)
        children.end(JOB)
        assert [child.dead for child in sandbox.started] == [False, True]
        await until(lambda: children._governor._children == {})


@guarded
async def test_a_unit_under_a_small_share_is_done_in_its_own_computing_time() -> None:
    sandbox = FakeSandbox(unit_s=0.1)
    async with children_of(sandbox, percent=10) as (children, _):
        began = trio.current_time()
        await serve(children)
        assert trio.current_time() - began > 0.4
        assert sandbox.started[0].measured() < 0.2
