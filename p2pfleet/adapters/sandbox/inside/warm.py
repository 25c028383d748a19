"""The tiny model that warms onnxruntime up before the first fork."""

from __future__ import annotations

import numpy as np

from .model import open_session

# ONNX, IR version 8, opset 17: one node y = MatMul(x, x) over float32[2, 2], written out by hand
# so that nothing here needs the onnx package.
WARM_MODEL = bytes.fromhex(
    "0808"  # ir_version = 8
    "3a40"  # graph, 64 bytes
    "0a11" "0a0178" "0a0178" "120179" "22064d61744d756c"  # node: x, x -> y, MatMul
    "120177"  # name = "w"
    "5a13" "0a0178" "120e" "0a0c" "0801" "1208" "0a020802" "0a020802"  # input x
    "6213" "0a0179" "120e" "0a0c" "0801" "1208" "0a020802" "0a020802"  # output y
    "4202" "1011"  # opset_import: version = 17
)  # fmt: skip


def warm_up() -> None:
    """Run it once, so that every child inherits what the first session costs."""
    session = open_session(WARM_MODEL)
    x = np.array([[1, 2], [3, 4]], np.float32)
    (y,) = session.run(["y"], {"x": x})
    if not np.array_equal(y, np.array([[7, 10], [15, 22]], np.float32)):
        raise RuntimeError("onnxruntime computes a wrong product on this machine")
