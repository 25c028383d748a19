"""What the runtime found out about units: executed, committed to, checked, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.rounds import counts, rows
from p2pfleet.core.model.ids import Millis
from p2pfleet.core.wire.messages import Entry

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def _worked(
    node: Node, event: ev.UnitExecuted | ev.UnitFaulted | ev.UnitUnavailable, now: Millis
) -> list[Effect]:
    """A unit came back from the sandbox, or did not get there."""
    job = node.jobs.get(event.job)
    if job is not None and job.publisher is not None:
        judge = job.publisher.judge
        if isinstance(event, ev.UnitExecuted):
            effects = judge.executed(job.settlement, event.unit, event.digest)
            return effects + node.advance(job, now)
        judge.unable_to(job.settlement, [event.unit])
        job.settlement.touched[event.unit] = True
        return node.advance(job, now)
    node.executed += isinstance(event, ev.UnitExecuted)
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
    return node.advance(job, now)


def _commitments_made(node: Node, event: ev.CommitmentsMade, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None or job.volunteer is None:
        return []
    entries, effects = job.volunteer.answers.committed(
        job.settlement, event.seed, event.items, event.commitments
    )
    job.write(entries, now)
    return effects + node.advance(job, now)


def _checked(node: Node, event: ev.CommitmentsChecked, now: Millis) -> list[Effect]:
    """Somebody's commitments were held against bytes that are here."""
    job = node.jobs.get(event.job)
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
            job.volunteer.answers.opened.update((key, True) for key in (*event.good, *event.bad))
    bad = sorted({number for number, _, _ in event.bad})
    outcome = job.settlement.again(bad, now, counts(job, node.standing))
    job.settlement.touched.update((number, True) for number in numbers)
    return rows(job, outcome) + node.advance(job, now)


def _compared(node: Node, event: ev.Compared, now: Millis) -> list[Effect]:
    """Another's output was compared with one that is here."""
    job = node.jobs.get(event.job)
    if job is None:
        return []
    if job.publisher is not None:
        job.publisher.judge.compared(event.unit, event.candidate, event.verdict)
    elif job.volunteer is not None:
        entries = job.volunteer.answers.compared_with(
            job.settlement, event.unit, event.candidate, event.verdict, now
        )
        job.write(entries, now)
    job.settlement.touched[event.unit] = True
    return node.advance(job, now)


HANDLERS: Table = {
    ev.CommitmentsChecked: _checked,
    ev.CommitmentsMade: _commitments_made,
    ev.Compared: _compared,
    ev.UnitExecuted: _worked,
    ev.UnitFaulted: _worked,
    ev.UnitUnavailable: _worked,
}
