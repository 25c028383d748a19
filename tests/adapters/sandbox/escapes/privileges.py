"""Attempts to win rights, and to get rid of what has been taken away for good."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .attempt import attempt
from .means import AT_FDCWD, World, call, clone3

_NEW = {
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mount": 0x00020000,
}
_SETS = 6 * 4


@attempt()
def becomes_root(world: World) -> str:
    call("setuid", 0)
    return "uid 0"


@attempt()
def becomes_root_in_every_way(world: World) -> str:
    call("setresuid", 0, 0, 0)
    return "uid 0"


@attempt()
def becomes_roots_group(world: World) -> str:
    call("setgid", 0)
    return "gid 0"


@attempt(needs=("SETGID",))
def joins_a_group(world: World) -> str:
    call("setgroups", 1, struct.pack("i", 0))
    return "a group"


@attempt()
def takes_capabilities(world: World) -> str:
    """Those that it may have: as many as the permitted set holds, and one at least."""
    header = struct.pack("Ii", 0x20080522, 0)
    sets = ctypes.create_string_buffer(_SETS)
    call("capget", header, sets)
    permitted = struct.unpack_from("I", sets, 4)[0] | 1 << 10
    struct.pack_into("I", sets, 0, permitted)
    struct.pack_into("I", sets, 4, permitted)
    call("capset", header, sets)
    return f"capabilities {permitted:#x}"


@attempt()
def passes_capabilities_on(world: World) -> str:
    header = struct.pack("Ii", 0x20080522, 0)
    call("capset", header, _with_inheritable())
    call("prctl", 47, 2, 10, 0, 0)  # PR_CAP_AMBIENT_RAISE, NET_BIND_SERVICE
    return "a capability that outlives a new program"


@attempt(furthest=errno.EINVAL, because="the kernel knows no way back")
def allows_new_privileges(world: World) -> str:
    call("prctl", 38, 0, 0, 0, 0)
    return "no_new_privs is off"


@attempt(furthest=errno.EINVAL, because="the kernel knows no way back")
def switches_its_filter_off(world: World) -> str:
    call("prctl", 22, 0, 0, 0, 0)
    return "no filter"


@attempt()
def can_be_looked_at(world: World) -> str:
    call("prctl", 4, 1, 0, 0, 0)
    return "others may trace it, and it leaves a core"


@attempt()
def outlives_its_server(world: World) -> str:
    call("prctl", 1, 0, 0, 0, 0)
    return "no signal when the server ends"


@attempt()
def keeps_capabilities(world: World) -> str:
    call("prctl", 8, 1, 0, 0, 0)
    return "capabilities outlive a change of its user"


@attempt(optional=(errno.EINVAL,), because="Linux before 6.3 does not know the option")
def allows_code_to_be_written(world: World) -> str:
    call("prctl", 65, 0, 0, 0, 0)
    return "no MDWE"


@attempt()
def adopts_processes(world: World) -> str:
    call("prctl", 36, 1, 0, 0, 0)
    return "orphans become its own"


@attempt()
def takes_another_name(world: World) -> str:
    call("prctl", 15, b"systemd", 0, 0, 0)
    return "another name in the table of processes"


@attempt(
    optional=(errno.ENODEV, errno.ENXIO, errno.EPERM, errno.EINVAL),
    because="a processor may need no such protection, or its owner may have decided",
)
def lowers_its_guard_against_speculation(world: World) -> str:
    call("prctl", 53, 0, 2, 0, 0)
    return "speculation in its process"


@attempt()
def makes_a_user_namespace(world: World) -> str:
    call("unshare", _NEW["user"])
    return "all capabilities in a namespace of its own"


@attempt(needs=("SYS_ADMIN",))
def makes_a_mount_namespace(world: World) -> str:
    call("unshare", _NEW["mount"])
    return "a tree of its own"


@attempt(needs=("SYS_ADMIN",))
def makes_a_network_namespace(world: World) -> str:
    call("unshare", _NEW["net"])
    return "a network of its own"


@attempt(needs=("SYS_ADMIN",))
def makes_all_other_namespaces(world: World) -> str:
    call("unshare", _NEW["uts"] | _NEW["ipc"] | _NEW["pid"] | _NEW["cgroup"])
    return "four namespaces of its own"


@attempt()
def makes_a_user_namespace_for_a_process(world: World) -> str:
    return _outcome(call("clone", _NEW["user"] | 17, 0, 0, 0, 0))


@attempt(needs=("SYS_ADMIN",))
def makes_a_pid_namespace_for_a_process(world: World) -> str:
    return _outcome(call("clone", _NEW["pid"] | 17, 0, 0, 0, 0))


@attempt()
def makes_namespaces_by_the_newest_call(world: World) -> str:
    return _outcome(clone3(_NEW["user"] | _NEW["net"]))


@attempt()
def splits_its_table_of_files(world: World) -> str:
    call("unshare", 0x400)
    return "unshare"


@attempt(needs=("SYS_ADMIN",))
def enters_the_namespace_of_another_process(world: World) -> str:
    def enter(pid: int) -> int:
        return call("setns", call("openat", AT_FDCWD, b"/proc/%d/ns/uts" % pid, os.O_RDONLY, 0), 0)

    return world.each_other(enter)


@attempt(furthest=errno.EINVAL, because="the channel is no namespace")
def enters_a_namespace_through_its_channel(world: World) -> str:
    call("setns", 0, 0)
    return "a namespace"


@attempt(needs=("SYS_ADMIN",))
def enters_a_namespace_through_a_process(world: World) -> str:
    return world.each_other(lambda pid: call("setns", call("pidfd_open", pid, 0), _NEW["uts"]))


def _with_inheritable() -> bytes:
    sets = ctypes.create_string_buffer(_SETS)
    call("capget", struct.pack("Ii", 0x20080522, 0), sets)
    struct.pack_into("I", sets, 8, 1 << 10)
    return sets.raw


def _outcome(pid: int) -> str:
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process in namespaces of its own"
