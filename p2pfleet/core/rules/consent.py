"""Whose work a node runs, and what its network's owner asks for (``protocol/volunteers.md``)."""

from __future__ import annotations

import re

from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.wire.messages import Requirement

TRUSTED_GRADES = ("A", "B", "C")
STRANGERS_GRADES = ("A", "B")

_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+){0,3}")


def version_at_least(version: str, minimum: str) -> bool:
    """Whether ``version`` is not older than ``minimum``.

    Compared are the first four numbers, of which missing ones are 0; what follows them (rc, dev)
    counts for nothing. A version that does not begin with a number is older than any.
    """
    have, want = _NUMBERS.match(version), _NUMBERS.match(minimum)
    if have is None or want is None:
        return False
    return _padded(have.group()) >= _padded(want.group())


def _padded(numbers: str) -> list[int]:
    found = [int(number) for number in numbers.split(".")]
    return found + [0] * (4 - len(found))


def refused(capability: Capability, minimum: str | None, trusted: bool) -> str:
    """Why a node with this capability runs no work of a publisher; empty if it does.

    ``minimum`` is the version of onnxruntime that the network asks for, ``trusted`` whether the
    node's owner named the publisher.
    """
    if capability.grade not in TRUSTED_GRADES:
        return "no work is run here: the sandbox does not hold on this machine (grade none)"
    if trusted:
        return ""
    if capability.grade not in STRANGERS_GRADES:
        return (
            f"the sandbox is too weak here for strangers' work (grade {capability.grade}): only "
            "work of publishers whom the owner trusts is run"
        )
    if minimum is not None and not version_at_least(capability.onnxruntime, minimum):
        return (
            f"the network asks for onnxruntime {minimum} or newer, here it is "
            f"{capability.onnxruntime or 'unknown'}: upgrade p2pfleet to run strangers' work again"
        )
    return ""


def judge_requirement(
    requirement: Requirement, network: NetworkId, owner: PeerId | None, known: int | None
) -> Verdict:
    """Accept what a network's owner asks for, or why not.

    ``known`` is the sequence of the requirement that applies so far, if there is one.
    """
    if requirement.network != network:
        return Reject("the requirement belongs to another network")
    if owner is None or requirement.owner != owner:
        return Reject("somebody else than the network's owner asks for something")
    if known is not None and requirement.sequence <= known:
        return Ignore("the requirement is not newer than the one that applies")
    return ACCEPT
