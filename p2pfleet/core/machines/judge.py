"""The publisher judges its own job: audits, ringers, who is believed, and when a unit is final.

A unit that is certified is provisional. Its output is fetched, the commitments behind it are
opened, and then it is either executed here (an audit, drawn by a private coin, or a ringer, whose
answer is known from the beginning) or moves records by what its certificate says. It is settled
once it was executed here or every voter behind it has passed ``PASSES`` checks since; under a fixed
quorum at once. Before anybody is blamed for another answer, that answer is fetched and compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from p2pfleet.core.effects import (
    CheckCommitments,
    Compare,
    Effect,
    Execute,
    Move,
    OpenedCommitment,
    OpenJob,
    SaveUnits,
    Withdrawn,
)
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.units import Unit
from p2pfleet.core.model.ids import Digest, Millis, PeerId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef, FixedQuorum
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules.reputation import CAUGHT, PASSED
from p2pfleet.core.wire.messages import Audit, Entry, OpenRingers, Ringer

PASSES = 3
AUDITS_AT_ONCE = 2
STALLED_MS = 10_000
POISONED_UNITS_MIN = 5
POISONED_PEERS_MIN = 3
MILLION = 1_000_000
POISONED = (
    "most volunteers disagree with each other: the model seems not to give the same answer "
    "everywhere, so nobody's record moves"
)

Class = Callable[[PeerId], bytes]
Counts = Callable[[PeerId], bool]


class Trial(msgspec.Struct):
    """The publisher's own answer to a unit, held against those of the voters.

    ``kind`` is what it is to who passes: audited, ringer, or contradicted (no own answer, but the
    certificate's). ``waiting`` are digests under comparison, ``verdicts`` what came of them.
    """

    digest: Digest
    kind: str
    waiting: dict[Digest, bool] = {}
    verdicts: dict[Digest, str] = {}

    def verdict(self, digest: Digest) -> str:
        """What an answer is beside ours."""
        return "same" if digest == self.digest else self.verdicts.get(digest, "unavailable")


class Judge(msgspec.Struct):
    """State of one job's judge; all of it is made anew from moves and frames after a restart.

    ``here`` are outputs that are durably here. ``drawn`` says of a certified unit whether its coin
    fell on an audit. ``trials`` are comparisons under way, ``executing`` audits in the sandbox,
    ``queue`` those that wait. ``reviewed`` units have moved records, for this digest. ``pending``
    says by peer how many checks it had passed when it voted for a unit that is not settled yet.
    """

    me: PeerId
    coin: bytes
    ringers: dict[int, Digest] = {}
    secret: bytes = b""
    ringers_opened: bool = False
    here: dict[Digest, bool] = {}
    drawn: dict[int, bool] = {}
    queue: list[int] = []
    executing: dict[int, bool] = {}
    opened: bool = False
    opening: bool = False
    unable: dict[int, bool] = {}
    trials: dict[int, Trial] = {}
    audited: dict[int, bool] = {}
    checking: dict[tuple[int, int, PeerId], bool] = {}
    reviewed: dict[int, Digest] = {}
    passes: dict[PeerId, int] = {}
    pending: dict[PeerId, dict[int, int]] = {}
    disagreeing: dict[int, bool] = {}
    contradicted: dict[PeerId, bool] = {}
    poisoned: bool = False
    moves: list[Move] = []
    stalled_at: Millis = Millis(0)
    passed: dict[PeerId, bool] = {}

    @property
    def busy(self) -> bool:
        """Whether something is under way that may still move a record."""
        return bool(self.trials or self.executing or self.queue)

    def know(self, secret: bytes, ringers: tuple[Ringer, ...]) -> None:
        """These units' answers are known from the beginning, and their outputs are here."""
        self.secret = secret
        self.ringers = {each.unit: each.digest for each in ringers}
        self.here.update((each.digest, True) for each in ringers)

    # ---- a unit is certified -----------------------------------------------------------------

    def review(self, settlement: Settlement, number: int, now: Millis) -> list[Effect]:
        """Do what comes next for a unit; rows of what became final are among the effects."""
        unit = settlement.units[number]
        effects: list[Effect] = []
        if number in settlement.stuck and number not in {**self.unable, **self.ringers}:
            self._draw(number)
        ringer = self.ringers.get(number)
        answered = unit.state in ("certified", "contested") or number in settlement.stuck
        if ringer is not None and answered and number not in self.audited:
            effects.extend(self._try(settlement, number, ringer, "ringer"))
        certificate = unit.certificate
        if unit.state != "certified" or certificate is None or certificate.digest not in self.here:
            return effects + self._execute(settlement)
        checks = self._open_commitments(settlement, number, unit, certificate.digest)
        if checks:
            return [*effects, *checks]
        if any((number, a, p) in self.checking for p, a in self._voted(unit, certificate.digest)):
            return effects
        if unit.audit is not None:
            return [*effects, *self._settle(settlement, number)]
        if number in self.trials or number in self.executing or number in self.audited:
            return effects  # of what was audited, the publisher's word is on its way
        if number not in self.drawn:
            self.drawn[number] = False
            if self._coin(settlement, number):
                self._draw(number)
        if self.drawn[number] and number not in self.unable:
            return effects + self._execute(settlement)
        if self.reviewed.get(number) != certificate.digest:
            effects.extend(self._blame(settlement, number, certificate.digest))
        return effects + self._settle_if_trusted(settlement, number) + self._execute(settlement)

    @staticmethod
    def _voted(unit: Unit, digest: Digest) -> list[tuple[PeerId, int]]:
        return [
            (peer, vote.attempt)
            for peer in sorted(unit.votes)
            for vote in unit.votes[peer]
            if vote.digest == digest
        ]

    def _open_commitments(
        self, settlement: Settlement, number: int, unit: Unit, digest: Digest
    ) -> list[Effect]:
        items = []
        for peer, attempt in self._voted(unit, digest):
            key = (number, attempt, peer)
            if (peer, attempt) in unit.opened or key in self.checking:
                continue
            vote = unit.vote(peer, attempt)
            assert vote is not None
            self.checking[key] = True
            items.append(OpenedCommitment(number, attempt, peer, vote.seed, vote.commitment))
        return [CheckCommitments(settlement.job, digest, tuple(items))] if items else []

    def commitments_checked(
        self,
        settlement: Settlement,
        good: tuple[tuple[int, int, PeerId], ...],
        bad: tuple[tuple[int, int, PeerId], ...],
    ) -> list[int]:
        """Note which commitments held the bytes; returns the units concerned."""
        units: dict[int, bool] = {}
        for held, group in ((True, good), (False, bad)):
            for number, attempt, peer in group:
                self.checking.pop((number, attempt, peer), None)
                settlement.unit(number).opened[peer, attempt] = held
                units[number] = True
                if not held:
                    self.moves.append(Move(number, peer, "false commitment"))
        return sorted(units)

    def commitments_lost(self, digest: Digest, lost: tuple[tuple[int, int, PeerId], ...]) -> None:
        """An output that was here is here no more: what was to be held against it waits for it."""
        self.here.pop(digest, None)
        for key in lost:
            self.checking.pop(key, None)

    def _coin(self, settlement: Settlement, number: int) -> bool:
        drawn = hashlib.sha256(self.coin + settlement.job + number.to_bytes(8, "big")).digest()
        ppm = settlement.manifest.trust.audit_ppm
        return int.from_bytes(drawn[:8], "big") * MILLION < ppm * 2**64

    # ---- own executions ----------------------------------------------------------------------

    def _draw(self, number: int) -> None:
        under_way = number in self.executing or number in self.queue or number in self.trials
        if not under_way and number not in self.audited:
            self.drawn[number] = True
            self.queue.append(number)

    def _execute(self, settlement: Settlement) -> list[Effect]:
        if not self.queue:
            return []
        if not self.opened:
            if self.opening:
                return []
            self.opening = True
            return [OpenJob(settlement.job, settlement.manifest, (self.me,))]
        effects: list[Effect] = []
        while self.queue and len(self.executing) < AUDITS_AT_ONCE:
            number = self.queue.pop(0)
            if settlement.unit(number).final or number in self.audited:
                continue
            self.executing[number] = True
            effects.append(Execute(settlement.job, number, (self.me,)))
        return effects

    def job_opened(self, settlement: Settlement) -> list[Effect]:
        """The own job's model can be run here."""
        self.opened, self.opening = True, False
        return self._execute(settlement)

    def unable_to(self, settlement: Settlement, numbers: list[int]) -> None:
        """These units cannot be executed here: they are settled by further votes."""
        self.opening = False
        for number in numbers or [*self.queue, *self.executing]:
            self.executing.pop(number, False)
            self.unable[number] = True
            self.drawn[number] = False
            settlement.touched[number] = True
        self.queue = [number for number in self.queue if number not in self.unable]

    def executed(self, settlement: Settlement, number: int, digest: Digest) -> list[Effect]:
        """An audit gave this answer, whose bytes are durably here."""
        if not self.executing.pop(number, False):
            return []
        self.here[digest] = True
        return self._try(settlement, number, digest, "audited") + self._execute(settlement)

    def _try(self, settlement: Settlement, number: int, digest: Digest, kind: str) -> list[Effect]:
        """Hold every answer to a unit against one that is known to be right."""
        if number in self.trials:
            return []
        trial = self.trials[number] = Trial(digest, kind)
        unit = settlement.units[number]
        effects: list[Effect] = []
        others = {vote.digest: vote.length for votes in unit.votes.values() for vote in votes}
        for other in sorted(others):
            if other != digest:
                holders = tuple(peer for peer, _ in unit.holders(other))
                trial.waiting[other] = True
                ref = BlobRef(cid_from_sha256(other), 0, others[other], bytes(other))
                effects.append(Compare(settlement.job, number, ref, digest, holders))
        return effects

    def _blame(self, settlement: Settlement, number: int, digest: Digest) -> list[Effect]:
        return self._try(settlement, number, digest, "contradicted")

    def compared(self, number: int, candidate: Digest, verdict: str) -> None:
        """What came of a comparison."""
        trial = self.trials.get(number)
        if trial is not None and trial.waiting.pop(candidate, False):
            trial.verdicts[candidate] = verdict

    def ripe(self) -> list[int]:
        """Units whose trial has every verdict that it needs; sorted."""
        return sorted(number for number, trial in self.trials.items() if not trial.waiting)

    def conclude(
        self,
        settlement: Settlement,
        number: int,
        now: Millis,
        counts: Counts,
        numeric_class: Class,
    ) -> list[Entry]:
        """A trial is over: the publisher's word, if it has one, and the moves that follow."""
        trial = self.trials.pop(number)
        unit = settlement.units[number]
        if trial.kind == "contradicted":
            self._by_certificate(settlement, number, trial, now, counts, numeric_class)
            return []
        self.audited[number] = True
        failed = "failed ringer" if trial.kind == "ringer" else "failed audit"
        for peer, verdict in self._verdicts(unit, trial, numeric_class):
            if verdict == "same":
                self.moves.append(Move(number, peer, trial.kind))
            elif verdict == "different":
                self.moves.append(Move(number, peer, failed))
        right = trial.digest
        certificate = unit.certificate
        if certificate is not None and trial.verdict(certificate.digest) == "same":
            right = certificate.digest
        elif unit.leading is not None and trial.verdict(unit.leading) == "same":
            right = unit.leading
        return [Audit(number, right)]

    def _verdicts(self, unit: Unit, trial: Trial, numeric_class: Class) -> list[tuple[PeerId, str]]:
        """By peer what its last answer is: same, different, or nothing to hold against it.

        An answer that nobody could fetch is held against its author only where somebody of the
        same numeric class, who must have got equal bytes, got another one.
        """
        answers = {peer: votes[0].digest for peer, votes in sorted(unit.votes.items())}
        classes = {
            numeric_class(peer)
            for peer, digest in answers.items()
            if trial.verdict(digest) == "same"
        } - {b""}
        found = []
        for peer, digest in answers.items():
            if any(unit.opened.get((peer, vote.attempt)) is False for vote in unit.votes[peer]):
                continue  # caught already: it had not committed to these bytes
            verdict = trial.verdict(digest)
            if verdict == "unavailable" and numeric_class(peer) in classes:
                verdict = "different"
            found.append((peer, verdict))
        return found

    def _by_certificate(
        self,
        settlement: Settlement,
        number: int,
        trial: Trial,
        now: Millis,
        counts: Counts,
        numeric_class: Class,
    ) -> None:
        unit = settlement.units[number]
        certificate = unit.certificate
        if certificate is None or certificate.digest != trial.digest:
            return
        self.reviewed[number] = trial.digest
        verdicts = self._verdicts(unit, trial, numeric_class)
        wrong = [peer for peer, verdict in verdicts if verdict == "different"]
        if wrong:
            self.disagreeing[number] = True
            self.contradicted.update((peer, True) for peer in wrong)
        mine = rule.candidate(trial.digest, settlement.ballots(number, now, counts))
        for ballot in mine.votes:
            others = [each.checks for each in mine.votes if each.peer != ballot.peer]
            sure = rule.holds(settlement.manifest.stop, others, mine.others, settlement.trusting)
            kind = "confirmed" if sure else "matched"
            self.moves.append(Move(number, ballot.peer, kind))
            self.pending.setdefault(ballot.peer, {}).setdefault(
                number, self.passes.get(ballot.peer, 0)
            )
        for peer in wrong:
            self.moves.append(Move(number, peer, "contradicted"))

    # ---- records -----------------------------------------------------------------------------

    def take_moves(self, settlement: Settlement) -> tuple[list[Move], bool]:
        """What moves records now, and whether the job has just turned out to be poisoned.

        Where many units disagree and most voters with them, the job is at fault, not the voters.
        """
        moves, self.moves = self.moves, []
        if self.poisoned:
            return [], False
        decided = len(self.reviewed) + len(self.audited)
        voters = len(settlement.answered)
        if (
            decided >= POISONED_UNITS_MIN
            and len(self.disagreeing) * 5 > decided
            and voters >= POISONED_PEERS_MIN
            and len(self.contradicted) * 2 > voters
        ):
            self.poisoned = True
            return [], True
        for move in moves:
            if move.kind in CAUGHT:
                self.passes[move.peer] = 0
            elif move.kind in PASSED and move.kind != "confirmed":
                self.passes[move.peer] = self.passes.get(move.peer, 0) + 1
                self.passed[move.peer] = True
        return moves, False

    def restore(self, moves: tuple[Move, ...]) -> None:
        """Moves of before a restart: what each peer has passed since it was caught last."""
        for move in moves:
            if move.kind in CAUGHT:
                self.passes[move.peer] = 0
            elif move.kind in ("audited", "ringer"):
                self.passes[move.peer] = self.passes.get(move.peer, 0) + 1

    def withdraw(
        self, settlement: Settlement, peers: list[PeerId]
    ) -> tuple[list[int], tuple[Withdrawn, ...]]:
        """Votes of peers that were caught count no more where nothing is final yet; returns the
        units concerned, and what is withdrawn and was not before.

        What these peers say afterwards counts again. So it cannot be told from moves and frames
        which votes these were, and a restarted publisher needs to be told.
        """
        units: dict[int, bool] = {}
        found: list[Withdrawn] = []
        for peer in peers:
            for number in self.pending.pop(peer, ()):  # the others may be trusted without it
                self.passed.update((other, True) for other in settlement.units[number].votes)
            for number in settlement.answered.get(peer, {}):
                unit = settlement.units[number]
                if unit.final or unit.audit is not None:
                    continue
                for vote in unit.votes.get(peer, ()):
                    if (peer, vote.attempt) not in unit.withdrawn:
                        unit.withdrawn[peer, vote.attempt] = True
                        found.append(Withdrawn(number, peer, vote.attempt))
                if peer in unit.voters_for:
                    self.reviewed.pop(number, None)  # whoever certifies it next is looked at, too
                units[number] = True
        return sorted(units), tuple(found)

    # ---- settled -----------------------------------------------------------------------------

    def _settle(self, settlement: Settlement, number: int) -> list[Effect]:
        unit = settlement.units[number]
        for peer in (*unit.votes, *unit.endorsed):
            self.pending.get(peer, {}).pop(number, None)
        return [SaveUnits(settlement.job, (settlement.settle(number),))]

    def _settle_if_trusted(self, settlement: Settlement, number: int) -> list[Effect]:
        unit = settlement.units[number]
        if unit.state != "certified" or unit.certificate is None:
            return []
        if isinstance(settlement.manifest.stop, FixedQuorum):
            return self._settle(settlement, number)
        if self.reviewed.get(number) != unit.certificate.digest:
            return []
        second = number in self.unable and len(unit.certificate.votes) > 1
        if self._owing(unit, number) and not second:
            return []
        return self._settle(settlement, number)

    def _owing(self, unit: Unit, number: int) -> list[PeerId]:
        """Voters that have passed too few checks since the unit was reviewed with their vote.

        Who agreed later is not needed for it.
        """
        return [
            peer
            for peer in unit.voters_for
            if (then := self.pending.get(peer, {}).get(number)) is not None
            and self.passes.get(peer, 0) - then < PASSES
        ]

    def settle_waiting(self, settlement: Settlement) -> list[Effect]:
        """Settle what has become trusted by checks that its voters passed since."""
        if not self.passed:
            return []
        waiting = sorted({n for peer in self.passed for n in self.pending.get(peer, ())})
        self.passed.clear()
        effects: list[Effect] = []
        for number in waiting:
            effects.extend(self._settle_if_trusted(settlement, number))
        return effects

    def sweep(self, settlement: Settlement) -> list[Effect]:
        """Nothing is open any more: audit units of voters that have passed too few checks."""
        if self.busy or isinstance(settlement.manifest.stop, FixedQuorum):
            return []
        if settlement.count("open") or settlement.count("contested"):
            return []
        left = sorted(
            number
            for number, digest in self.reviewed.items()
            if settlement.units[number].state == "certified"
        )
        for number in left[:AUDITS_AT_ONCE]:
            unit = settlement.units[number]
            waiting = self._owing(unit, number)
            theirs = sorted(
                n
                for n in (self.pending.get(min(waiting), {}) if waiting else {})
                if settlement.units[n].state == "certified"
            ) or [number]
            drawn = hashlib.sha256(self.coin + b"sweep" + number.to_bytes(8, "big")).digest()
            chosen = theirs[int.from_bytes(drawn[:8], "big") % len(theirs)]
            if chosen in self.unable:
                chosen = number
            if chosen in self.unable:
                settlement.ask([chosen])
            else:
                self._draw(chosen)
        return self._execute(settlement)

    def take_over(
        self, settlement: Settlement, lost: Callable[[], list[int]], now: Millis, counts: Counts
    ) -> list[Effect]:
        """Execute here what got votes and waits in vain for more, and what is certified and whose
        output is ``lost``: nobody else may be left.

        By a fixed quorum nothing is executed here: such units fail, after a while.
        """
        if now < self.stalled_at:
            return []
        self.stalled_at = Millis(now + STALLED_MS)
        if isinstance(settlement.manifest.stop, FixedQuorum):
            given_up = settlement.give_up(now, counts).rows
            return [SaveUnits(settlement.job, tuple(given_up))] if given_up else []
        for number in sorted({*settlement.begun, *lost()}):
            unit = settlement.units.get(number)
            if unit is None or not unit.votes or now - unit.latest_vote < STALLED_MS:
                continue
            if number in self.ringers or number in self.unable:
                continue
            if not settlement.flying(number, now, counts):
                self._draw(number)
        return self._execute(settlement)

    def open_ringers(self) -> list[Entry]:
        """The job is over: say which units were ringers."""
        if self.ringers_opened or not self.ringers:
            return []
        self.ringers_opened = True
        return [OpenRingers(self.secret, ringer_list(self.ringers))]


def ringer_list(ringers: dict[int, Digest]) -> tuple[Ringer, ...]:
    """Ringers as they are told: by unit."""
    return tuple(Ringer(number, ringers[number]) for number in sorted(ringers))
