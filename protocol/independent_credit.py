"""The second implementation of ``credit.md``, beside ``independent.py`` and under its rules."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from independent import fits, peer_text

WORK_MAX = 2**62 - 1


def base(work: int, units: int) -> int:
    return max(1, min(work, WORK_MAX // units))


def bonus_milli(lease_ms: int, elapsed_ms: int | None) -> int:
    """The largest number of thousandths from 1000 to 2000 whose square the formula allows."""
    if elapsed_ms is None:
        return 1000
    square = Fraction(3 * lease_ms, 4 * max(1, elapsed_ms))
    low, high = 1000, 2000
    while low < high:
        middle = (low + high + 1) // 2
        if Fraction(middle, 1000) ** 2 <= square:
            low = middle
        else:
            high = middle - 1
    return low


def credit(work: int, units: int, lease_ms: int, elapsed_ms: int | None) -> int:
    return base(work, units) * bonus_milli(lease_ms, elapsed_ms) // 1000


def earners(voters: list[str], right: list[str], wrong: list[str]) -> list[str]:
    return [one for one in sorted(set(voters + right)) if one not in wrong]


def judge_receipt(
    receipt: dict[str, Any],
    me: str,
    job: dict[str, Any] | None,
    held: list[int] | None,
    network: str,
    bits: int,
) -> str:
    """``me`` and the job's publisher are peer ids; ``held`` is number, units, work, credit."""
    publisher, peer = (peer_text(bytes.fromhex(receipt[one])) for one in ("publisher", "peer"))
    if receipt["network"] != network:
        return "reject network"
    if not fits(network, receipt["publisher"], bits):
        return "reject puzzle"
    if peer != me:
        return "reject peer"
    if publisher == me:
        return "reject own"
    if job is None:
        return "ignore job"
    if publisher != job["publisher"]:
        return "reject publisher"
    if receipt["units"] > job["units"]:
        return "reject units"
    if receipt["work"] != receipt["units"] * base(job["work"], job["units"]):
        return "reject work"
    if not receipt["work"] <= receipt["credit"] <= 2 * receipt["work"]:
        return "reject credit"
    if held is not None:
        if receipt["number"] <= held[0]:
            return "ignore known"
        now = [receipt[one] for one in ("units", "work", "credit")]
        if any(one < before for one, before in zip(now, held[1:], strict=True)):
            return "ignore less"
    return "accept"
