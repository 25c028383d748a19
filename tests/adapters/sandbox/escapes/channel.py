"""Attempts through the descriptors that a child has: its channel (0) and /dev/null (1 and 2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import struct

from .attempt import attempt
from .means import World, call, read_some

_FIONREAD = 0x541B
_SIOCGIFCONF = 0x8912
_TIOCSTI = 0x5412
_SO_PEERPIDFD = 77


@attempt()
def sends_a_descriptor_to_the_node(world: World) -> str:
    return f"{_send_message(fd=0)} bytes, and a descriptor with them"


@attempt()
def sends_a_message_of_another_kind(world: World) -> str:
    return f"{call('sendto', 0, b'x', 1, 0, 0, 0)} byte by sendto"


@attempt(furthest=errno.EAGAIN, because="no message waits")
def receives_a_message_of_another_kind(world: World) -> str:
    into = ctypes.create_string_buffer(16)
    return f"{call('recvfrom', 0, into, 16, socket.MSG_DONTWAIT, 0, 0)} bytes by recvfrom"


@attempt()
def learns_who_is_at_the_other_end(world: World) -> str:
    return f"pid, uid and gid {struct.unpack('iii', _option(socket.SO_PEERCRED, 12))}"


@attempt(optional=(errno.ENOPROTOOPT,), because="Linux before 6.5 does not know the option")
def takes_hold_of_who_is_at_the_other_end(world: World) -> str:
    return f"a pidfd of the node: {struct.unpack('i', _option(_SO_PEERPIDFD, 4))}"


@attempt()
def makes_the_channel_larger(world: World) -> str:
    size = struct.pack("i", 2**20)
    call("setsockopt", 0, socket.SOL_SOCKET, socket.SO_SNDBUF, size, len(size))
    return "a larger buffer in the kernel"


@attempt()
def learns_the_name_of_the_channel(world: World) -> str:
    call("getsockname", 0, ctypes.create_string_buffer(128), ctypes.byref(ctypes.c_int(128)))
    return "a name"


@attempt()
def asks_the_channel_for_network_interfaces(world: World) -> str:
    entries = ctypes.create_string_buffer(1024)
    request = ctypes.create_string_buffer(struct.pack("iP", 1024, ctypes.addressof(entries)))
    call("ioctl", 0, _SIOCGIFCONF, request)
    found = struct.unpack_from("i", request)[0]
    if not found:
        raise OSError(errno.ENODEV, "there is none")
    return f"{found} bytes about interfaces"


@attempt()
def asks_the_channel_how_much_waits(world: World) -> str:
    call("ioctl", 0, _FIONREAD, ctypes.byref(ctypes.c_int()))
    return "an ioctl"


@attempt(furthest=errno.ENOTTY, because="the channel is no terminal")
def types_into_the_terminal(world: World) -> str:
    call("ioctl", 0, _TIOCSTI, b"x")
    return "a key was pressed"


@attempt()
def has_others_signalled(world: World) -> str:
    targets = world.others()
    call("fcntl", 0, 10, signal.SIGKILL)  # F_SETSIG
    for pid in targets:
        call("fcntl", 0, 8, pid)  # F_SETOWN
    return "the kernel would signal others for it"


@attempt()
def copies_its_channel_by_dup(world: World) -> str:
    return f"descriptor {call('dup', 0)}"


@attempt()
def copies_its_channel_by_dup3(world: World) -> str:
    return f"descriptor {call('dup3', 0, 9, 0)}"


@attempt()
def copies_its_channel_by_fcntl(world: World) -> str:
    return f"descriptor {call('fcntl', 0, fcntl.F_DUPFD, 5)}"


@attempt()
def puts_its_channel_in_the_place_of_another(world: World) -> str:
    return f"descriptor {call('dup3', 0, 1, 0)}"


@attempt()
def reads_another_descriptor(world: World) -> str:
    for fd in (world.own_descriptor("model_fd"), *range(3, 1024)):
        try:
            return f"descriptor {fd}: {read_some(fd)}"
        except OSError as error:
            refused = error
    raise refused


@attempt()
def reads_another_descriptor_where_it_likes(world: World) -> str:
    for fd in range(3, 1024):
        try:
            return f"{call('pread64', fd, ctypes.create_string_buffer(16), 16, 0)} bytes"
        except OSError as error:
            refused = error
    raise refused


@attempt()
def writes_another_descriptor(world: World) -> str:
    for fd in range(3, 1024):
        try:
            return f"{call('write', fd, b'x', 0)} bytes to descriptor {fd}"
        except OSError as error:
            refused = error
    raise refused


@attempt(
    needs=("FOWNER",),
    optional=(errno.EROFS,),
    because="the devices of a container may be read-only",
)
def changes_the_mode_of_a_device(world: World) -> str:
    call("fchmod", 1, 0o666)
    return "/dev/null"


@attempt()
def learns_about_its_descriptors(world: World) -> str:
    return f"owner {os.fstat(1).st_uid}"


@attempt(furthest=errno.ENOTDIR, because="/dev/null is no folder")
def looks_below_a_descriptor(world: World) -> str:
    call("openat", 1, b"..", os.O_RDONLY, 0)
    return "a folder of the machine"


@attempt(furthest=errno.ENOTDIR, because="/dev/null is no folder")
def goes_to_a_descriptor(world: World) -> str:
    call("fchdir", 1)
    return "a folder of the machine"


@attempt()
def makes_a_pipe(world: World) -> str:
    call("pipe2", (ctypes.c_int * 2)(), 0)
    return "a pipe"


@attempt()
def gives_its_memory_to_a_pipe(world: World) -> str:
    data = ctypes.create_string_buffer(16)
    piece = struct.pack("PN", ctypes.addressof(data), 16)
    return f"{call('vmsplice', _writable_pipe(), piece, 1, 0)} bytes by vmsplice"


@attempt()
def splices_into_its_channel(world: World) -> str:
    pipe = _writable_pipe()
    call("write", pipe, b"x", 1)
    return f"{call('splice', pipe - 1, 0, 0, 0, 1, 0)} byte by splice"


@attempt()
def sends_a_file_through_its_channel(world: World) -> str:
    source = call("openat", -100, world.secret, os.O_RDONLY, 0)
    return f"{call('sendfile', 0, source, 0, 6)} bytes by sendfile"


@attempt()
def makes_an_event_counter(world: World) -> str:
    call("eventfd2", 0, 0)
    return "an eventfd"


@attempt()
def makes_a_timer_with_a_descriptor(world: World) -> str:
    call("timerfd_create", 0, 0)
    return "a timerfd"


@attempt()
def makes_a_descriptor_for_signals(world: World) -> str:
    call("signalfd4", -1, bytes(8), 8, 0)
    return "a signalfd"


@attempt()
def makes_a_poller(world: World) -> str:
    call("epoll_create1", 0)
    return "an epoll descriptor"


def _option(option: int, size: int) -> bytes:
    value = ctypes.create_string_buffer(size)
    length = ctypes.c_int(size)
    call("getsockopt", 0, socket.SOL_SOCKET, option, value, ctypes.byref(length))
    return value.raw


def _writable_pipe() -> int:
    fds = (ctypes.c_int * 2)()
    call("pipe2", fds, 0)
    return int(fds[1])


def _send_message(fd: int) -> int:
    data = ctypes.create_string_buffer(b"x", 1)
    piece = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(data), 1))
    rights = struct.pack("Niii", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, fd) + bytes(4)
    control = ctypes.create_string_buffer(rights, len(rights))
    message = struct.pack(
        "PIPNPNi", 0, 0, ctypes.addressof(piece), 1, ctypes.addressof(control), len(rights), 0
    )
    return call("sendmsg", 0, message, 0)
