"""How sure a set of votes makes us, in exact arithmetic (``protocol/certificates.md``).

Credibility-based fault tolerance after Sarmenta ("Sabotage-Tolerance Mechanisms for Volunteer
Computing Systems", 2001), in the form without a blacklist: identities cost little here, so a peer
that was caught comes back as a newcomer. Everything is an integer or a ``Fraction``: a certificate
must come out the same on every machine and in every language, on the edge of the threshold too.

Units: ``faulty_ppm`` is f, the assumed share of faulty peers, in millionths; ``error_ppb`` is
1 - theta, the accepted error, in billionths; ``checks`` is k, the checks that a peer has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

MILLION = 1_000_000
BILLION = 1_000_000_000

FAULTY_PPM_MAX = 500_000
"""With more than half of the peers faulty a vote would speak against its own result."""
CHECKS_MAX = 1_000_000
VOTERS_MAX = 64

K = TypeVar("K")


def beyond_bounds(
    groups: Mapping[K, Sequence[int]], faulty_ppm: int, error_ppb: int = 1
) -> str | None:
    """Why these numbers are outside the rule's bounds, or ``None`` if they are inside.

    For what comes from a peer; the other functions raise ``ValueError`` with the same sentence.
    """
    if not 1 <= faulty_ppm <= FAULTY_PPM_MAX:
        return f"the assumed faulty share is {faulty_ppm} ppm, not within 1..{FAULTY_PPM_MAX}"
    if not 1 <= error_ppb <= BILLION:
        return f"the accepted error is {error_ppb} ppb, not within 1..{BILLION}"
    voters = sum(len(group) for group in groups.values())
    if voters > VOTERS_MAX:
        return f"{voters} voters on one unit, where {VOTERS_MAX} is the most"
    for group in groups.values():
        if not group:
            return "a result without a voter"
        for checks in group:
            if not 0 <= checks <= CHECKS_MAX:
                return f"a record of {checks} checks is not within 0..{CHECKS_MAX}"
    return None


def _demand_bounds(groups: Mapping[K, Sequence[int]], faulty_ppm: int, error_ppb: int = 1) -> None:
    if reason := beyond_bounds(groups, faulty_ppm, error_ppb):
        raise ValueError(reason)


def credibility(checks: int, faulty_ppm: int) -> Fraction:
    """The probability that the next result of a peer with ``checks`` passed is right.

    Sarmenta, no blacklist: Cr = 1 - f/k, and 1 - f for a newcomer (k = 0). Raises ``ValueError``
    outside the bounds.
    """
    _demand_bounds({0: (checks,)}, faulty_ppm)
    return 1 - Fraction(faulty_ppm, MILLION * max(checks, 1))


def odds(checks: int, faulty_ppm: int) -> Fraction:
    """The weight of one vote: W = Cr / (1 - Cr) = (max(k, 1) * 10^6 - f_ppm) / f_ppm, at least 1.

    Raises ``ValueError`` outside the bounds.
    """
    _demand_bounds({0: (checks,)}, faulty_ppm)
    return _odds(checks, faulty_ppm)


def _odds(checks: int, faulty_ppm: int) -> Fraction:
    return Fraction(max(checks, 1) * MILLION - faulty_ppm, faulty_ppm)


def _weight(group: Sequence[int], faulty_ppm: int) -> Fraction:
    numerator = 1
    for checks in group:
        numerator *= max(checks, 1) * MILLION - faulty_ppm
    return Fraction(numerator, faulty_ppm ** len(group))


def joint(groups: Mapping[K, Sequence[int]], faulty_ppm: int) -> dict[K, Fraction]:
    """The credibility of every distinct result, given the checks of each of its voters.

    Cr(a) = W(a) / (1 + sum over all results b of W(b)), W(a) the product of its voters' odds: the
    formula of Sarmenta's result groups, with numerator and denominator divided by the product of
    all (1 - Cr). The 1 stands for "none of them is right". Assumes that voters err independently.
    Raises ``ValueError`` outside the bounds (64 voters in all, none of the results without one).
    """
    _demand_bounds(groups, faulty_ppm)
    weights = {result: _weight(group, faulty_ppm) for result, group in groups.items()}
    total = 1 + sum(weights.values(), Fraction(0))
    return {result: weight / total for result, weight in weights.items()}


def threshold(error_ppb: int) -> Fraction:
    """What the joint credibility has to reach: 1 - (1 - theta) / 2.

    Half of the accepted error is kept back for what the formula does not know of, such as records
    that lag behind. Raises ``ValueError`` outside the bounds.
    """
    _demand_bounds({}, 1, error_ppb)
    return 1 - Fraction(error_ppb, 2 * BILLION)


_TABULATED = 64


def luckiest(passed: int) -> Fraction:
    """At least max over s of s (1 - s)^n: the best chance to pass ``n`` checks, then lie unseen.

    The maximum lies at s = 1 / (n + 1) and is n^n / (n + 1)^(n + 1). From n = 65 on the bound
    (64/65)^64 / (n + 1) stands in for it, at most 0.8 % above, so that no integer explodes.
    """
    if passed <= _TABULATED:
        return Fraction(passed**passed, (passed + 1) ** (passed + 1))
    return Fraction(_TABULATED, _TABULATED + 1) ** _TABULATED / (passed + 1)


def passed_together(group: Sequence[int]) -> int:
    """Checks that all the peers of a group have got through: max over j of j * (j-th largest k)."""
    ranked = sorted(group, reverse=True)
    return max((place * checks for place, checks in enumerate(ranked, 1)), default=0)


def _common_weight(group: Sequence[int], faulty_ppm: int) -> Fraction:
    newcomer = Fraction(MILLION - faulty_ppm, faulty_ppm)
    return newcomer ** len(group) / luckiest(passed_together(group))


def joint_common_cause(groups: Mapping[K, Sequence[int]], faulty_ppm: int) -> dict[K, Fraction]:
    """The credibility of every distinct result if faulty peers lie on the same units.

    Sarmenta's product takes voters to err independently. Colluders that agree *where* to lie are
    wrong together with probability s, not s^m: m votes for a wrong result then have the likelihood
    f^m s (1 - s)^n, after n checks passed together, against (1 - f)^m for a right one. So
    W(a) = ((1 - f) / f)^m / max over s of s (1 - s)^n, and Cr(a) = W(a) / (1 + sum of W(b)) as in
    :func:`joint`. (Own derivation; the simulated table in the chapter shows what the product alone
    lets through.) Raises ``ValueError`` outside the bounds.
    """
    _demand_bounds(groups, faulty_ppm)
    weights = {result: _common_weight(group, faulty_ppm) for result, group in groups.items()}
    total = 1 + sum(weights.values(), Fraction(0))
    return {result: weight / total for result, weight in weights.items()}


def reaches(
    groups: Mapping[K, Sequence[int]], candidate: K, faulty_ppm: int, error_ppb: int
) -> bool:
    """Whether the votes make ``candidate`` credible enough to be certified.

    Two conditions: :func:`joint` reaches :func:`threshold` (theta with its margin), and
    :func:`joint_common_cause` reaches theta itself. ``groups`` maps each distinct result to the
    checks of its voters. A candidate nobody voted for never is. Raises ``ValueError`` outside the
    bounds.
    """
    _demand_bounds(groups, faulty_ppm, error_ppb)
    return candidate in groups and _Against(groups, candidate, faulty_ppm, error_ppb).certified(
        groups[candidate]
    )


class _Against:
    """What speaks against a candidate, summed once."""

    def __init__(
        self, groups: Mapping[K, Sequence[int]], candidate: K, faulty_ppm: int, error_ppb: int
    ) -> None:
        others = [group for result, group in groups.items() if result != candidate]
        self._faulty_ppm = faulty_ppm
        # Cr = w / (w + against) >= t  <=>  w >= t / (1 - t) * against, as 1 - t > 0.
        margin = threshold(error_ppb)
        self._needed = (
            margin / (1 - margin) * (1 + sum((_weight(o, faulty_ppm) for o in others), Fraction(0)))
        )
        self._needed_common = Fraction(BILLION - error_ppb, error_ppb) * (
            1 + sum((_common_weight(o, faulty_ppm) for o in others), Fraction(0))
        )

    def certified(self, group: Sequence[int]) -> bool:
        return (
            _weight(group, self._faulty_ppm) >= self._needed
            and _common_weight(group, self._faulty_ppm) >= self._needed_common
        )


def replicas_missing(
    groups: Mapping[K, Sequence[int]],
    candidate: K,
    faulty_ppm: int,
    error_ppb: int,
    *,
    checks: int = 0,
    voters_max: int = VOTERS_MAX,
) -> int | None:
    """The smallest number of further votes for ``candidate`` that would certify it.

    Each of them from a peer that has passed ``checks`` (0: newcomers). ``candidate`` may be a
    result that nobody voted for yet. ``None`` if the unit would then have more than ``voters_max``
    voters. Says nothing of the newcomers' share (:func:`countable_newcomers`). Raises
    ``ValueError`` outside the bounds.
    """
    _demand_bounds(groups, faulty_ppm, error_ppb)
    _demand_bounds({0: (checks,)}, faulty_ppm)
    if not 0 <= voters_max <= VOTERS_MAX:
        raise ValueError(f"{voters_max} voters at most is not within 0..{VOTERS_MAX}")
    against = _Against(groups, candidate, faulty_ppm, error_ppb)
    own = list(groups.get(candidate, ()))
    room = voters_max - sum(len(group) for group in groups.values())
    for missing in range(room + 1):
        if own and against.certified(own):
            return missing
        own.append(checks)
    return None


def countable_newcomers(known: int, newcomers: int, *, snapshot: bool) -> int:
    """How many of a result's ``newcomers`` count for it, beside ``known`` voters.

    With a trust snapshot, voters unknown to it are at most half of a certificate's votes: whoever
    makes a thousand keys gets nothing certified without a peer that the publisher knows. In a first
    job, without a snapshot, all count. *Against* a candidate every vote counts, always.
    """
    if known < 0 or newcomers < 0:
        raise ValueError(f"{known} known voters and {newcomers} newcomers: a count is negative")
    return min(newcomers, known) if snapshot else newcomers


def within_newcomer_share(known: int, newcomers: int, *, snapshot: bool) -> bool:
    """Whether a certificate with these votes keeps to :func:`countable_newcomers`."""
    return countable_newcomers(known, newcomers, snapshot=snapshot) == newcomers
