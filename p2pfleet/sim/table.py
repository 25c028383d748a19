"""The credibility table: settled error and cost, beside the rivals under the same attacks.

``p2pfleet sim --table credibility`` prints it; the protocol's chapter on certificates keeps it. A
statistical runner that asks the core's own rule; what it models is said in ``table_job``.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from p2pfleet.sim.table_job import AUDIT_RATE, PASSES, RINGER_RATE, JobRun, Outcome, Terms
from p2pfleet.sim.table_rivals import Fleet, Majority, adaptive, majority

PEERS = 200
JOB_UNITS = 10_000
QUICK_PEERS = 40
QUICK_UNITS = 400
HISTORY = 20
LONG_HISTORY = 150
FAULTY_PPM = (50_000, 100_000, 200_000, 350_000)
ERROR_PPB = (10_000_000, 1_000_000, 100_000)
SABOTAGE = (0.05, 0.3, 1.0)
JOBS = {10_000_000: 1, 1_000_000: 2, 100_000: 4}
"""Jobs of ``JOB_UNITS`` a sabotage rate: enough that none wrong means below 1 - theta at 95 %."""
_Z = 1.959964

ONLINE = "a. publisher online, history of 20 units a peer"
FIRST = "b. first job: all newcomers, no snapshot, publisher online"
ABSENT = "c. publisher absent: private coins of volunteers, no record moves"
SOLO = "d. solo acceptance: history of 150, single votes get a second replica at the end"
ON_OFF = "e. on-off attack: lies only while its record is at least 10, publisher online"
GUESSED = "f. f guessed too low: half of the real one, publisher online"
GUESSED_ABSENT = "g. f guessed too low: half of the real one, publisher absent"
PRODUCT = "h. publisher absent, product rule alone, without the common-cause condition"


@dataclass(frozen=True, slots=True)
class Share:
    """``wrong`` of ``units``, with its 95 % interval after Wilson.

    Takes units for independent; errors of one job hang together through its peers' records, so
    that the interval is somewhat too narrow where a cell saw few jobs.
    """

    wrong: int
    units: int

    @property
    def rate(self) -> float:
        """The share that was seen."""
        return self.wrong / self.units

    @property
    def interval(self) -> tuple[float, float]:
        """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96."""
        n, p = self.units, self.rate
        middle = p + _Z**2 / (2 * n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        scale = 1 + _Z**2 / n
        low = (middle - half) / scale if self.wrong else 0.0
        high = (middle + half) / scale if self.wrong < n else 1.0
        return low, high


@dataclass(frozen=True, slots=True)
class Row:
    """One cell. Errors: the sabotage rate that was worst; cost: the dearest; counts a unit."""

    block: str
    faulty_ppm: int
    error_ppb: int
    sabotage: float
    accepted: Share
    settled: Share
    cost: float
    audits: float
    single: float
    failed: int
    majority: Majority
    adaptive: Share
    adaptive_cost: float

    @property
    def holds(self) -> bool:
        """Whether the settled error that was seen is at most 1 - theta."""
        return self.settled.wrong * 1_000_000_000 <= self.error_ppb * self.settled.units

    @property
    def surely(self) -> bool:
        """Whether the upper end of its interval is, too."""
        return self.settled.interval[1] <= self.error_ppb / 1e9


@dataclass(frozen=True, slots=True)
class Target:
    """Something the table has to show, with the figure measured."""

    sentence: str
    reached: bool


@dataclass(slots=True)
class Table:
    """All rows, and what they were to reach."""

    seed: int
    quick: bool
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def cell(
        self, block: str, faulty_ppm: int, error_ppb: int, sabotage: float | None = None
    ) -> Row:
        """The row of these values; ``KeyError`` if there is none."""
        for row in self.rows:
            if (row.block, row.faulty_ppm, row.error_ppb) == (block, faulty_ppm, error_ppb) and (
                sabotage is None or row.sabotage == sabotage
            ):
                return row
        raise KeyError((block, faulty_ppm, error_ppb, sabotage))


@dataclass(frozen=True, slots=True)
class _Cell:
    block: str
    faulty_ppm: int
    error_ppb: int
    jobs: int
    rates: tuple[float, ...] = SABOTAGE
    history: int = HISTORY
    on_off: bool = False
    guess: float = 1.0
    online: bool = True
    sweep: bool = True
    common_cause: bool = True


def _cells() -> Iterator[_Cell]:
    grid = [(f, e) for f in FAULTY_PPM for e in ERROR_PPB]
    for f, e in grid:
        yield _Cell(ONLINE, f, e, JOBS[e])
    for f, e in grid:
        yield _Cell(FIRST, f, e, JOBS[e], history=0)
    for f, e in grid:
        # Nothing is caught here, so that errors cluster by job: more jobs.
        yield _Cell(ABSENT, f, e, 3 * JOBS[e], online=False)
    for f in FAULTY_PPM:
        yield _Cell(SOLO, f, ERROR_PPB[0], 1, history=LONG_HISTORY, sweep=False)
    yield _Cell(SOLO, FAULTY_PPM[0], ERROR_PPB[1], 2, history=LONG_HISTORY, sweep=False)
    for f, e in ((50_000, ERROR_PPB[0]), (200_000, ERROR_PPB[0]), (200_000, ERROR_PPB[1])):
        for rate in SABOTAGE:
            yield _Cell(ON_OFF, f, e, 2, (rate,), on_off=True)
    for f, e in grid:
        yield _Cell(GUESSED, f, e, 1, guess=0.5)
    for f, e in grid:
        yield _Cell(GUESSED_ABSENT, f, e, 1, guess=0.5, online=False)
    for f, e in grid:
        yield _Cell(PRODUCT, f, e, 1, online=False, common_cause=False)


def table(seed: int, quick: bool, progress: Callable[[str], None]) -> Table:
    """Compute every block; the same seed gives the same table, on every machine.

    ``quick``: one small job a cell, for tests of the runner; its intervals mean little.
    ``progress`` gets the block's name when it begins.
    """
    made = Table(seed, quick)
    rivals: dict[tuple[int, int, bool, float], tuple[Share, float]] = {}
    block = ""
    for cell in _cells():
        if cell.block != block:
            block = cell.block
            progress(block)
        made.rows.append(_measure(cell, seed, quick, rivals))
    made.targets = _targets(made)
    return made


def _measure(
    cell: _Cell,
    seed: int,
    quick: bool,
    rivals: dict[tuple[int, int, bool, float], tuple[Share, float]],
) -> Row:
    peers, units = (QUICK_PEERS, QUICK_UNITS) if quick else (PEERS, JOB_UNITS)
    jobs = 1 if quick else cell.jobs
    terms = Terms(
        round(cell.faulty_ppm * cell.guess),
        cell.error_ppb,
        online=cell.online,
        sweep=cell.sweep,
        common_cause=cell.common_cause,
    )
    outcomes: list[tuple[float, Outcome]] = []
    others: list[tuple[Share, float]] = []
    for rate in cell.rates:
        fleet = Fleet(peers, units, cell.faulty_ppm, rate, cell.history, cell.on_off)
        total = Outcome()
        for job in range(jobs):
            name = f"{seed}/{cell.block}/{cell.faulty_ppm}/{cell.error_ppb}/{rate}/{job}"
            total.add(JobRun(fleet, terms, random.Random(name)).run())  # noqa: S311
        outcomes.append((rate, total))
        key = (cell.faulty_ppm, cell.history, cell.on_off, rate)
        if key not in rivals:
            rivals[key] = _adaptive(fleet, seed, 1 if quick else 4)
        others.append(rivals[key])
    worst_rate, worst = max(outcomes, key=lambda o: (o[1].settled_wrong, o[1].accepted_wrong))
    dearest = max((outcome for _, outcome in outcomes), key=lambda outcome: outcome.executions)
    return Row(
        block=cell.block,
        faulty_ppm=cell.faulty_ppm,
        error_ppb=cell.error_ppb,
        sabotage=worst_rate,
        accepted=Share(max(outcome.accepted_wrong for _, outcome in outcomes), worst.units),
        settled=Share(worst.settled_wrong, worst.units),
        cost=dearest.executions / dearest.units,
        audits=dearest.audits / dearest.units,
        single=worst.single / worst.units,
        failed=sum(outcome.failed for _, outcome in outcomes),
        majority=majority(cell.faulty_ppm / 1e6, cell.error_ppb / 1e9),
        adaptive=max((share for share, _ in others), key=lambda share: share.rate),
        adaptive_cost=max(cost for _, cost in others),
    )


def _adaptive(fleet: Fleet, seed: int, jobs: int) -> tuple[Share, float]:
    name = f"{seed}/adaptive/{fleet.faulty_ppm}/{fleet.history}/{fleet.on_off}/{fleet.sabotage}"
    chance = random.Random(name)  # noqa: S311
    outcomes = [adaptive(fleet, chance) for _ in range(jobs)]
    units = sum(outcome.units for outcome in outcomes)
    return (
        Share(sum(outcome.wrong for outcome in outcomes), units),
        sum(outcome.executions for outcome in outcomes) / units,
    )


def _targets(made: Table) -> list[Target]:
    ours = [row for row in made.rows if row.block not in {GUESSED, GUESSED_ABSENT, PRODUCT}]
    broken = [row for row in ours if not row.holds]
    unsure = sum(not row.surely for row in ours)
    targets = [
        Target(
            f"settled error at most 1 - theta in each of the {len(ours)} cells a-e: broken in "
            f"{len(broken)}; the upper end of the interval is above it in {unsure}",
            not broken,
        )
    ]
    for f, e, limit in ((200_000, 1_000_000, 2.8), (50_000, 10_000_000, 1.5)):
        row = made.cell(ONLINE, f, e)
        absent = made.cell(ABSENT, f, e)
        targets.append(
            Target(
                f"online, f = {f / 1e6:.2f}, theta = {_theta(e)}: cost {row.cost:.2f}, at most "
                f"{limit} (publisher absent: {absent.cost:.2f})",
                row.cost <= limit,
            )
        )
    for f, e, factor in (
        (50_000, ERROR_PPB[0], 1.3),
        (200_000, ERROR_PPB[0], math.inf),
        (200_000, ERROR_PPB[1], math.inf),
    ):
        row = made.cell(ON_OFF, f, e, 1.0)
        ratio = row.cost / row.adaptive_cost
        bound = f", at most {factor}" if math.isfinite(factor) else ""
        targets.append(
            Target(
                f"on-off, f = {f / 1e6:.2f}, theta = {_theta(e)}: settled error "
                f"{row.settled.rate:.2e} (at most {row.settled.interval[1]:.2e}), less than a "
                f"tenth of adaptive replication's {row.adaptive.rate:.2e}, at {ratio:.2f} times "
                f"its cost{bound}",
                row.settled.interval[1] < row.adaptive.rate / 10 and ratio <= factor,
            )
        )
    return targets


def _theta(error_ppb: int) -> str:
    return f"{1 - error_ppb / 1e9:.9f}".rstrip("0")


def lines(made: Table) -> list[str]:
    """The table for people: a paragraph on how to read it, a block after the other, the targets."""
    text = [
        f"Credibility, seed {made.seed}"
        + (" (quick: intervals mean little)" if made.quick else ""),
        f"{QUICK_PEERS if made.quick else PEERS} peers, jobs of "
        f"{QUICK_UNITS if made.quick else JOB_UNITS} units; faulty peers "
        "collude: they lie on the same units and agree on the answer; those caught come back as "
        "newcomers.",
        f"Audits {AUDIT_RATE:.0%} of accepted units, ringers {RINGER_RATE:.0%}, settled after "
        f"{PASSES} later checks of each voter, the publisher's own execution, or the job's end.",
        "cost = executions a unit, audits and ringers counted, the dearest of the sabotage rates "
        "s; errors: the worst of "
        + ", ".join(f"{rate:g}" for rate in SABOTAGE)
        + "; in brackets the 95 % interval (Wilson).",
        "majority: m matching of 2m - 1, exact formula, s = 1. adaptive: adaptive replication "
        "under the same attack.",
    ]
    block = ""
    for row in made.rows:
        if row.block != block:
            block = row.block
            text += ["", block, _HEADER]
        text.append(_line(row))
    text.append("")
    text += [f"{'reached' if t.reached else 'MISSED '}  {t.sentence}" for t in made.targets]
    return text


_HEADER = (
    "   f  theta   accepted   settled error [95 %]           at s     cost audits single failed  "
    "holds    majority: m error cost    adaptive: error cost"
)


def _line(row: Row) -> str:
    low, high = row.settled.interval
    holds = "yes" if row.surely else "likely" if row.holds else "NO"
    return (
        f"{row.faulty_ppm / 1e6:4.2f} {_theta(row.error_ppb):>6}   {row.accepted.rate:8.2e}   "
        f"{row.settled.rate:8.2e} [{low:.1e}, {high:.1e}]  {row.sabotage:4.2f}  {row.cost:7.2f} "
        f"{row.audits:6.2f} {row.single:6.2f} {row.failed:6d}  {holds:<6}   "
        f"{row.majority.m:10d} {row.majority.error:.1e} {row.majority.cost:5.2f}    "
        f"{row.adaptive.rate:14.2e} {row.adaptive_cost:5.2f}"
    )
