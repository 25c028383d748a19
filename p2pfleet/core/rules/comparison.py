"""Whether two numbers of one output are the same answer (``protocol/comparison.md``).

``max |candidate - own| <= absolute + relative * max |candidate|``, over the finite elements of one
output, decided exactly: every node and every verifier that measured the same two maxima comes to
the same answer, on any CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from p2pfleet.core.model.comparison import ABSOLUTE_UNIT, RELATIVE_UNIT, Tolerance

FLOATS = ("float16", "float32", "float64")


class Allowance(NamedTuple):
    """What a difference may amount to: ``absolute`` in 1e-12, ``relative`` in 1e-9."""

    absolute: int
    relative: int


DEFAULTS: dict[str, Allowance] = {
    # Far above what kernels of different CPUs differ by (2e-4 and 4e-5 of the largest element at
    # most, where outputs are not tiny), far below what eight-bit kernels or a shortened model do.
    "float16": Allowance(0, 2_000_000),
    "float32": Allowance(10_000_000, 100_000),
    # As many roundings above its own last digit as nothing but double arithmetic needs; single
    # precision (6e-8) does not pass for double. A model that computes in single precision and
    # only hands out doubles has to say so.
    "float64": Allowance(1, 1),
}
"""Per dtype; whatever is not named here (integers, truths) has to be equal."""


def allowance(tolerance: Tolerance, name: str, dtype: str) -> Allowance | None:
    """What the output ``name`` of ``dtype`` is allowed; ``None`` if its values have to be equal.

    An entry for an output that is not floating loosens nothing.
    """
    if dtype not in FLOATS:
        return None
    for output in tolerance.outputs:
        if output.name == name:
            return Allowance(output.absolute, output.relative)
    return DEFAULTS[dtype]


def within(max_abs_diff: float, max_abs_ref: float, rule: Allowance) -> bool:
    """Whether a largest difference is allowed beside a largest reference; both are >= 0.

    Exact: a double is a fraction, and so are the units. An infinite or undefined difference (two
    doubles may lie further apart than a double can say) is never allowed. The reference is finite,
    0 if it has no finite element.
    """
    assert max_abs_ref >= 0
    assert math.isfinite(max_abs_ref)
    if not math.isfinite(max_abs_diff):
        return False
    assert max_abs_diff >= 0
    diff, diff_under = max_abs_diff.as_integer_ratio()
    ref, ref_under = max_abs_ref.as_integer_ratio()
    # diff/diff_under <= absolute/A + relative/R * ref/ref_under, multiplied by all denominators.
    allowed = rule.absolute * RELATIVE_UNIT * ref_under + rule.relative * ABSOLUTE_UNIT * ref
    return diff * ABSOLUTE_UNIT * RELATIVE_UNIT * ref_under <= allowed * diff_under


def misplaced(tolerance: Tolerance, outputs: Mapping[str, str]) -> tuple[str, ...]:
    """Names in ``tolerance`` that set nothing: no floating output (name to dtype) is called so.

    For the publisher's eyes at submit; a volunteer ignores such entries.
    """
    return tuple(one.name for one in tolerance.outputs if outputs.get(one.name) not in FLOATS)
