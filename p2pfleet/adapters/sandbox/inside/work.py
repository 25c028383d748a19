"""How much work one unit is, told from the model's graph and the shapes of the unit's inputs.

The count is what credit is given for, so it must not depend on the machine, nor on onnxruntime and
what it makes of the graph: the same model and shapes come to the same number everywhere.

What counts, in operations:

- a product (MatMul, Gemm, Conv, ConvTranspose, Einsum, their quantised forms) and a recurrent cell
  (LSTM, GRU, RNN): two for each multiply-add, padding included;
- pooling: the elements of the output times those of the kernel;
- a reduction (ReduceSum, ArgMax, GlobalAveragePool, ...): the elements of its input;
- what only renames or reshapes (Identity, Reshape, Shape, Constant, ...): nothing;
- every other operator, known or not: the elements of its outputs. Sorting, transcendental functions
  and attention as one operator are thus worth less than they cost.

The body of a Loop or Scan counts once, of an If the dearer branch, a function of the model's own at
every call. Where a shape depends on values that are not in the model (NonZero, a fed length), an
output is taken to be as large as the operator's largest input. How shapes go on: ``shape_rules``.

Bounded: each node is looked at once a call, which admission limits, and the count ends at 2**53-1.
Reads with admission's reader; a model has to be admitted before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .admission.onnx_graph import (
    Attribute,
    Function,
    FunctionKey,
    Graph,
    Node,
    OnnxModel,
    Reader,
    Value,
    normal,
)
from .admission.protobuf import BadMessage, Buffer, Wire
from .admission.refusal import Refusal
from .model import Fault
from .shape_call import Call
from .shape_guess import NOTHING, SCALAR, Guess, guess_of
from .shape_rules import outputs_of
from .work_operations import operations

MAX_WORK = 2**53 - 1

_KNOWN_DOMAINS = ("", "com.microsoft")
_Parameters = Mapping[bytes, Attribute]


def count(model: Buffer, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The operations of one unit whose inputs have ``shapes``: 1 to ``MAX_WORK``.

    ``model`` was admitted; an input that is not named has the shape that the model declares, free
    axes being 1. Raises BadMessage or Refusal if it was not admitted.
    """
    wire = Wire(model)
    given = {name.encode(): guess_of(dims) for name, dims in shapes.items()}
    total, _ = counted_graph(wire, Reader(wire).model(), given)
    return min(max(total, 1), MAX_WORK)


def counted_graph(
    wire: Wire, model: OnnxModel, given: Mapping[bytes, Guess]
) -> tuple[int, list[Guess]]:
    """The operations of a whole model, without a bound, and what is known of its outputs."""
    counting = _Counting(wire, {one.key: one for one in model.functions})
    return counting.graph(model.graph, _Names(None), given, {})


def count_for(model: Buffer, asked: list[Any]) -> int:
    """:func:`count` for a child: ``asked`` holds ``[name, dims]`` of each input.

    Raises :class:`Fault` if the model is none that was admitted.
    """
    try:
        return count(model, {name: tuple(dims) for name, dims in asked})
    except (BadMessage, Refusal) as error:
        raise Fault("model", f"its work cannot be counted: {error}") from None


class _Names:
    """What is known of the values of one graph, and of those around it."""

    def __init__(self, outer: _Names | None) -> None:
        self._outer = outer
        self._known: dict[bytes, Guess] = {}

    def __setitem__(self, name: bytes, guess: Guess) -> None:
        self._known[name] = guess

    def __getitem__(self, name: bytes) -> Guess:
        names: _Names | None = self
        while names is not None:
            if name in names._known:
                return names._known[name]
            names = names._outer
        return NOTHING


