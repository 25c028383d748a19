"""The executor without a sandbox computes the same bytes, keeps its limits and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import psutil
import pytest
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, unconfined
from p2pfleet.adapters.sandbox.inside import alone
from p2pfleet.adapters.sandbox.inside.numeric import numeric_class
from p2pfleet.adapters.sandbox.unconfined import UnconfinedSandbox, open_unconfined
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from . import models
from .guarded import ended, guarded, until
from .models import arrays, bundle

MB = 2**20
LIMITS = Limits(memory_bytes=256 * MB, cpu_ms=10_000, output_bytes=8 * MB)
ONE = bundle(x=np.ones(1, np.float32))
# For hours, but within what admission takes for bounded.
ENDLESS = models.counting_loop(2**37)


def children() -> list[psutil.Process]:
    return psutil.Process().children()


async def fault_of(sandbox: UnconfinedSandbox, model: bytes, inputs: bytes, limits: Limits) -> str:
    """The kind of fault that loading or running ends in; the child is gone afterwards."""

    async def use() -> None:
        job = await sandbox.load(model, limits)
        await job.execute(inputs)

    with pytest.raises(ExecutionFault) as caught:
        await use()
    await until(lambda: sandbox.children == 0)
    assert len(caught.value.reason) > 10
    return caught.value.kind


@guarded(60)
async def test_outputs_of_every_size_and_dtype_come_back_as_onnxruntime_computes_them() -> None:
    rng = np.random.default_rng(1)
    async with open_unconfined() as sandbox:
        job = await sandbox.load(models.matmul(16), LIMITS)
        assert job.signature.inputs[0].shape == (None, 16)
        session = onnxruntime.InferenceSession(models.matmul(16))
        for rows in (1, 1024, 1025, 30_000, 3):
            x = rng.standard_normal((rows, 16)).astype(np.float32)
            done = await job.execute(bundle(x=x))
            (y,) = session.run(None, {"x": x})
            np.testing.assert_allclose(arrays(done.outputs)["y"], y, rtol=1e-5)
            assert done.cpu_ms <= done.wall_ms
        job.kill()

        job = await sandbox.load(models.identity_of_all_dtypes(), LIMITS)
        given = {
            name: np.array([0, 1, 1], name) for name in sorted(models.NUMPY_TYPES, key=str.lower)
        }
        ordered = {f"in_{name}": given[name] for name in models.NUMPY_TYPES}
        found = arrays((await job.execute(bundle(**ordered))).outputs)
        assert {name: value.dtype.name for name, value in found.items()} == {
            f"out_{name}": name for name in models.NUMPY_TYPES
        }

        scalar = await sandbox.load(models.scalar_sum(), LIMITS)
        result = await scalar.execute(bundle(x=np.ones(5, np.float32)))
        assert result.outputs == bundle(y=np.float32(5))


@guarded()
async def test_its_report_says_what_it_does_not_keep() -> None:
    async with open_unconfined() as sandbox:
        report = sandbox.report

        assert report.capability.grade == "none"
        assert report.capability.numeric_class == numeric_class()
        assert report.capability.onnxruntime == onnxruntime.__version__
        held = {item.name: item.held for item in report.properties}
        assert not held["no files"]
        assert not held["no network"]
        assert held["memory limit"]
        assert report.reason
        assert report.advice


@guarded(60)
async def test_every_limit_ends_in_a_fault_of_its_own_kind() -> None:
    counts = {"x": np.ones(1, np.float32), "n": np.array([2**27], np.int64)}
    short = msgspec.structs.replace(LIMITS, cpu_ms=200)
    async with open_unconfined() as sandbox:
        assert await fault_of(sandbox, b"garbage", ONE, LIMITS) == "model"
        leak = models.external_data("../../../../../../etc/passwd")
        assert await fault_of(sandbox, leak, bundle(), LIMITS) == "model"
        assert await fault_of(sandbox, ENDLESS, ONE, short) == "cpu"
        assert await fault_of(sandbox, models.blow_up(), bundle(**counts), LIMITS) == "memory"
        huge = bytes(LIMITS.memory_bytes + 1)
        assert await fault_of(sandbox, huge, ONE, LIMITS) == "memory"
        assert await fault_of(sandbox, models.doubling(), huge, LIMITS) == "memory"


@guarded()
async def test_a_unit_that_takes_too_long_on_this_machine_hits_the_wall() -> None:
    config = SandboxConfig(wall_factor=1, wall_grace_ms=1, max_wall_ms=150)
    async with open_unconfined(config) as sandbox:
        assert await fault_of(sandbox, ENDLESS, ONE, LIMITS) == "wall"


@guarded()
async def test_a_wrong_input_and_a_large_output_leave_the_child_alive() -> None:
    tight = msgspec.structs.replace(LIMITS, output_bytes=100)
    async with open_unconfined() as sandbox:
        job = await sandbox.load(models.doubling(), tight)
        for inputs, kind in (
            (bundle(z=np.ones(1, np.float32)), "input"),
            (b"\xff", "input"),
            (bundle(x=np.ones(1000, np.float32)), "output"),
        ):
            with pytest.raises(ExecutionFault) as caught:
                await job.execute(inputs)
            assert caught.value.kind == kind
        assert (await job.execute(ONE)).outputs == bundle(y=np.full(1, 2, np.float32))


@guarded()
async def test_a_killed_unit_says_so_and_a_cancelled_one_takes_its_child_along() -> None:
    async with open_unconfined() as sandbox:
        job = await sandbox.load(ENDLESS, LIMITS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_when_busy, job)
            with pytest.raises(ExecutionFault) as caught:
                await job.execute(ONE)
        assert caught.value.kind == "killed"
        with pytest.raises(ExecutionFault, match="ended already"):
            await job.execute(ONE)
        job.kill()

        job = await sandbox.load(ENDLESS, LIMITS)
        with trio.move_on_after(0.1):
            await job.execute(ONE)
        await until(lambda: sandbox.children == 0)
        assert children() == []


async def _kill_when_busy(job: unconfined.UnconfinedJob) -> None:
    (child,) = children()
    used = child.cpu_times().user
    await until(lambda: child.cpu_times().user > used)
    job.kill()


@guarded()
async def test_a_frozen_child_stands_still_and_so_does_its_wall_limit() -> None:
    async with open_unconfined() as sandbox:
        job = await sandbox.load(models.counting_loop(200_000), LIMITS)
        (child,) = children()
        wall_ms: list[int] = []

        async def run() -> None:
            wall_ms.append((await job.execute(ONE)).wall_ms)

        job.freeze()
        await until(lambda: child.status() == psutil.STATUS_STOPPED)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            before = child.cpu_times().user
            await trio.sleep(0.3)
            assert child.cpu_times().user == before
            job.thaw()
        took_ms = (trio.current_time() - started) * 1000
        assert 0 <= wall_ms[0] <= took_ms - 250


@guarded()
async def test_a_child_that_is_killed_idle_is_collected_at_once() -> None:
    async with open_unconfined() as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        (child,) = children()
        child.kill()
        await until(lambda: sandbox.children == 0)
        with pytest.raises(ExecutionFault):
            await job.execute(ONE)
        assert children() == []


NODE = """
import sys, trio
from p2pfleet.adapters.sandbox.unconfined import open_unconfined
from p2pfleet.core.model.job import Limits
model, inputs = (open(path, "rb").read() for path in sys.argv[1:])
async def main():
    async with open_unconfined() as sandbox:
        job = await sandbox.load(model, Limits(2**28, 60_000, 2**20))
        print("loaded", flush=True)
        await job.execute(inputs)
