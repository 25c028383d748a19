"""Attempts on the tree of file systems."""

from __future__ import annotations

import ctypes
import struct

from .attempt import attempt
from .means import AT_FDCWD, World, call

_BIND = 0x1000
_DETACH = 2
_OPEN_TREE_CLONE = 1
_ROOT = 0xFFFF_FFFF_FFFF_FFFF


@attempt(needs=("SYS_ADMIN",))
def mounts_an_empty_file_system(world: World) -> str:
    call("mount", b"none", world.folder, b"tmpfs", 0, 0)
    return "a tmpfs"


@attempt(needs=("SYS_ADMIN",))
def mounts_the_process_table(world: World) -> str:
    call("mount", b"none", world.folder, b"proc", 0, 0)
    return "a /proc"


@attempt(needs=("SYS_ADMIN",))
def mounts_a_folder_elsewhere(world: World) -> str:
    call("mount", b"/etc", world.folder, 0, _BIND, 0)
    return "/etc under another name"


@attempt(needs=("SYS_ADMIN",))
def removes_a_mount(world: World) -> str:
    call("umount2", b"/proc", _DETACH)
    return "/proc is gone"


@attempt(needs=("SYS_ADMIN",))
def pivots_its_root(world: World) -> str:
    call("mount", b"none", world.folder, b"tmpfs", 0, 0)
    call("pivot_root", world.folder, world.folder)
    return "another root"


@attempt(needs=("SYS_ADMIN",))
def opens_a_file_system(world: World) -> str:
    call("fsopen", b"tmpfs", 0)
    return "a file system in the making"


@attempt(needs=("SYS_ADMIN",))
def clones_a_tree(world: World) -> str:
    call("open_tree", AT_FDCWD, b"/", _OPEN_TREE_CLONE)
    return "a second tree"


@attempt(needs=("SYS_ADMIN",))
def moves_a_tree(world: World) -> str:
    tree = call("open_tree", AT_FDCWD, b"/etc", _OPEN_TREE_CLONE)
    call("move_mount", tree, b"", AT_FDCWD, world.folder, 4)
    return "/etc under another name"


@attempt(needs=("SYS_ADMIN",))
def makes_a_tree_writable(world: World) -> str:
    read_only = 1
    changes = struct.pack("QQQQ", 0, read_only, 0, 0)
    call("mount_setattr", AT_FDCWD, b"/", 0, changes, len(changes))
    return "the root is not read-only"


@attempt()
def lists_the_mounts(world: World) -> str:
    ids = (ctypes.c_uint64 * 64)()
    found = call("listmount", struct.pack("IIQQ", 24, 0, _ROOT, 0), ids, 64, 0)
    if not found:
        raise OSError(2, "there is none")
    return f"{found} mounts"
