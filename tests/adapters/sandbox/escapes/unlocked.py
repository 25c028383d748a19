"""The same attempts where nothing stops them: ``python -m ...escapes.unlocked``, as root.

Each runs in a fork of this process, through the child's own code but for the lock-down, in whose
place there are only a mount and a UTS namespace that end with it, so that the machine stays as it
is. The report goes to standard output.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any
from unittest import mock

import msgpack

from p2pfleet.adapters.sandbox.arena import Arena, memory_file, seal
from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.inside import child
from p2pfleet.adapters.sandbox.inside.lockdown import Locks
from p2pfleet.adapters.sandbox.inside.model import Fault
from p2pfleet.core.model.job import Limits

from . import outcome
from .means import World, call
from .outcome import Outcome, of_words
from .taken_over import ATTEMPTS, taken_over
from .world import ARENA_BYTES, MEMORY_BYTES, model_of, surroundings

_NEW_NAMESPACES = 0x00020000 | 0x04000000  # mount, UTS
_PRIVATE = 0x40000 | 0x4000
_ALL_DESCRIPTORS = 1024
_SECONDS = 10
_SHORT_SECONDS = 0.05


def main() -> None:
    """Run them all; each has a world that is as new."""
    outcomes = {}
    # The names as the child's module uses them.
    changes: dict[str, Any] = {
        "Model": taken_over(Fault),
        "lock_down": _seclude,
        "OWN_FD": _ALL_DESCRIPTORS,
    }
    with mock.patch.multiple(child, **changes), surroundings() as around:
        null_fd = os.open(os.devnull, os.O_RDWR)
        sibling = _sibling()
        try:
            world = around.world._replace(
                processes=(os.getpid(), sibling),
                too_long=_SHORT_SECONDS,  # nothing would end it any later either
            )
            for name in ATTEMPTS:
                outcomes[name] = _attempt(name, world, null_fd)
                around.restore()
        finally:
            os.kill(sibling, signal.SIGKILL)
            os.waitpid(sibling, 0)
            os.close(null_fd)
    sys.stdout.write(outcome.dump(outcomes, [], ""))


def _sibling() -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        call("prctl", 1, signal.SIGKILL, 0, 0, 0)
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
    return pid


def _seclude(*_: Any) -> None:
    """In the place of the lock-down."""
    call("prctl", 1, signal.SIGKILL, 0, 0, 0)
    call("unshare", _NEW_NAMESPACES)
    call("mount", 0, b"/", 0, _PRIVATE, 0)


def _attempt(name: str, world: World, null_fd: int) -> Outcome:
    model = model_of(name, world)
    limits = Limits(memory_bytes=MEMORY_BYTES, cpu_ms=10_000, output_bytes=ARENA_BYTES)
    terms = SandboxConfig().terms(limits, len(model))
    model_fd = memory_file("p2pfleet-model")
    os.write(model_fd, model)
    seal(model_fd, write=True)
    arena = Arena(terms.output_capacity)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_SECONDS)
    with ours, theirs:
        fds = (theirs.fileno(), model_fd, *arena.for_child())
        pid = os.fork()
        if pid == 0:
            try:
                origin = child.Origin(os.getppid(), null_fd, (0, 0), Locks(False, 0, False))
                child.live(terms, origin, fds)
            finally:
                os._exit(0)
        theirs.close()
        try:
            told = _told(ours)
        finally:
            ours.close()
            status = _end(pid)
            os.close(model_fd)
            arena.close()
    if told is not None:
        return told
    if os.WIFSIGNALED(status):
        return Outcome("died", signal.Signals(os.WTERMSIG(status)).name, "")
    return Outcome("broken", "", f"it ended with status {status} and said nothing")


def _told(channel: socket.socket) -> Outcome | None:
    """What comes through the channel; other messages may come before."""
    while True:
        try:
            data = channel.recv(2**18)
        except TimeoutError:
            return Outcome("broken", "", f"nothing for {_SECONDS} seconds")
        if not data:
            return None
        if data.startswith(b"ESCAPED"):
            return of_words(data.decode())
        try:
            _, _, kind, words = msgpack.unpackb(data)
        except (ValueError, TypeError):
            continue
        return of_words(words) if kind == "model" else Outcome("limited", kind, words)


def _end(pid: int) -> int:
    """Collect a child that is about to end by itself, or does not; it may be traced."""
    while True:
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return status
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
