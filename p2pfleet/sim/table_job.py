"""One job under the credibility rule, unit by unit, without a network: who votes, who is caught.

A statistical model of the protocol, several hundred times as fast as the full simulator. A unit
gets replicas until the rule certifies one result. Certified is provisional: a unit is settled when
the publisher executed it itself, or when every voter behind the certificate has passed ``PASSES``
checks that were drawn after its vote. A peer that is caught (by the publisher, or by a certificate
for another result) comes back as a newcomer, k = 0; its votes on what is not settled are
withdrawn, and those units are computed again.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from p2pfleet.core.rules.credibility import VOTERS_MAX
from p2pfleet.sim.table_rivals import TRUSTED_FROM, Fleet
from p2pfleet.sim.table_rule import QuickRule

AUDIT_RATE = 0.1
"""The floor that never decays: the share of accepted units that is executed once more."""
RINGER_RATE = 0.02
"""Ringers a unit; each costs two executions, the publisher's own and the peer's."""
PASSES = 3
NEWCOMER_TURN = 0.25
"""Peers unknown to the snapshot become eligible two doublings after the known ones: a quarter of
their chance at a unit."""
FORGETTING = 32
SNAPSHOT_UNITS = 10
"""After as many units a peer a new snapshot comes out, in which a 32nd of each record is gone."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the publisher assumes and asks for.

    ``online``: it audits and publishes new snapshots during the job; absent, only volunteers
    re-execute, and no record moves. ``sweep``: online, it ends the job by auditing random units of
    voters that have passed too few checks; otherwise what rests on a single vote gets a second
    replica. ``common_cause`` off: the product rule alone, to show what it lets through.
    """

    assumed_ppm: int
    error_ppb: int
    online: bool = True
    sweep: bool = True
    common_cause: bool = True


@dataclass(slots=True)
class Outcome:
    """Counts over ``units``; ``executions`` holds audits, ringers and repeated work as well."""

    units: int = 0
    accepted_wrong: int = 0
    settled_wrong: int = 0
    single: int = 0
    executions: int = 0
    audits: int = 0
    ringers: int = 0
    reopened: int = 0
    failed: int = 0

    def add(self, other: Outcome) -> None:
        """Sum, count by count."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class JobRun:
    """One job from its first unit to its last settlement."""

    def __init__(self, fleet: Fleet, terms: Terms, chance: random.Random) -> None:
        self._fleet = fleet
        self._terms = terms
        self._chance = chance
        self._rule = QuickRule(
            terms.assumed_ppm,
            terms.error_ppb,
            snapshot=fleet.history > 0,
            common_cause=terms.common_cause,
        )
        self._voters_max = min(VOTERS_MAX, fleet.peers)
        self._faulty = fleet.faulty()
        self._checks = fleet.records(chance)
        self._passed = [0] * fleet.peers
        self._pending: list[dict[int, int]] = [{} for _ in range(fleet.peers)]
        self._lied_on = [chance.random() < fleet.sabotage for _ in range(fleet.units)]
        self._votes: list[dict[int, bool]] = [{} for _ in range(fleet.units)]
        self._winner: list[bool | None] = [None] * fleet.units
        self._waits: list[set[int]] = [set() for _ in range(fleet.units)]
        self._settled = [False] * fleet.units
        self._first = [True] * fleet.units
        self._losers: dict[int, list[tuple[int, int]]] = {}
        self._reopen: deque[int] = deque()
        self.outcome = Outcome(units=fleet.units)

    def run(self) -> Outcome:
        """Compute, accept and settle every unit."""
        every = self._fleet.peers * SNAPSHOT_UNITS
        ringers = 0.0
        for unit in range(self._fleet.units):
            self._work(unit)
            self._rework()
            ringers += RINGER_RATE
            if ringers >= 1:
                ringers -= 1
                self._ringer()
                self._rework()
            if self._terms.online and unit % every == every - 1:
                self._checks = [checks - checks // FORGETTING for checks in self._checks]
        self._close()
        for unit in range(self._fleet.units):
            self.outcome.settled_wrong += self._winner[unit] is False
        return self.outcome

    def _rework(self) -> None:
        while self._reopen:
            self._work(self._reopen.popleft())

    def _lies(self, peer: int, lied_on: bool) -> bool:
        if not (lied_on and self._faulty[peer]):
            return False
        return not self._fleet.on_off or self._checks[peer] >= TRUSTED_FROM

    def _next_voter(self, votes: dict[int, bool]) -> int:
        """A random peer that has not voted; newcomers late, and not beyond their share."""
        random_ = self._chance.random
        tries = 0
        while True:
            peer = int(random_() * self._fleet.peers)
            if peer in votes:
                continue
            if self._rule.snapshot and not self._checks[peer] and tries < self._fleet.peers:
                tries += 1
                newcomers = sum(not self._checks[voter] for voter in votes)
                if newcomers + 1 > max(1, len(votes) - newcomers) or random_() >= NEWCOMER_TURN:
                    continue
            return peer

    def _sides(self, votes: dict[int, bool]) -> dict[bool, list[int]]:
        sides: dict[bool, list[int]] = {True: [], False: []}
        for peer, right in votes.items():
            sides[right].append(self._checks[peer])
        return sides

    def _work(self, unit: int) -> None:
        """Replicas until a result is certified, then the coin for an audit."""
        if self._settled[unit]:
            return
        votes = self._votes[unit]
        before = self._winner[unit]
        sides = self._sides(votes)
        winner = next(
            (s for s in (True, False) if self._rule.reaches(sides[s], sides[not s])), None
        )
        if before is not None and winner != before:
            self.outcome.reopened += 1
        added = False
        weight = {
            side: math.prod(map(self._rule.odds, group)) if group else 0.0
            for side, group in sides.items()
        }
        while winner is None:
            if len(votes) >= self._voters_max:
                self._stuck(unit)
                return
            right = self._vote(unit, sides)
            added = True
            weight[right] = (weight[right] or 1.0) * self._rule.odds(sides[right][-1])
            if self._rule.hopeless(weight[right], weight[not right]):
                continue
            if self._rule.reaches(sides[right], sides[not right]):
                winner = right
        self._winner[unit] = winner
        self._waits[unit] = {
            peer for peer, right in votes.items() if right == winner and unit in self._pending[peer]
        }
        if self._first[unit]:
            self._first[unit] = False
            self.outcome.accepted_wrong += not winner
            self.outcome.single += len(votes) == 1
        if added or before != winner:
            self._accepted(unit, winner, sides)
        elif not self._waits[unit]:
            self._settle(unit)

    def _vote(self, unit: int, sides: dict[bool, list[int]]) -> bool:
        votes = self._votes[unit]
        peer = self._next_voter(votes)
        right = not self._lies(peer, self._lied_on[unit])
        votes[peer] = right
        sides[right].append(self._checks[peer])
        self._pending[peer][unit] = self._passed[peer]
        self.outcome.executions += 1
        return right

    def _stuck(self, unit: int) -> None:
        """As many voters as a unit may have, and no certificate: the publisher, or a failure."""
        if self._terms.online:
            self._audit(unit)
            return
        self.outcome.failed += 1
        self._winner[unit] = None
        self._settle(unit)

    def _accepted(self, unit: int, winner: bool, sides: dict[bool, list[int]]) -> None:
        if self._terms.online:
            if self._chance.random() < AUDIT_RATE:
                self._audit(unit)
            else:
                self._move_records(unit, winner, sides)
        elif self._chance.random() < AUDIT_RATE and len(self._votes[unit]) < self._voters_max:
            # A volunteer's private coin: a replica like any other. A contradiction contests the
            # unit, which then needs votes until the rule is satisfied again.
            self.outcome.audits += 1
            self.outcome.reopened += self._vote(unit, sides) != winner
            while not self._rule.reaches(sides[winner], sides[not winner]):
                if self._rule.reaches(sides[not winner], sides[winner]):
                    winner = not winner
                    break
                if len(self._votes[unit]) >= self._voters_max:
                    self._stuck(unit)
                    return
                self._vote(unit, sides)
            self._winner[unit] = winner

    def _move_records(self, unit: int, winner: bool, sides: dict[bool, list[int]]) -> None:
        """Losers are caught; a winner gains if the certificate holds without its own vote."""
        votes = self._votes[unit]
        if sides[not winner]:
            losers = [
                (peer, self._checks[peer]) for peer, right in votes.items() if right != winner
            ]
            self._losers[unit] = losers
            for peer, _ in losers:
                self._catch(peer)
        if len(sides[winner]) < 2:
            return
        gains = []
        for peer, right in votes.items():
            if right == winner:
                others = list(sides[winner])
                others.remove(self._checks[peer])
                if self._rule.reaches(others, sides[not winner]):
                    gains.append(peer)
        for peer in gains:
            self._checks[peer] += 1

    def _audit(self, unit: int) -> None:
        """The publisher executes the unit: its answer is final, and its voters are checked."""
        self.outcome.audits += 1
        self.outcome.executions += 1
        if self._winner[unit] is False:
            self.outcome.reopened += 1
        self._winner[unit] = True
        votes = dict(self._votes[unit])
        self._settle(unit)
        for peer, checks in self._losers.pop(unit, []):
            # Lost to a wrong certificate: the record is computed anew, without that unit.
            if not self._faulty[peer]:
                self._checks[peer] = max(self._checks[peer], checks)
        for peer, right in votes.items():
            if right:
                self._pass(peer)
            else:
                self._catch(peer)

    def _ringer(self) -> None:
        """One unit whose answer the publisher knows, given to a random peer."""
        self.outcome.ringers += 1
        self.outcome.executions += 2
        if not self._terms.online:
            return
        peer = int(self._chance.random() * self._fleet.peers)
        if self._lies(peer, self._chance.random() < self._fleet.sabotage):
            self._catch(peer)
        else:
            self._pass(peer)

    def _pass(self, peer: int) -> None:
        self._checks[peer] += 1
        self._passed[peer] += 1
        pending = self._pending[peer]
        due = self._passed[peer] - PASSES
        # In the order of the votes, so that the first that is too young ends it.
        while pending and pending[unit := next(iter(pending))] <= due:
            del pending[unit]
            self._waits[unit].discard(peer)
            if self._winner[unit] is not None and not self._waits[unit]:
                self._settle(unit)

    def _catch(self, peer: int) -> None:
        self._checks[peer] = 0
        self._passed[peer] = 0
        for unit in self._pending[peer]:
            if not self._settled[unit] and self._votes[unit].pop(peer, None) is not None:
                self._reopen.append(unit)
        self._pending[peer].clear()

    def _settle(self, unit: int) -> None:
        self._settled[unit] = True

    def _close(self) -> None:
        """The end of the job: everything that is not settled yet, one way or the other."""
        for unit in range(self._fleet.units):
            while not self._settled[unit]:
                votes = self._votes[unit]
                if self._terms.online and self._terms.sweep:
                    self._sweep(unit)
                elif len(votes) == 1:
                    self._second(unit)
                else:
                    self._settle(unit)
                self._rework()

    def _sweep(self, unit: int) -> None:
        """Audit a random unsettled unit of one of the voters this unit still waits for."""
        peer = min(self._waits[unit], default=-1)
        open_ = [] if peer < 0 else [u for u in self._pending[peer] if not self._settled[u]]
        self._audit(open_[int(self._chance.random() * len(open_))] if open_ else unit)

    def _second(self, unit: int) -> None:
        """A second replica of what rests on a single vote; a contradiction contests the unit."""
        sides = self._sides(self._votes[unit])
        winner = self._winner[unit]
        right = self._vote(unit, sides)
        if right == winner:
            self._settle(unit)
            return
        self.outcome.reopened += 1
        while not self._rule.reaches(sides[right], sides[not right]):
            if len(self._votes[unit]) >= self._voters_max:
                self._stuck(unit)
                return
            right = self._vote(unit, sides)
        self._winner[unit] = right
        if self._terms.online:
            self._move_records(unit, right, sides)
        self._settle(unit)
