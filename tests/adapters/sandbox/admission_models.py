"""Models like those that researchers publish: they must be admitted, and run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.building import (
    BOOL,
    FLOAT,
    INT64,
    branch,
    function,
    graph,
    model,
    node,
    proto,
    value,
)

Feeds = dict[str, np.ndarray[Any, Any]]
_RNG = np.random.default_rng(3)


def _weights(*shape: int) -> np.ndarray[Any, Any]:
    return _RNG.standard_normal(shape).astype(np.float32)


def convolutional(kind: type[np.floating[Any]] = np.float32) -> bytes:
    onnx_kind = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    return model(
        [
            node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=1),
            node("BatchNormalization", ["c", "s", "s", "s", "v"], ["b"], epsilon=1e-3),
            node("Relu", ["b"], ["r"]),
            node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", ["m"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Dropout", ["f", "ratio", "off"], ["d"]),
            node("Softmax", ["d"], ["y"], axis=-1),
        ],
        {
            "w": _weights(4, 3, 3, 3).astype(kind), "s": np.zeros(4, kind), "v": np.ones(4, kind),
            "ratio": np.float32(0.5), "off": np.array(False),
        },
        inputs=[value("x", onnx_kind, ["n", 3, 8, 8])],
        outputs=[value("y", onnx_kind, ["n", 4])],
    )  # fmt: skip


def recurrent() -> bytes:
    return model(
        [
            node("LSTM", ["x", "w", "r", "", "", "", ""], ["a", "h"], hidden_size=4),
            node("GRU", ["x", "gw", "gr"], ["g"], hidden_size=4, linear_before_reset=1),
            node("Concat", ["a", "g"], ["y"], axis=0),
        ],
        {
            "w": _weights(1, 16, 3), "r": _weights(1, 16, 4), "gw": _weights(1, 12, 3),
            "gr": _weights(1, 12, 4),
        },
        inputs=[value("x", FLOAT, ["t", 1, 3])],
    )  # fmt: skip


def attention(opset: int) -> bytes:
    """Attention out of products and Softmax, as exporters write it."""
    return model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["n"], axis=0),
            node("MatMul", ["x", "wq"], ["q"]),
            node("MatMul", ["x", "wk"], ["k"]),
            node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            node("MatMul", ["q", "kt"], ["s"]),
            node("Mul", ["s", "scale"], ["scaled"]),
            node("Softmax", ["scaled"], ["p"], axis=-1),
            node("MatMul", ["p", "x"], ["o"]),
            node("LayerNormalization", ["o", "one"], ["l"], axis=-1),
            node("Unsqueeze", ["n", "axis"], ["n1"]),
            node("Concat", ["n1", "rest"], ["to"], axis=0),
            node("Reshape", ["l", "to"], ["y"]),
        ],
        {
            "wq": _weights(8, 8), "wk": _weights(8, 8), "scale": np.float32(0.35),
            "one": np.ones(8, np.float32), "zero": np.int64(0), "axis": np.array([0]),
            "rest": np.array([-1]),
        },
        inputs=[value("x", FLOAT, ["n", "t", 8])],
        opset=opset,
    )  # fmt: skip


def attention_operator() -> bytes:
    """The operator of its own that opset 23 brought."""
    return model(
        [node("Attention", ["x", "x", "x"], ["y"])],
        inputs=[value("x", FLOAT, [1, 2, "t", 8])],
        opset=23,
    )


def choosing() -> bytes:
    then = branch([node("Mul", ["x", "two"], ["o"])], two=np.float32(2))
    other = branch([node("Neg", ["x"], ["o"])])
    return model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Greater", ["s", "zero"], ["c"]),
            node("If", ["c"], ["y"], then_branch=then, else_branch=other),
        ],
        {"zero": np.float32(0)},
    )


def looping(rounds: int | None = None) -> bytes:
    """As many rounds as x is long, or so many; keeps each."""
    body = graph(
        [
            node("Identity", ["go"], ["go2"]),
            node("Gather", ["x", "i"], ["e"]),
            node("Add", ["v", "e"], ["v2"]),
            node("Identity", ["v2"], ["z"]),
        ],
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, [])],
        [value("go2", BOOL, []), value("v2", FLOAT, []), value("z", FLOAT, [])],
    )
    counted = [
        node("Shape", ["x"], ["s"]),
        node("Squeeze", ["s", "axis"], ["rounds"]),
    ]
    constants: dict[str, Any] = {"zero": np.float32(0), "axis": np.array([0])}
    if rounds is not None:
        constants["rounds"] = np.int64(rounds)
    return model(
        [
            *(counted if rounds is None else []),
            node("Loop", ["rounds", "", "zero"], ["last", "y"], body=body),
        ],
        constants,
    )


def scanning() -> bytes:
    body = graph(
        [node("Add", ["sum", "e"], ["sum2"]), node("Identity", ["sum2"], ["z"])],
        [value("sum", FLOAT, []), value("e", FLOAT, [])],
        [value("sum2", FLOAT, []), value("z", FLOAT, [])],
    )
    return model(
        [node("Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1)],
        {"zero": np.float32(0)},
    )


def quantized() -> bytes:
    """Dequantised weights, and a convolution of integers."""
    return model(
        [
            node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            node("QLinearConv", ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["cq"],
                 kernel_shape=[3, 3]),
            node("DequantizeLinear", ["cq", "ys", "yz"], ["c"]),
            node("DequantizeLinear", ["k", "ks", "kz"], ["kd"], axis=0),
            node("Conv", ["c", "kd"], ["y"], kernel_shape=[1, 1]),
        ],
        {
            "xs": np.float32(0.1), "xz": np.uint8(128), "ws": np.float32(0.02), "wz": np.int8(0),
            "ys": np.float32(0.2), "yz": np.uint8(120),
            "w": _RNG.integers(-100, 100, (2, 1, 3, 3)).astype(np.int8),
            "k": _RNG.integers(-100, 100, (2, 2, 1, 1)).astype(np.int8),
            "ks": np.array([0.1, 0.2], np.float32), "kz": np.zeros(2, np.int8),
        },
        inputs=[value("x", FLOAT, ["n", 1, "h", "w_"])],
    )  # fmt: skip


def four_bits() -> bytes:
    """Weights of four bits each, seven of them in four bytes."""
    weights = helper.make_tensor("w", TensorProto.INT4, [7], [1, -2, 3, -4, 5, -6, 7])
    return model(
        [node("DequantizeLinear", ["w", "s"], ["d"]), node("Mul", ["x", "d"], ["y"])],
        {"w": weights, "s": np.float32(0.5)},
        opset=21,
    )


def forest() -> bytes:
    return model(
        [
            node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0]),
            node(
                "TreeEnsembleRegressor", ["s"], ["y"], domain="ai.onnx.ml", n_targets=1,
                nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0],
                nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.5, 0.0, 0.0],
                nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0],
                target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0],
            ),
        ],
        inputs=[value("x", FLOAT, ["n", 1])],
        imports={"ai.onnx.ml": 3},
    )  # fmt: skip


def with_functions() -> bytes:
    """A function that calls a function, one with a parameter."""
    scaled = node("LeakyRelu", ["a"], ["o"])
    scaled.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    activation = function("Activation", [scaled])
    activation.attribute.append("slope")
    block = function(
        "Block",
        [node("Neg", ["a"], ["t"]), node("Activation", ["t"], ["o"], domain="local", slope=0.1)],
    )
    return model(
        [
            node("Block", ["x"], ["h"], domain="local"),
            node("Block", ["h"], ["y"], domain="local"),
        ],
        functions=[block, activation],
        imports={"local": 1},
    )


def split_and_joined() -> bytes:
    """A list of tensors inside, as detectors and decoders have it."""
    return model(
        [
            node("SplitToSequence", ["x"], ["q"], axis=0, keepdims=1),
            node("SequenceLength", ["q"], ["n"]),
            node("SequenceAt", ["q", "zero"], ["first"]),
            node("SequenceInsert", ["q", "first"], ["longer"]),
            node("ConcatFromSequence", ["longer"], ["y"], axis=0),
        ],
        {"zero": np.int64(0)},
    )


def overridable() -> bytes:
    """Its weights are listed as inputs as well, as all were before IR version 4."""
    whole = proto([node("Add", ["x", "w"], ["y"])], {"w": np.ones(3, np.float32)})
    whole.graph.input.append(value("w", FLOAT, [3]))
    whole.ir_version = 3
    data: bytes = whole.SerializeToString()
    return data


def annotated() -> bytes:
    """With documentation, notes, inferred shapes, and imports that it does not use."""
    whole = onnx.shape_inference.infer_shapes(
        proto(
            [node("Add", ["x", "x"], ["t"]), node("Neg", ["t"], ["y"])],
            imports={"com.microsoft": 1, "ai.onnx.ml": 3, "com.microsoft.nchwc": 1},
        )
    )
    whole.doc_string = "long " * 1000
    whole.producer_name = "pytorch"
    whole.graph.doc_string = "a graph"
    whole.metadata_props.add(key="author", value="somebody")
    for one in whole.graph.node:
        one.doc_string = "/home/somebody/model.py(12)"
        one.metadata_props.add(key="namespace", value="model.layer")
    data: bytes = whole.SerializeToString()
    return data


def typed_data() -> bytes:
    """Weights in the typed fields, as onnx's own helper writes them."""
    given = {
        TensorProto.FLOAT: [1.5, 2.0], TensorProto.DOUBLE: [1.5, 2.0], TensorProto.INT32: [1, -2],
        TensorProto.INT64: [1, -2], TensorProto.UINT8: [1, 2], TensorProto.UINT64: [1, 2**63],
        TensorProto.FLOAT16: [1.5, 2.0], TensorProto.BOOL: [1, 0], TensorProto.INT16: [1, -2],
    }  # fmt: skip
    names = [f"w{kind}" for kind in given]
    return model(
        [
            *(node("Cast", [name], [f"{name}f"], to=FLOAT) for name in names),
            node("Sum", ["x", *(f"{name}f" for name in names)], ["y"]),
        ],
        {
            name: helper.make_tensor(name, kind, [2], values)
            for name, (kind, values) in zip(names, given.items(), strict=True)
        },
    )


