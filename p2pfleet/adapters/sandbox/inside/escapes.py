"""The start-up self-test's attempts: what a model that was taken over would try first.

Each runs in a real, locked-down child. Whoever returns from an attempt has escaped; an OSError, or
the end by the filter (SIGSYS), means that it is blocked. They are chosen to succeed in an ordinary
process of the same user, so that a block shows the sandbox and not the attempt's own failure;
those marked otherwise need a privilege or a rare kernel, and show that there is none.
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from .kernel import call, raw_call
from .syscalls import X32_BIT

_ANONYMOUS = 0x22
_SHARED = 0x21
_RWX = 7
_PAGE = 4096


class Attempt(NamedTuple):
    """One attempt, and the property of the sandbox that it would disprove."""

    name: str
    prevents: str
    run: Callable[[], object]
    denied_anyway: bool = False
    """Whether an ordinary process may be denied it as well."""


def _mapped(protection: int, flags: int = _ANONYMOUS) -> int:
    return call("mmap", 0, _PAGE, protection, flags, -1, 0)


def _became_executable() -> None:
    call("mprotect", _mapped(3), _PAGE, 5)


def _text(value: bytes) -> int:
    _kept.append(ctypes.create_string_buffer(value))
    return ctypes.addressof(_kept[-1])


_kept: list[ctypes.Array[ctypes.c_char]] = []


def _receives() -> None:
    call("recvmsg", 0, _text(bytes(56)), socket.MSG_DONTWAIT)


def _connects() -> None:
    call("connect", 0, _text(bytes(16)), 16)


def _unshares() -> None:
    call("unshare", 0x10000000)  # the user namespace, which comes before all others


def _mounts() -> None:
    call("mount", 0, _text(b"/"), 0, 1 << 18, 0)  # make it private


def _forks(fork: Callable[[], int]) -> None:
    pid = fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _clones() -> int:
    return call("clone", signal.SIGCHLD, 0, 0, 0, 0)


def _execs() -> None:
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", ""])  # noqa: S606


def _stats_by_itself() -> None:
    buffer = ctypes.create_string_buffer(256)
    call("newfstatat", -100, _text(b"/"), ctypes.addressof(buffer), 0)


def _io_uring() -> None:
    call("io_uring_setup", 4, _text(bytes(120)))


def _opens_how() -> None:
    call("openat2", -100, _text(b"/"), _text(bytes(24)), 24)


def _bpf() -> None:
    # An empty map: BPF_MAP_CREATE of type array, 4 bytes a key and a value, one entry.
    attributes = b"".join(value.to_bytes(4, "little") for value in (2, 4, 4, 1)) + bytes(112)
    call("bpf", 0, _text(attributes), len(attributes))


def _perf() -> None:
    attributes = (1).to_bytes(4, "little") + (112).to_bytes(4, "little") + bytes(104)
    call("perf_event_open", _text(attributes), 0, -1, -1, 0)


def _takes_memory() -> None:
    # More than any self-test's child is granted, and than its address space may hold.
    call("mmap", 0, 2**36, 3, _ANONYMOUS | 0x4000, -1, 0)


def _more_cpu_of_others() -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_CPU)


ATTEMPTS: Final = (
    Attempt("opening a folder", "files", lambda: os.open("/", os.O_RDONLY)),
    Attempt("opening it by openat2", "files", _opens_how),
    Attempt("looking at a file", "files", _stats_by_itself),
    Attempt("entering a folder", "files", lambda: os.chdir("/")),
    Attempt("a file in memory", "files", lambda: os.memfd_create("x")),
    Attempt("an internet socket", "network", lambda: socket.socket(socket.AF_INET)),
    Attempt("a local socket", "network", lambda: socket.socket(socket.AF_UNIX)),
    Attempt("connecting", "network", _connects, denied_anyway=True),
    Attempt("fork", "processes", lambda: _forks(os.fork)),
    Attempt("fork by number", "processes", lambda: _forks(_clones)),
    Attempt("a thread", "processes", lambda: _thread.start_new_thread(signal.pause, ())),
    Attempt("exec", "processes", _execs),
    Attempt("tracing", "processes", lambda: call("ptrace", 0, 0, 0, 0)),
    Attempt("signalling the server", "processes", lambda: os.kill(os.getppid(), 0)),
    Attempt("signalling all", "processes", lambda: os.kill(-1, 0)),
    Attempt("a handle of the server", "processes", lambda: os.pidfd_open(os.getppid())),
    Attempt("limits of the server", "processes", _more_cpu_of_others),
    Attempt("reading another descriptor", "descriptors", lambda: os.read(3, 1)),
    Attempt("reading a standard descriptor", "descriptors", lambda: os.read(1, 1)),
    Attempt("a copy of a descriptor", "descriptors", lambda: os.dup(0)),
    Attempt("receiving descriptors", "descriptors", _receives, denied_anyway=True),
    Attempt("memory to write and execute", "memory", lambda: _mapped(_RWX)),
    Attempt("memory made executable", "memory", _became_executable),
    Attempt("shared memory", "memory", lambda: _mapped(3, _SHARED)),
    Attempt("unlimited memory", "memory", _takes_memory),
    Attempt("io_uring", "kernel", _io_uring, denied_anyway=True),
    Attempt("userfaultfd", "kernel", lambda: call("userfaultfd", 1), denied_anyway=True),
    Attempt("bpf", "kernel", _bpf, denied_anyway=True),
    Attempt("perf_event_open", "kernel", _perf, denied_anyway=True),
    Attempt("keyrings", "kernel", lambda: call("keyctl", 0, -3, 1), denied_anyway=True),
    Attempt("the x32 calls", "kernel", lambda: raw_call(X32_BIT | 39), denied_anyway=True),
    Attempt("new namespaces", "privileges", _unshares, denied_anyway=True),
    Attempt("mounting", "privileges", _mounts, denied_anyway=True),
    Attempt("another root", "privileges", lambda: os.chroot("/"), denied_anyway=True),
    Attempt("being root", "privileges", lambda: os.setuid(0), denied_anyway=True),
    Attempt("being traced", "privileges", lambda: call("prctl", 4, 1, 0, 0, 0)),
)  # fmt: skip
"""Every one of them must be blocked."""


def _sees_files() -> None:
    if not os.listdir("/"):
        raise OSError(errno.ENOENT, "there is nothing")


SECOND_LOCK: Final = (
    Attempt("reading a folder", "second lock", _sees_files),
    Attempt("writing a file", "second lock", lambda: os.open("/dev/null", os.O_WRONLY)),
    Attempt("running a program", "second lock", _execs),
)
"""What the locks behind the filter must block by themselves."""
