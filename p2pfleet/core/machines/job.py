"""One job at one node: what publisher and volunteers have in common.

Frames in and out, who else takes part, and pulls that repair what was lost. The publisher's and
the volunteer's own concerns are machines of their own, held here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from p2pfleet.core.effects import Effect, Send, ShutJob, Sign, UnitRow, Want
from p2pfleet.core.machines.custody import Custody
from p2pfleet.core.machines.frames import REPLY_FRAMES_MAX, FrameLog
from p2pfleet.core.machines.publisher import Publisher
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.shards import ANSWER_MS, UNIT_MS, Around, Shards
from p2pfleet.core.machines.sighting import Sighting
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId
from p2pfleet.core.rules.admission import named_units
from p2pfleet.core.rules.shards import keepers, size_of
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import (
    Certificate,
    Claim,
    Entry,
    Frame,
    FramesSummary,
    Manifest,
    OpenRingers,
    Release,
    Sealed,
    Wanted,
)
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import (
    VerifiedFrame,
    VerifiedManifest,
    VerifiedRecord,
    VerifiedSnapshot,
)

FLUSH_MS = 50
FAILURES_KEPT = 20
BEHIND_MS = 30_000
SUMMARY_MS = 2_500
DONE_SUMMARY_MS = 10_000
VISITED_SUMMARY_MS = 5_000
ASK_ANOTHER_MS = 2_000  # by then whoever was asked first has answered
ASK_BACK_MS = 600  # the other side answers every half second
FRAME_ENTRIES_MAX = 512
PARTICIPANTS_MAX = 256
SHARDS_A_TURN = 8
HELD_TOLD = 64
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

    ``logs``, ``outbox``, ``sequences`` and ``asked_last``, when somebody was last asked for all
    that is lacking, are by shard. In ``untold`` ones the publisher does not know of this node yet.
    ``pulled`` counts by shard what others handed on since then; of ``more`` somebody has the rest.
    ``retired`` is what the node did as a
    volunteer, while it has left the job; ``shared`` the answer of :meth:`sharing` for
    ``shared_with``.
    """

    id: JobId
    sealed: VerifiedManifest
    own: bool
    settlement: Settlement
    shards: Shards
    custody: Custody
    sighting: Sighting = msgspec.field(default_factory=Sighting)
    logs: dict[int, FrameLog] = {}
    snapshot: VerifiedSnapshot | None = None
    snapshot_bytes: int = 0
    reason: str = ""
    participants: dict[PeerId, bool] = {}
    outbox: dict[int, list[Entry]] = {}
    flush_at: Millis | None = None
    sequences: dict[int, int] = {}
    summary_at: Millis | None = None
    summary_turn: int = 0
    asked_at: dict[tuple[PeerId, int], Millis] = {}
    asked_last: dict[int, Millis] = {}
    untold: dict[int, bool] = {}
    pulled: dict[int, int] = {}
    more: dict[int, PeerId] = {}
    turn_at: Millis = Millis(0)
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
        terms, shard = self.sealed.manifest, frame.frame.shard
        leases = max(0, wall_ms - terms.issued_ms) // terms.lease_ms
        return self.log(shard).admit(
            frame, size_of(terms.units, terms.shards, shard), leases, bounded
        )

    def log(self, shard: int) -> FrameLog:
        """Which frames of a shard are here."""
        found = self.logs.get(shard)
        if found is None:
            found = self.logs[shard] = FrameLog(self.id, shard)
            self.shards.known[shard] = True
        return found

    def takes(self, shard: int) -> bool:
        """Whether frames of a shard are taken in here: the publisher takes all."""
        return self.publisher is not None or shard in self.shards.served

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

    def publisher_is_there(self, present: Callable[[PeerId], bool], now: Millis) -> bool:
        """Whether the publisher can be counted on: it is connected, or was heard of lately."""
        return present(self.sealed.manifest.publisher) or self.sighting.fresh(now)

    def hear_of(self, record: VerifiedRecord, source: PeerId, now: Millis, wall_ms: int) -> None:
        """``source`` hands on what a peer says of itself: of interest if that is the publisher."""
        terms = self.sealed.manifest
        if terms.shards > 1 and not self.own and record.record.peer == terms.publisher:
            self.sighting.take(record, source, now, wall_ms)

    def holds_back(self, peer: PeerId, digest: Digest) -> bool:
        """Whether an output of this job must not be given to ``peer`` yet.

        To have committed is not enough: who commits to anything at all would get the bytes to
        commit to in the next attempt. Who has revealed an answer has no second one.
        """
        if self.publisher is not None:
            return digest in self.publisher.judge.here or digest in self.publisher.wanted
        volunteer = self.volunteer or self.retired
        numbers = None if volunteer is None else volunteer.answers.outputs.get(digest)
        if numbers is None and self.custody.withholds(self.manifest, digest):
            numbers = self.custody.outputs.get(digest, [])
        if numbers is None or peer == self.manifest.publisher:
            return False
        units = [self.settlement.unit(number) for number in numbers]
        if any(unit.final or peer in unit.votes for unit in units):
            return False
        return not self.custody.may_have(self.settlement, peer, digest)

    def has_of(self, peer: PeerId) -> Callable[[Digest, Sequence[int]], bool]:
        """Tells whether ``peer`` should have an output of some units, by its votes or its word."""
        answered, kept = self.settlement.answered.get(peer, {}), self.custody.claimed

        def has(digest: Digest, numbers: Sequence[int]) -> bool:
            return peer in kept.get(digest, ()) or any(number in answered for number in numbers)

        return has

    def volunteers(self) -> int:
        """How many others take part, the publisher not counted."""
        return sum(peer != self.manifest.publisher for peer in self.participants)

    def join(self, peer: PeerId, shard: int | None = None) -> bool:
        """``peer`` takes part in this job, and serves a shard; whether that is news."""
        if peer not in self.participants:
            if len(self.participants) >= PARTICIPANTS_MAX:
                return False
            self.participants[peer] = True
            self.shared_with = None
        if shard is None or self.sealed.manifest.shards == 1 or peer == self.manifest.publisher:
            return False
        return self.shards.joined(peer, shard)

    def kept_by(self, peer: PeerId, shard: int) -> bool:
        """``peer`` keeps the frames of a shard without serving it; whether that is news."""
        self.join(peer)
        return self.manifest.shards > 1 and self.shards.left(peer, shard)

    def left(self, peer: PeerId) -> None:
        """``peer`` is not here any more."""
        self.participants.pop(peer, None)
        self.shared_with = None
        if peer in self.shards.holds and peer not in self.shards.serves:
            self.custody.part(peer, self.settlement)
        self.shards.gone(peer)
        self.sighting.left(peer)
        if self.manifest.shards == 1:
            self.asked_at.pop((peer, 0), None)
        else:
            self.asked_at = {key: at for key, at in self.asked_at.items() if key[0] != peer}

    def sharing(self, volunteers: tuple[PeerId, ...], me: PeerId) -> int:
        """How many share the work that this node does, ``me`` among them: ``volunteers`` and
        participants, or of several shards those who serve the same.

        The answer holds until either changes; an unchanged tuple of volunteers is the same object.
        """
        if self.sealed.manifest.shards > 1:
            groups = (self.shards.members.get(shard, {}) for shard in self.shards.served)
            return 1 + len({peer for group in groups for peer in group})
        if self.shared_with is not volunteers:
            others = {*volunteers, *self.participants}
            self.shared = len(others - {me, self.manifest.publisher}) + 1
            self.shared_with = volunteers
        return self.shared

    def others(self, here: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those who are here and take part, sorted like ``here``."""
        participants, publisher = self.participants, self.sealed.manifest.publisher
        return tuple([peer for peer in here if peer in participants or peer == publisher])

    def mates(self, shard: int, here: Sequence[PeerId]) -> tuple[PeerId, ...]:
        """Those who are here and want the frames of a shard: who serves it, and the publisher."""
        if self.manifest.shards == 1:
            return self.others(here)
        group, publisher = self.shards.members.get(shard, {}), self.manifest.publisher
        return tuple(peer for peer in here if peer in group or peer == publisher)

    def write(self, entries: list[Entry], now: Millis) -> None:
        """Put entries into the next frame of their shard, which leaves within FLUSH_MS."""
        if not entries:
            return
        if self.manifest.shards == 1:
            self.outbox.setdefault(0, []).extend(entries)
        else:
            for entry in entries:
                for shard, part in self._by_shard(entry):
                    self.outbox.setdefault(shard, []).append(part)
        if self.flush_at is None:
            self.flush_at = Millis(now + FLUSH_MS)

    def _by_shard(self, entry: Entry) -> list[tuple[int, Entry]]:
        """An entry, in parts of one shard each; what is about blobs goes to the home shard."""
        if isinstance(entry, OpenRingers):
            return [(0, entry)]
        units = named_units(entry)
        if not units:
            home = self.shards.home
            return [(min(self.logs, default=0) if home is None else home, entry)]
        if not isinstance(entry, Claim | Release):
            return [(self.settlement.shard(units[0]), entry)]
        parts: dict[int, list[int]] = {}
        for number in units:
            parts.setdefault(self.settlement.shard(number), []).append(number)
        kind = type(entry)
        return [(shard, kind(tuple(numbers))) for shard, numbers in sorted(parts.items())]

    def flush(self, me: PeerId, incarnation: int) -> list[Effect]:
        """Sign what has been written, in frames within their bounds."""
        effects: list[Effect] = []
        self.flush_at = None
        waiting, self.outbox = self.outbox, {}
        for shard in sorted(waiting):
            left = waiting[shard]
            while left:
                size = 256
                count = 0
                for entry in left[:FRAME_ENTRIES_MAX]:
                    size += len(encode(entry))
                    if size > MAX_FRAME_BYTES:
                        break
                    count += 1
                entries, left = left[:count], left[count:]
                number = self.sequences.get(shard, 0)
                self.sequences[shard] = number + 1
                place = (me, incarnation, number)
                terms = self.manifest
                effects.append(Sign(Frame(terms.network, self.id, *place, tuple(entries), shard)))
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

    def summary(self, shard: int, whole: bool = True) -> FramesSummary:
        """What is here of a shard, for others."""
        positions = self.logs[shard].positions() if shard in self.logs else ()
        number = self.settlement.snapshot_number
        return FramesSummary(self.id, positions, number, shard, self.takes(shard), whole)

    def _ask(self, shard: int, peers: tuple[PeerId, ...], now: Millis) -> list[Effect]:
        """Tell peers what is here of a shard; one of them that has its frames is asked for all that
        are lacking, unless another was a moment ago: all would send the same."""
        effects: list[Effect] = []
        if now - self.asked_last.get(shard, -ASK_ANOTHER_MS) >= ASK_ANOTHER_MS:
            having = self.shards.having(shard)
            known = [peer for peer in peers if self.manifest.shards == 1 or peer in having]
            for peer in known[:1]:
                effects.extend(self._ask_for_all(shard, peer, now))
                peers = tuple(one for one in peers if one != peer)
        if peers:
            effects.append(Send(peers, self.summary(shard, whole=False)))
        return effects

    def introduce(self, peers: tuple[PeerId, ...], now: Millis) -> list[Effect]:
        """Tell peers that are new here which shards this node serves. The publisher waits to be
        told what a peer has; and it is told of all that is kept here."""
        if not peers or (self.publisher is not None and self.manifest.shards > 1):
            return []
        effects: list[Effect] = []
        for shard in self.shards.served:
            effects.extend(self._ask(shard, peers, now))
        publisher = self.manifest.publisher
        if publisher in peers:
            kept = [shard for shard in self.logs if shard not in self.shards.served]
            for shard in kept[-HELD_TOLD:]:
                effects.append(Send((publisher,), self.summary(shard, whole=False)))
        return effects

    def arrive(self, shard: int, here: tuple[PeerId, ...], now: Millis) -> list[Effect]:
        """Begin to serve a shard: ask one of those who do for its frames; all of them would send
        the same. The others hear of this node by its first frame, the publisher soon."""
        self.untold[shard] = True
        mates = [peer for peer in here if peer in self.shards.members.get(shard, {})]
        peers = tuple(keepers(self.manifest.salt, shard, mates)[:1]) or here
        if not peers:
            return []
        self.asked_last.pop(shard, None)
        return self._ask(shard, peers, now)

    def summarize(self, here: Sequence[PeerId], now: Millis) -> list[Effect]:
        """Now and then, tell one of the others of each shard what is here, in turn, so that nothing
        stays lost; the publisher tells one of each shard that somebody here has."""
        effects = self._ask_more(here, now)
        if self.turn_at > now:
            self.summary_at = self.turn_at
            return effects
        turn, self.summary_turn = self.summary_turn, self.summary_turn + 1
        if self.publisher is not None and self.manifest.shards > 1:
            self.summary_at = self.turn_at = Millis(now + VISITED_SUMMARY_MS)
            near = sorted({*self.shards.members, *self.shards.holders})
            count = min(SHARDS_A_TURN, len(near))
            for step in range(count):
                shard = near[(turn * count + step) % len(near)]
                group = self.shards.having(shard)
                whom = sorted(group)[turn % len(group)]
                if whom in here:
                    effects.extend(self._ask_for_all(shard, whom, now))
            return effects
        open_ones = [shard for shard in self.shards.served if self.settlement.undecided(shard)]
        self.turn_at = Millis(now + (SUMMARY_MS if open_ones else DONE_SUMMARY_MS))
        self.summary_at = self.turn_at
        publisher = self.manifest.publisher
        if publisher in here:
            for shard in [one for one in self.untold if one in self.shards.served]:
                effects.append(Send((publisher,), self.summary(shard, whole=False)))
            self.untold.clear()
        for shard in self.shards.served:
            others = self.mates(shard, here)
            if others:
                effects.extend(self._ask_for_all(shard, others[turn % len(others)], now))
        return effects

    def _ask_for_all(self, shard: int, peer: PeerId, now: Millis) -> list[Effect]:
        self.asked_last[shard] = now
        self.pulled.pop(shard, None)
        return [Send((peer,), self.summary(shard))]

    def handed_on(self, source: PeerId, shard: int, now: Millis) -> None:
        """A frame came from somebody who did not write it: after a whole answer of such, the same
        one has more, and is asked again as soon as it answers."""
        count = self.pulled[shard] = self.pulled.get(shard, 0) + 1
        if count == REPLY_FRAMES_MAX:
            self.more[shard] = source
            soon = Millis(max(now, self.asked_last.get(shard, now) + ASK_BACK_MS))
            self.summary_at = soon if self.summary_at is None else min(self.summary_at, soon)

    def _ask_more(self, here: Sequence[PeerId], now: Millis) -> list[Effect]:
        effects: list[Effect] = []
        for shard, peer in self.more.items():
            if peer in here and self.takes(shard):
                effects.extend(self._ask_for_all(shard, peer, now))
        self.more.clear()
        return effects

    def _knows(self, shard: int, now: Millis) -> bool:
        """Whether this node knows of a shard that it serves what others do there."""
        if not self.shards.settled_in(shard, now):
            return False
        behind = self.pulled.get(shard, 0) >= REPLY_FRAMES_MAX
        return not behind or now - self.shards.since.get(shard, now) >= BEHIND_MS

    def want(self, numbers: tuple[int, ...], here: Sequence[PeerId]) -> list[Effect]:
        """As the publisher, say which units want one more replica, to those who can see to it."""
        if self.manifest.shards == 1:
            others = self.others(here)
            return [Send(others, Wanted(self.id, numbers))] if numbers and others else []
        parts: dict[int, list[int]] = {}
        for number in numbers:
            parts.setdefault(self.settlement.shard(number), []).append(number)
        effects: list[Effect] = []
        for shard, units in sorted(parts.items()):
            group = self.shards.having(shard)
            others = tuple(peer for peer in here if peer in group)
            if others:
                effects.append(Send(others, Wanted(self.id, tuple(units))))
        return effects

    def recalled(self, numbers: tuple[int, ...], now: Millis) -> list[int]:
        """The publisher wants more of these units: those of shards that are known here."""
        if self.manifest.shards == 1:
            return list(numbers)
        mine = []
        for number in numbers:
            shard = self.settlement.shard(number) if number < self.manifest.units else -1
            if shard in self.shards.known:
                if shard not in self.shards.served or not self.settlement.undecided(shard):
                    self.shards.recall(shard, now)
                mine.append(number)
        return mine

    def look(self, now: Millis) -> tuple[list[int], list[int]]:
        """See which shards to serve now: those that are new, and those that are left."""
        volunteer, settlement = self.volunteer, self.settlement
        assert volunteer is not None
        owing = volunteer.owing(settlement)
        near = Around(
            need=settlement.at_first,
            undecided=settlement.undecided,
            free=lambda shard: shard not in owing,
            idle=volunteer.rescan_at is not None,
            unit_ms=UNIT_MS if volunteer.mean_ms is None else round(volunteer.mean_ms),
        )
        joined, left = self.shards.look(near, now)
        wanted = [
            shard
            for shard in self.shards.served
            if shard != self.shards.leaving and self._knows(shard, now)
        ]
        if list(volunteer.served) != wanted:
            volunteer.serve(settlement, tuple(wanted))
        return joined, left

    def attend(self, present: Callable[[PeerId], bool], now: Millis) -> list[Want]:
        """With whom to be connected for this job's sake, if it has several shards."""
        if self.manifest.shards == 1 or not self.joined:
            return []
        if self.publisher is not None:
            lacking = self.publisher.lacking(self.settlement, present)
            return self.shards.visit(self.id, self.settlement.all_final, now, lacking)
        return self.shards.wants(self.id, self.settlement.undecided, self.manifest.publisher)

    def tell_shards(self, peer: PeerId, now: Millis) -> list[Effect]:
        """Tell a peer of the shards of this job, if it has several and this node takes part, and
        did not do so a moment ago; and that the publisher is there."""
        if self.manifest.shards == 1 or not self.joined:
            return []
        if now - self.shards.told_at.get(peer, -ANSWER_MS) < ANSWER_MS:
            return []
        settlement, told_of = self.settlement, self.sighting.tell(peer, now)
        told = self.shards.tell(self.id, settlement.undecided, settlement.at_first, now)
        if told is None:
            return [*told_of]
        self.shards.told_at[peer] = now
        return [*told_of, Send((peer,), told)]

    def ask_back(self, source: PeerId, frame: VerifiedFrame, now: Millis) -> list[Effect]:
        """Something of the frame's author was lost on the way: ask whoever sent it, at once.

        Claims and votes that come seconds late cost everybody executions.
        """
        shard = frame.frame.shard
        ahead = self.log(shard).ahead
        if not ahead or (frame.author, frame.frame.incarnation) not in ahead:
            return []
        return self.tell_once(source, shard, now)

    def tell_once(self, peer: PeerId, shard: int, now: Millis, whole: bool = True) -> list[Effect]:
        """Tell a peer what is here of a shard, unless that was done a moment ago."""
        if now - self.asked_at.get((peer, shard), -ASK_BACK_MS) < ASK_BACK_MS:
            return []
        self.asked_at[peer, shard] = now
        if not whole:
            return self._ask(shard, (peer,), now)
        return self._ask_for_all(shard, peer, now)

    @property
    def waits_to_open(self) -> bool:
        """Whether this node would take part now, but neither has nor fetches model and table."""
        volunteer = self.volunteer
        if volunteer is None or volunteer.open or volunteer.opening:
            return False
        return volunteer.open_at is None  # else it failed, and its own turn has not come

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
            if self.publisher is None and self.sealed.manifest.shards > 1:
                times.append(self.shards.look_at)
            times.append(self.custody.deadline())
            times.append(self.settlement.later_at)
        return times
