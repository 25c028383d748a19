"""Runs a command in a network namespace: ``enter.py NAMESPACE MARK COMMAND...``.

A script of its own and not a function between fork and exec, since the process that starts others
may have threads. Imports nothing of ours: it runs once for every process that is started.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

MARK = "P2PFLEET_INTERNET"
_CLONE_NEWNET = 0x40000000
_NOT_STARTED = 126


def main(namespace: str, mark: str, *command: str) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), namespace)
    # This interpreter ignores them, and would hand that on.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.environ[MARK] = mark
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as failure:
        sys.stderr.write(f"{' '.join(sys.argv[3:5])} cannot be started in its host: {failure}\n")
        sys.exit(_NOT_STARTED)
