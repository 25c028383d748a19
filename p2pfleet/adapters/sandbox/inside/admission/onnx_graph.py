"""A model as the rules see it: graphs, nodes, attributes, functions.

Values, documentation and notes are stepped over by their length. What a parser would merge (the
same part of a message said twice) is refused, so that nothing is seen here but what onnxruntime
sees. A field that ONNX did not have when this was written is refused as well: it might matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .onnx_tensor import (
    Kind,
    Span,
    SparseTensor,
    Tensor,
    read_sparse,
    read_tensor,
    read_type,
    unknown,
)
from .protobuf import BadMessage, Wire, runs, signed32, signed64
from .refusal import THE_MODEL, Place, shown

BOUNDED_SIZE = "bounded size"

MAX_NODES = 50_000
"""Nodes of a model in all its graphs and functions. Language models have up to 20,000; loading
takes onnxruntime a time that grows with the square of their number (100,000: 20 seconds)."""

MAX_PARTS = 131_072
"""Initialisers, inputs, outputs, of one graph each."""

MAX_PORTS = 4096
"""Inputs of one node, and outputs. Found in the wild: some hundred, for a Concat."""

MAX_ATTRIBUTES = 128
"""Attributes of one node; no operator has thirty."""

MAX_NESTING = 12
"""Graphs within graphs. Found in the wild: up to six."""

MAX_FUNCTIONS = 4096
MAX_METADATA = 4096

_ATTRIBUTE_RUNS = runs((8,), (7,))
_CACHED_BYTES = 96
_CACHED = 4096


@dataclass(slots=True)
class Attribute:
    """An AttributeProto. Which of its values counts says ``type``; the rules look at all."""

    name: bytes = b""
    ref: bytes | None = None
    type: int = 0
    i: int | None = None
    s: bytes | None = None
    ints: list[tuple[int, int, int]] = field(default_factory=list)
    strings: int = 0
    tensors: list[Tensor] = field(default_factory=list)
    sparse: list[SparseTensor] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    known: list[int] | None = None

    def integers(self, wire: Wire, most: int) -> list[int] | None:
        """The list of integers, or ``None`` if there are more than ``most``."""
        if self.known is None:
            self.known = []
            for key, start, stop in self.ints:
                numbers = (
                    wire.varints(start, stop)
                    if key == 66
                    else (value for _, value, _ in wire.fields(start, stop))
                )
                self.known += (signed64(number) for number in numbers)
        return self.known if len(self.known) <= most else None


@dataclass(slots=True)
class Node:
    """A NodeProto; the names of its inputs and outputs stay where they are."""

    index: int
    op: str
    domain: str
    overload: str
    name: Span
    inputs: list[Span]
    outputs: list[Span]
    attributes: dict[bytes, Attribute]

    def place(self, wire: Wire, within: Place) -> Place:
        """For a sentence: its name if it has one, and what it is."""
        start, stop = self.name
        name = wire.copy(start, min(stop, start + 200))
        return Place(f"node {shown(name) if name else self.index} ({shown(self.op)[1:-1]})", within)


@dataclass
class Value:
    """A ValueInfoProto, as far as inputs and outputs of a graph are concerned."""

    name: bytes
    kind: Kind | None


@dataclass
class Graph:
    """A GraphProto, at the top, in an attribute, or the body of a function."""

    nodes: list[Node] = field(default_factory=list)
    initializers: list[Tensor] = field(default_factory=list)
    sparse: list[SparseTensor] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


FunctionKey = tuple[str, str, str]


@dataclass
class Function:
    """A FunctionProto: a graph under a name, with parameters."""

    key: FunctionKey
    body: Graph
    imports: list[str]
    defaults: list[Attribute]

    @property
    def place(self) -> Place:
        """For a sentence."""
        domain, name, _ = self.key
        return Place(f"function {shown(f'{domain}.{name}')}", THE_MODEL)


@dataclass
class OnnxModel:
    """A ModelProto."""

    graph: Graph
    imports: list[str]
    functions: list[Function]
    metadata: list[bytes]
    trained: bool


class Reader:
    """Reads one model. Raises BadMessage, and Refusal for the rule "bounded size"."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._nodes = 0
        self._texts: dict[bytes, str] = {}
        self._attributes: dict[bytes, Attribute] = {}

    def model(self) -> OnnxModel:
        """The whole model."""
        wire = self._wire
        model = OnnxModel(Graph(), [], [], [], trained=False)
        graph: Span | None = None
        seen: set[int] = set()
        for key, a, b in wire.fields(0, len(wire.data)):
            if key == 58:
                if graph is not None:
                    raise BadMessage("it has two graphs")
                graph = (a, b)
            elif key == 66:
                model.imports.append(self._import(a, b))
            elif key == 114:
                model.metadata.append(self._key_of(a, b))
            elif key == 162:
                model.trained = True
            elif key == 202:
                model.functions.append(self._function(a, b))
            elif key in (8, 40):
                if key in seen:
                    raise BadMessage("it says its version twice")
                seen.add(key)
            elif key not in (18, 26, 34, 50, 210):
                raise unknown(key, "the model")
            if max(len(model.imports), len(model.functions)) > MAX_FUNCTIONS:
                raise THE_MODEL.refuse(BOUNDED_SIZE, f"it has over {MAX_FUNCTIONS} functions")
            if len(model.metadata) > MAX_METADATA:
                raise THE_MODEL.refuse(BOUNDED_SIZE, f"it has over {MAX_METADATA} notes")
        if graph is None:
            raise BadMessage("it has no graph")
        model.graph = self._graph(*graph, 0)
        return model

    def _graph(self, start: int, stop: int, depth: int) -> Graph:
        if depth > MAX_NESTING:
            raise THE_MODEL.refuse(
                BOUNDED_SIZE, f"graphs are nested more than {MAX_NESTING} levels deep"
            )
        wire = self._wire
        graph = Graph()
        for key, a, b in wire.fields(start, stop):
            if key == 10:
                graph.nodes.append(self._node(a, b, len(graph.nodes), depth))
            elif key == 42:
                graph.initializers.append(read_tensor(wire, a, b))
            elif key == 90:
                graph.inputs.append(self._value(a, b))
            elif key == 98:
                graph.outputs.append(self._value(a, b))
            elif key == 122:
                graph.sparse.append(read_sparse(wire, a, b))
            elif key not in (18, 82, 106, 114, 130):
                raise unknown(key, "a graph")
        for parts in (graph.initializers, graph.inputs, graph.outputs, graph.sparse):
            if len(parts) > MAX_PARTS:
                raise THE_MODEL.refuse(BOUNDED_SIZE, f"a graph has {len(parts)} values")
        return graph

    def _node(self, start: int, stop: int, index: int, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise THE_MODEL.refuse(BOUNDED_SIZE, f"it has more than {MAX_NODES} nodes")
        inputs: list[Span] = []
        outputs: list[Span] = []
        attributes: dict[bytes, Attribute] = {}
        name: Span | None = None
        op = domain = overload = None
        for key, a, b in self._wire.fields(start, stop):
            if key == 10:
                inputs.append((a, b))
            elif key == 18:
                outputs.append((a, b))
            elif key == 26 and name is None:
                name = (a, b)
            elif key == 34 and op is None:
                op = self._text(a, b, "the name of an operator")
            elif key == 42:
                attribute = self._attribute(a, b, depth)
                if attribute.name in attributes:
                    raise BadMessage(f"a node has two attributes {shown(attribute.name)}")
                attributes[attribute.name] = attribute
            elif key == 58 and domain is None:
                domain = self._text(a, b, "the domain of an operator")
            elif key == 66 and overload is None:
                overload = self._text(a, b, "the overload of an operator")
            elif key not in (50, 74, 82):
                raise unknown(key, "a node")
        node = Node(
            index,
            op or "",
            domain or "",
            overload or "",
            name or (0, 0),
            inputs,
            outputs,
            attributes,
        )
        if max(len(inputs), len(outputs)) > MAX_PORTS or len(attributes) > MAX_ATTRIBUTES:
            raise node.place(self._wire, THE_MODEL).refuse(
                BOUNDED_SIZE,
                f"it has {len(inputs)} inputs, {len(outputs)} outputs and {len(attributes)} "
                f"attributes; {MAX_PORTS}, {MAX_PORTS} and {MAX_ATTRIBUTES} are allowed",
            )
        return node

    def _attribute(self, start: int, stop: int, depth: int) -> Attribute:
        # The same few attributes stand at thousands of nodes.
        if stop - start > _CACHED_BYTES:
            return self._read_attribute(start, stop, depth)
        written = bytes(self._wire.data[start:stop])
        known = self._attributes.get(written)
        if known is None:
            known = self._read_attribute(start, stop, depth)
            if not known.graphs and len(self._attributes) < _CACHED:
                self._attributes[written] = known
        return known

    def _read_attribute(self, start: int, stop: int, depth: int) -> Attribute:
        wire = self._wire
        attribute = Attribute()
        seen: set[int] = set()
        for key, a, b in wire.fields(start, stop, _ATTRIBUTE_RUNS):
            if key in _ATTRIBUTE_ONCE:
                if key in seen:
                    raise BadMessage("an attribute says the same twice")
                seen.add(key)
            if key == 10:
                attribute.name = wire.copy(a, b)
            elif key == 160:
                attribute.type = signed32(a)
                if not 0 <= attribute.type <= 14:
                    raise BadMessage("an attribute has a type that ONNX does not know")
            elif key == 24:
                attribute.i = signed64(a)
            elif key == 34:
                attribute.s = wire.copy(a, min(b, a + 4096))
            elif key in (64, 66):
                if key == 66:
                    wire.count_varints(a, b)
                attribute.ints.append((key, a, b))
            elif key == 74:
                attribute.strings += 1
            elif key in (42, 82):
                attribute.tensors.append(read_tensor(wire, a, b))
            elif key in (178, 186):
                attribute.sparse.append(read_sparse(wire, a, b))
            elif key in (50, 90):
                attribute.graphs.append(self._graph(a, b, depth + 1))
            elif key == 170:
                attribute.ref = wire.copy(a, b)
            elif key == 58:
                if (b - a) % 4:
                    raise BadMessage("a number is cut off")
            elif key == 61:
                pass
            elif key in (114, 122):
                read_type(wire, a, b)
            elif key not in (21, 106):
                raise unknown(key, "an attribute")
        return attribute

    def _function(self, start: int, stop: int) -> Function:
        wire = self._wire
        key_of: dict[int, str] = {}
        body = Graph()
        imports: list[str] = []
        defaults: list[Attribute] = []
        for key, a, b in wire.fields(start, stop):
            if key in (10, 82, 106):
                if key in key_of:
                    raise BadMessage("a function has two names")
                key_of[key] = self._text(a, b, "the name of a function")
            elif key == 34:
                body.inputs.append(Value(wire.copy(a, b), None))
            elif key == 42:
                body.outputs.append(Value(wire.copy(a, b), None))
            elif key == 58:
                body.nodes.append(self._node(a, b, len(body.nodes), 0))
            elif key == 74:
                imports.append(self._import(a, b))
            elif key == 90:
                defaults.append(self._attribute(a, b, 0))
            elif key not in (50, 66, 98, 114):
                raise unknown(key, "a function")
        name = (normal(key_of.get(82, "")), key_of.get(10, ""), key_of.get(106, ""))
        return Function(name, body, imports, defaults)

    def _value(self, start: int, stop: int) -> Value:
        name: bytes | None = None
        type_: Span | None = None
        for key, a, b in self._wire.fields(start, stop):
            if key == 10 and name is None:
                name = self._wire.text(a, b, "the name of an input or output").encode()
            elif key == 18 and type_ is None:
                type_ = (a, b)
            elif key not in (26, 34):
                raise unknown(key, "an input or output")
        return Value(name or b"", read_type(self._wire, *type_) if type_ else None)

    def _import(self, start: int, stop: int) -> str:
        domain: str | None = None
        versions = 0
        for key, a, b in self._wire.fields(start, stop):
            if key == 10 and domain is None:
                domain = self._text(a, b, "an imported domain")
            elif key == 16 and not versions:
                versions = 1
            else:
                raise unknown(key, "an import")
        return normal(domain or "")

    def _key_of(self, start: int, stop: int) -> bytes:
        name: bytes | None = None
        for key, a, b in self._wire.fields(start, stop):
            if key == 10 and name is None:
                name = self._wire.copy(a, min(b, a + 256))
            elif key != 18:
                raise unknown(key, "a note")
        return name or b""

    def _text(self, start: int, stop: int, what: str) -> str:
        written = bytes(self._wire.data[start:stop])
        text = self._texts.get(written)
        if text is None:
            text = self._wire.text(start, stop, what)
            if len(self._texts) < _CACHED:
                self._texts[written] = text
        return text


_ATTRIBUTE_ONCE = frozenset((10, 160, 24, 34, 42, 178, 50, 170, 114, 21))


def normal(domain: str) -> str:
    """ONNX's own domain has two names."""
    return "" if domain == "ai.onnx" else domain
