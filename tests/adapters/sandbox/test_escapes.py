"""Arbitrary Python in a locked-down child gets nowhere, and would get far anywhere else.

Every attempt runs twice over: in a plain process of root, where it has to work (so that it is not
merely broken), and in real children of a real sandbox, as root and as an ordinary user, with
namespaces and without, where it has to be stopped.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfleet.adapters.sandbox.inside import seccomp, syscalls

from . import ordinary_user
from .escapes import outcome
from .escapes.attempt import Attempt
from .escapes.outcome import Outcome, Report
from .escapes.sandboxed import IMPATIENT
from .escapes.taken_over import ATTEMPTS

MODES = {
    "root": (True, "all"),
    "user": (False, "all"),
    "root-without-namespaces": (True, "none"),
    "user-without-namespaces": (False, "none"),
}
_CAPABILITIES = {
    "CHOWN": 0, "DAC_READ_SEARCH": 2, "FOWNER": 3, "SETGID": 6, "NET_RAW": 13, "SYS_MODULE": 16,
    "SYS_RAWIO": 17, "SYS_CHROOT": 18, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22,
    "SYS_NICE": 23, "SYS_TIME": 25, "MKNOD": 27, "SYSLOG": 34, "PERFMON": 38, "BPF": 39,
}  # fmt: skip
_EXEMPT = {"335", "336"} if platform.machine() == "x86_64" else set()
"""Which recent kernels let pass every filter (uretprobe, uprobe): useless but for their probes."""

_SECONDS = 120
_TESTS = Path(__file__).parents[1]
_as_root = os.geteuid() == 0


def unlocked() -> Report:
    """How all attempts end in plain processes."""
    return _report(sys.executable, "-m", "sandbox.escapes.unlocked")


def sandboxed(mode: str, *calls: str) -> Report:
    """How all attempts end in children, and what they did to the world."""
    by_root, namespaces = MODES[mode]
    if by_root:
        return _report(sys.executable, "-m", "sandbox.escapes.sandboxed", namespaces, *calls)
    start = f"import runpy, sys; sys.path[:0] = [{str(_TESTS)!r}, {str(_TESTS.parents[1])!r}]; "
    start += f"sys.argv = {['sandboxed', namespaces, *calls]!r}; "
    start += "runpy.run_module('sandbox.escapes.sandboxed', run_name='__main__')"
    return _report(*ordinary_user.command("-c", start))


def _report(*command: str) -> Report:
    code, said, complaint = _run(*command)
    assert code == 0, complaint
    return outcome.load(said)


@functools.cache
def _run(*command: str) -> tuple[int, str, str]:
    """Once for all tests, whatever comes of it."""
    try:
        done = subprocess.run(
            command, cwd=_TESTS, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"it took more than {_SECONDS} seconds"
    return done.returncode, done.stdout, done.stderr[-3000:]


def worked(attempt: Attempt, seen: Outcome) -> bool:
    """Whether an unlocked attempt got as far as it can."""
    if seen.verdict == "escaped":
        return attempt.furthest is None
    return attempt.furthest is not None and seen.how == _name(attempt.furthest)


def missing(attempt: Attempt, seen: Outcome) -> bool:
    """Whether this machine does not have what was attempted."""
    return seen.how in [_name(each) for each in attempt.optional]


def stopped(attempt: Attempt, seen: Outcome) -> bool:
    """Whether a child's attempt was stopped, and by nothing that stops it elsewhere as well."""
    match seen.verdict:
        case "died":
            return seen.how == "SIGSYS" or seen.how in attempt.dies_of
        case "limited":
            granted = "wall" if attempt.name in IMPATIENT else "memory"
            return attempt.name.startswith("limits.") and seen.how == granted
        case "refused":
            return attempt.everywhere or seen.how != _name(attempt.furthest)
    return False


def _name(way: int | str | None) -> str:
    return errno.errorcode[way] if isinstance(way, int) else str(way)


def _lacking(attempt: Attempt) -> list[str]:
    """The capabilities that even root does not have here, and the attempt needs."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    return [name for name in attempt.needs if not held >> _CAPABILITIES[name] & 1]


def _confined() -> bool:
    return "Seccomp:\t0" not in Path("/proc/self/status").read_text()


@pytest.mark.skipif(not _as_root, reason="only root can do everything")
@pytest.mark.skipif(_confined(), reason="these tests are in a sandbox themselves")
@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_attempt_works_where_nothing_stops_it(name: str) -> None:
    attempt, seen = ATTEMPTS[name], unlocked().outcomes[name]

    # What this machine does not have cannot be shown; how much is, is counted below.
    assert worked(attempt, seen) or missing(attempt, seen) or _lacking(attempt), seen


@pytest.mark.parametrize("name", ATTEMPTS)
@pytest.mark.parametrize("mode", MODES)
def test_the_sandbox_stops_the_attempt(mode: str, name: str) -> None:
    if MODES[mode][0] and not _as_root:
        pytest.skip("needs root")
    seen = sandboxed(mode).outcomes[name]

    assert stopped(ATTEMPTS[name], seen), seen


def test_a_call_that_the_filter_does_not_name_ends_the_child() -> None:
    machine = syscalls.this_machine()
    assert machine is not None
    names = {*seccomp.FREE, *(guard.name for guard in seccomp.guards(0))}
    names.update(*seccomp.FAILING.values())
    named = {str(machine.numbers[name]) for name in names if name in machine.numbers}
    outcomes = sandboxed("user-without-namespaces", "calls").outcomes

    survived = {number for number, seen in outcomes.items() if seen[:2] != ("died", "SIGSYS")}

    assert len(outcomes) >= 600
    assert survived - named <= _EXEMPT


@pytest.mark.parametrize("mode", MODES)
def test_the_world_is_as_it_was(mode: str) -> None:
    if MODES[mode][0] and not _as_root:
        pytest.skip("needs root")

    assert sandboxed(mode).damage == []


@pytest.mark.parametrize("mode", MODES)
def test_the_sandbox_knows_what_it_is_made_of(mode: str) -> None:
    by_root, namespaces = MODES[mode]
    if by_root and not _as_root:
        pytest.skip("needs root")
    grade = sandboxed(mode).grade

    if namespaces == "all" and grade == "B":
        pytest.skip("this machine allows no namespaces: the other modes are all that there is")
    assert grade == {"all": "A", "none": "B"}[namespaces]


@pytest.mark.skipif(not _as_root or _confined(), reason="only root can do everything")
def test_there_are_many_attempts_and_nearly_all_are_shown_to_work() -> None:
    shown = [
        name for name, attempt in ATTEMPTS.items() if worked(attempt, unlocked().outcomes[name])
    ]

    assert len(shown) >= 200
