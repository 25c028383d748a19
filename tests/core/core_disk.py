"""The store of a node in the cluster: what a kill leaves, and how a new node hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_never

from core_samples import unseal

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.core.wire.verified import (
    VerifiedClosure,
    VerifiedFrame,
    VerifiedManifest,
    VerifiedRequirement,
)


class Disk:
    """Jobs, frames, ledger, judgements and blobs; every write is durable at once, in order."""

    def __init__(self) -> None:
        self.incarnation = 0
        self.jobs: dict[JobId, list[Any]] = {}
        self.frames: dict[JobId, dict[FrameHash, Sealed]] = {}
        self.units: dict[JobId, dict[int, ef.UnitRow]] = {}
        self.judged: dict[JobId, dict[tuple[int, PeerId], bool]] = {}
        self.requirement: Sealed | None = None
        self.models: set[JobId] = set()
        self.outputs: set[Digest] = set()

    def write(self, write: ef.Write) -> None:
        match write:
            case ef.SaveJob():
                self.jobs.setdefault(write.job, [write.manifest, write.own, "active", None])
            case ef.CloseJob():
                self.jobs[write.job][2:] = [write.state, write.closure]
            case ef.SaveFrame():
                self.frames.setdefault(write.job, {})[FrameHash(write.frame.hash)] = write.frame
            case ef.SaveUnits():
                rows = self.units.setdefault(write.job, {})
                for row in write.rows:
                    old = rows.get(row.unit)
                    assert old is None or old.state != "settled" or old == row, "settled twice"
                    rows[row.unit] = row
            case ef.SaveJudgements():
                judged = self.judged.setdefault(write.job, {})
                judged.update({(row.unit, row.peer): row.agreed for row in write.rows})
            case ef.SaveRequirement():
                self.requirement = write.requirement
            case ef.ForgetJob():
                self.frames.pop(write.job, None)
                self.units.pop(write.job, None)
            case _:
                assert_never(write)

    def records(self) -> dict[PeerId, tuple[int, int]]:
        """(agreed, contradicted) of each peer: every judged (job, unit, peer) counts once."""
        totals: dict[PeerId, tuple[int, int]] = {}
        for judged in self.judged.values():
            for (_, who), agreed in judged.items():
                old = totals.get(who, (0, 0))
                totals[who] = (old[0] + agreed, old[1] + (not agreed))
        return totals

    def restore(self, me: PeerId) -> Iterator[ev.Event]:
        """What a starting node is told, in order."""
        if self.requirement is not None:
            yield ev.RequirementReceived(me, unseal(self.requirement))
        yield ev.RecordsRestored(tuple((who, *r) for who, r in sorted(self.records().items())))
        for job, (sealed, own, state, closure) in self.jobs.items():
            judged = sorted(self.judged.get(job, {}).items())
            yield ev.JobRestored(
                unseal(sealed),
                own,
                state,
                None if closure is None else unseal(closure),
                tuple(row for _, row in sorted(self.units.get(job, {}).items())),
                tuple(ef.Judgement(unit, who, agreed) for (unit, who), agreed in judged),
            )
        for job, frames in self.frames.items():
            if self.jobs[job][2] == "active":
                for sealed in frames.values():
                    yield ev.FrameRestored(unseal(sealed))
        yield ev.RestoreFinished()

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
        return True  # a peer record is made anew at every start
