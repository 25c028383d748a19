"""How a child gives up what it could do, between its fork and the first byte of the model.

:func:`lock_down` is the one place for it. It runs when everything the child needs is open and
mapped; each step is irrevocable and comes in the order in which the steps allow each other. The
server has been through :func:`drop_root` before, and through ``namespaces`` where there are any.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from contextlib import suppress
from typing import NamedTuple

from . import landlock, seccomp
from .kernel import (
    PR_SET_DUMPABLE,
    PR_SET_MDWE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    drop_bounding_set,
    drop_capabilities,
    has_capabilities,
    prctl,
)
from .syscalls import this_machine
from .terms import Terms

NOBODY = 65534
_ADDRESS_SPACE_SLACK = 64 * 2**20
_STACK_BYTES = 8 * 2**20
_MDWE_REFUSE_EXEC_GAIN = 1
_STATUS = "/proc/self/status"


class LockDownFailed(Exception):
    """A lock that must hold does not; the model must not be touched."""


class Locks(NamedTuple):
    """What this kernel offers, found out once by the server."""

    seccomp: bool
    landlock: int
    mdwe: bool


def offered() -> Locks:
    """Which locks there are on this machine; nothing is locked yet."""
    return Locks(
        seccomp=this_machine() is not None and seccomp.available(),
        landlock=landlock.version(),
        mdwe=_knows_mdwe(),
    )


def drop_root() -> None:
    """In the server: go on as nobody, if it is root that runs the node and may do so."""
    if os.geteuid() != 0:
        return
    # While it still may; a user namespace begins with a full set again, and drops its own.
    drop_bounding_set()
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        # Root of a container that knows no other users: root has little to say there.
        return
    # The change made its own files in /proc root's; it has to write some of them.
    prctl(PR_SET_DUMPABLE, 1)


def die_with_parent(parent: int) -> None:
    """Be killed when the process ``parent`` ends; at once, if that has already happened."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


class Memory:
    """How much memory this process has mapped, also once ``/proc`` is out of reach."""

    def __init__(self) -> None:
        self._status = os.open(_STATUS, os.O_RDONLY | os.O_CLOEXEC)

    def measure(self) -> tuple[int, int]:
        """Bytes of private writable memory, and of address space in all."""
        data = address_space = 0
        for line in os.pread(self._status, 16384, 0).splitlines():
            if line.startswith(b"VmData:"):
                data = int(line.split()[1]) * 1024
            elif line.startswith(b"VmSize:"):
                address_space = int(line.split()[1]) * 1024
        return data, address_space


def lock_down(
    terms: Terms, server: int, memory: tuple[int, int], locks: Locks, *, filtered: bool = True
) -> None:
    """Everything a child gives up. Raises :class:`LockDownFailed`.

    ``memory``: what the server measured before the fork. ``filtered=False`` leaves out the limits
    and the filter of system calls, so that a self-test can look at the locks behind them; no model
    ever sees that.
    """
    try:
        _give_up_rights(server, locks)
        if not filtered:
            return
        _limit_resources(terms, *memory)
        # Late, so that a busy machine does not hold up the locks.
        _stand_back(terms)
        _filter()
    except OSError as error:
        raise LockDownFailed(error.strerror or str(error)) from error


def _give_up_rights(server: int, locks: Locks) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if has_capabilities():
        drop_capabilities()
        if has_capabilities():
            raise LockDownFailed("privileges are left")
    if locks.mdwe:
        prctl(PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN)
    # After the privileges: to give them up may make it forget what follows.
    prctl(PR_SET_DUMPABLE, 0)
    die_with_parent(server)
    if locks.landlock:
        landlock.forbid_everything(locks.landlock)


def _stand_back(terms: Terms) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, max(terms.nice, os.getpriority(os.PRIO_PROCESS, 0)))
    if terms.idle:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _filter() -> None:
    machine = this_machine()
    if machine is None:
        raise LockDownFailed("there is no filter of system calls for this machine")
    seccomp.install(seccomp.filter_program(machine, os.getpid()))


def _knows_mdwe() -> bool:
    # Asking needs no more than the option's number (PR_GET_MDWE), and changes nothing.
    try:
        prctl(PR_SET_MDWE + 1, 0)
    except OSError:
        return False
    return True


def _limit_resources(terms: Terms, data: int, address_space: int) -> None:
    page = resource.getpagesize()
    shared = sum(
        -(-size // page) * page
        for size in (terms.model_bytes, terms.input_capacity, terms.output_capacity)
    )
    # Private, writable memory: what the runtime holds already, and what the terms grant on top.
    _limit(resource.RLIMIT_DATA, data + terms.memory_bytes)
    # That does not count shared mappings; the address space does.
    _limit(
        resource.RLIMIT_AS,
        address_space + shared + terms.memory_bytes + _ADDRESS_SPACE_SLACK + page,
    )
    # It does not count the stack either.
    _limit(resource.RLIMIT_STACK, _STACK_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    # No thread and no process: one thread computes. (Root is exempt; the filter is not.)
    _limit(resource.RLIMIT_NPROC, 0)
    # No new descriptor at all, not even in the place of one that was closed, so neither a file nor
    # a socket can be opened.
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


class LastInLine:
    """In the server: lets its whole session stand back, where sessions are what is scheduled.

    On desktop kernels niceness counts only among the processes of one session, unless the session
    as a whole is given one. Best effort: a kernel without such groups needs nothing.
    """

    def __init__(self) -> None:
        self._autogroup = -1
        with suppress(OSError):
            self._autogroup = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)

    def stand_back(self) -> None:
        """From now on; the file was opened before, because ``/proc`` may be out of reach."""
        if self._autogroup >= 0:
            with suppress(OSError):
                os.write(self._autogroup, b"19")
            os.close(self._autogroup)
            self._autogroup = -1


class CpuBudget:
    """Ends the process by a signal once it has used so much more CPU time.

    The timer is exact to some milliseconds; the resource limit behind it only knows seconds. Both
    leave room for the next unit, so what finally bounds a child that was taken over is the wall
    limit, which the node keeps.
    """

    def start(self, cpu_ms: int) -> None:
        """From now on, ``cpu_ms`` of CPU time."""
        soft = math.ceil(time.process_time() + cpu_ms / 1000) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, cpu_ms / 1000)

    def stop(self) -> None:
        """The unit is done."""
        signal.setitimer(signal.ITIMER_PROF, 0)
