"""What a command says: one JSON document or lines for people, and errors with advice.

Names, reasons and software versions come from strangers, so nothing reaches a terminal before its
control characters are gone.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from p2pfleet.core.errors import ExitCode, P2pfleetError

MEANINGS = {
    ExitCode.OK: "it worked",
    ExitCode.FAILED: "it failed, or a part of it did",
    ExitCode.USAGE: "the command line or a configuration file is wrong",
    ExitCode.UNTRUSTED: "consistent, but nothing shows who published it",
    ExitCode.NO_NODE: "no node is running there, or it does not answer",
    ExitCode.NO_PEERS: "no other node takes part",
    ExitCode.DAMAGED: "a file of p2pfleet is damaged",
    ExitCode.UNKEPT: "published, but not kept by enough others for the publisher to leave",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C or SIGTERM)",
}


def exit_codes(*codes: ExitCode) -> str:
    """An epilog for ``--help`` that documents the exit codes of a command."""
    listed = sorted({ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.INTERRUPTED, *codes})
    lines = "\n".join(f"  {int(code):>3}  {MEANINGS[code]}" for code in listed)
    return f"\b\nExit codes:\n{lines}"


class CommandFailed(P2pfleetError):
    """An error that leaves something behind which the JSON document must tell, such as a job."""

    def __init__(
        self, message: str, advice: str, code: ExitCode, document: Mapping[str, Any]
    ) -> None:
        super().__init__(message, advice, code)
        self.document = dict(document)


class Output:
    """Where a command talks to: standard output for its result, standard error for the rest."""

    def __init__(self, as_json: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug

    def note(self, text: str) -> None:
        """A line on standard error, for the person who waits."""
        click.echo(clean(text), err=True)

    def early(self, text: str) -> None:
        """A line of the result that somebody may need before the end; no part of the JSON."""
        click.echo(clean(text), err=self.as_json)
        sys.stdout.flush()

    def result(self, document: Any, lines: Iterable[str]) -> None:
        """The result: ``document`` with ``--json``, else ``lines``."""
        if self.as_json:
            click.echo(json.dumps(document, indent=2))
            return
        for line in lines:
            click.echo(clean(line))

    def error(self, error: P2pfleetError) -> None:
        """``error`` for a person, and as the document with ``--json``."""
        if self.debug:
            traceback.print_exception(error)
        click.echo(clean(f"error: {error}", keep="\n"), err=True)
        if not self.as_json:
            return
        problem: dict[str, Any] = {
            "message": error.message,
            "advice": error.advice,
            "code": int(error.code),
        }
        mistakes = getattr(error, "mistakes", None)
        if mistakes:
            problem["mistakes"] = list(mistakes)
        click.echo(json.dumps({"error": problem, **getattr(error, "document", {})}, indent=2))


def clean(text: str, keep: str = "") -> str:
    """``text`` with everything that could move a cursor or change a title made visible."""
    return "".join(
        char if char.isprintable() or char in keep else f"\\x{ord(char):02x}" for char in text
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines with aligned columns: numbers to the right, text to the left."""
    listed = [[_cell(value) for value in row] for row in rows]
    numeric = [
        bool(listed) and all(row[column].replace(".", "", 1).isdigit() for row in listed)
        for column in range(len(headings))
    ]
    widths = [
        max(len(text) for text in column)
        for column in zip(headings, *listed, strict=True)
    ]  # fmt: skip
    lines = []
    for row in [list(headings), *listed]:
        cells = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return clean(str(value))[:140] if value not in (None, "") else "-"


def duration(seconds: float) -> str:
    """A time span for people: ``45 s``, ``3 min 10 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
