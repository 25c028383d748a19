"""The few system calls that Python has no name for, through the C library already loaded."""

from __future__ import annotations

import ctypes
import os
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

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


def prctl(option: int, value: int) -> None:
    """Set a property of this process. Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise _last_error()


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
            raise _last_error()
        self._address = address
        self.view = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def unmap(self) -> None:
        """Give the address space back; no slice of ``view`` may be in use."""
        self.view.release()
        if self._size:
            _libc.munmap(self._address, self._size)
            self._size = 0


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
