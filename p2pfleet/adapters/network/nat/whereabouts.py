"""Where this machine is: its addresses on the networks that it hangs on, and when they change."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Any

import psutil
import trio

from p2pfleet.adapters.network.containment import describe

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 3.0

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def own_interfaces() -> frozenset[Interface]:
    """The addresses of this machine with their networks, without loopback and link-local IPv6.

    Costs a fraction of a millisecond.
    """
    found: set[Interface] = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            try:
                address = ipaddress.ip_address(entry.address.partition("%")[0])
                if address.is_loopback or (address.version == 6 and address.is_link_local):
                    continue
                found.add(ipaddress.ip_interface(f"{address}/{_prefix(entry.netmask)}"))
            except ValueError as error:
                logger.debug("an interface's address: %s", describe(error))
    return frozenset(found)


def _prefix(netmask: str | None) -> int:
    """The length of a netmask in bits; a whole address if the system does not tell."""
    if not netmask:
        return 32
    return int(ipaddress.ip_address(netmask)).bit_count()


def on_own_lan(host: str, interfaces: frozenset[Interface]) -> bool:
    """Whether ``host`` is an address in a network that this machine hangs on itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address.version == one.version and address in one.network for one in interfaces)


def tcp_socket(connection: Any) -> Any:
    """The socket that a connection of the library hangs on; ``None`` if it is relayed."""
    try:
        raw = connection.muxed_conn.secured_conn.conn
        while not isinstance(raw, trio.SocketStream):
            raw = getattr(raw, "conn", None) or raw.stream
        return raw.socket
    except AttributeError:
        return None


def local_host(connection: Any) -> str | None:
    """The own address that a connection of the library hangs on, if it has one."""
    socket = tcp_socket(connection)
    try:
        return None if socket is None else str(socket.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


async def watch_addresses(changed: Callable[[], Any], every_s: float = _LOOK_EVERY_S) -> None:
    """Call ``changed`` whenever this machine has other addresses than before, for ever."""
    before = own_interfaces()
    while True:
        await trio.sleep(every_s)
        now = own_interfaces()
        if now != before:
            logger.info("the addresses of this machine have changed")
            before = now
            changed()
