"""Each way a unit can fail has its own kind, and the node goes on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, open_sandbox
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from . import models
from .guarded import guarded
from .models import bundle

MB = 2**20
LIMITS = Limits(memory_bytes=256 * MB, cpu_ms=10_000, output_bytes=8 * MB)
CONFIG = SandboxConfig(idle=False)
ONE = bundle(x=np.ones(1, np.float32))


async def fault_of_loading(sandbox: SandboxPool, model: bytes) -> ExecutionFault:
    with pytest.raises(ExecutionFault) as caught:
        await sandbox.load(model, LIMITS)
    return caught.value


async def check_that_it_still_serves(sandbox: SandboxPool) -> None:
    job = await sandbox.load(models.doubling(), LIMITS)
    assert (await job.execute(ONE)).outputs == bundle(y=np.full(1, 2, np.float32))
    job.kill()
    assert sandbox.children == 0


@guarded()
async def test_what_is_no_model_is_refused_with_a_sentence() -> None:
    good = models.matmul()
    flipped = bytearray(good)
    flipped[len(flipped) // 2 :] = b"\xff" * (len(flipped) - len(flipped) // 2)
    async with open_sandbox(CONFIG) as sandbox:
        for model in (b"", b"garbage", bytes(1000), good[:-7], bytes(flipped), b"\x0a" * 30_000):
            fault = await fault_of_loading(sandbox, model)
            assert fault.kind == "model"
            assert len(fault.reason) > 20
            assert len(fault.reason) < 350
            assert fault.reason.isprintable()
            assert fault.reason.startswith("the child says: ")
        await check_that_it_still_serves(sandbox)


@guarded()
async def test_what_cannot_travel_is_the_models_fault() -> None:
    many = models.model(
        [helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(65)],
        [("x", 1, [1])],
        [(f"y{i}", 1, [1]) for i in range(65)],
    )
    long_name = models.model(
        [helper.make_node("Identity", ["x" * 300], ["y"])],
        [("x" * 300, 1, [1])],
        [("y", 1, [1])],
    )
    async with open_sandbox(CONFIG) as sandbox:
        for model, word in (
            (models.sequence_output(), "seq(tensor(float))"),
            (models.string_input(), "tensor(string)"),
            (many, "65 outputs"),
            (long_name, "too long"),
        ):
            fault = await fault_of_loading(sandbox, model)
            assert fault.kind == "model"
            assert word in fault.reason


WRONG_INPUTS: dict[str, tuple[bytes, str]] = {
    "name": (bundle(z=np.ones((1, 16), np.float32)), "tensor 'z' stands where"),
    "dtype": (bundle(x=np.ones((1, 16), np.float64)), "input 'x' is given as float64"),
    "rank": (bundle(x=np.ones(16, np.float32)), "input 'x' is given with shape [16]"),
    "axis": (bundle(x=np.ones((1, 15), np.float32)), "takes [any, 16]"),
    "too many": (bundle(x=np.ones((1, 16), np.float32), y=np.ones(1)), "holds 2 tensors"),
    "none": (bundle(), "holds 0 tensors where the model takes 1: 'x'"),
    "garbage": (b"\xc1\xff" * 50, "not a canonical bundle"),
    "empty": (b"", "not a canonical bundle"),
    "truncated": (bundle(x=np.ones((1, 16), np.float32))[:-1], "ends within"),
    "trailing": (bundle(x=np.ones((1, 16), np.float32)) + b"\0", "1 bytes follow"),
    "garbage in the arena": (b"\xff" * 100_000, "not a canonical bundle"),
}


@guarded()
async def test_a_wrong_input_is_named_and_the_child_lives_on() -> None:
    good = bundle(x=np.ones((1, 16), np.float32))
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.matmul(16), LIMITS)
        before = (await job.execute(good)).outputs
        for case, (wrong, sentence) in WRONG_INPUTS.items():
            with pytest.raises(ExecutionFault) as caught:
                await job.execute(wrong)
            assert (case, caught.value.kind) == (case, "input")
            assert sentence in caught.value.reason
            assert (await job.execute(good)).outputs == before


@guarded()
async def test_inputs_in_another_order_or_untrue_truth_values_are_refused() -> None:
    n, x = np.array([2], np.int64), np.ones(1, np.float32)
    untrue = bytearray(bundle(x=np.array([True, True])))
    untrue[-1] = 7
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.blow_up(), LIMITS)
        with pytest.raises(ExecutionFault, match=r"^input: .*'n' stands where .* 'x'"):
            await job.execute(bundle(n=n, x=x))
        job = await sandbox.load(
            models.model(
                [helper.make_node("Not", ["x"], ["y"])], [("x", 9, ["n"])], [("y", 9, ["n"])]
            ),
            LIMITS,
        )
        with pytest.raises(ExecutionFault, match=r"^input: .*truth value"):
            await job.execute(bytes(untrue))


@guarded()
async def test_an_endless_loop_is_ended_by_the_cpu_limit() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        limits = msgspec.structs.replace(LIMITS, cpu_ms=200)
        job = await sandbox.load(models.counting_loop(None), limits)
        with pytest.raises(ExecutionFault, match=r"^cpu: .* 200 ms"):
            await job.execute(ONE)
        with pytest.raises(ExecutionFault, match=r"^killed: .*ended already"):
            await job.execute(ONE)
        await check_that_it_still_serves(sandbox)


@guarded()
async def test_each_unit_has_the_whole_cpu_limit() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        limits = msgspec.structs.replace(LIMITS, cpu_ms=600)
        job = await sandbox.load(models.counting_loop(150_000), limits)
        used = 0
        while used <= 900:
            used += (await job.execute(ONE)).cpu_ms


@guarded()
async def test_an_endless_loop_is_ended_by_the_wall_limit_if_that_is_nearer() -> None:
    async with open_sandbox(SandboxConfig(idle=False, max_wall_ms=200)) as sandbox:
        job = await sandbox.load(models.counting_loop(None), LIMITS)
        with pytest.raises(ExecutionFault, match=r"^wall: .* 200 ms"):
            await job.execute(ONE)
        await check_that_it_still_serves(sandbox)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (SandboxConfig(idle=False, load_cpu_ms=200), "cpu"),
        (SandboxConfig(idle=False, load_wall_ms=200), "wall"),
    ],
)
@guarded()
async def test_a_model_that_takes_for_ever_to_load_is_given_up(
    config: SandboxConfig, kind: str
) -> None:
    async with open_sandbox(config) as sandbox:
        fault = await fault_of_loading(sandbox, models.slow_to_load())
        assert fault.kind == kind
        await check_that_it_still_serves(sandbox)


@pytest.mark.parametrize("kind", ["Expand", "Tile", "ConstantOfShape"])
@guarded()
async def test_a_memory_bomb_hits_the_memory_limit(kind: str) -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.blow_up(kind), LIMITS)
        with pytest.raises(ExecutionFault, match=r"^memory: "):
            await job.execute(bundle(x=np.ones(1, np.float32), n=np.array([2**29], np.int64)))
        await check_that_it_still_serves(sandbox)


@guarded()
async def test_the_owners_memory_cap_wins_over_a_generous_manifest() -> None:
    async with open_sandbox(SandboxConfig(idle=False, memory_bytes=64 * MB)) as sandbox:
        generous = Limits(memory_bytes=2**40, cpu_ms=10_000, output_bytes=2**32)
        job = await sandbox.load(models.blow_up(), generous)
        with pytest.raises(ExecutionFault, match=r"^memory: "):
            await job.execute(bundle(x=np.ones(1, np.float32), n=np.array([2**25], np.int64)))
        with pytest.raises(ExecutionFault, match=r"^memory: the model of \d+ bytes"):
            await sandbox.load(bytes(65 * MB), generous)
        job = await sandbox.load(models.doubling("uint8"), generous)
        with pytest.raises(ExecutionFault, match=r"^memory: the input of \d+ bytes"):
            await job.execute(bundle(x=np.zeros(65 * MB, np.uint8)))
        assert sandbox.children == 0


@guarded()
async def test_too_large_an_output_is_refused_and_the_child_lives_on() -> None:
    def unit(n: int) -> bytes:
        return bundle(x=np.ones(1, np.float32), n=np.array([n], np.int64))

    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.blow_up(), LIMITS)
        with pytest.raises(ExecutionFault, match=rf"^output: .* {8 * MB}"):
            await job.execute(unit(4 * MB))
        fits = (8 * MB - 40) // 4
        assert (await job.execute(unit(fits))).outputs == bundle(y=np.ones(fits, np.float32))


@guarded()
async def test_a_model_that_fails_on_its_inputs_is_to_blame_itself() -> None:
    gather = models.model(
        [helper.make_node("Gather", ["x", "i"], ["y"])],
        [("x", 1, [4]), ("i", 7, [1])],
        [("y", 1, [1])],
    )
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(gather, LIMITS)
        with pytest.raises(ExecutionFault, match=r"^model: .*out of data bounds"):
            await job.execute(bundle(x=np.ones(4, np.float32), i=np.array([99], np.int64)))
        assert sandbox.children == 0


@guarded()
async def test_a_model_that_crashes_onnxruntime_takes_only_its_child_along() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        server = sandbox.server_pid
        job = await sandbox.load(models.crashing(), LIMITS)
        with pytest.raises(ExecutionFault, match=r"^crash: the child was ended by SIGABRT"):
            await job.execute(bundle(x=np.ones((0, 1, 3), np.float32)))

        await check_that_it_still_serves(sandbox)
        assert sandbox.server_pid == server


@guarded()
async def test_files_of_this_machine_stay_unread(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"hunter2 hunter2!")
    locations = [
        "/etc/passwd", "../../etc/passwd", "../" * 30 + "etc/passwd", "etc/passwd",
        "./../etc/passwd", "/proc/self/environ", "/proc/self/mem", "/dev/zero", "boot.py",
        "secret", str(secret), "../" * 30 + str(secret)[1:],
    ]  # fmt: skip
    async with open_sandbox(CONFIG) as sandbox:
        for location in locations:
            fault = await fault_of_loading(sandbox, models.external_data(location))
            assert fault.kind == "model"
            assert "root:" not in fault.reason
            assert "hunter2" not in fault.reason
        await check_that_it_still_serves(sandbox)
