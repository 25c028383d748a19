"""How a child gives up what it could do, between its fork and the first byte of the model.

:func:`lock_down` is the one place for it. It runs when everything the child needs is open and
mapped; each step is irrevocable and comes in the order in which the steps allow each other.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import time
from pathlib import Path

from .kernel import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl
from .terms import Terms

NOBODY = 65534
_ADDRESS_SPACE_SLACK = 64 * 2**20


def drop_root() -> None:
    """In the server: go on as nobody, if it is root that runs the node and may do so."""
    if os.geteuid() != 0:
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        # Root of a container that knows no other users: root has little to say there.
        return


def die_with_parent(parent: int) -> None:
    """Be killed when the process ``parent`` ends; at once, if that has already happened."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def lock_down(terms: Terms, server: int) -> None:
    """Everything a child gives up. Raises OSError; then no model may be touched."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    die_with_parent(server)
    prctl(PR_SET_DUMPABLE, 0)
    os.nice(terms.nice)
    _limit_resources(terms)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _limit_resources(terms: Terms) -> None:
    page = resource.getpagesize()
    status = _memory_status()
    # Private, writable memory: what the runtime holds already, and what the terms grant on top.
    _limit(resource.RLIMIT_DATA, status["VmData"] + terms.memory_bytes)
    # The above does not count shared mappings; the address space does.
    _limit(resource.RLIMIT_AS, status["VmSize"] + terms.memory_bytes + _ADDRESS_SPACE_SLACK + page)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    # No thread and no process: one thread computes. (Root is exempt; see drop_root.)
    _limit(resource.RLIMIT_NPROC, 0)
    # No new descriptor at all, not even in the place of one that was closed, so neither a file nor
    # a socket can be opened. Last, because reading the memory status above opens a file.
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _memory_status() -> dict[str, int]:
    sizes = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            sizes[name] = int(value.removesuffix(" kB")) * 1024
    return sizes


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
