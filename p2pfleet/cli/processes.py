"""Processes that outlive the command which started them: found again, and stopped, by others.

A number alone does not name a process, since the system gives it to another one later; number,
start time and the machine's boot do. Nothing is ever signalled unless all three are as written
down.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_LOOK_EVERY_S = 0.05
_DEAD = ("Z", "X", "x")


class ProcessName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process, for good: its number, its start (clock ticks after the boot), and the boot."""

    pid: int
    started: int
    boot: str


class _Stat(msgspec.Struct, frozen=True):
    state: str
    session: int
    started: int


def name_process(pid: int) -> ProcessName | None:
    """The name of the process that has the number ``pid`` now, or ``None``."""
    found = _stat(pid)
    if found is None or found.state in _DEAD:
        return None
    return ProcessName(pid, found.started, boot_id())


def is_alive(process: ProcessName) -> bool:
    """Whether this very process still runs. One that ended and was not reaped does not."""
    return name_process(process.pid) == process


def stop_processes(
    processes: Iterable[ProcessName],
    patience_s: float = 10.0,
    note: Callable[[str], None] | None = None,
) -> int:
    """SIGTERM to all, after ``patience_s`` SIGKILL to the rest; how many had to be killed.

    Each of them leads a session; what is left of it goes as well. Those that do not run any more
    are left alone.
    """
    running = [process for process in processes if _signal(process, signal.SIGTERM)]
    all_of_them = list(running)
    running = _wait(running, patience_s)
    killed = len(running)
    if killed and note is not None:
        note(f"{killed} did not stop in {patience_s:.0f} s and are killed")
    for process in running:
        _signal(process, signal.SIGKILL)
    _wait(running, patience_s)
    for process in all_of_them:
        _kill_session(process)
    return killed


def signal_session(leader: ProcessName, number: signal.Signals) -> bool:
    """Signal a process that leads a session, and everybody in it; ``False`` if it is gone."""
    if not _signal(leader, number):
        return False
    for pid in _session(leader):
        if pid != leader.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
    return True


def _signal(process: ProcessName, number: signal.Signals) -> bool:
    """Signal this very process; ``False`` if it is gone."""
    try:
        # The descriptor stays with the process that it was opened for, so that the check and the
        # signal cannot mean two different ones.
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # a kernel older than 5.3
        descriptor = -1
    try:
        if not is_alive(process):
            return False
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return True


def _wait(processes: list[ProcessName], patience_s: float) -> list[ProcessName]:
    """Those that still run when all have ended or ``patience_s`` is over."""
    deadline = time.monotonic() + patience_s
    while running := [process for process in processes if is_alive(process)]:
        if time.monotonic() >= deadline:
            return running
        time.sleep(_LOOK_EVERY_S)
    return []


def _kill_session(leader: ProcessName) -> None:
    """End what is left of the session that ``leader``, whose end we have just seen, was leading.

    A session's number is not given away as long as anybody is in it; so whoever is, was started by
    the leader, unless the number was free for a moment and another process took it since.
    """
    if name_process(leader.pid) is not None:
        return
    for pid in _session(leader):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _session(leader: ProcessName) -> list[int]:
    """Who is in a session."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            stat = _stat(int(entry.name))
            if stat is not None and stat.session == leader.pid and stat.state not in _DEAD:
                found.append(int(entry.name))
    return found


def boot_id() -> str:
    """What tells this start of the machine from others; empty where the system does not say."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, and may hold anything, brackets too.
    fields = text.rpartition(")")[2].split()
    try:
        return _Stat(fields[0], int(fields[3]), int(fields[19]))
    except (IndexError, ValueError):
        return None
