"""The filter of system calls: what it lets through, and how it is written for the kernel.

A child may compute, manage private memory that is not executable, and read and write its channel.
Everything else ends it, except for what libraries try in passing and can do without: that fails
with an error. The kernel runs the filter, a program of its classic packet-filter machine, before
every system call; it cannot be taken off again.

The data that it sees (``struct seccomp_data``): the number at 0, the architecture at 4, the six
64-bit arguments from 16 on, little-endian on both machines.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final, NamedTuple

from .kernel import PR_SET_SECCOMP, prctl
from .syscalls import X32_BIT, Machine

KILL_PROCESS: Final = 0x80000000
ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_OR_EQUAL: Final = 0x35
_RETURN: Final = 0x06

_NUMBER_AT: Final = 0
_ARCH_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_ALL: Final = 0xFFFFFFFF
_MODE_FILTER: Final = 2

_READ_WRITE: Final = 0x3
_PRIVATE_ANONYMOUS: Final = 0x22
_NORESERVE_OR_STACK: Final = (
    0x4000 | 0x20000
)  # a stack only in name: without clone it gets no thread
_FUTEX_FLAGS: Final = 0x80 | 0x100  # private, realtime clock
_FUTEX_OPERATIONS: Final = (0, 1, 9, 10)  # wait, wake, and the same with a bit set
# normal, random, sequential, willneed, dontneed, free, hugepage, nohugepage
_ADVICE: Final = (0, 1, 2, 3, 4, 8, 14, 15)
_ITIMER_PROF: Final = 2
_RLIMIT_CPU: Final = 0
_SIGABRT: Final = 6


class Instruction(NamedTuple):
    """One step of the kernel's filter machine; jumps count from the next step."""

    code: int
    if_true: int
    if_false: int
    operand: int


