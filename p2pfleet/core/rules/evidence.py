"""The faults that travel, proved by two frames of one author (``protocol/evidence.md``).

Only what no crash, no restored backup and no departing car can bring about: two different answers
for one unit in one attempt and one life of the process, or a reveal that contradicts its own
commitment. Two commitments alone prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2pfleet.core.model.ids import Digest
from p2pfleet.core.rules.certificate import matches
from p2pfleet.core.wire.messages import Commit, Endorse, Frame, Reveal
from p2pfleet.core.wire.verified import VerifiedFrame

Answer = tuple[str, int, int]


def fault(first: VerifiedFrame, second: VerifiedFrame) -> str:
    """What the two frames prove against their author, in one sentence; empty: nothing.

    The order of the two does not matter.
    """
    one, two = first.frame, second.frame
    if (one.network, one.job, one.author) != (two.network, two.job, two.author):
        return ""
    return (
        _two_answers(one, two)
        or _contradiction(first, second)
        or (_contradiction(second, first) if first.hash != second.hash else "")
    )


def _answers(frame: Frame) -> Iterator[tuple[Answer, Digest]]:
    """Every answer that a frame gives, by kind, unit and attempt."""
    for entry in frame.entries:
        if isinstance(entry, Reveal):
            for item in entry.items:
                yield ("reveal", item.unit, item.attempt), item.digest
        elif isinstance(entry, Endorse):
            yield ("endorsement", entry.unit, entry.attempt), entry.digest


def _two_answers(one: Frame, two: Frame) -> str:
    if one.incarnation != two.incarnation:
        return ""
    said: dict[Answer, Digest] = {}
    for frame in (one, two):
        for answer, digest in _answers(frame):
            if said.setdefault(answer, digest) != digest:
                kind, unit, attempt = answer
                return f"two different answers ({kind}s) for unit {unit} in attempt {attempt}"
    return ""


def _contradiction(commits: VerifiedFrame, reveals: VerifiedFrame) -> str:
    for entry in reveals.frame.entries:
        if not isinstance(entry, Reveal) or entry.commit != commits.hash:
            continue
        entries = commits.frame.entries
        named = entries[entry.index] if entry.index < len(entries) else None
        if not isinstance(named, Commit):
            return "a reveal names something that is no commitment"
        why = matches(named, entry)
        if why:
            return f"a reveal contradicts its commitment: {why}"
    return ""
