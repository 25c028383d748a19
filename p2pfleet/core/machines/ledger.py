"""Credit: what this node owes the volunteers of its jobs, and the receipts that it holds itself.

As a publisher it notes how long each answer took, credits a unit once, when it is settled and
nothing about it is in doubt any more, and signs receipts: about every minute for what has changed
while a job runs, and for good when the job ends. As a volunteer it keeps the newest receipt of each
job. Both write everything down before they use it; receipts that did not arrive are sent again when
their peer comes back, and a few times while it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from p2pfleet.core.effects import (
    Earning,
    Effect,
    Report,
    SaveEarnings,
    SaveReceipt,
    SaveUnits,
    Send,
    SendReceipts,
    Sign,
    UnitRow,
)
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.judge import Judge
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.units import Unit
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules import credit as rule
from p2pfleet.core.rules.reputation import CAUGHT
from p2pfleet.core.wire.messages import Claim, Commit, Deliver, Frame, Manifest, Receipt
from p2pfleet.core.wire.verified import VerifiedReceipt

ISSUE_EVERY_MS = 60_000
TOLD_AT_HELLO = 32
TOLD_AGAIN = 4
TELL_AGAIN_TIMES = 2
BACKLOG_MS = 10_000
PEERS_MAX = 4_096
CONFIRMED = ("audited", "ringer")

Kinds = dict[PeerId, dict[int, str]]
"""What a job's moves say: by peer and unit, as ``rules.reputation`` names it."""


class Answer(msgspec.Struct, array_like=True):
    """When a claim was first seen by this node's clock, and after how long the commitment came.

    Either is ``None`` where it is not known.
    """

    since: Millis | None
    took_ms: int | None = None


class Account(msgspec.Struct, array_like=True):
    """What a volunteer has earned in one job: settled units, and the credit for them."""

    units: int = 0
    credit: int = 0


