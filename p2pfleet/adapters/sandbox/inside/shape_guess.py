"""What is known of a value before anything runs: its shape, and, if it is a short list of numbers,
those numbers, since shapes are computed from such lists."""

from __future__ import annotations

import math
import struct
from math import prod
from typing import NamedTuple

from .admission.onnx_tensor import Tensor
from .admission.protobuf import Wire

MAX_NUMBERS = 64
MAX_RANK = 64
MAX_DIM = 2**53
_MAX_NUMBER = 2**63

Dims = tuple[int, ...]
Number = int | float


class Guess(NamedTuple):
    """``dims`` is ``None`` where the shape is unknown; ``numbers`` its elements in C order."""

    dims: Dims | None
    numbers: tuple[Number, ...] | None = None

    @property
    def elements(self) -> int | None:
        """How many elements it has, if that is known."""
        return None if self.dims is None else prod(self.dims)


NOTHING = Guess(None)
SCALAR = Guess(())


def guess_of(dims: Dims | None, tensor: Tensor | None = None, wire: Wire | None = None) -> Guess:
    """A shape, if it is a possible one, and the few numbers of a constant."""
    if dims is None or len(dims) > MAX_RANK or not all(0 <= dim <= MAX_DIM for dim in dims):
        return NOTHING
    if tensor is None or wire is None or prod(dims) > MAX_NUMBERS:
        return Guess(dims)
    return numbered(dims, _floats(tensor, wire) or tensor.integers(wire, MAX_NUMBERS))


def numbered(dims: Dims, numbers: list[Number] | list[int] | None) -> Guess:
    """A shape with its numbers, as far as they are few and ordinary."""
    plain = guess_of(dims)
    if plain.dims is None or numbers is None or len(numbers) != prod(dims):
        return plain
    if len(numbers) > MAX_NUMBERS or not all(
        math.isfinite(number) and abs(number) < _MAX_NUMBER for number in numbers
    ):
        return plain
    return Guess(dims, tuple(numbers))


def _floats(tensor: Tensor, wire: Wire) -> list[Number] | None:
    """The elements of a constant of float32 that is written raw or packed."""
    if tensor.dtype != 1:
        return None
    count = tensor.elements
    spans = (
        [tensor.raw]
        if tensor.raw is not None
        else [(start, stop) for key, start, stop in tensor.typed if key == 4 << 3 | 2]
    )
    if len(spans) != 1 or spans[0] is None or spans[0][1] - spans[0][0] != 4 * count:
        return None
    return list(struct.unpack(f"<{count}f", wire.copy(*spans[0])))
