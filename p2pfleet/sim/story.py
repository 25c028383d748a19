"""The story of one unit: every entry, decision and judgement that touched it, on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire import messages as ms

LINES_MAX = 100_000


class Story:
    """Collects lines about unit ``unit`` of the job that was published as number ``job``."""

    def __init__(self, unit: int, job: int = 0) -> None:
        self.unit, self.number = unit, job
        self.job: JobId | None = None
        self.names: dict[PeerId, str] = {}
        self.lines: list[str] = []

    def note(self, now: int, name: str, text: str) -> None:
        """A line of its own, such as a crash."""
        if len(self.lines) < LINES_MAX:
            self.lines.append(f"{now / 1000:10.3f} s  {name:<12}  {text}")

    def step(self, now: int, name: str, event: ev.Event, effects: Sequence[ef.Effect]) -> None:
        """What an event and its effects say of the unit."""
        for text in [*self._event(event), *(line for e in effects for line in self._effect(e))]:
            self.note(now, name, text)

    def _name(self, peer: PeerId) -> str:
        return self.names.get(peer, peer.hex()[:8])

    def _event(self, event: ev.Event) -> list[str]:
        match event:
            case ev.FrameReceived(source=source, frame=frame) if frame.frame.job == self.job:
                author = frame.author
                way = "writes" if source == author else f"(by {self._name(source)}) writes"
                number = frame.frame.sequence
                return [
                    f"hears: {self._name(author)} {way} in frame {number}: {text}"
                    for text in self._entries(frame.frame.entries)
                ]
            case ev.UnitExecuted(job=job, unit=unit, digest=digest):
                if (job, unit) == (self.job, self.unit):
                    return [f"ran it: {digest.hex()[:8]}"]
            case ev.UnitFaulted(job=job, unit=unit) | ev.UnitUnavailable(job=job, unit=unit):
                if (job, unit) == (self.job, self.unit):
                    return [f"could not run it: {event.reason}"]
            case ev.WantedReceived(job=job, units=units):
                if job == self.job and self.unit in units:
                    return ["hears that the publisher wants one more replica"]
        return []

    def _entries(self, entries: tuple[ms.Entry, ...]) -> list[str]:
        lines = []
        for entry in entries:
            match entry:
                case ms.Claim(units=units) if self.unit in units:
                    lines.append("claim")
                case ms.Release(units=units) if self.unit in units:
                    lines.append("release")
                case ms.Commit(items=items):
                    lines += [
                        f"commitment (attempt {item.attempt})"
                        for item in items
                        if item.unit == self.unit
                    ]
                case ms.Reveal(items=results):
                    lines += [
                        f"vote for {item.digest.hex()[:8]} (attempt {item.attempt})"
                        for item in results
                        if item.unit == self.unit
                    ]
                case ms.Endorse(unit=self.unit):
                    lines.append(f"endorsement of {entry.digest.hex()[:8]}")
                case ms.Audit(unit=self.unit):
                    lines.append(f"the publisher's word for {entry.digest.hex()[:8]}")
                case ms.Failure(unit=self.unit):
                    lines.append(f"failure: {entry.reason}")
        return lines

    def _effect(self, effect: ef.Effect) -> list[str]:
        match effect:
            case ef.SaveUnits(job=self.job, rows=rows):
                return [
                    f"decides: {row.state}"
                    + (f" ({row.detail.decode()})" if row.state == "failed" else "")
                    for row in rows
                    if row.unit == self.unit
                ]
            case ef.SaveMoves(job=self.job, rows=moves):
                return [
                    f"judges {self._name(move.peer)}: {move.kind}"
                    for move in moves
                    if move.unit == self.unit
                ]
            case ef.Execute(job=self.job, unit=self.unit):
                return ["is to run it"]
            case ef.Withdraw(job=self.job, units=units) if self.unit in units:
                return ["need not run it any more"]
        return []
