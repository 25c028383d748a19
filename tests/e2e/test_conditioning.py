"""A job whose answer hangs on the last digits is warned of at submit, or refused."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from onnx import TensorProto, helper

from p2pfleet import conditioning, trial
from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.store import FilePacks
from p2pfleet.conditioning import (
    HALF_STEP,
    LONG_UNIT_MS,
    STEP,
    Conditioning,
    compare,
    examine,
    perturb,
)
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import Execution, ExecutionFault, ModelSignature
from p2pfleet.publishing import Draft, SubmitRequest, prepare
from tests.adapters.sandbox import models
from tests.adapters.sandbox.models import arrays, bundle
from tests.e2e.local import document, p2pfleet, publisher

# At normal priority: a busy machine must not make it slow.
CONFIG = SandboxConfig(idle=False, nice=0)
LIMITS = Limits(memory_bytes=2**28, cpu_ms=10_000, output_bytes=2**20)
F32 = np.float32


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test of an async one; it fails after a minute."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                await test(**fixtures)

        trio.run(main)

    return run


class Child:
    """A child whose answers are given: bundles, or the kinds of faults."""

    signature = ModelSignature((), ())

    def __init__(self, *answers: bytes | str, wall_ms: int = 1) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self._wall_ms = wall_ms

    async def load(self) -> None:
        raise AssertionError

    async def count(self, inputs: bytes) -> int:
        raise AssertionError

    async def execute(self, inputs: bytes) -> Execution:
        await trio.lowlevel.checkpoint()
        self.asked.append(inputs)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise ExecutionFault(answer, f"it is {answer}")
        return Execution(answer, 1, self._wall_ms)

    def freeze(self) -> None:
        raise AssertionError

    thaw = kill = freeze


# ---- the step --------------------------------------------------------------------------------


def test_every_element_of_the_largest_floating_input_moves_and_nothing_else_does() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 50)).astype(F32)
    x[3] = 0
    small, index = np.ones(9, np.float64), np.arange(10_000)
    perturbed = perturb(bundle(index=index, small=small, x=x))

    assert perturbed is not None
    name, step, moved = perturbed
    found = arrays(moved)
    assert (name, step) == ("x", STEP)
    np.testing.assert_array_equal(found["index"], index)
    np.testing.assert_array_equal(found["small"], small)
    assert not found["x"][3].any(), "zeros stay zero"
    change = (found["x"][x != 0].astype(float) - x[x != 0]) / x[x != 0]
    assert (np.abs(np.abs(change) - STEP) < 0.2 * STEP).all()
    assert abs(np.sign(change).mean()) < 0.1, "as many up as down"
    assert perturb(bundle(index=index, small=small, x=x)) == perturbed, "the same each time"


def test_half_precision_moves_to_the_next_number() -> None:
    x = np.array([1, -3, 0, 65504, -65504, 6e-8, np.inf, np.nan], np.float16)
    perturbed = perturb(bundle(x=x))

    assert perturbed is not None
    moved = arrays(perturbed[2])["x"]
    assert perturbed[1] == HALF_STEP
    assert moved[2] == 0
    assert np.isfinite(moved[:6]).all()
    assert (moved[:2] != x[:2]).all()
    ulps = np.abs(moved[:2].view(np.int16) - x[:2].view(np.int16))
    assert ulps.tolist() == [1, 1]
    np.testing.assert_array_equal(moved[6:], x[6:])


def test_the_largest_numbers_infinities_and_nans_stay_finite_or_what_they_are() -> None:
    top = np.finfo(F32).max
    x = np.array([top, -top, np.inf, -np.inf, np.nan, 1e-45] * 8, F32)
    perturbed = perturb(bundle(x=x))

    assert perturbed is not None
    moved = arrays(perturbed[2])["x"]
    np.testing.assert_array_equal(np.isfinite(moved), np.isfinite(x))
    np.testing.assert_array_equal(moved[2::6], x[2::6])
    assert (moved != x)[~np.isnan(x)].any()


def test_without_a_floating_value_there_is_nothing_to_move() -> None:
    assert perturb(bundle()) is None
    assert perturb(bundle(i=np.arange(5), b=np.array([True]))) is None
    assert perturb(bundle(x=np.zeros((3, 4), F32), e=np.ones((0, 4), F32))) is None
    second = perturb(bundle(x=np.zeros((3, 4), F32), y=np.ones(2, F32)))
    assert second is not None
    assert second[0] == "y", "the largest that can be moved"


# ---- the comparison --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "steady"),
    [
        (F32([1, 100]), F32([1.009, 100]), True),
        (F32([1, 100]), F32([1.011, 100]), False),
        (F32([0, 0]), F32([9e-6, 0]), True),
        (F32([0, 0]), F32([2e-5, 0]), False),
        (np.float64([1e300]), np.float64([1.00001e300]), True),
        (np.float64([1.7e308]), np.float64([-1.7e308]), False),
        (np.float16([1, 100]), np.float16([1.19, 100]), True),
        (np.float16([1, 100]), np.float16([1.25, 100]), False),
        (np.int8([1, 2]), np.int8([1, 2]), True),
        (np.int64([1, 2]), np.int64([1, 3]), False),
        (np.array([True]), np.array([False]), False),
        (F32([np.nan, 1]), F32([np.nan, 1.00001]), True),
        (F32([np.nan, 1]), F32([1, 1]), False),
        (F32([1, 1]), F32([np.nan, 1]), False),
        (F32([np.inf, 1]), F32([np.inf, 1.00001]), True),
        (F32([np.inf, 1]), F32([-np.inf, 1]), False),
        (F32([np.inf, np.nan]), F32([np.inf, -np.float32(np.nan)]), True),
        (F32([1, 2]), F32([1, 2, 3]), False),
        (F32([[1, 2]]), F32([1, 2]), False),
        (np.zeros(0, F32), np.zeros(0, F32), True),
        (F32(1), F32(1.00005), True),
        (F32(1), F32(1.5), False),
    ],
)
def test_outputs_are_compared_by_the_rule(before: Any, after: Any, steady: bool) -> None:
    (verdict,) = compare(bundle(y=before), bundle(y=after))
    assert verdict.steady is steady
    assert verdict.name == "y"
    assert bool(verdict.detail) is not steady


def test_the_step_of_half_precision_allows_a_hundred_times_itself() -> None:
    (verdict,) = compare(bundle(y=F32([1])), bundle(y=F32([1.09])), HALF_STEP)
    assert verdict.steady
    (verdict,) = compare(bundle(y=F32([1])), bundle(y=F32([1.11])), HALF_STEP)
    assert not verdict.steady


# ---- one unit --------------------------------------------------------------------------------

ONE = bundle(x=np.ones(3, F32))


@guarded
async def test_a_unit_that_differs_from_itself_is_not_deterministic() -> None:
    child = Child(bundle(y=F32([1]), z=F32([1])), bundle(y=F32([1]), z=F32([1.0000001])))
    found = await examine(child, ONE)
    assert found.verdict == "not deterministic"
    assert "'z'" in found.sentence
    assert child.asked == [ONE, ONE]


@guarded
async def test_a_unit_that_fails_only_when_moved_is_ill_conditioned() -> None:
    found = await examine(Child(ONE, ONE, "model"), ONE)
    assert found.verdict == "ill-conditioned"
    assert "it is model" in found.sentence


@guarded
async def test_a_unit_that_cannot_be_run_says_so_and_a_slow_machine_proves_nothing() -> None:
    for answers in (["cpu"], [ONE, "crash"], [ONE, ONE, "wall"], [ONE, ONE, "killed"]):
        with pytest.raises(ExecutionFault):
            await examine(Child(*answers), ONE)


@guarded
async def test_a_long_unit_is_run_once() -> None:
    found = await examine(Child(ONE, wall_ms=LONG_UNIT_MS + 1), ONE)
    assert found.verdict == "too long"
    assert "was not tested" in found.sentence
    found = await examine(Child(ONE, ONE, ONE, wall_ms=LONG_UNIT_MS), ONE)
    assert found.verdict == "steady"


def logistic(steps: int, dtype: int = TensorProto.FLOAT) -> bytes:
    """x <- 3.9 x (1 - x), so many times: chaotic."""
    nodes = []
    for i in range(steps):
        nodes.append(helper.make_node("Mul", [f"v{i}", f"v{i}"], [f"s{i}"]))
        nodes.append(helper.make_node("Sub", [f"v{i}", f"s{i}"], [f"d{i}"]))
        nodes.append(helper.make_node("Mul", [f"d{i}", "r"], [f"v{i + 1}"]))
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    return models.model(
        nodes,
        [("v0", dtype, ["n"])],
        [(f"v{steps}", dtype, ["n"])],
        {"r": np.array(3.9, kind)},
    )


def one_node(op: str, dtype: int = TensorProto.FLOAT, **attributes: Any) -> bytes:
    return models.model(
        [helper.make_node(op, ["x"], ["y"], **attributes)],
        [("x", TensorProto.FLOAT, ["n", 8])],
        [("y", dtype, None)],
    )


RNG = np.random.default_rng(8)
JOBS: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "a classifier": (models.matmul(16), {"x": RNG.standard_normal((4, 16)).astype(F32)}, "steady"),
    "a winner by a clear lead": (
        one_node("ArgMax", TensorProto.INT64, axis=1), {"x": np.eye(8, dtype=F32)}, "steady",
    ),
    "a winner among equals": (
        one_node("ArgMax", TensorProto.INT64, axis=1), {"x": np.ones((4, 8), F32)},
        "ill-conditioned",
    ),
    "a rounding right at its edge": (
        one_node("Round"), {"x": np.full((2, 8), 2.5, F32)}, "ill-conditioned",
    ),
    "as many outputs as are positive": (
        models.model(
            [
                helper.make_node("Greater", ["x", "half"], ["b"]),
                helper.make_node("NonZero", ["b"], ["y"]),
            ],
            [("x", TensorProto.FLOAT, ["n"])], [("y", TensorProto.INT64, [1, "m"])],
            {"half": F32(0.5)},
        ),
        {"x": np.full(16, 0.5, F32)}, "ill-conditioned",
    ),
    "three steps of chaos": (logistic(3), {"v0": np.linspace(0.1, 0.9, 9, dtype=F32)}, "steady"),
    "forty steps of chaos": (
        logistic(40), {"v0": np.linspace(0.1, 0.9, 9, dtype=F32)}, "ill-conditioned",
    ),
    "chaos in half precision": (
        logistic(40, TensorProto.FLOAT16), {"v0": np.linspace(0.1, 0.9, 9).astype(np.float16)},
        "ill-conditioned",
    ),
    "half precision": (
        models.doubling("float16"), {"x": np.linspace(-5, 5, 99).astype(np.float16)}, "steady",
    ),
    "whole numbers": (models.doubling("int32"), {"x": np.arange(5, dtype=np.int32)}, "untested"),
    "nothing but zeros": (models.doubling(), {"x": np.zeros(5, F32)}, "untested"),
}  # fmt: skip


@guarded
async def test_real_units_are_told_apart() -> None:
    found: dict[str, Conditioning] = {}
    async with open_sandbox(CONFIG) as sandbox:
        for name, (model, given, _) in JOBS.items():
            child = await sandbox.load(model, LIMITS)
            found[name] = await examine(child, bundle(**given))
            child.kill()

    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {name: expected for name, (_, _, expected) in JOBS.items()}
    assert "shape changes" in found["as many outputs as are positive"].sentence
    assert "elements change" in found["a winner among equals"].sentence


# ---- at submit -------------------------------------------------------------------------------


async def prepared(folder: Path, model: bytes, given: dict[str, Any], **terms: Any) -> Draft:
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "first.npz", **given)
    request = SubmitRequest(
        str(folder / "model.onnx"), (str(folder / "first.npz"),), "job", **terms
    )
    async with open_sandbox(CONFIG) as sandbox:
        packs = FilePacks(folder / "packs", 2**30, 0)
        draft = await prepare(
            request,
            packs=packs,
            sandbox=sandbox,
            network=NetworkId(bytes(32)),
            publisher=PeerId(bytes(32)),
            wall_ms=1_800_000_000_000,
            pin=lambda _: None,
        )
        with trio.fail_after(10):
            while sandbox.children:  # noqa: ASYNC110
                await trio.sleep(0.01)
    return draft


CHAOS = JOBS["forty steps of chaos"]


@guarded
async def test_an_ill_conditioned_job_is_published_with_a_warning(tmp_path: Path) -> None:
    draft = await prepared(tmp_path, *CHAOS[:2])
    (warning,) = draft.warnings
    assert "first unit (first)" in warning
    assert "'v40'" in warning
    assert "may not agree" in warning
    assert draft.manifest.units == 1


@guarded
async def test_strict_refuses_it_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(P2pfleetError) as caught:
        await prepared(tmp_path, *CHAOS[:2], strict=True)
    assert "not published" in caught.value.message
    assert "coarser" in caught.value.advice
    assert "--tolerance" in caught.value.advice
    draft = await prepared(tmp_path, *JOBS["a classifier"][:2], strict=True)
    assert draft.warnings == ()
    (note,) = draft.notes
    assert "last digits of 'y'" in note, "bytes will not be equal on every machine"
    assert "--tolerance" in note
    draft = await prepared(tmp_path, *JOBS["a classifier"][:2], strict=True, tolerance=True)
    assert draft.warnings == draft.notes == ()
    draft = await prepared(tmp_path, *JOBS["a winner by a clear lead"][:2], strict=True)
    assert draft.warnings == draft.notes == ()


@guarded
async def test_a_tolerance_is_no_advice_where_it_is_set_or_sets_nothing(tmp_path: Path) -> None:
    for job, terms in ((CHAOS, {"tolerance": True}), (JOBS["a winner among equals"], {})):
        draft = await prepared(tmp_path, *job[:2], **terms)
        (warning,) = draft.warnings
        assert "--tolerance" not in warning


@guarded
async def test_what_was_not_tested_or_took_long_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "LONG_TRIAL_S", 0)
    draft = await prepared(tmp_path, *JOBS["whole numbers"][:2])
    assert draft.warnings == ()
    untested, slow = draft.notes
    assert "no floating input" in untested
    assert "took" in slow

    monkeypatch.setattr(conditioning, "LONG_UNIT_MS", -1)
    draft = await prepared(tmp_path, *CHAOS[:2])
    assert draft.warnings == ()
    assert "was not tested" in draft.notes[0]
    with pytest.raises(P2pfleetError) as caught:
        await prepared(tmp_path, *CHAOS[:2], strict=True)
    assert "was not tested" in caught.value.message
    assert "--split" in caught.value.advice


@guarded
async def test_a_model_that_volunteers_would_refuse_is_refused_by_node_and_rule(
    tmp_path: Path,
) -> None:
    random = models.model(
        [
            helper.make_node("RandomUniformLike", ["x"], ["r"], name="dice"),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
    )
    with pytest.raises(P2pfleetError) as caught:
        await prepared(tmp_path, random, {"x": np.ones(1, F32)})
    for word in ("model.onnx cannot be used as a model: ", "dice", "RandomUniformLike", "rule"):
        assert word in caught.value.message
    assert "the child says" not in caught.value.message
    assert "Volunteers would refuse it" in caught.value.advice


@guarded
async def test_a_first_unit_that_cannot_be_run_is_heard_of_at_once(tmp_path: Path) -> None:
    endless = (models.counting_loop(2**37), {"x": np.ones(1, F32)})
    with pytest.raises(P2pfleetError) as caught:
        await prepared(tmp_path, *endless, cpu_s=0.2)
    assert "The first unit (first) cannot be run" in caught.value.message
    assert "--cpu-s" in caught.value.advice

    # A model that loads, but not with these inputs.
    out_of_range = models.model(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        [("x", TensorProto.INT64, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
        {"w": np.ones(3, F32)},
    )
    with pytest.raises(P2pfleetError) as caught:
        await prepared(tmp_path, out_of_range, {"x": np.array([7])})
    assert "cannot be run" in caught.value.message
    assert "correct the model or the input" in caught.value.advice


@pytest.mark.e2e
def test_the_warning_reaches_the_researcher_through_a_running_node(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(CHAOS[0])
    np.savez(tmp_path / "first.npz", **CHAOS[1])
    (tmp_path / "network.toml").write_text('name = "conditioning"\n')
    data_dir = tmp_path / "data"
    submit = ("submit", "model.onnx", "first.npz", "--data-dir", data_dir)
    with publisher(data_dir, tmp_path / "network.toml"):
        found = document(*submit, cwd=tmp_path)
        (warning,) = found["warnings"]
        assert "last digits" in warning

        refused = p2pfleet(*submit, "--strict", cwd=tmp_path)
        assert refused.returncode == 1
        assert "not published" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(document("job", "list", "--data-dir", data_dir)) == 1
