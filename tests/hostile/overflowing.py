"""Products of bytes that come out otherwise on CPUs without dot products of bytes.

They harm no machine: they would set honest volunteers against each other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx

from .building import FLOAT, branch, function, model, node, value
from .catalogue import Hostile

UINT8, INT8, BOOL = onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.BOOL
REPRODUCIBLE = ("reproducible products",)

BYTES: dict[str, np.ndarray[Any, Any]] = {
    "x": np.full((4, 8), 255, np.uint8),
    "w": np.full((8, 4), 127, np.int8),
}
WEIGHTS = {"w": BYTES["w"]}
_KINDS = {np.dtype(np.uint8): UINT8, np.dtype(np.int8): INT8, np.dtype(np.float32): FLOAT}
_NUMBERS: dict[str, Any] = {
    "s": np.float32(0.01), "t": np.float32(0.5), "zu": np.uint8(128), "zs": np.int8(0),
}  # fmt: skip


def _made(
    nodes: list[onnx.NodeProto], fed: dict[str, Any], constants: dict[str, Any], **more: Any
) -> bytes:
    inputs = [
        value(name, _KINDS[given.dtype], [None] * given.ndim)  # type: ignore[list-item]
        for name, given in fed.items()
    ]
    return model(nodes, constants, inputs=inputs, opset=17, **more)


def product(x: Any, w: Any, *, constant: bool) -> bytes:
    """y = x w as integers, ``w`` in the model or fed."""
    return _made(
        [node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": x} if constant else {"x": x, "w": w},
        {"w": w} if constant else {},
    )


def qlinear(op: str, *, constant: bool) -> bytes:
    """A product or a convolution of uint8 with int8, told by the zero points."""
    conv = op == "QLinearConv"
    x = np.full((1, 2, 6, 6), 255, np.uint8) if conv else BYTES["x"]
    w = np.full((3, 2, 3, 3), 127, np.int8) if conv else BYTES["w"]
    return _made(
        [node(op, ["x", "s", "zu", "w", "s", "zs", "t", "zu"], ["y"])],
        {"x": x} if constant else {"x": x, "w": w},
        {**_NUMBERS, "w": w} if constant else _NUMBERS,
    )


def convolution(x: type, w: type) -> bytes:
    """ConvInteger, whose kernels multiply the other way round; ``w`` is a constant."""
    return _made(
        [node("ConvInteger", ["x", "w"], ["y"])],
        {"x": np.full((1, 2, 6, 6), 127, x)},
        {"w": np.full((3, 2, 3, 3), 127, w)},
    )


def between_dequantised(
    op: str = "MatMul", zero: str = "zs", *, constant: bool = False, moved: bool = False
) -> bytes:
    """A float operator between dequantised bytes, which is fused into a product of bytes."""
    conv = op == "Conv"
    x = np.full((1, 2, 6, 6), 255, np.uint8) if conv else BYTES["x"]
    w = np.full((3, 2, 3, 3) if conv else (8, 4), 127, _NUMBERS[zero].dtype)
    nodes = [
        node("DequantizeLinear", ["x", "s", "zu"], ["xd"]),
        node("DequantizeLinear", ["w", "s", zero], ["wd"]),
    ]
    if moved:
        nodes.append(node("Transpose", ["wd"], ["wt"], perm=[1, 0]))
        w = np.ascontiguousarray(w.T)
    nodes.append(node(op, ["xd", "wt" if moved else "wd"], ["y"]))
    return _made(
        nodes,
        {"x": x} if constant else {"x": x, "w": w},
        {**_NUMBERS, "w": w} if constant else _NUMBERS,
    )


def computed() -> bytes:
    """The weights are bytes that the model itself makes of a floating input."""
    return _made(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            node("QuantizeLinear", ["v", "s", "zs"], ["w"]),
            node("MatMulInteger", ["q", "w", "qz"], ["y"]),
        ],
        {"x": np.ones((4, 8), np.float32), "v": np.ones((8, 4), np.float32)},
        _NUMBERS,
    )


def dynamic(*, both: bool) -> bytes:
    """What quantises for itself, as exporters write it: by constant weights, or by itself."""
    return _made(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
            node("Transpose", ["q"], ["qt"]),
            node("MatMulInteger", ["q", "qt" if both else "w", "qz"], ["y"]),
        ],
        {"x": np.ones((4, 8), np.float32)},
        {"w": BYTES["w"]},
    )


def in_a_branch(*, own: bool) -> bytes:
    """A constant of the graph around is not mended, one of the branch's own is."""
    then = branch([node("MatMulInteger", ["x", "w"], ["o"])], **({"w": BYTES["w"]} if own else {}))
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=then)],
        {} if own else {"w": BYTES["w"]},
        inputs=[value("x", UINT8, ["n", 8]), value("c", BOOL, [])],
    )


def overridable() -> bytes:
    """Weights in the model that may be fed all the same."""
    return model(
        [node("MatMulInteger", ["x", "w"], ["y"])],
        {"w": BYTES["w"]},
        inputs=[value("x", UINT8, ["n", 8]), value("w", INT8, [8, 4])],
    )


def in_a_function() -> bytes:
    """A function does not know what it is given."""
    inner = function("Multiply", [node("MatMulInteger", ["a", "b"], ["o"])], inputs=("a", "b"))
    return model(
        [node("Multiply", ["x", "w"], ["y"], domain="local")],
        inputs=[value("x", UINT8, ["n", 8]), value("w", INT8, [8, 4])],
        functions=[inner],
        imports={"local": 1},
    )


_IMAGE = {"x": np.full((1, 2, 6, 6), 255, np.uint8), "w": np.full((3, 2, 3, 3), 127, np.int8)}

OVERFLOWING = [
    Hostile("products_fed", "products", "uint8 by int8 that is fed",
            partial(product, BYTES["x"], BYTES["w"], constant=False), REPRODUCIBLE, BYTES),
    Hostile("products_qlinear", "products", "the same with zero points",
            partial(qlinear, "QLinearMatMul", constant=False), REPRODUCIBLE, BYTES),
    Hostile("products_convolution", "products", "the same in a convolution",
            partial(qlinear, "QLinearConv", constant=False), REPRODUCIBLE, _IMAGE),
    Hostile("products_reversed", "products", "int8 by constant uint8: ConvInteger swaps sides",
            partial(convolution, np.int8, np.uint8), REPRODUCIBLE,
            {"x": np.full((1, 2, 6, 6), 127, np.int8)}),
    Hostile("products_computed", "products", "int8 that the model computes", computed, REPRODUCIBLE,
            {"x": np.ones((4, 8), np.float32), "v": np.ones((8, 4), np.float32)}),
    Hostile("products_outer", "products", "a constant of the graph around",
            partial(in_a_branch, own=False), REPRODUCIBLE,
            {"x": BYTES["x"], "c": np.array(True)}),
    Hostile("products_overridable", "products", "a constant that may be fed", overridable,
            REPRODUCIBLE, BYTES),
    Hostile("products_function", "products", "in a function of its own", in_a_function,
            REPRODUCIBLE, BYTES),
    *(
        Hostile(f"products_between_{op.lower()}", "products", f"{op} between dequantised bytes",
                partial(between_dequantised, op), REPRODUCIBLE,
                _IMAGE if op == "Conv" else BYTES)
        for op in ("MatMul", "Gemm", "Conv")
    ),
    Hostile("products_moved", "products", "with a Transpose in between",
            partial(between_dequantised, moved=True), REPRODUCIBLE,
            {"x": BYTES["x"], "w": np.ascontiguousarray(BYTES["w"].T)}),
]  # fmt: skip
