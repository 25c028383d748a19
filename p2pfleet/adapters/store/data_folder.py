"""The data folder: for its owner only, of a layout that we know, used by one node at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pfleet.adapters.store.durable_file import make_folder, os_errors_explained, replace_file
from p2pfleet.core.errors import ExitCode, P2pfleetError

_log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Goes up when an older p2pfleet could no longer make sense of the folder."""

_LABEL = "p2pfleet data folder "
_MAX_VERSION_BYTES = 200


@contextmanager
def lock_data_dir(path: Path) -> Iterator[Path]:
    """Hold the data folder ``path`` (made 0700 if missing) for this node; yields the folder.

    The system lets go by itself when the process ends, however it ends. Raises
    :class:`P2pfleetError` when another node holds it, its layout is of another version, or it
    cannot be used.
    """
    with os_errors_explained(path):
        make_folder(path)
        if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _log.warning("others may write into %s; better: chmod 700 %s", path, path)
        _check_version(path)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with os_errors_explained(path / "lock"):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _held(path, os.pread(descriptor, 32, 0)) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
            if not _version_file(path).exists():
                replace_file(_version_file(path), f"{_LABEL}{LAYOUT_VERSION}\n".encode("ascii"))
        yield path
    finally:
        # The file stays: deleting it would let two nodes lock two files of one name.
        os.close(descriptor)


def _version_file(folder: Path) -> Path:
    return folder / "VERSION"


def _check_version(folder: Path) -> None:
    file = _version_file(folder)
    try:
        with file.open("rb") as opened:
            text = opened.read(_MAX_VERSION_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return
    number = text.removeprefix(_LABEL)
    if number == text or not number.isdecimal():
        raise P2pfleetError(
            f"{file} does not say which p2pfleet wrote this data folder.",
            f"If it is a p2pfleet folder, write '{_LABEL}{LAYOUT_VERSION}' into that file; else"
            " choose another --data-dir.",
            ExitCode.DAMAGED,
        )
    if int(number) > LAYOUT_VERSION:
        raise P2pfleetError(
            f"data folder was written by a newer p2pfleet ({folder} has layout {number}, this"
            f" p2pfleet knows up to {LAYOUT_VERSION}).",
            "Please upgrade p2pfleet, or choose another --data-dir.",
            ExitCode.DAMAGED,
        )
    if int(number) < LAYOUT_VERSION:
        raise P2pfleetError(
            f"{folder} has layout {number}, which this p2pfleet can no longer read.",
            "Choose another --data-dir, or an older p2pfleet.",
            ExitCode.DAMAGED,
        )


def _held(folder: Path, content: bytes) -> P2pfleetError:
    text = content.decode("ascii", "replace").strip()
    holder = int(text) if text.isdecimal() else 0
    if holder and not _runs(holder):
        return P2pfleetError(
            f"a child process that an earlier node (pid {holder}, ended) left behind is using"
            f" {folder}.",
            "End it (fuser or lsof on the file 'lock' there names it), and start again.",
        )
    return P2pfleetError(
        f"another node (pid {holder or 'unknown'}) is using {folder}.",
        "Stop that node, or choose another --data-dir for this one.",
    )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
