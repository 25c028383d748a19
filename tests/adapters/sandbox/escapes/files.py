"""Attempts on the files of the machine."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path

from .attempt import attempt
from .means import AT_FDCWD, World, call, read_some


@attempt()
def reads_a_file(world: World) -> str:
    return read_some(call("openat", AT_FDCWD, world.secret, os.O_RDONLY, 0))


@attempt()
def reads_a_file_of_the_system(world: World) -> str:
    return Path("/etc/passwd").read_text()[:20]


@attempt(machine="x86_64")
def reads_a_file_by_the_oldest_call(world: World) -> str:
    return read_some(call("open", world.secret, os.O_RDONLY, 0))


@attempt()
def reads_a_file_by_the_newest_call(world: World) -> str:
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    return read_some(call("openat2", AT_FDCWD, world.secret, how, len(how)))


@attempt(
    needs=("DAC_READ_SEARCH",),
    optional=(errno.EOPNOTSUPP,),
    because="not every file system gives handles",
)
def reads_a_file_by_its_handle(world: World) -> str:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    call("name_to_handle_at", AT_FDCWD, world.secret, handle, ctypes.byref(mount), 0)
    folder = call("openat", AT_FDCWD, world.folder, os.O_RDONLY, 0)
    return read_some(call("open_by_handle_at", folder, handle, os.O_RDONLY))


@attempt()
def reads_where_its_own_memory_lies(world: World) -> str:
    return read_some(call("openat", AT_FDCWD, b"/proc/self/maps", os.O_RDONLY, 0))


@attempt()
def writes_its_own_memory_as_a_file(world: World) -> str:
    call("openat", AT_FDCWD, b"/proc/self/mem", os.O_RDWR, 0)
    return "/proc/self/mem is open for writing"


@attempt()
def opens_the_channel_anew(world: World) -> str:
    call("openat", AT_FDCWD, b"/proc/self/fd/1", os.O_RDWR, 0)
    return "/proc/self/fd/1 is open"


@attempt()
def lists_a_folder(world: World) -> str:
    folder = call("openat", AT_FDCWD, world.folder, os.O_RDONLY | os.O_DIRECTORY, 0)
    entries = ctypes.create_string_buffer(4096)
    return f"{call('getdents64', folder, entries, 4096)} bytes of names"


@attempt()
def learns_that_a_file_exists(world: World) -> str:
    call("faccessat", AT_FDCWD, world.secret, os.F_OK)
    return "it exists"


@attempt()
def learns_how_large_a_file_is(world: World) -> str:
    return f"{os.stat(world.secret).st_size} bytes"


@attempt()
def learns_how_large_a_file_is_by_the_newest_call(world: World) -> str:
    answer = ctypes.create_string_buffer(256)
    call("statx", AT_FDCWD, world.secret, 0, 0x7FF, answer)
    return f"{struct.unpack_from('Q', answer, 40)[0]} bytes"


@attempt()
def learns_how_full_the_disk_is(world: World) -> str:
    call("statfs", world.folder, ctypes.create_string_buffer(512))
    return "the state of a file system"


@attempt()
def learns_where_its_program_lies(world: World) -> str:
    target = ctypes.create_string_buffer(4096)
    call("readlinkat", AT_FDCWD, b"/proc/self/exe", target, 4096)
    return target.value.decode()


@attempt()
def creates_a_file(world: World) -> str:
    path = world.folder + b"/new"
    call("openat", AT_FDCWD, path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a file"


@attempt(machine="x86_64")
def creates_a_file_by_the_oldest_call(world: World) -> str:
    path = world.folder + b"/new"
    call("creat", path, 0o600)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a file"


@attempt(optional=(errno.EOPNOTSUPP,), because="not every file system has files without a name")
def creates_a_file_without_a_name(world: World) -> str:
    call("openat", AT_FDCWD, world.folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    return "a file"


@attempt(optional=(errno.ENOENT,), because="a machine may have no /dev/shm")
def creates_a_file_in_shared_memory(world: World) -> str:
    path = b"/dev/shm/p2pfleet-escape-%d" % world.own_pid()
    call("openat", AT_FDCWD, path, os.O_CREAT | os.O_RDWR, 0o600)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a file"


@attempt()
def creates_a_file_in_memory(world: World) -> str:
    fd = call("memfd_create", b"escape", 0)
    call("ftruncate", fd, 2**20)
    return "a memfd"


@attempt(
    optional=(errno.ENOSYS,), because="secret memory is an option of the kernel and of its start"
)
def creates_a_file_in_secret_memory(world: World) -> str:
    call("memfd_secret", 0)
    return "memory that nobody else can look at"


@attempt()
def deletes_a_file(world: World) -> str:
    call("unlinkat", AT_FDCWD, world.spare, 0)
    return "a file is gone"


@attempt()
def renames_a_file(world: World) -> str:
    call("renameat2", AT_FDCWD, world.spare, AT_FDCWD, world.spare + b"2", 0)
    return "a file has another name"


@attempt()
def links_to_a_file(world: World) -> str:
    path = world.folder + b"/link"
    call("symlinkat", world.secret, AT_FDCWD, path)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a symbolic link"


@attempt()
def gives_a_file_a_second_name(world: World) -> str:
    path = world.folder + b"/second"
    call("linkat", AT_FDCWD, world.secret, AT_FDCWD, path, 0)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a hard link"


@attempt()
def makes_a_folder(world: World) -> str:
    path = world.folder + b"/below"
    call("mkdirat", AT_FDCWD, path, 0o700)
    call("unlinkat", AT_FDCWD, path, 0x200)
    return "a folder"


@attempt()
def makes_a_pipe_with_a_name(world: World) -> str:
    path = world.folder + b"/pipe"
    call("mknodat", AT_FDCWD, path, stat.S_IFIFO | 0o600, 0)
    call("unlinkat", AT_FDCWD, path, 0)
    return "a pipe"


@attempt(needs=("MKNOD",))
def makes_a_device(world: World) -> str:
    path = world.folder + b"/memory"
    call("mknodat", AT_FDCWD, path, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    call("unlinkat", AT_FDCWD, path, 0)
    return "the memory of the machine as a device"


@attempt()
def opens_a_file_to_everybody(world: World) -> str:
    call("fchmodat", AT_FDCWD, world.spare, 0o777)
    return "a mode has changed"


@attempt(needs=("CHOWN",))
def gives_a_file_away(world: World) -> str:
    call("fchownat", AT_FDCWD, world.spare, 1, 1, 0)
    return "a file has another owner"


@attempt()
def empties_a_file(world: World) -> str:
    call("truncate", world.spare, 0)
    return "a file is empty"


@attempt()
def sets_the_time_of_a_file(world: World) -> str:
    call("utimensat", AT_FDCWD, world.spare, 0, 0)
    return "a time has changed"


@attempt(optional=(errno.EOPNOTSUPP,), because="not every file system has attributes")
def writes_an_attribute_of_a_file(world: World) -> str:
    call("setxattr", world.spare, b"user.escape", b"x", 1, 0)
    return "an attribute"


@attempt()
def watches_a_folder(world: World) -> str:
    call("inotify_init1", 0)
    return "a watcher of files"


@attempt(
    needs=("SYS_ADMIN",), optional=(errno.ENOSYS,), because="fanotify is an option of the kernel"
)
def watches_a_file_system(world: World) -> str:
    call("fanotify_init", 0, os.O_RDONLY)
    return "a watcher of a file system"


@attempt()
def goes_to_another_folder(world: World) -> str:
    call("chdir", world.folder)
    return "its relative paths begin elsewhere"


@attempt(needs=("SYS_CHROOT",))
def changes_its_root(world: World) -> str:
    call("chroot", world.folder)
    return "another root"