class Check(NamedTuple):
    """That an argument, ANDed with ``mask``, is one of ``values``.

    The kernel takes many arguments as 32-bit integers and ignores what stands above; where it
    does not (``wide``), what stands above has to be zero.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = _ALL
    wide: bool = False


class Guard(NamedTuple):
    """A call that is allowed if all checks hold; ``otherwise`` is what happens if not."""

    name: str
    checks: tuple[Check, ...]
    otherwise: int = KILL_PROCESS


FREE: Final = (
    "munmap", "brk", "sched_yield", "rt_sigprocmask", "rt_sigaction", "rt_sigreturn",
    "sigaltstack", "restart_syscall", "getpid", "gettid", "clock_getres", "exit", "exit_group",
)  # fmt: skip
"""Allowed whatever the arguments."""

FAILING: Final[dict[int, tuple[str, ...]]] = {
    # A pretended success: onnxruntime takes a failure for fatal, and the one thread stays put.
    0: ("sched_setaffinity",),
    errno.ENOSYS: (
        "clone3", "rseq", "set_robust_list", "getrandom", "sched_getaffinity", "sysinfo", "uname",
    ),
    errno.EAGAIN: ("clone",),
    # It could double the view of the arena; the allocator copies instead.
    errno.ENOMEM: ("mremap",),
    errno.EACCES: (
        "open", "openat", "openat2", "creat", "stat", "fstat", "lstat", "newfstatat", "statx",
        "access", "faccessat", "faccessat2", "readlink", "readlinkat", "socket",
        "socketpair",
    ),
    # What Python's imports take for a folder that was removed.
    errno.ENOENT: ("getcwd",),
    errno.EPERM: ("prctl", "ioctl", "fcntl", "lseek"),
}  # fmt: skip
"""What libraries try and can do without, by the error that it gets."""


def failure(number: int) -> int:
    """The verdict that makes a call return the error ``number`` (0: pretend that it was done)."""
    return _ERRNO | number


def guards(pid: int) -> tuple[Guard, ...]:
    """Allowed for certain arguments; ``pid`` is the process that the filter is for."""
    return (
        Guard("futex", (Check(1, _FUTEX_OPERATIONS, _ALL & ~_FUTEX_FLAGS),), failure(errno.ENOSYS)),
        Guard("madvise", (Check(2, _ADVICE),), failure(errno.EINVAL)),
        Guard(
            "mmap",
            (
                Check(2, (0,), _ALL & ~_READ_WRITE, wide=True),
                Check(3, (_PRIVATE_ANONYMOUS,), _ALL & ~_NORESERVE_OR_STACK, wide=True),
            ),
        ),
        Guard("mprotect", (Check(2, (0,), _ALL & ~_READ_WRITE, wide=True),)),
        Guard("read", (Check(0, (0,)),)),
        Guard("write", (Check(0, (0, 1, 2)),)),
        # Clocks of this process and of the machine; negative numbers name those of others.
        Guard("clock_gettime", (Check(0, (0,), _ALL & ~0xF),), failure(errno.EINVAL)),
        Guard("setitimer", (Check(0, (_ITIMER_PROF,)),), failure(errno.EPERM)),
        Guard("prlimit64", (Check(0, (0,)), Check(1, (_RLIMIT_CPU,))), failure(errno.EPERM)),
        # How abort() ends a process; nobody else can be signalled.
        Guard("tgkill", (Check(0, (pid,)), Check(1, (pid,)), Check(2, (_SIGABRT,)))),
    )


def filter_program(machine: Machine, pid: int) -> list[Instruction]:
    """The filter for the process ``pid`` on ``machine``."""
    program = [
        Instruction(_LOAD_WORD, 0, 0, _ARCH_AT),
        Instruction(_JUMP_EQUAL, 1, 0, machine.audit_arch),
        Instruction(_RETURN, 0, 0, KILL_PROCESS),
        Instruction(_LOAD_WORD, 0, 0, _NUMBER_AT),
        Instruction(_JUMP_GREATER_OR_EQUAL, 0, 1, X32_BIT),
        Instruction(_RETURN, 0, 0, KILL_PROCESS),
    ]
    numbers = machine.numbers
    for guard in guards(pid):
        program += _guarded(numbers[guard.name], guard)
    program += _group([numbers[name] for name in FREE], ALLOW)
    for number, names in FAILING.items():
        # The 64-bit ARM machine never had the oldest of these calls.
        program += _group([numbers[name] for name in names if name in numbers], failure(number))
    program.append(Instruction(_RETURN, 0, 0, KILL_PROCESS))
    return program


def install(program: list[Instruction]) -> None:
    """Put this process under the filter, for good. Raises OSError.

    Needs no_new_privs (or a privilege that no child has).
    """
    raw = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    steps = ctypes.create_string_buffer(raw, len(raw))
    head = ctypes.create_string_buffer(
        struct.pack("@HP", len(program), ctypes.addressof(steps)), struct.calcsize("@HP")
    )
    prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(head))


def available() -> bool:
    """Whether this kernel has filters: it looks for the program before it misses it."""
    try:
        prctl(PR_SET_SECCOMP, _MODE_FILTER, 0)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False


def _group(numbers: list[int], verdict: int) -> list[Instruction]:
    """``verdict`` for any of ``numbers``; goes on behind itself for all others."""
    last = len(numbers) - 1
    jumps = [
        Instruction(_JUMP_EQUAL, last - index, 1 if index == last else 0, number)
        for index, number in enumerate(numbers)
    ]
    return [*jumps, Instruction(_RETURN, 0, 0, verdict)]


def _guarded(number: int, guard: Guard) -> list[Instruction]:
    """The verdict for the call ``number``; goes on behind itself for all others."""
    body: list[Instruction] = []
    # Backwards, because every failing check jumps to the end, whose distance is known there.
    for check in reversed(guard.checks):
        body = _checked(check, len(body)) + body
    body += [Instruction(_RETURN, 0, 0, ALLOW), Instruction(_RETURN, 0, 0, guard.otherwise)]
    return [Instruction(_JUMP_EQUAL, 0, len(body), number), *body]


def _checked(check: Check, rest: int) -> list[Instruction]:
    """Goes on behind itself if ``check`` holds, else behind the ``rest`` steps and an ALLOW."""
    at = _ARGUMENTS_AT + 8 * check.argument
    steps = [Instruction(_LOAD_WORD, 0, 0, at)]
    if check.mask != _ALL:
        steps.append(Instruction(_AND, 0, 0, check.mask))
    tail = (
        [
            Instruction(_LOAD_WORD, 0, 0, at + 4),
            Instruction(_JUMP_EQUAL, 0, rest + 1, 0),
        ]
        if check.wide
        else []
    )
    last = len(check.values) - 1
    for index, value in enumerate(check.values):
        otherwise = len(tail) + rest + 1 if index == last else 0
        steps.append(Instruction(_JUMP_EQUAL, last - index, otherwise, value))
    return steps + tail
