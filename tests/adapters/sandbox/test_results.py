"""What comes out of the sandbox is what onnxruntime computes, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.sandbox.inside.model import session_options
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ModelSignature, Sandbox, SandboxJob, TensorSpec

from . import models
from .guarded import guarded
from .models import NUMPY_TYPES, arrays, bundle

LIMITS = Limits(memory_bytes=512 * 2**20, cpu_ms=20_000, output_bytes=256 * 2**20)
CONFIG = SandboxConfig(idle=False)


def in_process(model: bytes, **inputs: Any) -> bytes:
    session = ort.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {name: np.asarray(value) for name, value in inputs.items()})
    return bundle(**dict(zip(names, outputs, strict=True)))


@guarded()
async def test_every_dtype_comes_back_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    inputs = {
        f"in_{name}": (
            rng.integers(0, 2, 1000).astype(bool)
            if name == "bool"
            else np.frombuffer(rng.bytes(1000 * np.dtype(name).itemsize), name)
        )
        for name in NUMPY_TYPES
    }
    model = models.identity_of_all_dtypes()
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(model, LIMITS)
        outputs = (await job.execute(bundle(**inputs))).outputs

    assert list(arrays(outputs)) == [f"out_{name}" for name in NUMPY_TYPES]
    for name in NUMPY_TYPES:
        assert arrays(outputs)[f"out_{name}"].tobytes() == inputs[f"in_{name}"].tobytes()


@guarded()
async def test_sums_are_those_of_the_same_session_in_process() -> None:
    x = np.random.default_rng(2).standard_normal(5000) * 50
    async with open_sandbox(CONFIG) as sandbox:
        for dtype in ("float16", "float32", "float64", "int32", "int64"):
            model = models.doubling(dtype)
            job = await sandbox.load(model, LIMITS)
            outputs = (await job.execute(bundle(x=x.astype(dtype)))).outputs
            assert outputs == in_process(model, x=x.astype(dtype))


@guarded()
async def test_products_and_softmax_are_those_of_the_same_session_in_process() -> None:
    model = models.matmul(64)
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(model, LIMITS)
        for rows in (0, 1, 7, 300):
            x = np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)
            assert (await job.execute(bundle(x=x))).outputs == in_process(model, x=x)


@guarded()
async def test_a_scalar_stays_a_scalar() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.scalar_sum(), LIMITS)
        outputs = arrays((await job.execute(bundle(x=np.arange(5, dtype=np.float32)))).outputs)
        scalar = await sandbox.load(models.doubling("float32", []), LIMITS)
        twice = arrays((await scalar.execute(bundle(x=np.float32(21)))).outputs)

    assert outputs["y"].shape == ()
    assert outputs["y"] == 10
    assert twice["y"].shape == ()
    assert twice["y"] == 42


@guarded()
async def test_the_signature_tells_names_dtypes_and_free_axes() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.matmul(16), LIMITS)

        assert job.signature == ModelSignature(
            inputs=(TensorSpec("x", "float32", (None, 16)),),
            outputs=(TensorSpec("y", "float32", (None, 16)),),
        )


@guarded(30)
async def test_a_thousand_units_run_on_one_child() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        for i in range(1000):
            x = np.full(i % 50, i, np.float32)
            execution = await job.execute(bundle(x=x))
            assert execution.outputs == bundle(y=x + x)
            assert 0 <= execution.cpu_ms <= execution.wall_ms


@guarded(40)
async def test_large_bundles_travel_through_the_arena_and_small_ones_beside_it() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.doubling("uint8"), LIMITS)
        for size in (64 * 1024 - 64, 3, 64 * 1024, 5 * 2**20, 3, 64 * 2**20, 5 * 2**20, 3):
            x = np.resize(np.arange(251, dtype=np.uint8), size)
            assert (await job.execute(bundle(x=x))).outputs == bundle(y=x + x)


@guarded()
async def test_a_model_of_32_mb_runs_within_a_memory_limit_of_256_mb() -> None:
    weights = np.random.default_rng(3).standard_normal((16, 2**19)).astype(np.float32)
    model = models.matmul(16, weights)
    x = np.ones((2, 16), np.float32)
    limits = Limits(memory_bytes=256 * 2**20, cpu_ms=20_000, output_bytes=16 * 2**20)
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(model, limits)

        assert (await job.execute(bundle(x=x))).outputs == in_process(model, x=x)


@guarded()
async def test_children_work_side_by_side_without_mixing_their_answers() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        jobs = [await sandbox.load(models.doubling(), LIMITS) for _ in range(4)]
        answers: dict[int, list[bytes]] = {i: [] for i in range(4)}

        async def work(number: int) -> None:
            for size in (10, 40_000, 10):
                x = np.full(size, number, np.float32)
                answers[number].append((await jobs[number].execute(bundle(x=x))).outputs)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(work, number)
        assert sandbox.children == 4

    assert answers == {
        number: [bundle(y=np.full(size, 2 * number, np.float32)) for size in (10, 40_000, 10)]
        for number in range(4)
    }


@guarded()
async def test_the_pool_and_its_jobs_are_the_ports() -> None:
    async with open_sandbox(CONFIG) as pool:
        sandbox: Sandbox = pool
        job: SandboxJob = await sandbox.load(models.doubling(), LIMITS)

        assert (await job.execute(bundle(x=np.ones(1, np.float32)))).outputs
