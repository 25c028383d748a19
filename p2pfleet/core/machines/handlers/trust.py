"""Trust: snapshots that weigh votes, proofs of a fault, receipts for work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect, Report, SaveProof, SaveSnapshot, Send, Sign
from p2pfleet.core.errors import Accept, Ignore, Proven, Reject
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.rounds import counts, rows
from p2pfleet.core.model.ids import Millis
from p2pfleet.core.model.job import Confidence
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules.admission import judge_snapshot
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire.messages import Deliver, Proof, Snapshot
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node

SNAPSHOT_EVERY_MS = 2_000
PROOFS_KEPT = 256
PROOFS_MAX = 65_536
STRANGERS_PROVED_MAX = 4_096
STRANGERS_PROOF_BYTES = 8 * 1024


def sign_snapshot(node: Node, model_class: str, now: Millis) -> list[Effect]:
    """Sign what this node knows of its volunteers, unless nothing has changed."""
    known = node.snapshots.get(model_class)
    records = node.standing.snapshot(model_class)
    node.snapshot_at.pop(model_class, None)
    if records == (() if known is None else known.snapshot.records):
        return []
    wall = node.wall_ms(now)
    number = wall if known is None else max(wall, known.snapshot.number + 1)
    return [Sign(Snapshot(node.network, node.me, model_class, number, wall, records))]


def snapshot_due(node: Node, job: Job, now: Millis) -> list[Effect]:
    """While a job runs that weighs votes, new records come into force every few seconds."""
    name = job.manifest.trust.model_class
    at = node.snapshot_at.get(name)
    if at is not None and at <= now:
        return sign_snapshot(node, name, now)
    if at is None and isinstance(job.manifest.stop, Confidence) and job.settlement.begun:
        node.snapshot_at[name] = Millis(now + SNAPSHOT_EVERY_MS)
    return []


def _snapshot(node: Node, event: ev.SnapshotReceived, now: Millis) -> list[Effect]:
    """A trust snapshot, this node's own or that of a job's publisher."""
    source, snapshot = event.source, event.snapshot
    own = source == node.me
    verdict = judge_snapshot(snapshot.snapshot, node.membership.terms)
    if not isinstance(verdict, Accept):
        return [Report(source, verdict)]
    if own:
        node.snapshots[snapshot.snapshot.model_class] = snapshot
    effects: list[Effect] = []
    for job in node.jobs.values():
        if isinstance(job.manifest.stop, Confidence):
            effects.extend(weigh(node, job, snapshot, now))
    return effects


def weigh(node: Node, job: Job, snapshot: VerifiedSnapshot, now: Millis) -> list[Effect]:
    if not job.weigh(snapshot):
        return []
    effects: list[Effect] = [SaveSnapshot(job.id, snapshot.sealed)]
    others = job.others(node.membership.present())
    if job.publisher is not None and others:
        effects.append(Send(others, Deliver(snapshot.sealed)))
    outcome = job.settlement.weighed(now, counts(job, node.standing))
    return [*effects, *rows(job, outcome), *node.advance(job, now)]


def proved(node: Node, first: VerifiedFrame, second: VerifiedFrame) -> bool:
    """Take a proof in; whether it says something new of its author."""
    why = fault(first, second)
    if not why or not node.standing.prove(first.author, why):
        return False
    node.proofs[first.author] = Proof(first.sealed, second.sealed)
    if len(node.proofs) > PROOFS_KEPT:
        del node.proofs[next(iter(node.proofs))]
    return True


def _costs_too_much(node: Node, first: VerifiedFrame, second: VerifiedFrame) -> bool:
    """Whether a proof would fill the store for nothing: against keys made to be proved guilty,
    that nobody here heard of and whose votes count nowhere."""
    author = first.author
    if author in node.membership.records or any(
        author in log.entries for job in node.jobs.values() for log in job.logs.values()
    ):
        return False
    size = len(first.sealed.body) + len(second.sealed.body)
    return size > STRANGERS_PROOF_BYTES or len(node.standing.proved) >= STRANGERS_PROVED_MAX


def _proof(node: Node, event: ev.ProofReceived, now: Millis) -> list[Effect]:
    """Two frames that prove a fault cost their author everything, here and elsewhere."""
    first, second = event.first, event.second
    own = event.source == node.me
    if not own and not fits(node.membership.terms, first.author):
        return [Report(event.source, Reject("the author's key does not fit the network"))]
    if len(node.standing.proved) >= PROOFS_MAX:
        return []
    if first.frame.network != node.network or not fault(first, second):
        return [] if own else [Report(event.source, Reject("the proof proves nothing"))]
    if not own and _costs_too_much(node, first, second):
        return [Report(event.source, Ignore("a proof against somebody unknown here"))]
    if not proved(node, first, second):
        return []
    author = first.author
    effects: list[Effect] = [SaveProof(author, first.sealed, second.sealed)]
    if not own:
        effects.append(Report(event.source, Accept()))
    if author != node.me:
        # The frames may have come by others: it is their author who is parted from.
        effects.append(Report(author, Proven(f"a proof against it: {fault(first, second)}")))
    others = tuple(p for p in node.membership.present() if p not in (event.source, author))
    if others:
        effects.append(Send(others, Proof(first.sealed, second.sealed)))
    for job in list(node.jobs.values()):
        numbers = sorted(job.settlement.answered.get(author, {}))
        outcome = job.settlement.again(numbers, now, counts(job, node.standing))
        effects.extend(rows(job, outcome))
        effects.extend(node.advance(job, now))
    return effects


def _receipt(node: Node, event: ev.ReceiptReceived, now: Millis) -> list[Effect]:
    """A receipt: signed here for somebody's work, or for the work of this node."""
    body = event.receipt.receipt
    if event.source == node.me:
        return node.ledger.issued(event.receipt, node.membership.here(body.peer))
    known = node.jobs.get(body.job) or node.ended.get(body.job)
    manifest = None if known is None else known.manifest
    terms = node.membership.terms
    return node.ledger.received(event.source, event.receipt, node.me, manifest, terms)


HANDLERS: Table = {
    ev.ProofReceived: _proof,
    ev.ReceiptReceived: _receipt,
    ev.SnapshotReceived: _snapshot,
}