trio.run(main)
"""


@guarded(30)
async def test_no_child_outlives_a_node_that_is_killed_in_the_middle_of_a_unit(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").write_bytes(ENDLESS)
    (tmp_path / "inputs").write_bytes(ONE)
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", NODE, str(tmp_path / "model"), str(tmp_path / "inputs")],
        stdout=subprocess.PIPE,
    ) as node:
        try:
            assert node.stdout is not None
            assert await trio.to_thread.run_sync(node.stdout.readline) == b"loaded\n"
            (child,) = psutil.Process(node.pid).children()
            used = child.cpu_times().user
            await until(lambda: child.cpu_times().user > used + 0.05)
        finally:
            os.kill(node.pid, signal.SIGKILL)
    with trio.fail_after(2):
        await until(lambda: ended(child))


LIARS = {
    "a message too long": "say(b'', length=2**31)",
    "no reply": "say(b'\\x93\\x01\\x02')",
    "ready twice": "ok(); take(); say(pack(['ready', 1, [], []]))",
    "another number": "ok(); take(); say(pack(['done', 7, b'', 0]))",
    "too large an output": "ok(); take(); say(pack(['done', 1, 2**40, 0]))",
    "no bundle": "ok(); take(); say(pack(['done', 1, b'junk', 0]))",
    "silence": "take(); sys.exit(3)",
    "half an output": "ok(); take(); say(pack(['done', 1, 70000, 0]) + b'x' * 10)",
}
LIAR = """
import os, sys
sys.path += sys.argv[1:]
import msgpack
pack = msgpack.packb
def read(n):
    return sys.stdin.buffer.read(n)
def take():
    *_, size = msgpack.unpackb(read(int.from_bytes(read(4), "big")))
    return read(size)
def say(data, length=None):
    os.write(1, (len(data) if length is None else length).to_bytes(4, "big") + data)
def ok():
    take(); say(pack(["ready", 0, [], []]))
"""


@pytest.mark.parametrize("lie", LIARS)
def test_a_child_that_breaks_the_rules_is_ended(
    lie: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "alone.py"
    script.write_text(LIAR + LIARS[lie] + "\n")

    @guarded()
    async def meet() -> None:
        async with open_unconfined() as sandbox:
            monkeypatch.setattr(alone, "__file__", str(script))
            assert await fault_of(sandbox, models.doubling(), bundle(), LIMITS) == "crash"

    meet()


def test_a_machine_that_cannot_run_onnxruntime_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "alone.py"
    script.write_text("raise ImportError('no such library')\n")
    monkeypatch.setattr(alone, "__file__", str(script))

    @guarded()
    async def meet() -> None:
        async with open_unconfined():
            raise AssertionError("it opened")

    with pytest.raises(P2pfleetError, match="no such library"):
        meet()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(P2pfleetError, match="does not run"):
        meet()
