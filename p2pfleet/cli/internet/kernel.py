"""Network namespaces and their devices, asked of the kernel directly.

A namespace is anonymous: it lives as long as somebody holds a descriptor or a process in it, and a
TUN device as long as its descriptor. So nothing of them can be left behind by anybody who is gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TUN = "/dev/net/tun"
DEVICE = "eth0"

_OWN = "/proc/thread-self/ns/net"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_UP = 0x1
_SIOCADDRT = 0x890B
_SIOCSIFFLAGS = 0x8914
_SIOCGIFFLAGS = 0x8913
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_SIOCSIFMTU = 0x8922
_RTF_UP = 0x1
_RTF_GATEWAY = 0x2
_NAME_BYTES = 16

_libc = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int) -> None:
    """Move this thread into a namespace. ``os.setns`` exists since Python 3.12 only."""
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise _failure("setns")


@contextmanager
def inside(descriptor: int) -> Iterator[None]:
    """This thread is in a namespace while the block runs; what it opens there stays there."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(descriptor)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


def new_namespace() -> int:
    """A descriptor of a new namespace, with nothing in it but a loopback device that is up."""
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise _failure("unshare")
        try:
            # Router solicitations and the like are noise here.
            _write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")
            _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
            set_up("lo")
            return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            enter(home)
    finally:
        os.close(home)


def open_tun(name: str) -> int:
    """A TUN device in this thread's namespace; it is gone when the descriptor is closed."""
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def set_address(name: str, address: str, prefix: int) -> None:
    """Give a device its only IPv4 address."""
    mask = (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
    _ask(_SIOCSIFADDR, name, _socket_address(socket.inet_aton(address)))
    _ask(_SIOCSIFNETMASK, name, _socket_address(struct.pack("!I", mask)))


def set_mtu(name: str, mtu: int) -> None:
    _ask(_SIOCSIFMTU, name, struct.pack("i", mtu))


def set_up(name: str) -> None:
    answer = _ask(_SIOCGIFFLAGS, name, b"")
    (flags,) = struct.unpack_from("H", answer, _NAME_BYTES)
    _ask(_SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))


def add_route(network: str, prefix: int, name: str, gateway: str = "") -> None:
    """Send what is for ``network`` through a device, to a gateway where one is named."""
    mask = (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
    device = ctypes.create_string_buffer(name.encode())
    # struct rtentry of <linux/route.h>.
    route = struct.pack(
        "L16s16s16sHhLPhPLLH",
        0,
        _socket_address(socket.inet_aton(network)),
        _socket_address(socket.inet_aton(gateway) if gateway else bytes(4)),
        _socket_address(struct.pack("!I", mask)),
        _RTF_UP | (_RTF_GATEWAY if gateway else 0),
        0, 0, 0, 0,
        ctypes.addressof(device),
        0, 0, 0,
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control.fileno(), _SIOCADDRT, route)


def forward_packets() -> None:
    """Make a router of this thread's namespace."""
    _write("/proc/sys/net/ipv4/ip_forward", "1")


def counters(name: str) -> tuple[int, int]:
    """Bytes that came out of a device of this thread's namespace, and that went into it: received
    and sent, as its host sees it."""
    for line in Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines():
        device, colon, rest = line.partition(":")
        if colon and device.strip() == name:
            fields = rest.split()
            return int(fields[0]), int(fields[8])
    raise OSError(f"there is no device {name}")


def _ask(request: int, name: str, data: bytes) -> bytes:
    """One of the old ioctls on a device: struct ifreq in, struct ifreq out."""
    packed = struct.pack("16s24s", name.encode(), data)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        return fcntl.ioctl(control.fileno(), request, packed)


def _socket_address(address: bytes) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, address)


def _write(path: str, text: str) -> None:
    file = Path(path)
    if file.exists():  # a kernel without IPv6 has nothing to switch off
        file.write_text(text, encoding="ascii")


def _failure(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
