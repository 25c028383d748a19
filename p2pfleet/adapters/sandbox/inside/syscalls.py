"""The numbers of the system calls that the sandbox speaks of, for each machine it knows.

From Linux's ``unistd`` headers; numbers never change once they are given. A machine that is not
here has no filter, and without a filter no model is run.
"""

from __future__ import annotations

import platform
import struct
from typing import Final, NamedTuple

X86_64: Final[dict[str, int]] = {
    "read": 0, "write": 1, "mmap": 9, "mprotect": 10, "munmap": 11, "mremap": 25, "brk": 12,
    "madvise": 28, "futex": 202, "rt_sigprocmask": 14, "rt_sigaction": 13, "rt_sigreturn": 15,
    "sigaltstack": 131, "setitimer": 38, "prlimit64": 302, "clock_gettime": 228,
    "clock_getres": 229, "exit": 60, "exit_group": 231, "sched_yield": 24, "getpid": 39,
    "gettid": 186, "tgkill": 234, "restart_syscall": 219, "sched_setaffinity": 203,
    "sched_getaffinity": 204, "set_robust_list": 273, "rseq": 334, "clone": 56, "clone3": 435,
    "getrandom": 318, "open": 2, "openat": 257, "openat2": 437, "creat": 85, "stat": 4,
    "fstat": 5, "lstat": 6, "newfstatat": 262, "statx": 332, "access": 21, "faccessat": 269,
    "faccessat2": 439, "readlink": 89, "readlinkat": 267, "getcwd": 79, "socket": 41,
    "socketpair": 53, "prctl": 157, "ioctl": 16, "fcntl": 72, "lseek": 8, "sysinfo": 99,
    "uname": 63, "connect": 42, "execve": 59, "fork": 57, "vfork": 58, "ptrace": 101, "kill": 62,
    "tkill": 200, "pidfd_open": 434, "process_vm_readv": 310, "unshare": 272, "setns": 308,
    "mount": 165, "pivot_root": 155, "chroot": 161, "chdir": 80, "io_uring_setup": 425,
    "userfaultfd": 323, "bpf": 321, "perf_event_open": 298, "keyctl": 250, "memfd_create": 319,
    "shmget": 29, "seccomp": 317, "landlock_create_ruleset": 444, "landlock_restrict_self": 446,
    "capget": 125, "capset": 126, "setuid": 105, "dup": 32, "getdents64": 217, "mkdirat": 258,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "recvmsg": 47, "sendmsg": 46,
    "timer_create": 222, "personality": 135, "sethostname": 170,
}  # fmt: skip
"""What x86-64 calls them; the x32 numbers (with bit 30) are not among them."""

AARCH64: Final[dict[str, int]] = {
    "read": 63, "write": 64, "mmap": 222, "mprotect": 226, "munmap": 215, "mremap": 216,
    "brk": 214, "madvise": 233, "futex": 98, "rt_sigprocmask": 135, "rt_sigaction": 134,
    "rt_sigreturn": 139, "sigaltstack": 132, "setitimer": 103, "prlimit64": 261,
    "clock_gettime": 113, "clock_getres": 114, "exit": 93, "exit_group": 94, "sched_yield": 124,
    "getpid": 172, "gettid": 178, "tgkill": 131, "restart_syscall": 128, "sched_setaffinity": 122,
    "sched_getaffinity": 123, "set_robust_list": 99, "rseq": 293, "clone": 220, "clone3": 435,
    "getrandom": 278, "openat": 56, "openat2": 437, "fstat": 80, "newfstatat": 79, "statx": 291,
    "faccessat": 48, "faccessat2": 439, "readlinkat": 78, "getcwd": 17, "socket": 198,
    "socketpair": 199, "prctl": 167, "ioctl": 29, "fcntl": 25, "lseek": 62, "sysinfo": 179,
    "uname": 160, "connect": 203, "execve": 221, "ptrace": 117, "kill": 129, "tkill": 130,
    "pidfd_open": 434, "process_vm_readv": 270, "unshare": 97, "setns": 268, "mount": 40,
    "pivot_root": 41, "chroot": 51, "chdir": 49, "io_uring_setup": 425, "userfaultfd": 282,
    "bpf": 280, "perf_event_open": 241, "keyctl": 219, "memfd_create": 279, "shmget": 194,
    "seccomp": 277, "landlock_create_ruleset": 444, "landlock_restrict_self": 446, "capget": 90,
    "capset": 91, "setuid": 146, "dup": 23, "getdents64": 61, "mkdirat": 34, "recvmsg": 212,
    "sendmsg": 211, "timer_create": 107, "personality": 92, "sethostname": 161,
}  # fmt: skip
"""What 64-bit ARM calls them: the generic table, without the oldest calls."""


class Machine(NamedTuple):
    """One architecture: what the kernel calls it in a filter's data, and its numbers."""

    name: str
    audit_arch: int
    numbers: dict[str, int]


MACHINES: Final = {
    "x86_64": Machine("x86_64", 0xC000003E, X86_64),
    "aarch64": Machine("aarch64", 0xC00000B7, AARCH64),
}

X32_BIT: Final = 0x40000000
"""On x86-64: what marks the calls of the x32 ABI."""


def this_machine() -> Machine | None:
    """The machine that this process runs on, if it is known and speaks its own ABI."""
    return _THIS_MACHINE


# A 32-bit interpreter on a 64-bit kernel makes other calls than the kernel's name promises.
_THIS_MACHINE = MACHINES.get(platform.machine()) if struct.calcsize("P") == 8 else None
