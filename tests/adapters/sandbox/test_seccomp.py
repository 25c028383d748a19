"""The filter of system calls, run by an interpreter of its own, for both machines.

The numbers stand here once more, as the kernel's headers have them, so that a slip in the tables
does not go unseen on a machine that no test ever ran on.
"""

from __future__ import annotations

import errno

import pytest

from p2pfleet.adapters.sandbox.inside.seccomp import (
    ALLOW,
    KILL_PROCESS,
    Instruction,
    failure,
    filter_program,
)
from p2pfleet.adapters.sandbox.inside.syscalls import MACHINES, X32_BIT

PID = 4321
OTHER = 1
READ, WRITE, EXEC = 1, 2, 4
ANONYMOUS, SHARED, FIXED, NORESERVE, STACK, HUGE = 0x22, 0x21, 0x10, 0x4000, 0x20000, 0x40000
HIGH = 1 << 32

Arguments = tuple[int, ...]


def verdict(program: list[Instruction], arch: int, number: int, arguments: Arguments = ()) -> int:
    """What the kernel would answer: classic BPF over ``struct seccomp_data``."""
    data = number.to_bytes(4, "little") + arch.to_bytes(4, "little") + bytes(8)
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        data += (value % 2**64).to_bytes(8, "little")
    accumulator = 0
    at = 0
    while True:
        code, if_true, if_false, operand = program[at]
        at += 1
        if code == 0x20:
            assert operand % 4 == 0
            accumulator = int.from_bytes(data[operand : operand + 4], "little")
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += if_true if accumulator == operand else if_false
        elif code == 0x35:
            at += if_true if accumulator >= operand else if_false
        elif code == 0x06:
            return operand
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


# (name, number on x86-64, number on aarch64 or None)
NUMBERS: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "open": (2, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "ioctl": (16, 29), "pread64": (17, 67), "readv": (19, 65),
    "writev": (20, 66), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233),
    "shmget": (29, 194), "dup": (32, 23), "dup2": (33, None), "nanosleep": (35, 101),
    "setitimer": (38, 103), "getpid": (39, 172), "socket": (41, 198), "connect": (42, 203),
    "sendto": (44, 206), "sendmsg": (46, 211), "recvmsg": (47, 212), "bind": (49, 200),
    "socketpair": (53, 199), "clone": (56, 220), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "exit": (60, 93), "kill": (62, 129), "uname": (63, 160),
    "fcntl": (72, 25), "getcwd": (79, 17), "chdir": (80, 49), "unlink": (87, None),
    "sysinfo": (99, 179), "ptrace": (101, 117), "setuid": (105, 146), "capset": (126, 91),
    "sigaltstack": (131, 132), "personality": (135, 92), "pivot_root": (155, 41),
    "prctl": (157, 167), "arch_prctl": (158, None), "setrlimit": (160, 164), "chroot": (161, 51),
    "mount": (165, 40), "init_module": (175, 105), "gettid": (186, 178), "tkill": (200, 130),
    "futex": (202, 98), "sched_setaffinity": (203, 122), "sched_getaffinity": (204, 123),
    "io_setup": (206, 0), "getdents64": (217, 61), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "exit_group": (231, 94),
    "tgkill": (234, 131), "add_key": (248, 217), "keyctl": (250, 219), "openat": (257, 56),
    "newfstatat": (262, 79), "unshare": (272, 97), "set_robust_list": (273, 99),
    "vmsplice": (278, 75), "perf_event_open": (298, 241), "prlimit64": (302, 261),
    "open_by_handle_at": (304, 265), "setns": (308, 268), "process_vm_readv": (310, 270),
    "kcmp": (312, 272), "seccomp": (317, 277), "getrandom": (318, 278), "memfd_create": (319, 279),
    "bpf": (321, 280), "execveat": (322, 281), "userfaultfd": (323, 282), "statx": (332, 291),
    "rseq": (334, 293), "pidfd_send_signal": (424, 424), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "open_tree": (428, 428), "fsopen": (430, 430),
    "pidfd_open": (434, 434), "clone3": (435, 435), "openat2": (437, 437),
    "pidfd_getfd": (438, 438),
    "landlock_create_ruleset": (444, 444), "memfd_secret": (447, 447),
}  # fmt: skip

