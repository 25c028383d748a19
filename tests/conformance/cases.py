"""The node tests of ONNX's backend suite: a model of a few nodes each, and inputs for it.

They come with the onnx package, which builds them in memory from fixed seeds; nothing is fetched.
"""

from __future__ import annotations

import functools
import random
import warnings
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, encode_bundle


class Case(NamedTuple):
    """One test: ``feeds`` are the model's inputs in its own order."""

    name: str
    model: bytes
    feeds: dict[str, Any]
    op_types: tuple[str, ...]
    """The operators of the model, ``domain:name`` where the domain is not ONNX's first, sorted."""

    travels: bool
    """Whether every input and output is declared as a tensor that a bundle can hold."""


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every node test, sorted by name; takes some seconds the first time."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests divide by zero on purpose
        tests = load_model_tests(kind="node")
    return tuple(sorted((_case(test) for test in tests), key=lambda case: case.name))


def sample(cases: tuple[Case, ...], seed: str, count: int) -> tuple[Case, ...]:
    """``count`` of them, the same ones for the same seed, in the order of ``cases``."""
    return tuple(
        case for _, case in sorted(random.Random(seed).sample(list(enumerate(cases)), count))
    )


def bundle_of(named: dict[str, Any]) -> bytes | None:
    """The canonical bundle of these values; ``None`` if one of them cannot travel in a bundle."""
    tensors = []
    for name, value in named.items():
        if not isinstance(value, np.ndarray) or value.dtype.name not in ITEM_BYTES:
            return None
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("<")
        data = array.astype(dtype, copy=False).tobytes()
        tensors.append(Tensor(name, array.dtype.name, array.shape, data))  # type: ignore[arg-type]
    return encode_bundle(tuple(tensors))


def operators(graph: onnx.GraphProto) -> set[str]:
    """The operators of a graph and of the graphs in its nodes."""
    found = set()
    for node in graph.node:
        found.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found |= operators(body)
    return found


def _case(test: Any) -> Case:
    ((inputs, _),) = test.data_sets
    names = [value.name for value in test.model.graph.input]
    feeds = {name: _value(value) for name, value in zip(names, inputs, strict=True)}
    return Case(
        test.name,
        test.model.SerializeToString(),
        feeds,
        tuple(sorted(operators(test.model.graph))),
        all(_can_travel(value) for value in (*test.model.graph.input, *test.model.graph.output)),
    )


def _can_travel(value: onnx.ValueInfoProto) -> bool:
    if value.type.WhichOneof("value") != "tensor_type":
        return False
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return dtype.name in ITEM_BYTES


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    # onnxruntime takes no numpy scalars, only arrays without axes.
    return np.asarray(value) if isinstance(value, np.generic) else value
