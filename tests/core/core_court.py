"""A publisher that judges its job on the bench, and what its machine answers it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from core_bench import Bench, moves, publishing
from core_samples import GOOD, OUTPUT_BYTES, Poll

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire import messages as ms

TWO_NEWCOMERS = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=8)
ALL = Trust(audit_ppm=1_000_000)
SECRET = bytes(range(32))
ASKED = (ef.OpenJob, ef.Execute, ef.Fetch, ef.Compare)

Right = Callable[[int], Digest]
Verdict = Callable[[Digest, Digest], str]


def good(unit: int) -> Digest:
    return GOOD


def different(candidate: Digest, own: Digest) -> str:
    return "different"


def attend(
    bench: Bench, told: list[Any], right: Right = good, verdict: Verdict = different
) -> list[Any]:
    """Answer whatever the publisher asks of its machine, until it asks for nothing more."""
    found = list(told)
    waiting = deque(told)
    while True:
        if not waiting:
            waiting.extend(bench.wait(60))  # what it wrote is signed
            found += waiting
            if not any(isinstance(each, ASKED) for each in waiting):
                return found
        event: ev.Event
        match waiting.popleft():
            case ef.OpenJob(job=job):
                event = ev.JobOpened(job)
            case ef.Execute(job=job, unit=unit):
                event = ev.UnitExecuted(job, unit, right(unit), OUTPUT_BYTES, 100)
            case ef.Fetch(job=job, ref=ref):
                event = ev.BlobArrived(job, ref)
            case ef.Compare(job=job, unit=unit, candidate=ref, own=own):
                candidate = Digest(ref.sha256)
                event = ev.Compared(job, unit, candidate, own, verdict(candidate, own))
            case _:
                continue
        more = bench.tell(event)
        found += more
        waiting.extend(more)


def court(stop: Confidence | None = TWO_NEWCOMERS, **how: Any) -> tuple[Bench, JobId, Poll]:
    """A publisher of a job that asks for two newcomers' votes a unit."""
    return publishing(votes=(), stop=stop, **how)


def with_ringers(known: dict[int, Digest], **how: Any) -> tuple[Bench, JobId, Poll]:
    """The same, with units whose answers it knows."""
    ringers = tuple(ms.Ringer(unit, known[unit]) for unit in sorted(known))
    hidden = Digest(ringers_hash(ms.OpenRingers(SECRET, ringers)))
    bench, job, poll = court(trust=Trust(ringers=hidden), **how)
    bench.tell(ev.RingersKnown(job, SECRET, ringers))
    return bench, job, poll


def kinds(effects: list[Any]) -> dict[tuple[int, PeerId], str]:
    """What the last move of each (unit, peer) says."""
    return {(move.unit, move.peer): move.kind for move in moves(effects)}
