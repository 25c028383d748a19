"""Takes the rules to every node of a model, and measures what only adds up over all of them.

A function is looked at once, however often it is called; what its calls cost is counted.
"""

from __future__ import annotations

from typing import NamedTuple

from . import rules
from .onnx_graph import (
    BOUNDED_SIZE,
    MAX_NESTING,
    MAX_NODES,
    Attribute,
    Function,
    FunctionKey,
    Graph,
    OnnxModel,
    normal,
)
from .onnx_tensor import SparseTensor, Tensor
from .protobuf import Wire
from .refusal import THE_MODEL, Place, shown
from .scope import Scope, Site

BOUNDED_LOOPS = "bounded loops"
BOUNDED_FUNCTIONS = "bounded functions"

MAX_ROUNDS = 2**38
"""Rounds of a loop, times those of the loops around it.

A round takes onnxruntime a third of a microsecond at the very least: so many take longer than the
24 hours of CPU time that a job may ask for at most.
"""

MAX_CALLS = 16
"""Functions that call functions. Found in the wild: up to eight."""

_KNOWN_OPS = rules.SUSPECT_OPS | {"Loop"}


class Cost(NamedTuple):
    """What a graph comes to once every function call is written out."""

    nodes: int
    nesting: int
    rounds: int
    calls: int


