"""``verify``: recompute every certificate of a results folder, and say whose job it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.control import check_peer
from p2pfleet.cli.folders import Place
from p2pfleet.cli.options import common
from p2pfleet.cli.output import Output, exit_codes
from p2pfleet.config.node_file import NODE_FILE, default_data_dir, load_config
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, peer_text

if TYPE_CHECKING:
    from p2pfleet.verify import Verification


@click.command(epilog=exit_codes(ExitCode.UNTRUSTED, ExitCode.DAMAGED))
@click.argument("results_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--publisher", metavar="ID", help="The peer id that the job has to be from.")
@click.option(
    "--trust", type=click.Path(path_type=Path, dir_okay=False), metavar="SNAPSHOT",
    help="A signed trust snapshot whose records weigh the votes, too (default: the publisher's "
    "alone).",
)  # fmt: skip
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Where the own identity lies (default: the default data folder and those below it).",
)  # fmt: skip
@common
@click.pass_obj
def verify(
    output: Output,
    results_dir: Path,
    publisher: str | None,
    trust: Path | None,
    data_dir: Path | None,
) -> int:
    """Check every certificate and every output in RESULTS_DIR, offline.

    Anybody can make a whole folder with fresh keys. So the exit code is 0 only if the publisher is
    known: because the identity is one's own, because the own node.toml trusts it
    (trusted_publishers), or because --publisher names it.
    """
    named = check_peer(publisher) if publisher is not None else None
    from p2pfleet.reading_results import read_trust
    from p2pfleet.verify import verify_results

    found = verify_results(results_dir, None if trust is None else read_trust(trust))
    problems = list(found.problems)
    if named is not None and found.publisher != named:
        problems.append(
            f"the job is from {peer_text(found.publisher)}, not from the publisher named"
        )
    root = "named by --publisher" if named is not None else _root(found.publisher, data_dir)
    if problems:
        code = ExitCode.FAILED
    elif root is not None:
        code = ExitCode.OK
    else:
        code = ExitCode.UNTRUSTED
    output.result(_document(found, problems, root, code), _lines(found, problems, root))
    if code is ExitCode.UNTRUSTED:
        output.note(
            "internally consistent; trust root not checked: anybody can make such a folder with "
            "fresh keys. If you know who published the job, name them with --publisher ID."
        )
    return code


def _root(publisher: PeerId, data_dir: Path | None) -> str | None:
    """Why this publisher may be believed, if there is a reason in the own folders."""
    if publisher in own_peers(data_dir):
        return "own identity"
    if publisher in trusted_peers(data_dir):
        return "trusted in node.toml"
    return None


def _document(
    found: Verification, problems: list[str], root: str | None, code: ExitCode
) -> dict[str, Any]:
    return {
        "verified": code is ExitCode.OK,
        "consistent": not problems,
        "trust_root": root,
        "job": found.job,
        "publisher": peer_text(found.publisher),
        "rule": found.rule,
        "units": found.units,
        "certified": found.certified,
        "settled": found.settled,
        "failed": found.failed,
        "open": found.open,
        "outputs": found.outputs,
        "voters": found.voters,
        "by_publishers_word": found.audited,
        "by_single_vote": found.single,
        "by_newcomers_alone": found.newcomers,
        "with_endorsements": found.endorsed,
        "ringers": found.ringers,
        "snapshots": [
            {
                "hash": used.hash,
                "signer": peer_text(used.signer),
                "number": used.number,
                "peers": used.peers,
                "units": used.units,
            }
            for used in found.snapshots
        ],
        "weighed_by": None if found.weighed_by is None else peer_text(found.weighed_by),
        "problems": problems,
    }


def _lines(found: Verification, problems: list[str], root: str | None) -> list[str]:
    lines = [
        f"job         {found.job}",
        f"publisher   {peer_text(found.publisher)}" + (f" ({root})" if root else ""),
        f"asked for   {found.rule}",
        f"units       {found.units}: {found.certified} certified, {found.settled} of them settled,"
        f" {found.failed} failed, {found.open} open",
        f"outputs     {found.outputs}, by {found.voters} voters",
        f"rest on     the publisher's own word: {found.audited}; the vote of one peer: "
        f"{found.single}; votes of newcomers alone: {found.newcomers}",
    ]
    if found.ringers is not None:
        told = f"{found.ringers} opened" if found.ringers else "not opened: the job had not ended"
        lines.append(f"ringers     {told}")
    lines += _trust_lines(found)
    if problems:
        lines.append(f"PROBLEMS    {len(problems)}")
        lines += [f"  - {problem}" for problem in problems]
    else:
        lines.append("every certificate and every output holds")
    return lines


def _trust_lines(found: Verification) -> list[str]:
    lines = [
        f"snapshot    {used.hash[:16]} (number {used.number}) by {peer_text(used.signer)}: "
        f"{used.peers} peers, for {used.units} units"
        for used in found.snapshots
    ]
    if not found.weighs:
        lines.append("snapshot    none is needed: by a fixed quorum every voter counts alike")
    elif not lines and found.certified:
        lines.append("snapshot    no trust snapshot: every voter was a newcomer")
    if found.weighed_by is not None:
        lines.append(
            f"weighed     again, by the records of {peer_text(found.weighed_by)} (--trust); "
            "the publisher's own word was taken as it is"
        )
    return lines


def _folders(data_dir: Path | None) -> list[Path]:
    folder = Place(data_dir, None).folder if data_dir else default_data_dir()
    return [folder, *sorted(path for path in folder.glob("networks/*") if path.is_dir())]


def own_peers(data_dir: Path | None) -> set[bytes]:
    """The peers whose identity files lie here; none is created."""
    files = [folder / "identity.key" for folder in _folders(data_dir)]
    files = [file for file in files if file.is_file()]
    if not files:
        return set()
    from p2pfleet.adapters.store import load_or_create_identity, peer_of

    return {peer_of(load_or_create_identity(file)) for file in files}


def trusted_peers(data_dir: Path | None) -> set[bytes]:
    """The publishers that the own configurations trust; one with mistakes in it trusts nobody."""
    found: set[bytes] = set()
    for folder in _folders(data_dir):
        if (folder / NODE_FILE).is_file():
            try:
                found.update(load_config(None, data_dir=folder).trusted_publishers)
            except P2pfleetError:
                continue
    return found
