"""``credit``: what this node earned, by publisher, and the receipts that prove it."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import click

from p2pfleet.cli.control import check_peer, client_of
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import Output, exit_codes, table
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, peer_text

FILE = click.Path(path_type=Path, dir_okay=False)
COLUMNS = ("publisher", "kind", "job", "units", "work", "credit", "receipts", "issued_ms")


@click.command(epilog=exit_codes(ExitCode.UNTRUSTED, ExitCode.NO_NODE, ExitCode.DAMAGED))
@click.option("--csv", "as_csv", is_flag=True, help="One line a job, for a spreadsheet.")
@click.option(
    "--publisher", "publishers", multiple=True, metavar="ID",
    help="Only what this publisher signed; may be given several times.",
)  # fmt: skip
@click.option(
    "--export", "export", type=FILE, metavar="FILE",
    help="Write the signed receipts to a new FILE, one a line.",
)  # fmt: skip
@click.option(
    "--verify", "verify", type=FILE, metavar="FILE",
    help="Check the receipts in FILE, offline; no node has to run.",
)  # fmt: skip
@located
@common
@click.pass_obj
def credit(
    output: Output,
    place: Place,
    as_csv: bool,
    publishers: tuple[str, ...],
    export: Path | None,
    verify: Path | None,
) -> int:
    """Show what this node has earned, by publisher and job, and what it owes for its own jobs.

    Credit counts operations of models, with a bonus for quick answers. It is the word of one
    publisher, so what different publishers gave is never added up. With --verify the exit code is
    0 only if the publishers are known: named by --publisher, one's own, or trusted in node.toml.
    """
    modes = sum((as_csv, export is not None, verify is not None))
    if modes > 1 or (as_csv and output.as_json):
        raise P2pfleetError(
            "--csv, --export and --verify do not go together, nor do --csv and --json.",
            "Give one of them.",
            ExitCode.USAGE,
        )
    named = [PeerId(check_peer(each)) for each in publishers]
    if verify is not None:
        return _verify(output, verify, named, place.data_dir)
    if export is not None:
        _export(output, place, export, publishers)
        return ExitCode.OK
    found: dict[str, Any] = client_of(place).call("credit", publishers=list(publishers))
    if as_csv:
        _csv(found)
    else:
        output.result(found, _lines(found))
    return ExitCode.OK


def _csv(found: dict[str, Any]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for publisher in found["publishers"]:
        kind = "owed" if publisher["own"] else "earned"
        for job in publisher["jobs"]:
            writer.writerow(
                [publisher["publisher"], kind, *(str(job[name]) for name in COLUMNS[2:])]
            )
    click.echo(text.getvalue(), nl=False)
    sys.stdout.flush()


def _lines(found: dict[str, Any]) -> list[str]:
    if not found["publishers"]:
        return ["no receipts yet: a publisher signs them while its job runs, and at its end"]
    lines: list[str] = []
    for publisher in found["publishers"]:
        said = "owed to the volunteers of" if publisher["own"] else "earned from"
        lines += ["", f"{said} {publisher['publisher']}:"]
        numbers = ("units", "work", "credit", "receipts")
        rows = [
            (job["job"][:12], job["name"], *(job[name] for name in numbers))
            for job in publisher["jobs"]
        ]
        rows.append(("all", "", *(publisher[name] for name in numbers)))
        lines += table(("job", "name", *numbers), rows)
    if len(found["publishers"]) > 1:
        lines += ["", "Credit is the word of one publisher: different ones are not added up."]
    return lines[1:]


def _export(output: Output, place: Place, file: Path, publishers: tuple[str, ...]) -> None:
    file = file.expanduser().absolute()
    if file.exists():
        raise P2pfleetError(
            f"{file} exists already.", "Choose another name, or remove it.", ExitCode.USAGE
        )
    client = client_of(place)
    found = client.call("credit", publishers=list(publishers), export=str(file))
    count: int = found["exported"]
    output.result(
        {"file": str(file), "receipts": count},
        [f"{count} receipt{'' if count == 1 else 's'} written to {file}"],
    )


def _verify(output: Output, file: Path, named: list[PeerId], data_dir: Path | None) -> int:
    from p2pfleet.cli.verify import own_peers, trusted_peers
    from p2pfleet.credit import check_receipts, checked_view

    checked = check_receipts(file)
    problems = list(checked.problems)
    if named:
        problems += [
            f"{peer_text(each)} signed some of them and is not named by --publisher"
            for each in checked.sums
            if each not in named
        ]
        known = True
    else:
        trusted = {*own_peers(data_dir), *trusted_peers(data_dir)}
        known = all(each in trusted for each in checked.sums)
    code = ExitCode.OK if known else ExitCode.UNTRUSTED
    if problems:
        code = ExitCode.FAILED
    view = checked_view(checked)
    document = {"verified": code is ExitCode.OK, "consistent": not problems, **view}
    document["problems"] = problems
    lines = [
        f"{each['publisher']}: {each['credit']} credit for {each['units']} units in "
        f"{len(each['jobs'])} jobs, by {each['receipts']} receipts"
        for each in view["publishers"]
    ]
    lines += [f"does not hold: {problem}" for problem in problems]
    output.result(document, lines or ["no receipt holds"])
    if code is ExitCode.UNTRUSTED:
        output.note(
            "every signature holds; whose keys signed is not checked: anybody can sign receipts "
            "with fresh keys. If you know the publishers, name them with --publisher ID."
        )
    return code
