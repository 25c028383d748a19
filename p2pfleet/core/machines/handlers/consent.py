"""Whose work is run here, and what the network's owner asks of whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect, Report, SaveRequirement
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.volunteer import Volunteer
from p2pfleet.core.model.ids import Millis

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def consents(node: Node, job: Job) -> bool:
    """Whether a job may be run here; a stranger's gets its volunteer, or the reason why not."""
    if node.slots == 0 or job.manifest.publisher == node.me:
        return True
    job.reason = node.consent.to(job.manifest)
    if not node.roster.member(job.manifest.publisher):
        job.reason = "its publisher does not belong to this closed network any more"
    if not job.reason and job.volunteer is None:
        job.volunteer = job.retired or Volunteer.create(node.me, node.slots, node.coin)
        job.retired = None
    return not job.reason


def look_again(node: Node, now: Millis) -> list[Effect]:
    """What may be run here has changed: go on with some jobs, and leave others."""
    effects: list[Effect] = []
    for job in node.jobs.values():
        if consents(node, job):
            effects.extend(node.advance(job, now))
        else:
            effects.extend(job.leave(node.me, node.incarnation, now))
    return effects


def _requirement(node: Node, event: ev.RequirementReceived, now: Millis) -> list[Effect]:
    """The network's owner asks for something new: keep it, hand it on, live by it."""
    own = event.source == node.me
    verdict = node.consent.take(event.requirement, node.network)
    if not isinstance(verdict, Accept):
        return [] if own else [Report(event.source, verdict)]
    effects: list[Effect] = [SaveRequirement(event.requirement.sealed)]
    if not own:
        effects.append(Report(event.source, verdict))
    others = (peer for peer in node.membership.present() if peer != event.source)
    effects.extend(node.consent.tell(tuple(others)))
    return effects + look_again(node, now)


HANDLERS: Table = {
    ev.RequirementReceived: _requirement,
}
