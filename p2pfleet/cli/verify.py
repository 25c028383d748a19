"""``verify``: recompute every certificate of a results folder, and say whose job it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pfleet.cli.control import check_peer
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config import default_data_dir
from p2pfleet.core.errors import ExitCode
from p2pfleet.core.model.ids import peer_text

if TYPE_CHECKING:
    from p2pfleet.verify import Verification


@click.command(epilog=exit_codes(ExitCode.UNTRUSTED, ExitCode.DAMAGED))
@click.argument("results_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--publisher", metavar="ID", help="The peer id that the job has to be from.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where the own identity lies (default: the default data folder and those below it).",
)  # fmt: skip
@common
@click.pass_obj
def verify(output: Output, results_dir: Path, publisher: str | None, data_dir: Path | None) -> int:
    """Check every certificate and every output in RESULTS_DIR, offline.

    Anybody can make a whole folder with fresh keys. So the exit code is 0 only if the publisher is
    known: because the identity is one's own, or because --publisher names it.
    """
    named = check_peer(publisher) if publisher is not None else None
    from p2pfleet.verify import verify_results

    found = verify_results(results_dir)
    problems = list(found.problems)
    if named is not None and found.publisher != named:
        problems.append(
            f"the job is from {peer_text(found.publisher)}, not from the publisher named"
        )
    own = named is None and found.publisher in own_peers(data_dir)
    if problems:
        code = ExitCode.FAILED
    elif named is not None or own:
        code = ExitCode.OK
    else:
        code = ExitCode.UNTRUSTED
    root = "own identity" if own else "named by --publisher" if named is not None else None
    document = {
        "verified": code is ExitCode.OK,
        "consistent": not problems,
        "trust_root": root,
        "job": found.job,
        "publisher": peer_text(found.publisher),
        "units": found.units,
        "certified": found.certified,
        "settled": found.settled,
        "failed": found.failed,
        "open": found.open,
        "outputs": found.outputs,
        "voters": found.voters,
        "problems": problems,
    }
    output.result(document, _lines(found, problems, root))
    if code is ExitCode.UNTRUSTED:
        output.note(
            "internally consistent; trust root not checked: anybody can make such a folder with "
            "fresh keys. If you know who published the job, name them with --publisher ID."
        )
    return code


def _lines(found: Verification, problems: list[str], root: str | None) -> list[str]:
    lines = [
        f"job         {found.job}",
        f"publisher   {peer_text(found.publisher)}" + (f" ({root})" if root else ""),
        f"units       {found.units}: {found.certified} certified, {found.settled} of them settled,"
        f" {found.failed} failed, {found.open} open",
        f"outputs     {found.outputs}, by {found.voters} voters",
    ]
    if problems:
        lines.append(f"PROBLEMS    {len(problems)}")
        lines += [f"  - {problem}" for problem in problems]
    else:
        lines.append("every certificate and every output holds")
    return lines


def own_peers(data_dir: Path | None) -> set[bytes]:
    """The peers whose identity files lie here; none is created."""
    folder = Place(data_dir, None).folder if data_dir else default_data_dir()
    files = [folder / "identity.key", *sorted(folder.glob("networks/*/identity.key"))]
    files = [file for file in files if file.is_file()]
    if not files:
        return set()
    from p2pfleet.adapters.store import load_or_create_identity, peer_of

    return {peer_of(load_or_create_identity(file)) for file in files}
