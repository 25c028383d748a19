"""The fork server: a warm interpreter that forks a child per job on the node's order.

It reads nothing but the node's orders, never a model. One thread, so that forking is safe. When
the node's end of the control channel closes, for whatever reason, it kills all children and ends;
should it be killed itself, the kernel kills the children with it.

Where the machine allows it, the server is the first process of namespaces of its own, and the
process that the node started only waits for it; else it is that process itself.
"""

from __future__ import annotations

import gc
import os
import platform
import select
import signal
import socket
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgpack
import onnxruntime

from . import child, namespaces
from .child import Origin
from .kernel import PR_SET_NO_NEW_PRIVS, drop_capabilities, prctl
from .lockdown import (
    LastInLine,
    LockDownFailed,
    Locks,
    Memory,
    die_with_parent,
    drop_root,
    offered,
)
from .self_test import SelfTest
from .terms import EXIT_MEMORY, EXIT_UNLOCKED, Terms
from .warm import warm_up

_MAX_ORDER_BYTES = 4096
_REMEMBERED_EXITS = 1024


class Setting(NamedTuple):
    """What the node tells the server when it starts it."""

    namespaces: str
    """``yes``, ``no``, or ``probe``: use them if this machine allows it."""

    self_test: bool
    """Whether to try to escape before anything else, and to tell what came of it."""

    idle: bool
    """Whether children are to compute only where the machine has nothing else to do."""


def serve(control_fd: int, setting: Setting) -> None:
    """Warm up, lock up, say so, and obey until the node is gone."""
    node = os.getppid()
    if sys.byteorder != "little":
        raise RuntimeError("bundles are little-endian, this machine is not")
    warm_up()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(f"{threads} threads run after the warm-up, forking needs exactly one")
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # The node made it for this process alone: once removed, nothing can be put into it.
    with suppress(OSError):
        Path.cwd().rmdir()
    last_in_line = LastInLine() if setting.idle else None
    drop_root()
    die_with_parent(node)
    locks = offered()
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=control_fd)
    denied = None
    if setting.namespaces == "probe":
        denied = namespaces.probe()
    elif setting.namespaces == "no":
        denied = namespaces.Denied("", "not asked for")
    memory: list[Memory] = []
    if denied is None:
        namespaces.enter(
            before_the_root_is_gone=lambda: memory.append(Memory()),
            outer=lambda inner: _wait_for(inner, control),
        )
    else:
        memory.append(Memory())
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        drop_capabilities()
        die_with_parent(node)
    server = _Server(control, null_fd, memory[0], locks)
    findings = _findings(server, denied) if setting.self_test else {}
    if last_in_line is not None:
        last_in_line.stand_back()
    server.run(findings)


def _wait_for(inner: int, control: socket.socket) -> NoReturn:
    """The life of the process that stays outside: to end when the server ends."""
    control.close()
    drop_capabilities()
    _, status = os.waitpid(inner, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0x7F)


def _findings(server: _Server, denied: namespaces.Denied | None) -> dict[str, Any]:
    """What the self-test showed, for ``probe.Findings`` in the node."""
    locks = server.locks
    test = SelfTest(server.origin)
    return {
        "machine": platform.machine(),
        "seccomp": locks.seccomp,
        "landlock": locks.landlock,
        "mdwe": locks.mdwe,
        "denied": [] if denied is None else [denied.step, denied.reason],
        "isolation": [] if denied is not None else namespaces.look_around(),
        "escapes": test.escapes() if locks.seccomp else [],
        "second_lock": test.second_lock(),
        "numeric_class": test.numeric_class() if locks.seccomp else b"",
        "onnxruntime": onnxruntime.__version__,
    }


class _Server:
    def __init__(self, control: socket.socket, null_fd: int, memory: Memory, locks: Locks) -> None:
        self.locks = locks
        self._control = control
        self._null_fd = null_fd
        self._memory = memory
        self._children: dict[int, int] = {}  # pidfd -> number
        self._exits: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def origin(self) -> Origin:
        """What a child that is forked now has to know."""
        return Origin(os.getpid(), self._null_fd, self._memory.measure(), self.locks)

    def run(self, findings: dict[str, Any]) -> None:
        with suppress(OSError):
            self._introduce(findings)
            while True:
                ready = [fd for fd, _ in self._poll.poll()]
                for fd in ready:
                    if fd in self._children:
                        self._reap(fd)
                if self._control.fileno() in ready and not self._obey():
                    break
        self._end()

    def _introduce(self, findings: dict[str, Any]) -> None:
        """Say that the server is ready; its pidfd, because its number means nothing outside."""
        pidfd = os.pidfd_open(os.getpid())
        try:
            self._answer([0, "ready", findings], [pidfd])
        finally:
            os.close(pidfd)

    def _obey(self) -> bool:
        """Carry out one order; ``False`` when the node has hung up."""
        data, fds, _, _ = socket.recv_fds(self._control, _MAX_ORDER_BYTES, 8)
        if not data:
            return False
        number, order, *rest = msgpack.unpackb(data)
        if order == "fork":
            self._fork(number, rest[0], Terms(*rest[1]), fds)
        elif order == "exit":
            self._tell_exit(number, rest[0])
        else:
            raise AssertionError(order)
        return True

    def _fork(self, number: int, name: int, terms: Terms, fds: list[int]) -> None:
        origin = self.origin()
        try:
            pid = os.fork()
            if pid == 0:
                self._become_child(terms, origin, fds)
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except OSError as error:
            self._answer([number, "failed", error.strerror or str(error)])
            return
        finally:
            for fd in fds:
                os.close(fd)
        self._children[pidfd] = name
        self._poll.register(pidfd, select.POLLIN)
        self._answer([number, "forked"], [pidfd])

    def _become_child(self, terms: Terms, origin: Origin, fds: list[int]) -> None:
        status = 70
        try:
            channel, model, inputs, outputs = fds
            child.live(terms, origin, (channel, model, inputs, outputs))
            status = 0
        except MemoryError:
            status = EXIT_MEMORY
        except LockDownFailed:
            status = EXIT_UNLOCKED
        finally:
            # Whatever happened: a child must never come back into the server's loop.
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        name = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        self._exits[name] = (result.si_code, result.si_status)
        if len(self._exits) > _REMEMBERED_EXITS:
            self._exits.popitem(last=False)

    def _tell_exit(self, number: int, name: int) -> None:
        for pidfd, other in list(self._children.items()):
            if other == name:
                self._reap(pidfd)
        if name in self._exits:
            self._answer([number, "exit", *self._exits.pop(name)])
        else:
            self._answer([number, "running"])

    def _answer(self, message: list[Any], fds: list[int] | None = None) -> None:
        socket.send_fds(self._control, [msgpack.packb(message)], fds or [])

    def _end(self) -> None:
        for pidfd in self._children:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in self._children:
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os._exit(0)
