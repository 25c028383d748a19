"""What a person sees of the core's state: plain dictionaries for JSON, no secrets in them."""

from __future__ import annotations

from typing import Any

from p2pfleet.core.machines.job import Job
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Millis, PeerId, peer_text
from p2pfleet.core.rules.reputation import has_vote, score

FAILURES_SHOWN = 20


def job_view(node: Node, job: Job, now: Millis) -> dict[str, Any]:
    """One job: its units by state, replicas under a claim, who takes part."""
    settlement = job.settlement
    stop = job.manifest.stop
    others = [peer for peer in job.participants if peer not in (node.me, job.manifest.publisher)]
    return {
        "id": job.id.hex(),
        "name": job.manifest.name,
        "state": job.state,
        "own": job.own,
        "publisher": peer_text(job.manifest.publisher),
        "units": job.manifest.units,
        "open": settlement.count("open"),
        "certified": settlement.count("certified"),
        "settled": settlement.count("settled"),
        "contested": settlement.count("contested"),
        "failed": settlement.count("failed"),
        "running": settlement.running(now) if job.active else 0,
        "votes": sum(len(unit.votes) for unit in settlement.units.values()),
        "volunteers": len(others),
        "quorum": stop.quorum,
        "replicas_max": stop.replicas_max,
        "seconds": round((now - job.first_seen) / 1000, 3),
        "reason": _job_reason(node, job),
    }


def _job_reason(node: Node, job: Job) -> str:
    """Why a job does not move, if it does not; one sentence."""
    if job.reason:
        return job.reason
    if not job.active or job.publisher is None:
        return ""
    here = [peer for peer in node.membership.present() if peer in job.participants]
    needed = job.manifest.stop.quorum
    if len(here) < needed:
        return (
            f"{len(here)} volunteers take part where the quorum needs {needed}: "
            "the job waits for more"
        )
    return ""


def failures_view(job: Job) -> list[dict[str, Any]]:
    """The first failed units, each with its reason."""
    failed = sorted(
        number for number, unit in job.settlement.units.items() if unit.state == "failed"
    )
    return [
        {"unit": number, "reason": job.settlement.units[number].reason}
        for number in failed[:FAILURES_SHOWN]
    ]


def record_view(standing: Standing, peer: PeerId) -> dict[str, Any]:
    """A peer's record, its score, and whether it has a vote."""
    record = standing.record(peer)
    return {
        "peer": peer_text(peer),
        "agreed": record.agreed,
        "contradicted": record.contradicted,
        "score": round(score(record), 4),
        "vote": has_vote(record),
    }


def peer_view(node: Node, peer: PeerId, address: str) -> dict[str, Any]:
    """A connected peer: what it says of itself, and its record here."""
    record = node.membership.records.get(peer)
    view = record_view(node.standing, peer)
    return {
        "peer": view["peer"],
        "address": address,
        "roles": [] if record is None else list(record.roles),
        "slots": 0 if record is None else record.slots,
        "software": "" if record is None else record.software,
        "agreed": view["agreed"],
        "contradicted": view["contradicted"],
        "score": view["score"],
    }


def idle_reason(node: Node) -> str:
    """Why the node computes nothing right now, in one sentence; empty if it does."""
    if node.paused:
        return "paused by the owner"
    if node.slots == 0:
        return "this node does not run units"
    if not node.membership.present():
        return "no peer is connected yet"
    active = [job for job in node.jobs.values() if job.active and job.volunteer is not None]
    if not active:
        return "there is no job on the network"
    if not any(job.volunteer.held for job in active if job.volunteer is not None):
        return "no unit of the open jobs needs this node"
    return ""


def executed(node: Node) -> int:
    """Units run since the node started, over the jobs that it still knows."""
    return sum(job.volunteer.executed for job in node.jobs.values() if job.volunteer is not None)
