"""What the votes on each unit of one job amount to.

Every node that takes part runs this over the frames it has; the publisher's is the one whose
outcomes become the ledger. States: open -> certified -> settled; certified -> contested when a
second digest reaches the quorum; failed when the replicas are used up. Settled and failed are
final.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2pfleet.core.effects import Judgement, UnitRow
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Certificate,
    Claim,
    Failure,
    Manifest,
    Release,
    Reveal,
    VoteRef,
)
from p2pfleet.core.wire.verified import VerifiedFrame

Counts = Callable[[PeerId], bool]


class Vote(msgspec.Struct, frozen=True, array_like=True):
    """A peer's revealed digest, the size of its output in bytes, and where it stands."""

    digest: Digest
    length: int
    ref: VoteRef


class Unit(msgspec.Struct):
    """One unit: its state, the votes and failures of peers, and the running claims (until when).

    ``wanted`` is how many more replicas could decide it; ``asked`` how many it shall have in all by
    its publisher's word.
    """

    state: str = "open"
    wanted: int = 0
    asked: int = 0
    attempt: int = 0
    votes: dict[PeerId, Vote] = {}
    failures: dict[PeerId, str] = {}
    claims: dict[PeerId, Millis] = {}
    certificate: Certificate | None = None
    reason: str = ""

    @property
    def replicas(self) -> int:
        return len(self.votes) + len(self.failures)

    @property
    def final(self) -> bool:
        return self.state in ("settled", "failed")


class Outcome(msgspec.Struct):
    """What one frame changed: ledger rows, judgements, judgements taken back, touched units."""

    rows: list[UnitRow] = []
    judgements: list[Judgement] = []
    reversed: list[Judgement] = []
    touched: list[int] = []


