"""Attempts on networks, and on the sockets of other processes."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from .attempt import attempt
from .means import World, call

_LOCALHOST = bytes((127, 0, 0, 1))


def _address(port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + _LOCALHOST + bytes(8)


def _unix(name: bytes) -> bytes:
    return struct.pack("=H", socket.AF_UNIX) + name


@attempt()
def connects_by_tcp(world: World) -> str:
    fd = call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
    call("connect", fd, _address(world.tcp_port), 16)
    return "a connection"


@attempt()
def listens_by_tcp(world: World) -> str:
    fd = call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
    call("bind", fd, _address(0), 16)
    call("listen", fd, 1)
    return "a port"


@attempt()
def sends_by_udp(world: World) -> str:
    fd = call("socket", socket.AF_INET, socket.SOCK_DGRAM, 0)
    call("sendto", fd, b"out", 3, 0, _address(world.udp_port), 16)
    return "a datagram"


@attempt(optional=(errno.EAFNOSUPPORT,), because="a machine may have no IPv6")
def opens_a_socket_of_ipv6(world: World) -> str:
    call("socket", socket.AF_INET6, socket.SOCK_DGRAM, 0)
    return "a socket"


@attempt(needs=("NET_RAW",))
def opens_a_raw_socket(world: World) -> str:
    call("socket", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    return "a raw socket"


@attempt(
    needs=("NET_RAW",),
    optional=(errno.EAFNOSUPPORT,),
    because="packet sockets are an option of the kernel",
)
def opens_a_packet_socket(world: World) -> str:
    call("socket", socket.AF_PACKET, socket.SOCK_RAW, 0)
    return "every packet of the machine"


@attempt()
def opens_a_netlink_socket(world: World) -> str:
    call("socket", socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    return "a netlink socket"


@attempt(optional=(errno.EAFNOSUPPORT,), because="only a virtual machine has them, and not every")
def opens_a_socket_to_the_hypervisor(world: World) -> str:
    call("socket", socket.AF_VSOCK, socket.SOCK_STREAM, 0)
    return "a socket to the machine's host"


@attempt(optional=(errno.EAFNOSUPPORT,), because="the kernel's ciphers are an option")
def opens_a_socket_to_the_kernels_ciphers(world: World) -> str:
    call("socket", socket.AF_ALG, socket.SOCK_SEQPACKET, 0)
    return "a socket to much of the kernel's code"


@attempt()
def connects_to_an_abstract_name(world: World) -> str:
    fd = call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
    name = _unix(world.abstract)
    call("connect", fd, name, len(name))
    return "a connection"


@attempt()
def connects_to_a_path(world: World) -> str:
    fd = call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
    name = _unix(world.socket_path) + b"\0"
    call("connect", fd, name, len(name))
    return "a connection"


@attempt()
def takes_an_abstract_name(world: World) -> str:
    fd = call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
    name = _unix(world.abstract + b"-mine")
    call("bind", fd, name, len(name))
    return "a name that others connect to"


@attempt()
def makes_a_pair_of_sockets(world: World) -> str:
    fds = (ctypes.c_int * 2)()
    call("socketpair", socket.AF_UNIX, socket.SOCK_STREAM, 0, fds)
    return "two sockets"
