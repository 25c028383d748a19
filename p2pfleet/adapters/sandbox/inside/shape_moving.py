"""Shapes of what operators only move: cut, joined, turned, repeated, told."""

from __future__ import annotations

import math
from math import prod

from .shape_call import Call, Rule
from .shape_computing import broadcast
from .shape_guess import MAX_NUMBERS, NOTHING, SCALAR, Dims, Guess, guess_of, numbered

VIEWS = frozenset((
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Size", "Constant",
))  # fmt: skip


def _constant(call: Call) -> list[Guess]:
    given = call.attributes.get(b"value")
    if given is not None and given.tensors:
        tensor = given.tensors[0]
        return [guess_of(tuple(tensor.dims), tensor, call.wire)]
    number = call.attributes.get(b"value_int")
    if number is not None:
        return [numbered((), [number.i or 0])]
    numbers = call.integers(b"value_ints")
    if numbers is not None:
        return [numbered((len(numbers),), numbers)]
    if b"value_float" in call.attributes:
        return [SCALAR]
    return [NOTHING]


def _constant_of_shape(call: Call) -> list[Guess]:
    dims = call.numbers(0)
    if dims is None:
        return [NOTHING]
    given = call.attributes.get(b"value")
    filling = [0]
    if given is not None and given.tensors:
        filling = given.tensors[0].integers(call.wire, 1) or []
    size = prod(dims)
    few = filling * size if len(dims) <= 1 and 0 <= size <= MAX_NUMBERS and filling else None
    return [numbered(tuple(dims), few)]


