"""Children begin and end when the node says so, and never outlive it."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault, SandboxJob

from . import models
from .guarded import children_of, ended, guarded, until
from .models import bundle

LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=10_000, output_bytes=8 * 2**20)
CONFIG = SandboxConfig(idle=False)
ONE = bundle(x=np.ones(1, np.float32))
TWO = bundle(y=np.full(1, 2, np.float32))


async def wait_until_it_computes(process: psutil.Process) -> None:
    """Until the child has used CPU time, so that the unit is certainly in flight."""
    before = sum(process.cpu_times()[:2])
    await until(lambda: sum(process.cpu_times()[:2]) > before + 0.02)


async def fault_of(job: SandboxJob, into: list[ExecutionFault]) -> None:
    with pytest.raises(ExecutionFault) as caught:
        await job.execute(ONE)
    into.append(caught.value)


@guarded()
async def test_a_cancelled_unit_kills_its_child_and_the_next_call_is_right() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.counting_loop(None), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job.execute, ONE)
            await wait_until_it_computes(child)
            nursery.cancel_scope.cancel()

        assert ended(child)
        assert sandbox.children == 0
        with pytest.raises(ExecutionFault, match=r"^killed: "):
            await job.execute(ONE)
        job = await sandbox.load(models.doubling(), LIMITS)
        assert (await job.execute(ONE)).outputs == TWO


@guarded()
async def test_a_cancelled_load_leaves_no_child() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sandbox.load, models.slow_to_load(), LIMITS)
            await until(lambda: children_of(sandbox.server_pid))
            nursery.cancel_scope.cancel()

        assert children_of(sandbox.server_pid) == []
        assert sandbox.children == 0


@guarded()
async def test_leaving_the_sandbox_by_cancellation_leaves_nothing() -> None:
    with trio.CancelScope() as scope:
        async with open_sandbox(CONFIG) as sandbox:
            server = psutil.Process(sandbox.server_pid)
            await sandbox.load(models.doubling(), LIMITS)
            job = await sandbox.load(models.counting_loop(None), LIMITS)
            running = [server, *children_of(server.pid)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job.execute, ONE)
                await wait_until_it_computes(running[-1])
                scope.cancel()

    assert len(running) == 3
    assert all(ended(process) for process in running)


@guarded()
async def test_cancelling_the_start_leaves_nothing() -> None:
    entered = []
    with trio.move_on_after(0.05):
        async with open_sandbox(CONFIG) as sandbox:
            entered.append(sandbox)

    assert entered == []
    assert psutil.Process().children() == []


@guarded()
async def test_kill_ends_a_running_unit_as_killed() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.counting_loop(None), LIMITS)
        faults: list[ExecutionFault] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fault_of, job, faults)
            await wait_until_it_computes(children_of(sandbox.server_pid)[0])
            job.kill()
            job.kill()

        assert [fault.kind for fault in faults] == ["killed"]
        job.kill()
        job.freeze()
        job.thaw()
        assert sandbox.children == 0


@guarded()
async def test_a_frozen_unit_uses_no_cpu_and_outlives_its_wall_limit() -> None:
    config = SandboxConfig(idle=False, wall_factor=1, wall_grace_ms=1, max_wall_ms=2000)
    frozen_seconds = 2.1
    async with open_sandbox(config) as sandbox:
        job = await sandbox.load(models.counting_loop(300_000), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        results = []

        async def work() -> None:
            results.append(await job.execute(ONE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await wait_until_it_computes(child)
            job.freeze()
            job.freeze()
            await until(lambda: child.status() == psutil.STATUS_STOPPED)
            used = child.cpu_times()[:2]
            await trio.sleep(frozen_seconds)
            assert child.cpu_times()[:2] == used
            job.thaw()

        assert results[0].outputs == bundle(y=np.full(1, 300_001, np.float32))
        assert results[0].wall_ms <= config.max_wall_ms
        assert (await job.execute(ONE)).outputs == results[0].outputs


@guarded()
async def test_a_unit_that_begins_frozen_waits_for_the_thaw() -> None:
    async with open_sandbox(SandboxConfig(idle=False, max_wall_ms=300)) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        job.freeze()
        with trio.move_on_after(0.6) as scope:
            async with trio.open_nursery() as nursery:
                results = []

                async def work() -> None:
                    results.append(await job.execute(ONE))

                nursery.start_soon(work)
                await trio.sleep(0.4)
                assert results == []
                job.thaw()

        assert not scope.cancelled_caught
        assert results[0].outputs == TWO


@guarded()
async def test_a_frozen_child_can_be_killed() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        job.freeze()
        job.kill()
        with trio.fail_after(2):
            await until(lambda: ended(child))


@pytest.mark.parametrize("busy", [False, True])
@guarded()
async def test_a_child_killed_from_outside_is_a_crash_and_the_next_load_works(busy: bool) -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.counting_loop(None), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        faults: list[ExecutionFault] = []
        if not busy:
            child.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fault_of, job, faults)
            if busy:
                await wait_until_it_computes(child)
                child.kill()

        assert [fault.kind for fault in faults] == ["crash"]
        assert "SIGKILL" in faults[0].reason
        job = await sandbox.load(models.doubling(), LIMITS)
        assert (await job.execute(ONE)).outputs == TWO


@guarded()
async def test_when_the_server_dies_its_children_do_and_the_next_load_starts_another() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        busy = await sandbox.load(models.counting_loop(None), LIMITS)
        idle = await sandbox.load(models.doubling(), LIMITS)
        server = psutil.Process(sandbox.server_pid)
        children = children_of(server.pid)
        faults: list[ExecutionFault] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fault_of, busy, faults)
            await wait_until_it_computes(children[0])
            server.kill()
        await fault_of(idle, faults)

        assert [fault.kind for fault in faults] == ["crash", "crash"]
        job = await sandbox.load(models.doubling(), LIMITS)
        assert (await job.execute(ONE)).outputs == TWO
        assert sandbox.server_pid != server.pid
        assert all(ended(child) for child in children)


@guarded(30)
async def test_a_server_that_keeps_dying_is_not_restarted_for_ever() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        for _ in range(4):
            psutil.Process(sandbox.server_pid).kill()
            await sandbox.load(models.doubling(), LIMITS)
        psutil.Process(sandbox.server_pid).kill()
        with pytest.raises(ExecutionFault, match=r"^crash: .* within 60 seconds"):
            await sandbox.load(models.doubling(), LIMITS)


def test_when_the_node_is_killed_everything_ends_within_two_seconds() -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", _NODE, str(Path(__file__).parent.parent)], stdout=subprocess.PIPE
    )
    pidfds = []
    try:
        assert node.stdout is not None
        assert select.select([node.stdout], [], [], 20)[0], "the node did not come up"
        pids = [int(pid) for pid in node.stdout.readline().split()]
        assert len(pids) >= 5, "server, busy, frozen, idle and loading child"
        pidfds = [os.pidfd_open(pid) for pid in pids]
        node.kill()
        deadline = time.monotonic() + 2
        alive = []
        for pid, pidfd in zip(pids, pidfds, strict=True):
            if not select.select([pidfd], [], [], max(0, deadline - time.monotonic()))[0]:
                alive.append(pid)
        assert alive == []
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()


_NODE = """
import sys
import psutil
sys.path.insert(0, sys.argv[1])
import trio
from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from sandbox import models
from sandbox.guarded import children_of
from sandbox.test_lifetime import LIMITS, ONE, wait_until_it_computes

