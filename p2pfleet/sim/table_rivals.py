"""What the credibility rule is measured against: majority voting and adaptive replication."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

TRUSTED_FROM = 10
QUORUM = 2
MAJORITY_MAX = 200


@dataclass(frozen=True, slots=True)
class Majority:
    """Majority voting: ``m`` matching results of at most 2m - 1; ``cost`` in executions a unit."""

    m: int
    error: float
    cost: float


def majority_error(m: int, faulty: float) -> float:
    """The error of m matching of 2m - 1, faulty peers always lying and colluding.

    sum over j = m..2m-1 of C(2m-1, j) f^j (1-f)^(2m-1-j)
    """
    n = 2 * m - 1
    return math.fsum(math.comb(n, j) * faulty**j * (1 - faulty) ** (n - j) for j in range(m, n + 1))


def majority(faulty: float, error: float) -> Majority:
    """The smallest majority whose error is at most ``error``; its cost is m / (1 - f)."""
    for m in range(1, MAJORITY_MAX + 1):
        wrong = majority_error(m, faulty)
        if wrong <= error:
            break
    return Majority(m, wrong, m / (1 - faulty))


@dataclass(frozen=True, slots=True)
class Fleet:
    """The peers and the attack, the same for every method.

    ``sabotage``: the share of units that faulty peers lie on. They collude: they choose the same
    units and give the same wrong answer. ``on_off``: one lies only while its record is at least
    ``TRUSTED_FROM``. ``history``: units on which each peer was checked before the job.
    """

    peers: int
    units: int
    faulty_ppm: int
    sabotage: float
    history: int = 0
    on_off: bool = False

    def faulty(self) -> list[bool]:
        """Which peers are faulty; peers are drawn at random, so that the order does not matter."""
        count = round(self.peers * self.faulty_ppm / 1_000_000)
        return [index < count for index in range(self.peers)]

    def records(self, chance: random.Random) -> list[int]:
        """Each peer's record after the history: checks passed since it was last caught."""
        records = []
        for faulty in self.faulty():
            passed = 0
            for _ in range(self.history):
                lies = faulty and not self.on_off and chance.random() < self.sabotage
                passed = 0 if lies else passed + 1
            records.append(passed)
        return records


@dataclass(frozen=True, slots=True)
class AdaptiveOutcome:
    """``wrong`` of ``units`` accepted results were wrong; ``executions`` were run for them."""

    units: int
    wrong: int
    executions: int


def adaptive(fleet: Fleet, chance: random.Random) -> AdaptiveOutcome:
    """BOINC's adaptive replication under the fleet's attack.

    A peer is trusted if cv >= 10 and U(0,1) > 1/cv; its single result is then accepted. Otherwise
    the unit is replicated until two results match. cv rises by one for a replicated valid result
    and falls to 0 for an invalid one.
    """
    faulty = fleet.faulty()
    valid = fleet.records(chance)
    wrong = executions = 0
    for _ in range(fleet.units):
        lied_on = chance.random() < fleet.sabotage
        votes: dict[int, bool] = {}
        rights = 0
        while True:
            peer = int(chance.random() * fleet.peers)
            if peer in votes:
                continue
            lies = lied_on and faulty[peer] and (not fleet.on_off or valid[peer] >= TRUSTED_FROM)
            executions += 1
            if not votes and valid[peer] >= TRUSTED_FROM and chance.random() > 1 / valid[peer]:
                wrong += lies
                break
            votes[peer] = not lies
            rights += not lies
            matching = len(votes) - rights if lies else rights
            if matching == QUORUM:
                for voter, right in votes.items():
                    valid[voter] = valid[voter] + 1 if right != lies else 0
                wrong += lies
                break
    return AdaptiveOutcome(fleet.units, wrong, executions)
