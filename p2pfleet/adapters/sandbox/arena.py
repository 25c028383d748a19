"""The shared memory between the node and a child: sealed memfds, read and written, never mapped.

The node only uses ``pread`` and ``pwrite``: they copy (so that what is checked is what is used),
they release the interpreter's lock, and nothing a child does to its side can fault the node.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import trio

THREAD_FROM_BYTES = 2**20
"""Copies above this size (about a third of a millisecond) are made in a thread."""

_MFD_NOEXEC_SEAL = 0x8
_MAX_IO_BYTES = 2**30


def memory_file(name: str) -> int:
    """A new, empty memfd that can be sealed and not be executed; returns its descriptor."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.3 does not know the flag
            raise
        return os.memfd_create(name, flags)


def read_only(fd: int) -> int:
    """A second descriptor of the memfd ``fd``, through which it cannot be written."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def seal(fd: int, *, shrink: bool = True, grow: bool = True, write: bool = False) -> None:
    """Forbid for good, and seal the seals."""
    # Here, so that the package can be imported on systems that have no sandbox.
    import fcntl

    seals = fcntl.F_SEAL_SEAL
    seals |= fcntl.F_SEAL_SHRINK if shrink else 0
    seals |= fcntl.F_SEAL_GROW if grow else 0
    seals |= fcntl.F_SEAL_WRITE if write else 0
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


async def write_fully(fd: int, data: bytes) -> None:
    """Write ``data`` to the start of the memfd; it grows as needed. Raises OSError."""
    if len(data) > THREAD_FROM_BYTES:
        await trio.to_thread.run_sync(_write, fd, data)
    else:
        _write(fd, data)


async def read_fully(fd: int, size: int) -> bytes:
    """A copy of the first ``size`` bytes of the memfd. Raises OSError."""
    if size > THREAD_FROM_BYTES:
        return await trio.to_thread.run_sync(_read, fd, size)
    return _read(fd, size)


async def sealed_model(model: bytes) -> int:
    """The model in a memfd that nobody can change any more; returns its descriptor."""
    fd = memory_file("p2pfleet-model")
    try:
        await write_fully(fd, model)
        seal(fd, write=True)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Arena:
    """The two memfds of one child: its inputs (which it can only read) and its outputs.

    The input half is as large as the largest input so far: it grows when the node writes, and the
    child's mapping, which is laid out for the largest allowed input, follows. So there is nothing
    to map anew once a child is locked down, and nothing for a child to fill.
    """

    def __init__(self, output_capacity: int) -> None:
        self._fds: list[int] = []
        try:
            self._inputs = self._own(memory_file("p2pfleet-inputs"))
            seal(self._inputs, grow=False)
            self._outputs = self._own(memory_file("p2pfleet-outputs"))
            os.ftruncate(self._outputs, output_capacity)
            seal(self._outputs)
            self._readable_inputs = self._own(read_only(self._inputs))
        except BaseException:
            self.close()
            raise

    def for_child(self) -> tuple[int, int]:
        """The descriptors to hand to the child: inputs (read-only) and outputs."""
        return self._readable_inputs, self._outputs

    async def write(self, bundle: bytes) -> None:
        """Put an input bundle where the child reads it. Raises OSError (no memory left)."""
        await write_fully(self._inputs, bundle)

    async def read(self, size: int) -> bytes:
        """A copy of the output bundle of ``size`` bytes."""
        return await read_fully(self._outputs, size)

    def close(self) -> None:
        """Give the memory back (once the child is gone as well); idempotent."""
        while self._fds:
            with suppress(OSError):
                os.close(self._fds.pop())

    def _own(self, fd: int) -> int:
        self._fds.append(fd)
        return fd


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    position = 0
    while position < len(view):
        position += os.pwrite(fd, view[position : position + _MAX_IO_BYTES], position)


def _read(fd: int, size: int) -> bytes:
    parts = []
    position = 0
    while position < size:
        part = os.pread(fd, min(size - position, _MAX_IO_BYTES), position)
        if not part:
            raise OSError(errno.ENODATA, f"the memfd ends at {position} of {size} bytes")
        parts.append(part)
        position += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
