"""A machine's disk: what was written is lost in a crash unless it was synced.

One batch of writes is one transaction, as in the real store: a crash keeps all of it or nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import assert_never

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.events import KnownPacks
from p2pfleet.core.model.ids import Digest, JobId, PeerId, cid_from_sha256
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment
from p2pfleet.core.rules.closed import acceptance_order
from p2pfleet.core.wire.messages import Ringer, Sealed
from p2pfleet.core.wire.verified import (
    VerifiedAcceptance,
    VerifiedAdmission,
    VerifiedClosure,
    VerifiedFrame,
    VerifiedInvitation,
    VerifiedJobsRecord,
    VerifiedManifest,
    VerifiedMembers,
    VerifiedReceipt,
    VerifiedRecord,
    VerifiedRequirement,
    VerifiedSnapshot,
)
from p2pfleet.sim.signatures import unseal

FrameKey = tuple[JobId, PeerId, int, int, int]


class StoredJob:
    """A job as the store has it. ``state``: active, completed, cancelled, expired, refused.

    What stands in a dict comes back in the order of first saving.
    """

    def __init__(self, manifest: Sealed, own: bool) -> None:
        self.manifest, self.own = manifest, own
        self.state = "active"
        self.closure: Sealed | None = None
        self.units: dict[int, ef.UnitRow] = {}
        self.moves: dict[tuple[int, PeerId], str] = {}
        self.seeds: dict[bytes, ef.OwnSeed] = {}
        self.snapshots: dict[Digest, Sealed] = {}
        self.earnings: dict[tuple[int, PeerId], int] = {}
        self.receipts: dict[PeerId, Sealed] = {}
        self.poisoned = False
        self.withdrawn: dict[ef.Withdrawn, bool] = {}

    def backup(self) -> StoredJob:
        """A copy; what is in the tables is never changed itself."""
        kept = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(kept, name, dict(value))
        return kept


class Disk:
    """What survives; ``unsynced`` is the transaction under way.

    ``outputs``, ``packs``, ``inputs`` (by job) and ``models`` are blobs, which are whole or not
    there; ``ringers`` are the publisher's notes on its own jobs (secret and ringers) and
    ``pack_sizes`` what their tables say, written beside the store before a job is published.
    """

    def __init__(self) -> None:
        self.incarnation = 0
        self.jobs: dict[JobId, StoredJob] = {}
        self.frames: dict[FrameKey, Sealed] = {}
        self.requirement: Sealed | None = None
        self.members: dict[int, Sealed] = {}
        self.acceptances: dict[tuple[PeerId, PeerId], Sealed] = {}
        self.jobs_records: dict[PeerId, Sealed] = {}
        self.records: dict[tuple[str, PeerId], Record] = {}
        self.proofs: dict[PeerId, tuple[Sealed, Sealed]] = {}
        self.ringers: dict[JobId, tuple[bytes, tuple[Ringer, ...]]] = {}
        self.models: dict[JobId, bool] = {}
        self.inputs: dict[JobId, dict[int, bool]] = {}
        self.packs: dict[JobId, dict[Digest, bool]] = {}
        self.pack_sizes: dict[JobId, KnownPacks] = {}
        self.outputs: dict[JobId, dict[Digest, int]] = {}
        self.unsynced: Sequence[ef.Write] = ()
        self.syncs = 0
        self.lost = 0

    # ---- writing -----------------------------------------------------------------------------

    def next_incarnation(self, wall_ms: int) -> int:
        """A number that grows with every start; durable before it is returned."""
        self.incarnation = max(wall_ms, self.incarnation + 1)
        return self.incarnation

    def write(self, writes: Sequence[ef.Write]) -> None:
        """Begin a transaction; nothing of it is durable before :meth:`sync`."""
        assert not self.unsynced, "one transaction at a time"
        self.unsynced = writes

    def sync(self) -> None:
        """Make the transaction durable."""
        for write in self.unsynced:
            self._apply(write)
        self.unsynced = ()
        self.syncs += 1

    def crash(self) -> None:
        """Lose what was not synced."""
        self.lost += len(self.unsynced)
        self.unsynced = ()

    def backup(self) -> Disk:
        """A copy of all that is durable now."""
        kept = copy.copy(self)
        kept.unsynced = ()
        kept.jobs = {job: stored.backup() for job, stored in self.jobs.items()}
        for name in (
            "frames",
            "records",
            "proofs",
            "ringers",
            "models",
            "pack_sizes",
            "jobs_records",
        ):
            setattr(kept, name, dict(getattr(self, name)))
        kept.inputs = {job: dict(units) for job, units in self.inputs.items()}
        kept.packs = {job: dict(packs) for job, packs in self.packs.items()}
        kept.outputs = {job: dict(outputs) for job, outputs in self.outputs.items()}
        return kept

    def _apply(self, write: ef.Write) -> None:
        match write:
            case ef.SaveFrame():
                frame = _frame(write.frame).frame
                assert frame.job == write.job, "a frame is saved under another job"
                key = (frame.job, frame.author, frame.shard, frame.incarnation, frame.sequence)
                self.frames.setdefault(key, write.frame)
            case ef.SaveUnits():
                units = self.jobs[write.job].units
                for row in write.rows:
                    units[row.unit] = row
            case ef.SaveSeed(seed=seed):
                assert commitment.seed_hash(seed.seed) == seed.seed_hash, "under another's hash"
                self.jobs[write.job].seeds.setdefault(seed.seed_hash, seed)
            case ef.SaveMoves():
                moves = self.jobs[write.job].moves
                for move in write.rows:
                    if move.kind:
                        moves[move.unit, move.peer] = move.kind
                    else:
                        moves.pop((move.unit, move.peer), None)
            case ef.VoidMoves():
                self.jobs[write.job].moves.clear()
                self.jobs[write.job].poisoned = True
            case ef.SaveWithdrawn():
                self.jobs[write.job].withdrawn.update((row, True) for row in write.rows)
            case ef.SaveRecords():
                for total in write.rows:
                    self.records[total.model_class, total.peer] = total.record
            case ef.SaveEarnings():
                earnings = self.jobs[write.job].earnings
                for earned in write.rows:
                    assert (earned.unit, earned.peer) not in earnings, "a unit earns twice"
                    earnings[earned.unit, earned.peer] = earned.credit
            case ef.SaveReceipt(receipt=sealed):
                receipt = _receipt(sealed).receipt
                assert receipt.job == write.job, "a receipt is saved under another job"
                receipts = self.jobs[write.job].receipts
                earlier = receipts.get(receipt.peer)
                if earlier is None or _receipt(earlier).receipt.number < receipt.number:
                    receipts[receipt.peer] = sealed
            case ef.SaveSnapshot(snapshot=snapshot):
                self.jobs[write.job].snapshots.setdefault(Digest(snapshot.hash), snapshot)
            case ef.SaveProof(peer=peer, first=first, second=second):
                authors = {_frame(first).author, _frame(second).author}
                assert authors == {peer}, "a proof is made of another's frames"
                self.proofs.setdefault(peer, (first, second))
            case ef.SaveJob():
                self.jobs.setdefault(write.job, StoredJob(write.manifest, write.own))
            case ef.CloseJob():
                job = self.jobs[write.job]
                job.state, job.closure = write.state, write.closure
            case ef.SaveRequirement():
                self.requirement = write.requirement
            case ef.SaveMembers():
                self.members[write.page] = write.members
            case ef.SaveAcceptance():
                self.acceptances[write.key, write.peer] = write.acceptance
            case ef.DropAcceptance():
                self.acceptances.pop((write.key, write.peer), None)
            case ef.SaveJobsRecord(record=record):
                self.jobs_records[record.signer] = record
            case ef.ForgetJobsRecord(publisher=publisher):
                self.jobs_records.pop(publisher, None)
            case ef.ForgetJob():
                forgotten = self.jobs[write.job]
                forgotten.units.clear()
                forgotten.seeds.clear()
                forgotten.snapshots.clear()
                self.frames = {k: v for k, v in self.frames.items() if k[0] != write.job}
            case _:
                assert_never(write)

    # ---- reading -----------------------------------------------------------------------------

    def restore(self, me: PeerId) -> Iterator[ev.Event]:
        """What a starting node is told, in order, after ``Started``."""
        if self.requirement is not None:
            requirement = unseal(self.requirement)
            assert isinstance(requirement, VerifiedRequirement)
            yield ev.RequirementReceived(me, requirement)
        for _, page in sorted(self.members.items()):
            members = unseal(page)
            assert isinstance(members, VerifiedMembers)
            yield ev.MembersReceived(me, members)
        heard = [unseal(sealed) for sealed in self.acceptances.values()]
        accepted = [one for one in heard if isinstance(one, VerifiedAcceptance)]
        for one in sorted(accepted, key=acceptance_order):
            yield ev.AcceptanceReceived(me, one)
        yield ev.RecordsRestored(
            tuple(ef.RecordRow(*key, record) for key, record in sorted(self.records.items()))
        )
        for _, proof in sorted(self.proofs.items()):
            yield ev.ProofRestored(*map(_frame, proof))
        for stored in self.jobs.values():
            manifest = unseal(stored.manifest)
            closure = None if stored.closure is None else unseal(stored.closure)
            assert isinstance(manifest, VerifiedManifest)
            assert closure is None or isinstance(closure, VerifiedClosure)
            due = stored.own and stored.state == "active"
            yield ev.JobRestored(
                manifest,
                stored.own,
                stored.state,
                closure,
                tuple(row for _, row in sorted(stored.units.items())),
                tuple(ef.Move(*of, kind) for of, kind in stored.moves.items()),
                tuple(_snapshot(sealed) for sealed in stored.snapshots.values()),
                tuple(stored.seeds.values()),
                _earnings(stored) if due else (),
                tuple(map(_receipt, _by_peer(stored))) if due or not stored.own else (),
                stored.poisoned,
                tuple(stored.withdrawn),
            )
        for (job, *_), sealed in self.frames.items():
            if self.jobs[job].state == "active":
                yield ev.FrameRestored(_frame(sealed))
        for sealed in self.jobs_records.values():
            record = unseal(sealed)
            assert isinstance(record, VerifiedJobsRecord)
            yield ev.JobsRecordReceived(me, record)
        for known, sizes in self.pack_sizes.items():
            if known in self.jobs and self.jobs[known].state == "active":
                yield ev.InputsKnown(known, sizes)
        for known, (secret, ringers) in self.ringers.items():
            if known in self.jobs and self.jobs[known].state == "active":
                yield ev.RingersKnown(known, secret, ringers)
        yield ev.RestoreFinished()

    def frame_range(self, effect: ef.SendFrames) -> list[Sealed]:
        """The frames that an answer to a summary sends, by number."""
        first = (effect.job, effect.author, effect.shard, effect.incarnation)
        keys = [(*first, number) for number in range(effect.first, effect.end)]
        return [self.frames[key] for key in keys if key in self.frames]

    def receipts_for(self, peer: PeerId, most: int) -> list[Sealed]:
        """The receipts for a peer of the last jobs of this machine's own, the newest first."""
        mine = [job.receipts for job in self.jobs.values() if job.own]
        return [receipts[peer] for receipts in reversed(mine) if peer in receipts][:most]

    def holds(self, sealed: Sealed) -> bool:
        """Whether a signed body is durable here (a peer record is made anew at every start)."""
        match unseal(sealed):
            case VerifiedFrame(frame=frame):
                key = (frame.job, frame.author, frame.shard, frame.incarnation, frame.sequence)
                return self.frames.get(key) == sealed
            case VerifiedManifest(job=job):
                return job in self.jobs
            case VerifiedClosure(closure=closure):
                return closure.job in self.jobs and self.jobs[closure.job].closure == sealed
            case VerifiedRequirement():
                return self.requirement == sealed
            case VerifiedSnapshot(hash=name):
                return any(name in job.snapshots for job in self.jobs.values())
            case VerifiedReceipt(receipt=receipt):
                kept = self.jobs[receipt.job].receipts.get(receipt.peer)
                return kept is not None and _receipt(kept).receipt.number >= receipt.number
            case VerifiedMembers(members=members):
                return self.members.get(members.page) == sealed
            case VerifiedAcceptance():
                return sealed in self.acceptances.values()
            case VerifiedJobsRecord():
                return self.jobs_records.get(sealed.signer) == sealed
            case VerifiedRecord() | VerifiedInvitation() | VerifiedAdmission():
                return True

    def is_input(self, job: JobId, digest: Digest) -> bool:
        """Whether a blob that is here is a model or a pack, which anybody may have."""
        return digest in self.packs.get(job, {}) or self._is_model(job, digest)

    def has_blob(self, job: JobId, digest: Digest) -> bool:
        """Whether a blob under custody is here: the model, a pack, or an output."""
        return self.is_input(job, digest) or digest in self.outputs.get(job, {})

    def _is_model(self, job: JobId, digest: Digest) -> bool:
        if job not in self.models or job not in self.jobs:
            return False
        manifest = unseal(self.jobs[job].manifest)
        assert isinstance(manifest, VerifiedManifest)
        return manifest.manifest.model == cid_from_sha256(digest)

    def drop_blobs(self, job: JobId) -> None:
        """Let the blobs of a job be evicted."""
        self.models.pop(job, None)
        self.inputs.pop(job, None)
        self.packs.pop(job, None)
        self.outputs.pop(job, None)


def _frame(sealed: Sealed) -> VerifiedFrame:
    verified = unseal(sealed)
    assert isinstance(verified, VerifiedFrame)
    return verified


def _receipt(sealed: Sealed) -> VerifiedReceipt:
    verified = unseal(sealed)
    assert isinstance(verified, VerifiedReceipt)
    return verified


def _by_peer(stored: StoredJob) -> list[Sealed]:
    return [stored.receipts[peer] for peer in sorted(stored.receipts)]


def _earnings(stored: StoredJob) -> tuple[ef.Earning, ...]:
    return tuple(ef.Earning(*key, stored.earnings[key]) for key in sorted(stored.earnings))


def _snapshot(sealed: Sealed) -> VerifiedSnapshot:
    verified = unseal(sealed)
    assert isinstance(verified, VerifiedSnapshot)
    return verified