class Dues(msgspec.Struct):
    """What one open job of this node's own owes.

    ``answers`` are by unit and peer, until the unit is credited; ``settled`` units that are not
    credited yet. ``issued`` is the newest receipt of each volunteer.
    """

    job: JobId
    manifest: Manifest
    answers: dict[int, dict[PeerId, Answer]] = {}
    settled: dict[int, bool] = {}
    accounts: dict[PeerId, Account] = {}
    issued: dict[PeerId, Receipt] = {}
    issue_at: Millis | None = None

    # ---- how long it took --------------------------------------------------------------------

    def seen(self, settlement: Settlement, frame: Frame, now: Millis, fresh: bool = True) -> None:
        """A frame was taken in just now: note claims that were let stand, and what follows them.

        The first claim of a peer on a unit counts, however often it is given back and renewed; if
        it is not ``fresh``, its age is unknown for good.
        """
        author = frame.author
        for entry in frame.entries:
            match entry:
                case Claim(units=units):
                    for number in units:
                        if settlement.leases.until(author, number) is not None:
                            answers = self.answers.setdefault(number, {})
                            answers.setdefault(author, Answer(now if fresh else None))
                case Commit(items=items):
                    for item in items:
                        answer = self.answers.get(item.unit, {}).get(author)
                        if answer is None or answer.since is None or answer.took_ms is not None:
                            continue
                        answer.took_ms = now - answer.since
                case _:
                    pass

    # ---- what is earned ----------------------------------------------------------------------

    def note(self, effects: Iterable[Effect]) -> None:
        """Note which units these effects settle."""
        for effect in effects:
            if isinstance(effect, SaveUnits) and effect.job == self.job:
                for row in effect.rows:
                    if row.state == "settled":
                        self.settled[row.unit] = True
                    elif row.state == "failed":
                        self.answers.pop(row.unit, None)

    def credit(
        self, settlement: Settlement, judge: Judge, kinds: Kinds, now: Millis, ending: bool = False
    ) -> list[Effect]:
        """Credit settled units about which no comparison is under way (``ending``: all of them)."""
        ready = [
            number
            for number in sorted(self.settled)
            if ending or not (number in judge.trials or number in judge.executing)
        ]
        rows: list[Earning] = []
        for number in ready:
            del self.settled[number]
            rows.extend(self._unit(number, settlement.units[number], kinds))
            self.answers.pop(number, None)
        if not rows:
            return []
        self._add(rows)
        if self.issue_at is None:
            self.issue_at = Millis(now + ISSUE_EVERY_MS)
        return [SaveEarnings(self.job, tuple(rows))]

    def _unit(self, number: int, unit: Unit, kinds: Kinds) -> list[Earning]:
        concerned = {**unit.commits, **unit.votes, **unit.endorsed, **unit.failures}
        moved = {peer: kinds.get(peer, {}) for peer in concerned}
        said = {peer: moves[number] for peer, moves in moved.items() if number in moves}
        right = [peer for peer, kind in said.items() if kind in CONFIRMED]
        wrong = [peer for peer, kind in said.items() if kind in CAUGHT]
        # A move may have been overtaken by a later one; that bytes were not committed to stays.
        wrong.extend(peer for (peer, _), held in unit.opened.items() if not held)
        answers = self.answers.get(number, {})
        body = self.manifest
        rows = []
        for peer in rule.earners(_voters(unit), right, wrong):
            took_ms = answers[peer].took_ms if peer in answers else None
            amount = rule.earned(body.work, body.units, body.lease_ms, took_ms)
            rows.append(Earning(number, peer, amount))
        return rows

    def _add(self, rows: Iterable[Earning]) -> None:
        for row in rows:
            account = self.accounts.setdefault(row.peer, Account())
            account.units += 1
            account.credit += row.credit

    def restore(
        self,
        units: Sequence[UnitRow],
        earnings: Sequence[Earning],
        receipts: Sequence[VerifiedReceipt],
        now: Millis,
    ) -> None:
        """Take up again what the store has. What settled before a crash and was not credited is
        credited next; how long its answers took nobody knows any more."""
        self._add(earnings)
        self.issued = {each.receipt.peer: each.receipt for each in receipts}
        credited = {row.unit for row in earnings}
        self.settled = {
            row.unit: True for row in units if row.state == "settled" and row.unit not in credited
        }
        if any(self._changed(peer) for peer in self.accounts):
            self.issue_at = Millis(now + ISSUE_EVERY_MS)

    # ---- receipts ----------------------------------------------------------------------------

    def _changed(self, peer: PeerId) -> bool:
        issued = self.issued.get(peer)
        return issued is None or issued.units != self.accounts[peer].units

    def issue(self, wall_ms: int) -> list[Effect]:
        """Sign a receipt for everybody who has earned something since the last one; by peer."""
        self.issue_at = None
        body = self.manifest
        worth = rule.base(body.work, body.units)
        effects: list[Effect] = []
        for peer in sorted(self.accounts):
            if not self._changed(peer):
                continue
            account, last = self.accounts[peer], self.issued.get(peer)
            receipt = self.issued[peer] = Receipt(
                network=body.network,
                job=self.job,
                publisher=body.publisher,
                peer=peer,
                number=0 if last is None else last.number + 1,
                units=account.units,
                work=account.units * worth,
                credit=account.credit,
                issued_ms=wall_ms,
            )
            effects.append(Sign(receipt))
        return effects


def _voters(unit: Unit) -> list[PeerId]:
    """The authors of the votes in the unit's certificate."""
    if unit.certificate is None:
        return []
    votes = {*unit.certificate.votes}
    revealed = [
        peer for peer, theirs in unit.votes.items() if any(vote.ref in votes for vote in theirs)
    ]
    return revealed + [
        peer for peer, theirs in unit.endorsed.items() if any(each.ref in votes for each in theirs)
    ]


