"""Which jobs publishers say they have: records that outlast whoever forgets."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect, Send
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.model.ids import Millis, PeerId

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def _jobs_record(node: Node, event: ev.JobsRecordReceived, now: Millis) -> list[Effect]:
    """A publisher's record of its jobs; this node's own may name some that are unknown here."""
    publisher = event.record.record.publisher
    if not node.restored:
        node.directory.restored(event.record)
        return []
    here = node.membership.present()
    effects = node.directory.received(
        event.source,
        event.record,
        node.membership.terms,
        here,
        _open_of(node, publisher),
        now,
        node.wall_ms(now),
    )
    unknown = [job for job in node.directory.named if not node.book.knows(job)]
    if publisher == node.me and unknown and here:
        effects.append(Send(here, node.repair.known_jobs(node.book)))
    return effects


def _jobs_wanted(node: Node, event: ev.JobsWanted, now: Millis) -> list[Effect]:
    node.directory.wanted = True
    here = node.membership.present()
    return [Send(here, node.repair.known_jobs(node.book))] if here else []


def _open_of(node: Node, publisher: PeerId) -> bool:
    return any(job.manifest.publisher == publisher for job in node.jobs.values())


def _keeps_for(node: Node, publisher: PeerId) -> bool:
    theirs = (job for job in node.jobs.values() if job.manifest.publisher == publisher)
    return any(job.custody.mine for job in theirs)


def due(node: Node, now: Millis) -> list[Effect]:
    """Sign the own record anew and put records again, as far as it is time to."""
    own = [(job.id, job.manifest) for job in node.jobs.values() if job.own]
    wall_ms, terms = node.wall_ms(now), node.membership.terms
    effects = node.directory.sign(terms, own, node.book.tombstones, now, wall_ms)
    keeps_for, open_of = partial(_keeps_for, node), partial(_open_of, node)
    return effects + node.directory.due(node.membership.here, keeps_for, open_of, now, wall_ms)


HANDLERS: Table = {
    ev.JobsRecordReceived: _jobs_record,
    ev.JobsWanted: _jobs_wanted,
}