class _Counting:
    def __init__(self, wire: Wire, functions: dict[FunctionKey, Function]) -> None:
        self._wire = wire
        self._functions = functions

    def graph(
        self, graph: Graph, names: _Names, given: Mapping[bytes, Guess], parameters: _Parameters
    ) -> tuple[int, list[Guess]]:
        """The work of a graph, and its outputs; ``names`` is filled with its values."""
        for tensor in graph.initializers:
            names[tensor.name] = guess_of(tuple(tensor.dims), tensor, self._wire)
        for sparse in graph.sparse:
            names[sparse.values.name] = guess_of(tuple(sparse.dims))
        constants = {tensor.name for tensor in graph.initializers}
        for value in graph.inputs:
            if value.name in given:
                names[value.name] = given[value.name]
            elif value.name not in constants:
                names[value.name] = _declared(value)
        total = 0
        for node in graph.nodes:
            inputs = [names[self._wire.copy(*span)] for span in node.inputs]
            work, outputs = self._node(node, inputs, names, parameters)
            total += work
            for span, guess in zip(node.outputs, outputs, strict=False):
                names[self._wire.copy(*span)] = guess
        return total, [names[value.name] for value in graph.outputs]

    def _node(
        self, node: Node, inputs: list[Guess], names: _Names, parameters: _Parameters
    ) -> tuple[int, list[Guess]]:
        attributes = {
            name: parameters[given.ref] if given.ref is not None else given
            for name, given in node.attributes.items()
            if given.ref is None or given.ref in parameters
        }
        domain = normal(node.domain)
        called = self._functions.get((domain, node.op, node.overload))
        if called is not None:
            handed = {default.name: default for default in called.defaults} | attributes
            taken = dict(zip((value.name for value in called.body.inputs), inputs, strict=False))
            return self.graph(called.body, _Names(None), taken, handed)
        op = node.op if domain in _KNOWN_DOMAINS else ""
        graphs = {name: given.graphs[0] for name, given in attributes.items() if given.graphs}
        if graphs:
            return self._bodies(op, graphs, inputs, names, parameters, attributes)
        call = Call(op, inputs, len(node.outputs), attributes, self._wire)
        outputs = outputs_of(call)
        return operations(call, outputs), outputs

    def _bodies(
        self,
        op: str,
        graphs: Mapping[bytes, Graph],
        inputs: list[Guess],
        names: _Names,
        parameters: _Parameters,
        attributes: Mapping[bytes, Attribute],
    ) -> tuple[int, list[Guess]]:
        """What holds graphs: the body of a loop as if it went round once, the dearer branch."""
        found: list[tuple[int, list[Guess]]] = []
        for _, graph in sorted(graphs.items()):
            if op == "Loop":
                fed = [SCALAR, SCALAR, *map(_unnumbered, inputs[2:])]
            elif op == "Scan":
                fed = _slices(inputs, attributes)
            else:
                fed = inputs
            given = dict(zip((value.name for value in graph.inputs), fed, strict=False))
            found.append(self.graph(graph, _Names(names), given, parameters))
        total, outputs = max(found, key=lambda one: one[0])
        if op == "Loop":
            carried = max(0, len(inputs) - 2)
            outputs = [*outputs[1 : 1 + carried], *map(_stacked, outputs[1 + carried :])]
        elif op == "Scan":
            states = len(inputs) - _scanned(attributes)
            outputs = [*outputs[:states], *map(_stacked, outputs[states:])]
        return total, [_unnumbered(one) for one in outputs]


def _scanned(attributes: Mapping[bytes, Attribute]) -> int:
    given = attributes.get(b"num_scan_inputs")
    return given.i or 0 if given is not None else 0


def _slices(inputs: list[Guess], attributes: Mapping[bytes, Attribute]) -> list[Guess]:
    """A Scan's body sees its states whole, and one slice along the first axis of each sequence."""
    states = max(0, len(inputs) - _scanned(attributes))
    return [
        *map(_unnumbered, inputs[:states]),
        *(guess_of(one.dims[1:]) if one.dims else NOTHING for one in inputs[states:]),
    ]


def _unnumbered(guess: Guess) -> Guess:
    """What may hold other numbers in another round, or in the other branch."""
    return guess_of(guess.dims)


def _stacked(guess: Guess) -> Guess:
    """What a loop puts together of its rounds: of one round."""
    return guess_of((1, *guess.dims)) if guess.dims is not None else NOTHING


def _declared(value: Value) -> Guess:
    if value.kind is None or value.kind.shape is None:
        return NOTHING
    return guess_of(tuple(1 if dim is None else dim for dim in value.kind.shape))
