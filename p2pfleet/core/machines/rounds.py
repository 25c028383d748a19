"""One round of a job at one node: what has changed is looked at until nothing follows any more.

The publisher's round judges, the volunteer's commits and reveals. Both write entries into the job's
next frame and return what is to be done.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2pfleet.core.effects import Effect, SaveMoves, SaveUnits, SaveWithdrawn, VoidMoves
from p2pfleet.core.machines.custody import Neighbours
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.judge import POISONED
from p2pfleet.core.machines.settlement import Outcome
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.rules.reputation import CAUGHT

ROUNDS_MAX = 64


class Around(msgspec.Struct):
    """What a round needs to know of the rest of the node."""

    standing: Standing
    present: Callable[[PeerId], bool]
    numeric_class: Callable[[PeerId], bytes]
    sources: Callable[[], tuple[PeerId, ...]]
    volunteers: Callable[[], int]
    paused: bool
    willing: tuple[PeerId, ...] = ()
    room: Callable[[int], bool] = lambda length: True


def counts(job: Job, standing: Standing) -> Callable[[PeerId], bool]:
    """Whose votes and claims this node counts in a job."""
    if job.publisher is None:
        return standing.honest
    model_class = job.manifest.trust.model_class
    return lambda peer: standing.served(peer, model_class)


def rows(job: Job, outcome: Outcome) -> list[Effect]:
    """The ledger rows of an outcome, to be written down."""
    return [SaveUnits(job.id, tuple(outcome.rows))] if outcome.rows else []


def publisher_round(job: Job, around: Around, now: Millis) -> list[Effect]:
    """Fetch what is certified, judge it, settle it."""
    publisher, settlement = job.publisher, job.settlement
    assert publisher is not None
    judge = publisher.judge
    counting = counts(job, around.standing)
    effects = rows(job, settlement.due(now, counting))
    for _ in range(ROUNDS_MAX):
        touched = sorted(settlement.touched)
        settlement.touched.clear()
        publisher.certified(settlement, touched)
        job.custody.certified(settlement, touched)
        for number in touched:
            effects.extend(judge.review(settlement, number, now))
        for number in judge.ripe():
            entries = judge.conclude(settlement, number, now, counting, around.numeric_class)
            job.write(entries, now)
            settlement.touched[number] = True
        effects.extend(_move(job, around.standing, now))
        if not settlement.touched:
            break
    effects.extend(judge.settle_waiting(settlement))
    effects.extend(judge.sweep(settlement))
    effects.extend(judge.take_over(settlement, publisher.lost_units, now, counting))
    if publisher.complete(settlement):
        job.write(judge.open_ringers(), now)
    if not job.custody.idle(now):
        effects.extend(keep_round(job, around, now))
    return effects + publisher.advance(settlement, now, around.present, job.custody.sources)


def neighbours(job: Job, around: Around, now: Millis) -> Neighbours:
    """The others, as the custody of a job sees them."""
    volunteer = job.volunteer
    return Neighbours(
        volunteers=tuple(
            peer
            for peer in around.willing
            if peer in job.participants and peer != job.manifest.publisher
        ),
        present=around.present,
        counts=counts(job, around.standing),
        room=around.room,
        willing=volunteer is not None and volunteer.open and not around.paused,
        busy=lambda number: volunteer is not None and number in volunteer.held,
        shards=job.shards.served,
        away=not job.publisher_is_there(around.present, now),
    )


def keep_round(job: Job, around: Around, now: Millis) -> list[Effect]:
    """See to it that the job's blobs have their copies."""
    entries, effects = job.custody.advance(job.settlement, neighbours(job, around, now), now)
    job.write(entries, now)
    return effects


def _move(job: Job, standing: Standing, now: Millis) -> list[Effect]:
    """Move records; votes of whoever is caught are withdrawn where nothing is final."""
    publisher, settlement = job.publisher, job.settlement
    assert publisher is not None
    moves, poisoned = publisher.judge.take_moves(settlement)
    if poisoned:
        standing.void(job.id)
        job.reason = POISONED
        return [VoidMoves(job.id)]
    if not moves:
        return []
    standing.move(job.id, moves)
    caught = sorted({move.peer for move in moves if move.kind in CAUGHT})
    numbers, withdrawn = publisher.judge.withdraw(settlement, caught)
    outcome = settlement.again(numbers, now, counts(job, standing))
    effects: list[Effect] = [SaveMoves(job.id, tuple(moves))]
    if withdrawn:
        effects.append(SaveWithdrawn(job.id, withdrawn))
    return [*effects, *rows(job, outcome)]


def volunteer_round(job: Job, around: Around, now: Millis) -> list[Effect]:
    """Commit, reveal, compare; give up what is not needed and take on what is."""
    volunteer, settlement = job.volunteer, job.settlement
    assert volunteer is not None
    counting = counts(job, around.standing)
    effects: list[Effect] = []
    if settlement.later:
        effects.extend(rows(job, settlement.due(now, counting)))
    if settlement.touched:
        job.custody.certified(settlement, settlement.touched)
    answers = volunteer.answers
    if settlement.touched or answers.compare_at:
        numbers = sorted({*settlement.touched, *answers.due(now)})
        settlement.touched.clear()
        if numbers:
            effects.extend(answers.examine(settlement, numbers, now, counting, around.present))
    entries, more = volunteer.advance(
        settlement,
        now,
        counting,
        around.sources,
        volunteers=around.volunteers,
        paused=around.paused,
        alone=not job.publisher_is_there(around.present, now),
        barred=lambda number: job.custody.barred(number, settlement),
    )
    if entries:
        job.write(entries, now)
    if more:
        effects.extend(more)
    if not job.custody.idle(now):
        effects.extend(keep_round(job, around, now))
    return effects
