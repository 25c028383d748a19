"""What the sides of a cut network certified apart from each other, and what became of it.

Each node computes certificates for itself and keeps them in its ledger, so a look into the ledgers
at the end of a cut shows what each side holds for certified by its own votes alone. Units that all
sides certified are watched from then on: equal answers have to be merged, and where the answers
were different (rivals), somebody has to reopen the unit, and one answer has to win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import msgspec

from p2pfleet.cli.testnet_condition import Condition
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate, Endorse, Frame, Reveal, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES

LOOK_EVERY_S = 1.0
_UNITS = (
    "SELECT unit, state, detail FROM units"
    " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY unit"
)
_FRAMES = (
    "SELECT sealed, peers.peer FROM frames JOIN peers ON peers.number = frames.author"
    " WHERE job = (SELECT number FROM jobs WHERE job = ?)"
)
_SEALED_MAX = MAX_FRAME_BYTES + 1024


class Line(msgspec.Struct, frozen=True):
    """What a ledger says of a unit: its state; the digest that is certified, and whose votes
    (the hashes of their frames) certify it."""

    state: str
    digest: bytes | None = None
    votes: frozenset[bytes] = frozenset()


class Books(Protocol):
    """What a node has written down of the job; empty where it cannot be read just now."""

    def ledger(self, number: int) -> Mapping[int, Line]:
        """Its ledger, by unit."""

    def authors(self, number: int) -> Mapping[bytes, PeerId]:
        """Who wrote each frame that it has, by the frame's hash."""


class StoredBooks:
    """The same from the stores of nodes that may be running; ``folder`` gives a data folder."""

    def __init__(self, folder: Callable[[int], Path], job: JobId) -> None:
        self._folder = folder
        self._job = job

    def ledger(self, number: int) -> Mapping[int, Line]:
        return {unit: _line(state, detail) for unit, state, detail in self._rows(number, _UNITS)}

    def authors(self, number: int) -> Mapping[bytes, PeerId]:
        return {
            decode(sealed, Sealed, _SEALED_MAX).hash: PeerId(peer)
            for sealed, peer in self._rows(number, _FRAMES)
        }

    def _rows(self, number: int, query: str) -> list[Any]:
        import sqlite3  # commands that do not look into stores start without it

        file = self._folder(number) / "node.sqlite"
        try:
            with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)) as found:
                return found.execute(query, (self._job,)).fetchall()
        except sqlite3.Error:  # it has just been killed, or begins
            return []


def _line(state: str, detail: bytes) -> Line:
    if state not in ("certified", "settled") or not detail:
        return Line(state)
    certificate = decode(detail, Certificate, MAX_FRAME_BYTES)
    return Line(state, certificate.digest, frozenset(vote.frame for vote in certificate.votes))


