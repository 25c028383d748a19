"""The few system calls that Python has no name for, through the C library already loaded."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from .syscalls import this_machine

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_GET_SECCOMP: Final = 21
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_GET_NO_NEW_PRIVS: Final = 39
PR_CAP_AMBIENT: Final = 47
PR_SET_MDWE: Final = 65

_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63

_PROT_READ: Final = 1
_PROT_WRITE: Final = 2
_MAP_SHARED: Final = 1
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.prctl.restype = ctypes.c_int
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.munmap.restype = ctypes.c_int
_libc.unshare.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
]  # fmt: skip
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.syscall.argtypes = [ctypes.c_long, *[ctypes.c_ulong] * 6]
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, value: int, more: int = 0) -> int:
    """Set or ask a property of this process. Raises OSError."""
    return _checked(_libc.prctl(option, value, more, 0, 0))


def call(name: str, *arguments: int) -> int:
    """The system call of that name, with integers (addresses too) only. Raises OSError.

    Also if this machine has no such call, or none that the table knows.
    """
    machine = this_machine()
    number = -1 if machine is None else machine.numbers.get(name, -1)
    return raw_call(number, *arguments)


def raw_call(number: int, *arguments: int) -> int:
    """A system call by its number. Raises OSError."""
    padded = [value % 2**64 for value in arguments] + [0] * (6 - len(arguments))
    return _checked(_libc.syscall(number, *padded))


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises OSError."""
    _checked(_libc.unshare(flags))


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes) -> None:
    """Raises OSError."""
    _checked(_libc.mount(source, target, kind, flags, data))


def detach(target: bytes) -> None:
    """Unmount now what nobody can reach any more. Raises OSError."""
    _checked(_libc.umount2(target, 2))


def drop_bounding_set() -> None:
    """Make sure that no program started later can get a privilege.

    Without the privilege to do so the set stays; with no_new_privs it means nothing.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 1:
            continue
        if _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break


def drop_capabilities() -> None:
    """Give up every privilege, also those to come. Raises OSError."""
    drop_bounding_set()
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    head, sets = _capability_buffers(bytes(24))
    call("capset", ctypes.addressof(head), ctypes.addressof(sets))


def has_capabilities() -> bool:
    """Whether this process holds, or may regain, any privilege. Raises OSError."""
    head, sets = _capability_buffers(b"\xff" * 24)
    call("capget", ctypes.addressof(head), ctypes.addressof(sets))
    return any(sets.raw)


class SharedMapping:
    """``size`` bytes of address space over a file.

    Unlike the standard ``mmap``, it may be longer than the file: what the file does not reach
    (yet) cannot be touched, and becomes readable when somebody else lets the file grow.
    """

    def __init__(self, fd: int, size: int, writable: bool = False) -> None:
        self.view = memoryview(b"")
        self._size = size
        if size == 0:
            return
        protection = _PROT_READ | (_PROT_WRITE if writable else 0)
        address = _libc.mmap(None, size, protection, _MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise libc_error()
        self._address = address
        self.view = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def unmap(self) -> None:
        """Give the address space back; no slice of ``view`` may be in use."""
        self.view.release()
        if self._size:
            _libc.munmap(self._address, self._size)
            self._size = 0


def libc_error() -> OSError:
    """What the C library says of the call that just failed."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _checked(result: int) -> int:
    if result == -1:
        raise libc_error()
    return result


def _capability_buffers(
    sets: bytes,
) -> tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char]]:
    head = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    return head, ctypes.create_string_buffer(sets, 24)
