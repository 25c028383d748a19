"""One job at one node: what publisher and volunteers have in common.

Frames in and out, who else takes part, and pulls that repair what was lost. The publisher's and
the volunteer's own concerns are machines of their own, held here.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Effect, Send, Sign
from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.machines.publisher import Publisher
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Entry, Frame, FramesSummary, Manifest
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedClosure, VerifiedManifest

FLUSH_MS = 50
SUMMARY_MS = 5_000
FRAME_ENTRIES_MAX = 512
PARTICIPANTS_MAX = 256


class Job(msgspec.Struct):
    """A job, its frames, its units; active, then completed, cancelled, expired or refused."""

    id: JobId
    sealed: VerifiedManifest
    own: bool
    settlement: Settlement
    log: FrameLog
    state: str = "active"
    reason: str = ""
    closure: VerifiedClosure | None = None
    participants: dict[PeerId, bool] = {}
    outbox: list[Entry] = []
    flush_at: Millis | None = None
    sequence: int = 0
    summary_at: Millis | None = None
    summary_turn: int = 0
    first_seen: Millis = Millis(0)
    volunteer: Volunteer | None = None
    publisher: Publisher | None = None

    @property
    def manifest(self) -> Manifest:
        return self.sealed.manifest

    @property
    def active(self) -> bool:
        return self.state == "active"

    @property
    def joined(self) -> bool:
        """Whether this node takes part: publishes it, or has the model and runs units of it."""
        return self.publisher is not None or (self.volunteer is not None and self.volunteer.open)

    def join(self, peer: PeerId) -> None:
        """``peer`` takes part in this job."""
        if peer not in self.participants and len(self.participants) < PARTICIPANTS_MAX:
            self.participants[peer] = True

    def others(self, here: list[PeerId]) -> tuple[PeerId, ...]:
        """Those who are here and take part, sorted like ``here``."""
        return tuple(
            peer for peer in here if peer in self.participants or peer == self.manifest.publisher
        )

    def write(self, entries: list[Entry], now: Millis) -> None:
        """Put entries into the next frame, which leaves within FLUSH_MS."""
        if entries:
            self.outbox.extend(entries)
            if self.flush_at is None:
                self.flush_at = Millis(now + FLUSH_MS)

    def flush(self, me: PeerId, incarnation: int) -> list[Effect]:
        """Sign what has been written, in frames within their bounds."""
        effects: list[Effect] = []
        self.flush_at = None
        while self.outbox:
            size = 256
            count = 0
            for entry in self.outbox[:FRAME_ENTRIES_MAX]:
                size += len(encode(entry))
                if size > MAX_FRAME_BYTES:
                    break
                count += 1
            entries, self.outbox = self.outbox[:count], self.outbox[count:]
            body = Frame(
                self.manifest.network, self.id, me, incarnation, self.sequence, tuple(entries)
            )
            self.sequence += 1
            effects.append(Sign(body))
        return effects

    def summary(self) -> FramesSummary:
        return FramesSummary(self.id, self.log.positions())

    def summarize(self, here: list[PeerId], now: Millis) -> list[Effect]:
        """Now and then, tell two others what is here, in turn, so that nothing stays lost."""
        self.summary_at = Millis(now + SUMMARY_MS)
        others = self.others(here)
        if not others:
            return []
        picked = {others[(self.summary_turn + step) % len(others)] for step in (0, 1)}
        self.summary_turn += 2
        return [Send(tuple(sorted(picked)), self.summary())]

    def deadline(self, paused: bool) -> Millis | None:
        """When this job wants to be ticked next."""
        times = [self.flush_at, self.summary_at if self.active and self.joined else None]
        if self.volunteer is not None and self.active:
            times.append(self.volunteer.deadline(paused))
        if self.publisher is not None and self.active:
            times.append(self.publisher.deadline())
        return min((at for at in times if at is not None), default=None)
