"""How many executions of a job were for nothing, by the frames that its publisher has.

An execution is a unit that a volunteer finished (it committed to the answer, or called the unit a
failure), or was at when its process ended: of what it had claimed by then and neither given back
nor answered it was at one unit for each of its slots. The executions that a job needs are the
quorum of each unit; all others are wasted, whatever the reason.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import Claim, Commit, Failure, Frame, Release


class Waste(msgspec.Struct, frozen=True):
    """Executions that were finished, that were cut off, and that were needed."""

    finished: int
    cut_off: int
    needed: int

    @property
    def executions(self) -> int:
        return self.finished + self.cut_off

    @property
    def share(self) -> float:
        """The share of all executions that was for nothing."""
        return max(0, self.executions - self.needed) / max(1, self.executions)


def waste(frames: Iterable[Frame], needed: int, slots: int) -> Waste:
    """What was executed, by all frames of a job's volunteers, in any order."""
    finished: set[tuple[PeerId, int]] = set()
    held: dict[PeerId, set[int]] = {}
    lives: dict[PeerId, int] = {}
    cut_off = 0

    def end_of_life(author: PeerId) -> int:
        return min(slots, len(held.get(author, ())))

    order = sorted(frames, key=lambda each: (each.author, each.incarnation, each.sequence))
    for frame in order:
        if lives.get(frame.author, frame.incarnation) != frame.incarnation:
            cut_off += end_of_life(frame.author)
        lives[frame.author] = frame.incarnation
        mine = held.setdefault(frame.author, set())
        for entry in frame.entries:
            match entry:
                case Claim(units=units):
                    mine.update(units)
                case Release(units=units):
                    mine.difference_update(units)
                case Commit(items=items):
                    for item in items:
                        finished.add((frame.author, item.unit))
                        mine.discard(item.unit)
                case Failure(unit=unit):
                    finished.add((frame.author, unit))
                    mine.discard(unit)
                case _:
                    pass
    cut_off += sum(end_of_life(author) for author in lives)
    return Waste(len(finished), cut_off, needed)
