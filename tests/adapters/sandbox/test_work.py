"""How much work a unit is: counted by hand, counted by ONNX's own tests, counted in a child."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.backend.test.case.node import collect_testcases

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.sandbox.inside.admission import admit
from p2pfleet.adapters.sandbox.inside.admission.onnx_graph import Reader
from p2pfleet.adapters.sandbox.inside.admission.protobuf import Wire
from p2pfleet.adapters.sandbox.inside.shape_guess import guess_of
from p2pfleet.adapters.sandbox.inside.work import MAX_WORK, count, counted_graph
from p2pfleet.adapters.sandbox.unconfined import open_unconfined
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault, SandboxJob
from tests.hostile.building import BOOL, FLOAT, INT64, branch, function, graph, model, node, value

from . import models
from .guarded import guarded
from .models import bundle

LIMITS = Limits(memory_bytes=2**28, cpu_ms=20_000, output_bytes=2**20)
CONFIG = SandboxConfig(idle=False, nice=0)
DIGITS = Path(__file__).parents[3] / "testnet" / "jobs" / "digits" / "digits.onnx"
X, Y = ["x"], ["y"]


def weights(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def counted(
    nodes: list[onnx.NodeProto],
    x: tuple[int, ...],
    constants: dict[str, Any] | None = None,
    **options: Any,
) -> int:
    """The work of a model that takes x of this shape and any number of axes."""
    options.setdefault("inputs", [value("x", FLOAT, None)])
    options.setdefault("outputs", [value("y", FLOAT, None)])
    data = model(nodes, constants, **options)
    admit(data, contrib_ops=False)
    return count(data, {"x": x})


# ---- by hand ---------------------------------------------------------------------------------


def test_a_product_is_two_operations_for_each_multiply_add() -> None:
    w = {"w": weights(5, 7)}
    assert counted([node("MatMul", ["x", "w"], Y)], (3, 5), w) == 2 * 3 * 5 * 7
    assert counted([node("MatMul", ["x", "w"], Y)], (4, 2, 3, 5), w) == 2 * 4 * 2 * 3 * 5 * 7
    assert counted([node("MatMul", ["x", "w"], Y)], (5,), w) == 2 * 5 * 7
    assert counted([node("Gemm", ["x", "w"], Y, transA=1)], (5, 3), w) == 2 * 3 * 5 * 7
    assert counted([node("Gemm", ["x", "w"], Y, transB=1)], (3, 7), w) == 2 * 3 * 7 * 5
    assert counted([node("Einsum", ["x", "w"], Y, equation="bij,jk->bik")], (2, 3, 5), w) == (
        2 * 2 * 3 * 5 * 7
    )


def test_a_convolution_counts_its_window_at_every_place() -> None:
    conv = {"w": weights(8, 3, 3, 3)}
    # 10x10 without padding: 8x8 places, 8 channels out, 3 in, 9 of the window.
    assert counted([node("Conv", ["x", "w"], Y)], (2, 3, 10, 10), conv) == 2 * 2 * 8 * 64 * 3 * 9
    padded = node("Conv", ["x", "w"], Y, pads=[1, 1, 1, 1], strides=[2, 2])
    assert counted([padded], (1, 3, 10, 10), conv) == 2 * 8 * 25 * 3 * 9
    same = node("Conv", ["x", "w"], Y, auto_pad="SAME_UPPER")
    assert counted([same], (1, 3, 10, 10), conv) == 2 * 8 * 100 * 3 * 9
    # Depthwise: each channel sees itself only.
    deep = node("Conv", ["x", "w"], Y, group=4)
    assert counted([deep], (1, 4, 5, 5), {"w": weights(4, 1, 3, 3)}) == 2 * 4 * 9 * 9
    # Transposed: every pixel in, 3 channels to 2, a window of 4.
    back = node("ConvTranspose", ["x", "w"], Y, strides=[2, 2])
    assert counted([back], (1, 3, 5, 5), {"w": weights(3, 2, 2, 2)}) == 2 * 3 * 25 * 2 * 4


def test_a_recurrent_cell_counts_its_weights_at_every_step() -> None:
    cell = node("LSTM", ["x", "w", "r"], Y, hidden_size=6)
    constants = {"w": weights(1, 24, 5), "r": weights(1, 24, 6)}
    assert counted([cell], (9, 2, 5), constants) == 2 * 9 * 2 * 24 * (5 + 6)
    both = node("GRU", ["x", "w", "r"], Y, hidden_size=6, direction="bidirectional")
    constants = {"w": weights(2, 18, 5), "r": weights(2, 18, 6)}
    assert counted([both], (9, 2, 5), constants) == 2 * 9 * 2 * 2 * 18 * (5 + 6)


def test_all_else_counts_its_output_a_reduction_its_input_and_a_view_nothing() -> None:
    assert counted([node("Relu", X, Y)], (3, 4)) == 12
    assert counted([node("Add", ["x", "w"], Y)], (3, 1), {"w": weights(1, 5)}) == 15
    assert counted([node("ReduceSum", X, Y, keepdims=0)], (3, 4)) == 12
    assert counted([node("GlobalAveragePool", X, Y)], (1, 3, 8, 8)) == 192
    assert counted([node("MaxPool", X, Y, kernel_shape=[2, 2], strides=[2, 2])], (1, 1, 8, 8)) == 64
    assert counted([node("NonZero", X, Y)], (3, 4)) == 12, "as large as what it looks through"
    flat = [node("Flatten", X, ["f"]), node("Identity", ["f"], Y)]
    assert counted(flat, (3, 4)) == 1, "never nothing"
    assert counted([node("Relu", X, Y)], (0,)) == 1


def test_shapes_are_followed_through_what_computes_shapes() -> None:
    """x[b, 4, 6] -> [b * 4, 6], the way exporters write it, then times [6, 5]."""
    nodes = [
        node("Shape", X, ["s"]),
        node("Gather", ["s", "first"], ["b"]),
        node("Mul", ["b", "four"], ["rows"]),
        node("Concat", ["rows", "rest"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["r"]),
        node("MatMul", ["r", "w"], Y),
    ]
    constants = {
        "first": np.array([0]), "four": np.array([4]), "rest": np.array([-1]), "w": weights(6, 5),
    }  # fmt: skip
    small = 1 + 1 + 2  # Gather, Mul, Concat; Shape and Reshape are free
    assert counted(nodes, (3, 4, 6), constants) == 2 * 12 * 6 * 5 + small


def test_bodies_count_once_branches_by_the_dearer_functions_at_every_call() -> None:
    body = graph(
        [
            node("Identity", ["go"], ["go2"]),
            node("Relu", ["v"], ["v2"]),
            node("Neg", ["v"], ["kept"]),
        ],
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, None)],
        [value("go2", BOOL, []), value("v2", FLOAT, None), value("kept", FLOAT, None)],
    )
    loop = [node("Loop", ["n", "", "x"], ["last", "all"], body=body), node("Neg", ["last"], Y)]
    assert counted(loop, (3, 4), {"n": np.array(1000)}) == 12 + 12 + 12

    dear = branch([node("MatMul", ["x", "w"], ["o"])])
    cheap = branch([node("Relu", ["x"], ["o"])])
    choice = node("If", ["c"], Y, then_branch=cheap, else_branch=dear)
    data = model(
        [choice],
        {"w": weights(4, 4)},
        inputs=[value("x", FLOAT, ["n", 4]), value("c", BOOL, [])],
    )
    assert count(data, {"x": (3, 4), "c": ()}) == 2 * 3 * 4 * 4

    twice = function("Twice", [node("Add", ["a", "a"], ["o"])])
    calls = [
        node("Twice", ["x"], ["h"], domain="local"),
        node("Twice", ["h"], Y, domain="local"),
    ]
    assert counted(calls, (7,), functions=[twice], imports={"local": 1}) == 14


def test_an_attribute_of_a_function_is_what_its_caller_says() -> None:
    inner = helper.make_node("Gemm", ["a", "b"], ["o"])
    inner.attribute.add(name="transA", ref_attr_name="turned", type=onnx.AttributeProto.INT)
    made = helper.make_function(
        "local", "Product", ["a", "b"], ["o"], [inner], [helper.make_opsetid("", 17)], ["turned"]
    )
    call = node("Product", ["x", "w"], Y, domain="local", turned=1)
    found = counted([call], (5, 3), {"w": weights(5, 7)}, functions=[made], imports={"local": 1})
    assert found == 2 * 3 * 5 * 7


def test_what_is_not_said_has_free_axes_of_one() -> None:
    data = model([node("Relu", X, Y)], inputs=[value("x", FLOAT, ["n", 8])])
    assert count(data, {}) == 8
    assert count(data, {"x": (5, 8)}) == 40


def test_the_count_is_bounded_whatever_the_model_says() -> None:
    grow = []
    for i in range(200):
        grow.append(node("Concat", [f"v{i}"] * 64, [f"v{i + 1}"], axis=0))
    grow.append(node("MatMul", ["v200", "v200"], Y))
    data = model(grow, inputs=[value("v0", FLOAT, ["n", "m"])])
    assert 1 <= count(data, {"v0": (2**20, 2**20)}) == MAX_WORK
    wide = model([node("Expand", ["x", "s"], Y)], {"s": np.array([2**62] * 3)}, inputs=[value("x")])
    assert count(wide, {"x": (1,)}) == 3, "no possible shape: as large as the largest input"
    odd = model(
        [
            node("Reshape", ["x", "s"], ["r"]), node("Split", ["r"], ["a", "b"], axis=99),
            node("Transpose", ["a"], ["t"], perm=[5, -9]), node("Div", ["s", "z"], ["d"]),
            node("Slice", ["t", "d", "s"], ["u"]), node("Conv", ["u", "x"], ["w"], strides=[1]),
            node("Einsum", ["w", "x"], Y, equation="ab..,->->"),
        ],
        {"s": np.array([0, -1, -1]), "z": np.array([0, 0, 0])},
    )  # fmt: skip
    assert count(odd, {"x": (3,)}) >= 1


# ---- by ONNX's own tests ---------------------------------------------------------------------

# Operators whose shapes are left to the rule for all others, which is wrong for them: signals,
# losses, trees, text, images, and what is new. Nobody is hurt: their outputs are seldom large.
UNTOLD = {
    "AffineGrid", "ArrayFeatureExtractor", "Attention", "BlackmanWindow", "CausalConvWithState",
    "CenterCropPad", "Col2Im", "DFT", "DeformConv", "Det", "FlexAttention", "GridSample",
    "HammingWindow", "HannWindow", "ImageDecoder", "LinearAttention", "LabelEncoder", "MaxUnpool",
    "MelWeightMatrix", "NegativeLogLikelihoodLoss", "OptionalHasElement", "STFT",
    "SoftmaxCrossEntropyLoss", "StringNormalizer", "StringSplit", "TfIdfVectorizer",
    "TreeEnsemble",
    # Training; a loop's rounds are not counted; floats of eight bits look like none to NumPy.
    "Adagrad", "Adam", "Momentum", "Loop", "Scan", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip


def test_shapes_are_what_the_tests_of_onnx_say() -> None:
    right: Counter[str] = Counter()
    wrong: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some make not-a-numbers on purpose
        cases = collect_testcases(None)
    for case in cases:
        if case.model is None or case.name.endswith("_expanded") or not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        names = [given.name for given in case.model.graph.input]
        if any(isinstance(given, list | None) for given in inputs):
            continue
        wire = Wire(case.model.SerializeToString())
        shapes = {
            name.encode(): guess_of(np.asarray(given).shape)
            for name, given in zip(names, inputs, strict=False)
        }
        _, guesses = counted_graph(wire, Reader(wire).model(), shapes)
        ops = {one.op_type for one in case.model.graph.node}
        for guess, output in zip(guesses, outputs, strict=True):
            if guess.dims is None or not isinstance(output, np.ndarray | np.generic):
                continue
            expected = np.asarray(output)
            same = guess.dims == expected.shape
            if same and guess.numbers is not None:
                same = np.allclose(np.array(guess.numbers), expected.reshape(-1).astype(float))
            if same:
                right.update(ops)
            elif not ops & UNTOLD:
                wrong[case.name] = (guess, expected.shape)

    assert wrong == {}
    assert sum(right.values()) > 900
    assert len(right) > 130


# ---- in a child ------------------------------------------------------------------------------


async def check_a_child(job: SandboxJob) -> None:
    x = np.ones((3, 16), np.float32)
    assert await job.count(bundle(x=x)) == 2 * 3 * 16 * 16 + 3 * 16
    assert await job.count(bundle(x=x[:1])) == 2 * 16 * 16 + 16
    for _ in range(2):
        assert (await job.execute(bundle(x=x))).outputs
    job.kill()


@guarded(60)
async def test_a_child_counts_before_its_first_unit() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        await check_a_child(await sandbox.load(models.matmul(16), LIMITS))
    async with open_unconfined(CONFIG) as executor:
        await check_a_child(await executor.load(models.matmul(16), LIMITS))


@guarded()
async def test_who_asks_for_a_count_too_late_is_at_fault() -> None:
    async with open_sandbox(CONFIG) as sandbox:
        job = await sandbox.load(models.matmul(16), LIMITS)
        given = bundle(x=np.ones((1, 16), np.float32))
        await job.execute(given)
        with pytest.raises(AssertionError, match="forgotten"):
            await job.count(given)
        job.kill()
        other = await sandbox.load(models.matmul(16), LIMITS)
        other.kill()
        with pytest.raises(ExecutionFault, match="ended already"):
            await other.count(given)


def test_the_count_of_the_digits_is_known() -> None:
    """The demo's model on a unit of 50 images, layer by layer: a fixed point for others."""
    one = (
        64  # Cast
        + 2 * 32 * 64 * 9 + 3 * 32 * 64  # Conv; Mul, Floor, Clip
        + 2 * 64 * 64 * 32 * 9 + 3 * 64 * 64 + 64 * 16 * 4  # and MaxPool
        + 2 * 64 * 16 * 64 * 9 + 3 * 64 * 16 + 64 * 4 * 4
        + 2 * 256 * 10 + 10  # Gemm, ArgMax
    )  # fmt: skip
    assert one == 3_607_626
    assert count(DIGITS.read_bytes(), {"image": (50, 1, 8, 8)}) == 50 * one
