"""One job at one node: what publisher and volunteers have in common.

Frames in and out, who else takes part, and pulls that repair what was lost. The publisher's and
the volunteer's own concerns are machines of their own, held here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core.effects import Effect, Send, ShutJob, Sign, UnitRow
from p2pfleet.core.machines.custody import Custody
from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.machines.publisher import Publisher
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import Certificate, Entry, Frame, FramesSummary, Manifest, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest, VerifiedSnapshot

FLUSH_MS = 50
FAILURES_KEPT = 20
SUMMARY_MS = 5_000
ASK_BACK_MS = 600  # the other side answers every half second
FRAME_ENTRIES_MAX = 512
PARTICIPANTS_MAX = 256
SNAPSHOT_BYTES_MAX = 4 * 2**20
"""What all trust snapshots of a job that is not this node's own may take; they are all kept."""


class Ended(msgspec.Struct, frozen=True):
    """What a node remembers of a job that needs no more work.

    ``state``: completed, cancelled, expired, or refused (by this node). ``closure`` is the
    publisher's word, to be handed on to those who do not know it yet. ``counts`` are units by
    state, ``failures`` the first failed units with their reasons.
    """

    id: JobId
    manifest: Manifest
    own: bool
    state: str
    reason: str
    closure: Sealed | None
    counts: dict[str, int]
    votes: int
    volunteers: int
    lasted_ms: int
    failures: tuple[tuple[int, str], ...]


