"""Attempts to run programs, to start processes and threads, and to run code of one's own."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import threading
from pathlib import Path

from .attempt import attempt
from .means import (
    AT_FDCWD,
    FORTY_TWO,
    GATES,
    SHARED_ANONYMOUS,
    World,
    call,
    clone3,
    map_memory,
    run_code,
    syscall,
)

_RWX = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
_RW = mmap.PROT_READ | mmap.PROT_WRITE
_RX = mmap.PROT_READ | mmap.PROT_EXEC
_AT_EMPTY_PATH = 0x1000
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_CLONE_PARENT = 0x8000
_PROGRAM = b"/bin/sh"


@attempt()
def becomes_another_program(world: World) -> str:
    call("execve", _PROGRAM, _arguments(), 0)
    raise AssertionError("execve returned")


@attempt()
def becomes_a_program_by_the_newer_call(world: World) -> str:
    call("execveat", AT_FDCWD, _PROGRAM, _arguments(), 0, 0)
    raise AssertionError("execveat returned")


@attempt()
def becomes_a_program_in_memory(world: World) -> str:
    fd = call("memfd_create", b"program", 0)
    os.write(fd, Path(_PROGRAM.decode()).read_bytes())
    call("execveat", fd, b"", _arguments(), 0, _AT_EMPTY_PATH)
    raise AssertionError("execveat returned")


@attempt(furthest=errno.EACCES, because="the channel is no program")
def becomes_a_program_through_its_channel(world: World) -> str:
    call("execveat", 0, b"", _arguments(), 0, _AT_EMPTY_PATH)
    raise AssertionError("execveat returned")


@attempt(machine="x86_64")
def forks(world: World) -> str:
    return _outcome(call("fork"))


@attempt()
def forks_by_clone(world: World) -> str:
    return _outcome(call("clone", signal.SIGCHLD, 0, 0, 0, 0))


@attempt()
def forks_by_clone3(world: World) -> str:
    return _outcome(clone3(0))


@attempt()
def forks_by_the_library(world: World) -> str:
    return _outcome(os.fork())


@attempt()
def forks_away_from_its_server(world: World) -> str:
    pid = call("clone", _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return "a process that is not its child"


@attempt()
def starts_a_thread(world: World) -> str:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append("a thread"))
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from None
    thread.join()
    return said[0]


@attempt()
def runs_memory_that_it_wrote(world: World) -> str:
    return run_code(map_memory(_RWX, _PRIVATE), FORTY_TWO)


@attempt()
def runs_memory_after_it_wrote_it(world: World) -> str:
    address = map_memory(_RW, _PRIVATE)
    ctypes.memmove(address, FORTY_TWO, len(FORTY_TWO))
    call("mprotect", address, mmap.PAGESIZE, _RX)
    return run_code(address)


@attempt()
def runs_memory_after_it_wrote_it_with_a_key(world: World) -> str:
    address = map_memory(_RW, _PRIVATE)
    ctypes.memmove(address, FORTY_TWO, len(FORTY_TWO))
    call("pkey_mprotect", address, mmap.PAGESIZE, _RX, -1)
    return run_code(address)


@attempt()
def runs_memory_that_it_shares_with_itself(world: World) -> str:
    return run_code(map_memory(_RWX, SHARED_ANONYMOUS), FORTY_TWO)


@attempt()
def runs_memory_through_a_second_mapping(world: World) -> str:
    fd = call("memfd_create", b"code", 0)
    call("ftruncate", fd, mmap.PAGESIZE)
    writable = map_memory(_RW, mmap.MAP_SHARED, fd)
    ctypes.memmove(writable, FORTY_TWO, len(FORTY_TWO))
    return run_code(map_memory(_RX, mmap.MAP_SHARED, fd))


@attempt()
def runs_a_shared_segment(world: World) -> str:
    segment = call("shmget", 0, mmap.PAGESIZE, 0o1700)
    try:
        return run_code(call("shmat", segment, 0, 0o100000), FORTY_TWO)  # SHM_EXEC
    finally:
        call("shmctl", segment, 0, 0)


@attempt()
def runs_its_outputs(world: World) -> str:
    address = world.own_arena("outputs")
    ctypes.memmove(address, FORTY_TWO, len(FORTY_TWO))
    call("mprotect", address, mmap.PAGESIZE, _RX)
    return run_code(address)


@attempt()
def runs_its_inputs(world: World) -> str:
    call("mprotect", world.own_arena("inputs"), mmap.PAGESIZE, _RX)
    return "the node's bytes can be run"


@attempt()
def runs_all_memory_that_it_may_read(world: World) -> str:
    call("personality", 0x0400000)  # READ_IMPLIES_EXEC
    return run_code(map_memory(_RW, _PRIVATE), FORTY_TWO)


@attempt()
def runs_its_heap(world: World) -> str:
    code = ctypes.create_string_buffer(FORTY_TWO + bytes(2 * mmap.PAGESIZE))
    page = (ctypes.addressof(code) + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    ctypes.memmove(page, FORTY_TWO, len(FORTY_TWO))
    call("mprotect", page, mmap.PAGESIZE, _RWX)
    return run_code(page)


@attempt()
def changes_the_code_of_a_library(world: World) -> str:
    function = ctypes.cast(ctypes.CDLL(None).qsort, ctypes.c_void_p).value
    assert function
    page = function & -mmap.PAGESIZE
    call("mprotect", page, 2 * mmap.PAGESIZE, _RWX)
    return "the C library's code is writable"


@attempt(
    machine="x86_64",
    optional=(errno.ENOSYS,),
    because="the x32 ABI is an option of the kernel and of its start",
)
def calls_by_the_x32_table(world: World) -> str:
    return f"pid {syscall(0x40000000 | 39)}"


@attempt(
    machine="x86_64",
    optional=(errno.ENOSYS,),
    because="the x32 ABI is an option of the kernel and of its start",
)
def opens_a_file_by_the_x32_table(world: World) -> str:
    return f"descriptor {syscall(0x40000000 | 2, world.secret, 0, 0)}"


@attempt(machine="x86_64", dies_of=("SIGSEGV",))
def calls_by_the_32_bit_entry(world: World) -> str:
    answer = GATES.int_80(20, 0, 0)
    if answer < 0:
        raise OSError(-answer, "int 0x80")
    return f"pid {answer}"


@attempt(
    machine="x86_64",
    dies_of=("SIGSEGV",),
    furthest=errno.EBADF,
    because="it closes a descriptor that is not open",
)
def closes_by_the_32_bit_entry(world: World) -> str:
    answer = GATES.int_80(6, 999, 0)
    if answer < 0:
        raise OSError(-answer, "int 0x80")
    return "closed"


@attempt(
    machine="x86_64",
    optional=("SIGSEGV",),
    because="the page of the first fast calls is an option of the kernel and of its start",
)
def calls_by_the_oldest_page(world: World) -> str:
    seconds = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFF_FFFF_FF60_0400)(None)
    return f"the time is {seconds}"


@attempt(furthest=errno.ENOSYS, because="no call has the number")
def calls_what_does_not_exist(world: World) -> str:
    return f"{syscall(100_000)}"


def _arguments() -> ctypes.Array[ctypes.c_char_p]:
    """A program that says by itself that it runs."""
    return (ctypes.c_char_p * 4)(b"sh", b"-c", b"printf 'ESCAPED another program' >&0", None)


def _outcome(pid: int) -> str:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process"