ALLOWED: list[tuple[str, Arguments]] = [
    ("read", (0,)), ("write", (0,)), ("write", (1,)), ("write", (2,)),
    ("mmap", (0, 4096, 0, ANONYMOUS)), ("mmap", (0, 2**40, READ | WRITE, ANONYMOUS)),
    ("mmap", (0, 4096, READ | WRITE, ANONYMOUS | NORESERVE)),
    ("mmap", (0, 4096, 0, ANONYMOUS | STACK)),
    ("mprotect", (0, 4096, 0)), ("mprotect", (0, 4096, READ)),
    ("mprotect", (0, 4096, READ | WRITE)), ("munmap", (0, 4096)),
    ("brk", (0,)), ("madvise", (0, 4096, 4)), ("madvise", (0, 4096, 14)),
    ("futex", (0, 0)), ("futex", (0, 0x81)), ("futex", (0, 0x189)), ("futex", (0, 10)),
    ("rt_sigprocmask", ()), ("rt_sigaction", ()), ("rt_sigreturn", ()), ("sigaltstack", ()),
    ("sched_yield", ()), ("restart_syscall", ()), ("getpid", ()), ("gettid", ()),
    ("clock_gettime", (0,)), ("clock_gettime", (2,)), ("clock_gettime", (1,)),
    ("clock_getres", (1,)), ("setitimer", (2,)), ("prlimit64", (0, 0)), ("exit", ()),
    ("exit_group", ()), ("tgkill", (PID, PID, 6)),
]  # fmt: skip

FAILS: list[tuple[str, Arguments, int]] = [
    ("mremap", (0, 0, 4096, 1), errno.ENOMEM), ("mremap", (0, 4096, 8192, 3), errno.ENOMEM),
    ("sched_setaffinity", (), 0), ("clone3", (), errno.ENOSYS), ("clone", (17,), errno.EAGAIN),
    ("clone", (0x3D0F00,), errno.EAGAIN), ("rseq", (), errno.ENOSYS),
    ("set_robust_list", (), errno.ENOSYS), ("getrandom", (), errno.ENOSYS),
    ("sched_getaffinity", (), errno.ENOSYS), ("sysinfo", (), errno.ENOSYS),
    ("uname", (), errno.ENOSYS), ("open", (), errno.EACCES), ("openat", (), errno.EACCES),
    ("openat2", (), errno.EACCES), ("stat", (), errno.EACCES), ("fstat", (), errno.EACCES),
    ("newfstatat", (), errno.EACCES), ("statx", (), errno.EACCES), ("getcwd", (), errno.ENOENT),
    ("socket", (2,), errno.EACCES), ("socketpair", (1,), errno.EACCES),
    ("prctl", (22,), errno.EPERM), ("ioctl", (0,), errno.EPERM), ("fcntl", (0, 1030), errno.EPERM),
    ("lseek", (0,), errno.EPERM), ("futex", (0, 6), errno.ENOSYS), ("futex", (0, 4), errno.ENOSYS),
    ("madvise", (0, 1, 9), errno.EINVAL), ("madvise", (0, 1, 12), errno.EINVAL),
    ("madvise", (0, 1, 100), errno.EINVAL), ("clock_gettime", (-6,), errno.EINVAL),
    ("setitimer", (0,), errno.EPERM), ("prlimit64", (OTHER, 0), errno.EPERM),
    ("prlimit64", (0, 7), errno.EPERM),
]  # fmt: skip

