"""The folder that results are written to: there, ours to write, and without another job's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

from p2pfleet.core.errors import ExitCode, P2pfleetError

MAX_REPORT_BYTES = 256 * 2**20
OWN_FILES = (
    "manifest.json",
    "snapshots.jsonl",
    "frames.jsonl",
    "certificates.jsonl",
    "report.json",
)


def check_results_folder(folder: Path, job: str | None = None) -> Path:
    """Make ``folder`` if it is missing; its absolute path.

    It has to be empty, or hold earlier results of the job whose full id is ``job``: outputs of two
    jobs in one folder would prove nothing. Raises :class:`P2pfleetError`.
    """
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise P2pfleetError(
            f"results cannot be written to {folder}: {error.strerror or error}.",
            "Choose another --output.",
            ExitCode.USAGE,
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise P2pfleetError(
            f"results cannot be written to {folder}: permission denied.",
            "Choose another --output.",
            ExitCode.USAGE,
        )
    if names and (job is None or not _holds_nothing_else(folder, names, job)):
        raise P2pfleetError(
            f"{folder} is not empty ({names[0]!r} is in it).",
            "Choose a new folder for --output, so that it proves one job and nothing else.",
            ExitCode.USAGE,
        )
    return folder


def _holds_nothing_else(folder: Path, names: list[str], job: str) -> bool:
    """Whether these are results of ``job``, perhaps cut off before the report was written."""
    own = {*OWN_FILES, "outputs"}
    if not all(name in own or name.startswith(".") or name.endswith(".new") for name in names):
        return False
    report = folder / "report.json"
    if not report.exists():
        # Outputs come first and the report last: a folder without one was cut off, and its outputs
        # are written again, each under the same name.
        return "manifest.json" not in names
    try:
        if report.stat().st_size > MAX_REPORT_BYTES:
            return False
        return bool(json.loads(report.read_bytes())["job"]["id"] == job)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
