"""Admission: what a model must not contain, decided before onnxruntime sees a byte of it.

    bytes -> protobuf (wire format) -> onnx_tensor, onnx_graph (the parts that matter)
          -> walk (every node, once) -> rules (one function each)

Runs in the locked child, on hostile bytes, with bounded work: every field read is counted, nothing
large is copied, nesting is limited, and the standard library is all it needs.
"""

from __future__ import annotations

from typing import NamedTuple

from .onnx_graph import Reader
from .protobuf import BadMessage, Buffer, Wire
from .refusal import Refusal
from .walk import Walk

__all__ = ["AN_ONNX_MODEL", "Admitted", "Refusal", "admit"]

AN_ONNX_MODEL = "an ONNX model"

_ORT_FORMAT = b"ORTM"


class Admitted(NamedTuple):
    """What onnxruntime does not tell of a model that was admitted."""

    unranked: frozenset[str]
    """Inputs for which the model declares no shape at all, not even a number of axes."""


def admit(model: Buffer, *, contrib_ops: bool) -> Admitted:
    """Hold ``model`` against every rule.

    ``contrib_ops``: whether onnxruntime's own operators (com.microsoft) may be used. Raises
    :class:`Refusal`, which names the node and the rule.
    """
    if bytes(model[4:8]) == _ORT_FORMAT:
        raise Refusal(AN_ONNX_MODEL, "it", "it is in the format of onnxruntime, not in ONNX")
    wire = Wire(model)
    try:
        onnx_model = Reader(wire).model()
        Walk(wire, onnx_model, contrib_ops=contrib_ops).run()
    except BadMessage as error:
        raise Refusal(AN_ONNX_MODEL, "it", str(error)) from None
    graph = onnx_model.graph
    constants = {tensor.name for tensor in graph.initializers}
    return Admitted(
        frozenset(
            value.name.decode()
            for value in graph.inputs
            if value.name not in constants and (value.kind is None or value.kind.shape is None)
        )
    )
