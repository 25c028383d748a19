"""The start-up self-test: attempts to escape, made by real children of the server.

A child reports each attempt before it makes the next; an attempt that ends it is blocked if it was
the filter that did it, and another child goes on behind it. So nothing counts as blocked that was
not tried, and a child that could not be locked down fails the test instead of passing it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn

import msgpack

from .child import CHANNEL, Origin, keep_only
from .escapes import ATTEMPTS, SECOND_LOCK, Attempt
from .lockdown import LockDownFailed, lock_down
from .numeric import numeric_class
from .terms import EXIT_UNLOCKED, Terms

_TERMS = Terms(
    memory_bytes=256 * 2**20,
    cpu_ms=10_000,
    load_cpu_ms=10_000,
    output_bytes=0,
    model_bytes=0,
    input_capacity=0,
    output_capacity=0,
    nice=0,
    idle=False,
)
_ATTEMPT_SECONDS = 10
_NUMERIC_SECONDS = 20
_END_SECONDS = 1
_MAX_REPORT_BYTES = 4096
_LOCKED = "locked"


class Tried(NamedTuple):
    """What became of one attempt."""

    name: str
    prevents: str
    blocked: bool
    how: str


class _Ended(NamedTuple):
    said: list[list[Any]]
    code: int
    status: int


class SelfTest:
    """The self-test of the children of one server."""

    def __init__(self, origin: Callable[[], Origin]) -> None:
        self._origin = origin

    def escapes(self) -> list[Tried]:
        """Every attempt of ``ATTEMPTS``, behind every lock."""
        return self._try(ATTEMPTS, filtered=True)

    def second_lock(self) -> list[Tried]:
        """What the locks behind the filter block by themselves."""
        return self._try(SECOND_LOCK, filtered=False)

    def numeric_class(self) -> bytes:
        """The numeric class, computed by a locked-down child; empty if that fails."""

        def run() -> None:
            _say([numeric_class()])

        ended = self._child(run, filtered=True, seconds=_NUMERIC_SECONDS)
        match ended.said:
            case [["locked"], [bytes(value)]]:
                return value
        return b""

    def _try(self, attempts: Sequence[Attempt], *, filtered: bool) -> list[Tried]:
        results: list[Tried] = []
        while len(results) < len(attempts):
            rest = attempts[len(results) :]
            ended = self._child(partial(_run, rest), filtered=filtered)
            if not ended.said or ended.said[0] != [_LOCKED]:
                how = f"the child was not locked down: {_last(ended)}"
                return results + [Tried(a.name, a.prevents, False, how) for a in rest]
            for attempt, (blocked, how) in zip(rest, ended.said[1:], strict=False):
                results.append(Tried(attempt.name, attempt.prevents, bool(blocked), str(how)))
            if len(results) < len(attempts):
                attempt = attempts[len(results)]
                by_filter = ended.code != os.CLD_EXITED and ended.status == signal.SIGSYS
                results.append(Tried(attempt.name, attempt.prevents, by_filter, _last(ended)))
        return results

    def _child(
        self, run: Callable[[], None], *, filtered: bool, seconds: float = _ATTEMPT_SECONDS
    ) -> _Ended:
        origin = self._origin()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            pid = os.fork()
            if pid == 0:
                _live(theirs.fileno(), origin, run, filtered)
            theirs.close()
            said = _listen(ours, time.monotonic() + seconds)
        with suppress(ProcessLookupError):
            # It has hung up or is too slow; a child that ends by itself needs no time for that.
            if not _ends(pid, _END_SECONDS):
                os.kill(pid, signal.SIGKILL)
        result = os.waitid(os.P_PID, pid, os.WEXITED)
        assert result is not None
        return _Ended(said, result.si_code, result.si_status)


def _live(channel_fd: int, origin: Origin, run: Callable[[], None], filtered: bool) -> NoReturn:
    status = 70
    try:
        keep_only(channel_fd, origin.null_fd)
        lock_down(_TERMS, origin.server, origin.memory, origin.locks, filtered=filtered)
        _say([_LOCKED])
        run()
        status = 0
    except LockDownFailed:
        status = EXIT_UNLOCKED
    finally:
        os._exit(status)


def _run(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        try:
            attempt.run()
        except OSError as error:
            _say([True, error.strerror or str(error)])
        except (RuntimeError, MemoryError) as error:  # "can't start new thread"
            _say([True, str(error) or type(error).__name__])
        else:
            _say([False, "it was possible"])


def _say(message: list[Any]) -> None:
    os.write(CHANNEL, msgpack.packb(message))


def _listen(channel: socket.socket, deadline: float) -> list[list[Any]]:
    said = []
    while select.select([channel], [], [], max(0, deadline - time.monotonic()))[0]:
        data = channel.recv(_MAX_REPORT_BYTES)
        if not data:
            break
        said.append(msgpack.unpackb(data))
    return said


def _ends(pid: int, seconds: float) -> bool:
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], seconds)[0])
    finally:
        os.close(pidfd)


def _last(ended: _Ended) -> str:
    if ended.code == os.CLD_EXITED:
        return f"it ended with status {ended.status}"
    name = signal.Signals(ended.status).name
    return "ended by the filter" if name == "SIGSYS" else f"ended by {name}"
