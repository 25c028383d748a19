"""Attempts to take more of the machine than was granted: memory, time, priority."""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import resource
import signal
import struct
import time

from .attempt import attempt
from .means import SHARED_ANONYMOUS, World, call, map_memory, no_os_error

_RW = mmap.PROT_READ | mmap.PROT_WRITE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_GROWS_DOWN, _NORESERVE = 0x100, 0x4000
_STACK_BYTES = 32 * 2**20


@attempt()
def fills_private_memory(world: World) -> str:
    return _fill(map_memory(_RW, _PRIVATE, size=world.too_much), world.too_much)


@attempt()
def fills_private_memory_piece_by_piece(world: World) -> str:
    piece = 2**20
    for _ in range(world.too_much // piece):
        _fill(map_memory(_RW, _PRIVATE, size=piece), piece)
    return f"{world.too_much} bytes"


@attempt()
def fills_memory_that_was_only_readable(world: World) -> str:
    piece = 2**20
    for _ in range(world.too_much // piece):
        address = map_memory(mmap.PROT_READ, _PRIVATE, size=piece)
        call("mprotect", address, piece, _RW)
        _fill(address, piece)
    return f"{world.too_much} bytes"


@attempt()
def fills_memory_and_gives_up_writing_it(world: World) -> str:
    """What cannot be written is not counted as data; nor are addresses that are given back."""
    for name in ("inputs", "outputs"):
        call("munmap", world.own_arena(name), world.arena_sizes[name])
    piece = 2**20
    for index in range(world.too_much // piece):
        try:
            address = map_memory(_RW, _PRIVATE, size=piece)
        except OSError as error:
            raise OSError(error.errno, f"after {index} MiB") from None
        _fill(address, piece)
        call("mprotect", address, piece, mmap.PROT_READ)
    return f"{world.too_much} bytes"


@attempt()
def fills_memory_that_counts_as_stack(world: World) -> str:
    address = map_memory(_RW, _PRIVATE | _GROWS_DOWN, size=world.too_much)
    return _fill(address, world.too_much)


@attempt()
def fills_shared_memory(world: World) -> str:
    return _fill(map_memory(_RW, SHARED_ANONYMOUS, size=world.too_much), world.too_much)


@attempt()
def fills_the_heap_by_its_end(world: World) -> str:
    piece = 2**20
    end = call("brk", 0)
    for _ in range(world.too_much // piece):
        if call("brk", end + piece) < end + piece:
            raise OSError(12, "brk")
        _fill(end, piece)
        end += piece
    return f"{world.too_much} bytes"


@attempt()
def fills_the_heap(world: World) -> str:
    held = [bytearray(b"x") * 2**20 for _ in range(world.too_much // 2**20)]
    return f"{len(held)} MiB"


@attempt(dies_of=("SIGSEGV",))
def fills_its_stack(world: World) -> str:
    no_os_error(
        lambda: resource.setrlimit(
            resource.RLIMIT_STACK, (2 * _STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1])
        )
    )
    here = world.stack_pointer()
    for down in range(mmap.PAGESIZE, _STACK_BYTES, mmap.PAGESIZE):
        ctypes.memset(here - down, 1, 1)
    return f"{_STACK_BYTES} bytes below its stack"


@attempt()
def reserves_more_than_the_machine_has(world: World) -> str:
    map_memory(0, _PRIVATE | _NORESERVE, size=2**42)
    return "4 TiB of addresses"


@attempt()
def keeps_memory_from_being_swapped(world: World) -> str:
    call("mlock", map_memory(_RW, _PRIVATE), mmap.PAGESIZE)
    return "a page"


@attempt()
def keeps_all_memory_from_being_swapped(world: World) -> str:
    call("mlockall", 1)
    return "all of it"


@attempt()
def raises_the_limit_of_memory(world: World) -> str:
    return _raise(resource.RLIMIT_DATA, 2**40)


@attempt()
def raises_the_limit_of_addresses(world: World) -> str:
    return _raise(resource.RLIMIT_AS, 2**46)


@attempt()
def raises_the_limit_of_descriptors(world: World) -> str:
    return _raise(resource.RLIMIT_NOFILE, 64)


@attempt()
def raises_the_limit_of_processes(world: World) -> str:
    return _raise(resource.RLIMIT_NPROC, 64)


@attempt()
def raises_the_limit_of_files(world: World) -> str:
    return _raise(resource.RLIMIT_FSIZE, 2**20)


@attempt(optional=(errno.EPERM,), because="a machine may allow no cores at all")
def raises_the_limit_of_cores(world: World) -> str:
    return _raise(resource.RLIMIT_CORE, 2**20)


@attempt()
def raises_the_limit_of_locked_memory(world: World) -> str:
    return _raise(resource.RLIMIT_MEMLOCK, 2**16)


@attempt()
def raises_the_limit_of_queues(world: World) -> str:
    return _raise(resource.RLIMIT_MSGQUEUE, 2**16)


@attempt()
def raises_a_limit_by_the_older_call(world: World) -> str:
    call("setrlimit", resource.RLIMIT_NOFILE, struct.pack("QQ", 64, 64))
    return "64 descriptors"


@attempt()
def computes_on_and_on(world: World) -> str:
    """Deaf to the signals of its CPU limit, and its timer stopped."""
    for number in (signal.SIGXCPU, signal.SIGPROF, signal.SIGVTALRM, signal.SIGALRM):
        no_os_error(functools.partial(signal.signal, number, signal.SIG_IGN))
    no_os_error(lambda: signal.setitimer(signal.ITIMER_PROF, 0))
    no_os_error(
        lambda: resource.setrlimit(
            resource.RLIMIT_CPU, (resource.getrlimit(resource.RLIMIT_CPU)[1],) * 2
        )
    )
    end = time.monotonic() + world.too_long
    while time.monotonic() < end:
        pass
    return f"{world.too_long} seconds"


@attempt()
def waits_on_and_on(world: World) -> str:
    time.sleep(world.too_long)
    return f"{world.too_long} seconds of a child's memory"


@attempt(needs=("SYS_NICE",))
def becomes_more_urgent(world: World) -> str:
    call("setpriority", 0, 0, -5)
    return "nice -5"


@attempt()
def becomes_as_urgent_as_everybody(world: World) -> str:
    call("sched_setscheduler", 0, os.SCHED_OTHER, struct.pack("i", 0))
    return "the usual share of the processor"


@attempt(needs=("SYS_NICE",))
def computes_in_real_time(world: World) -> str:
    call("sched_setscheduler", 0, os.SCHED_RR, struct.pack("i", 1))
    return "a processor of its own"


@attempt(needs=("SYS_NICE",))
def computes_in_real_time_by_the_newer_call(world: World) -> str:
    attributes = struct.pack("IIQiIQQQ", 48, os.SCHED_FIFO, 0, 0, 1, 0, 0, 0)
    call("sched_setattr", 0, attributes, 0)
    return "a processor of its own"


@attempt(optional=(errno.ENODEV,), because="a machine may have one processor only")
def chooses_its_processor(world: World) -> str:
    """Seen from where it runs: the call may be answered without being carried out."""
    libc = ctypes.CDLL(None)
    if len(world.processors) < 2:
        raise OSError(errno.ENODEV, "there is nothing to choose")
    for wanted in world.processors * 4:
        mask = (1 << wanted).to_bytes(128, "little")
        call("sched_setaffinity", 0, len(mask), mask)
        if libc.sched_getcpu() != wanted:
            raise OSError(1, "it does not run where it chose to")
    return "a processor of its choice"


@attempt(needs=("SYS_ADMIN",))
def reads_and_writes_before_others(world: World) -> str:
    call("ioprio_set", 1, 0, 1 << 13)
    return "the disk in real time"


def _fill(address: int, size: int) -> str:
    ctypes.memset(address, 1, size)
    return f"{size} bytes"


def _raise(kind: int, value: int) -> str:
    """Both of its values, to one that lies below what an unlocked process has."""
    call("prlimit64", 0, kind, struct.pack("QQ", value, value), 0)
    return f"limit {kind} at {value}"
