"""Jobs from their manifest to their end: taken in, recalled, wanted again, closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import (
    CloseJob,
    Effect,
    ForgetJob,
    Gossip,
    Report,
    SaveJob,
    SaveRecords,
    Send,
    ShutJob,
    Sign,
)
from p2pfleet.core.errors import Accept, Ignore, Reject
from p2pfleet.core.machines.custody import Custody
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.handlers.consent import consents
from p2pfleet.core.machines.handlers.trust import sign_snapshot, weigh
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.judge import Judge
from p2pfleet.core.machines.publisher import REACH_MS, Publisher
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.shards import Shards
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.rules.admission import judge_closure, judge_manifest
from p2pfleet.core.wire.messages import Closure, Deliver, Sealed
from p2pfleet.core.wire.verified import VerifiedManifest

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node

REFUSED_MAX = 1_024


def new_job(node: Node, sealed: VerifiedManifest, own: bool, now: Millis) -> Job:
    """Begin to take part in a job, as its publisher or as one of its volunteers."""
    job = Job(
        id=sealed.job,
        sealed=sealed,
        own=own,
        settlement=Settlement.create(sealed.job, sealed.manifest, now, judge=own),
        shards=Shards.create(node.me, sealed.manifest, now),
        custody=Custody.create(node.me, node.coin, own and sealed.manifest.shards > 1),
        summary_at=now,
        summary_turn=node.turn,  # not all nodes ask the same one
        first_seen=now,
    )
    if own:
        many = sealed.manifest.shards > 1  # not everybody will be connected with this node
        job.publisher = Publisher(Judge(node.me, node.coin), REACH_MS if many else 0)
        node.record_at = now if many else node.record_at
        node.standing.open(job.id, sealed.manifest.trust.model_class)
        node.ledger.begin(job.id, sealed.manifest)
    else:
        consents(node, job)
    node.jobs[sealed.job] = job
    return job


def _manifest(node: Node, event: ev.ManifestReceived, now: Millis) -> list[Effect]:
    source, sealed = event.source, event.manifest
    own = source == node.me
    recalled = sealed.manifest.publisher == node.me and not own
    if recalled and not node.directory.wants(sealed.job):
        # Its store has every job of its own; what others bring would be taken for a stranger's.
        return [Report(source, Ignore("a job of this node's own"))]
    if node.book.knows(sealed.job):
        return []
    verdict = judge_manifest(sealed.manifest, node.membership.terms, node.wall_ms(now))
    if not isinstance(verdict, Accept):
        return [] if own else [Report(source, verdict)]
    if not own and node.refused.get(sealed.manifest.publisher, 0) > now:
        return [Report(source, Ignore("its publisher is refused here"))]
    if not own and node.book.crowded(sealed.manifest.publisher):
        return [Report(source, Ignore("too many jobs are known already"))]
    if recalled:
        return _recall(node, source, sealed, now)
    job = new_job(node, sealed, own, now)
    if own:
        node.directory.changed(now)
    effects: list[Effect] = [SaveJob(job.id, sealed.sealed, own)]
    if own:
        effects.append(Gossip(sealed.sealed))
        snapshot = node.snapshots.get(sealed.manifest.trust.model_class)
        if snapshot is not None and snapshot.hash == sealed.manifest.trust.snapshot:
            effects.extend(weigh(node, job, snapshot, now))
        node.announce_later(now)
        here = node.membership.present()
        if here:
            effects.append(Send(tuple(here), Deliver(sealed.sealed)))
            effects.extend(job.introduce(here, now))
    else:
        effects.append(Report(source, Accept()))
        if node.membership.here(source):
            job.join(source)
    return effects + node.advance(job, now)


def _recall(node: Node, source: PeerId, sealed: VerifiedManifest, now: Millis) -> list[Effect]:
    """Take a job of this node's own up again that only others remember."""
    job = new_job(node, sealed, own=True, now=now)
    job.settlement.since = Millis(now - max(0, node.wall_ms(now) - sealed.manifest.issued_ms))
    node.directory.changed(now)
    if node.membership.here(source):
        job.join(source)
    effects: list[Effect] = [SaveJob(job.id, sealed.sealed, True), Report(source, Accept())]
    effects.extend(job.introduce(node.membership.present(), now))
    return effects + node.advance(job, now)