class Job(msgspec.Struct):
    """An open job, its frames and its units.

    ``retired`` is what the node did as a volunteer, while it has left the job; ``shared`` the
    answer of :meth:`sharing` for ``shared_with``.
    """

    id: JobId
    sealed: VerifiedManifest
    own: bool
    settlement: Settlement
    log: FrameLog
    custody: Custody
    snapshot: VerifiedSnapshot | None = None
    snapshot_bytes: int = 0
    reason: str = ""
    participants: dict[PeerId, bool] = {}
    outbox: list[Entry] = []
    flush_at: Millis | None = None
    sequence: int = 0
    summary_at: Millis | None = None
    summary_turn: int = 0
    asked_at: dict[PeerId, Millis] = {}
    first_seen: Millis = Millis(0)
    volunteer: Volunteer | None = None
    retired: Volunteer | None = None
    publisher: Publisher | None = None
    shared_with: tuple[PeerId, ...] | None = None
    shared: int = 0

    @property
    def manifest(self) -> Manifest:
        return self.sealed.manifest

    @property
    def joined(self) -> bool:
        """Whether this node takes part: publishes it, or has the model and runs units of it."""
        return self.publisher is not None or (self.volunteer is not None and self.volunteer.open)

    def admit(self, frame: VerifiedFrame, wall_ms: int, bounded: bool) -> str | None:
        """Why a frame is not taken, or ``None``: then it is counted as here."""
        manifest = self.sealed.manifest
        leases = max(0, wall_ms - manifest.issued_ms) // manifest.lease_ms
        return self.log.admit(frame, manifest.units, leases, bounded)

    def restore(self, units: tuple[UnitRow, ...], snapshots: tuple[VerifiedSnapshot, ...]) -> None:
        """Take the ledger up again as the store has it."""
        for row in units:
            certificate = None
            reason = ""
            if row.state == "failed":
                reason = row.detail.decode(errors="replace")
            elif row.detail:
                certificate = decode(row.detail, Certificate, MAX_FRAME_BYTES)
            self.settlement.restore(row.unit, row.state, certificate, reason)
        for snapshot in sorted(snapshots, key=lambda each: each.snapshot.number):
            self.weigh(snapshot)

    def weigh(self, snapshot: VerifiedSnapshot) -> bool:
        """Let a trust snapshot weigh votes from now on, if it is newer; whether it does."""
        body = snapshot.snapshot
        if (
            body.publisher != self.manifest.publisher
            or body.model_class != self.manifest.trust.model_class
            or body.number <= self.settlement.snapshot_number
        ):
            return False
        size = len(snapshot.sealed.body)
        if not self.own and self.snapshot_bytes + size > SNAPSHOT_BYTES_MAX:
            return False
        self.snapshot_bytes += size
        self.snapshot = snapshot
        self.settlement.weigh(snapshot)
        return True

    def ended(self, state: str, closure: Sealed | None, now: Millis) -> Ended:
        """What to remember of it."""
        failed = sorted(
            number for number, unit in self.settlement.units.items() if unit.state == "failed"
        )
        return Ended(
            id=self.id,
            manifest=self.manifest,
            own=self.own,
            state=state,
            reason=self.reason,
            closure=closure,
            counts={name: count for name, count in sorted(self.settlement.tally.items()) if count},
            votes=self.settlement.votes,
            volunteers=self.volunteers(),
            lasted_ms=now - self.first_seen,
            failures=tuple(
                (number, self.settlement.units[number].reason) for number in failed[:FAILURES_KEPT]
            ),
        )

    def holds_back(self, peer: PeerId, digest: Digest) -> bool:
        """Whether an output of this job must not be given to ``peer`` yet.

        To have committed is not enough: who commits to anything at all would get the bytes to
        commit to in the next attempt. Who has revealed an answer has no second one.
        """
        if self.publisher is not None:
            return digest in self.publisher.judge.here or digest in self.publisher.wanted
        volunteer = self.volunteer or self.retired
        numbers = None if volunteer is None else volunteer.outputs.get(digest)
        if numbers is None and self.custody.withholds(self.manifest, digest):
            numbers = self.custody.outputs.get(digest, [])
        if numbers is None or peer == self.manifest.publisher:
            return False
        units = [self.settlement.unit(number) for number in numbers]
        if any(unit.final or peer in unit.votes for unit in units):
            return False
        return not self.custody.may_have(peer, digest)

    def volunteers(self) -> int:
        """How many others take part, the publisher not counted."""
        return sum(peer != self.manifest.publisher for peer in self.participants)

    def join(self, peer: PeerId) -> None:
        """``peer`` takes part in this job."""
        if peer not in self.participants and len(self.participants) < PARTICIPANTS_MAX:
            self.participants[peer] = True
            self.shared_with = None

    def left(self, peer: PeerId) -> None:
        """``peer`` is not here any more."""
        self.participants.pop(peer, None)
        self.asked_at.pop(peer, None)
        self.shared_with = None

    def sharing(self, volunteers: tuple[PeerId, ...], me: PeerId) -> int:
        """How many share the job's work, ``me`` among them: ``volunteers`` and participants.

        The answer holds until either changes; an unchanged tuple of volunteers is the same object.
        """
        if self.shared_with is not volunteers:
            others = {*volunteers, *self.participants}
            self.shared = len(others - {me, self.manifest.publisher}) + 1
            self.shared_with = volunteers
        return self.shared

    def others(self, here: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those who are here and take part, sorted like ``here``."""
        participants, publisher = self.participants, self.sealed.manifest.publisher
        return tuple([peer for peer in here if peer in participants or peer == publisher])

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

    def release(self, me: PeerId, incarnation: int, now: Millis) -> list[Effect]:
        """Give every claim back, at once."""
        if self.volunteer is not None:
            self.write(self.volunteer.release_all(), now)
        return self.flush(me, incarnation)

    def leave(self, me: PeerId, incarnation: int, now: Millis) -> list[Effect]:
        """Stop volunteering for this job, but keep for its publisher what was voted for.

        What was committed to is revealed; what was only run waits until the node comes back to it.
        """
        if self.volunteer is None:
            return []
        self.write(self.volunteer.leave(self.settlement), now)
        effects = self.release(me, incarnation, now)
        self.custody.left()
        self.retired, self.volunteer = self.volunteer, None
        return [*effects, ShutJob(self.id, keep=True)]

    def summary(self) -> FramesSummary:
        """What is here of this job, for others."""
        return FramesSummary(self.id, self.log.positions(), self.settlement.snapshot_number)

    def summarize(self, here: Sequence[PeerId], now: Millis) -> list[Effect]:
        """Now and then, tell two others what is here, in turn, so that nothing stays lost."""
        self.summary_at = Millis(now + SUMMARY_MS)
        others = self.others(here)
        if not others:
            return []
        picked = {others[(self.summary_turn + step) % len(others)] for step in (0, 1)}
        self.summary_turn += 2
        return [Send(tuple(sorted(picked)), self.summary())]

    def ask_back(self, source: PeerId, frame: VerifiedFrame, now: Millis) -> list[Effect]:
        """Something of the frame's author was lost on the way: ask whoever sent it, at once.

        Claims and votes that come seconds late cost everybody executions.
        """
        if not self.log.ahead:
            return []
        key = (frame.author, frame.frame.incarnation)
        if key not in self.log.ahead or now - self.asked_at.get(source, -ASK_BACK_MS) < ASK_BACK_MS:
            return []
        self.asked_at[source] = now
        return [Send((source,), self.summary())]

    def deadlines(self, paused: bool) -> list[Millis | None]:
        """When this job wants to be ticked: the first of these, ``None`` being never."""
        times = [self.flush_at]
        joined = False
        if self.volunteer is not None:
            times.extend(self.volunteer.deadlines(paused))
            joined = self.volunteer.open
        if self.publisher is not None:
            times.append(self.publisher.deadline())
            joined = True
        if joined:
            times.append(self.summary_at)
            times.append(self.custody.deadline())
            times.extend(self.settlement.later.values())
        return times
