"""The store of a node in the cluster: what a kill leaves, and how a new node hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_never

from core_samples import unseal

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment
from p2pfleet.core.wire.messages import Ringer, Sealed
from p2pfleet.core.wire.verified import (
    VerifiedClosure,
    VerifiedFrame,
    VerifiedManifest,
    VerifiedReceipt,
    VerifiedRequirement,
    VerifiedSnapshot,
)


class Disk:
    """Jobs, frames, ledger, what trust rests on, and blobs; every write is durable at once.

    What stands in a dict comes back in the order of first saving. ``ringers`` are the publisher's
    notes on its own jobs: the secret, and the ringers.
    """

    def __init__(self) -> None:
        self.incarnation = 0
        self.jobs: dict[JobId, list[Any]] = {}
        self.frames: dict[JobId, dict[FrameHash, Sealed]] = {}
        self.numbers: dict[JobId, set[tuple[PeerId, int, int]]] = {}
        self.units: dict[JobId, dict[int, ef.UnitRow]] = {}
        self.moves: dict[JobId, dict[tuple[int, PeerId], str]] = {}
        self.seeds: dict[JobId, dict[bytes, ef.OwnSeed]] = {}
        self.snapshots: dict[JobId, dict[Digest, Sealed]] = {}
        self.earnings: dict[JobId, dict[tuple[int, PeerId], int]] = {}
        self.receipts: dict[JobId, dict[PeerId, Sealed]] = {}
        self.poisoned: set[JobId] = set()
        self.withdrawn: dict[JobId, dict[ef.Withdrawn, bool]] = {}
        self.records: dict[tuple[str, PeerId], Record] = {}
        self.proofs: dict[PeerId, tuple[Sealed, Sealed]] = {}
        self.ringers: dict[JobId, tuple[bytes, tuple[Ringer, ...]]] = {}
        self.requirement: Sealed | None = None
        self.jobs_records: dict[PeerId, Sealed] = {}
        self.models: set[JobId] = set()
        self.outputs: set[Digest] = set()

    def write(self, write: ef.Write) -> None:
        """Make one write durable."""
        job = getattr(write, "job", None)
        assert job is None or job in self.jobs or isinstance(write, ef.SaveJob), "of no saved job"
        match write:
            case ef.SaveJob():
                self.jobs.setdefault(write.job, [write.manifest, write.own, "active", None])
            case ef.CloseJob():
                self.jobs[write.job][2:] = [write.state, write.closure]
            case ef.SaveFrame():
                frame = unseal(write.frame).frame
                assert frame.job == write.job
                numbers = self.numbers.setdefault(write.job, set())
                number = (frame.author, frame.shard, frame.incarnation, frame.sequence)
                if number not in numbers:  # of two frames of one number the first one is kept
                    numbers.add(number)
                    self.frames.setdefault(write.job, {})[FrameHash(write.frame.hash)] = write.frame
            case ef.SaveUnits():
                rows = self.units.setdefault(write.job, {})
                for row in write.rows:
                    old = rows.get(row.unit)
                    assert old is None or old.state != "settled" or old == row, "settled twice"
                    rows[row.unit] = row
            case ef.SaveSeed(seed=seed):
                assert commitment.seed_hash(seed.seed) == seed.seed_hash, "under another's hash"
                self.seeds.setdefault(write.job, {}).setdefault(seed.seed_hash, seed)
            case ef.SaveMoves():
                moves = self.moves.setdefault(write.job, {})
                for move in write.rows:
                    if move.kind:
                        moves[move.unit, move.peer] = move.kind
                    else:
                        moves.pop((move.unit, move.peer), None)
            case ef.VoidMoves():
                self.moves.pop(write.job, None)
                self.poisoned.add(write.job)
            case ef.SaveWithdrawn():
                self.withdrawn.setdefault(write.job, {}).update((row, True) for row in write.rows)
            case ef.SaveRecords():
                self.records.update({(row.model_class, row.peer): row.record for row in write.rows})
            case ef.SaveEarnings():
                earnings = self.earnings.setdefault(write.job, {})
                for earned in write.rows:
                    assert (earned.unit, earned.peer) not in earnings, "a unit earns twice"
                    earnings[earned.unit, earned.peer] = earned.credit
            case ef.SaveReceipt(receipt=sealed):
                receipts = self.receipts.setdefault(write.job, {})
                receipt = unseal(sealed).receipt
                assert receipt.job == write.job
                earlier = receipts.get(receipt.peer)
                if earlier is None or unseal(earlier).receipt.number < receipt.number:
                    receipts[receipt.peer] = sealed
            case ef.SaveSnapshot(snapshot=snapshot):
                kept = self.snapshots.setdefault(write.job, {})
                kept.setdefault(Digest(snapshot.hash), snapshot)
            case ef.SaveProof(peer=peer, first=first, second=second):
                assert {unseal(first).author, unseal(second).author} == {peer}
                self.proofs.setdefault(peer, (first, second))
            case ef.SaveRequirement():
                self.requirement = write.requirement
            case ef.SaveJobsRecord(record=record):
                self.jobs_records[record.signer] = record
            case ef.ForgetJobsRecord(publisher=publisher):
                self.jobs_records.pop(publisher, None)
            case ef.ForgetJob():
                kinds = (self.frames, self.numbers, self.units, self.seeds, self.snapshots)
                for kind in kinds:
                    kind.pop(write.job, None)
            case _:
                assert_never(write)

    def restore(self, me: PeerId) -> Iterator[ev.Event]:
        """What a starting node is told, in order."""
        if self.requirement is not None:
            yield ev.RequirementReceived(me, unseal(self.requirement))
        rows = tuple(ef.RecordRow(*key, record) for key, record in sorted(self.records.items()))
        yield ev.RecordsRestored(rows)
        for _, (first, second) in sorted(self.proofs.items()):
            yield ev.ProofRestored(unseal(first), unseal(second))
        for sealed in self.jobs_records.values():
            yield ev.JobsRecordReceived(me, unseal(sealed))
        for job, (sealed, own, state, closure) in self.jobs.items():
            due = own and state == "active"
            earnings = sorted(self.earnings.get(job, {}).items()) if due else []
            receipts = sorted(self.receipts.get(job, {}).items()) if due or not own else []
            yield ev.JobRestored(
                unseal(sealed),
                own,
                state,
                None if closure is None else unseal(closure),
                tuple(row for _, row in sorted(self.units.get(job, {}).items())),
                tuple(ef.Move(*of, kind) for of, kind in self.moves.get(job, {}).items()),
                tuple(unseal(sealed) for sealed in self.snapshots.get(job, {}).values()),
                tuple(self.seeds.get(job, {}).values()),
                tuple(ef.Earning(*of, credit) for of, credit in earnings),
                tuple(unseal(sealed) for _, sealed in receipts),
                job in self.poisoned,
                tuple(self.withdrawn.get(job, {})),
            )
        for job, frames in self.frames.items():
            if self.jobs[job][2] == "active":
                for sealed in frames.values():
                    yield ev.FrameRestored(unseal(sealed))
        for job, (secret, ringers) in self.ringers.items():
            if job in self.jobs and self.jobs[job][2] == "active":
                yield ev.RingersKnown(job, secret, ringers)
        yield ev.RestoreFinished()

    def receipts_for(self, peer: PeerId, most: int) -> list[Sealed]:
        """The receipts for a peer of the last jobs of this node's own, the newest first."""
        mine = [
            job for job in self.jobs if self.jobs[job][1] and peer in self.receipts.get(job, {})
        ]
        return [self.receipts[job][peer] for job in reversed(mine)][:most]

    def holds(self, sealed: Sealed) -> bool:
        """Whether a signed body is durable here."""
        match unseal(sealed):
            case VerifiedFrame(frame=frame, hash=name):
                return name in self.frames.get(frame.job, {})
            case VerifiedManifest(job=job):
                return job in self.jobs
            case VerifiedClosure(closure=closure):
                return bool(self.jobs[closure.job][3] == sealed)
            case VerifiedRequirement():
                return self.requirement == sealed
            case VerifiedSnapshot(hash=name):
                return any(name in kept for kept in self.snapshots.values())
            case VerifiedReceipt(receipt=receipt):
                kept = self.receipts.get(receipt.job, {}).get(receipt.peer)
                return kept is not None and unseal(kept).receipt.number >= receipt.number
        return True  # a peer record is made anew at every start