KILLED: list[tuple[str, Arguments]] = [
    ("read", (1,)), ("read", (3,)), ("read", (2**32 - 1,)), ("write", (3,)), ("write", (-1,)),
    ("mmap", (0, 1, READ | EXEC, ANONYMOUS)), ("mmap", (0, 1, READ | WRITE | EXEC, ANONYMOUS)),
    ("mmap", (0, 1, EXEC, ANONYMOUS)), ("mmap", (0, 1, READ | HIGH, ANONYMOUS)),
    ("mmap", (0, 1, 8, ANONYMOUS)), ("mmap", (0, 1, READ, SHARED)), ("mmap", (0, 1, READ, 2, 1)),
    ("mmap", (0, 1, READ, 1)), ("mmap", (0, 1, READ, 0)), ("mmap", (0, 1, READ, 3 | 0x20)),
    ("mmap", (0, 1, READ, ANONYMOUS | FIXED)), ("mmap", (0, 1, READ, ANONYMOUS | HUGE)),
    ("mmap", (0, 1, READ, ANONYMOUS | HIGH)), ("mprotect", (0, 1, EXEC)),
    ("mprotect", (0, 1, READ | EXEC)), ("mprotect", (0, 1, READ | HIGH)),
    ("mprotect", (0, 1, 0x01000000)), ("tgkill", (OTHER, OTHER, 6)), ("tgkill", (PID, OTHER, 6)),
    ("tgkill", (PID, PID, 9)),
    *((name, ()) for name in (
        "close", "pread64", "readv", "writev", "shmget", "dup", "dup2", "nanosleep", "connect",
        "sendto", "sendmsg", "recvmsg", "bind", "fork", "vfork", "execve", "kill", "chdir",
        "unlink", "ptrace", "setuid", "capset", "personality", "pivot_root", "arch_prctl",
        "setrlimit", "chroot", "mount", "init_module", "tkill", "io_setup", "getdents64",
        "add_key", "keyctl", "unshare", "vmsplice", "perf_event_open", "open_by_handle_at",
        "setns", "process_vm_readv", "kcmp", "seccomp", "memfd_create", "bpf", "execveat",
        "userfaultfd", "pidfd_send_signal", "io_uring_setup", "io_uring_enter", "open_tree",
        "fsopen", "pidfd_open", "pidfd_getfd", "landlock_create_ruleset", "memfd_secret",
    )),
]  # fmt: skip

EXPECTED = [
    *((name, arguments, ALLOW) for name, arguments in ALLOWED),
    *((name, arguments, failure(number)) for name, arguments, number in FAILS),
    *((name, arguments, KILL_PROCESS) for name, arguments in KILLED),
]


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_filter_answers_every_call_as_the_table_says(name: str) -> None:
    machine = MACHINES[name]
    program = filter_program(machine, PID)
    for call, arguments, expected in EXPECTED:
        number = NUMBERS[call][0 if name == "x86_64" else 1]
        if number is None:
            assert call not in machine.numbers
            continue
        found = verdict(program, machine.audit_arch, number, arguments)
        assert (call, arguments, hex(found)) == (call, arguments, hex(expected))


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_no_other_number_is_allowed(name: str) -> None:
    machine = MACHINES[name]
    program = filter_program(machine, PID)
    column = 0 if name == "x86_64" else 1
    known = {numbers[column] for call, numbers in NUMBERS.items()}
    free = {NUMBERS[call][column] for call, _ in ALLOWED}
    harmless = {machine.numbers[call] for call in machine.numbers} - {None}
    for number in range(1024):
        found = verdict(program, machine.audit_arch, number)
        if number not in known | harmless:
            assert found == KILL_PROCESS, number
        if number not in free:
            assert found != ALLOW, number


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_tables_agree_with_the_headers_numbers(name: str) -> None:
    column = 0 if name == "x86_64" else 1
    numbers = MACHINES[name].numbers
    both = [call for call in NUMBERS if call in numbers]

    assert len(both) > 60
    assert {call: numbers[call] for call in both} == {call: NUMBERS[call][column] for call in both}
    assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_calls_of_another_architecture_or_of_x32_are_fatal(name: str) -> None:
    machine = MACHINES[name]
    program = filter_program(machine, PID)
    getpid = NUMBERS["getpid"][0 if name == "x86_64" else 1]
    assert getpid is not None

    assert verdict(program, machine.audit_arch, getpid) == ALLOW
    for arch in (0x40000003, 0x40000028, 0xC000003E, 0xC00000B7, 0):  # i386, arm, the two, none
        expected = ALLOW if arch == machine.audit_arch else KILL_PROCESS
        assert verdict(program, arch, getpid) == expected
    assert verdict(program, machine.audit_arch, getpid | X32_BIT) == KILL_PROCESS
    assert verdict(program, machine.audit_arch, 2**32 - 1) == KILL_PROCESS


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_the_program_is_one_the_kernel_takes(name: str) -> None:
    program = filter_program(MACHINES[name], PID)

    assert len(program) < 200
    for at, (code, if_true, if_false, operand) in enumerate(program):
        assert 0 <= operand < 2**32
        assert max(if_true, if_false) < 256
        if code in (0x15, 0x35):
            assert at + 1 + max(if_true, if_false) < len(program)
    assert program[-1] == Instruction(0x06, 0, 0, KILL_PROCESS)
