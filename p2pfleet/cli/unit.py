"""``unit``: single work units of a job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from p2pfleet.cli.control import sandbox_text
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common, located, parse_job_text
from p2pfleet.cli.output import Output, exit_codes, table
from p2pfleet.core.errors import ExitCode

# A unit may take as long as the owner's limits let it, and the model may have to be fetched first.
PATIENCE_S = 4 * 3600.0

_FAULTS = {
    "model": "the model failed",
    "input": "the input does not fit the model",
    "memory": "the memory limit was reached",
    "cpu": "the limit of processor time was reached",
    "output": "the outputs are not what the job allows",
    "wall": "it took too long on this machine",
    "killed": "it was ended on this node's own order",
    "crash": "the child process crashed",
}
_CONSEQUENCES = {
    "fails": "a volunteer would report the unit as failed",
    "releases": "a volunteer would leave the unit to others; nobody is held to it",
}


@click.group()
def unit() -> None:
    """Single work units of a job."""


@unit.command(epilog=exit_codes(ExitCode.NO_NODE, ExitCode.DAMAGED))
@click.argument("job_id", metavar="JOB", type=parse_job_text)
@click.argument("number", metavar="UNIT", type=click.IntRange(0, 999_999))
@located
@common
@click.pass_obj
def run(output: Output, place: Place, job_id: str, number: int) -> int:
    """Run unit UNIT of JOB in the local sandbox, to see what a volunteer sees.

    Units are numbered from 0. The result is shown and thrown away: nothing is claimed, voted for or
    told to anybody. The node that runs in the data folder does it, and fetches what is missing; if
    none runs there, everything has to be in the folder already.

    Exits with 0 if the unit ran (and gave the certified result, if there is one), with 1 if its
    model was refused, it hit a limit, failed, or gave another result.
    """
    from p2pfleet.adapters.control.client import ControlClient

    client = ControlClient(place.folder, PATIENCE_S)
    if client.alive():
        found: dict[str, Any] = client.call("unit_run", job=job_id, unit=number)
    else:
        from p2pfleet.cli.unit_offline import run_offline

        found = run_offline(place, job_id, number)
    output.result(found, lines_of(found))
    worked = found["fault"] is None and found["agrees"] is not False
    return ExitCode.OK if worked else ExitCode.FAILED


def lines_of(found: dict[str, Any]) -> Iterator[str]:
    """The report of a unit's run for a person."""
    yield from _rows("job", f"{found['job'][:12]} ({found['name']}), unit {found['unit']}")
    yield from _rows("publisher", found["publisher"])
    yield from _rows("sandbox", sandbox_text(found["sandbox"]))
    limits = found["limits"]
    yield from _rows("memory", _limit(limits["memory_mb"], "MiB"))
    yield from _rows("processor", _limit(limits["cpu_s"], "s"))
    yield from _rows("output", _limit(limits["output_mb"], "MiB"))
    if found["beyond"]:
        yield from _rows("note", f"this node would leave the job to others: {found['beyond']}")
    yield from _rows("model", f"{found['model']['bytes']} bytes, {_admission(found)}")
    yield from _tensors("inputs", found["inputs"])
    if found["fault"] is not None:
        fault = found["fault"]
        yield ""
        yield f"{_FAULTS.get(fault['kind'], fault['kind'])}: {fault['reason']}"
        yield _CONSEQUENCES[found["volunteer"]]
        return
    yield from _tensors("outputs", found["outputs"])
    yield ""
    yield from _rows("digest", f"{found['digest']} ({found['output_bytes']} bytes)")
    yield from _rows(
        "took", f"{found['cpu_ms']} ms of processor time, {found['wall_ms']} ms in all"
    )
    yield from _rows("certified", _certified(found))


def _rows(key: str, text: str) -> Iterator[str]:
    yield f"{key:<11}{text}"


def _limit(row: dict[str, float], unit_name: str) -> str:
    by = "the job's limit" if row["job"] <= row["owner"] else "the owner's limit"
    return (
        f"{row['applied']:g} {unit_name}: {by} "
        f"(the job asks for {row['job']:g}, the owner grants {row['owner']:g})"
    )


def _admission(found: dict[str, Any]) -> str:
    admitted = found["model"]["admitted"]
    if admitted is None:
        return "not looked at"
    return "admitted and loaded" if admitted else "not admitted"


def _tensors(what: str, tensors: list[dict[str, Any]]) -> list[str]:
    if not tensors:
        return []
    rows = [
        (
            tensor["name"], tensor["dtype"], str(tensor["shape"]), tensor["bytes"],
            _first(tensor["first"]),
        )
        for tensor in tensors
    ]  # fmt: skip
    return ["", *table((what, "dtype", "shape", "bytes", "first values"), rows)]


def _first(values: list[Any]) -> str:
    return " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)


def _certified(found: dict[str, Any]) -> str:
    if found["agrees"] is None:
        return f"not that this node knows of (the unit is {found['state']})"
    if found["agrees"]:
        return f"the same digest (the unit is {found['state']})"
    return f"ANOTHER digest: {found['certified_digest']} (the unit is {found['state']})"
