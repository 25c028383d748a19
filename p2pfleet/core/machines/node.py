"""The whole core of one node: routes events to the machines and gathers their effects.

``handle(event, now)`` is the only way in. ``now`` is monotonic milliseconds; the wall clock is
known from the first event on. Effects come back in the order in which they must happen.
"""

from __future__ import annotations

from typing import get_args

import msgspec

from p2pfleet.core import events as ev
from p2pfleet.core.effects import (
    Attend,
    Effect,
    Gossip,
    Report,
    Send,
    SetPaused,
    Sign,
    Want,
    Watch,
    Withdraw,
)
from p2pfleet.core.errors import Malformed
from p2pfleet.core.events import Event
from p2pfleet.core.machines.book import Book
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.directory import Directory
from p2pfleet.core.machines.handlers import (
    Table,
    blobs,
    closed,
    consent,
    directory,
    frames,
    jobs,
    peers,
    restart,
    trust,
    units,
)
from p2pfleet.core.machines.job import Ended, Job
from p2pfleet.core.machines.ledger import Ledger
from p2pfleet.core.machines.membership import Membership
from p2pfleet.core.machines.openings import Openings
from p2pfleet.core.machines.repair import Repair
from p2pfleet.core.machines.roster import Roster, stranger
from p2pfleet.core.machines.rounds import (
    Around,
    counts,
    neighbours,
    publisher_round,
    volunteer_round,
)
from p2pfleet.core.machines.sighting import SIGN_MS
from p2pfleet.core.machines.skew import Skew
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Cid, Digest, JobId, Millis, NetworkId, PeerId, cid_sha256
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.wire.messages import PeerRecord, Proof
from p2pfleet.core.wire.verified import VerifiedSnapshot

JOBS_SUMMARY_MS = 10_000
ANNOUNCE_MS = 150_000  # gossip swallows the same bytes for two minutes
RECORD_LIFE_MS = 3600 * 1000
CUSTODY_BYTES = 2**31
WATCH_MS = 1_000
ATTEND_MS = 5_000
WANTS_MAX = 64


