"""Credit is conserved: what publishers sign for is what their certificates say was earned.

The expected earners of a unit are worked out anew from the certificate, the frames and the moves
that are durable at the moment when the unit is credited; nothing of the ledger's own is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.model.ids import FrameHash, JobId, PeerId
from p2pfleet.core.rules.credit import BONUS_MAX_MILLI, MILLI, base
from p2pfleet.core.rules.reputation import CAUGHT
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate, Receipt, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedReceipt
from p2pfleet.sim.checkers.checker import Checker
from p2pfleet.sim.signatures import unseal

if TYPE_CHECKING:
    from p2pfleet.sim.disk import StoredJob
    from p2pfleet.sim.machine import Machine

NAMED_MAX = 3


class Credit(Checker):
    """Watches what honest machines write down; ``moves`` are those of each publisher's jobs."""

    name = "credit"

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self.moves: dict[JobId, dict[int, dict[PeerId, str]]] = {}
        self.uncommitted: dict[tuple[JobId, int, PeerId], bool] = {}
        self.authors: dict[JobId, dict[FrameHash, PeerId]] = {}
        self.numbers: dict[tuple[PeerId, JobId, PeerId], int] = {}

    looks_at = (ef.SaveFrame, ef.SaveMoves, ef.VoidMoves, ef.SaveEarnings, ef.SaveReceipt)

    def synced(self, machine: Machine, write: ef.Write) -> None:
        if not machine.honest:
            return
        match write:
            case ef.SaveFrame(job=job, frame=sealed):
                if machine.disk.jobs[job].own:
                    frame = unseal(sealed)
                    assert isinstance(frame, VerifiedFrame)
                    self.authors.setdefault(job, {})[frame.hash] = frame.author
            case ef.SaveMoves(job=job, rows=rows):
                moves = self.moves.setdefault(job, {})
                for row in rows:
                    moves.setdefault(row.unit, {})[row.peer] = row.kind
                    if row.kind == "false commitment":
                        self.uncommitted[job, row.unit, row.peer] = True
            case ef.VoidMoves(job=job):
                self.moves[job] = {}
            case ef.SaveEarnings(job=job, rows=earned):
                self._earned(machine, job, earned)
            case ef.SaveReceipt(job=job, receipt=sealed):
                self._receipt(machine, job, _receipt(sealed))
            case _:
                raise AssertionError("looks at what it does not know")

    def restored(self, machine: Machine) -> None:
        """What a machine has forgotten with an old backup it may keep anew."""
        for job, stored in machine.disk.jobs.items():
            for key in [key for key in self.numbers if key[:2] == (machine.peer, job)]:
                kept = stored.receipts.get(key[2])
                if kept is None:
                    del self.numbers[key]
                else:
                    self.numbers[key] = _receipt(kept).number

    # ---- what units earn ---------------------------------------------------------------------

    def _earned(self, machine: Machine, job: JobId, rows: Sequence[ef.Earning]) -> None:
        manifest = self.cluster.published[job]
        worth = base(manifest.work, manifest.units)
        paid: dict[int, list[PeerId]] = {}
        for row in rows:
            paid.setdefault(row.unit, []).append(row.peer)
            if not worth <= row.credit <= worth * BONUS_MAX_MILLI // MILLI:
                text = f"earned {row.credit} where it is worth {worth}"
                self.violated(machine.name, text, job, row.unit)
        for unit, peers in sorted(paid.items()):
            expected = self._expected(machine.disk.jobs[job], job, unit)
            if expected is None:
                self.violated(machine.name, "earned credit without being settled", job, unit)
            elif sorted(peers) != expected:
                self._differ(machine, job, unit, peers, expected)

    def _expected(self, stored: StoredJob, job: JobId, unit: int) -> list[PeerId] | None:
        """Who earns credit for a unit by its certificate; ``None``: it is not settled."""
        row = stored.units.get(unit)
        if row is None or row.state != "settled":
            return None
        certificate = decode(row.detail, Certificate, MAX_FRAME_BYTES)
        authors = self.authors.get(job, {})  # a frame may be missing: that is safety's to say
        found = {authors[vote.frame] for vote in certificate.votes if vote.frame in authors}
        for peer, kind in self.moves.get(job, {}).get(unit, {}).items():
            if kind in ("audited", "ringer"):
                found.add(peer)
            elif kind in CAUGHT:
                found.discard(peer)
        return sorted(peer for peer in found if (job, unit, peer) not in self.uncommitted)

    def _differ(
        self,
        machine: Machine,
        job: JobId,
        unit: int,
        paid: Sequence[PeerId],
        expected: Sequence[PeerId],
    ) -> None:
        names = {peer: other.name for peer, other in self.cluster.world.by_peer.items()}
        texts = [
            f"{word} {', '.join(sorted(names[peer] for peer in peers))}"
            for word, peers in (
                ("for nothing to", {*paid} - {*expected}),
                ("not to", {*expected} - {*paid}),
                ("twice", {peer for peer in paid if paid.count(peer) > 1}),
            )
            if peers
        ]
        self.violated(machine.name, f"gave credit {'; '.join(texts)}", job, unit)

    # ---- what receipts say -------------------------------------------------------------------

    def _receipt(self, machine: Machine, job: JobId, receipt: Receipt) -> None:
        key = (machine.peer, job, receipt.peer)
        last = self.numbers.get(key)
        if last is not None and receipt.number <= last:
            self.violated(machine.name, f"kept receipt {receipt.number} after {last}", job)
        self.numbers[key] = receipt.number
        if machine.disk.jobs[job].own:
            # Compared with the earnings where they are complete: at the end.
            return
        if job not in self.cluster.published:
            return  # an adversary's
        publisher = self.cluster.publisher(job)
        if receipt.peer != machine.peer:
            self.violated(machine.name, "kept a receipt for somebody else", job)
        kept = publisher.disk.jobs[job].receipts.get(receipt.peer)
        if publisher.honest and (kept is None or _receipt(kept).number < receipt.number):
            self.violated(machine.name, "holds a receipt that its publisher does not have", job)

    def at_end(self) -> None:
        for job, manifest in self.cluster.published.items():
            publisher = self.cluster.publisher(job)
            stored = publisher.disk.jobs.get(job)
            if stored is None or not publisher.honest:
                continue
            over = stored.state != "active"
            self._receipts(publisher, job, stored, base(manifest.work, manifest.units), over)
            if over:
                self._complete(publisher, job, stored)
            for machine in self.cluster.machines:
                theirs = machine.disk.jobs.get(job)
                for peer in sorted(theirs.receipts) if theirs is not None else ():
                    if machine is not publisher and peer != machine.peer:
                        self.violated(machine.name, "holds a receipt for somebody else", job)

    def _receipts(
        self, publisher: Machine, job: JobId, stored: StoredJob, worth: int, over: bool
    ) -> None:
        """Each receipt is the sum of what its peer's units earned; before the end, not above."""
        sums: dict[PeerId, tuple[int, int]] = {}
        for (_, peer), credit in stored.earnings.items():
            units, total = sums.get(peer, (0, 0))
            sums[peer] = (units + 1, total + credit)
        for peer in sorted({*sums, *stored.receipts}):
            units, total = sums.get(peer, (0, 0))
            kept = stored.receipts.get(peer)
            said = (0, 0, 0)
            if kept is not None:
                body = _receipt(kept)
                said = (body.units, body.work, body.credit)
            right = (units, units * worth, total)
            if said != right and (over or any(a > b for a, b in zip(said, right, strict=True))):
                name = self.cluster.world.by_peer[peer].name
                text = f"its receipt for {name} says {said} where {right} was earned"
                self.violated(publisher.name, text, job)

    def _complete(self, publisher: Machine, job: JobId, stored: StoredJob) -> None:
        """Nobody whom a settled unit's certificate names has gone without."""
        paid: dict[int, set[PeerId]] = {}
        for unit, peer in stored.earnings:
            paid.setdefault(unit, set()).add(peer)
        for unit, row in sorted(stored.units.items()):
            if row.state != "settled":
                continue
            missing = {*(self._expected(stored, job, unit) or ())} - paid.get(unit, set())
            if missing:
                names = sorted(self.cluster.world.by_peer[peer].name for peer in missing)
                text = f"gave no credit to {', '.join(names[:NAMED_MAX])}"
                self.violated(publisher.name, text, job, unit)


def _receipt(sealed: Sealed) -> Receipt:
    verified = unseal(sealed)
    assert isinstance(verified, VerifiedReceipt)
    return verified.receipt
