"""Multiaddresses: reading those that people write, and telling others where this node is."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from typing import Any

import psutil
from multiaddr import Multiaddr

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text

MAX_ADDRESS_CHARS = 200
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  (compared with, not bound)
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
CIRCUIT = "/p2p-circuit"
_SHAPE = re.compile(
    rf"/(?:{'|'.join(_HOSTS)})/(?P<host>[^/]+)/tcp/(?P<port>[0-9]+)"
    r"(?:/p2p/[0-9A-Za-z]+(?:/p2p-circuit(?:/p2p/[0-9A-Za-z]+)?)?)?",
    re.ASCII,
)


def _part(address: Multiaddr, name: str) -> str | None:
    try:
        value = address.value_for_protocol(name)
    except Exception:  # the library raises several kinds for "not there"
        return None
    return None if value is None else str(value)


def _parse(text: str) -> Multiaddr | None:
    if not text or len(text) > MAX_ADDRESS_CHARS:
        return None
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
    except Exception:  # several kinds, for several ways to be malformed
        return None
    if len(names) < 2 or names[0] not in _HOSTS or names[1] != "tcp":
        return None
    if names[2:] not in ([], ["p2p"], ["p2p", "p2p-circuit"], ["p2p", "p2p-circuit", "p2p"]):
        return None
    return address


def on_loopback(address: Any) -> bool:
    """Whether an address leads to this machine only."""
    return str(address).startswith(("/ip4/127.", "/ip6/::1/"))


def is_relayed(address: Any) -> bool:
    """Whether an address leads through a relay."""
    return CIRCUIT in str(address)


def _split(address: Any) -> tuple[str, str | None]:
    """An address without the peer whom it leads to, and that peer's id, if it stands there."""
    way, circuit, rest = str(address).partition(CIRCUIT)
    if circuit:
        return way + circuit, rest.removeprefix("/p2p/") or None
    start, _, owner = way.partition("/p2p/")
    return start, owner or None


def parse_listen(text: str) -> Multiaddr:
    """An address to listen on: ``/ip4/<address>/tcp/<port>``. Raises :class:`P2pfleetError`."""
    address = _parse(text)
    if address is None or _part(address, "p2p") or not str(text).startswith(("/ip4/", "/ip6/")):
        raise P2pfleetError(
            f"{text!r} is not an address that a node can listen on.",
            "Write it like /ip4/0.0.0.0/tcp/4001 (port 0 lets the system choose).",
            ExitCode.USAGE,
        )
    return address


def parse_announced(text: str) -> Multiaddr:
    """An address that others shall dial. Raises :class:`P2pfleetError`."""
    address = _parse(text)
    if address is None or _part(address, "p2p") or usable(address) is None:
        raise P2pfleetError(
            f"{text!r} is not an address that others could dial.",
            "Write it like /ip4/203.0.113.7/tcp/4001.",
            ExitCode.USAGE,
        )
    return address


def parse_dialable(text: str) -> tuple[PeerId, str] | None:
    """The peer and the address (without ``/p2p``) behind a full address, or ``None``."""
    address = _parse(text)
    if address is None:
        return None
    way, owner = _split(address)
    if owner is None:
        return None
    try:
        peer = parse_peer(owner)
    except Malformed:
        return None
    return peer, way


def parse_bootstrap(text: str) -> tuple[PeerId, str]:
    """The same of an address that a person wrote. Raises :class:`P2pfleetError`."""
    found = parse_dialable(text)
    if found is None:
        raise P2pfleetError(
            f"{text!r} is not a bootstrap address.",
            "Write it like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW... (the node prints its own).",
            ExitCode.USAGE,
        )
    return found


def usable(address: Any) -> str | None:
    """A stranger's address as text without ``/p2p``, if it can be dialled at all."""
    text = str(address)
    if len(text) > MAX_ADDRESS_CHARS or (shape := _SHAPE.fullmatch(text)) is None:
        return None
    # Parsing costs a tenth of a millisecond; what the library made has been parsed.
    if not isinstance(address, Multiaddr) and _parse(text) is None:
        return None
    if shape["host"] in _WILDCARDS or shape["port"] == "0":
        return None
    return _split(text)[0]


def with_peer(address: str, peer: PeerId) -> str:
    """The full address of ``peer``."""
    return f"{address}/p2p/{peer_text(peer)}"


def endpoint(host: str, port: int) -> str:
    """The multiaddress of a TCP endpoint."""
    family = "ip6" if ":" in host else "ip4"
    return f"/{family}/{host.partition('%')[0]}/tcp/{port}"


def expand(addresses: Iterable[Any]) -> list[Multiaddr]:
    """Listening addresses as others can dial them: a wildcard becomes every interface's address.

    Loopback stands last: it only helps nodes on the same machine.
    """
    found: dict[str, None] = {}
    for address in addresses:
        port = _part(address, "tcp")
        host = _part(address, "ip4") or _part(address, "ip6")
        if host not in _WILDCARDS:
            found[str(address)] = None
            continue
        family = socket.AF_INET if _part(address, "ip4") else socket.AF_INET6
        own = [
            entry.address
            for entries in psutil.net_if_addrs().values()
            for entry in entries
            if entry.family == family and "%" not in entry.address
        ]
        own.sort(key=lambda one: (one.startswith("127.") or one == "::1", one))
        for one in own[:8]:
            found[endpoint(one, int(port or 0))] = None
    return [Multiaddr(text) for text in found]
