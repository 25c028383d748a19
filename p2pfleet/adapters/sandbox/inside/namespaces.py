"""Namespaces of the server's own: no network, no other process, no file, no user but itself.

All of them or none: which steps this machine allows is found out in a throw-away fork
(:func:`probe`), because some systems let a process into a new user namespace only to deny it
everything there. The server then goes the same way for good (:func:`enter`).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from .kernel import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, call, detach, mount, prctl, unshare
from .kernel import drop_capabilities as _drop_capabilities

_NEW = {
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mnt": 0x00020000,
}
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 0x1, 0x2, 0x4, 0x8, 0x20
_REC, _PRIVATE = 0x4000, 0x40000
# Any folder will do for the empty root to lie over; this one was there a moment ago.
_MOUNT_POINT = b"/proc"
_HOST_NAME = "volunteer"


class Denied(Exception):
    """This machine does not allow one of the steps."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


def probe() -> Denied | None:
    """Try it in a process of its own; ``None`` if it works."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            enter(before_the_root_is_gone=lambda: None, outer=_wait_and_exit)
            os.write(writer, b"\0")
        except Denied as denied:
            os.write(writer, f"{denied.step}\0{denied.reason}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read(4096)
    os.waitpid(pid, 0)
    if said == b"\0":
        return None
    step, _, reason = said.decode(errors="replace").partition("\0")
    return Denied(step or "an unknown step", reason or "the attempt ended without a word")


def enter(before_the_root_is_gone: Callable[[], None], outer: Callable[[int], NoReturn]) -> None:
    """Become the first process of new namespaces, with an empty root and without privileges.

    Returns in that process only. The one that called stays behind to wait for it, which
    ``outer`` (given its process id) does; each of the two ends with the other. Raises
    :class:`Denied`, in the process that met the refusal.
    """
    uid, gid = os.geteuid(), os.getegid()
    parent = os.getppid()
    with _step("unshare"):
        unshare(sum(_NEW.values()))
    with _step("setgroups"):
        Path("/proc/self/setgroups").write_text("deny")
    with _step("uid_map"):
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    with _step("gid_map"):
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    # New credentials have cancelled it.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    alive, held_by_outer = os.pipe()
    with _step("fork"):
        inner = os.fork()
    if inner:
        os.close(alive)
        outer(inner)
    os.close(held_by_outer)
    _die_with(alive)
    before_the_root_is_gone()
    _empty_root()
    # A service manager may forbid it; the filter lets no child ask for the name anyway.
    with suppress(OSError):
        socket.sethostname(_HOST_NAME)
    with _step("capset"):
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities()
    # Giving up privileges may have cancelled it once more.
    _die_with(alive)
    os.close(alive)


def _wait_and_exit(inner: int) -> NoReturn:
    os.waitpid(inner, 0)
    os._exit(0)


def _die_with(alive: int) -> None:
    """Be killed when the outer process ends; it shows by the end of the pipe ``alive``.

    To ask for the parent's number would not tell: from in here the parent is nobody.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:
        os._exit(0)


def _empty_root() -> None:
    with _step("mount"):
        mount(None, b"/", None, _REC | _PRIVATE, b"")
        flags = _NOSUID | _NODEV | _NOEXEC
        mount(b"tmpfs", _MOUNT_POINT, b"tmpfs", flags, b"size=4k,nr_inodes=1,mode=0555")
        os.chdir(_MOUNT_POINT)
    with _step("pivot_root"):
        _pivot_root(b".")
        detach(b".")
        os.chdir("/")
    with _step("remount"):
        mount(None, b"/", None, _REMOUNT | _RDONLY | flags, b"")


def _pivot_root(path: bytes) -> None:
    buffer = ctypes.create_string_buffer(path)
    call("pivot_root", ctypes.addressof(buffer), ctypes.addressof(buffer))


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Denied(name, error.strerror or str(error)) from error


class Finding(NamedTuple):
    """One thing about the isolation that was looked at from within."""

    name: str
    held: bool
    detail: str


def look_around() -> list[Finding]:
    """What the first process of the new namespaces sees. Everything must hold."""
    findings = []
    looks: dict[str, Callable[[], tuple[bool, str]]] = {
        "own processes": _is_first,
        "empty root": _sees_nothing,
        "no network": _sees_no_network,
        "read-only": _cannot_write,
    }
    for name, look in looks.items():
        try:
            held, detail = look()
        except OSError as error:
            held, detail = False, error.strerror or str(error)
        findings.append(Finding(name, held, detail[:300]))
    return findings


def _is_first() -> tuple[bool, str]:
    return os.getpid() == 1, f"is process {os.getpid()} of its own"


def _sees_nothing() -> tuple[bool, str]:
    names = os.listdir("/")
    return not names, f"sees {', '.join(names) or 'nothing'} in /"


def _sees_no_network() -> tuple[bool, str]:
    names = [name for _, name in socket.if_nameindex()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("127.0.0.1", 9))
        except OSError as error:
            return names == ["lo"], f"{', '.join(names)} only; loopback: {error.strerror}"
    return False, "reaches the loopback network"


def _cannot_write() -> tuple[bool, str]:
    try:
        os.close(os.open("/planted", os.O_WRONLY | os.O_CREAT))
    except OSError as error:
        return True, error.strerror or str(error)
    return False, "can create a file"
