"""What an attempt works with: raw system calls, and what a well-informed attacker knows."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .calls import CALLS

AT_FDCWD = -100
SHARED_ANONYMOUS = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
FORTY_TWO = {
    "x86_64": bytes.fromhex("b82a000000c3"),  # mov eax, 42; ret
    "aarch64": struct.pack("<II", 0x52800540, 0xD65F03C0),  # mov w0, #42; ret
}[platform.machine()]
INHERITED = ctypes.create_string_buffer(8)
"""Made before the fork: the same bytes at the same address in the server and every child."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Refused(Exception):
    """An attempt came to nothing without an error number; the reason is a sentence."""


def syscall(number: int, *arguments: Any) -> int:
    """A system call by its number. Raises OSError."""
    result: int = _libc.syscall(
        ctypes.c_long(number),
        *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments),
    )
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def call(name: str, *arguments: Any) -> int:
    """A system call by its name. Raises OSError, whose text names the call."""
    try:
        return syscall(CALLS[name], *arguments)
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}") from None


def clone3(flags: int) -> int:
    """A process with ``flags``. Raises OSError."""
    arguments = struct.pack("QQQQQQQQQQQ", flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    return call("clone3", arguments, len(arguments))


def read_some(fd: int) -> str:
    """The first bytes behind a descriptor. Raises OSError."""
    data = ctypes.create_string_buffer(32)
    size = call("read", fd, data, 32)
    return data.raw[:size].decode("latin-1")


def map_memory(protection: int, flags: int, fd: int = -1, size: int = mmap.PAGESIZE) -> int:
    """New memory; returns its address. Raises OSError."""
    return call("mmap", 0, size, protection, flags, fd, 0)


def run_code(address: int, code: bytes = b"") -> str:
    """Put ``code`` at ``address``, run what lies there, and tell what it returned."""
    ctypes.memmove(address, code, len(code))
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if answer != 42:
        raise Refused(f"the code returned {answer}")
    return "own machine code returned 42"


def no_os_error(act: Callable[[], object]) -> None:
    """Do what helps an attempt along, but does not decide it."""
    try:
        act()
    except (OSError, ValueError):
        return


class World(NamedTuple):
    """What an attacker has found out about where it is."""

    folder: bytes
    """A folder that everybody may write to; ``secret`` and ``spare`` are files in it."""

    secret: bytes
    spare: bytes
    socket_path: bytes
    """A Unix socket that somebody listens at; ``abstract``: another without a path."""

    abstract: bytes
    tcp_port: int
    udp_port: int
    segment: int
    """A System V segment that everybody may attach."""

    processes: tuple[int, ...]
    """The fork server, another child and the node, as numbered in the child's namespace."""

    too_much: int
    """Bytes of memory, beyond what is granted."""

    too_long: float
    """Seconds, beyond what is granted."""

    arena_sizes: dict[str, int]
    """The bytes of address space of its two halves, ``inputs`` and ``outputs``."""

    processors: tuple[int, ...]

    def others(self) -> list[int]:
        """The processes that are not this one itself. Raises :class:`Refused`."""
        others = [pid for pid in self.processes if pid > 0 and pid != _own_pid]
        if not others:
            raise Refused("there is no number for any other process")
        return others

    def each_other(self, act: Callable[[int], object]) -> str:
        """Try it on one process after the other until it works. Raises the last OSError."""
        for pid in self.others():
            try:
                act(pid)
            except OSError as error:
                refused = error
            else:
                return f"process {pid}"
        raise refused

    def own_pid(self) -> int:
        """Known since before the child was locked down."""
        return _own_pid

    def own_arena(self, name: str) -> int:
        """The address of a shared mapping, found where the child keeps it."""
        return int(_child_variable(name)._address)

    def own_descriptor(self, name: str) -> int:
        """The number of a descriptor that the child had."""
        return int(_child_variable(name))

    def stack_pointer(self) -> int:
        """About where the stack of this thread ends now."""
        return _stack_pointer()


def _child_variable(name: str) -> Any:
    frame = sys._getframe()
    while frame is not None:
        if name in frame.f_locals and frame.f_code.co_name == "live":
            return frame.f_locals[name]
        frame = frame.f_back  # type: ignore[assignment]
    raise AssertionError(f"the child has no {name}")


class _Gates:
    """Machine code that an attacker could find in some library, laid ready before the lock-down."""

    def __init__(self) -> None:
        page = map_memory(mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # int 0x80 with the number and two arguments; then: the stack pointer.
        ctypes.memmove(page, bytes.fromhex("5389f889f389d131d2cd805bc3"), 13)
        ctypes.memmove(page + 64, _STACK_POINTER, len(_STACK_POINTER))
        call("mprotect", page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        self.int_80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(page)
        self.stack_pointer = ctypes.CFUNCTYPE(ctypes.c_size_t)(page + 64)


_STACK_POINTER = {
    "x86_64": bytes.fromhex("4889e0c3"),  # mov rax, rsp; ret
    "aarch64": struct.pack("<II", 0x910003E0, 0xD65F03C0),  # mov x0, sp; ret
}[platform.machine()]
GATES = _Gates()


def _stack_pointer() -> int:
    return int(GATES.stack_pointer())


_own_pid = os.getpid()


def _remember_own_pid() -> None:
    global _own_pid
    _own_pid = os.getpid()


os.register_at_fork(after_in_child=_remember_own_pid)
