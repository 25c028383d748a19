"""Small ONNX models, friendly and hostile, and bundles to feed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from p2pfleet.core.wire.tensors import Tensor, decode_bundle, encode_bundle

Shape = Sequence[int | str] | None
Value = tuple[str, int, Shape]

NUMPY_TYPES = {
    "bool": TensorProto.BOOL, "int8": TensorProto.INT8, "int16": TensorProto.INT16,
    "int32": TensorProto.INT32, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE,
}  # fmt: skip


def bundle(**arrays: Any) -> bytes:
    """The canonical bundle of these arrays, in this order."""
    return encode_bundle(
        tuple(
            Tensor(name, array.dtype.name, array.shape, array.tobytes())  # type: ignore[arg-type]
            for name, array in ((name, np.asarray(value)) for name, value in arrays.items())
        )
    )


def arrays(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """What is in a bundle."""
    return {
        tensor.name: np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape)
        for tensor in decode_bundle(data, 2**31)
    }


def model(
    nodes: list[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, Any] | None = None,
) -> bytes:
    """A model of opset 17."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in (constants or {}).items()
        ],
    )
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="test"
    )
    data: bytes = proto.SerializeToString()
    return data


def doubling(dtype: str = "float32", shape: Shape = None) -> bytes:
    """y = x + x, over a list of any length unless told otherwise."""
    kind: int = NUMPY_TYPES[dtype]
    shape = ["n"] if shape is None else shape
    return model(
        [helper.make_node("Add", ["x", "x"], ["y"])], [("x", kind, shape)], [("y", kind, shape)]
    )


def matmul(size: int = 16, weights: Any = None) -> bytes:
    """y = softmax(x @ w), x of shape [n, size]."""
    if weights is None:
        weights = np.random.default_rng(7).standard_normal((size, size)).astype(np.float32)
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["z"]),
            helper.make_node("Softmax", ["z"], ["y"], axis=-1),
        ],
        [("x", TensorProto.FLOAT, ["n", size])],
        [("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        {"w": weights},
    )


def identity_of_all_dtypes() -> bytes:
    """One input and one output of every dtype, any length."""
    nodes: list[onnx.NodeProto] = []
    inputs: list[Value] = []
    outputs: list[Value] = []
    for name, kind in NUMPY_TYPES.items():
        nodes.append(helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]))
        inputs.append((f"in_{name}", kind, ["n"]))
        outputs.append((f"out_{name}", kind, ["n"]))
    return model(nodes, inputs, outputs)


def scalar_sum() -> bytes:
    """y = the sum of x, a tensor without axes."""
    return model(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [("x", TensorProto.FLOAT, ["n"])],
        [("y", TensorProto.FLOAT, [])],
    )


def counting_loop(rounds: int | None) -> bytes:
    """Adds 1 to x so many times, or for ever; some hundred nanoseconds a round."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["v_in", "one"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1]),
        ],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return model(
        [helper.make_node("Loop", ["rounds", "go", "x"], ["y"], body=body)],
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        {"rounds": np.int64(2**38 if rounds is None else rounds), "go": np.bool_(True)},
    )


def blow_up(kind: str = "Expand") -> bytes:
    """y = x[1] repeated n times, n being an input."""
    nodes = {
        "Expand": [helper.make_node("Expand", ["x", "n"], ["y"])],
        "Tile": [helper.make_node("Tile", ["x", "n"], ["y"])],
        "ConstantOfShape": [
            helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
            helper.make_node("Add", ["zeros", "x"], ["y"]),
        ],
    }[kind]
    return model(
        nodes,
        [("x", TensorProto.FLOAT, [1]), ("n", TensorProto.INT64, [1])],
        [("y", TensorProto.FLOAT, ["m"])],
    )


def slow_to_load(products: int = 3000) -> bytes:
    """A few kilobytes whose constants onnxruntime multiplies out for seconds while loading."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["c0"])]
    for i in range(products):
        nodes.append(helper.make_node("MatMul", [f"c{i}", "c0"], [f"c{i + 1}"]))
    nodes.append(helper.make_node("Add", [f"c{products}", "x"], ["y"]))
    return model(
        nodes,
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, None)],
        {"shape": np.array([500, 500], np.int64)},
    )


def crashing() -> bytes:
    """A GRU, which brings onnxruntime down when x[n, 1, 3] has no steps at all (n = 0)."""
    return model(
        [helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4)],
        [("x", TensorProto.FLOAT, ["n", 1, 3])],
        [("y", TensorProto.FLOAT, None)],
        {"w": np.ones((1, 12, 3), np.float32), "r": np.ones((1, 12, 4), np.float32)},
    )


def external_data(location: str, size: int = 16) -> bytes:
    """y = the first bytes of a file of the machine that runs it."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.UINT8, dims=[size], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    proto = onnx.load_from_string(
        model(
            [helper.make_node("Identity", ["w"], ["y"])],
            [],
            [("y", TensorProto.UINT8, [size])],
        )
    )
    proto.graph.initializer.append(tensor)
    data: bytes = proto.SerializeToString()
    return data


def sequence_output() -> bytes:
    """Outputs a sequence, which cannot travel."""
    proto = onnx.load_from_string(doubling())
    proto.graph.node[0].CopyFrom(helper.make_node("SequenceConstruct", ["x", "x"], ["y"]))
    proto.graph.output[0].CopyFrom(
        helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["n"])
    )
    data: bytes = proto.SerializeToString()
    return data


def string_input() -> bytes:
    """Takes text, which cannot travel."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, ["n"])],
        [("y", TensorProto.STRING, ["n"])],
    )
