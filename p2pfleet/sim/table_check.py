"""Cells of the credibility table once more, in the full simulator: machines, network and all.

``p2pfleet sim --table credibility --check``. The table's statistical model knows of no claims that
cross, no windows, no newcomers who wait; this shows what they cost, and that as little wrong is
settled. A few hundred units tell nothing of errors below a percent, but all of costs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from p2pfleet.sim.run import simulate
from p2pfleet.sim.scenario import (
    ClockQuality,
    DiskQuality,
    Expectation,
    JobPlan,
    MachineKind,
    NetworkQuality,
    Scenario,
)
from p2pfleet.sim.table import HISTORY, Share
from p2pfleet.sim.table_job import AUDIT_RATE, RINGER_RATE, JobRun, Outcome, Terms
from p2pfleet.sim.table_rivals import Fleet

PEERS = 20
UNITS = 300
SEEDS = 2
QUICK_UNITS = 100
QUICK_SEEDS = 1
MODEL_JOBS = 100
CELLS = ((200_000, 10_000_000), (50_000, 10_000_000))
SABOTAGE = (0.3, 1.0)
COST_RATIO_MAX = 1.5
"""How much dearer than the model the full protocol may be before something is amiss in either."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One cell in both: ``costs`` are executions a unit, audits and ringers counted."""

    faulty_ppm: int
    error_ppb: int
    sabotage: float
    model: Share
    model_cost: float
    full: Share
    full_cost: float
    audits: float
    failed: int
    held: bool

    @property
    def agrees(self) -> bool:
        """Whether everything held, no more is wrong than accepted, and the cost is near."""
        return (
            self.held
            and self.full.interval[0] <= self.error_ppb / 1e9
            and self.full_cost <= COST_RATIO_MAX * self.model_cost
        )


@dataclass(slots=True)
class CrossCheck:
    """All cells."""

    seed: int
    units: int
    seeds: int
    cells: list[Compared] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether each of them does."""
        return all(cell.agrees for cell in self.cells)


def cross_check(seed: int, quick: bool, progress: Callable[[str], None]) -> CrossCheck:
    """Run the cells in both; the same seed gives the same answer on every machine."""
    made = CrossCheck(seed, QUICK_UNITS if quick else UNITS, QUICK_SEEDS if quick else SEEDS)
    for faulty_ppm, error_ppb in CELLS:
        for rate in SABOTAGE:
            progress(f"f = {faulty_ppm / 1e6:g}, s = {rate:g}, in the full simulator")
            fleet = Fleet(PEERS, made.units, faulty_ppm, rate, HISTORY)
            made.cells.append(_compare(fleet, error_ppb, made))
    return made


def _compare(fleet: Fleet, error_ppb: int, made: CrossCheck) -> Compared:
    model = Outcome()
    for job in range(MODEL_JOBS):
        name = f"{made.seed}/check/{fleet.faulty_ppm}/{error_ppb}/{fleet.sabotage}/{job}"
        model.add(JobRun(fleet, Terms(fleet.faulty_ppm, error_ppb), random.Random(name)).run())  # noqa: S311
    wrong = failed = executions = audits = 0
    held = True
    for number in range(made.seed, made.seed + made.seeds):
        chance = random.Random(f"{number}/history/{fleet.faulty_ppm}/{fleet.sabotage}")  # noqa: S311
        ringers = max(1, round(RINGER_RATE * fleet.units))
        outcome = simulate(_scenario(fleet, error_ppb, ringers, chance), number)
        wrong += outcome.wrong
        failed += outcome.failed
        executions += outcome.executions + ringers
        audits += outcome.audits
        held = held and outcome.held
    units = made.seeds * fleet.units
    return Compared(
        faulty_ppm=fleet.faulty_ppm,
        error_ppb=error_ppb,
        sabotage=fleet.sabotage,
        model=Share(model.settled_wrong, model.units),
        model_cost=model.executions / model.units,
        full=Share(wrong, units),
        full_cost=executions / units,
        audits=audits / units,
        failed=failed,
        held=held,
    )


def _scenario(fleet: Fleet, error_ppb: int, ringers: int, chance: random.Random) -> Scenario:
    """The cell as a scenario; what each peer has passed before stands on the publisher's disk."""
    peers = zip(fleet.faulty(), fleet.records(chance), strict=True)
    volunteers = tuple(
        MachineKind(
            name=f"peer{number}",
            adversary="colluder" if faulty else "",
            rate=fleet.sabotage,
            ring="ring",
            history=passed,
        )
        for number, (faulty, passed) in enumerate(peers)
    )
    job = JobPlan(
        publisher="publisher-0",
        units=fleet.units,
        confidence=1 - error_ppb / 1e9,
        assume_faulty=fleet.faulty_ppm / 1e6,
        audit=AUDIT_RATE,
        ringers=ringers,
        crowd=fleet.peers,
        replicas_max=fleet.peers,
    )
    return Scenario(
        name="check",
        about="a cell of the credibility table",
        network=NetworkQuality(),
        disk=DiskQuality(),
        clocks=ClockQuality(),
        machines=(MachineKind(name="publisher", slots=0), *volunteers),
        jobs=(job,),
        faults=(),
        # What is settled wrongly is counted, and judged by its share.
        expect=Expectation(wrong_settled_max=fleet.units),
    )


def lines(made: CrossCheck) -> list[str]:
    """The comparison for people."""
    text = [
        f"The table's model beside the full simulator, seed {made.seed}",
        f"{PEERS} peers with a history of {HISTORY} units each, publisher online; jobs of "
        f"{made.units} units, {MODEL_JOBS} in the model and {made.seeds} in the full simulator; "
        "faulty peers collude and lie on the share s.",
        "cost = executions a unit, audits and ringers counted; in brackets the 95 % interval.",
        "",
        "   f  theta    s   model: settled error  cost   full: settled error [95 %]         cost "
        "audits failed   full/model",
    ]
    text += [_line(cell) for cell in made.cells]
    verdict = "They agree" if made.agrees else "They do NOT agree"
    bound = f"no more wrong than theta allows, at {COST_RATIO_MAX:g} times the cost at most"
    return [*text, "", f"{verdict}: everything held, {bound}."]


def _line(cell: Compared) -> str:
    low, high = cell.full.interval
    ratio = cell.full_cost / cell.model_cost
    return (
        f"{cell.faulty_ppm / 1e6:4.2f} {1 - cell.error_ppb / 1e9:6g} {cell.sabotage:4.2f}   "
        f"{cell.model.rate:20.1e} {cell.model_cost:5.2f}   {cell.full.rate:.1e} "
        f"[{low:.1e}, {high:.1e}]  {cell.full_cost:9.2f} {cell.audits:6.2f} {cell.failed:6d}   "
        f"{ratio:10.2f}{'' if cell.agrees else '  NO'}"
    )
