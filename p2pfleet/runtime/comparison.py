"""Whether a candidate's outputs are the answer that this node computed itself.

``protocol/comparison.md``; what is allowed is decided by ``core/rules/comparison.py``, here the
numbers for it are measured. The candidate is the representative: tolerance is measured from it, so
that all who endorse it compared with the same thing, and the answer with the two swapped may be
another one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.job import Exact
from p2pfleet.core.rules.comparison import DEFAULTS, FLOATS, Allowance, allowance, within
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, decode_bundle

NEAR: Final = 100
"""So many times the tolerance, and a difference may still be the processor's and not a lie."""

NEAR_MOST: Final = Allowance(10**10, 2 * 10**8)
"""But never more than 1e-2 and a fifth of the largest element: that is another answer."""

_CHUNK: Final = 2**16
"""Elements that are compared at a time: some hundred kilobytes, however large a tensor is."""

Array = np.ndarray[Any, Any]


class Sameness(NamedTuple):
    """Whether two results are the same answer; ``reason`` says why not, else it is empty."""

    same: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.same


class Distance(NamedTuple):
    """How far an output lies from the reference, over the elements that are finite in both.

    ``diff`` is the largest difference, rounded to the nearest double (infinite if it is larger
    than any), ``ref`` the largest magnitude in the reference; both 0 where nothing is finite.
    """

    diff: float
    ref: float


SAME: Final = Sameness(True)


def same_answer(candidate: bytes, own: bytes, comparison: Exact | Tolerance) -> Sameness:
    """Compare the bundle ``candidate``, from anyone, with ``own``, which this node computed.

    Never raises for what is in the bundles: what cannot be read is not the same. Takes the memory
    of both bundles once more while it runs, and little besides.
    """
    if isinstance(comparison, Exact):
        return SAME if candidate == own else Sameness(False, "the bytes differ")
    return _held_together(candidate, own, comparison, 1)


def verdict(candidate: bytes, own: bytes, comparison: Exact | Tolerance) -> str:
    """What ``Compared`` says of the bundle ``candidate`` beside ``own``: same, near or different.

    *near* is not the same answer, but within :data:`NEAR` times what the job allows each output, or
    what the defaults allow if that is more (for an exact job always), and never beyond
    :data:`NEAR_MOST`. Whatever has to be equal (integers, truths, the places of NaNs and
    infinities, names and shapes) is not loosened by it. As :func:`same_answer`, never raises for
    what is in the bundles.
    """
    if same_answer(candidate, own, comparison):
        return "same"
    tolerance = Tolerance() if isinstance(comparison, Exact) else comparison
    return "near" if _held_together(candidate, own, tolerance, NEAR) else "different"


def _held_together(candidate: bytes, own: bytes, tolerance: Tolerance, times: int) -> Sameness:
    """Whether the bundles lie within ``times`` the tolerance."""
    try:
        theirs = decode_bundle(candidate, len(candidate))
    except Malformed as error:
        return Sameness(False, f"the candidate is not a canonical bundle: {error}")
    try:
        ours = decode_bundle(own, len(own))
    except Malformed as error:
        return Sameness(False, f"this node's own result is not a canonical bundle: {error}")
    if len(theirs) != len(ours):
        return Sameness(False, f"it has {len(theirs)} outputs instead of {len(ours)}")
    for one, two in zip(theirs, ours, strict=True):
        reason = _difference(one, two, tolerance, times)
        if reason:
            return Sameness(False, f"output {two.name!r}: {reason}")
    return SAME


