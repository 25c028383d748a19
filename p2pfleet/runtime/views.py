"""What a person sees of the core's state: plain dictionaries for JSON, no secrets in them."""

from __future__ import annotations

from typing import Any

from p2pfleet.core.machines.job import Ended, Job
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import JobId, Millis, PeerId, peer_text
from p2pfleet.core.model.job import FixedQuorum, StopRule
from p2pfleet.core.rules.custody import COPIES
from p2pfleet.core.rules.reputation import score, served
from p2pfleet.core.wire.names import PROTOCOL_VERSION
from p2pfleet.core.wire.versions import upgrade_sentence
from p2pfleet.ports import Ban, SandboxReport

MEANINGS = {
    "matched": "its answer was certified",
    "confirmed": "its answer was certified, and would have been without its vote",
    "audited": "the publisher ran the unit itself and got the same answer",
    "ringer": "the publisher knew the answer beforehand, and it was the same",
    "contradicted": "another answer was certified",
    "failed audit": "the publisher ran the unit itself and got another answer",
    "failed ringer": "the publisher knew the answer beforehand, and it was another",
    "false commitment": "it voted for an output that it had not committed to",
}


def job_view(node: Node, job: Job, now: Millis) -> dict[str, Any]:
    """One job: its units by state, replicas under a claim, who takes part."""
    return {
        **ended_view(job.ended("active", None, now)),
        "running": job.settlement.running(now),
        "reason": _job_reason(node, job),
        "custody": custody_view(node, job, now),
    }


def custody_view(node: Node, job: Job, now: Millis) -> dict[str, Any]:
    """Who keeps what the job needs, as this node sees it.

    ``blobs`` are model, table and packs, ``kept`` those of them that have all their ``copies``;
    ``outputs`` are those that are certified, ``outputs_kept`` those that so many hold. ``keepers``
    keep anything. ``recorded``: the job stands in its publisher's signed record. Where
    the table is unknown yet, ``blobs`` is 0.
    """
    found = node.kept(job, now)
    outputs, outputs_kept = node.kept_outputs(job, now)
    record = node.directory.records.get(job.manifest.publisher)
    return {
        "copies": COPIES,
        "blobs": len(found),
        "kept": sum(count >= COPIES for count in found.values()),
        "signed": sum(min(COPIES, count) for count in found.values()),
        "outputs": outputs,
        "outputs_kept": outputs_kept,
        "keepers": len(job.custody.custodians),
        "mine": len(job.custody.mine),
        "recorded": record is not None and any(row.job == job.id for row in record.record.jobs),
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
        **stop_view(job.manifest.stop),
        "replicas_max": job.manifest.stop.replicas_max,
        "seconds": round(job.lasted_ms / 1000, 3),
        "reason": job.reason,
        "failures": [{"unit": unit, "reason": reason} for unit, reason in job.failures],
        "custody": None,
    }


def _job_reason(node: Node, job: Job) -> str:
    """Why a job does not move, if it does not; one sentence."""
    if job.reason:
        return job.reason
    if job.publisher is None:
        return ""
    here = [peer for peer in node.membership.present() if peer in job.participants]
    needed = job.settlement.at_first
    if len(here) < needed:
        return (
            f"{len(here)} volunteers take part where a unit needs {needed} of them: "
            "the job waits for more"
        )
    return ""


def stop_view(stop: StopRule) -> dict[str, Any]:
    """When a unit of the job is certified: a quorum, or a confidence and the assumed faulty."""
    if isinstance(stop, FixedQuorum):
        return {"quorum": stop.quorum, "confidence": None, "assume_faulty": None}
    return {
        "quorum": None,
        "confidence": 1 - stop.error_ppb / 1_000_000_000,
        "assume_faulty": stop.faulty_ppm / 1_000_000,
    }


def record_view(standing: Standing, peer: PeerId) -> dict[str, Any]:
    """A peer's record over all classes of models, its score, and what is proved against it.

    ``vote`` says whether this node, as a publisher, counts its votes; ``checks`` (by class) is what
    it would be weighed by in a trust snapshot.
    """
    record = standing.record(peer)
    classes = sorted(name for name, other in standing.current if other == peer)
    return {
        "peer": peer_text(peer),
        "agreed": record.agreed,
        "contradicted": record.contradicted,
        "score": round(score(record), 4),
        "vote": served(record),
        "checks": {name: standing.record(peer, name).checks for name in classes},
        "fault": standing.proved.get(peer),
    }


def story_view(story: list[tuple[JobId, int, str, int]]) -> list[dict[str, Any]]:
    """Every event that moved a peer's record, in the order in which they happened."""
    return [
        {"job": job.hex(), "unit": unit, "event": kind, "meaning": MEANINGS.get(kind, kind)}
        for job, unit, kind, _ in story
    ]


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


def ban_view(ban: Ban) -> dict[str, Any]:
    """A peer or an address that is refused: why, since when, and until when."""
    return {
        "peer": None if ban.peer is None else peer_text(ban.peer),
        "address": ban.address or None,
        "reason": ban.reason,
        "since_ms": ban.since_ms,
        "until_ms": ban.since_ms + ban.lasts_ms,
        "times": ban.times,
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


def upgrade_reason(node: Node) -> str:
    """Why this p2pfleet should be upgraded: others speak only a newer protocol; empty if none."""
    ahead = [oldest for oldest in node.membership.foreign.values() if oldest > PROTOCOL_VERSION]
    return upgrade_sentence(max(ahead), len(ahead)) if ahead else ""


def idle_reason(node: Node) -> str:
    """Why the node computes nothing right now, in one sentence; empty if it does."""
    if node.paused:
        return "paused by the owner"
    if node.hindered:
        return f"paused: {node.hindered}"
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
