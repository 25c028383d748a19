"""Custody: what a job needs outlives whoever leaves, its publisher among them.

When a machine breaks for good, every pack, model and certified output that has been under custody
for a while must be left on another one, as long as no more than ``DEATHS`` of its holders
broke at about the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, JobId, cid_sha256
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.sim.checkers.checker import Checker
from p2pfleet.sim.compute import packs_of

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine

DEATHS = 2
RIPE_MS = 90_000
AT_ONCE_MS = 60_000


class Custody(Checker):
    """Looks at every death; ``since`` is when each blob was first there to be kept."""

    name = "custody"

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self.since: dict[tuple[JobId, Digest], int] = {}
        self.deaths: list[tuple[int, Machine]] = []

    looks_at = (ef.SaveJob, ef.SaveUnits)

    def synced(self, machine: Machine, write: ef.Write) -> None:
        now = self.cluster.kernel.now
        if isinstance(write, ef.SaveJob):
            for digest in self._inputs(write.job):
                self.since.setdefault((write.job, digest), now)
        elif isinstance(write, ef.SaveUnits) and machine.honest:
            for digest in _certified(write.rows):
                self.since.setdefault((write.job, digest), now)

    def _inputs(self, job: JobId) -> Iterator[Digest]:
        manifest = self.cluster.published.get(job)
        if manifest is not None:
            yield Digest(cid_sha256(manifest.model))
            yield from packs_of(manifest.salt, manifest.units, manifest.shards)

    def died(self, machine: Machine) -> None:
        now = self.cluster.kernel.now
        self.deaths.append((now, machine))
        lately = [dead for at, dead in self.deaths if now - at <= AT_ONCE_MS]
        for (job, digest), since in self.since.items():
            publisher = self.cluster.publisher(job)
            if now - since < RIPE_MS or not publisher.honest or self._over(publisher, job):
                continue
            if digest in publisher.disk.outputs.get(job, {}):
                continue
            there = [m for m in self.cluster.machines if m is not publisher]
            if any(not m.gone and m.disk.has_blob(job, digest) for m in there):
                continue
            had = [m for m in lately if m.disk.has_blob(job, digest)]
            if len(had) <= DEATHS:
                text = f"held the last copy of {digest.hex()[:12]}, {len(had)} died with it"
                self.violated(machine.name, text, job)

    @staticmethod
    def _over(publisher: Machine, job: JobId) -> bool:
        stored = publisher.disk.jobs.get(job)
        return stored is None or stored.state != "active"


def _certified(rows: Sequence[ef.UnitRow]) -> Iterator[Digest]:
    for row in rows:
        if row.state == "certified":
            try:
                yield decode(row.detail, Certificate, MAX_FRAME_BYTES).digest
            except Malformed:
                continue
