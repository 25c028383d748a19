"""Frames: taken in, handed on, and what follows from those of this node's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect, Prove, Report, SaveFrame, Send
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.rounds import counts, rows
from p2pfleet.core.machines.settlement import Corner
from p2pfleet.core.model.ids import Millis, sha256
from p2pfleet.core.rules.admission import judge_frame
from p2pfleet.core.wire.messages import Deliver, Endorse, Reveal
from p2pfleet.core.wire.verified import VerifiedFrame

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node

RETELL_ONE_IN = 4
_VOTES = (Reveal, Endorse)


def _frame(node: Node, event: ev.FrameReceived, now: Millis) -> list[Effect]:
    source, frame = event.source, event.frame
    job = node.book.open.get(frame.frame.job)
    told = source != node.me
    if job is None or (told and not job.joined):
        return []
    verdict = judge_frame(frame.frame, job.sealed.manifest, node.membership.terms)
    if not isinstance(verdict, Accept):
        return [Report(source, verdict)]
    body = frame.frame
    author, shard = body.author, body.shard
    own = author == node.me
    if not own and not job.takes(shard):  # it was served a moment ago, or somebody is mistaken
        return [] if shard not in job.logs else job.tell_once(source, shard, now, False)
    if job.admit(frame, node.wall_ms(now), bounded=not own) is not None:
        if own or not job.log(shard).differs(frame):
            return []
        place = (frame.frame.incarnation, frame.frame.sequence)
        return [Prove(job.id, frame.author, *place, frame.sealed, shard)]
    effects: list[Effect] = [SaveFrame(job.id, frame.sealed)]
    if not told:
        others = job.mates(shard, node.membership.present())
        if others:
            effects.append(Send(others, Deliver(frame.sealed)))
    else:
        if node.membership.here(author):
            job.join(author, shard if source == author else None)
        job.settlement.leases.heard_of(author, now)
        if job.logs[shard].ahead:
            effects.extend(job.ask_back(source, frame, now))
        effects.extend(_retell(node, job, frame))
        if source != author:
            job.handed_on(source, shard, now)
    past = own and told
    if past:
        outlive(node, frame)
    counting = counts(job, node.standing)
    outcome = job.settlement.apply(frame, now, counting, corner=_corner(node), own=own, past=past)
    job.custody.applied(frame.frame)
    if job.own:
        node.ledger.seen(source, job.settlement, body, now)
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
    effects.extend(node.advance(job, now))
    return effects


def outlive(node: Node, frame: VerifiedFrame) -> None:
    """An own frame that was lost here: whatever is written from now on is of a later life.

    Else, where a clock was put back as well, two frames of one life could contradict each
    other.
    """
    if frame.frame.incarnation >= node.incarnation:
        node.incarnation = frame.frame.incarnation + 1
        for job in node.jobs.values():
            job.sequences.clear()


def _corner(node: Node) -> Corner | None:
    return node.membership.corner if node.membership.terms.votes_a_subnet else None


def _retell(node: Node, job: Job, frame: VerifiedFrame) -> list[Effect]:
    """Hand votes on to the next peer in a ring, now and then, by a private coin.

    Else an author that tells some peers one thing and others another is found out by nobody:
    each has a frame of that number and asks for no more.
    """
    for entry in frame.frame.entries:
        if type(entry) in _VOTES:
            break
    else:
        return []
    if sha256(node.coin + frame.hash)[0] % RETELL_ONE_IN:
        return []
    mates = job.mates(frame.frame.shard, node.membership.present())
    others = [peer for peer in mates if peer != frame.author]
    if not others:
        return []
    following = next((peer for peer in others if peer > node.me), others[0])
    return [Send((following,), Deliver(frame.sealed))]


HANDLERS: Table = {
    ev.FrameReceived: _frame,
}
