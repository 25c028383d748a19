"""The rules that a model is held to: one function each, named in every refusal.

They are for what limits cannot catch (reading files, chance, code of others) and for what can be
seen at a glance. What passes here may still be slow, large or broken: limits end it, onnxruntime
refuses it, or its child dies of it.

Sequences and optionals are admitted within a graph: there they are lists of tensors in the child's
own, limited memory, and detectors and decoders use them. They only cannot travel.
"""

from __future__ import annotations

from collections.abc import Container
from math import prod

from .onnx_graph import Attribute, FunctionKey, OnnxModel, normal
from .onnx_tensor import ELEMENT_TYPES, MAX_AXES, STRING, SparseTensor, Tensor
from .products import PRODUCTS, overflows
from .protobuf import Wire
from .refusal import THE_MODEL, Place, shown
from .scope import Site

ONE_FILE = "one file"
STANDARD_OPERATORS = "standard operators"
DETERMINISTIC_OPERATORS = "deterministic operators"
NUMBERS_ONLY = "numbers only"
TENSORS_IN_AND_OUT = "tensors in and out"
SOUND_SHAPES = "sound shapes"
SOUND_ATTRIBUTES = "sound attributes"
REPRODUCIBLE_PRODUCTS = "reproducible products"
INFERENCE_ONLY = "inference only"
NO_SETTINGS = "no settings"

_STANDARD = frozenset(("", "ai.onnx.ml"))
_CONTRIB = "com.microsoft"
KNOWN_DOMAINS = _STANDARD | {_CONTRIB}

# Models that onnxruntime's own tools wrote import all of these and use none: that harms nobody.
_IMPORTED_IN_VAIN = frozenset((
    "com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc",
    "com.microsoft.dml", "com.ms.internal.nhwc", "ai.onnx.training", "ai.onnx.preview",
    "ai.onnx.preview.training", "org.pytorch.aten",
))  # fmt: skip
_RESERVED = ("ai.onnx", "com.microsoft", "com.ms", "org.pytorch")

# Of onnxruntime's own operators: what loads files or contexts, is up to chance, or deals in text.
_LOADERS = frozenset(("EPContext", "Snpe", "SnpeOp", "OpenVINO_EP_Subgraph", "PyOp", "ATen"))
_CONTRIB_RANDOM = frozenset((
    "Sampling", "BiasDropout", "BitmaskDropout", "BitmaskBiasDropout", "RandomNormal",
))  # fmt: skip
_RANDOM = frozenset((
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli",
))  # fmt: skip
_TEXT = frozenset((
    "StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "CategoryMapper",
    "Tokenizer",
))  # fmt: skip
TYPE_ATTRIBUTES = (b"to", b"dtype")

_STRING_DATA = 6
_TRAVELLING = frozenset(range(1, 14)) - {STRING}
MAX_DIM = 2**40
MAX_BYTES = 2**40
"""No job may have more memory than this (``core.model.job.Limits``)."""


# ---- the model as a whole --------------------------------------------------------------------


def inference_only(model: OnnxModel) -> None:
    """It has no part for training, which nobody would run."""
    if model.trained:
        raise THE_MODEL.refuse(INFERENCE_ONLY, "it carries information for training")


def no_settings(model: OnnxModel) -> None:
    """It does not try to configure onnxruntime."""
    for key in model.metadata:
        if key.lower().startswith(b"ort_config"):
            raise THE_MODEL.refuse(NO_SETTINGS, f"its note {shown(key)} configures onnxruntime")


def standard_imports(model: OnnxModel) -> None:
    """Every domain it imports is one of ONNX's or onnxruntime's, or of its own functions."""
    known = _STANDARD | _IMPORTED_IN_VAIN | {function.key[0] for function in model.functions}
    for place, imports in (
        (THE_MODEL, model.imports),
        *((function.place, function.imports) for function in model.functions),
    ):
        for domain in imports:
            if domain not in known:
                raise place.refuse(STANDARD_OPERATORS, f"it imports {shown(domain)}")
    for function in model.functions:
        domain = function.key[0]
        if not domain or any(
            domain == reserved or domain.startswith(f"{reserved}.") for reserved in _RESERVED
        ):
            raise function.place.refuse(
                STANDARD_OPERATORS, f"the domain {shown(domain)} is not for functions of its own"
            )


