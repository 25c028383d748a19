"""How shapes go through operators, by the text of ONNX and not by any library.

Only what is common is here; any other operator gives an output of the shape that its inputs are
broadcast to, which is right for everything that works element by element.
"""

from __future__ import annotations

from .shape_call import Call, Rule
from .shape_computing import COMPUTED, element_by_element
from .shape_guess import NOTHING, Guess
from .shape_moving import MOVED

_RULES: dict[str, Rule] = {**COMPUTED, **MOVED}


def outputs_of(call: Call) -> list[Guess]:
    """What is known of an operator's outputs; at least one of them."""
    rule = _RULES.get(call.op, element_by_element)
    try:
        return rule(call) or [NOTHING]
    except (ArithmeticError, LookupError, TypeError, ValueError, StopIteration):
        return [NOTHING]  # the model contradicts itself there, or leaves it to the values
