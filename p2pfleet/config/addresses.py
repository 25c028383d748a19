"""Multiaddresses that people write: where to listen, what others are told, where to start."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence

from p2pfleet.config.toml_file import Mistakes
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import parse_peer

MAX_ADDRESS_CHARS = 200
_ADDRESS = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[^/\s]{1,120})/tcp/(?P<port>[0-9]{1,5})"
    r"(?:/p2p/(?P<peer>[1-9A-HJ-NP-Za-km-z]{1,80}))?",
    re.ASCII,
)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,118}[A-Za-z0-9])?", re.ASCII)


def check_listen(address: str) -> str | None:
    """Why a node cannot listen on ``address``, or ``None`` when it can."""
    match = _parsed(address)
    if match is None or match["peer"] or match["kind"] not in ("ip4", "ip6"):
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no address to listen on; write it like "
            "/ip4/0.0.0.0/tcp/4001 (port 0: the system chooses)"
        )
    return None


def check_announced(address: str) -> str | None:
    """Why others cannot reach a node at ``address``, or ``None`` when they may."""
    match = _parsed(address)
    if match is None or match["peer"] or int(match["port"]) == 0:
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no address that others could dial; write it like "
            "/ip4/203.0.113.7/tcp/4001"
        )
    return None


def check_bootstrap(address: str) -> str | None:
    """Why ``address`` leads to no node, or ``None`` when it may."""
    match = _parsed(address)
    if match is None or not match["peer"] or int(match["port"]) == 0:
        return (
            f"{address[:MAX_ADDRESS_CHARS]!r} is no node's address; write it like "
            "/ip4/203.0.113.7/tcp/4001/p2p/12D3KooW... (every node prints its own)"
        )
    try:
        parse_peer(match["peer"])
    except Malformed as error:
        return f"{address[:MAX_ADDRESS_CHARS]!r}: {error}"
    return None


def _parsed(address: str) -> re.Match[str] | None:
    match = _ADDRESS.fullmatch(address) if len(address) <= MAX_ADDRESS_CHARS else None
    if match is None or int(match["port"]) > 65535:
        return None
    try:
        if match["kind"] == "ip4":
            ipaddress.IPv4Address(match["host"])
        elif match["kind"] == "ip6":
            ipaddress.IPv6Address(match["host"])
        elif not _HOST_NAME.fullmatch(match["host"]):
            return None
    except ValueError:
        return None
    return match


def on_loopback(address: str) -> bool:
    """Whether an address leads to this machine only."""
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def check_addresses(
    addresses: Sequence[str],
    key: str,
    check: Callable[[str], str | None],
    mistakes: Mistakes,
) -> None:
    """Those of ``addresses`` that ``check`` refuses become mistakes."""
    for address in addresses:
        problem = check(address)
        if problem is not None:
            mistakes.add(key, problem)
