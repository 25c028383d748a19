"""What mutations work on: a model and its inputs, and how they find their way in it."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from tests.conformance.cases import all_cases

Random = random.Random


class Draft(NamedTuple):
    """What is being changed."""

    model: onnx.ModelProto
    feeds: dict[str, Any]


def nodes_of(graph: GraphProto, depth: int = 0) -> Iterator[tuple[GraphProto, NodeProto]]:
    """Every node, and the graph it stands in: this one, or one within it."""
    for node in graph.node:
        yield graph, node
        if depth < 8:
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    yield from nodes_of(body, depth + 1)


def pick_node(rng: Random, draft: Draft) -> tuple[GraphProto, NodeProto] | None:
    """Any node of the model, and the graph it stands in."""
    nodes = list(nodes_of(draft.model.graph))
    return rng.choice(nodes) if nodes else None


def pick_attribute(rng: Random, draft: Draft) -> tuple[NodeProto, AttributeProto] | None:
    """Any attribute of the model, and its node."""
    found = [(node, one) for _, node in nodes_of(draft.model.graph) for one in node.attribute]
    return rng.choice(found) if found else None


def tensors_of(draft: Draft) -> list[TensorProto]:
    """The constants of the model."""
    graph = draft.model.graph
    return [
        *graph.initializer,
        *(one.t for _, node in nodes_of(graph) for one in node.attribute if one.HasField("t")),
    ]


@functools.cache
def attributes_of_operators() -> dict[str, dict[str, bytes]]:
    """By operator and name: an attribute that some test sets, encoded."""
    found: dict[str, dict[str, bytes]] = {}
    for case in all_cases():
        for _, node in nodes_of(onnx.load_from_string(case.model).graph):
            for one in node.attribute:
                found.setdefault(node.op_type, {})[one.name] = one.SerializeToString()
    return found


@functools.cache
def nodes_by_arity() -> dict[tuple[int, int], tuple[bytes, ...]]:
    """One node of each operator, by its number of inputs and of outputs."""
    found: dict[tuple[int, int], dict[str, bytes]] = {}
    for case in all_cases():
        for node in onnx.load_from_string(case.model).graph.node:
            arity = len(node.input), len(node.output)
            found.setdefault(arity, {})[node.op_type] = node.SerializeToString()
    return {arity: tuple(nodes.values()) for arity, nodes in found.items()}


def is_plain(value: Any) -> bool:
    """Whether it is an array of numbers or truth values."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def change_list(rng: Random, values: list[Any], extremes: tuple[Any, ...]) -> None:
    """Leave one out, put one in, double it, or replace one."""
    match rng.randrange(4):
        case 0 if values:
            del values[rng.randrange(len(values))]
        case 1:
            values.insert(rng.randrange(len(values) + 1), rng.choice(extremes))
        case 2:
            values.extend(values[:8])
        case _ if values:
            values[rng.randrange(len(values))] = rng.choice(extremes)
        case _:
            values.append(rng.choice(extremes))


def extreme_bytes(rng: Random, data: bytes) -> bytes:
    """Eight of them all ones, all zeros, or a sign."""
    pattern = rng.choice((b"\xff", b"\x00", b"\x80", b"\x7f"))
    at = rng.randrange(len(data) + 1)
    return data[:at] + pattern * min(8, len(data) - at) + data[at + 8 :]