def _refused(node: Node, event: ev.PeerRefused, now: Millis) -> list[Effect]:
    """Whom this node refuses it does nothing for: jobs of such a publisher end here."""
    peer, for_ms = event.peer, event.for_ms
    node.refused = {one: until for one, until in node.refused.items() if until > now}
    if for_ms <= 0 or peer == node.me:
        node.refused.pop(peer, None)
        return []
    while len(node.refused) >= REFUSED_MAX:
        del node.refused[next(iter(node.refused))]
    node.refused[peer] = Millis(now + for_ms)
    theirs = [job for job in node.jobs.values() if job.manifest.publisher == peer]
    effects: list[Effect] = []
    for job in theirs:
        effects.extend(end(node, job, "refused", None, now))
    return effects


def _wanted(node: Node, event: ev.WantedReceived, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None or job.volunteer is None:
        return []
    if event.peer != job.manifest.publisher:
        return [Report(event.peer, Reject("only its publisher says what a job wants"))]
    wanted = job.recalled(event.units, now)
    job.settlement.ask(wanted)
    job.volunteer.wanted(job.settlement, wanted)
    return node.advance(job, now)


def _cancel(node: Node, event: ev.CancelRequested, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None or job.publisher is None:
        return []
    return close(node, job, completed=False, now=now)


def close(node: Node, job: Job, completed: bool, now: Millis) -> list[Effect]:
    """Sign the closure of an own job, once."""
    assert job.publisher is not None
    if job.publisher.closing:
        return []
    job.publisher.closing = True
    return [Sign(Closure(node.network, job.id, node.me, completed, node.wall_ms(now)))]


def _closure(node: Node, event: ev.ClosureReceived, now: Millis) -> list[Effect]:
    closure = event.closure.closure
    own = event.source == node.me
    job = node.jobs.get(closure.job)
    if job is None:
        return []
    verdict = judge_closure(closure, job.manifest)
    if not isinstance(verdict, Accept):
        return [Report(event.source, verdict)]
    state = "completed" if closure.completed else "cancelled"
    effects = end(node, job, state, event.closure.sealed, now)
    if own:
        effects.append(Gossip(event.closure.sealed))
        here = node.membership.present()
        if here:
            effects.append(Send(tuple(here), Deliver(event.closure.sealed)))
    else:
        effects.append(Report(event.source, Accept()))
    return effects


def end(node: Node, job: Job, state: str, closure: Sealed | None, now: Millis) -> list[Effect]:
    """Stop work on a job; a stranger's is forgotten but for a tombstone."""
    node.ledger.forget(node.book.end(job.ended(state, closure, now)))
    node.repair.forget_job(job.id)
    node.openings.end(job.manifest.publisher, job.id)
    effects: list[Effect] = []
    if job.publisher is not None:
        judge, kinds = job.publisher.judge, node.standing.moves.get(job.id, {})
        wall_ms = node.wall_ms(now)
        effects.extend(node.ledger.end(job.settlement, judge, kinds, now, wall_ms))
    effects.append(CloseJob(job.id, state, closure))
    if job.own:
        node.directory.changed(now)
        totals = node.standing.end(job.id)
        # No job of the class may be left whose round would see to it.
        node.snapshot_at.pop(job.manifest.trust.model_class, None)
        if totals:
            effects.append(SaveRecords(tuple(totals)))
            effects.extend(sign_snapshot(node, job.manifest.trust.model_class, now))
    else:
        effects.append(ForgetJob(job.id))
    return [*effects, ShutJob(job.id, keep=job.own)]


HANDLERS: Table = {
    ev.CancelRequested: _cancel,
    ev.ClosureReceived: _closure,
    ev.ManifestReceived: _manifest,
    ev.PeerRefused: _refused,
    ev.WantedReceived: _wanted,
}