class Apart:
    """The units that every one of ``sides`` (names, and the numbers of their nodes) certified by
    votes of its own at the moment ``at_s``. At least ``units`` such units are expected, of them
    ``rivals`` with different answers. ``peers`` are all nodes, by number.
    """

    def __init__(
        self,
        at_s: float,
        sides: Mapping[str, Sequence[int]],
        units: int,
        rivals: int,
        peers: Mapping[int, PeerId],
        books: Books,
    ) -> None:
        self._at_s = at_s
        self._sides = sides
        self._wanted = (units, rivals)
        self._peers = peers
        self._books = books
        found = [self._certified(numbers) for numbers in sides.values()]
        common = set.intersection(*({*each} for each in found))
        self._digests = {unit: frozenset(each[unit] for each in found) for unit in sorted(common)}
        self._counts = [len(each) for each in found]
        self._contested: set[int] = set()
        self._agreed: set[int] = set()
        self._looked_s = at_s

    @property
    def rivals(self) -> set[int]:
        """The units to which not every side had the same answer."""
        return {unit for unit, digests in self._digests.items() if len(digests) > 1}

    def look(self, now_s: float) -> None:
        """See which rivals are contested now, and of which everybody has the same answer again;
        at most one look a second."""
        rivals = self.rivals
        if not rivals or now_s < self._looked_s + LOOK_EVERY_S:
            return
        self._looked_s = now_s
        ledgers = [
            self._books.ledger(number) for numbers in self._sides.values() for number in numbers
        ]
        for unit in rivals:
            lines = [ledger[unit] for ledger in ledgers if unit in ledger]
            if any(line.state == "contested" for line in lines):
                self._contested.add(unit)
            digests = {line.digest for line in lines}
            if len(lines) == len(ledgers) and len(digests) == 1 and None not in digests:
                self._agreed.add(unit)

    def judge(self, ledger: Mapping[int, Line], frames: Iterable[Frame]) -> list[Condition]:
        """What became of these units, by the publisher's ledger and frames at the end."""
        units, rivals = self._wanted
        names = " and ".join(self._sides)
        counts = " and ".join(map(str, self._counts))
        same = set(self._digests) - self.rivals
        both = same & self._voted_on_every_side(frames)
        final = {
            unit: ledger[unit].digest
            for unit in self._digests
            if unit in ledger and ledger[unit].state == "settled"
        }
        kept = {unit for unit in same if final.get(unit) in self._digests[unit]}
        won = {unit for unit in self.rivals if final.get(unit) in self._digests[unit]}
        found = [
            Condition(
                f"at {self._at_s:.0f} s {names} had certified {units} of the same units, each by "
                "its own votes",
                len(self._digests) >= units and len(self.rivals) >= rivals,
                f"{len(self._digests)} of {counts}; {len(self.rivals)} of them with different "
                "answers",
            )
        ]
        if same:
            found.append(
                Condition(
                    "equal certificates merged: the answer settled, and votes of every side stand "
                    "behind it",
                    kept == same and both == same,
                    f"{len(kept)} settled with the answer of both, {len(both)} have votes of "
                    f"every side, of {len(same)}",
                )
            )
        if rivals:
            found.append(
                Condition(
                    "rival certificates were contested, all sides certified one answer, and one "
                    "settled",
                    # Where all have one answer again, somebody has reopened the other; but for
                    # how long it was contested may be less than a second.
                    bool(self._contested) and len(self._agreed) >= rivals and won == self.rivals,
                    f"{len(self._contested)} were seen contested, {len(self._agreed)} with one "
                    f"answer everywhere, {len(won)} settled, of {len(self.rivals)}",
                )
            )
        return found

    def _certified(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The answers that a side has certified by votes of its own members."""
        own = {self._peers[number] for number in numbers}
        found: dict[int, bytes] = {}
        for number in numbers:
            # In this order: the frames behind a line are written no later than the line.
            ledger = self._books.ledger(number)
            authors = self._books.authors(number)
            for unit, line in ledger.items():
                if line.digest is None or not line.votes:
                    continue
                if all(authors.get(vote) in own for vote in line.votes):
                    found.setdefault(unit, line.digest)
        return found

    def _voted_on_every_side(self, frames: Iterable[Frame]) -> set[int]:
        """The units whose answer of all sides got a vote from somebody on each of them."""
        side_of = {
            self._peers[number]: side for side, numbers in self._sides.items() for number in numbers
        }
        voted: dict[int, set[str]] = {}
        for frame in frames:
            side = side_of.get(frame.author)
            if side is None:
                continue
            for entry in frame.entries:
                match entry:
                    case Reveal(items=items):
                        for item in items:
                            if item.digest in self._digests.get(item.unit, ()):
                                voted.setdefault(item.unit, set()).add(side)
                    case Endorse(unit=unit, digest=digest):
                        if digest in self._digests.get(unit, ()):
                            voted.setdefault(unit, set()).add(side)
                    case _:
                        pass
        return {unit for unit, seen in voted.items() if len(seen) == len(self._sides)}
