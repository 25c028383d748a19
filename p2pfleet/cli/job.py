"""``job``: what has become of a job, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from p2pfleet.cli.control import client_of
from p2pfleet.cli.custody import custody_text
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common, located, parse_job_text
from p2pfleet.cli.output import CommandFailed, Output, duration, exit_codes, table
from p2pfleet.cli.recalling import can_recall, recalled_jobs, recalled_results
from p2pfleet.cli.results_folder import check_results_folder
from p2pfleet.cli.waiting import is_over, outcome, succeeded, wait_through
from p2pfleet.core.errors import ExitCode

_TALKS = exit_codes(ExitCode.NO_NODE)
_COLLECTS = exit_codes(ExitCode.NO_NODE, ExitCode.NO_PEERS)
_job_argument = click.argument("job_id", metavar="ID", type=parse_job_text)


@click.group()
def job() -> None:
    """The jobs that a running node knows."""


@job.command("list", epilog=_COLLECTS)
@click.option("--own", is_flag=True, help="Only the jobs that this node published.")
@located
@common
@click.pass_obj
def list_jobs(output: Output, place: Place, own: bool) -> None:
    """List jobs.

    Where no node runs, the network is asked for the jobs that the folder's identity published.
    """
    client = client_of(place)
    found: list[dict[str, Any]]
    if not client.alive() and can_recall(place):
        found = recalled_jobs(place, output)
    else:
        found = client.call("jobs")
    found = [one for one in found if one["own"] or not own]
    rows = [
        (
            one["id"][:12], one["name"], one["state"], one["own"],
            f"{one['certified'] + one['settled']}/{one['units']}", one["failed"], one["volunteers"],
            duration(one["seconds"]),
        )
        for one in found
    ]  # fmt: skip
    headings = ("job", "name", "state", "own", "certified", "failed", "volunteers", "since")
    output.result(found, table(headings, rows) if rows else ["no job is known"])


@job.command(epilog=_TALKS)
@_job_argument
@located
@common
@click.pass_obj
def show(output: Output, place: Place, job_id: str) -> None:
    """Show one job."""
    found: dict[str, Any] = client_of(place).call("job", job=job_id)
    hidden = ("failures", "reason", "custody")
    lines = [f"{key:<14}{value}" for key, value in found.items() if key not in hidden]
    lines += [f"{'custody':<14}{custody_text(found['custody'])}"] if found["custody"] else []
    output.result(found, lines + outcome(found)[1:])


@job.command(epilog=_TALKS)
@_job_argument
@located
@common
@click.pass_obj
def watch(output: Output, place: Place, job_id: str) -> int:
    """Wait until a job is over. Stopping to watch does not stop the job."""
    found = wait_through(client_of(place), job_id, output, None, "")
    output.result(found, outcome(found))
    return ExitCode.OK if succeeded(found) else ExitCode.FAILED


@job.command(epilog=_COLLECTS)
@_job_argument
@click.option(
    "--output", "folder", required=True, metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False), help="Where to write; made if missing.",
)  # fmt: skip
@located
@common
@click.pass_obj
def results(output: Output, place: Place, job_id: str, folder: Path) -> int:
    """Write the outputs, certificates and report of a job to a folder.

    Works at any time; what is not settled yet is left out, and the exit code is 1 then.

    Where no node runs, this command is the publisher for as long as there is something to collect.
    A new folder will do that holds nothing but the publisher's identity.key: what volunteers keep
    is found by it. What only the old folder knew is lost: the names of the inputs (numbers stand
    for them), and which hidden test units there were.
    """
    client = client_of(place)
    found: dict[str, Any]
    if not client.alive() and can_recall(place):
        found, folder = recalled_results(place, output, job_id, folder)
    else:
        found = client.call("job", job=job_id)
        folder = check_results_folder(folder, found["id"])
        client.call("results", job=found["id"], output=str(folder))
        found = client.call("job", job=found["id"])
    complete = succeeded(found) and is_over(found)
    if not complete and not is_over(found):
        output.note("The job is not over: ask again later for the rest.")
    output.result(
        {"output": str(folder), "complete": complete, "job": found},
        [*outcome(found), f"results: {folder}", f"check them: p2pfleet verify {folder}"],
    )
    return ExitCode.OK if complete else ExitCode.FAILED


@job.command(epilog=_TALKS)
@_job_argument
@located
@common
@click.pass_obj
def cancel(output: Output, place: Place, job_id: str) -> None:
    """End an own job before its time; what is settled stays."""
    client = client_of(place)
    before: dict[str, Any] = client.call("job", job=job_id)
    if is_over(before):
        raise CommandFailed(
            f"the job is over already ({before['state']}).",
            "Nothing needs to be done.",
            ExitCode.FAILED,
            {"job": before},
        )
    client.call("cancel", job=before["id"])
    found: dict[str, Any] = client.call("job", job=before["id"])
    output.result(found, outcome(found))