class Node(msgspec.Struct):
    """State of one node: open jobs, and what is remembered of ended ones.

    ``slots`` is how many units it runs at once (0: it volunteers for nothing); ``roles`` is what
    it says of itself; ``consent`` decides whose work it runs. ``custody_bytes`` are kept for others
    at most, half of them for one publisher.
    """

    me: PeerId
    network: NetworkId
    slots: int
    roles: tuple[str, ...]
    consent: Consent
    membership: Membership
    standing: Standing
    book: Book
    repair: Repair
    roster: Roster
    directory: Directory
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    skew: Skew = msgspec.field(default_factory=Skew)
    openings: Openings = msgspec.field(default_factory=Openings)
    custody_bytes: int = CUSTODY_BYTES
    coin: bytes = bytes(32)
    snapshots: dict[str, VerifiedSnapshot] = {}
    snapshot_at: dict[str, Millis] = {}
    refused: dict[PeerId, Millis] = {}
    proofs: dict[PeerId, Proof] = {}
    executed: int = 0
    incarnation: int = 0
    software: str = ""
    addresses: tuple[str, ...] = ()
    wall_offset: int = 0
    restored: bool = False
    paused: bool = False
    hindered: str = ""
    stopping: bool = False
    pause_until: Millis | None = None
    jobs_summary_at: Millis | None = None
    announce_at: Millis | None = None
    record_at: Millis | None = None
    turn: int = 0
    watched: tuple[PeerId, ...] = ()
    watch_at: Millis = Millis(0)
    attending: tuple[Want, ...] = ()
    attend_at: Millis = Millis(0)

    @classmethod
    def create(
        cls,
        me: PeerId,
        network: NetworkId,
        slots: int,
        roles: tuple[str, ...],
        consent: Consent,
        terms: NetworkTerms | None = None,
        vouched: tuple[PeerId, ...] = (),
        custody_bytes: int = CUSTODY_BYTES,
    ) -> Node:
        """A node that knows nothing yet; without ``terms`` the network asks for nothing.

        ``vouched`` are peers that the configuration names (:class:`Roster`).
        """
        here = Membership(NetworkTerms(network) if terms is None else terms)
        roster = Roster(here.terms, vouched)
        return cls(
            me,
            network,
            slots,
            roles,
            consent,
            membership=here,
            standing=Standing(),
            book=Book(),
            repair=Repair(),
            roster=roster,
            directory=Directory(me),
            custody_bytes=custody_bytes,
        )

    @property
    def jobs(self) -> dict[JobId, Job]:
        """Open jobs, in the order of first sight."""
        return self.book.open

    @property
    def ended(self) -> dict[JobId, Ended]:
        """The last jobs that ended, in the order of their end."""
        return self.book.ended

    # ---- in ----------------------------------------------------------------------------------

    def handle(self, event: Event, now: Millis) -> list[Effect]:
        """Take one event in; returns what has to be done, in order."""
        verdict = stranger(event, self.roster, self.me) if self.roster.closed else None
        if verdict is None:
            effects = _HANDLERS[type(event)](self, event, now)
        else:
            effects = [Report(*verdict)]
        if self.restored:
            for job in self.book.open.values():
                if job.flush_at is not None and job.flush_at <= now:
                    effects.extend(job.flush(self.me, self.incarnation))
            if now >= self.watch_at:
                effects.extend(self._watch(now))
            if self.attend_at <= now:
                effects.extend(self._attend(now))
        return effects

    # ---- this machine ------------------------------------------------------------------------

    def _started(self, event: ev.Started, now: Millis) -> list[Effect]:
        self.incarnation = event.incarnation
        self.coin = event.coin
        self.turn = int.from_bytes(event.coin[:4], "big")
        self.wall_offset = event.wall_ms - now
        self.software = event.software
        self.addresses = event.addresses
        return []

    def _addresses_changed(self, event: ev.AddressesChanged, now: Millis) -> list[Effect]:
        same = event.addresses == self.addresses
        self.addresses = event.addresses
        return [self.sign_record(now)] if self.restored and not same else []

    def _clock_set(self, event: ev.ClockSet, now: Millis) -> list[Effect]:
        by_ms = event.wall_ms - now - self.wall_offset
        self.wall_offset += by_ms
        self.skew.moved(by_ms)
        return [self.sign_record(now)] if self.restored else []

    def wall_ms(self, now: Millis) -> int:
        """The wall clock at ``now``."""
        return now + self.wall_offset

    def sign_record(self, now: Millis) -> Sign:
        """Say anew what this node is."""
        wall = self.wall_ms(now)
        own = self.membership.own  # a clock that was set back must not make it look outdated
        sequence = wall if own is None else max(wall, own.record.sequence + 1)
        many = any(job.own and job.manifest.shards > 1 for job in self.jobs.values())
        self.record_at = Millis(now + (SIGN_MS if many else RECORD_LIFE_MS // 2))
        return Sign(
            PeerRecord(
                network=self.network,
                peer=self.me,
                sequence=sequence,
                issued_ms=wall,
                expires_ms=wall + RECORD_LIFE_MS,
                software=self.software,
                roles=self.roles,
                slots=self.slots,
                addresses=self.addresses[:8],
                capability=self.consent.capability,
            )
        )

    def _pause(self, event: ev.PauseRequested, now: Millis) -> list[Effect]:
        self.pause_until = None if event.for_ms is None else Millis(now + event.for_ms)
        return self._set_paused(True, now)

    def _resume(self, event: ev.ResumeRequested, now: Millis) -> list[Effect]:
        self.pause_until = None
        return self._set_paused(False, now)

    def _stop(self, event: ev.StopRequested, now: Millis) -> list[Effect]:
        self.stopping = True
        effects: list[Effect] = []
        for job in self.jobs.values():
            effects.extend(job.release(self.me, self.incarnation, now))
        return effects

    def _hindered(self, event: ev.DiskChanged, now: Millis) -> list[Effect]:
        """The disk is in trouble, for nobody knows how long: others may have our units at once."""
        before, self.hindered = self.still, event.reason
        effects: list[Effect] = []
        for job in self.jobs.values() if event.reason else ():
            if job.volunteer is None or not job.volunteer.held:
                continue
            units = tuple(sorted(job.volunteer.held))
            job.write(job.volunteer.release_all(), now)
            effects.append(Withdraw(job.id, units, kill=True))
        return effects + self._stood(before, now)

    @property
    def still(self) -> bool:
        """Whether nothing is executed: the owner wants it so, or the disk does not take outputs."""
        return self.paused or bool(self.hindered)

    def _set_paused(self, paused: bool, now: Millis) -> list[Effect]:
        before, self.paused = self.still, paused
        return self._stood(before, now)

    def _stood(self, before: bool, now: Millis) -> list[Effect]:
        if self.still == before:
            return []
        effects: list[Effect] = [SetPaused(self.still)]
        for job in self.jobs.values():
            effects.extend(self.advance(job, now))
        return effects

    # ---- what follows for a job --------------------------------------------------------------

    def advance(self, job: Job, now: Millis) -> list[Effect]:
        """Let the job's own machine decide what comes next."""
        if not self.restored or self.stopping or job.id not in self.book.open:
            return []
        around = self._around(job)
        if job.publisher is not None:
            effects = publisher_round(job, around, now)
            judge, kinds = job.publisher.judge, self.standing.moves[job.id]
            wall_ms = self.wall_ms(now)
            effects.extend(self.ledger.settled(job.settlement, judge, kinds, effects, now, wall_ms))
            effects.extend(trust.snapshot_due(self, job, now))
            if job.publisher.complete(job.settlement):
                effects.extend(job.flush(self.me, self.incarnation))
                effects.extend(jobs.close(self, job, completed=True, now=now))
            return effects
        volunteer = job.volunteer
        if volunteer is None:
            return []
        if not volunteer.open:
            # What it had committed to before a restart it owes all the same.
            counting = counts(job, self.standing)
            job.write(volunteer.answers.reveal(job.settlement, now, counting), now)
            if self.still or (volunteer.open_at or 0) > now:
                return []
            if volunteer.opening:
                return []
            publisher = job.manifest.publisher
            if self.openings.wait(publisher, job.id, now, self._waits_to_open):
                volunteer.open_at = None
                return []
            begun = volunteer.start_opening(job.settlement, self.sources(job))
            if begun:
                self.openings.begin(publisher, job.id)
            else:
                self.openings.end(publisher, job.id)
            return begun
        return volunteer_round(job, around, now)

    def _waits_to_open(self, job_id: JobId) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.waits_to_open

    def sources(self, job: Job) -> tuple[PeerId, ...]:
        """Who may have the job's blobs: its publisher, then its keepers, then all others here."""
        publisher = job.manifest.publisher
        return job.custody.input_sources(self.membership.present_after(publisher), publisher)

    def _around(self, job: Job) -> Around:
        return Around(
            self.standing,
            self.membership.here,
            self.membership.numeric_class,
            lambda: self.sources(job),
            lambda: job.sharing(self.membership.volunteers(), self.me),
            self.still,
            self.membership.volunteers(),
            lambda length: self._has_room(job.manifest.publisher, length),
        )

    def _has_room(self, publisher: PeerId, length: int) -> bool:
        """Whether so many more bytes may be kept for others, and for this publisher."""
        theirs = [j.custody.used for j in self.jobs.values() if j.manifest.publisher == publisher]
        if sum(theirs) + length > self.custody_bytes // 2:
            return False
        return self.kept_bytes + length <= self.custody_bytes

    # ---- asked from outside ------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """What this node keeps for others, or is fetching to keep."""
        return sum(job.custody.used for job in self.jobs.values())

    def kept(self, job: Job, now: Millis) -> dict[Digest, int]:
        """Of the inputs of a job, how many keepers each has; empty while they are unknown."""
        return job.custody.kept(neighbours(job, self._around(job), now), now)

    def kept_outputs(self, job: Job, now: Millis) -> tuple[int, int]:
        """How many different outputs of a job are certified, and how many have their copies."""
        near = neighbours(job, self._around(job), now)
        return job.custody.kept_outputs(job.settlement, near, now)

    def may_fetch(self, peer: PeerId, cid: Cid) -> bool:
        """Whether a peer may have a blob: an output only if it ran the unit itself, or publishes
        the job, until the unit is final."""
        try:
            digest = Digest(cid_sha256(cid))
        except Malformed:
            return self.restored  # nothing here has such a name
        return self.restored and not any(job.holds_back(peer, digest) for job in self.jobs.values())

    def snapshot_for(self, model_class: str) -> VerifiedSnapshot | None:
        """The newest trust snapshot of this node's own for a class of models."""
        return self.snapshots.get(model_class)

    # ---- time --------------------------------------------------------------------------------

    def announce_later(self, now: Millis) -> None:
        """Own jobs were announced a moment ago, and are again in a while."""
        self.announce_at = Millis(now + ANNOUNCE_MS)

    def tell_jobs_later(self, now: Millis) -> None:
        """The next peer in turn is told in a while which jobs are known here."""
        self.jobs_summary_at = Millis(now + JOBS_SUMMARY_MS)

    def _tick(self, event: ev.Tick, now: Millis) -> list[Effect]:
        if not self.restored:
            return []
        effects: list[Effect] = []
        self.openings.passed(now)
        if self.pause_until is not None and self.pause_until <= now:
            self.pause_until = None
            effects.extend(self._set_paused(False, now))
        here = self.membership.present()
        if self.record_at is not None and self.record_at <= now:
            effects.append(self.sign_record(now))
        if self.jobs_summary_at is not None and self.jobs_summary_at <= now:
            self.tell_jobs_later(now)
            self.book.sweep(self.wall_ms(now) - CLOCK_SKEW_MS)
            for peer, greeted in self.membership.connected.items():
                if not greeted:  # one of the two hellos may have been lost
                    effects.extend(self.membership.hello(peer))
            if here:
                self.turn += 1
                picked = (here[self.turn % len(here)],)
                effects.extend(self.consent.tell(picked))  # the first one may have been lost
                if self.roster.closed:
                    effects.append(Send(picked, self.roster.summary()))
                effects.append(Send(picked, self.repair.known_jobs(self.book)))
                for job in self.jobs.values():
                    effects.extend(job.tell_shards(picked[0], now))
                effects.extend(self.ledger.remind(picked[0]))
                if self.proofs:  # in turn as well: each of them may have been lost
                    effects.append(Send(picked, self._proof_in_turn(len(here))))
        effects.extend(directory.due(self, now))
        announce = self.announce_at is not None and self.announce_at <= now
        if announce:
            self.announce_at = None
        for job in list(self.jobs.values()):
            if self.wall_ms(now) > job.manifest.expires_ms:
                effects.extend(jobs.end(self, job, "expired", None, now))
                continue
            if job.publisher is not None and announce:
                self.announce_later(now)
                effects.append(Gossip(job.sealed.sealed))
            if job.joined and job.summary_at is not None and job.summary_at <= now:
                wants: tuple[int, ...] = ()
                if job.publisher is not None:
                    counting = counts(job, self.standing)
                    wants = job.publisher.wants(job.settlement, job.summary_turn, now, counting)
                effects.extend(job.want(wants, here))
                effects.extend(job.summarize(here, now))
            if job.joined and job.shards.look_at is not None and job.shards.look_at <= now:
                effects.extend(self._look(job, now))
            effects.extend(self.advance(job, now))
        return effects

    def _look(self, job: Job, now: Millis) -> list[Effect]:
        """See which shards of a job this node serves, and tell those who are concerned."""
        if job.volunteer is None or not job.volunteer.open or job.manifest.shards == 1:
            return []
        joined, left = job.look(now)
        if joined or left:
            self.attend_at = now
        here = self.membership.present()
        effects: list[Effect] = []
        for shard in left:
            mates = job.mates(shard, here)
            if mates:
                effects.append(Send(mates, job.summary(shard)))
        for shard in joined:
            effects.extend(job.arrive(shard, here, now))
        return [*effects, *(self.advance(job, now) if joined or left else [])]

    def _proof_in_turn(self, peers: int) -> Proof:
        """Another one after each round of the peers, so that everybody hears of all."""
        known = list(self.proofs)
        return self.proofs[known[self.turn // peers % len(known)]]

    def _attend(self, now: Millis) -> list[Effect]:
        """With whom to be connected from now on; looked at on the way, like :meth:`_watch`."""
        self.attend_at = Millis(now + ATTEND_MS)
        here = self.membership.here
        wants = tuple(want for job in self.jobs.values() for want in job.attend(here, now))
        wants = wants[:WANTS_MAX]
        if wants == self.attending:
            return []
        self.attending = wants
        return [Attend(wants)]

    def _watch(self, now: Millis) -> list[Effect]:
        """Who is to be watched closely from now on; looked at on the way, and needs no tick: while
        a job is open something happens every few seconds."""
        self.watch_at = Millis(now + WATCH_MS)
        found = {
            peer
            for job in self.jobs.values()
            if job.joined
            for peer in self.membership.present()
            if job.settlement.leases.holding.get(peer)
        }
        peers = tuple(sorted(found))
        if peers == self.watched:
            return []
        self.watched = peers
        return [Watch(peers)]

    def deadline(self) -> Millis | None:
        """When the next ``Tick`` is due at the latest; ``None``: never."""
        if self.stopping:  # nothing is begun any more, but what has been written still leaves
            flushes = [job.flush_at for job in self.jobs.values() if job.flush_at is not None]
            return min(flushes, default=None)
        times = [
            self.pause_until, self.jobs_summary_at, self.announce_at, self.record_at,
            self.ledger.deadline(), self.directory.deadline(),
        ]  # fmt: skip
        if self.snapshot_at:
            times.extend(self.snapshot_at.values())
        if self.openings.until:
            times.extend(self.openings.until.values())
        paused = self.still
        for job in self.book.open.values():
            times.extend(job.deadlines(paused))
            times.append(Millis(job.sealed.manifest.expires_ms - self.wall_offset + 1))
        return min([at for at in times if at is not None], default=None)


_OWN: Table = {
    ev.AddressesChanged: Node._addresses_changed,
    ev.ClockSet: Node._clock_set,
    ev.DiskChanged: Node._hindered,
    ev.PauseRequested: Node._pause,
    ev.ResumeRequested: Node._resume,
    ev.Started: Node._started,
    ev.StopRequested: Node._stop,
    ev.Tick: Node._tick,
}
_TABLES = (
    _OWN,
    blobs.HANDLERS,
    closed.HANDLERS,
    consent.HANDLERS,
    directory.HANDLERS,
    frames.HANDLERS,
    jobs.HANDLERS,
    peers.HANDLERS,
    restart.HANDLERS,
    trust.HANDLERS,
    units.HANDLERS,
)
_HANDLERS: Table = {kind: handler for table in _TABLES for kind, handler in table.items()}
assert set(_HANDLERS) == set(get_args(Event)), "every event has its handler"
assert len(_HANDLERS) == sum(len(table) for table in _TABLES), "and only one"
