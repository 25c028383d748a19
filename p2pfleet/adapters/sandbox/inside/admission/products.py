"""Products of bytes, and whether every CPU comes to the same one.

Measured with onnxruntime 1.32.0 under the pinned options, on imitated CPUs (``tests/masked_cpus``).
The kernels for AVX2, and for AVX-512 without dot products of bytes, multiply uint8 on the left by
int8 on the right in sums of 16 bits, which overflow: the result is wrong by a quarter of its
largest element, or by all of it. ``session.x64quantprecision`` mends it where the int8 side is a
constant of the same graph, and nowhere else: not for what is fed or computed, not for a constant of
the graph around. ConvInteger multiplies the other way round, so there int8 pixels with uint8
weights overflow, constant or not. Float operators between DequantizeLinear become such products as
well. int8 by int8, uint8 by uint8, and int8 by uint8 from the left are right everywhere.
"""

from __future__ import annotations

from .onnx_graph import Node, Value, normal
from .onnx_tensor import Tensor
from .scope import Scope, Site

UINT8, INT8 = 2, 3
_MAX_HOPS = 64

# Operator -> where its two sides stand, and where what tells their types besides (zero points).
_SIDES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "MatMulInteger": ((0, 2), (1, 3)),
    "QLinearMatMul": ((0, 2), (3, 5)),
    "QLinearConv": ((0, 2), (3, 5)),
    "QGemm": ((0, 2), (3, 5)),
    "MatMulIntegerToFloat": ((0, 4), (1, 5)),
    "QAttention": ((0, 6), (1, 7)),
}
# These make uint8 of a floating input themselves. -> (a weight, its zero point), ...
_DYNAMIC: dict[str, tuple[tuple[int, int], ...]] = {
    "DynamicQuantizeMatMul": ((1, 3),),
    "DynamicQuantizeLSTM": ((1, 9), (2, 11)),
}
_FLOATING = frozenset(("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv"))
PRODUCTS = frozenset((*_SIDES, *_DYNAMIC, *_FLOATING, "ConvInteger"))

# What hands the type of its first input on, and what onnxruntime moves a DequantizeLinear across.
_HANDING_ON = frozenset((
    "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather",
    "Split", "Concat", "Expand", "Tile", "Pad", "MaxPool", "GatherElements", "GatherND",
    "DepthToSpace", "SpaceToDepth", "Dropout", "Relu", "Clip", "Min", "Max",
))  # fmt: skip
_LIKE_INPUT = {
    "CastLike": 1, "Where": 1, "QLinearMatMul": 7, "QLinearConv": 7, "QGemm": 8,
}  # fmt: skip


def overflows(site: Site) -> str:
    """Why the product that ``site`` is differs between CPUs, or may; empty if it does not."""
    node = site.node
    if node.op in _FLOATING:
        return _dequantised_product(site)
    if node.op in _DYNAMIC:
        if any(
            _may_be(INT8, site, weight, zero) and not _constant(site, weight)
            for weight, zero in _DYNAMIC[node.op]
        ):
            return _NOT_CONSTANT
        return ""
    if node.op == "ConvInteger":
        if _may_be(INT8, site, 0, 2) and _may_be(UINT8, site, 1, 3):
            return "it multiplies int8 by weights of uint8, which differs between CPUs"
        return ""
    left, right = _SIDES[node.op]
    if _may_be(UINT8, site, *left) and _may_be(INT8, site, *right):
        return "" if _constant(site, right[0]) else _NOT_CONSTANT
    return ""


_NOT_CONSTANT = (
    "it multiplies uint8 by int8 that is no constant of its own graph, which differs between CPUs "
    "(use uint8 for both)"
)


def _constant(site: Site, index: int) -> bool:
    return site.scope.constant_here(site.input(index))


def _may_be(dtype: int, site: Site, index: int, zero: int) -> bool:
    """Whether an input may be of ``dtype``, by itself or by its zero point; unknown may be."""
    found = _element_type(site.scope, site.input(index))
    if found is None and site.input(zero):
        found = _element_type(site.scope, site.input(zero))
    return found in (dtype, None)


def _dequantised_product(site: Site) -> str:
    """Float operators between DequantizeLinear are fused into products of bytes."""
    left, right = (_dequantised(site.scope, site.input(index)) for index in (0, 1))
    if left is None or right is None:
        return ""
    if not (_dequantises(left, UINT8) and _dequantises(right, INT8)):
        return ""
    return "" if right.scope.constant_here(right.input(0)) else _NOT_CONSTANT


def _dequantises(site: Site, dtype: int) -> bool:
    return _may_be(dtype, site, 0, 2)


def _dequantised(scope: Scope, name: bytes) -> Site | None:
    """The DequantizeLinear of the same graph that ``name`` comes from, if it comes from one."""
    for _ in range(_MAX_HOPS):
        found = scope.maker(name)
        if found is None or found[0] is not scope or not isinstance(found[1], Node):
            return None
        site = scope.site(found[1])
        if found[1].op == "DequantizeLinear":
            return site
        if found[1].op not in _HANDING_ON or normal(found[1].domain):
            return None
        name = site.input(0)
    return None


def _element_type(scope: Scope, name: bytes) -> int | None:
    """The type of a value, if it can be told; as ONNX numbers them."""
    for _ in range(_MAX_HOPS):
        found = scope.maker(name)
        if found is None:
            return None
        scope, maker = found
        if isinstance(maker, Tensor):
            return maker.dtype
        if isinstance(maker, Value):
            return maker.kind.dtype if maker.kind is not None else None
        if maker is None:
            return None
        told = _told(scope, maker, name)
        if isinstance(told, int) or told is None:
            return told
        name = told
    return None


def _told(scope: Scope, node: Node, name: bytes) -> int | bytes | None:
    """The type of an output, or the name of a value of the same type."""
    site = scope.site(node)
    if node.op == "DynamicQuantizeLinear":
        return UINT8 if name != site.output(1) else 1
    if node.op == "QuantizeLinear":
        said = node.attributes.get(b"output_dtype")
        if said is not None and said.i:
            return said.i
        return site.input(2) or UINT8
    if node.op == "Cast":
        to = node.attributes.get(b"to")
        return to.i if to is not None else None
    if node.op in ("Constant", "ConstantOfShape"):
        given = node.attributes.get(b"value")
        return given.tensors[0].dtype if given is not None and given.tensors else None
    if node.op in _HANDING_ON:
        return site.input(0)
    if node.op in _LIKE_INPUT:
        return site.input(_LIKE_INPUT[node.op])
    return None
