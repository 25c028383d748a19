"""The fork server: a warm interpreter that forks a child per job on the node's order.

It reads nothing but the node's orders, never a model. One thread, so that forking is safe. When
the node's end of the control channel closes, for whatever reason, it kills all children and ends;
should it be killed itself, the kernel kills the children with it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack

from . import child
from .lockdown import die_with_parent, drop_root
from .terms import EXIT_MEMORY, Terms
from .warm import warm_up

_MAX_ORDER_BYTES = 4096
_REMEMBERED_EXITS = 1024


def serve(control_fd: int) -> None:
    """Warm up, say so, and obey until the node is gone."""
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
    drop_root()
    die_with_parent(node)
    gc.collect()
    gc.freeze()
    _Server(socket.socket(fileno=control_fd), null_fd).run()


class _Server:
    def __init__(self, control: socket.socket, null_fd: int) -> None:
        self._control = control
        self._null_fd = null_fd
        self._children: dict[int, int] = {}  # pidfd -> number
        self._exits: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> None:
        with suppress(OSError):
            self._answer([0, "ready"])
            while True:
                ready = [fd for fd, _ in self._poll.poll()]
                for fd in ready:
                    if fd in self._children:
                        self._reap(fd)
                if self._control.fileno() in ready and not self._obey():
                    break
        self._end()

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
        server = os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                self._become_child(terms, server, fds)
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

    def _become_child(self, terms: Terms, server: int, fds: list[int]) -> None:
        status = 70
        try:
            channel, model, inputs, outputs = fds
            child.live(terms, server, (channel, model, inputs, outputs), self._null_fd)
            status = 0
        except MemoryError:
            status = EXIT_MEMORY
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
