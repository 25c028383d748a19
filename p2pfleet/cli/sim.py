"""``sim``: run a scenario in the simulator, under one seed or many."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, duration, exit_codes, table
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.resources import resource_path

if TYPE_CHECKING:
    from p2pfleet.sim.run import Outcome
    from p2pfleet.sim.scenario import Scenario

SEEDS_MAX = 10_000
STORY_LINES = 200
NEWS_AFTER_S = 20.0
ALL = "all"


@click.command(epilog=exit_codes())
@click.argument("scenario", required=False)
@click.option(
    "--table",
    "table_name",
    type=click.Choice(["credibility"]),
    help="Print a table of the validation rule instead: settled errors and costs under attack.",
)
@click.option("--quick", is_flag=True, help="A rough --table in seconds.")
@click.option("--check", is_flag=True, help="Cells of the --table in the full simulator instead.")
@click.option(
    "--scale",
    "sizes",
    metavar="NODES,...",
    help="What a unit costs in networks of these sizes instead, such as 32,128,512.",
)
@click.option(
    "--units",
    type=click.IntRange(1, 1_000),
    metavar="N",
    help="So many units a node with --scale; 2 unless said.",
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 3_600),
    metavar="S",
    help="Cut each size of --scale off after S simulated seconds.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="S",
    help="The first seed.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, SEEDS_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="How many seeds, from the first one on.",
)
@click.option(
    "--story",
    type=click.IntRange(0),
    metavar="UNIT",
    help="Tell everything that touched this unit; only with one seed.",
)
@click.option(
    "--job",
    type=click.IntRange(0),
    default=0,
    metavar="NUMBER",
    help="The job whose unit --story means, as the scenario counts them, from 0.",
)
@click.option(
    "--traces",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write scenario, seed and trace hash of every run there, one a line.",
)
@common
@click.pass_obj
def sim(
    output: Output, scenario: str | None, table_name: str | None, quick: bool, check: bool,
    sizes: str | None, units: int | None, seconds: int | None, seed: int, seeds: int,
    story: int | None, job: int, traces: Path | None,
) -> None:  # fmt: skip
    """Run SCENARIO in the simulator: the core of real nodes in a world made of one seed.

    SCENARIO is a file, or the name of one of those in testnet/scenarios, or 'all'. The same
    scenario and seed give the same run, told by its trace hash. Exits with 1 if anything that must
    hold did not; then the seed's story is printed, and how to run it again.
    """
    if check and table_name is None:
        raise click.UsageError("--check is about a --table.")
    if table_name is not None:
        (_cross_check if check else _credibility)(output, seed, quick)
        return
    if sizes is not None:
        _scale(output, sizes, seed, units, seconds)
        return
    if units is not None or seconds is not None:
        raise click.UsageError("--units and --seconds are about --scale.")
    if scenario is None:
        raise click.UsageError("name a SCENARIO, 'all', --table credibility, or --scale.")
    from p2pfleet.sim.run import simulate

    # A run makes much and leaves no cycles until it ends: looking for them often is a twentieth of
    # its time.
    gc.set_threshold(100_000, 20, 100)
    if story is not None and (seeds != 1 or scenario == ALL):
        raise click.UsageError("--story is about one scenario and one seed.")
    runs: list[dict[str, Any]] = []
    lines: list[str] = []
    hashes: list[str] = []
    events = core_events = 0
    spent = 0.0
    plans = _scenarios(scenario, output)
    began = time.monotonic()
    for count, (path, plan) in enumerate(plans):
        if count and (passed := time.monotonic() - began) > NEWS_AFTER_S:
            left = passed / count * (len(plans) - count)
            output.note(f"{count} of {len(plans)} scenarios are done, about {duration(left)} left")
        if story is not None:
            lines += _told(plan, seed, story, job)
        rows = []
        for number in range(seed, seed + seeds):
            before = time.process_time()
            outcome = simulate(plan, number)
            spent += time.process_time() - before
            events += outcome.events
            core_events += outcome.core_events
            hashes.append(f"{plan.name} {number} {outcome.trace}")
            runs.append(_document(outcome))
            rows.append(_row(outcome))
            if not outcome.held:
                output.note(f"{plan.name}, seed {number}: something that must hold did not")
                lines += _failure(plan, path, outcome)
        lines += ["", f"{plan.name}: {plan.about}", *table(_HEADINGS, rows)]
    if traces is not None:
        _write(traces, hashes)
    rate = events / max(spent, 1e-9)
    held = all(run["held"] for run in runs)
    lines += [
        "",
        f"{len(runs)} runs, {events} simulated events ({core_events} of them into a core) "
        f"in {spent:.1f} s of one processor: {rate:.0f} a second.",
        "Everything that must hold held." if held else "NOT everything that must hold held.",
    ]
    document = {"held": held, "runs": runs, "events": events, "events_a_second": round(rate)}
    output.result(document, lines[1:] if lines[0] == "" else lines)
    if not held:
        raise SystemExit(ExitCode.FAILED)


def _credibility(output: Output, seed: int, quick: bool) -> None:
    import msgspec

    from p2pfleet.sim.table import lines, table

    found = table(seed, quick, output.note)
    output.result(msgspec.to_builtins(found), lines(found))


def _cross_check(output: Output, seed: int, quick: bool) -> None:
    import msgspec

    from p2pfleet.sim.table_check import cross_check, lines

    found = cross_check(seed, quick, output.note)
    output.result({**msgspec.to_builtins(found), "agrees": found.agrees}, lines(found))
    if not found.agrees:
        raise SystemExit(ExitCode.FAILED)


def _scale(output: Output, sizes: str, seed: int, units: int | None, seconds: int | None) -> None:
    import msgspec

    from p2pfleet.sim.scale import (
        END_MS,
        HEADINGS,
        NODES_MAX,
        UNITS_A_NODE,
        legend,
        row,
        scale,
    )

    try:
        wanted = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise click.UsageError("--scale wants numbers, such as 32,128,512.") from None
    if not all(2 <= size <= NODES_MAX for size in wanted):
        raise click.UsageError(f"--scale wants from 2 to {NODES_MAX} nodes.")
    units = UNITS_A_NODE if units is None else units
    end_ms = END_MS if seconds is None else 1_000 * seconds
    found = scale(wanted, seed, output.note, units, end_ms)
    done = seconds is not None or all(cost.settled == cost.units for cost in found)
    lines = [*table(HEADINGS, [row(cost) for cost in found]), "", *legend()]
    terms = {"seed": seed, "units_a_node": units, "seconds": seconds}
    document = {"done": done, **terms, "sizes": msgspec.to_builtins(found)}
    output.result(document, lines)
    if not done:
        raise SystemExit(ExitCode.FAILED)


_HEADINGS = (
    "seed", "held", "settled", "failed", "wrong", "executions", "crashes", "lost", "seconds",
    "events", "trace",
)  # fmt: skip


def _row(outcome: Outcome) -> tuple[Any, ...]:
    return (
        outcome.seed, outcome.held, outcome.settled, outcome.failed, outcome.wrong,
        outcome.executions, outcome.crashes, outcome.lost, round(outcome.ended_ms / 1000),
        outcome.events, outcome.trace[:16],
    )  # fmt: skip


def _scenarios(named: str, output: Output) -> list[tuple[str, Scenario]]:
    """What to run: a file, a known scenario by name, or every known one that is a simulation."""
    from p2pfleet.sim.scenario import is_simulation, load_scenario

    if named == ALL:
        folder = resource_path("testnet", "scenarios")
        paths = sorted(folder.glob("*.toml"))
        left_out = [path.name for path in paths if not is_simulation(path)]
        if left_out:
            output.note(f"for real processes, and left out: {', '.join(left_out)}")
        return [(path.stem, load_scenario(path)) for path in paths if path.name not in left_out]
    if named.endswith(".toml") or "/" in named:
        return [(named, load_scenario(Path(named)))]
    return [(named, load_scenario(resource_path("testnet", "scenarios", f"{named}.toml")))]


def _document(outcome: Outcome) -> dict[str, Any]:
    import msgspec

    found = [
        {
            "checker": violation.checker,
            "at_ms": violation.at_ms,
            "machine": violation.machine,
            "text": violation.text,
            "job": None if violation.job is None else violation.job.hex(),
            "unit": violation.unit,
        }
        for violation in outcome.violations
    ]
    plain = {
        field: getattr(outcome, field)
        for field in msgspec.structs.asdict(outcome)
        if field != "violations"
    }
    return {**plain, "held": outcome.held, "violations": found}


def _failure(plan: Scenario, path: str, outcome: Outcome) -> list[str]:
    """What did not hold, how to run it again, and the story of the first unit concerned."""
    lines = ["", f"{plan.name}, seed {outcome.seed}:"]
    for found in outcome.violations:
        unit = "" if found.unit is None else f", unit {found.unit}"
        lines.append(
            f"  {found.checker} at {found.at_ms / 1000:.3f} s, {found.machine}{unit}: {found.text}"
        )
    again = f"p2pfleet sim {path} --seed {outcome.seed}"
    first = next((found for found in outcome.violations if found.unit is not None), None)
    if first is None or first.unit is None or first.job is None:
        return [*lines, f"  again: {again}"]
    job = outcome.jobs.index(first.job.hex())
    which = f" --job {job}" if job else ""
    lines.append(f"  again: {again} --story {first.unit}{which}")
    told = _told(plan, outcome.seed, first.unit, job)
    if len(told) > STORY_LINES:
        half = STORY_LINES // 2
        told = [*told[:half], f"  ... {len(told) - STORY_LINES} lines ...", *told[-half:]]
    return lines + told


def _told(plan: Scenario, seed: int, unit: int, job: int) -> list[str]:
    from p2pfleet.sim.run import simulate
    from p2pfleet.sim.story import Story

    if job >= len(plan.jobs) or unit >= plan.jobs[job].units:
        raise click.UsageError(f"{plan.name} has no unit {unit} of a job {job}.")
    story = Story(unit, job)
    simulate(plan, seed, story)
    return [f"  the story of unit {unit} of job {job}, seed {seed}:", *story.lines]


def _write(path: Path, hashes: list[str]) -> None:
    try:
        path.write_text("".join(f"{line}\n" for line in hashes))
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be written: {error.strerror}.", "Name another file for --traces."
        ) from error
