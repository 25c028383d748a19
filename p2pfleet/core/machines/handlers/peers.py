"""Peers that come and go, say hello, and ask what they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect, Leave, Report, Send
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.leases import GRACE_MS
from p2pfleet.core.machines.skew import FRESH_MS
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.rules.admission import judge_record
from p2pfleet.core.wire.messages import Deliver
from p2pfleet.core.wire.versions import goodbye

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node

PROOFS_TOLD = 8


def _connected(node: Node, event: ev.PeerConnected, now: Millis) -> list[Effect]:
    """Somebody is met: with a record that is fresh, so that it tells this machine's clock."""
    hello: list[Effect] = [*node.membership.connect(event.peer, event.address)]
    own = node.membership.own
    if own is None or node.wall_ms(now) - own.record.issued_ms <= FRESH_MS:
        return hello
    return [node.sign_record(now)]


def _disconnected(node: Node, event: ev.PeerDisconnected, now: Millis) -> list[Effect]:
    gone(node, event.peer, now)
    return []


def gone(node: Node, peer: PeerId, now: Millis) -> None:
    """A peer is not here any more; what it holds is waited for a while."""
    node.membership.disconnect(peer)
    node.repair.forget(peer)
    node.roster.forget(peer)
    for known in node.jobs.values():
        known.left(peer)
        known.settlement.leases.vanished(peer, Millis(now + GRACE_MS))


def _hello(node: Node, event: ev.HelloReceived, now: Millis) -> list[Effect]:
    record = event.record.record
    if record.network == node.network and event.peer in node.membership.connected:
        node.skew.take(event.peer, record.issued_ms, node.wall_ms(now))
    verdict = judge_record(record, node.membership.terms, node.wall_ms(now))
    if not isinstance(verdict, Accept):
        return [Report(event.peer, verdict)]
    for job in node.jobs.values():
        job.hear_of(event.record, event.peer, now, node.wall_ms(now))
    if not node.membership.greet(event.peer, event.record.record):
        return []
    node.openings.forgive(event.peer)
    for known in node.jobs.values():
        known.settlement.leases.back(event.peer)
    effects: list[Effect] = [*node.consent.tell((event.peer,))]
    if node.roster.closed:
        let_in = node.roster.named.get(event.peer)
        if let_in is not None:  # it shows this wherever it goes from now on
            effects.append(Send((event.peer,), Deliver(let_in.sealed)))
        effects.append(Send((event.peer,), node.roster.summary()))
    for peer in list(node.proofs)[-PROOFS_TOLD:]:
        effects.append(Send((event.peer,), node.proofs[peer]))
    effects.append(Send((event.peer,), node.repair.known_jobs(node.book)))
    effects.extend(node.ledger.greet(event.peer, now))
    effects.extend(node.directory.greet(event.peer))
    for job in node.jobs.values():
        if job.joined:
            effects.extend(job.introduce((event.peer,), now))
        if job.publisher is not None:
            job.publisher.peer_came(job.has_of(event.peer))
        elif job.volunteer is not None and job.volunteer.open_at is not None:
            job.volunteer.open_at = now
        effects.extend(node.advance(job, now))
    return effects


def _record(node: Node, event: ev.RecordReceived, now: Millis) -> list[Effect]:
    """Somebody hands on what another says of itself: a publisher that is there, says so."""
    verdict = judge_record(event.record.record, node.membership.terms, node.wall_ms(now))
    if not isinstance(verdict, Accept):
        return [Report(event.peer, verdict)]
    if node.membership.here(event.peer):
        for job in node.jobs.values():
            job.hear_of(event.record, event.peer, now, node.wall_ms(now))
    return []


def _record_signed(node: Node, event: ev.RecordSigned, now: Millis) -> list[Effect]:
    node.membership.own = event.record
    return [send for peer in node.membership.connected for send in node.membership.hello(peer)]


def _versions_differ(node: Node, event: ev.VersionsDiffer, now: Millis) -> list[Effect]:
    node.membership.differ(event.peer, event.oldest)
    bye = [] if event.told else [Send((event.peer,), goodbye(node.software))]
    return [*bye, Leave(event.peer)]


def _jobs_summary(node: Node, event: ev.JobsSummaryReceived, now: Millis) -> list[Effect]:
    if not node.membership.here(event.peer):
        return []
    return node.repair.answer_jobs(node.book, event.peer, event.open, event.closed, now)


def _frames_summary(node: Node, event: ev.FramesSummaryReceived, now: Millis) -> list[Effect]:
    if not node.membership.here(event.peer):
        return []
    return node.repair.answer_frames(
        node.book,
        event.peer,
        event.job,
        event.positions,
        event.snapshot,
        now,
        event.shard,
        event.serving,
        None if event.whole else node.me,
    )


def _shards_summary(node: Node, event: ev.ShardsSummaryReceived, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None or not node.membership.here(event.peer):
        return []
    job.shards.hear(event.rows, now)
    return job.tell_shards(event.peer, now)


HANDLERS: Table = {
    ev.FramesSummaryReceived: _frames_summary,
    ev.HelloReceived: _hello,
    ev.JobsSummaryReceived: _jobs_summary,
    ev.PeerConnected: _connected,
    ev.PeerDisconnected: _disconnected,
    ev.RecordReceived: _record,
    ev.RecordSigned: _record_signed,
    ev.ShardsSummaryReceived: _shards_summary,
    ev.VersionsDiffer: _versions_differ,
}