class Walk:
    """One model on its way through the rules. Raises Refusal."""

    def __init__(self, wire: Wire, model: OnnxModel, *, contrib_ops: bool) -> None:
        self._wire = wire
        self._model = model
        self._contrib_ops = contrib_ops
        self._functions: dict[FunctionKey, Function] = {}
        self._costs: dict[FunctionKey, Cost | None] = {}
        self._calls: list[tuple[FunctionKey | None, FunctionKey, list[Attribute]]] = []
        self._types_by_parameter: list[tuple[FunctionKey, bytes, Place]] = []

    def run(self) -> None:
        """Hold the model against every rule."""
        model = self._model
        rules.inference_only(model)
        rules.no_settings(model)
        rules.standard_imports(model)
        rules.tensors_in_and_out(model)
        for function in model.functions:
            if function.key in self._functions:
                raise function.place.refuse(BOUNDED_FUNCTIONS, "there are two of this name")
            self._functions[function.key] = function
        for function in model.functions:
            self._function(function, function.place, 1)
        cost = self._graph(model.graph, None, THE_MODEL, None, 0)
        self._check(cost, THE_MODEL)
        self._check_types_by_parameter()

    def _function(self, function: Function, caller: Place, calls: int) -> Cost:
        """What one call of it comes to."""
        key = function.key
        if key in self._costs:
            cost = self._costs[key]
            if cost is None:
                raise caller.refuse(BOUNDED_FUNCTIONS, "the function calls itself, if indirectly")
        else:
            if calls > MAX_CALLS:
                raise caller.refuse(
                    BOUNDED_FUNCTIONS, f"functions call functions more than {MAX_CALLS} levels deep"
                )
            self._costs[key] = None
            for default in function.defaults:
                self._tensors(default, function.place)
                if default.graphs:
                    raise function.place.refuse(BOUNDED_FUNCTIONS, "a default is a graph")
            cost = self._graph(function.body, None, function.place, key, calls)
            self._check(cost, function.place)
            self._costs[key] = cost
        if cost.calls + calls > MAX_CALLS:
            raise caller.refuse(
                BOUNDED_FUNCTIONS, f"functions call functions more than {MAX_CALLS} levels deep"
            )
        return cost

    def _graph(
        self, graph: Graph, outer: Scope | None, within: Place, key: FunctionKey | None, calls: int
    ) -> Cost:
        for tensor in graph.initializers:
            self._tensor(tensor, within)
        for sparse in graph.sparse:
            self._sparse(sparse, within)
        if not graph.nodes:
            return Cost(0, 0, 1, 0)
        scope = Scope(self._wire, graph, outer)
        site = Site(self._wire, scope, within, graph.nodes[0])
        nodes, nesting, rounds, deepest = len(graph.nodes), 0, 1, 0
        for node in graph.nodes:
            site.node = node
            if node.domain:
                rules.standard_operator(site, self._functions, contrib_ops=self._contrib_ops)
            trips = 1
            if node.op in _KNOWN_OPS and normal(node.domain) in rules.KNOWN_DOMAINS:
                trips = self._known(site)
            inner: list[Cost] = []
            if node.attributes:
                inner = self._attributes(site, key, calls)
            if node.domain:
                called = self._functions.get((normal(node.domain), node.op, node.overload))
                if called is not None:
                    if node.attributes:
                        self._calls.append((key, called.key, list(node.attributes.values())))
                    cost = self._function(called, site.place, calls + 1)
                    inner.append(cost._replace(calls=cost.calls + 1))
            for cost in inner:
                nodes += cost.nodes
                nesting = max(nesting, cost.nesting)
                deepest = max(deepest, cost.calls)
                rounds = max(rounds, trips * cost.rounds)
            rounds = max(rounds, trips)
            if rounds > MAX_ROUNDS:
                raise site.refuse(
                    BOUNDED_LOOPS, f"with the loops around and within it goes {rounds} rounds"
                )
        return Cost(nodes, nesting, rounds, deepest)

    def _known(self, site: Site) -> int:
        """The rules for particular operators; returns how many rounds it goes, if it is a loop."""
        node = site.node
        rules.deterministic_operator(site)
        rules.numbers_only(site)
        rules.reproducible_product(site)
        if node.op in rules.LEAST and not normal(node.domain):
            rules.sound_attributes(site)
        if node.op == "ConstantOfShape" and not normal(node.domain):
            rules.sound_constant_shape(site)
        if node.op != "Loop" or normal(node.domain):
            return 1
        name = site.input(0)
        if not name:
            raise site.refuse(BOUNDED_LOOPS, "its trip count is missing")
        trips = site.scope.integers(name, 1)
        # What is computed, or given with the unit, is left to the CPU limit.
        return max(trips[0], 0) if trips else 1

    def _attributes(self, site: Site, key: FunctionKey | None, calls: int) -> list[Cost]:
        if normal(site.node.domain) in rules.KNOWN_DOMAINS:
            rules.numbers_only(site)
        inner: list[Cost] = []
        for name, given in site.node.attributes.items():
            if given.tensors or given.sparse:
                self._tensors(given, site.place)
            if given.ref is not None and key is not None and name in rules.TYPE_ATTRIBUTES:
                self._types_by_parameter.append((key, given.ref, site.place))
            for graph in given.graphs:
                place = Place(f"attribute {shown(name)}", site.place)
                cost = self._graph(graph, site.scope, place, key, calls)
                inner.append(cost._replace(nesting=cost.nesting + 1))
        return inner

    def _tensors(self, given: Attribute, place: Place) -> None:
        for tensor in given.tensors:
            self._tensor(tensor, place)
        for sparse in given.sparse:
            self._sparse(sparse, place)

    def _tensor(self, tensor: Tensor, place: Place) -> None:
        rules.one_file(tensor, place)
        rules.sound_tensor(tensor, place)

    def _sparse(self, sparse: SparseTensor, place: Place) -> None:
        rules.sound_sparse_tensor(sparse, place, self._wire)

    def _check(self, cost: Cost, place: Place) -> None:
        if cost.nodes > MAX_NODES:
            raise place.refuse(
                BOUNDED_FUNCTIONS,
                f"with its functions written out it has {cost.nodes} nodes, at most {MAX_NODES} "
                "are allowed",
            )
        if cost.nesting > MAX_NESTING:
            raise place.refuse(
                BOUNDED_SIZE, f"graphs are nested more than {MAX_NESTING} levels deep"
            )

    def _check_types_by_parameter(self) -> None:
        if not self._types_by_parameter:
            return
        texts = rules.text_parameters(
            self._calls, {key: function.defaults for key, function in self._functions.items()}
        )
        for key, parameter, place in self._types_by_parameter:
            if parameter in texts[key]:
                raise place.refuse(rules.NUMBERS_ONLY, "it makes text")
