"""What a person sees of the core's state: plain dictionaries for JSON, no secrets in them."""

from __future__ import annotations

from typing import Any

from p2pfleet.core.machines.job import Ended, Job
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Millis, PeerId, peer_text
from p2pfleet.core.rules.reputation import score, served
from p2pfleet.ports import SandboxReport


def job_view(node: Node, job: Job, now: Millis) -> dict[str, Any]:
    """One job: its units by state, replicas under a claim, who takes part."""
    return {
        **ended_view(job.ended("active", None, now)),
        "running": job.settlement.running(now),
        "reason": _job_reason(node, job),
    }


def ended_view(job: Ended) -> dict[str, Any]:
    """The same of a job that needs no more work."""
    units = job.manifest.units
    return {
        "id": job.id.hex(),
        "name": job.manifest.name,
        "state": job.state,
        "own": job.own,
        "publisher": peer_text(job.manifest.publisher),
        "units": units,
        "open": units - sum(job.counts.values()),
        "certified": job.counts.get("certified", 0),
        "settled": job.counts.get("settled", 0),
        "contested": job.counts.get("contested", 0),
        "failed": job.counts.get("failed", 0),
        "running": 0,
        "votes": job.votes,
        "volunteers": job.volunteers,
        "quorum": job.manifest.stop.quorum,
        "replicas_max": job.manifest.stop.replicas_max,
        "seconds": round(job.lasted_ms / 1000, 3),
        "reason": job.reason,
        "failures": [{"unit": unit, "reason": reason} for unit, reason in job.failures],
    }


def _job_reason(node: Node, job: Job) -> str:
    """Why a job does not move, if it does not; one sentence."""
    if job.reason:
        return job.reason
    if job.publisher is None:
        return ""
    here = [peer for peer in node.membership.present() if peer in job.participants]
    needed = job.manifest.stop.quorum
    if len(here) < needed:
        return (
            f"{len(here)} volunteers take part where the quorum needs {needed}: "
            "the job waits for more"
        )
    return ""


def record_view(standing: Standing, peer: PeerId) -> dict[str, Any]:
    """A peer's record, its score, and whether it has a vote."""
    record = standing.record(peer)
    return {
        "peer": peer_text(peer),
        "agreed": record.agreed,
        "contradicted": record.contradicted,
        "score": round(score(record), 4),
        "vote": served(record),
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
        "grade": "" if record is None else record.capability.grade,
        "numeric_class": "" if record is None else record.capability.numeric_class.hex(),
        "onnxruntime": "" if record is None else record.capability.onnxruntime,
        "agreed": view["agreed"],
        "contradicted": view["contradicted"],
        "score": view["score"],
    }


def sandbox_view(report: SandboxReport) -> dict[str, Any]:
    """What the sandbox showed of itself at start."""
    return {
        "grade": report.capability.grade,
        "reason": report.reason,
        "advice": report.advice,
        "numeric_class": report.capability.numeric_class.hex(),
        "onnxruntime": report.capability.onnxruntime,
        "properties": [
            {"name": shown.name, "held": shown.held, "detail": shown.detail}
            for shown in report.properties
        ],
    }


def idle_reason(node: Node) -> str:
    """Why the node computes nothing right now, in one sentence; empty if it does."""
    if node.paused:
        return "paused by the owner"
    if node.slots == 0:
        return "this node does not run units"
    refused = node.consent.strangers()
    if refused and not any(job.volunteer is not None for job in node.jobs.values()):
        return refused
    if not node.membership.present():
        return "no peer is connected yet"
    active = [job for job in node.jobs.values() if job.volunteer is not None]
    if not active:
        return "there is no job on the network"
    if not any(job.volunteer.held for job in active if job.volunteer is not None):
        return "no unit of the open jobs needs this node"
    return ""