class Ledger(msgspec.Struct):
    """``open`` are dues of this node's own open jobs, ``held`` the newest receipts for itself.

    ``untold`` says how often a peer is still to be sent its last receipts, unasked: a message may
    have been lost. ``here_since`` is when a peer said its last hello. ``publishes`` is true once
    there was a job of this node's own.
    """

    open: dict[JobId, Dues] = {}
    held: dict[JobId, Receipt] = {}
    untold: dict[PeerId, int] = {}
    here_since: dict[PeerId, Millis] = {}
    publishes: bool = False

    def begin(self, job: JobId, manifest: Manifest) -> Dues:
        """A job of this node's own begins to owe."""
        self.publishes = True
        dues = self.open[job] = Dues(job, manifest)
        return dues

    # ---- as a publisher ----------------------------------------------------------------------

    def greet(self, peer: PeerId, now: Millis) -> list[Effect]:
        """A peer said hello: send it the last receipts that were signed for it."""
        if not self.publishes:
            return []
        self.here_since.pop(peer, None)
        self.here_since[peer] = now
        if len(self.here_since) > PEERS_MAX:
            del self.here_since[next(iter(self.here_since))]
        return [SendReceipts(peer, TOLD_AT_HELLO)]

    def seen(self, source: PeerId, settlement: Settlement, frame: Frame, now: Millis) -> None:
        """A frame of a job was taken in just now, from ``source``.

        What others hand on, and what a peer brings along when it comes, was written some time
        before: how long its answers took cannot be told from it.
        """
        dues = self.open.get(settlement.job)
        if dues is None or source != frame.author:
            return
        since = self.here_since.get(frame.author)
        if since is not None:
            dues.seen(settlement, frame, now, fresh=now - since >= BACKLOG_MS)

    def settled(
        self,
        settlement: Settlement,
        judge: Judge,
        kinds: Kinds,
        effects: Sequence[Effect],
        now: Millis,
        wall_ms: int,
    ) -> list[Effect]:
        """Credit what ``effects`` settled, and sign receipts if it is time."""
        dues = self.open.get(settlement.job)
        if dues is None:
            return []
        dues.note(effects)
        found = dues.credit(settlement, judge, kinds, now)
        if dues.issue_at is not None and dues.issue_at <= now:
            found.extend(dues.issue(wall_ms))
        return found

    def end(
        self, settlement: Settlement, judge: Judge, kinds: Kinds, now: Millis, wall_ms: int
    ) -> list[Effect]:
        """A job of this node's own ends: credit what is left, and sign the last receipts."""
        dues = self.open.pop(settlement.job, None)
        if dues is None:
            return []
        return [
            *dues.credit(settlement, judge, kinds, now, ending=True),
            *dues.issue(wall_ms),
        ]

    def issued(self, receipt: VerifiedReceipt, present: bool) -> list[Effect]:
        """A receipt was signed here: keep it, then send it if its peer is ``present``."""
        body = receipt.receipt
        effects: list[Effect] = [SaveReceipt(body.job, receipt.sealed)]
        if present:
            effects.append(Send((body.peer,), Deliver(receipt.sealed)))
        self.untold.pop(body.peer, None)
        self.untold[body.peer] = TELL_AGAIN_TIMES
        if len(self.untold) > PEERS_MAX:
            del self.untold[next(iter(self.untold))]
        return effects

    def remind(self, peer: PeerId) -> list[Effect]:
        """Send a peer its last receipts once more, a few times after the last one was signed."""
        left = self.untold.pop(peer, 0)
        if left > 1:
            self.untold[peer] = left - 1
        return [SendReceipts(peer, TOLD_AGAIN)] if left else []

    def deadline(self) -> Millis | None:
        """When receipts are due next."""
        if not self.open:
            return None
        due = [dues.issue_at for dues in self.open.values() if dues.issue_at is not None]
        return min(due, default=None)

    # ---- as a volunteer ----------------------------------------------------------------------

    def keep(self, receipt: Receipt) -> None:
        """Remember a receipt for this node, for as long as its job is known: without that no other
        is judged."""
        self.held[receipt.job] = receipt

    def forget(self, jobs: Iterable[JobId]) -> None:
        """These jobs are not known any more."""
        for job in jobs:
            self.held.pop(job, None)

    def received(
        self,
        source: PeerId,
        receipt: VerifiedReceipt,
        me: PeerId,
        manifest: Manifest | None,
        terms: NetworkTerms,
    ) -> list[Effect]:
        """A receipt from ``source``; ``manifest`` is that of its job, if it is known."""
        body = receipt.receipt
        verdict = rule.judge_receipt(body, me, manifest, self.held.get(body.job), terms)
        if not isinstance(verdict, Accept):
            return [Report(source, verdict)]
        self.keep(body)
        return [SaveReceipt(body.job, receipt.sealed), Report(source, verdict)]
