"""Attempts on other processes: the fork server, another job's child, the node."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

from .attempt import attempt
from .means import AT_FDCWD, INHERITED, World, call, read_some

_SEIZE = 0x4206
_TRACEME = 0


@attempt()
def signals_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("kill", pid, signal.SIGCONT))


@attempt()
def signals_a_thread_of_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("tgkill", pid, pid, signal.SIGCONT))


@attempt()
def signals_a_thread_anywhere(world: World) -> str:
    return world.each_other(lambda pid: call("tkill", pid, signal.SIGCONT))


@attempt()
def signals_everybody(world: World) -> str:
    call("kill", -1, 0)
    return "every process it may signal"


@attempt()
def signals_its_group(world: World) -> str:
    call("kill", 0, 0)
    return "the server's group of processes"


@attempt()
def queues_a_signal_for_another_process(world: World) -> str:
    info = struct.pack("iiii", signal.SIGCONT, 0, -1, 0) + bytes(112)
    return world.each_other(lambda pid: call("rt_sigqueueinfo", pid, signal.SIGCONT, info))


@attempt()
def signals_another_process_by_a_descriptor(world: World) -> str:
    return world.each_other(
        lambda pid: call("pidfd_send_signal", call("pidfd_open", pid, 0), signal.SIGCONT, 0, 0)
    )


@attempt()
def opens_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("pidfd_open", pid, 0))


@attempt()
def takes_a_descriptor_of_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("pidfd_getfd", call("pidfd_open", pid, 0), 0, 0))


@attempt()
def traces_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("ptrace", _SEIZE, pid, 0, 0))


@attempt()
def has_itself_traced(world: World) -> str:
    call("ptrace", _TRACEME, 0, 0, 0)
    return "its server is its tracer"


@attempt()
def reads_the_memory_of_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("process_vm_readv", pid, *_pieces(), 0))


@attempt()
def writes_the_memory_of_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("process_vm_writev", pid, *_pieces(), 0))


@attempt()
def opens_the_memory_of_another_process(world: World) -> str:
    return world.each_other(
        lambda pid: call("openat", AT_FDCWD, b"/proc/%d/mem" % pid, os.O_RDWR, 0)
    )


@attempt()
def opens_the_descriptors_of_another_process(world: World) -> str:
    return world.each_other(
        lambda pid: call("openat", AT_FDCWD, b"/proc/%d/fd" % pid, os.O_RDONLY, 0)
    )


@attempt()
def reads_the_environment_of_another_process(world: World) -> str:
    return world.each_other(
        lambda pid: call("openat", AT_FDCWD, b"/proc/%d/environ" % pid, os.O_RDONLY, 0)
    )


@attempt()
def looks_through_the_root_of_another_process(world: World) -> str:
    return world.each_other(
        lambda pid: call("openat", AT_FDCWD, b"/proc/%d/root/etc/passwd" % pid, os.O_RDONLY, 0)
    )


@attempt()
def reads_the_table_of_processes(world: World) -> str:
    return read_some(call("openat", AT_FDCWD, b"/proc/stat", os.O_RDONLY, 0))


@attempt()
def learns_the_limits_of_another_process(world: World) -> str:
    limits = ctypes.create_string_buffer(16)
    return world.each_other(lambda pid: call("prlimit64", pid, 7, 0, limits))


@attempt()
def sets_the_limits_of_another_process(world: World) -> str:
    def lower(pid: int) -> int:
        core = ctypes.create_string_buffer(16)
        call("prlimit64", pid, 4, 0, core)
        return call("prlimit64", pid, 4, core, 0)

    return world.each_other(lower)


@attempt()
def slows_another_process_down(world: World) -> str:
    return world.each_other(lambda pid: call("setpriority", 0, pid, 0))


@attempt()
def moves_another_process_to_a_processor(world: World) -> str:
    """And looks whether it has moved: the call may be answered without being carried out."""
    mask = (1 << world.processors[0]).to_bytes(128, "little")

    def move(pid: int) -> None:
        before, after = bytearray(128), ctypes.create_string_buffer(128)
        size = call("sched_getaffinity", pid, len(after), after)
        before[:size] = after.raw[:size]
        call("sched_setaffinity", pid, len(mask), mask)
        size = call("sched_getaffinity", pid, len(after), after)
        call("sched_setaffinity", pid, len(before), bytes(before))
        if after.raw[:size] != mask[:size]:
            raise OSError(errno.EPERM, "it has not moved")

    return world.each_other(move)


@attempt()
def schedules_another_process(world: World) -> str:
    return world.each_other(
        lambda pid: call("sched_setscheduler", pid, os.SCHED_OTHER, struct.pack("i", 0))
    )


@attempt()
def learns_where_another_process_keeps_its_locks(world: World) -> str:
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    return world.each_other(
        lambda pid: call("get_robust_list", pid, ctypes.byref(head), ctypes.byref(size))
    )


@attempt(optional=(errno.ENOSYS,), because="kcmp is an option of the kernel")
def compares_itself_with_another_process(world: World) -> str:
    return world.each_other(lambda pid: call("kcmp", world.own_pid(), pid, 2, 0, 0))


@attempt(optional=(errno.ENOSYS,), because="a kernel may know no memory nodes")
def moves_the_memory_of_another_process(world: World) -> str:
    node = struct.pack("Q", 1)
    return world.each_other(lambda pid: call("migrate_pages", pid, 2, node, node))


@attempt()
def leaves_its_session(world: World) -> str:
    call("setsid")
    return "a session of its own"


@attempt()
def leaves_its_group(world: World) -> str:
    call("setpgid", 0, 0)
    return "a group of its own"


def _pieces() -> tuple[bytes, int, bytes, int]:
    """A word that lies at the same address in the fork server and in all its children."""
    piece = struct.pack("PN", ctypes.addressof(INHERITED), len(INHERITED))
    return piece, 1, piece, 1
