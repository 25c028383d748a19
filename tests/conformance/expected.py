"""What the admission rules refuse of models that plain onnxruntime runs, and nothing more.

A rule that becomes too strict, or too lax, shows as a difference from this list.
"""

from __future__ import annotations

import re

from tests.conformance.cases import Case

REFUSED: dict[str, str] = {
    # Random in training mode, which these tests ask for; else it copies its input.
    "Dropout": "deterministic operators",
    # The others are refused before it shows that onnxruntime has no code for them either.
    "Bernoulli": "deterministic operators",
    "RandomUniformLike": "deterministic operators",
    "ai.onnx.preview:FlexAttention": "standard operators",
    "ai.onnx.preview.training:Adagrad": "standard operators",
    "ai.onnx.preview.training:Adam": "standard operators",
    "ai.onnx.preview.training:Momentum": "standard operators",
}
"""Operator (``domain:name`` where the domain is not ONNX's first) and the rule that refuses it."""

OF_WHAT_CANNOT_TRAVEL = "tensors in and out"
"""The rule for cases whose inputs or outputs fit no bundle, whatever their operators."""

_RULE = re.compile(r'breaks the rule "([^"]+)"')


def rule_of(reason: str) -> str:
    """The admission rule that a fault's reason names; empty if it is no refusal by a rule."""
    found = _RULE.search(reason)
    return found[1] if found else ""


def refused_operators(refusals: list[tuple[Case, str]]) -> dict[str, str]:
    """For each operator of the list that was refused: the rule."""
    return {
        operator: rule
        for case, rule in refusals
        for operator in case.op_types
        if case.travels and REFUSED.get(operator) == rule
    }


def surprises(refusals: list[tuple[Case, str]]) -> list[str]:
    """A sentence for each refusal that the list does not foresee."""
    return [
        f"{case.name} ({', '.join(case.op_types)}) is refused by the rule {rule!r}, which "
        "expected.py does not foresee"
        for case, rule in refusals
        if not (
            any(REFUSED.get(operator) == rule for operator in case.op_types)
            if case.travels
            else rule == OF_WHAT_CANNOT_TRAVEL
        )
    ]
