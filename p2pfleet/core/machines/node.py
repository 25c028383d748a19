"""The whole core of one node: routes events to the machines and gathers their effects.

``handle(event, now)`` is the only way in. ``now`` is monotonic milliseconds; the wall clock is
known from the first event on. Effects come back in the order in which they must happen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from p2pfleet.core import events as ev
from p2pfleet.core.effects import (
    Attend,
    CloseJob,
    DropAcceptance,
    Effect,
    ForgetJob,
    Gossip,
    Leave,
    Prove,
    Reconsider,
    Report,
    SaveAcceptance,
    SaveFrame,
    SaveJob,
    SaveMembers,
    SaveProof,
    SaveRecords,
    SaveRequirement,
    SaveSnapshot,
    Send,
    SetPaused,
    ShutJob,
    Sign,
    Want,
    Watch,
    Withdraw,
)
from p2pfleet.core.errors import Accept, Ignore, Malformed, Proven, Reject
from p2pfleet.core.events import Event
from p2pfleet.core.machines.book import Book
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.custody import Custody
from p2pfleet.core.machines.directory import Directory
from p2pfleet.core.machines.job import Ended, Job
from p2pfleet.core.machines.judge import POISONED, Judge
from p2pfleet.core.machines.leases import GRACE_MS, HEARSAY_MS
from p2pfleet.core.machines.ledger import Ledger
from p2pfleet.core.machines.membership import Membership
from p2pfleet.core.machines.openings import Openings
from p2pfleet.core.machines.publisher import REACH_MS, Publisher
from p2pfleet.core.machines.repair import Repair
from p2pfleet.core.machines.roster import Roster, stranger
from p2pfleet.core.machines.rounds import (
    Around,
    counts,
    neighbours,
    publisher_round,
    rows,
    volunteer_round,
)
from p2pfleet.core.machines.settlement import Corner, Settlement
from p2pfleet.core.machines.shards import Shards
from p2pfleet.core.machines.sighting import SIGN_MS
from p2pfleet.core.machines.skew import FRESH_MS, Skew
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import (
    Cid,
    Digest,
    JobId,
    Millis,
    NetworkId,
    PeerId,
    cid_sha256,
    sha256,
)
from p2pfleet.core.model.job import Confidence
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules.admission import (
    judge_closure,
    judge_frame,
    judge_manifest,
    judge_record,
    judge_snapshot,
)
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire.messages import (
    Closure,
    Deliver,
    Endorse,
    Entry,
    PeerRecord,
    Proof,
    Reveal,
    Sealed,
    Snapshot,
)
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest, VerifiedSnapshot
from p2pfleet.core.wire.versions import goodbye

JOBS_SUMMARY_MS = 10_000
ANNOUNCE_MS = 150_000  # gossip swallows the same bytes for two minutes
RECORD_LIFE_MS = 3600 * 1000
SNAPSHOT_EVERY_MS = 2_000
PROOFS_KEPT = 256
REFUSED_MAX = 1_024
STRANGERS_PROVED_MAX = 4_096
STRANGERS_PROOF_BYTES = 8 * 1024
PROOFS_MAX = 65_536
PROOFS_TOLD = 8
RETELL_ONE_IN = 4
CUSTODY_BYTES = 2**31
WATCH_MS = 1_000
ATTEND_MS = 5_000
WANTS_MAX = 64
_VOTES = (Reveal, Endorse)


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
        if isinstance(event, ev.FrameReceived) and not self.roster.closed:  # by far the commonest
            effects = self._frame(event, now)
        else:
            effects = self._route(event, now)
        if self.restored:
            for job in self.book.open.values():
                if job.flush_at is not None and job.flush_at <= now:
                    effects.extend(job.flush(self.me, self.incarnation))
            if now >= self.watch_at:
                effects.extend(self._watch(now))
            if self.attend_at <= now:
                effects.extend(self._attend(now))
        return effects

    def _route(self, event: Event, now: Millis) -> list[Effect]:
        if self.roster.closed:
            verdict = stranger(event, self.roster, self.me)
            if verdict is not None:
                return [Report(*verdict)]
        return _HANDLERS[type(event)](self, event, now)

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
        return [self._sign_record(now)] if self.restored and not same else []

    def _clock_set(self, event: ev.ClockSet, now: Millis) -> list[Effect]:
        by_ms = event.wall_ms - now - self.wall_offset
        self.wall_offset += by_ms
        self.skew.moved(by_ms)
        return [self._sign_record(now)] if self.restored else []

    def _pause(self, event: ev.PauseRequested, now: Millis) -> list[Effect]:
        self.pause_until = None if event.for_ms is None else Millis(now + event.for_ms)
        return self._set_paused(True, now)

    def _resume(self, event: ev.ResumeRequested, now: Millis) -> list[Effect]:
        self.pause_until = None
        return self._set_paused(False, now)

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

    # ---- restart -----------------------------------------------------------------------------

    def _records_restored(self, event: ev.RecordsRestored, now: Millis) -> list[Effect]:
        for row in event.rows:
            self.standing.restore(row)
        return []

    def _proof_restored(self, event: ev.ProofRestored, now: Millis) -> list[Effect]:
        self._proved(event.first, event.second)
        return []

    def _job_restored(self, event: ev.JobRestored, now: Millis) -> list[Effect]:
        job = self._new_job(event.manifest, event.own, now)
        lasted = self.wall_ms(now) - event.manifest.manifest.issued_ms
        lasted -= 0 if event.own else CLOCK_SKEW_MS
        job.settlement.since = Millis(now - max(0, lasted))
        job.restore(event.units, event.snapshots)
        if event.own:
            self.standing.move(job.id, list(event.moves))
            self.ledger.open[job.id].restore(event.units, event.earnings, event.receipts, now)
        for receipt in () if event.own else event.receipts:
            self.ledger.keep(receipt.receipt)
        if job.volunteer is not None:
            job.volunteer.restore(event.seeds)
        if job.publisher is not None:
            job.publisher.judge.moves = list(event.moves)
            for each in event.withdrawn:
                job.settlement.unit(each.unit).withdrawn[each.peer, each.attempt] = True
            if event.poisoned:
                job.publisher.judge.poisoned = True
                job.reason = POISONED
        if event.state != "active":
            closure = None if event.closure is None else event.closure.sealed
            self.book.end(job.ended(event.state, closure, now))
            self.standing.drop(job.id)
            self.ledger.open.pop(job.id, None)
        return []

    def _frame_restored(self, event: ev.FrameRestored, now: Millis) -> list[Effect]:
        frame = event.frame
        job = self.jobs.get(frame.frame.job)
        if job is None or job.admit(frame, self.wall_ms(now), bounded=False) is not None:
            return []
        own = frame.author == self.me
        if own:
            self._outlive(frame)
        job.settlement.apply(frame, now, counts(job, self.standing), decide=False, own=own)
        job.custody.applied(frame.frame)
        if own and job.volunteer is not None:
            job.volunteer.written(job.settlement, frame.hash, frame.frame.entries, now)
        return []

    def _restore_finished(self, event: ev.RestoreFinished, now: Millis) -> list[Effect]:
        self.restored = True
        effects: list[Effect] = [self._sign_record(now)]
        self.jobs_summary_at = Millis(now + JOBS_SUMMARY_MS)
        for name in sorted({name for name, _ in self.standing.current}):
            effects.extend(self._sign_snapshot(name, now))
        for job in self.jobs.values():
            counting = counts(job, self.standing)
            for peer in job.settlement.leases.holding:  # who is still there will be met again
                if peer != self.me and peer not in self.membership.connected:
                    job.settlement.leases.vanished(peer, Millis(now + HEARSAY_MS))
            if job.volunteer is not None:
                job.volunteer.restored()
            if job.publisher is not None:
                judge = job.publisher.judge
                moves, judge.moves = tuple(judge.moves), []
                judge.restore(moves)
                self.announce_at = Millis(now + ANNOUNCE_MS)
            effects.extend(rows(job, job.settlement.restored(now, counting)))
            effects.extend(self._advance(job, now))
        return effects

    def _sign_record(self, now: Millis) -> Sign:
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

    def wall_ms(self, now: Millis) -> int:
        """The wall clock at ``now``."""
        return now + self.wall_offset

    # ---- peers -------------------------------------------------------------------------------

    def _connected(self, event: ev.PeerConnected, now: Millis) -> list[Effect]:
        """Somebody is met: with a record that is fresh, so that it tells this machine's clock."""
        hello: list[Effect] = [*self.membership.connect(event.peer, event.address)]
        own = self.membership.own
        if own is None or self.wall_ms(now) - own.record.issued_ms <= FRESH_MS:
            return hello
        return [self._sign_record(now)]

    def _disconnected(self, event: ev.PeerDisconnected, now: Millis) -> list[Effect]:
        peer = event.peer
        self.membership.disconnect(peer)
        self.repair.forget(peer)
        self.roster.forget(peer)
        for known in self.jobs.values():
            known.left(peer)
            known.settlement.leases.vanished(peer, Millis(now + GRACE_MS))
        return []

    def _hello(self, event: ev.HelloReceived, now: Millis) -> list[Effect]:
        record = event.record.record
        if record.network == self.network and event.peer in self.membership.connected:
            self.skew.take(event.peer, record.issued_ms, self.wall_ms(now))
        verdict = judge_record(record, self.membership.terms, self.wall_ms(now))
        if not isinstance(verdict, Accept):
            return [Report(event.peer, verdict)]
        for job in self.jobs.values():
            job.hear_of(event.record, event.peer, now, self.wall_ms(now))
        if not self.membership.greet(event.peer, event.record.record):
            return []
        self.openings.forgive(event.peer)
        for known in self.jobs.values():
            known.settlement.leases.back(event.peer)
        effects: list[Effect] = [*self.consent.tell((event.peer,))]
        if self.roster.closed:
            let_in = self.roster.named.get(event.peer)
            if let_in is not None:  # it shows this wherever it goes from now on
                effects.append(Send((event.peer,), Deliver(let_in.sealed)))
            effects.append(Send((event.peer,), self.roster.summary()))
        for peer in list(self.proofs)[-PROOFS_TOLD:]:
            effects.append(Send((event.peer,), self.proofs[peer]))
        effects.append(Send((event.peer,), self.repair.known_jobs(self.book)))
        effects.extend(self.ledger.greet(event.peer, now))
        effects.extend(self.directory.greet(event.peer))
        for job in self.jobs.values():
            if job.joined:
                effects.extend(job.introduce((event.peer,), now))
            if job.publisher is not None:
                job.publisher.peer_came(job.has_of(event.peer))
            elif job.volunteer is not None and job.volunteer.open_at is not None:
                job.volunteer.open_at = now
            effects.extend(self._advance(job, now))
        return effects

    def _jobs_summary(self, event: ev.JobsSummaryReceived, now: Millis) -> list[Effect]:
        if not self.membership.here(event.peer):
            return []
        return self.repair.answer_jobs(self.book, event.peer, event.open, event.closed, now)

    def _frames_summary(self, event: ev.FramesSummaryReceived, now: Millis) -> list[Effect]:
        if not self.membership.here(event.peer):
            return []
        return self.repair.answer_frames(
            self.book,
            event.peer,
            event.job,
            event.positions,
            event.snapshot,
            now,
            event.shard,
            event.serving,
            None if event.whole else self.me,
        )

    def _shards_summary(self, event: ev.ShardsSummaryReceived, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or not self.membership.here(event.peer):
            return []
        job.shards.hear(event.rows, now)
        return job.tell_shards(event.peer, now)

    def _record(self, event: ev.RecordReceived, now: Millis) -> list[Effect]:
        """Somebody hands on what another says of itself: a publisher that is there, says so."""
        verdict = judge_record(event.record.record, self.membership.terms, self.wall_ms(now))
        if not isinstance(verdict, Accept):
            return [Report(event.peer, verdict)]
        if self.membership.here(event.peer):
            for job in self.jobs.values():
                job.hear_of(event.record, event.peer, now, self.wall_ms(now))
        return []

    def _record_signed(self, event: ev.RecordSigned, now: Millis) -> list[Effect]:
        self.membership.own = event.record
        return [send for peer in self.membership.connected for send in self.membership.hello(peer)]

    def _versions_differ(self, event: ev.VersionsDiffer, now: Millis) -> list[Effect]:
        self.membership.differ(event.peer, event.oldest)
        bye = [] if event.told else [Send((event.peer,), goodbye(self.software))]
        return [*bye, Leave(event.peer)]

    def _wanted(self, event: ev.WantedReceived, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or job.volunteer is None:
            return []
        if event.peer != job.manifest.publisher:
            return [Report(event.peer, Reject("only its publisher says what a job wants"))]
        wanted = job.recalled(event.units, now)
        job.settlement.ask(wanted)
        job.volunteer.wanted(job.settlement, wanted)
        return self._advance(job, now)

    def _requirement(self, event: ev.RequirementReceived, now: Millis) -> list[Effect]:
        """The network's owner asks for something new: keep it, hand it on, live by it."""
        own = event.source == self.me
        verdict = self.consent.take(event.requirement, self.network)
        if not isinstance(verdict, Accept):
            return [] if own else [Report(event.source, verdict)]
        effects: list[Effect] = [SaveRequirement(event.requirement.sealed)]
        if not own:
            effects.append(Report(event.source, verdict))
        others = (peer for peer in self.membership.present() if peer != event.source)
        effects.extend(self.consent.tell(tuple(others)))
        for job in self.jobs.values():
            if self._consents(job):
                effects.extend(self._advance(job, now))
            else:
                effects.extend(job.leave(self.me, self.incarnation, now))
        return effects

    # ---- who belongs to a closed network -----------------------------------------------------

    def _members(self, event: ev.MembersReceived, now: Millis) -> list[Effect]:
        """A newer page of the owner's list: keep it, hand it on, part from whom it removes."""
        page = event.members
        verdict = self.roster.take_page(page)
        if not isinstance(verdict, Accept):
            return [] if event.source == self.me else [Report(event.source, verdict)]
        effects: list[Effect] = [SaveMembers(page.members.page, page.sealed)]
        return effects + self._belonging(event.source, page.sealed, now)

    def _shown(self, event: ev.AdmissionShown, now: Millis) -> list[Effect]:
        """Somebody was invited: witness it, unless it is no news or comes too late."""
        if self.roster.member(event.peer):
            return []
        wall_ms = self.wall_ms(now)
        verdict = self.roster.judge_shown(event.admission, self.me, wall_ms)
        if event.admission.admission.peer != event.peer or not isinstance(verdict, Accept):
            return [Reconsider()]
        return [Sign(self.roster.witness(event.admission, self.me, wall_ms))]

    def _acceptance(self, event: ev.AcceptanceReceived, now: Millis) -> list[Effect]:
        """A member's word on somebody invited, or this node's own."""
        heard = event.acceptance
        before = dict(self.roster.acceptances)
        verdict = self.roster.take_acceptance(heard, self.wall_ms(now))
        if not isinstance(verdict, Accept):
            # Who came with it was let in before it was judged in full.
            own = event.source in (self.me, heard.peer)
            return [Reconsider()] if own else [Report(event.source, verdict)]
        effects: list[Effect] = [
            DropAcceptance(*key) for key in sorted(before) if key not in self.roster.acceptances
        ]
        effects.append(SaveAcceptance(heard.admission.key, heard.peer, heard.sealed))
        return effects + self._belonging(event.source, heard.sealed, now)

    def _roster_summary(self, event: ev.RosterSummaryReceived, now: Millis) -> list[Effect]:
        if not self.membership.here(event.peer):
            return []
        lacking = self.roster.missing(event.peer, event.summary, now)
        return [Send((event.peer,), Deliver(sealed)) for sealed in lacking]

    def _belonging(self, source: PeerId, sealed: Sealed, now: Millis) -> list[Effect]:
        """Who belongs to the network has changed by this body of ``source``."""
        effects: list[Effect] = []
        if source != self.me:
            effects.append(Report(source, Accept()))
        others = tuple(peer for peer in self.membership.present() if peer != source)
        if others:  # also those who are removed by it: they learn why nobody talks to them
            effects.append(Send(others, Deliver(sealed)))
        effects.append(Reconsider())
        for peer in [one for one in self.membership.connected if not self.roster.knows(one)]:
            effects.extend(self._route(ev.PeerDisconnected(peer), now))
        for job in self.jobs.values():
            if self._consents(job):
                effects.extend(self._advance(job, now))
            else:
                effects.extend(job.leave(self.me, self.incarnation, now))
        return effects

    # ---- jobs --------------------------------------------------------------------------------

    def _new_job(self, sealed: VerifiedManifest, own: bool, now: Millis) -> Job:
        job = Job(
            id=sealed.job,
            sealed=sealed,
            own=own,
            settlement=Settlement.create(sealed.job, sealed.manifest, now, judge=own),
            shards=Shards.create(self.me, sealed.manifest, now),
            custody=Custody.create(self.me, self.coin, own and sealed.manifest.shards > 1),
            summary_at=now,
            summary_turn=self.turn,  # not all nodes ask the same one
            first_seen=now,
        )
        if own:
            many = sealed.manifest.shards > 1  # not everybody will be connected with this node
            job.publisher = Publisher(Judge(self.me, self.coin), REACH_MS if many else 0)
            self.record_at = now if many else self.record_at
            self.standing.open(job.id, sealed.manifest.trust.model_class)
            self.ledger.begin(job.id, sealed.manifest)
        else:
            self._consents(job)
        self.jobs[sealed.job] = job
        return job

    def _consents(self, job: Job) -> bool:
        """Whether a job may be run here; a stranger's gets its volunteer, or the reason why not."""
        if self.slots == 0 or job.manifest.publisher == self.me:
            return True
        job.reason = self.consent.to(job.manifest)
        if not self.roster.member(job.manifest.publisher):
            job.reason = "its publisher does not belong to this closed network any more"
        if not job.reason and job.volunteer is None:
            job.volunteer = job.retired or Volunteer(self.me, self.slots, self.coin)
            job.retired = None
        return not job.reason

    def _manifest(self, event: ev.ManifestReceived, now: Millis) -> list[Effect]:
        source, sealed = event.source, event.manifest
        own = source == self.me
        recalled = sealed.manifest.publisher == self.me and not own
        if recalled and not self.directory.wants(sealed.job):
            # Its store has every job of its own; what others bring would be taken for a stranger's.
            return [Report(source, Ignore("a job of this node's own"))]
        if self.book.knows(sealed.job):
            return []
        verdict = judge_manifest(sealed.manifest, self.membership.terms, self.wall_ms(now))
        if not isinstance(verdict, Accept):
            return [] if own else [Report(source, verdict)]
        if not own and self.refused.get(sealed.manifest.publisher, 0) > now:
            return [Report(source, Ignore("its publisher is refused here"))]
        if not own and self.book.crowded(sealed.manifest.publisher):
            return [Report(source, Ignore("too many jobs are known already"))]
        if recalled:
            return self._recall(source, sealed, now)
        job = self._new_job(sealed, own, now)
        if own:
            self.directory.changed(now)
        effects: list[Effect] = [SaveJob(job.id, sealed.sealed, own)]
        if own:
            effects.append(Gossip(sealed.sealed))
            snapshot = self.snapshots.get(sealed.manifest.trust.model_class)
            if snapshot is not None and snapshot.hash == sealed.manifest.trust.snapshot:
                effects.extend(self._weigh(job, snapshot, now))
            self.announce_at = Millis(now + ANNOUNCE_MS)
            here = self.membership.present()
            if here:
                effects.append(Send(tuple(here), Deliver(sealed.sealed)))
                effects.extend(job.introduce(here, now))
        else:
            effects.append(Report(source, Accept()))
            if self.membership.here(source):
                job.join(source)
        return effects + self._advance(job, now)

    def _refused(self, event: ev.PeerRefused, now: Millis) -> list[Effect]:
        """Whom this node refuses it does nothing for: jobs of such a publisher end here."""
        peer, for_ms = event.peer, event.for_ms
        self.refused = {one: until for one, until in self.refused.items() if until > now}
        if for_ms <= 0 or peer == self.me:
            self.refused.pop(peer, None)
            return []
        while len(self.refused) >= REFUSED_MAX:
            del self.refused[next(iter(self.refused))]
        self.refused[peer] = Millis(now + for_ms)
        theirs = [job for job in self.jobs.values() if job.manifest.publisher == peer]
        effects: list[Effect] = []
        for job in theirs:
            effects.extend(self._end(job, "refused", None, now))
        return effects

    def _recall(self, source: PeerId, sealed: VerifiedManifest, now: Millis) -> list[Effect]:
        """Take a job of this node's own up again that only others remember."""
        job = self._new_job(sealed, own=True, now=now)
        job.settlement.since = Millis(now - max(0, self.wall_ms(now) - sealed.manifest.issued_ms))
        self.directory.changed(now)
        if self.membership.here(source):
            job.join(source)
        effects: list[Effect] = [SaveJob(job.id, sealed.sealed, True), Report(source, Accept())]
        effects.extend(job.introduce(self.membership.present(), now))
        return effects + self._advance(job, now)

    def _jobs_record(self, event: ev.JobsRecordReceived, now: Millis) -> list[Effect]:
        """A publisher's record of its jobs; this node's own may name some that are unknown here."""
        publisher = event.record.record.publisher
        if not self.restored:
            self.directory.restored(event.record)
            return []
        here = self.membership.present()
        effects = self.directory.received(
            event.source,
            event.record,
            self.membership.terms,
            here,
            self._open_of(publisher),
            now,
            self.wall_ms(now),
        )
        unknown = [job for job in self.directory.named if not self.book.knows(job)]
        if publisher == self.me and unknown and here:
            effects.append(Send(here, self.repair.known_jobs(self.book)))
        return effects

    def _jobs_wanted(self, event: ev.JobsWanted, now: Millis) -> list[Effect]:
        self.directory.wanted = True
        here = self.membership.present()
        return [Send(here, self.repair.known_jobs(self.book))] if here else []

    def _open_of(self, publisher: PeerId) -> bool:
        return any(job.manifest.publisher == publisher for job in self.jobs.values())

    def _keeps_for(self, publisher: PeerId) -> bool:
        theirs = (job for job in self.jobs.values() if job.manifest.publisher == publisher)
        return any(job.custody.mine for job in theirs)

    def _opened(self, event: ev.JobOpened, now: Millis) -> list[Effect]:
        job_id = event.job
        job = self.jobs.get(job_id)
        if job is not None and job.publisher is not None:
            return job.publisher.judge.job_opened(job.settlement) + self._advance(job, now)
        if job is not None:
            self.openings.end(job.manifest.publisher, job_id)
        if job is None or job.volunteer is None:
            return []
        effects = job.volunteer.opened_job(job.settlement, now, self._sources(job))
        if job.manifest.shards > 1:
            job.look(now)
            self.attend_at = now
        effects.extend(job.introduce(self.membership.present(), now))
        effects.extend(self._advance(job, now))
        self.openings.forgive(job.manifest.publisher)
        for other in list(self.jobs.values()):  # they may have waited for this one
            if other.manifest.publisher == job.manifest.publisher and other.waits_to_open:
                effects.extend(self._advance(other, now))
        return effects

    def _unavailable(self, event: ev.JobUnavailable, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is not None and job.publisher is not None:
            job.publisher.judge.unable_to(job.settlement, [])
            return self._advance(job, now)
        if job is not None:
            self.openings.end(job.manifest.publisher, job.id)
            self.openings.fail(job.manifest.publisher, now)
        if job is None or job.volunteer is None:
            return []
        job.reason = event.reason
        if event.final:
            return self._end(job, "refused", None, now)
        job.volunteer.not_opened(now)
        return []

    def _sources(self, job: Job) -> tuple[PeerId, ...]:
        """Who may have the job's blobs: its publisher, then its keepers, then all others here."""
        publisher = job.manifest.publisher
        return job.custody.input_sources(self.membership.present_after(publisher), publisher)

    def _inputs_known(self, event: ev.InputsKnown, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None:
            return []
        job.custody.inputs_known(job.manifest, event.packs, now)
        return self._advance(job, now)

    def _ringers_known(self, event: ev.RingersKnown, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is not None and job.publisher is not None:
            job.publisher.judge.know(event.secret, event.ringers)
        return []

    def _challenge_answered(self, event: ev.ChallengeAnswered, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is not None:
            job.custody.challenged(event.digest, event.peer, event.verdict, now)
        return []

    def _blob_arrived(self, event: ev.BlobArrived, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None:
            return []
        job.custody.fetched(Digest(event.ref.sha256))
        for number in () if job.publisher is None else job.publisher.arrived(event.ref):
            job.settlement.touched[number] = True
        return self._advance(job, now)

    def _blob_failed(self, event: ev.BlobFailed, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None:
            return []
        job.write(job.custody.not_fetched(Digest(event.ref.sha256), now), now)
        if job.publisher is not None:
            job.publisher.failed(event.ref, now)
        return []

    def _cancel(self, event: ev.CancelRequested, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or job.publisher is None:
            return []
        return self._close(job, completed=False, now=now)

    def _close(self, job: Job, completed: bool, now: Millis) -> list[Effect]:
        assert job.publisher is not None
        if job.publisher.closing:
            return []
        job.publisher.closing = True
        return [Sign(Closure(self.network, job.id, self.me, completed, self.wall_ms(now)))]

    def _closure(self, event: ev.ClosureReceived, now: Millis) -> list[Effect]:
        closure = event.closure.closure
        own = event.source == self.me
        job = self.jobs.get(closure.job)
        if job is None:
            return []
        verdict = judge_closure(closure, job.manifest)
        if not isinstance(verdict, Accept):
            return [Report(event.source, verdict)]
        state = "completed" if closure.completed else "cancelled"
        effects = self._end(job, state, event.closure.sealed, now)
        if own:
            effects.append(Gossip(event.closure.sealed))
            here = self.membership.present()
            if here:
                effects.append(Send(tuple(here), Deliver(event.closure.sealed)))
        else:
            effects.append(Report(event.source, Accept()))
        return effects

    def _end(self, job: Job, state: str, closure: Sealed | None, now: Millis) -> list[Effect]:
        """Stop work on a job; a stranger's is forgotten but for a tombstone."""
        self.book.end(job.ended(state, closure, now))
        self.repair.forget_job(job.id)
        self.openings.end(job.manifest.publisher, job.id)
        effects: list[Effect] = []
        if job.publisher is not None:
            judge, kinds = job.publisher.judge, self.standing.moves.get(job.id, {})
            wall_ms = self.wall_ms(now)
            effects.extend(self.ledger.end(job.settlement, judge, kinds, now, wall_ms))
        effects.append(CloseJob(job.id, state, closure))
        if job.own:
            self.directory.changed(now)
            totals = self.standing.end(job.id)
            # No job of the class may be left whose round would see to it.
            self.snapshot_at.pop(job.manifest.trust.model_class, None)
            if totals:
                effects.append(SaveRecords(tuple(totals)))
                effects.extend(self._sign_snapshot(job.manifest.trust.model_class, now))
        else:
            effects.append(ForgetJob(job.id))
        return [*effects, ShutJob(job.id, keep=job.own)]

    # ---- frames ------------------------------------------------------------------------------

    def _frame(self, event: ev.FrameReceived, now: Millis) -> list[Effect]:
        source, frame = event.source, event.frame
        job = self.book.open.get(frame.frame.job)
        told = source != self.me
        if job is None or (told and not job.joined):
            return []
        verdict = judge_frame(frame.frame, job.sealed.manifest, self.membership.terms)
        if not isinstance(verdict, Accept):
            return [Report(source, verdict)]
        body = frame.frame
        author, shard = body.author, body.shard
        own = author == self.me
        if not own and not job.takes(shard):  # it was served a moment ago, or somebody is mistaken
            return [] if shard not in job.logs else job.tell_once(source, shard, now, False)
        if job.admit(frame, self.wall_ms(now), bounded=not own) is not None:
            if own or not job.log(shard).differs(frame):
                return []
            place = (frame.frame.incarnation, frame.frame.sequence)
            return [Prove(job.id, frame.author, *place, frame.sealed, shard)]
        effects: list[Effect] = [SaveFrame(job.id, frame.sealed)]
        if not told:
            others = job.mates(shard, self.membership.present())
            if others:
                effects.append(Send(others, Deliver(frame.sealed)))
        else:
            if self.membership.here(author):
                job.join(author, shard if source == author else None)
            job.settlement.leases.heard_of(author, now)
            if job.logs[shard].ahead:
                effects.extend(job.ask_back(source, frame, now))
            effects.extend(self._retell(job, frame))
            if source != author:
                job.handed_on(source, shard, now)
        past = own and told
        if past:
            self._outlive(frame)
        counting = counts(job, self.standing)
        outcome = job.settlement.apply(
            frame, now, counting, corner=self._corner, own=own, past=past
        )
        job.custody.applied(frame.frame)
        if job.own:
            self.ledger.seen(source, job.settlement, body, now)
        volunteer = (job.volunteer or job.retired) if own else None
        if volunteer is not None:
            volunteer.written(job.settlement, frame.hash, body.entries, now)
        if past and volunteer is not None:
            entries, more = volunteer.taken_back(job.settlement, frame.frame.entries)
            job.write(entries, now)
            effects.extend(more)
        if outcome.rows:
            effects.extend(rows(job, outcome))
        for one in () if own else outcome.faults:
            place = (one.place.incarnation, one.place.sequence)
            effects.append(Prove(job.id, one.author, *place, frame.sealed, one.place.shard))
        effects.extend(self._advance(job, now))
        return effects

    def _outlive(self, frame: VerifiedFrame) -> None:
        """An own frame that was lost here: whatever is written from now on is of a later life.

        Else, where a clock was put back as well, two frames of one life could contradict each
        other.
        """
        if frame.frame.incarnation >= self.incarnation:
            self.incarnation = frame.frame.incarnation + 1
            for job in self.jobs.values():
                job.sequences.clear()

    @property
    def _corner(self) -> Corner | None:
        return self.membership.corner if self.membership.terms.votes_a_subnet else None

    def _retell(self, job: Job, frame: VerifiedFrame) -> list[Effect]:
        """Hand votes on to the next peer in a ring, now and then, by a private coin.

        Else an author that tells some peers one thing and others another is found out by nobody:
        each has a frame of that number and asks for no more.
        """
        for entry in frame.frame.entries:
            if type(entry) in _VOTES:
                break
        else:
            return []
        if sha256(self.coin + frame.hash)[0] % RETELL_ONE_IN:
            return []
        mates = job.mates(frame.frame.shard, self.membership.present())
        others = [peer for peer in mates if peer != frame.author]
        if not others:
            return []
        following = next((peer for peer in others if peer > self.me), others[0])
        return [Send((following,), Deliver(frame.sealed))]

    def _advance(self, job: Job, now: Millis) -> list[Effect]:
        """Let the job's own machine decide what comes next."""
        if not self.restored or self.stopping or job.id not in self.book.open:
            return []
        around = self._around(job)
        if job.publisher is not None:
            effects = publisher_round(job, around, now)
            judge, kinds = job.publisher.judge, self.standing.moves[job.id]
            wall_ms = self.wall_ms(now)
            effects.extend(self.ledger.settled(job.settlement, judge, kinds, effects, now, wall_ms))
            effects.extend(self._snapshot_due(job, now))
            if job.publisher.complete(job.settlement):
                effects.extend(job.flush(self.me, self.incarnation))
                effects.extend(self._close(job, completed=True, now=now))
            return effects
        volunteer = job.volunteer
        if volunteer is None:
            return []
        if not volunteer.open:
            # What it had committed to before a restart it owes all the same.
            counting = counts(job, self.standing)
            job.write(volunteer.reveal(job.settlement, now, counting), now)
            if self.still or (volunteer.open_at or 0) > now:
                return []
            if volunteer.opening:
                return []
            publisher = job.manifest.publisher
            if self.openings.wait(publisher, job.id, now, self._waits_to_open):
                volunteer.open_at = None
                return []
            begun = volunteer.start_opening(job.settlement, self._sources(job))
            if begun:
                self.openings.begin(publisher, job.id)
            else:
                self.openings.end(publisher, job.id)
            return begun
        return volunteer_round(job, around, now)

    def _waits_to_open(self, job_id: JobId) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.waits_to_open

    def _around(self, job: Job) -> Around:
        return Around(
            self.standing,
            self.membership.here,
            self.membership.numeric_class,
            lambda: self._sources(job),
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

    def _worked(
        self, event: ev.UnitExecuted | ev.UnitFaulted | ev.UnitUnavailable, now: Millis
    ) -> list[Effect]:
        """A unit came back from the sandbox, or did not get there."""
        job = self.jobs.get(event.job)
        if job is not None and job.publisher is not None:
            judge = job.publisher.judge
            if isinstance(event, ev.UnitExecuted):
                effects = judge.executed(job.settlement, event.unit, event.digest)
                return effects + self._advance(job, now)
            judge.unable_to(job.settlement, [event.unit])
            job.settlement.touched[event.unit] = True
            return self._advance(job, now)
        self.executed += isinstance(event, ev.UnitExecuted)
        if job is None or job.volunteer is None:
            return []
        entries: list[Entry] = []
        match event:
            case ev.UnitExecuted(unit=unit):
                job.volunteer.executed_unit(
                    job.settlement, unit, event.digest, event.length, event.wall_ms
                )
            case ev.UnitFaulted(unit=unit):
                entries = job.volunteer.faulted_unit(
                    job.settlement, unit, event.kind, event.reason, now
                )
            case ev.UnitUnavailable(unit=unit):
                entries = job.volunteer.unavailable_unit(unit, now)
        job.write(entries, now)
        return self._advance(job, now)

    def _commitments_made(self, event: ev.CommitmentsMade, now: Millis) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or job.volunteer is None:
            return []
        entries, effects = job.volunteer.committed(
            job.settlement, event.seed, event.items, event.commitments
        )
        job.write(entries, now)
        return effects + self._advance(job, now)

    def _checked(self, event: ev.CommitmentsChecked, now: Millis) -> list[Effect]:
        """Somebody's commitments were held against bytes that are here."""
        job = self.jobs.get(event.job)
        if job is None:
            return []
        if job.publisher is not None:
            numbers = job.publisher.judge.commitments_checked(job.settlement, event.good, event.bad)
            if event.lost:
                job.publisher.judge.commitments_lost(event.digest, event.lost)
                units = sorted({number for number, _, _ in event.lost})
                job.publisher.lost(event.digest, units, now)
        else:
            numbers = sorted({number for number, _, _ in (*event.good, *event.bad)})
            for number, attempt, peer in event.bad:
                job.settlement.unit(number).opened[peer, attempt] = False
            if job.volunteer is not None:
                job.volunteer.opened.update((key, True) for key in (*event.good, *event.bad))
        bad = sorted({number for number, _, _ in event.bad})
        outcome = job.settlement.again(bad, now, counts(job, self.standing))
        job.settlement.touched.update((number, True) for number in numbers)
        return rows(job, outcome) + self._advance(job, now)

    def _compared(self, event: ev.Compared, now: Millis) -> list[Effect]:
        """Another's output was compared with one that is here."""
        job = self.jobs.get(event.job)
        if job is None:
            return []
        if job.publisher is not None:
            job.publisher.judge.compared(event.unit, event.candidate, event.verdict)
        elif job.volunteer is not None:
            entries = job.volunteer.compared_unit(
                job.settlement, event.unit, event.candidate, event.verdict, now
            )
            job.write(entries, now)
        job.settlement.touched[event.unit] = True
        return self._advance(job, now)

    def may_fetch(self, peer: PeerId, cid: Cid) -> bool:
        """Whether a peer may have a blob: an output only if it ran the unit itself, or publishes
        the job, until the unit is final."""
        try:
            digest = Digest(cid_sha256(cid))
        except Malformed:
            return self.restored  # nothing here has such a name
        return self.restored and not any(job.holds_back(peer, digest) for job in self.jobs.values())

    # ---- trust -------------------------------------------------------------------------------

    def snapshot_for(self, model_class: str) -> VerifiedSnapshot | None:
        """The newest trust snapshot of this node's own for a class of models."""
        return self.snapshots.get(model_class)

    def _sign_snapshot(self, model_class: str, now: Millis) -> list[Effect]:
        """Sign what this node knows of its volunteers, unless nothing has changed."""
        known = self.snapshots.get(model_class)
        records = self.standing.snapshot(model_class)
        self.snapshot_at.pop(model_class, None)
        if records == (() if known is None else known.snapshot.records):
            return []
        wall = self.wall_ms(now)
        number = wall if known is None else max(wall, known.snapshot.number + 1)
        return [Sign(Snapshot(self.network, self.me, model_class, number, wall, records))]

    def _snapshot_due(self, job: Job, now: Millis) -> list[Effect]:
        """While a job runs that weighs votes, new records come into force every few seconds."""
        name = job.manifest.trust.model_class
        at = self.snapshot_at.get(name)
        if at is not None and at <= now:
            return self._sign_snapshot(name, now)
        if at is None and isinstance(job.manifest.stop, Confidence) and job.settlement.begun:
            self.snapshot_at[name] = Millis(now + SNAPSHOT_EVERY_MS)
        return []

    def _snapshot(self, event: ev.SnapshotReceived, now: Millis) -> list[Effect]:
        """A trust snapshot, this node's own or that of a job's publisher."""
        source, snapshot = event.source, event.snapshot
        own = source == self.me
        verdict = judge_snapshot(snapshot.snapshot, self.membership.terms)
        if not isinstance(verdict, Accept):
            return [Report(source, verdict)]
        if own:
            self.snapshots[snapshot.snapshot.model_class] = snapshot
        effects: list[Effect] = []
        for job in self.jobs.values():
            if isinstance(job.manifest.stop, Confidence):
                effects.extend(self._weigh(job, snapshot, now))
        return effects

    def _weigh(self, job: Job, snapshot: VerifiedSnapshot, now: Millis) -> list[Effect]:
        if not job.weigh(snapshot):
            return []
        effects: list[Effect] = [SaveSnapshot(job.id, snapshot.sealed)]
        others = job.others(self.membership.present())
        if job.publisher is not None and others:
            effects.append(Send(others, Deliver(snapshot.sealed)))
        outcome = job.settlement.weighed(now, counts(job, self.standing))
        return [*effects, *rows(job, outcome), *self._advance(job, now)]

    def _proved(self, first: VerifiedFrame, second: VerifiedFrame) -> bool:
        """Take a proof in; whether it says something new of its author."""
        why = fault(first, second)
        if not why or not self.standing.prove(first.author, why):
            return False
        self.proofs[first.author] = Proof(first.sealed, second.sealed)
        if len(self.proofs) > PROOFS_KEPT:
            del self.proofs[next(iter(self.proofs))]
        return True

    def _costs_too_much(self, first: VerifiedFrame, second: VerifiedFrame) -> bool:
        """Whether a proof would fill the store for nothing: against keys made to be proved guilty,
        that nobody here heard of and whose votes count nowhere."""
        author = first.author
        if author in self.membership.records or any(
            author in log.entries for job in self.jobs.values() for log in job.logs.values()
        ):
            return False
        size = len(first.sealed.body) + len(second.sealed.body)
        return size > STRANGERS_PROOF_BYTES or len(self.standing.proved) >= STRANGERS_PROVED_MAX

    def _proof(self, event: ev.ProofReceived, now: Millis) -> list[Effect]:
        """Two frames that prove a fault cost their author everything, here and elsewhere."""
        first, second = event.first, event.second
        own = event.source == self.me
        if not own and not fits(self.membership.terms, first.author):
            return [Report(event.source, Reject("the author's key does not fit the network"))]
        if len(self.standing.proved) >= PROOFS_MAX:
            return []
        if first.frame.network != self.network or not fault(first, second):
            return [] if own else [Report(event.source, Reject("the proof proves nothing"))]
        if not own and self._costs_too_much(first, second):
            return [Report(event.source, Ignore("a proof against somebody unknown here"))]
        if not self._proved(first, second):
            return []
        author = first.author
        effects: list[Effect] = [SaveProof(author, first.sealed, second.sealed)]
        if not own:
            effects.append(Report(event.source, Accept()))
        if author != self.me:
            # The frames may have come by others: it is their author who is parted from.
            effects.append(Report(author, Proven(f"a proof against it: {fault(first, second)}")))
        others = tuple(p for p in self.membership.present() if p not in (event.source, author))
        if others:
            effects.append(Send(others, Proof(first.sealed, second.sealed)))
        for job in list(self.jobs.values()):
            numbers = sorted(job.settlement.answered.get(author, {}))
            outcome = job.settlement.again(numbers, now, counts(job, self.standing))
            effects.extend(rows(job, outcome))
            effects.extend(self._advance(job, now))
        return effects

    def _receipt(self, event: ev.ReceiptReceived, now: Millis) -> list[Effect]:
        """A receipt: signed here for somebody's work, or for the work of this node."""
        body = event.receipt.receipt
        if event.source == self.me:
            return self.ledger.issued(event.receipt, self.membership.here(body.peer))
        known = self.jobs.get(body.job) or self.ended.get(body.job)
        manifest = None if known is None else known.manifest
        terms = self.membership.terms
        return self.ledger.received(event.source, event.receipt, self.me, manifest, terms)

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
        return [*effects, *(self._advance(job, now) if joined or left else [])]

    # ---- time --------------------------------------------------------------------------------

    def _stop(self, event: ev.StopRequested, now: Millis) -> list[Effect]:
        self.stopping = True
        effects: list[Effect] = []
        for job in self.jobs.values():
            effects.extend(job.release(self.me, self.incarnation, now))
        return effects

    @property
    def still(self) -> bool:
        """Whether nothing is executed: the owner wants it so, or the disk does not take outputs."""
        return self.paused or bool(self.hindered)

    def _set_paused(self, paused: bool, now: Millis) -> list[Effect]:
        before, self.paused = self.still, paused
        return self._stood(before, now)

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

    def _stood(self, before: bool, now: Millis) -> list[Effect]:
        if self.still == before:
            return []
        effects: list[Effect] = [SetPaused(self.still)]
        for job in self.jobs.values():
            effects.extend(self._advance(job, now))
        return effects

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
            effects.append(self._sign_record(now))
        if self.jobs_summary_at is not None and self.jobs_summary_at <= now:
            self.jobs_summary_at = Millis(now + JOBS_SUMMARY_MS)
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
        own = [(job.id, job.manifest) for job in self.jobs.values() if job.own]
        wall_ms, terms = self.wall_ms(now), self.membership.terms
        effects.extend(self.directory.sign(terms, own, self.book.tombstones, now, wall_ms))
        effects.extend(
            self.directory.due(self.membership.here, self._keeps_for, self._open_of, now, wall_ms)
        )
        announce = self.announce_at is not None and self.announce_at <= now
        if announce:
            self.announce_at = None
        for job in list(self.jobs.values()):
            if self.wall_ms(now) > job.manifest.expires_ms:
                effects.extend(self._end(job, "expired", None, now))
                continue
            if job.publisher is not None and announce:
                self.announce_at = Millis(now + ANNOUNCE_MS)
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
            effects.extend(self._advance(job, now))
        return effects

    def _proof_in_turn(self, peers: int) -> Proof:
        """Another one after each round of the peers, so that everybody hears of all."""
        known = list(self.proofs)
        return self.proofs[known[self.turn // peers % len(known)]]

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


_HANDLERS: dict[type, Callable[[Node, Any, Millis], list[Effect]]] = {
    ev.AcceptanceReceived: Node._acceptance,
    ev.AddressesChanged: Node._addresses_changed,
    ev.AdmissionShown: Node._shown,
    ev.BlobArrived: Node._blob_arrived,
    ev.BlobFailed: Node._blob_failed,
    ev.CancelRequested: Node._cancel,
    ev.ChallengeAnswered: Node._challenge_answered,
    ev.ClockSet: Node._clock_set,
    ev.ClosureReceived: Node._closure,
    ev.CommitmentsChecked: Node._checked,
    ev.CommitmentsMade: Node._commitments_made,
    ev.Compared: Node._compared,
    ev.DiskChanged: Node._hindered,
    ev.FrameReceived: Node._frame,
    ev.FrameRestored: Node._frame_restored,
    ev.FramesSummaryReceived: Node._frames_summary,
    ev.HelloReceived: Node._hello,
    ev.InputsKnown: Node._inputs_known,
    ev.JobOpened: Node._opened,
    ev.JobRestored: Node._job_restored,
    ev.JobUnavailable: Node._unavailable,
    ev.JobsRecordReceived: Node._jobs_record,
    ev.JobsSummaryReceived: Node._jobs_summary,
    ev.JobsWanted: Node._jobs_wanted,
    ev.ManifestReceived: Node._manifest,
    ev.MembersReceived: Node._members,
    ev.PauseRequested: Node._pause,
    ev.PeerConnected: Node._connected,
    ev.PeerDisconnected: Node._disconnected,
    ev.PeerRefused: Node._refused,
    ev.ProofReceived: Node._proof,
    ev.ProofRestored: Node._proof_restored,
    ev.ReceiptReceived: Node._receipt,
    ev.RecordReceived: Node._record,
    ev.RecordSigned: Node._record_signed,
    ev.RecordsRestored: Node._records_restored,
    ev.RequirementReceived: Node._requirement,
    ev.RestoreFinished: Node._restore_finished,
    ev.ResumeRequested: Node._resume,
    ev.RingersKnown: Node._ringers_known,
    ev.RosterSummaryReceived: Node._roster_summary,
    ev.ShardsSummaryReceived: Node._shards_summary,
    ev.SnapshotReceived: Node._snapshot,
    ev.Started: Node._started,
    ev.StopRequested: Node._stop,
    ev.Tick: Node._tick,
    ev.UnitExecuted: Node._worked,
    ev.UnitFaulted: Node._worked,
    ev.UnitUnavailable: Node._worked,
    ev.VersionsDiffer: Node._versions_differ,
    ev.WantedReceived: Node._wanted,
}
assert set(_HANDLERS) == set(get_args(Event)), "every event has its handler"