class Settlement(msgspec.Struct):
    """The units of one job, by number; a unit nobody touched yet has no entry.

    ``disputed`` are those that are undecided here, but not for who counts every peer's vote.
    """

    job: JobId
    manifest: Manifest
    units: dict[int, Unit] = {}
    judged: dict[tuple[int, PeerId], bool] = {}
    tally: dict[str, int] = {}
    latest: dict[PeerId, tuple[int, int]] = {}
    votes: int = 0
    disputed: dict[int, bool] = {}

    def unit(self, number: int) -> Unit:
        unit = self.units.get(number)
        if unit is None:
            unit = self.units[number] = Unit(wanted=self.manifest.stop.quorum)
        return unit

    def count(self, state: str) -> int:
        """How many units are in ``state`` now."""
        if state == "open":
            return self.manifest.units - sum(self.tally.values())
        return self.tally.get(state, 0)

    def wanted(self, number: int) -> int:
        """How many more replicas could decide the unit, running claims not considered."""
        unit = self.units.get(number)
        if unit is None:
            return self.manifest.stop.quorum
        return max(unit.wanted, int(unit.replicas < unit.asked))

    def ask(self, numbers: tuple[int, ...]) -> None:
        """The publisher wants one more replica of each of these."""
        for number in numbers:
            if number < self.manifest.units:
                unit = self.unit(number)
                unit.asked = unit.replicas + 1

    def claimants(self, number: int, now: Millis, counts: Counts) -> list[PeerId]:
        """Peers with a vote that hold a running claim on the unit; sorted."""
        unit = self.units.get(number)
        if unit is None:
            return []
        return sorted(peer for peer, until in unit.claims.items() if until > now and counts(peer))

    def running(self, now: Millis) -> int:
        """Replicas under a running claim, over all units."""
        return sum(
            sum(until > now for until in unit.claims.values())
            for unit in self.units.values()
            if unit.claims and not unit.final
        )

    # ---- what frames do ----------------------------------------------------------------------

    def apply(self, frame: VerifiedFrame, now: Millis, counts: Counts) -> Outcome:
        """Take a frame's entries in; a claim runs from ``now``, its first sight.

        Claims in a frame that a later one of its author overtook do not run at all.
        """
        outcome = Outcome()
        author = frame.author
        written = (frame.frame.incarnation, frame.frame.sequence)
        overtaken = written < self.latest.get(author, (0, 0))
        if not overtaken:
            self.latest[author] = written
        changed: list[int] = []
        for index, entry in enumerate(frame.frame.entries):
            match entry:
                case Claim(units=units):
                    if overtaken:
                        continue  # its release may have been here already
                    until = Millis(now + self.manifest.lease_ms)
                    for number in units:
                        unit = self.unit(number)
                        if author not in unit.votes and author not in unit.failures:
                            unit.claims[author] = until
                case Release(units=units):
                    for number in units:
                        if number in self.units:
                            self.units[number].claims.pop(author, None)
                case Reveal():
                    if self._voted(author, entry, VoteRef(frame.hash, index)):
                        changed.append(entry.unit)
                case Failure():
                    unit = self.unit(entry.unit)
                    unit.claims.pop(author, None)
                    if author not in unit.votes and author not in unit.failures:
                        unit.failures[author] = entry.reason
                        changed.append(entry.unit)
        for number in changed:
            self._decide(number, counts, outcome)
        return outcome

    def _voted(self, author: PeerId, entry: Reveal, ref: VoteRef) -> bool:
        unit = self.unit(entry.unit)
        unit.claims.pop(author, None)
        if author in unit.votes:
            return False
        unit.failures.pop(author, None)
        self.votes += 1
        unit.votes[author] = Vote(entry.digest, entry.length, ref)
        return True

    def reconsider(self, peers: list[PeerId], counts: Counts) -> Outcome:
        """Decide the undecided units of these peers again, whose vote was lost or won."""
        outcome = Outcome()
        for number in sorted(self.units):
            unit = self.units[number]
            if unit.state in ("open", "contested") and any(
                peer in unit.votes or peer in unit.failures for peer in peers
            ):
                self._decide(number, counts, outcome)
        return outcome

    def _decide(self, number: int, counts: Counts, outcome: Outcome) -> None:
        self._decide_unit(number, counts, outcome)
        unit = self.units[number]
        self.disputed.pop(number, None)
        if unit.state in ("open", "contested") and unit.replicas >= self.manifest.stop.quorum:
            votes = {peer: vote.digest for peer, vote in unit.votes.items()}
            everybody = rule.decide(self.manifest.stop, votes, unit.failures)
            if everybody.state in ("certified", "failed"):
                self.disputed[number] = True

    def _decide_unit(self, number: int, counts: Counts, outcome: Outcome) -> None:
        unit = self.units[number]
        outcome.touched.append(number)
        if not unit.final:
            votes = {
                peer: vote
                for peer, vote in unit.votes.items()
                if peer != self.manifest.publisher and counts(peer)
            }
            decision = rule.decide(
                self.manifest.stop,
                {peer: vote.digest for peer, vote in votes.items()},
                {peer: why for peer, why in unit.failures.items() if counts(peer)},
            )
            unit.wanted = decision.wanted
            if unit.state == "certified" and decision.state in ("open", "failed"):
                # A voter lost its standing later. The votes counted when they were given.
                unit.wanted = 0
                self._judge(number, outcome)
                return
            unit.attempt = decision.attempt
            certificate = None
            if decision.state == "certified":
                certificate = rule.certificate(
                    self.job,
                    number,
                    decision,
                    self.manifest.stop,
                    {peer: (vote.digest, vote.ref) for peer, vote in votes.items()},
                )
            self._enter(number, decision.state, certificate, decision.reason, outcome)
        self._judge(number, outcome)

    def _enter(
        self,
        number: int,
        state: str,
        certificate: Certificate | None,
        reason: str,
        outcome: Outcome,
    ) -> None:
        unit = self.units[number]
        if state == unit.state and certificate == unit.certificate:
            return
        if state == "certified" and unit.state == "certified" and unit.certificate is not None:
            assert certificate is not None
            if certificate.digest == unit.certificate.digest:
                return  # another set of votes for the same answer says nothing new
        self._move(unit, state)
        unit.certificate = certificate
        unit.reason = reason
        outcome.rows.append(self.row(number))

    def _move(self, unit: Unit, state: str) -> None:
        if unit.state != "open":
            self.tally[unit.state] -= 1
        if state != "open":
            self.tally[state] = self.tally.get(state, 0) + 1
        unit.state = state

    def _judge(self, number: int, outcome: Outcome) -> None:
        """Hold every vote against the certificate; once a (unit, peer), revised if it turns."""
        unit = self.units[number]
        if unit.certificate is None:
            return
        for peer in sorted(unit.votes):
            agreed = unit.votes[peer].digest == unit.certificate.digest
            earlier = self.judged.get((number, peer))
            if earlier == agreed:
                continue
            if earlier is not None:
                outcome.reversed.append(Judgement(number, peer, earlier))
            self.judged[number, peer] = agreed
            outcome.judgements.append(Judgement(number, peer, agreed))

    # ---- the ledger --------------------------------------------------------------------------

    def row(self, number: int) -> UnitRow:
        """The ledger line of a unit."""
        unit = self.units[number]
        detail = unit.reason.encode() if unit.certificate is None else encode(unit.certificate)
        return UnitRow(number, unit.state, detail)

    def settle(self, number: int) -> UnitRow:
        """The publisher holds the certified output: the unit is final."""
        unit = self.units[number]
        assert unit.state == "certified"
        self._move(unit, "settled")
        unit.claims.clear()
        unit.wanted = 0
        return self.row(number)

    def restore(self, number: int, state: str, certificate: Certificate | None, why: str) -> None:
        """Put a ledger line back, before the frames are taken in again."""
        unit = self.unit(number)
        self._move(unit, state)
        unit.certificate = certificate
        unit.reason = why
        unit.wanted = 0
