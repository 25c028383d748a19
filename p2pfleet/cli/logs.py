"""Where the logging of a node goes, and how much of it."""

from __future__ import annotations

import logging
from pathlib import Path

from p2pfleet.cli.folders import make_folder
from p2pfleet.cli.output import clean
from p2pfleet.core.errors import P2pfleetError

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class _CleanFormatter(logging.Formatter):
    """Log lines quote strangers; they must not steer the terminal that shows them."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record), keep="\n")


def log_to_stderr(level: str) -> None:
    """For a node in the foreground. ``level`` is one of the configuration's."""
    _log_to(logging.StreamHandler(), level)


def log_to_file(path: Path, level: str) -> None:
    """For a node inside another command: the terminal belongs to that command."""
    make_folder(path.parent)
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Check the permissions of the folder, or choose another --data-dir.",
        ) from error
    _log_to(handler, level)


def _log_to(handler: logging.Handler, level: str) -> None:
    handler.setFormatter(_CleanFormatter(_FORMAT))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Our libraries' everyday is not the owner's business; their trouble is.
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("p2pfleet").setLevel(level.upper())
    # libp2p reports what its peers do wrong as its own errors; our own checks have the last word.
    logging.getLogger("libp2p").setLevel(logging.INFO if level == "debug" else logging.CRITICAL)
