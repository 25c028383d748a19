"""The credibility rule at the speed of a table: floating point, with the exact rule on the edge.

The verdicts are those of ``p2pfleet.core.rules.credibility``: odds come from it once per record,
and wherever rounding could matter the question is put to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from p2pfleet.core.rules import credibility

_DOUBT = 1e-9
"""Relative distance from the threshold below which a product of 64 doubles is not to be trusted;
its rounding error is under 200 * 2^-52, a ten-thousandth of this."""

_MEMORY_MAX = 100_000


class QuickRule:
    """Whether votes certify a result, for one assumed f and one accepted error."""

    def __init__(
        self, faulty_ppm: int, error_ppb: int, *, snapshot: bool, common_cause: bool = True
    ) -> None:
        self.faulty_ppm = faulty_ppm
        self.error_ppb = error_ppb
        self.snapshot = snapshot
        self.common_cause = common_cause
        limit = credibility.threshold(error_ppb)
        # Cr = w / (1 + w + others) >= t  <=>  w / (1 + others) >= t / (1 - t)
        self._needed = float(limit / (1 - limit))
        self._needed_common = (credibility.BILLION - error_ppb) / error_ppb
        self._newcomer = (credibility.MILLION - faulty_ppm) / faulty_ppm
        self._luckiest: dict[int, float] = {}
        self._memory: dict[tuple[int, ...], bool] = {}
        self._odds: list[float] = []
        self.exact_calls = 0

    def odds(self, checks: int) -> float:
        """The weight of a vote by a peer that has passed ``checks``."""
        while len(self._odds) <= checks:
            self._odds.append(float(credibility.odds(len(self._odds), self.faulty_ppm)))
        return self._odds[checks]

    def hopeless(self, weight: float, against: float) -> bool:
        """Whether these products of odds (0 without votes) are clearly too little to certify."""
        return weight < (1 - _DOUBT) * self._needed * (1.0 + against)

    def reaches(self, votes_for: Sequence[int], votes_against: Sequence[int]) -> bool:
        """Whether ``votes_for`` (the voters' checks) certify their result against one other."""
        if not votes_for:
            return False
        key = (*votes_for, -1, *votes_against)
        known = self._memory.get(key)
        if known is None:
            if len(self._memory) >= _MEMORY_MAX:
                self._memory.clear()
            known = self._memory[key] = self._decide(votes_for, votes_against)
        return known

    def _decide(self, votes_for: Sequence[int], votes_against: Sequence[int]) -> bool:
        newcomers = votes_for.count(0)
        counted = credibility.countable_newcomers(
            len(votes_for) - newcomers, newcomers, snapshot=self.snapshot
        )
        if counted < newcomers:
            votes_for = [checks for checks in votes_for if checks] + [0] * counted
            if not votes_for:
                return False
        sure = self._product_reaches(votes_for, votes_against)
        if sure and self.common_cause:
            sure = self._common_reaches(votes_for, votes_against)
        if sure is None:
            return self._exactly(votes_for, votes_against)
        return sure

    def _product_reaches(self, votes_for: Sequence[int], against: Sequence[int]) -> bool | None:
        """``None``: too close to tell, or too large."""
        weight = math.prod([self.odds(checks) for checks in votes_for])
        needed = self._needed
        if against:
            needed *= 1.0 + math.prod([self.odds(checks) for checks in against])
        return _compare(weight, needed)

    def _common_weight(self, group: Sequence[int]) -> float:
        passed = credibility.passed_together(group)
        luckiest = self._luckiest.get(passed)
        if luckiest is None:
            luckiest = self._luckiest[passed] = float(credibility.luckiest(passed))
        return math.prod([self._newcomer] * len(group)) / luckiest

    def _common_reaches(self, votes_for: Sequence[int], against: Sequence[int]) -> bool | None:
        needed = self._needed_common
        if against:
            needed *= 1.0 + self._common_weight(against)
        return _compare(self._common_weight(votes_for), needed)

    def _exactly(self, votes_for: Sequence[int], votes_against: Sequence[int]) -> bool:
        self.exact_calls += 1
        groups = {"for": votes_for}
        if votes_against:
            groups["against"] = votes_against
        if self.common_cause:
            return credibility.reaches(groups, "for", self.faulty_ppm, self.error_ppb)
        share = credibility.joint(groups, self.faulty_ppm)["for"]
        return share >= credibility.threshold(self.error_ppb)


def _compare(weight: float, needed: float) -> bool | None:
    if math.isfinite(weight) and math.isfinite(needed) and abs(weight - needed) > _DOUBT * needed:
        return weight > needed
    return None