def _shape(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    told = dims[call.integer(b"start", 0) : call.integer(b"end", len(dims))]
    return [numbered((len(told),), list(told))]


def _size(call: Call) -> list[Guess]:
    count = call.given(0).elements
    return [SCALAR if count is None else numbered((), [count])]


def _same(call: Call) -> list[Guess]:
    return [call.given(0), *[NOTHING] * (call.outputs - 1)]


def _reshape(call: Call) -> list[Guess]:
    wanted = call.listed(b"shape", 1)
    taken = call.given(0)
    if wanted is None:
        return [NOTHING]
    dims = list(wanted)
    if not call.integer(b"allowzero", 0):
        for axis, dim in enumerate(dims):
            if dim == 0:
                if taken.dims is None:
                    return [NOTHING]
                dims[axis] = taken.dims[axis]
    if -1 in dims:
        if taken.elements is None:
            return [NOTHING]
        rest = prod(dim for dim in dims if dim != -1)
        dims[dims.index(-1)] = taken.elements // rest if rest else 0
    return [_kept(taken, tuple(dims))]


def _flatten(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    axis = call.integer(b"axis", 1)
    axis += len(dims) if axis < 0 else 0
    return [guess_of((prod(dims[:axis]), prod(dims[axis:])))]


def _squeeze(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    axes = call.listed(b"axes", 1)
    if axes is None:
        if len(call.inputs) > 1:
            return [NOTHING]
        axes = [axis for axis, dim in enumerate(dims) if dim == 1]
    gone = {axis % len(dims) for axis in axes}
    left = tuple(dim for axis, dim in enumerate(dims) if axis not in gone)
    return [_kept(call.given(0), left)]


def _unsqueeze(call: Call) -> list[Guess]:
    dims, axes = call.dims(0), call.listed(b"axes", 1)
    if dims is None or axes is None:
        return [NOTHING]
    rank = len(dims) + len(axes)
    new = {axis % rank for axis in axes}
    old = iter(dims)
    made = tuple(1 if axis in new else next(old) for axis in range(rank))
    return [_kept(call.given(0), made)]


def _kept(guess: Guess, dims: Dims) -> Guess:
    """The same elements in another shape."""
    return numbered(dims, None if guess.numbers is None else list(guess.numbers))


def _transpose(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    turned = call.integers(b"perm") or list(reversed(range(len(dims))))
    return [guess_of(tuple(dims[axis] for axis in turned))]


def _concat(call: Call) -> list[Guess]:
    shapes = [one.dims for one in call.inputs]
    known = [dims for dims in shapes if dims is not None]
    if len(known) < len(shapes) or not known:
        return [NOTHING]
    axis = call.integer(b"axis", 0)
    dims = list(known[0])
    dims[axis] = sum(one[axis] for one in known)
    numbers = None
    if len(dims) == 1 and all(one.numbers is not None for one in call.inputs):
        numbers = [number for one in call.inputs for number in one.numbers or ()]
    return [numbered(tuple(dims), numbers)]


def _split(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    axis = call.integer(b"axis", 0)
    sizes = call.listed(b"split", 1)
    if sizes is None:
        if len(call.inputs) > 1:
            return _unknown(call)
        each = -(-dims[axis] // call.outputs)
        sizes = [max(0, min(each, dims[axis] - each * number)) for number in range(call.outputs)]
    parts = []
    for size in sizes:
        part = list(dims)
        part[axis] = size
        parts.append(guess_of(tuple(part)))
    return parts


def _slice(call: Call) -> list[Guess]:
    taken = call.given(0)
    starts, ends = call.listed(b"starts", 1), call.listed(b"ends", 2)
    if taken.dims is None or starts is None or ends is None:
        return [NOTHING]
    axes = call.listed(b"axes", 3)
    if axes is None:
        axes = list(range(len(starts)))
    steps = call.numbers(4) or [1] * len(starts)
    dims = list(taken.dims)
    numbers = taken.numbers
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut = range(dims[axis])[_within(start) : _within(end) : step]
        dims[axis] = len(cut)
        if numbers is not None and len(taken.dims) == 1:
            numbers = tuple(numbers[index] for index in cut)
    return [numbered(tuple(dims), list(numbers) if numbers and len(dims) == 1 else None)]


def _within(bound: int) -> int:
    return max(-(2**62), min(2**62, bound))


def _gather(call: Call) -> list[Guess]:
    data, indices = call.given(0), call.given(1)
    if data.dims is None or indices.dims is None:
        return [NOTHING]
    axis = call.integer(b"axis", 0) % len(data.dims)
    dims = (*data.dims[:axis], *indices.dims, *data.dims[axis + 1 :])
    if data.numbers is None or indices.numbers is None or len(data.dims) != 1:
        return [guess_of(dims)]
    return [numbered(dims, [data.numbers[int(index)] for index in indices.numbers])]


def _gather_elements(call: Call) -> list[Guess]:
    return [guess_of(call.dims(1))]


def _gather_nd(call: Call) -> list[Guess]:
    data, indices = call.dims(0), call.dims(1)
    if data is None or not indices:
        return [NOTHING]
    return [guess_of((*indices[:-1], *data[call.integer(b"batch_dims", 0) + indices[-1] :]))]


def _expand(call: Call) -> list[Guess]:
    dims, wanted = call.dims(0), call.numbers(1)
    if dims is None or wanted is None:
        return [NOTHING]
    return [guess_of(broadcast([dims, tuple(wanted)]))]


def _tile(call: Call) -> list[Guess]:
    dims, times = call.dims(0), call.numbers(1)
    if dims is None or times is None:
        return [NOTHING]
    return [guess_of(tuple(dim * time for dim, time in zip(dims, times, strict=True)))]


def _pad(call: Call) -> list[Guess]:
    dims, pads = call.dims(0), call.listed(b"pads", 1)
    if dims is None or pads is None:
        return [NOTHING]
    axes = call.numbers(3) or list(range(len(dims)))
    padded = list(dims)
    for number, axis in enumerate(axes):
        padded[axis] += pads[number] + pads[len(axes) + number]
    return [guess_of(tuple(padded))]


def _resize(call: Call) -> list[Guess]:
    dims = call.dims(0)
    if dims is None:
        return [NOTHING]
    axes = call.integers(b"axes") or list(range(len(dims)))
    sizes, scales = call.numbers(3), call.given(1 if len(call.inputs) == 2 else 2).numbers
    made = list(dims)
    if sizes:
        for axis, size in zip(axes, sizes, strict=True):
            made[axis] = size
    elif scales:
        for axis, scale in zip(axes, scales, strict=True):
            made[axis] = math.floor(dims[axis] * scale)
    else:
        return [NOTHING]
    return [guess_of(tuple(made))]


def _top_k(call: Call) -> list[Guess]:
    dims = call.dims(0)
    count = call.numbers(1) or ([call.integer(b"k", 0)] if b"k" in call.attributes else None)
    if dims is None or not count:
        return [NOTHING]
    kept = list(dims)
    kept[call.integer(b"axis", -1)] = count[0]
    return [guess_of(tuple(kept))] * 2


def _one_hot(call: Call) -> list[Guess]:
    dims, depth = call.dims(0), call.numbers(1)
    if dims is None or not depth:
        return [NOTHING]
    axis = call.integer(b"axis", -1)
    axis += len(dims) + 1 if axis < 0 else 0
    return [guess_of((*dims[:axis], depth[0], *dims[axis:]))]


def _range(call: Call) -> list[Guess]:
    bounds = [call.given(index).numbers for index in range(3)]
    if any(numbers is None or len(numbers) != 1 for numbers in bounds):
        return [NOTHING]
    start, stop, step = (numbers[0] for numbers in bounds if numbers)
    count = max(0, math.ceil((stop - start) / step))
    numbers = [start + number * step for number in range(count)] if count <= MAX_NUMBERS else None
    return [numbered((count,), numbers)]


def _blocks(call: Call) -> list[Guess]:
    dims, size = call.dims(0), call.integer(b"blocksize", 1)
    if dims is None:
        return [NOTHING]
    number, channels, high, wide = dims
    if call.op == "DepthToSpace":
        return [guess_of((number, channels // size**2, high * size, wide * size))]
    return [guess_of((number, channels * size**2, high // size, wide // size))]


def _roi_align(call: Call) -> list[Guess]:
    image, regions = call.dims(0), call.dims(1)
    if image is None or regions is None:
        return [NOTHING]
    window = (call.integer(b"output_height", 1), call.integer(b"output_width", 1))
    return [guess_of((regions[0], image[1], *window))]


def _unknown(call: Call) -> list[Guess]:
    """How much there is, only the values tell."""
    return [NOTHING] * max(1, call.outputs)


MOVED: dict[str, Rule] = {
    "Constant": _constant, "ConstantOfShape": _constant_of_shape, "Shape": _shape, "Size": _size,
    "Identity": _same, "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat, "Split": _split,
    "Slice": _slice, "Gather": _gather, "GatherElements": _gather_elements,
    "GatherND": _gather_nd, "Expand": _expand, "Tile": _tile, "Pad": _pad, "Resize": _resize,
    "Upsample": _resize, "TopK": _top_k, "OneHot": _one_hot, "Range": _range,
    "DepthToSpace": _blocks, "SpaceToDepth": _blocks,
    "RoiAlign": _roi_align,
    **dict.fromkeys(("NonZero", "NonMaxSuppression", "Unique", "Compress"), _unknown),
}  # fmt: skip