def tensors_in_and_out(model: OnnxModel) -> None:
    """Its inputs and outputs are tensors of numbers or truth values, and of possible sizes."""
    for role, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            place = Place(f"{role} {shown(value.name)}", None)
            if value.kind is None:
                continue  # an output's may be left to onnxruntime, which finds it out
            if value.kind.dtype not in _TRAVELLING:
                raise place.refuse(
                    TENSORS_IN_AND_OUT,
                    f"it is a {value.kind.name}; only tensors of numbers and truth values travel",
                )
            dims = value.kind.shape or ()
            if any(dim is not None and dim >= MAX_DIM for dim in dims):
                raise place.refuse(SOUND_SHAPES, "an axis is longer than any memory")


# ---- one node --------------------------------------------------------------------------------


def standard_operator(site: Site, functions: Container[FunctionKey], *, contrib_ops: bool) -> None:
    """It is of ONNX's own domains, a function of the model, or a harmless one of onnxruntime's."""
    node = site.node
    domain = normal(node.domain)
    if domain in _STANDARD or (domain, node.op, node.overload) in functions:
        return
    if domain != _CONTRIB:
        raise site.refuse(STANDARD_OPERATORS, f"the domain {shown(domain)} is not ONNX's own")
    if node.op in _LOADERS:
        raise site.refuse(STANDARD_OPERATORS, "it loads what is not in the model")
    if not contrib_ops:
        raise site.refuse(
            STANDARD_OPERATORS, "operators of com.microsoft are not allowed on this machine"
        )


def deterministic_operator(site: Site) -> None:
    """Its output depends on nothing but its inputs.

    A seed does not help: it makes only the first run of a session repeatable.
    """
    node = site.node
    if node.op in (_CONTRIB_RANDOM if node.domain == _CONTRIB else _RANDOM):
        raise site.refuse(DETERMINISTIC_OPERATORS, "its output is random")
    if node.op == "Dropout":
        mode = site.input(2)
        if mode and site.scope.integers(mode, 1) != [0]:
            raise site.refuse(
                DETERMINISTIC_OPERATORS, "its training_mode is anything but a constant false"
            )


def numbers_only(site: Site) -> None:
    """It makes no text, as far as it says so itself (see ``text_parameters``)."""
    node = site.node
    if node.op in _TEXT:
        raise site.refuse(NUMBERS_ONLY, "it works on text")
    for name, given in node.attributes.items():
        if name in TYPE_ATTRIBUTES and _says_text(given):
            raise site.refuse(NUMBERS_ONLY, "it makes text")
        if name in (b"value_string", b"value_strings") or (
            given.strings and name.endswith(b"_strings")
        ):
            raise site.refuse(NUMBERS_ONLY, f"its attribute {shown(name)} is text")


def sound_attributes(site: Site) -> None:
    """What ONNX wants positive is positive: onnxruntime has crashed on some of these."""
    node = site.node
    for name, least in LEAST[node.op]:
        given = node.attributes.get(name)
        if given is None or given.ref is not None:
            continue
        numbers = given.integers(site.wire, MAX_AXES) if given.ints else [given.i or 0]
        if numbers is None or min(numbers, default=least) < least:
            raise site.refuse(
                SOUND_ATTRIBUTES, f"its attribute {shown(name)} has to be at least {least}"
            )


_SLIDING = ((b"strides", 1), (b"kernel_shape", 1), (b"dilations", 1))
LEAST: dict[str, tuple[tuple[bytes, int], ...]] = {
    "GatherND": ((b"batch_dims", 0),),
    "Split": ((b"num_outputs", 1),),
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"),
                    (*_SLIDING, (b"group", 1))),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "MaxUnpool"), _SLIDING),
}  # fmt: skip


SUSPECT_OPS = (
    frozenset((*LEAST, *_RANDOM, *_CONTRIB_RANDOM, "Dropout", "ConstantOfShape", *_TEXT)) | PRODUCTS
)


def reproducible_product(site: Site) -> None:
    """It does not multiply bytes in a way that comes out otherwise on other CPUs (``products``).

    No tolerance mends that: honest volunteers would differ by a quarter of the largest element.
    """
    if site.node.op in PRODUCTS:
        why = overflows(site)
        if why:
            raise site.refuse(REPRODUCIBLE_PRODUCTS, why)


def sound_constant_shape(site: Site) -> None:
    """A tensor of constant shape fits into a memory that a job may have."""
    shape = site.scope.integers(site.input(0), MAX_AXES)
    if shape is None:
        return
    if any(dim < 0 for dim in shape):
        raise site.refuse(SOUND_SHAPES, "its shape has a negative axis")
    given = site.node.attributes.get(b"value")
    dtype = given.tensors[0].dtype if given is not None and given.tensors else 1
    bits = ELEMENT_TYPES[dtype].bits if dtype in ELEMENT_TYPES else 8
    if prod(shape) * bits >= 8 * MAX_BYTES:
        raise site.refuse(SOUND_SHAPES, f"it makes {min(prod(shape), 2**64)} elements or more")


