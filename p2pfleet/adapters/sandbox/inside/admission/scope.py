"""Which names of a graph are constants, and of what value: seen from a node, outwards."""

from __future__ import annotations

from .onnx_graph import Attribute, Graph, Node, Value, normal
from .onnx_tensor import Tensor
from .protobuf import Wire
from .refusal import THE_MODEL, Place, Refusal

Maker = Tensor | Value | Node | None
"""Where a value comes from; ``None`` if several say so."""


class Scope:
    """The names of one graph, and, through ``outer``, of those around it.

    Only names that are said once count as constants: onnxruntime takes the last of several
    initialisers, and refuses other repetitions. An initialiser that is also an input is a constant
    at the top, where nobody feeds it, and not in a body, which is fed by the node it belongs to.
    """

    def __init__(self, wire: Wire, graph: Graph, outer: Scope | None) -> None:
        self._wire = wire
        self._graph = graph
        self._outer = outer
        self._names: dict[bytes, Tensor | Attribute | None] | None = None
        self._makers: dict[bytes, Maker] | None = None

    def integers(self, name: bytes, most: int) -> list[int] | None:
        """The value of ``name``, if it is a constant of at most ``most`` integers."""
        scope: Scope | None = self
        while scope is not None:
            names = scope._named()
            if name in names:
                return self._value(names[name], most)
            scope = scope._outer
        return None

    def constant_here(self, name: bytes) -> bool:
        """Whether ``name`` is a constant of this very graph that nobody can feed instead."""
        return self._named().get(name) is not None and all(
            value.name != name for value in self._graph.inputs
        )

    def maker(self, name: bytes) -> tuple[Scope, Maker] | None:
        """Where the value ``name`` comes from, and in which graph; ``None`` if it is nowhere."""
        scope: Scope | None = self
        while scope is not None:
            makers = scope._made()
            if name in makers:
                return scope, makers[name]
            scope = scope._outer
        return None

    def site(self, node: Node) -> Site:
        """A node of this graph, to be looked at."""
        return Site(self._wire, self, THE_MODEL, node)

    def _made(self) -> dict[bytes, Maker]:
        if self._makers is None:
            makers: dict[bytes, Maker] = {
                tensor.name: tensor for tensor in self._graph.initializers
            }
            for value in self._graph.inputs:
                makers.setdefault(value.name, value)
            for node in self._graph.nodes:
                for span in node.outputs:
                    if span[0] == span[1]:
                        continue  # an output that is left out
                    name = self._wire.copy(*span)
                    makers[name] = None if name in makers else node
            self._makers = makers
        return self._makers

    def _value(self, given: Tensor | Attribute | None, most: int) -> list[int] | None:
        if isinstance(given, Tensor):
            return given.integers(self._wire, most)
        if given is None or given.ref is not None:
            return None
        if given.name == b"value" and len(given.tensors) == 1:
            return given.tensors[0].integers(self._wire, most)
        if given.name == b"value_int" and given.i is not None:
            return [given.i]
        if given.name == b"value_ints":
            return given.integers(self._wire, most)
        return None

    def _named(self) -> dict[bytes, Tensor | Attribute | None]:
        # Most graphs have no node that asks, so the names are only collected when one does.
        if self._names is None:
            self._names = {}
            for tensor in self._graph.initializers:
                self._add(tensor.name, tensor)
            for sparse in self._graph.sparse:
                self._add(sparse.values.name, None)
            for value in self._graph.inputs:
                if self._outer is not None or value.name not in self._names:
                    self._names[value.name] = None
            for node in self._graph.nodes:
                constant = None
                if node.op == "Constant" and not normal(node.domain) and len(node.attributes) == 1:
                    constant = next(iter(node.attributes.values()))
                for span in node.outputs:
                    self._add(self._wire.copy(*span), constant)
        return self._names

    def _add(self, name: bytes, value: Tensor | Attribute | None) -> None:
        assert self._names is not None
        self._names[name] = None if name in self._names else value


class Site:
    """The node that is being looked at, and what the rules may need to judge it."""

    def __init__(self, wire: Wire, scope: Scope, within: Place, node: Node) -> None:
        self.wire = wire
        self.scope = scope
        self.within = within
        self.node = node

    def input(self, index: int) -> bytes:
        """The name of one of its inputs; empty if it is not given."""
        spans = self.node.inputs
        return self.wire.copy(*spans[index]) if index < len(spans) else b""

    def output(self, index: int) -> bytes:
        """The name of one of its outputs; empty if it is not given."""
        spans = self.node.outputs
        return self.wire.copy(*spans[index]) if index < len(spans) else b""

    @property
    def place(self) -> Place:
        """For a sentence."""
        return self.node.place(self.wire, self.within)

    def refuse(self, rule: str, why: str) -> Refusal:
        """The refusal of this node."""
        return self.place.refuse(rule, why)