def sparse_weights() -> bytes:
    whole = proto([node("Add", ["x", "w"], ["y"])])
    whole.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([3, 5], np.float32), "w"),
            numpy_helper.from_array(np.array([0, 4]), "w_indices"),
            [5],
        )
    )
    data: bytes = whole.SerializeToString()
    return data


_X: Feeds = {"x": np.ones(1, np.float32)}
_IMAGE = {"x": np.ones((1, 1, 4, 4), np.float32)}

REAL: dict[str, tuple[Callable[[], bytes], Feeds]] = {
    "convolutional": (convolutional, {"x": np.ones((2, 3, 8, 8), np.float32)}),
    "convolutional_fp16": (
        lambda: convolutional(np.float16), {"x": np.ones((2, 3, 8, 8), np.float16)},
    ),
    "recurrent": (recurrent, {"x": np.ones((5, 1, 3), np.float32)}),
    **{
        f"attention_{opset}": (
            lambda opset=opset: attention(opset), {"x": np.ones((2, 3, 8), np.float32)},
        )
        for opset in (17, 18, 20, 21, 22, 23)
    },
    "attention_operator": (attention_operator, {"x": np.ones((1, 2, 3, 8), np.float32)}),
    "choosing": (choosing, _X),
    "looping": (looping, {"x": np.arange(5, dtype=np.float32)}),
    "looping_constant": (lambda: looping(3), {"x": np.arange(5, dtype=np.float32)}),
    "scanning": (scanning, {"x": np.arange(5, dtype=np.float32)}),
    "quantized": (quantized, _IMAGE),
    "four_bits": (four_bits, {"x": np.ones(7, np.float32)}),
    "forest": (forest, {"x": np.ones((3, 1), np.float32)}),
    "with_functions": (with_functions, _X),
    "split_and_joined": (split_and_joined, {"x": np.arange(3, dtype=np.float32)}),
    "overridable": (overridable, {"x": np.ones(3, np.float32)}),
    "annotated": (annotated, _X),
    "typed_data": (typed_data, {"x": np.ones(2, np.float32)}),
    "sparse_weights": (sparse_weights, {"x": np.ones(5, np.float32)}),
}  # fmt: skip