# ---- one tensor ------------------------------------------------------------------------------


def one_file(tensor: Tensor, place: Place) -> None:
    """Its data are in the model."""
    if tensor.external:
        raise place.refuse(ONE_FILE, f"tensor {shown(tensor.name)} lies in a file of its own")


def sound_tensor(tensor: Tensor, place: Place) -> None:
    """It holds as many numbers as it declares, and declares a possible number of them."""
    if tensor.dtype == STRING or _STRING_DATA in tensor.counts:
        raise place.refuse(NUMBERS_ONLY, f"tensor {shown(tensor.name)} is text")
    why = _unsound(tensor)
    if why:
        raise place.refuse(SOUND_SHAPES, f"tensor {shown(tensor.name)} {why}")


def sound_sparse_tensor(tensor: SparseTensor, place: Place, wire: Wire) -> None:
    """Its indices lie within its shape, and unfolded it fits into a memory that a job may have."""
    name = shown(tensor.values.name)
    for part in (tensor.values, tensor.indices):
        one_file(part, place)
        sound_tensor(part, place)
    why = _unsound_dims(tensor.dims, ELEMENT_TYPES[tensor.values.dtype].bits)
    if why:
        raise place.refuse(SOUND_SHAPES, f"sparse tensor {name} {why}")
    count, axes = tensor.values.elements, len(tensor.dims)
    linear = tensor.indices.dims == [count]
    if not linear and tensor.indices.dims != [count, axes]:
        raise place.refuse(SOUND_SHAPES, f"sparse tensor {name} has not one index for each value")
    indices = tensor.indices.integers(wire, wire.left)
    if indices is None:
        raise place.refuse(SOUND_SHAPES, f"the indices of sparse tensor {name} are no integers")
    bounds = [prod(tensor.dims)] if linear else tensor.dims
    for axis, bound in enumerate(bounds):
        along = indices[axis :: len(bounds)]
        if along and not (min(along) >= 0 and max(along) < bound):
            raise place.refuse(SOUND_SHAPES, f"sparse tensor {name} has an index out of range")


def _unsound(tensor: Tensor) -> str:
    kind = ELEMENT_TYPES.get(tensor.dtype)
    if kind is None:
        return f"has the unknown type {tensor.dtype}"
    why = _unsound_dims(tensor.dims, kind.bits)
    if why:
        return why
    elements = tensor.elements
    if tensor.raw is not None:
        have, want, unit = tensor.raw[1] - tensor.raw[0], (elements * kind.bits + 7) // 8, "bytes"
        parts = 1 + len(tensor.counts)
    else:
        have = tensor.counts.get(kind.number, 0)
        want, unit = -(-elements // kind.elements) * kind.entries, "numbers"
        parts = len(tensor.counts)
    if parts > 1:
        return "has its data in several parts"
    if have != want:
        return f"holds {have} {unit} where its shape of {kind.name} needs {want}"
    return ""


def _unsound_dims(dims: list[int], bits: int) -> str:
    if len(dims) > MAX_AXES:
        return f"has more than {MAX_AXES} axes"
    if min(dims, default=0) < 0:
        return "has a negative axis"
    if max(dims, default=0) >= MAX_DIM or prod(dims) * bits > 8 * MAX_BYTES:
        return "is larger than any memory"
    return ""


# ---- what parameters of functions may say ----------------------------------------------------


def text_parameters(
    calls: list[tuple[FunctionKey | None, FunctionKey, list[Attribute]]],
    defaults: dict[FunctionKey, list[Attribute]],
) -> dict[FunctionKey, frozenset[bytes]]:
    """The attributes of each function through which someone hands it the type string.

    ``calls``: (calling function or ``None`` for the graph, called function, attributes given).
    """
    texts: dict[FunctionKey, set[bytes]] = {
        key: {given.name for given in attributes if _says_text(given)}
        for key, attributes in defaults.items()
    }
    changed = True
    while changed:
        changed = False
        for caller, called, attributes in calls:
            handed = {
                given.name
                for given in attributes
                if _says_text(given)
                or (caller is not None and given.ref is not None and given.ref in texts[caller])
            }
            if not handed <= texts[called]:
                texts[called] |= handed
                changed = True
    return {key: frozenset(names) for key, names in texts.items()}


def _says_text(given: Attribute) -> bool:
    return given.i == STRING or given.s == b"STRING"
