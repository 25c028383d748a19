"""Makes everything in this folder: a model that computes for a while, and 1500 small inputs.

    python make.py    write steady.onnx and steady.npz beside this file

Needs numpy and onnx. Each unit is a row of 128 whole numbers. The model makes 4096 equal rows of it
and multiplies them again and again by a matrix of -1, 0 and 1, clipped to whole numbers below
101: about a fifth of a second of one processor. All sums stay below 2**24, which float32 holds
exactly, so the answers are the same on every processor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
WIDTH, ROWS, LAYERS, UNITS = 128, 4096, 150, 1500
OPSET, IR_VERSION = 17, 8


def main() -> None:
    random = np.random.default_rng(20240229)
    matrix = random.integers(-1, 2, (WIDTH, WIDTH)).astype(np.float32)
    constants = [
        numpy_helper.from_array(matrix, "w"),
        numpy_helper.from_array(np.array([ROWS, WIDTH], np.int64), "shape"),
        numpy_helper.from_array(np.array(-100, np.float32), "low"),
        numpy_helper.from_array(np.array(100, np.float32), "high"),
    ]
    nodes = [
        helper.make_node("Round", ["x"], ["whole"]),  # so that nothing rests on last digits
        helper.make_node("Expand", ["whole", "shape"], ["t0"]),
    ]
    for layer in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"t{layer}", "w"], [f"m{layer}"]))
        nodes.append(helper.make_node("Clip", [f"m{layer}", "low", "high"], [f"t{layer + 1}"]))
    nodes.append(helper.make_node("ReduceMax", [f"t{LAYERS}"], ["y"], axes=[0], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "steady",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, WIDTH])],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    (HERE / "steady.onnx").write_bytes(model.SerializeToString(deterministic=True))
    inputs = random.integers(-100, 101, (UNITS, WIDTH)).astype(np.float32)
    np.savez_compressed(HERE / "steady.npz", x=inputs)


if __name__ == "__main__":
    main()
