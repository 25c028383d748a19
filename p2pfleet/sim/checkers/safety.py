"""Safety: what is settled is right, stays, and has a certificate that anybody can check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, FrameHash, JobId
from p2pfleet.core.rules.certificate import check_certificate
from p2pfleet.core.rules.reputation import CAUGHT
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate, Manifest
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from p2pfleet.sim.checkers.checker import Checker
from p2pfleet.sim.compute import output_of, right_digest
from p2pfleet.sim.signatures import unseal

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine


class Safety(Checker):
    """Watches the ledgers of publishers, row by row as they become durable.

    ``wrong`` counts the units settled with what no honest machine gets, which the scenario may
    allow; that a unit is settled twice is never allowed.
    """

    name = "safety"

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self.settled: dict[tuple[JobId, int], ef.UnitRow] = {}
        self.digests: dict[tuple[JobId, int], Digest] = {}
        self.wrong: dict[tuple[JobId, int], bool] = {}

    looks_at = (ef.SaveUnits,)

    def synced(self, machine: Machine, write: ef.Write) -> None:
        assert isinstance(write, ef.SaveUnits)
        if machine.honest and machine.disk.jobs[write.job].own:
            for row in write.rows:
                self._row(machine, write.job, row)

    def _row(self, machine: Machine, job: JobId, row: ef.UnitRow) -> None:
        key = (job, row.unit)
        earlier = self.settled.get(key)
        if earlier is not None:
            if earlier != row:
                text = f"was settled and then {row.state} with something else"
                self.violated(machine.name, text, job, row.unit)
            return
        if row.state == "failed" and not row.detail:
            self.violated(machine.name, "failed without a reason", job, row.unit)
        if row.state != "settled":
            return
        self.settled[key] = row
        try:
            certificate = decode(row.detail, Certificate, MAX_FRAME_BYTES)
        except Malformed as error:
            self.violated(machine.name, f"settled without a certificate: {error}", job, row.unit)
            return
        if certificate.unit != row.unit:
            text = f"settled under the certificate of unit {certificate.unit}"
            self.violated(machine.name, text, job, row.unit)
        self.digests[key] = certificate.digest
        if certificate.digest not in machine.disk.outputs.get(job, {}):
            self.violated(machine.name, "settled without its output", job, row.unit)
        if not self._right(job, row.unit, certificate.digest):
            self.wrong[key] = True
            if len(self.wrong) == self.cluster.scenario.expect.wrong_settled_max + 1:
                self.violated(machine.name, "a wrong result was settled", job, row.unit)

    def _right(self, job: JobId, unit: int, digest: Digest) -> bool:
        divergent = self.cluster.world.divergent[job]
        salt = self.cluster.world.salts[job]
        classes = sorted({kind.numeric_class for kind in self.cluster.scenario.machines})
        return any(right_digest(salt, unit, each, divergent) == digest for each in classes)

    def _records(self) -> None:
        """No honest node has lost anything."""
        for machine in self.cluster.machines:
            if machine.node is None or not machine.honest:
                continue
            for job, stored in machine.disk.jobs.items():
                for (unit, peer), kind in stored.moves.items():
                    other = self.cluster.world.by_peer[peer]
                    # Whoever lets itself be deceived in a unit wrongs those who were right.
                    if other.honest and kind in CAUGHT and (job, unit) not in self.wrong:
                        text = f"holds an honest node, {other.name}, for wrong: {kind}"
                        self.violated(machine.name, text, job, unit)
            for peer in sorted(machine.node.standing.proved):
                other = self.cluster.world.by_peer[peer]
                if other.honest:
                    self.violated(machine.name, f"has a proof against an honest one, {other.name}")

    def at_end(self) -> None:
        self._records()
        for job, manifest in self.cluster.published.items():
            if self.cluster.publisher(job).honest:
                self._certificates(job, manifest)

    def _certificates(self, job: JobId, manifest: Manifest) -> None:
        """Every certificate holds, by the frames that its publisher kept."""
        machine = self.cluster.publisher(job)
        frames: dict[FrameHash, VerifiedFrame] = {}
        snapshots: dict[Digest, VerifiedSnapshot] = {}
        stored = machine.disk.jobs.get(job)
        for sealed in () if stored is None else stored.snapshots.values():
            known = unseal(sealed)
            assert isinstance(known, VerifiedSnapshot)
            snapshots[known.hash] = known
        for key, sealed in machine.disk.frames.items():
            verified = unseal(sealed)
            if key[0] == job and isinstance(verified, VerifiedFrame):
                frames[verified.hash] = verified
        units = machine.disk.jobs[job].units if job in machine.disk.jobs else {}
        for number, row in sorted(units.items()):
            if row.state == "settled":
                certificate = decode(row.detail, Certificate, MAX_FRAME_BYTES)
                output = output_of(certificate.digest)
                fault = check_certificate(manifest, job, certificate, frames, snapshots, output)
                if fault is not None:
                    text = f"its certificate does not hold: {fault}"
                    self.violated(machine.name, text, job, number)
