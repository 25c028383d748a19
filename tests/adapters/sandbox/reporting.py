"""Opens a sandbox under circumstances of its own and says on standard output how that went.

    python reporting.py '{"user_namespaces": false}' CIRCUMSTANCE...

Circumstances: ``deny:NAME=ERRNO`` (a filter over the whole node refuses that system call, as a
container's may), ``seccomp`` (the same refuses filters), ``nested`` (the node lives in a user
namespace), ``read-only-proc`` and ``no-namespaces-left`` (within that one).
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, open_sandbox
from p2pfleet.adapters.sandbox.inside import seccomp
from p2pfleet.adapters.sandbox.inside.kernel import PR_SET_NO_NEW_PRIVS, mount, prctl, unshare
from p2pfleet.adapters.sandbox.inside.seccomp import ALLOW, Instruction, failure
from p2pfleet.adapters.sandbox.inside.syscalls import this_machine
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=10_000, output_bytes=8 * 2**20)
_NEWUSER, _NEWNS = 0x10000000, 0x20000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 0x20, 0x1000, 0x4000, 0x40000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06


def deny(name: str, number: int) -> None:
    """From now on, for this process and all it starts, the call ``name`` fails with ``number``."""
    machine = this_machine()
    assert machine is not None
    _refuse([Instruction(_LOAD, 0, 0, 0), _equal(machine.numbers[name])], number)


def deny_filters() -> None:
    """From now on nobody here can be put under a filter: both ways to do so fail."""
    machine = this_machine()
    assert machine is not None
    deny("seccomp", errno.EINVAL)
    first_argument = Instruction(_LOAD, 0, 0, 16)
    _refuse(
        [
            Instruction(_LOAD, 0, 0, 0),
            Instruction(_EQUAL, 0, 3, machine.numbers["prctl"]),
            first_argument,
            _equal(22),
        ],
        errno.EINVAL,
    )


def nest() -> None:
    """Go on in a user and a mount namespace; the user stays the same."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(_NEWUSER | _NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    mount(None, b"/", None, _REC | _PRIVATE, b"")


def make_proc_read_only() -> None:
    mount(b"/proc", b"/proc", None, _BIND | _REC, b"")
    mount(None, b"/proc", None, _REMOUNT | _BIND | _RDONLY, b"")


def allow_no_namespaces() -> None:
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def _equal(operand: int) -> Instruction:
    return Instruction(_EQUAL, 0, 1, operand)


def _refuse(condition: list[Instruction], number: int) -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    verdicts = [Instruction(_RETURN, 0, 0, failure(number)), Instruction(_RETURN, 0, 0, ALLOW)]
    seccomp.install(condition + verdicts)


async def _outcome(sandbox: SandboxPool) -> str:
    # Not earlier: their threads would keep this process from entering a user namespace.
    import numpy as np

    from sandbox import models

    try:
        job = await sandbox.load(models.doubling(), LIMITS)
        done = await job.execute(models.bundle(x=np.ones(1, np.float32)))
    except ExecutionFault as fault:
        return str(fault)
    return "right" if done.outputs == models.bundle(y=np.full(1, 2, np.float32)) else "wrong"


async def main() -> None:
    config = SandboxConfig(idle=False, **json.loads(sys.argv[1]))
    async with open_sandbox(config) as sandbox:
        report = sandbox.report
        said = {
            "uid": os.geteuid(),
            "grade": report.capability.grade,
            "numeric_class": report.capability.numeric_class.hex(),
            "reason": report.reason,
            "advice": report.advice,
            "properties": {p.name: [p.held, p.detail] for p in report.properties},
            "outcome": await _outcome(sandbox),
            "again": await _outcome(sandbox),
            "server": sandbox.server_pid,
        }
    print(json.dumps(said))


if __name__ == "__main__":
    for circumstance in sys.argv[2:]:
        match circumstance.split(":"):
            case ["nested"]:
                nest()
            case ["read-only-proc"]:
                make_proc_read_only()
            case ["no-namespaces-left"]:
                allow_no_namespaces()
            case ["seccomp"]:
                deny_filters()
            case ["deny", what]:
                name, _, error = what.partition("=")
                deny(name, getattr(errno, error))
            case _:
                raise SystemExit(f"unknown: {circumstance}")
    trio.run(main)