def distance(reference: Tensor, other: Tensor) -> Distance | None:
    """How far ``other`` lies from ``reference``; ``None`` if NaNs or infinities do not match.

    Both have one floating dtype and one shape. A NaN matches any NaN at its place, an infinity one
    of its sign.
    """
    assert (reference.dtype, reference.shape) == (other.dtype, other.shape)
    assert reference.dtype in FLOATS
    one, two = flat(reference), flat(other)
    largest = Distance(0.0, 0.0)
    for start in range(0, one.size, _CHUNK):
        # In float64, where single and half precision have room for any difference.
        a = one[start : start + _CHUNK].astype(np.float64)
        b = two[start : start + _CHUNK].astype(np.float64)
        finite = np.isfinite(a)
        if not finite.all():
            if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
                return None
            a, b = a[finite], b[finite]
        if not np.isfinite(b).all():
            return None
        if a.size:
            ref = max(largest.ref, float(np.max(np.abs(a))))
            with np.errstate(over="ignore"):
                np.subtract(a, b, out=a)
            largest = Distance(max(largest.diff, float(np.max(np.abs(a)))), ref)
    return largest


def suggested(own: bytes) -> Tolerance:
    """The tolerance for a job of which ``own`` is one unit's well-formed result.

    The defaults, but for float64 outputs that hold nothing finer than single precision: a model
    that computes so and hands out doubles differs between CPUs by what single precision differs.
    Whole numbers say nothing about it, and zeros neither. For the publisher, at submit: a
    volunteer must not ask the values for the rule that judges them.

    Raises :class:`Malformed` if it is no bundle.
    """
    single = DEFAULTS["float32"]
    names = [
        tensor.name
        for tensor in decode_bundle(own, len(own))
        if tensor.dtype == "float64" and _is_single(flat(tensor))
    ]
    return Tolerance(tuple(OutputTolerance(name, *single) for name in sorted(names)))


def _is_single(values: Array) -> bool:
    fractions = False
    for start in range(0, values.size, _CHUNK):
        chunk = values[start : start + _CHUNK]
        chunk = chunk[np.isfinite(chunk)]
        with np.errstate(over="ignore"):
            if not np.array_equal(chunk.astype(np.float32), chunk):
                return False
        fractions = fractions or bool(np.any(chunk != np.trunc(chunk)))
    return fractions


def flat(tensor: Tensor) -> Array:
    """The elements of ``tensor`` in C order, without a copy and without its shape.

    Without, because shapes that hold nothing may still be too large for NumPy.
    """
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<"))


def changed(one: Tensor, two: Tensor) -> int:
    """How many elements of two tensors of one dtype and shape differ in value."""
    item, step = ITEM_BYTES[one.dtype], _CHUNK
    a, b = flat(one), flat(two)
    return sum(
        int(np.count_nonzero(a[start : start + step] != b[start : start + step]))
        for start in range(0, len(one.data) // item, step)
    )


def _difference(theirs: Tensor, ours: Tensor, tolerance: Tolerance, times: int) -> str:
    """What is wrong with the candidate's ``theirs``; empty if it is the same answer."""
    if theirs.name != ours.name:
        return f"another one, {theirs.name!r}, stands in its place"
    if theirs.dtype != ours.dtype:
        return f"it is {theirs.dtype} instead of {ours.dtype}"
    if theirs.shape != ours.shape:
        return f"its shape is {list(theirs.shape)} instead of {list(ours.shape)}"
    if theirs.data == ours.data:
        return ""
    rule = allowance(tolerance, ours.name, ours.dtype)
    if rule is None:
        return f"{changed(theirs, ours)} elements differ, and {ours.dtype} has to be equal"
    found = distance(theirs, ours)
    if found is None:
        return "NaNs or infinities stand at other places"
    if times > 1:  # what processors differ by does not shrink with what the job allows
        least = DEFAULTS[ours.dtype]
        rule = Allowance(
            min(NEAR_MOST.absolute, times * max(rule.absolute, least.absolute)),
            min(NEAR_MOST.relative, times * max(rule.relative, least.relative)),
        )
    if within(found.diff, found.ref, rule):
        return ""
    return f"it differs by {found.diff:.3g} where the largest element is {found.ref:.3g}"
