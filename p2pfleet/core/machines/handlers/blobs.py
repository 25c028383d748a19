"""Blobs of jobs: model and table opened or not, what is fetched, what keepers can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Effect
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.handlers.jobs import end
from p2pfleet.core.model.ids import Digest, Millis

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def _opened(node: Node, event: ev.JobOpened, now: Millis) -> list[Effect]:
    job_id = event.job
    job = node.jobs.get(job_id)
    if job is not None and job.publisher is not None:
        return job.publisher.judge.job_opened(job.settlement) + node.advance(job, now)
    if job is not None:
        node.openings.end(job.manifest.publisher, job_id)
    if job is None or job.volunteer is None:
        return []
    effects = job.volunteer.opened_job(job.settlement, now, node.sources(job))
    if job.manifest.shards > 1:
        job.look(now)
        node.attend_at = now
    effects.extend(job.introduce(node.membership.present(), now))
    effects.extend(node.advance(job, now))
    node.openings.forgive(job.manifest.publisher)
    for other in list(node.jobs.values()):  # they may have waited for this one
        if other.manifest.publisher == job.manifest.publisher and other.waits_to_open:
            effects.extend(node.advance(other, now))
    return effects


def _unavailable(node: Node, event: ev.JobUnavailable, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is not None and job.publisher is not None:
        job.publisher.judge.unable_to(job.settlement, [])
        return node.advance(job, now)
    if job is not None:
        node.openings.end(job.manifest.publisher, job.id)
        node.openings.fail(job.manifest.publisher, now)
    if job is None or job.volunteer is None:
        return []
    job.reason = event.reason
    if event.final:
        return end(node, job, "refused", None, now)
    job.volunteer.not_opened(now)
    return []


def _inputs_known(node: Node, event: ev.InputsKnown, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None:
        return []
    job.custody.inputs_known(job.manifest, event.packs, now)
    return node.advance(job, now)


def _ringers_known(node: Node, event: ev.RingersKnown, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is not None and job.publisher is not None:
        job.publisher.judge.know(event.secret, event.ringers)
    return []


def _challenge_answered(node: Node, event: ev.ChallengeAnswered, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is not None:
        job.custody.challenged(event.digest, event.peer, event.verdict, now)
    return []


def _blob_arrived(node: Node, event: ev.BlobArrived, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None:
        return []
    job.custody.fetched(Digest(event.ref.sha256))
    for number in () if job.publisher is None else job.publisher.arrived(event.ref):
        job.settlement.touched[number] = True
    return node.advance(job, now)


def _blob_failed(node: Node, event: ev.BlobFailed, now: Millis) -> list[Effect]:
    job = node.jobs.get(event.job)
    if job is None:
        return []
    job.write(job.custody.not_fetched(Digest(event.ref.sha256), now), now)
    if job.publisher is not None:
        job.publisher.failed(event.ref, now)
    return []


HANDLERS: Table = {
    ev.BlobArrived: _blob_arrived,
    ev.BlobFailed: _blob_failed,
    ev.ChallengeAnswered: _challenge_answered,
    ev.InputsKnown: _inputs_known,
    ev.JobOpened: _opened,
    ev.JobUnavailable: _unavailable,
    ev.RingersKnown: _ringers_known,
}
