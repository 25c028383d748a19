"""Shapes of what operators compute: element by element, products, windows, recurrent cells."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod

from .shape_call import Call, Rule
from .shape_guess import MAX_NUMBERS, NOTHING, Dims, Guess, Number, guess_of, numbered

PRODUCTS = frozenset((
    "MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul", "Gemm", "FusedGemm", "QGemm",
))  # fmt: skip
POOLS = frozenset(("MaxPool", "AveragePool", "LpPool"))
REDUCTIONS = frozenset((
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin", "GlobalAveragePool",
    "GlobalMaxPool", "GlobalLpPool",
))  # fmt: skip


# ---- element by element ----------------------------------------------------------------------


def broadcast(shapes: list[Dims]) -> Dims | None:
    """The shape of all of them together; ``None`` if they do not go together."""
    rank = max(map(len, shapes), default=0)
    dims = []
    for axis in range(-rank, 0):
        sizes = {dims[axis] for dims in shapes if len(dims) >= -axis} - {1}
        if len(sizes) > 1:
            return None
        dims.append(sizes.pop() if sizes else 1)
    return tuple(dims)


def element_by_element(call: Call) -> list[Guess]:
    known = [one.dims for one in call.inputs if one.dims is not None]
    if not known:
        return [NOTHING] * max(1, call.outputs)
    dims = broadcast(known)
    if dims is None:
        dims = max(known, key=prod)
    numbers = _computed(call, dims) if prod(dims) <= MAX_NUMBERS else None
    return [numbered(dims, numbers)] + [guess_of(dims)] * (call.outputs - 1)


def _divided(a: Number, b: Number) -> Number:
    """ONNX divides whole numbers towards zero."""
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return a / b


_ARITHMETIC: dict[str, Callable[..., Number]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divided,
    "Equal": lambda a, b: int(a == b),
    "Where": lambda c, a, b: a if c else b,
    "Cast": lambda a: a,
    "Neg": lambda a: -a,
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Min": min,
    "Max": max,
}


def _computed(call: Call, dims: Dims) -> list[Number] | None:
    """The numbers of a short list that is computed from short lists."""
    operator = _ARITHMETIC.get(call.op)
    lists = [one.numbers for one in call.inputs]
    if operator is None or len(dims) > 1 or not lists:
        return None
    count = prod(dims)
    if any(numbers is None or len(numbers) not in (1, count) for numbers in lists):
        return None
    rows = [numbers if len(numbers) == count else numbers * count for numbers in lists if numbers]
    if call.op == "Cast":
        to = call.integer(b"to", 0)
        return [number if to in (1, 10, 11) else int(number) for number in rows[0]]
    return [operator(*row) for row in zip(*rows, strict=True)]


# ---- products --------------------------------------------------------------------------------


def _matmul(call: Call) -> list[Guess]:
    a, b = call.dims(0), call.dims(3 if call.op.startswith("QLinear") else 1)
    if not a or not b:
        return [NOTHING]
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    batch = broadcast([a[:-2], b[:-2]])
    return [NOTHING if batch is None else guess_of((*batch, *rows, *columns))]


def _gemm(call: Call) -> list[Guess]:
    a, b = call.dims(0), call.dims(3 if call.op == "QGemm" else 1)
    if a is None or b is None:
        return [NOTHING]
    rows, columns = a[1 if call.integer(b"transA", 0) else 0], b[call.integer(b"transB", 0) ^ 1]
    return [guess_of((rows, columns))]


def _spatial(call: Call, image: Dims, kernel: Dims) -> list[int]:
    """The axes of a picture after a window has gone over it."""
    axes = len(kernel)
    strides = call.integers(b"strides") or [1] * axes
    dilations = call.integers(b"dilations") or [1] * axes
    pads = call.integers(b"pads") or [0] * 2 * axes
    given = call.attributes.get(b"auto_pad")
    auto = given.s if given is not None else None
    up = call.integer(b"ceil_mode", 0)
    out = []
    for axis in range(axes):
        size, stride = image[axis], strides[axis]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            out.append(-(-size // stride))
            continue
        around = 0 if auto == b"VALID" else pads[axis] + pads[axes + axis]
        room = size + around - dilations[axis] * (kernel[axis] - 1) - 1
        count = max(0, (-(-room // stride) if up else room // stride) + 1)
        if up and (count - 1) * stride >= size + (0 if auto == b"VALID" else pads[axis]):
            count -= 1  # a window must not begin in the padding behind
        out.append(count)
    return out


def _conv(call: Call) -> list[Guess]:
    image, kernel = call.dims(0), call.dims(3 if call.op == "QLinearConv" else 1)
    if image is None or kernel is None:
        return [NOTHING]
    return [guess_of((image[0], kernel[0], *_spatial(call, image[2:], kernel[2:])))]


def _conv_transpose(call: Call) -> list[Guess]:
    image, kernel = call.dims(0), call.dims(1)
    if image is None or kernel is None:
        return [NOTHING]
    axes = len(kernel) - 2
    strides = call.integers(b"strides") or [1] * axes
    channels = kernel[1] * call.integer(b"group", 1)
    wanted = call.integers(b"output_shape")
    if wanted:
        return [guess_of((image[0], channels, *wanted[-axes:]))]
    given = call.attributes.get(b"auto_pad")
    if given is not None and given.s in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = [image[2 + axis] * strides[axis] for axis in range(axes)]
        return [guess_of((image[0], channels, *sizes))]
    dilations = call.integers(b"dilations") or [1] * axes
    pads = call.integers(b"pads") or [0] * 2 * axes
    more = call.integers(b"output_padding") or [0] * axes
    sizes = [
        strides[axis] * (image[2 + axis] - 1) + more[axis]
        + dilations[axis] * (kernel[2 + axis] - 1) + 1 - pads[axis] - pads[axes + axis]
        for axis in range(axes)
    ]  # fmt: skip
    return [guess_of((image[0], channels, *sizes))]


def _pool(call: Call) -> list[Guess]:
    image, kernel = call.dims(0), call.integers(b"kernel_shape")
    if image is None or not kernel:
        return [NOTHING]
    dims = (*image[:2], *_spatial(call, image[2:], tuple(kernel)))
    return [guess_of(dims)] * max(1, call.outputs)


def _global_pool(call: Call) -> list[Guess]:
    image = call.dims(0)
    return [NOTHING if image is None else guess_of((*image[:2], *[1] * (len(image) - 2)))]


def _recurrent(call: Call) -> list[Guess]:
    steps, again = call.dims(0), call.dims(2)
    if steps is None or again is None:
        return [NOTHING]
    ways, hidden = again[0], again[2]
    if call.integer(b"layout", 0):
        last = guess_of((steps[0], ways, hidden))
        return [guess_of((steps[0], steps[1], ways, hidden)), last, last]
    last = guess_of((ways, steps[1], hidden))
    return [guess_of((steps[0], ways, steps[1], hidden)), last, last]


def labels(call: Call) -> tuple[dict[str, int], str] | None:
    """The length of every label of an Einsum, and the labels of its output."""
    given = call.attributes.get(b"equation")
    text = (given.s or b"").decode("ascii", "replace").replace(" ", "") if given else ""
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if not text or "." in text or len(terms) != len(call.inputs):
        return None
    sizes: dict[str, int] = {}
    for term, one in zip(terms, call.inputs, strict=True):
        if one.dims is None or len(term) != len(one.dims):
            return None
        for label, dim in zip(term, one.dims, strict=True):
            sizes[label] = max(dim, sizes.get(label, 1))
    if not arrow:
        right = "".join(sorted(label for label in sizes if left.count(label) == 1))
    return sizes, right


def _einsum(call: Call) -> list[Guess]:
    found = labels(call)
    return [NOTHING if found is None else guess_of(tuple(found[0][one] for one in found[1]))]


def _reduced(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    keep = call.integer(b"keepdims", 1)
    if call.op.startswith("Arg"):
        axes = [call.integer(b"axis", 0)]
    else:
        axes = call.listed(b"axes", 1) or []
        if not axes:
            if call.given(1).dims not in (None, (0,)):
                return [NOTHING]  # axes that only the values tell
            if call.integer(b"noop_with_empty_axes", 0):
                return [guess_of(dims)]
            axes = list(range(len(dims)))
    gone = {axis % len(dims) for axis in axes} if dims else set()
    if keep:
        return [guess_of(tuple(1 if axis in gone else dim for axis, dim in enumerate(dims)))]
    left = tuple(dim for axis, dim in enumerate(dims) if axis not in gone)
    numbers = call.numbers(0)
    if call.op == "ReduceProd" and numbers is not None and not left:
        return [numbered((), [prod(numbers)])]
    return [guess_of(left)]


def _dynamic_quantize(call: Call) -> list[Guess]:
    return [guess_of(call.dims(0)), guess_of(()), guess_of(())]


def _normalised(call: Call) -> list[Guess]:
    """The first output like the input; statistics are left unknown."""
    return [guess_of(call.dims(0)), *[NOTHING] * (call.outputs - 1)]


COMPUTED: dict[str, Rule] = {
    **dict.fromkeys(PRODUCTS, _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _gemm),
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "QLinearConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "DynamicQuantizeLinear": _dynamic_quantize,
    **dict.fromkeys(
        (
            "BatchNormalization", "InstanceNormalization", "GroupNormalization",
            "LayerNormalization", "SkipLayerNormalization", "LRN", "QuantizeLinear",
            "DequantizeLinear", "Dropout", "PRelu", "Softmax", "LogSoftmax", "CumSum", "Trilu",
            "ScatterND", "ScatterElements", "Scatter", "CastLike", "RotaryEmbedding",
        ),
        _normalised,
    ),
}  # fmt: skip
