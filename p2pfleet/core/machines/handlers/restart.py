"""What the store had of an earlier life, and the moment when all of it is here again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.handlers.frames import outlive
from p2pfleet.core.machines.handlers.jobs import new_job
from p2pfleet.core.machines.handlers.trust import proved, sign_snapshot
from p2pfleet.core.machines.judge import POISONED
from p2pfleet.core.machines.leases import HEARSAY_MS
from p2pfleet.core.machines.rounds import counts, rows
from p2pfleet.core.model.ids import Millis
from p2pfleet.core.model.network import CLOCK_SKEW_MS

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def _records_restored(node: Node, event: ev.RecordsRestored, now: Millis) -> list[Effect]:
    for row in event.rows:
        node.standing.restore(row)
    return []


def _proof_restored(node: Node, event: ev.ProofRestored, now: Millis) -> list[Effect]:
    proved(node, event.first, event.second)
    return []


def _job_restored(node: Node, event: ev.JobRestored, now: Millis) -> list[Effect]:
    job = new_job(node, event.manifest, event.own, now)
    lasted = node.wall_ms(now) - event.manifest.manifest.issued_ms
    lasted -= 0 if event.own else CLOCK_SKEW_MS
    job.settlement.since = Millis(now - max(0, lasted))
    job.restore(event.units, event.snapshots)
    if event.own:
        node.standing.move(job.id, list(event.moves))
        node.ledger.open[job.id].restore(event.units, event.earnings, event.receipts, now)
    for receipt in () if event.own else event.receipts:
        node.ledger.keep(receipt.receipt)
    if job.volunteer is not None:
        job.volunteer.answers.restore(event.seeds)
    if job.publisher is not None:
        job.publisher.judge.moves = list(event.moves)
        for each in event.withdrawn:
            job.settlement.unit(each.unit).withdrawn[each.peer, each.attempt] = True
        if event.poisoned:
            job.publisher.judge.poisoned = True
            job.reason = POISONED
    if event.state != "active":
        closure = None if event.closure is None else event.closure.sealed
        node.ledger.forget(node.book.end(job.ended(event.state, closure, now)))
        node.standing.drop(job.id)
        node.ledger.open.pop(job.id, None)
    return []


def _frame_restored(node: Node, event: ev.FrameRestored, now: Millis) -> list[Effect]:
    frame = event.frame
    job = node.jobs.get(frame.frame.job)
    if job is None or job.admit(frame, node.wall_ms(now), bounded=False) is not None:
        return []
    own = frame.author == node.me
    if own:
        outlive(node, frame)
    job.settlement.apply(frame, now, counts(job, node.standing), decide=False, own=own)
    job.custody.applied(frame.frame)
    if own and job.volunteer is not None:
        job.volunteer.written(job.settlement, frame.hash, frame.frame.entries, now)
    return []


def _restore_finished(node: Node, event: ev.RestoreFinished, now: Millis) -> list[Effect]:
    node.restored = True
    effects: list[Effect] = [node.sign_record(now)]
    node.tell_jobs_later(now)
    for name in sorted({name for name, _ in node.standing.current}):
        effects.extend(sign_snapshot(node, name, now))
    for job in node.jobs.values():
        counting = counts(job, node.standing)
        for peer in job.settlement.leases.holding:  # who is still there will be met again
            if peer != node.me and peer not in node.membership.connected:
                job.settlement.leases.vanished(peer, Millis(now + HEARSAY_MS))
        if job.volunteer is not None:
            job.volunteer.answers.restored()
        if job.publisher is not None:
            judge = job.publisher.judge
            moves, judge.moves = tuple(judge.moves), []
            judge.restore(moves)
            node.announce_later(now)
        effects.extend(rows(job, job.settlement.restored(now, counting)))
        effects.extend(node.advance(job, now))
    return effects


HANDLERS: Table = {
    ev.FrameRestored: _frame_restored,
    ev.JobRestored: _job_restored,
    ev.ProofRestored: _proof_restored,
    ev.RecordsRestored: _records_restored,
    ev.RestoreFinished: _restore_finished,
}
