"""The probe suite of the numeric class: small ONNX models and what they are run on.

The suite is part of what a numeric class means: whoever changes a model, a value or their order
changes ``SUITE`` in ``numeric`` as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .onnx_writer import Array, Node, node, write_model
from .probe_values import bytes_of, extremes, floats


class Probe(NamedTuple):
    """One model and the inputs it is run on."""

    name: str
    model: bytes
    feeds: dict[str, Array]


def _probe(
    name: str,
    nodes: Sequence[Node],
    feeds: dict[str, Array],
    constants: Mapping[str, Array] | None = None,
    **dtypes: str,
) -> Probe:
    """Every value that no node takes is an output, of float32 unless ``dtypes`` says otherwise."""
    taken = {value for one in nodes for value in one.inputs}
    outputs = {
        value: dtypes.get(value, "float32")
        for one in nodes
        for value in one.outputs
        if value not in taken
    }
    return Probe(name, write_model(nodes, feeds, outputs, constants or {}), feeds)


def probes() -> Iterator[Probe]:
    """The suite, one model at a time; made when it is asked for, so that only one is in memory."""
    yield from _products()
    yield from _convolutions()
    yield from _element_wise()
    yield from _reductions()
    yield from _recurrent()
    yield from _narrow()
    yield from _integer()
    yield from _images()


def _products() -> Iterator[Probe]:
    # A row, full tiles, odd sizes that end in tail kernels, and more columns and terms than a block
    # of the usual kernels holds; once with weights that are packed at load, once at run time.
    for number, (m, k, n) in enumerate(
        [(1, 257, 65), (64, 64, 64), (7, 33, 17), (5, 1031, 37), (13, 130, 531)]
    ):
        yield _probe(
            f"matmul {m}x{k}x{n}",
            [node("MatMul", "a w", "packed"), node("MatMul", "a b", "plain")],
            {"a": floats(10 + number, m, k), "b": floats(20 + number, k, n)},
            {"w": floats(30 + number, k, n)},
        )
    yield _probe(
        "products",
        [
            node("MatMul", "a b", "batched"),
            node("Gemm", "c d e", "gemm", transA=1, transB=1, alpha=0.75, beta=0.3),
            node("Gemm", "c d2 e", "gemm_relu_in", transA=1, alpha=1.0),
            node("Relu", "gemm_relu_in", "gemm_relu"),
            node("Einsum", "a b", "einsum", equation="bij,bjk->bki"),
        ],
        {"a": floats(40, 2, 5, 19), "b": floats(41, 2, 19, 23), "c": floats(42, 29, 11)},
        {"d": floats(43, 15, 29), "d2": floats(44, 29, 15), "e": floats(45, 15)},
    )
    attention = [
        node("Transpose", "k", "kt", perm=(0, 1, 3, 2)),
        node("MatMul", "q kt", "dots"),
        node("Mul", "dots root", "scaled"),
        node("Add", "scaled mask", "masked"),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights v", "context"),
        node("Transpose", "context", "turned", perm=(0, 2, 1, 3)),
        node("Reshape", "turned joined", "flat"),
        node("MatMul", "flat wo", "attention"),
    ]
    yield _probe(
        "attention",
        attention,
        {name: floats(50 + i, 1, 2, 21, 16, scale=2) for i, name in enumerate("qkv")},
        {
            "root": np.array(0.25, np.float32),
            "mask": np.triu(np.full((21, 21), -10000, np.float32), 1),
            "joined": np.array([1, 21, 32], np.int64),
            "wo": floats(54, 32, 40),
        },
    )


def _convolutions() -> Iterator[Probe]:
    yield _probe(
        "conv",
        [
            node("Conv", "x w b", "same", pads=(1, 1, 1, 1)),
            node("Conv", "x w b", "strided_in", strides=(2, 2), pads=(0, 1, 1, 0)),
            node("Relu", "strided_in", "strided"),
            node("Conv", "x p", "pointwise"),
            node("Conv", "x g", "depthwise", group=6, pads=(1, 1, 1, 1)),
            node("Conv", "x g2", "grouped", group=2, dilations=(2, 2)),
            node("ConvTranspose", "x t", "transposed", strides=(2, 2)),
        ],
        {"x": floats(60, 1, 6, 17, 19)},
        {
            "w": floats(61, 9, 6, 3, 3), "b": floats(62, 9), "p": floats(63, 21, 6, 1, 1),
            "g": floats(64, 6, 1, 3, 3), "g2": floats(65, 4, 3, 3, 3), "t": floats(66, 6, 3, 3, 3),
        },
    )  # fmt: skip
    yield _probe(
        "conv 1d and folded",
        [
            node("Conv", "s k", "line", pads=(2, 2)),
            node("Conv", "x w", "raw"),
            node("BatchNormalization", "raw g be m v", "normalised", epsilon=1e-3),
        ],
        {"s": floats(67, 2, 5, 61), "x": floats(68, 1, 16, 9, 7)},
        {
            "k": floats(69, 7, 5, 5), "w": floats(70, 17, 16, 3, 3), "g": floats(71, 17),
            "be": floats(72, 17), "m": floats(73, 17), "v": np.abs(floats(74, 17)) + np.float32(1),
        },
    )  # fmt: skip


_UNARY = (
    "Exp", "Log", "Tanh", "Sigmoid", "Erf", "Gelu", "Softplus", "Sqrt", "Reciprocal", "Sin", "Cos",
    "Atan", "Elu", "Selu", "Mish", "HardSwish", "Softsign", "Sinh",
)  # fmt: skip


def _element_wise() -> Iterator[Probe]:
    unary = [node(op, "x", op.lower()) for op in _UNARY]
    for name, values in (
        ("usual", floats(80, 203, scale=8)),
        ("small", floats(81, 67) * np.float32(2.0**-12)),
        ("wide", floats(82, 131, scale=128)),
        ("extreme", extremes()),
    ):
        yield _probe(f"element-wise, {name}", unary, {"x": values})
    positive = np.abs(floats(83, 103, scale=4)) + np.float32(2.0**-10)
    yield _probe(
        "pairs",
        [
            node("Pow", "p y", "pow"),
            node("Pow", "p half", "root"),
            node("Pow", "y three", "cube"),
            node("Div", "y p", "div"),
            node("Mul", "e e2", "mul"),
            node("Add", "e e2", "add"),
            node("Div", "e e2", "div_extreme"),
            node("Log", "p", "log"),
            node("Exp", "d", "exp64"),
            node("Gelu", "y", "gelu_tanh", approximate="tanh"),
        ],
        {
            "p": positive, "y": floats(84, 103, scale=4), "e": extremes(),
            "e2": extremes()[::-1].copy(), "d": floats(85, 37, scale=16, dtype="float64"),
        },
        {"half": np.array(0.5, np.float32), "three": np.array(3, np.float32)},
        exp64="float64",
    )  # fmt: skip
    # Spelled out, as exporters do; onnxruntime may fuse it into a kernel of its own.
    yield _probe(
        "spelled-out gelu",
        [
            node("Div", "x root2", "a"),
            node("Erf", "a", "b"),
            node("Add", "b one", "c"),
            node("Mul", "x c", "d"),
            node("Mul", "d half", "gelu"),
        ],
        {"x": floats(86, 5, 67, scale=4)},
        {
            "root2": np.array([0x3FB504F3], np.uint32).view(np.float32),
            "one": np.ones(1, np.float32),
            "half": np.array([0.5], np.float32),
        },
    )


def _reductions() -> Iterator[Probe]:
    axes = {"last": np.array([-1]), "first": np.array([0]), "outer": np.array([0, 2])}
    reductions = ("ReduceSum", "ReduceMean", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare")
    nodes = [
        node(op, f"x {axis}", f"{op.lower()}_{axis}", keepdims=0)
        for op in reductions
        for axis in axes
    ]
    nodes += [
        node("ReduceMax", "x last", "max"),
        node("CumSum", "x one", "running"),
        node("ReduceSum", "long", "total"),
    ]
    yield _probe(
        "reductions",
        nodes,
        {"x": floats(90, 5, 33, 67, scale=4), "long": floats(91, 4099)},
        {**axes, "one": np.array(1, np.int64)},
    )
    yield _probe(
        "softmax",
        [
            node("Softmax", "x", "last", axis=-1),
            node("Softmax", "x", "first", axis=0),
            node("LogSoftmax", "x", "log", axis=-1),
            node("Softmax", "e", "far", axis=-1),
            node("Hardmax", "x", "hard", axis=-1),
        ],
        {"x": floats(92, 5, 133, scale=8), "e": floats(93, 3, 1003, scale=128)},
    )
    yield _probe(
        "normalisations",
        [
            node("LayerNormalization", "x g b", "layer", axis=-1, epsilon=1e-5),
            node("InstanceNormalization", "c s t", "instance", epsilon=1e-5),
            node("LpNormalization", "x", "lp", axis=-1, p=2),
            node("MeanVarianceNormalization", "c", "mvn", axes=(0, 2, 3)),
            node("LRN", "c", "lrn", size=3),
        ],
        {"x": floats(94, 4, 129, scale=4), "c": floats(95, 1, 3, 11, 13)},
        {
            "g": floats(96, 129), "b": floats(97, 129), "s": floats(98, 3), "t": floats(99, 3),
        },
    )  # fmt: skip


def _recurrent() -> Iterator[Probe]:
    x = floats(110, 7, 3, 11)
    for number, (op, gates) in enumerate((("LSTM", 4), ("GRU", 3), ("RNN", 1))):
        seed = 111 + 10 * number
        yield _probe(
            op,
            [node(op, "x w r b", "y last", hidden_size=13, direction="bidirectional")],
            {"x": x},
            {
                "w": floats(seed, 2, gates * 13, 11),
                "r": floats(seed + 1, 2, gates * 13, 13),
                "b": floats(seed + 2, 2, 2 * gates * 13),
            },
        )


def _narrow() -> Iterator[Probe]:
    yield _probe(
        "float16",
        [
            node("MatMul", "a w", "product"),
            node("MatMul", "a c", "plain"),
            node("Gemm", "a w bias", "gemm"),
            node("Conv", "x k", "conv"),
            node("Softmax", "a", "softmax", axis=-1),
            node("Add", "a a", "sum"),
        ],
        {
            "a": floats(140, 9, 67, dtype="float16"), "c": floats(141, 67, 33, dtype="float16"),
            "x": floats(142, 1, 3, 9, 11, dtype="float16"),
        },
        {
            "w": floats(143, 67, 33, dtype="float16"), "bias": floats(144, 33, dtype="float16"),
            "k": floats(145, 5, 3, 3, 3, dtype="float16"),
        },
        **dict.fromkeys(("product", "plain", "gemm", "conv", "softmax", "sum"), "float16"),
    )  # fmt: skip
    yield _probe(
        "float64",
        [node("MatMul", "a w", "product"), node("ReduceSum", "a", "total")],
        {"a": floats(146, 7, 71, dtype="float64")},
        {"w": floats(147, 71, 19, dtype="float64")},
        product="float64", total="float64",
    )  # fmt: skip


def _integer() -> Iterator[Probe]:
    # Each operator has int8 weights and zero points of its own: the pinned options make onnxruntime
    # rewrite them, and version 1.32.0 then does not load a model whose operators share one.
    u8, s8 = bytes_of(150, 7, 67, dtype="uint8"), bytes_of(151, 67, 33, dtype="int8")
    zs = np.array(3, np.int8)
    yield _probe(
        "int8 products",
        [
            node("MatMulInteger", "u w zu zs", "u8s8"),
            node("MatMulInteger", "u b", "u8s8_plain"),
            node("MatMulInteger", "u wu zu zu", "u8u8"),
            node("MatMulInteger", "s w2 - zs2", "s8s8"),
            node("QLinearMatMul", "u f zu w3 f zs3 f4 zu", "qlinear"),
            node("DynamicQuantizeLinear", "x", "q q_scale q_zero"),
            node("DynamicQuantizeLinear", "x", "dq dq_scale dq_zero"),
            node("MatMulInteger", "dq w4 dq_zero", "dynamic"),
            node("Cast", "dynamic", "dynamic32", to=1),
            node("Mul", "dynamic32 dq_scale", "dynamic_scaled"),
            node("QuantizeLinear", "x f zu", "quantised"),
            node("DequantizeLinear", "u f zu", "dequantised"),
        ],
        {"u": u8, "b": s8, "s": bytes_of(152, 7, 67, dtype="int8"), "x": floats(153, 7, 67)},
        {
            "w": s8, "w2": s8, "w3": s8, "w4": s8, "zs": zs, "zs2": zs, "zs3": zs,
            "wu": bytes_of(154, 67, 33, dtype="uint8"), "zu": np.array(131, np.uint8),
            "f": np.array(2.0**-7, np.float32), "f4": np.array(0.25, np.float32),
        },
        **dict.fromkeys(("u8s8", "u8s8_plain", "u8u8", "s8s8"), "int32"),
        **dict.fromkeys(("qlinear", "q", "q_zero", "quantised"), "uint8"),
    )  # fmt: skip
    scales: dict[str, Array] = {
        "f": np.array(2.0**-7, np.float32), "f2": np.array(0.5, np.float32),
        "zu": np.array(127, np.uint8), "zs": np.array(0, np.int8),
    }  # fmt: skip
    yield _probe(
        "int8 convolutions",
        [
            node("QLinearConv", "x f zu w f zs f2 zu", "qlinear", pads=(1, 1, 1, 1)),
            node("QLinearConv", "x f zu g f zg f2 zu", "depthwise", group=4),
            node("ConvInteger", "x wu zu zu", "integer"),
        ],
        {"x": bytes_of(155, 1, 4, 11, 9, dtype="uint8")},
        {
            **scales, "zg": scales["zs"], "w": bytes_of(156, 7, 4, 3, 3, dtype="int8"),
            "g": bytes_of(157, 4, 1, 3, 3, dtype="int8"),
            "wu": bytes_of(158, 7, 4, 3, 3, dtype="uint8"),
        },
        qlinear="uint8", depthwise="uint8", integer="int32",
    )  # fmt: skip
    # Quantised the way most exporters do it: float operators between quantise and dequantise.
    yield _probe(
        "quantise, compute, dequantise",
        [
            node("QuantizeLinear", "x f zu", "xq"),
            node("DequantizeLinear", "xq f zu", "xd"),
            node("DequantizeLinear", "w f zs", "wd"),
            node("MatMul", "xd wd", "product"),
            node("QuantizeLinear", "product f2 zu", "yq"),
            node("DequantizeLinear", "yq f2 zu", "y"),
            node("Sigmoid", "y", "squashed"),
        ],
        {"x": floats(159, 5, 67)},
        {**scales, "w": s8},
    )


def _images() -> Iterator[Probe]:
    resize = {"coordinate_transformation_mode": "half_pixel"}
    yield _probe(
        "images",
        [
            node("Resize", "x - up", "linear", mode="linear", **resize),
            node("Resize", "x - up", "cubic", mode="cubic", **resize),
            node("Resize", "x - down", "shrunk", mode="linear", antialias=1, **resize),
            node("Resize", "x - up", "nearest", mode="nearest", **resize),
            node("GridSample", "x grid", "sampled", mode="linear"),
            node("AveragePool", "x", "average", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
            node("GlobalAveragePool", "x", "global"),
            node("MaxPool", "x", "max", kernel_shape=(2, 2)),
            node("LpPool", "x", "lp", kernel_shape=(3, 3)),
        ],
        {"x": floats(160, 1, 3, 13, 11), "grid": floats(161, 1, 5, 7, 2)},
        {
            "up": np.array([1, 1, 1.75, 2.5], np.float32),
            "down": np.array([1, 1, 0.5, 0.625], np.float32),
        },
    )
    yield _probe(
        "transforms",
        [
            node("DFT", "s - axis", "spectrum"),
            node("HannWindow", "count", "window"),
            node("MelWeightMatrix", "bins count rate low high", "mel"),
        ],
        {"s": floats(162, 1, 48, 1), "count": np.array(37, np.int64)},
        {
            "axis": np.array(1, np.int64), "bins": np.array(5, np.int64),
            "rate": np.array(8000, np.int64), "low": np.array(20, np.float32),
            "high": np.array(3900, np.float32),
        },
    )  # fmt: skip
