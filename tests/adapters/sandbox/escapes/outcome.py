"""How an attempt ended, as one line of a report."""

from __future__ import annotations

import json
from typing import NamedTuple


class Outcome(NamedTuple):
    """``verdict``: escaped, refused (``how``: the name of an error number, or -), died (``how``:
    the signal), limited (``how``: which limit) or broken, which tells nothing."""

    verdict: str
    how: str
    detail: str


class Report(NamedTuple):
    """What one process tells of all attempts; ``damage`` and ``grade``: those of the sandbox."""

    outcomes: dict[str, Outcome]
    damage: list[str]
    grade: str


def of_words(said: str) -> Outcome:
    """The outcome of an attempt that lived to tell: what ``taken_over`` says."""
    word, _, rest = said.partition(" ")
    if word == "ESCAPED":
        return Outcome("escaped", "", rest)
    if word == "REFUSED":
        how, _, detail = rest.partition(" ")
        return Outcome("refused", how, detail)
    return Outcome("broken", "", said)


def dump(outcomes: dict[str, Outcome], damage: list[str], grade: str) -> str:
    """For the process that started this one."""
    return json.dumps({"outcomes": outcomes, "damage": damage, "grade": grade})


def load(text: str) -> Report:
    """What :func:`dump` wrote."""
    report = json.loads(text)
    outcomes = {name: Outcome(*fields) for name, fields in report["outcomes"].items()}
    return Report(outcomes, report["damage"], report["grade"])