async def main():
    async with open_sandbox(SandboxConfig(idle=False)) as sandbox, trio.open_nursery() as nursery:
        jobs = [await sandbox.load(models.counting_loop(None), LIMITS) for _ in range(3)]
        children = children_of(sandbox.server_pid)
        for job in jobs[:2]:
            nursery.start_soon(job.execute, ONE)
        for child in children[:2]:
            await wait_until_it_computes(child)
        jobs[1].freeze()
        nursery.start_soon(sandbox.load, models.slow_to_load(), LIMITS)
        while len(children) < 4:
            await trio.sleep(0.005)
            children = children_of(sandbox.server_pid)
        # With namespaces there is one more: the process that waits for the server.
        everything = psutil.Process().children(recursive=True)
        print(*(process.pid for process in everything), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def lines_of(process: psutil.Process, name: str) -> list[str]:
    return Path(f"/proc/{process.pid}/{name}").read_text().splitlines()


@guarded()
async def test_a_child_is_hardened_before_it_sees_a_model() -> None:
    config = SandboxConfig(nice=12)
    async with open_sandbox(config) as sandbox:
        await sandbox.load(models.counting_loop(None), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        status = dict(line.split(":\t", 1) for line in lines_of(child, "status") if ":\t" in line)
        allowed = {line[:26].strip(): line[26:46].strip() for line in lines_of(child, "limits")}

        assert child.nice() == 12
        assert status["NoNewPrivs"] == "1"
        assert status["Threads"] == "1"
        assert "0" not in status["Uid"].split(), "neither root's child nor a user's is root"
        assert allowed["Max open files"] == "0"
        assert allowed["Max processes"] == "0"
        assert allowed["Max core file size"] == "0"
        assert allowed["Max file size"] == "0"
        assert allowed["Max stack size"] == str(8 * 2**20)
        data = int(allowed["Max data size"])
        assert LIMITS.memory_bytes < data < LIMITS.memory_bytes + 200 * 2**20
        assert int(allowed["Max address space"]) != resource.RLIM_INFINITY


@guarded()
async def test_the_server_knows_nothing_of_the_nodes_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("P2PFLEET_TEST_SECRET", "hunter2")
    async with open_sandbox(CONFIG) as sandbox:
        try:
            environment = "".join(lines_of(psutil.Process(sandbox.server_pid), "environ"))
        except PermissionError:
            pytest.skip("this user may not read the environment of another process")

    assert "ORT_DISABLE_TELEMETRY=1" in environment
    assert "hunter2" not in environment


@guarded()
async def test_the_children_hold_none_of_the_nodes_descriptors() -> None:
    inheritable, other = os.pipe()
    os.set_inheritable(inheritable, True)
    try:
        async with open_sandbox(CONFIG) as sandbox:
            await sandbox.load(models.doubling(), LIMITS)
            await sandbox.load(models.doubling(), LIMITS)
            children = children_of(sandbox.server_pid)
            try:
                held = [sorted(os.listdir(f"/proc/{child.pid}/fd")) for child in children]
            except PermissionError:
                pytest.skip("this user may not look at a child's descriptors")
    finally:
        os.close(inheritable)
        os.close(other)

    assert held == [["0", "1", "2"], ["0", "1", "2"]]
