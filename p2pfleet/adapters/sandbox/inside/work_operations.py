"""What one operator is worth, its shapes being known (the table is in ``work``)."""

from __future__ import annotations

from math import prod

from .shape_call import Call
from .shape_computing import POOLS, PRODUCTS, REDUCTIONS, labels
from .shape_guess import Guess
from .shape_moving import VIEWS

_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")


def operations(call: Call, outputs: list[Guess]) -> int:
    """The operations of one operator; 0 or more."""
    op = call.op
    if op in VIEWS:
        return 0
    out = sum(_size(call, one) for one in outputs[: max(1, call.outputs)])
    if op in PRODUCTS:
        left = call.dims(0)
        if left:
            transposed = op.endswith("Gemm") and call.integer(b"transA", 0)
            return 2 * _size(call, outputs[0]) * left[0 if transposed else -1]
    elif op in _CONVOLUTIONS:
        kernel = call.dims(_CONVOLUTIONS[op])
        if kernel:
            return 2 * out * prod(kernel[1:])
    elif op == "ConvTranspose":
        image, kernel = call.dims(0), call.dims(1)
        if image is not None and kernel:
            return 2 * prod(image) * prod(kernel[1:])
    elif op in _RECURRENT:
        steps, weights, again = call.dims(0), call.dims(1), call.dims(2)
        if steps and weights and again:
            return 2 * prod(steps[:2]) * (prod(weights) + prod(again))
    elif op == "Einsum":
        found = labels(call)
        if found is not None:
            return (2 if len(call.inputs) > 1 else 1) * prod(found[0].values())
    elif op in POOLS:
        return out * max(1, prod(call.integers(b"kernel_shape") or ()))
    elif op in REDUCTIONS:
        taken = call.dims(0)
        if taken is not None:
            return prod(taken)
    return out


def _size(call: Call, output: Guess) -> int:
    """The elements of an output; where they are unknown, those of the largest input."""
    if output.elements is not None:
        return output.elements
    return max((one.elements or 0 for one in call.inputs), default=0)
