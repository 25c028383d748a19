"""From the way a child ended to the fault that a unit or a model is held to."""

from __future__ import annotations

import os
import signal

from p2pfleet.adapters.sandbox.inside.terms import EXIT_MEMORY, EXIT_UNLOCKED
from p2pfleet.ports import ExecutionFault


def fault_of_exit(exit_: tuple[int, int] | None, cpu_ms: int, memory_bytes: int) -> ExecutionFault:
    """The fault of a child that ended unasked.

    ``exit_``: (si_code, si_status) of ``waitid``, or ``None`` when nobody could tell; the limits
    are those that applied.
    """
    if exit_ is None:
        return ExecutionFault("crash", "the sandbox's server ended, and the child with it")
    code, status = exit_
    if code == os.CLD_EXITED:
        if status == EXIT_MEMORY:
            return ExecutionFault("memory", f"it needs more than {memory_bytes} bytes of memory")
        if status == EXIT_UNLOCKED:
            return ExecutionFault("crash", "the child says that it could not be locked down")
        return ExecutionFault("crash", f"the child ended by itself (status {status})")
    if status in (signal.SIGXCPU, signal.SIGPROF):
        return ExecutionFault("cpu", f"it needs more than {cpu_ms} ms of CPU time")
    if status == signal.SIGSYS:
        return ExecutionFault(
            "crash", "the model tried a forbidden system call, and seccomp ended the child"
        )
    return ExecutionFault("crash", f"the child was ended by {_name(status)}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
