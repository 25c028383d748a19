"""How far two floating outputs of one unit may lie apart and still be the same answer.

A part of a job's manifest; the rule that reads it is ``core/rules/comparison.py``, the chapter
``protocol/comparison.md``. Integers only, since the canonical encoding knows no floats.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

ABSOLUTE_UNIT = 10**12
"""``absolute`` counts in 1e-12."""

RELATIVE_UNIT = 10**9
"""``relative`` counts in 1e-9 of the largest magnitude in the reference."""

MAX_ABSOLUTE = 10**9
"""1e-3: more, and an output of probabilities or small scores could be answered with zeros."""

MAX_RELATIVE = 10**7
"""1e-2: more, and an answer computed in eight bits passes for one that was computed as asked."""

MAX_OUTPUTS = 64
"""As many as a bundle may hold (``core/wire/tensors.py``)."""


class OutputTolerance(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one floating output is allowed, instead of the default of its dtype.

    ``absolute`` is in units of 1e-12, ``relative`` in units of 1e-9 of the reference's largest
    magnitude; both zero asks for equal values.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    absolute: Annotated[int, Meta(ge=0, le=MAX_ABSOLUTE)]
    relative: Annotated[int, Meta(ge=0, le=MAX_RELATIVE)]


class Tolerance(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="tolerance"
):
    """Floating outputs are compared with one representative, all others value by value.

    ``outputs`` names those that do not follow the default of their dtype, in ascending order of
    their names, each once, so that one rule has one encoding. A wrong order is a ValueError, which
    a decoder reports as malformed.
    """

    outputs: Annotated[tuple[OutputTolerance, ...], Meta(max_length=MAX_OUTPUTS)] = ()

    def __post_init__(self) -> None:
        for one, two in pairwise(self.outputs):
            if one.name >= two.name:
                raise ValueError("tolerances must be in ascending order of names, each name once")
