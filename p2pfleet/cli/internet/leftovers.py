"""Finding and ending the processes that run in hosts, whoever started them there.

Each is found by its namespace, or by a mark in its environment that names the guard of its
internet; children inherit both, unless they take care not to.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from p2pfleet.cli.internet.enter import MARK
from p2pfleet.cli.processes import ProcessName, is_alive

_PATIENCE_S = 5.0
_LOOK_EVERY_S = 0.02
_PREFIX = f"{MARK}=".encode()


def mark_of(guard: ProcessName) -> str:
    """What processes of its internet carry in their environment."""
    return f"{guard.pid}:{guard.started}:{guard.boot}"


def end_all(namespaces: Collection[int], mark: str, spare: Collection[int]) -> int:
    """SIGKILL whatever runs in these namespaces (inode numbers) or carries ``mark``; how many.

    Returns when they are gone, or after some seconds.
    """
    wanted = mark.encode()
    return _end(
        lambda pid: _namespace(pid) in namespaces or _mark(pid) == wanted,
        {os.getpid(), *spare},
    )


def end_orphans() -> int:
    """SIGKILL what is left of internets whose guard is gone; how many processes that were."""

    def orphaned(pid: int) -> bool:
        mark = _mark(pid)
        return mark is not None and not _guarded(mark)

    return _end(orphaned, {os.getpid()})


def _end(ours: Callable[[int], bool], spare: Collection[int]) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    ended: set[int] = set()
    while True:
        # Again and again: a process may start another one while it is being ended.
        found = [pid for pid in _running() if pid not in spare and ours(pid)]
        if not found or time.monotonic() >= deadline:
            return len(ended)
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                ended.add(pid)
        time.sleep(_LOOK_EVERY_S)


def _running() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _namespace(pid: int) -> int | None:
    """The inode number of a process's network namespace; that of one that ended is gone."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:
        return None


def _mark(pid: int) -> bytes | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((one[len(_PREFIX) :] for one in variables if one.startswith(_PREFIX)), None)


def _guarded(mark: bytes) -> bool:
    """Whether the guard that a mark names still runs."""
    try:
        pid, started, boot = mark.decode("ascii").split(":")
        return is_alive(ProcessName(int(pid), int(started), boot))
    except (ValueError, OverflowError):
        return True  # no mark of ours: not ours to end
