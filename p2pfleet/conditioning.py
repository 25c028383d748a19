"""Whether a job's answer depends on the last digits: one unit, run again and run slightly moved.

Volunteers' CPUs round differently, so they agree on a unit only if its outputs hardly move when its
inputs hardly do. No comparison rule saves a job for which that does not hold (an argmax between
equals, a chaotic simulation): it would be contested for ever, so its publisher should hear of it
before anybody computes.

The rule. In the largest floating input every element x becomes ``x * (1 + 1e-6 * s)`` with a sign s
that looks random but is the same each time: about eight units in the last place of a float32, what
a few layers of rounding amount to, and for half precision, where that would change nothing, the
next number up or down. Relative, so that zeros (padding, masks, one-hot) stay what they are; every
element, so that no single one decides; signs without a pattern, so that they do not cancel in the
structure of the data. Then, for each output, with ``ref`` the finite elements of the first run:

    float32, float64    max |diff| <= 1e-5 + 1e-4 * max |ref|
    float16             max |diff| <= 2e-3 * max |ref|
    integers, truths    equal

NaNs and infinities have to stay where they are, and shapes what they are. Error is held against the
largest element, because relative errors of elements near zero are large on every machine. In short,
an output may move a hundred times as far as the input did; where half precision makes the step
2**-10 instead of 1e-6, the allowance of ``1e-4 * max |ref|`` (and the 2e-3) grows with it to
``100 * 2**-10 * max |ref|``.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import trio

from p2pfleet.core.model.comparison import RELATIVE_UNIT
from p2pfleet.core.model.ids import sha256
from p2pfleet.core.rules.comparison import DEFAULTS, FLOATS, Allowance, within
from p2pfleet.core.wire.tensors import Tensor, decode_bundle, encode_bundle
from p2pfleet.ports import Execution, ExecutionFault, SandboxJob
from p2pfleet.runtime.comparison import changed, distance

STEP = 1e-6
HALF_STEP = 2.0**-10
AMPLIFICATION = 100
LONG_UNIT_MS = 100_000
"""A unit that runs longer than this is not run again: somebody is waiting for an answer."""

Array = np.ndarray[Any, Any]
Verdict = Literal["steady", "ill-conditioned", "not deterministic", "too long", "untested"]


class OutputVerdict(msgspec.Struct, frozen=True):
    """How one output took it; ``detail`` is empty if it is steady, else says what moved."""

    name: str
    steady: bool
    detail: str


class Conditioning(msgspec.Struct, frozen=True):
    """What became of one unit when it was run again.

    ``moved`` is the input that was perturbed ("" if it did not come to that). ``sentence`` says
    what was found, for the person who publishes. ``shifted`` are the floating outputs that moved
    with the input, however little.
    """

    verdict: Verdict
    moved: str
    outputs: tuple[OutputVerdict, ...]
    sentence: str
    first: Execution
    shifted: tuple[str, ...] = ()


async def examine(child: SandboxJob, inputs: bytes) -> Conditioning:
    """Run one unit three times in ``child``, the last time with an input moved a little.

    ``child`` has its model loaded, and may be dead afterwards. Costs three executions, each within
    the job's own limits; a unit longer than LONG_UNIT_MS runs once.

    Raises :class:`ExecutionFault` if the unit cannot be run at all.
    """
    first = await child.execute(inputs)
    if first.wall_ms > LONG_UNIT_MS:
        return Conditioning(
            "too long", "", (),
            f"running it takes {first.wall_ms / 1000:.0f} s, so whether its answer depends on the "
            f"last digits was not tested (that is done up to {LONG_UNIT_MS // 1000} s)",
            first,
        )  # fmt: skip
    again = await child.execute(inputs)
    if again.outputs != first.outputs:
        verdicts = await trio.to_thread.run_sync(_compare_exactly, first.outputs, again.outputs)
        return Conditioning(
            "not deterministic", "", verdicts,
            "the same unit, run twice here, gave different outputs: " + _named(verdicts), first,
        )  # fmt: skip
    perturbed = await trio.to_thread.run_sync(perturb, inputs)
    if perturbed is None:
        return Conditioning(
            "untested", "", (),
            "whether its answer depends on the last digits was not tested, since no floating input "
            "has a value other than zero", first,
        )  # fmt: skip
    moved, step, bundle = perturbed
    try:
        third = await child.execute(bundle)
    except ExecutionFault as fault:
        if fault.kind in ("killed", "wall"):
            raise
        return Conditioning(
            "ill-conditioned", moved, (),
            f"with the input {moved!r} moved by one millionth the unit fails: {fault.reason}",
            first,
        )  # fmt: skip
    verdicts = await trio.to_thread.run_sync(compare, first.outputs, third.outputs, step)
    shifted = await trio.to_thread.run_sync(_shifted, first.outputs, third.outputs)
    if all(verdict.steady for verdict in verdicts):
        return Conditioning(
            "steady", moved, verdicts, f"moving the input {moved!r} moved no output much", first,
            shifted,
        )  # fmt: skip
    how = "by one millionth" if step == STEP else "to the next numbers of half precision"
    return Conditioning(
        "ill-conditioned", moved, verdicts,
        f"with the input {moved!r} moved {how}, outputs change: {_named(verdicts)}", first, shifted,
    )  # fmt: skip


def perturb(inputs: bytes) -> tuple[str, float, bytes] | None:
    """The bundle ``inputs`` with its largest floating tensor moved; its name, the step, the bundle.

    ``None`` if there is none that a step would change. Of equally large ones the first is taken.
    """
    tensors = decode_bundle(inputs, len(inputs))
    floating = [i for i, tensor in enumerate(tensors) if tensor.dtype in FLOATS]
    for index in sorted(floating, key=lambda i: (-_elements(tensors[i]), i)):
        tensor = tensors[index]
        data = _moved(_array(tensor)).tobytes()
        if data != tensor.data:
            changed = (*tensors[:index], _with(tensor, data), *tensors[index + 1 :])
            step = HALF_STEP if tensor.dtype == "float16" else STEP
            return tensor.name, step, encode_bundle(changed)
    return None


def compare(reference: bytes, other: bytes, step: float = STEP) -> tuple[OutputVerdict, ...]:
    """Each output of the bundle ``other`` against the same one of ``reference``, by the rule."""
    before = decode_bundle(reference, len(reference))
    after = decode_bundle(other, len(other))
    return tuple(
        OutputVerdict(one.name, not detail, detail)
        for one, two in zip(before, after, strict=True)
        for detail in [_difference(one, two, step)]
    )


def _compare_exactly(reference: bytes, other: bytes) -> tuple[OutputVerdict, ...]:
    before = decode_bundle(reference, len(reference))
    after = decode_bundle(other, len(other))
    return tuple(
        OutputVerdict(one.name, one == two, "" if one == two else "it differs")
        for one, two in zip(before, after, strict=True)
    )


def _shifted(reference: bytes, other: bytes) -> tuple[str, ...]:
    """The floating outputs whose bytes are not the same."""
    before = decode_bundle(reference, len(reference))
    after = decode_bundle(other, len(other))
    return tuple(
        one.name
        for one, two in zip(before, after, strict=True)
        if one.dtype in FLOATS and one != two
    )


def _moved(array: Array) -> Array:
    """``array`` with every element one step away, where that is finite."""
    flat = array.reshape(-1)
    # The bits of a hash, spread over as many elements as there are: the same on every machine.
    bits = np.frombuffer(
        b"".join(sha256(b"p2pfleet-perturbation" + bytes([i])) for i in range(128)), np.uint8
    )
    signs = np.resize(np.unpackbits(bits).astype(np.int8) * 2 - 1, flat.size)
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype == np.float16:
            towards = np.where(signs > 0, np.float16(np.inf), np.float16(-np.inf))
            moved = np.where(flat == 0, flat, np.nextafter(flat, towards))
        else:
            moved = (flat * (1 + STEP * signs.astype(np.float64))).astype(array.dtype)
    kept: Array = np.where(np.isfinite(flat) & np.isfinite(moved), moved, flat)
    return kept


def _difference(one: Tensor, two: Tensor, step: float) -> str:
    """What is wrong with ``two``, measured against ``one``; empty if it is close enough."""
    if (one.name, one.dtype) != (two.name, two.dtype):
        return "another output stands in its place"
    if one.shape != two.shape:
        return f"its shape changes from {list(one.shape)} to {list(two.shape)}"
    if one.data == two.data:
        return ""
    if one.dtype not in FLOATS:
        return f"{changed(one, two)} of {_elements(one)} elements change"
    found = distance(one, two)
    if found is None:
        return "NaNs or infinities come or go"
    if within(found.diff, found.ref, _allowance(one.dtype, step)):
        return ""
    return f"it moves by {found.diff:.2g} where its largest element is {found.ref:.2g}"


def _allowance(dtype: str, step: float) -> Allowance:
    """What volunteers are allowed by default, or as much as ``step`` makes of it.

    Doubles are moved by as much as single precision, and so are allowed as much.
    """
    rule = DEFAULTS["float16" if dtype == "float16" else "float32"]
    if step == STEP:
        return rule
    amplified = round(AMPLIFICATION * step * RELATIVE_UNIT)
    return Allowance(rule.absolute, max(rule.relative, amplified))


def _named(verdicts: tuple[OutputVerdict, ...]) -> str:
    bad = [verdict for verdict in verdicts if not verdict.steady]
    shown = "; ".join(f"{verdict.name!r}: {verdict.detail}" for verdict in bad[:3])
    return shown + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")


def _elements(tensor: Tensor) -> int:
    return len(tensor.data) // np.dtype(tensor.dtype).itemsize


def _array(tensor: Tensor) -> Array:
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(
        tensor.shape
    )


def _with(tensor: Tensor, data: bytes) -> Tensor:
    return msgspec.structs.replace(tensor, data=data)
