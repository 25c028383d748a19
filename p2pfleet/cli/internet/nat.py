"""NAT as home routers do it: a few nftables rules, written to the kernel over netlink.

*cone*: a port inside keeps its number outside as long as it is free there, whoever is talked to
(endpoint-independent mapping); who was not talked to is not let in (address- and port-dependent
filtering, RFC 4787). *symmetric*: every connection gets another random port outside. In both, what
nobody inside asked for is dropped without an answer.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

CONE = "cone"
SYMMETRIC = "symmetric"

_NFTABLES = 10  # the subsystem of nfnetlink
_BEGIN, _END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NETLINK_NETFILTER = 12  # the socket module does not name it
_NLMSG_ERROR = 2
_NESTED = 0x8000
_IPV4 = 2

_PREROUTING, _INPUT, _POSTROUTING = 0, 1, 4
_DSTNAT_PRIORITY, _FILTER_PRIORITY, _SRCNAT_PRIORITY = -100, 0, 100
_REGISTER_1, _REGISTER_2, _VERDICT = 1, 2, 0
_META_IN_NAME, _META_OUT_NAME, _META_PROTOCOL = 6, 7, 16
_TRANSPORT_HEADER = 2
_CT_STATE = 0
_ESTABLISHED_OR_RELATED = 2 | 4
_DROP = 0
_RANDOM, _PERSISTENT, _RANDOM_FULLY = 4, 8, 16
_DNAT = 1
_PORT_GIVEN = 2

_TABLE = "p2pfleet"
_FLAGS = {CONE: _PERSISTENT, SYMMETRIC: _RANDOM | _RANDOM_FULLY}
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


def set_rules(kind: str, outside: str) -> None:
    """Translate what leaves this thread's namespace through the device ``outside``."""
    flags = _FLAGS[kind]
    _write(
        [
            _message(_NEW_TABLE, _CREATE, _text(1, _TABLE)),
            _chain("into", "nat", _PREROUTING, _DSTNAT_PRIORITY),
            _chain("out", "nat", _POSTROUTING, _SRCNAT_PRIORITY),
            _chain("itself", "filter", _INPUT, _FILTER_PRIORITY),
            _rule("out", _through(_META_OUT_NAME, outside), _is("masq", _number(1, flags))),
            # A router that answered strangers would also remember them, and their port would then
            # be taken when somebody inside wants to talk to them: no hole could be punched.
            _rule("itself", _through(_META_IN_NAME, outside), _unasked(), _drop()),
        ]
    )


def forward_port(outside: str, protocol: str, port: int, address: str) -> None:
    """Let everybody reach ``port`` of the host ``address`` inside, as its owner may set up."""
    _write(
        [
            _rule(
                "into",
                _through(_META_IN_NAME, outside),
                _meta(_META_PROTOCOL, bytes([_PROTOCOLS[protocol]])),
                _is(
                    "payload",
                    _number(1, _REGISTER_1) + _number(2, _TRANSPORT_HEADER)
                    + _number(3, 2) + _number(4, 2),
                ),
                _equal(struct.pack("!H", port)),
                _load(_REGISTER_1, socket.inet_aton(address)),
                _load(_REGISTER_2, struct.pack("!H", port)),
                _is(
                    "nat",
                    _number(1, _DNAT) + _number(2, _IPV4) + _number(3, _REGISTER_1)
                    + _number(5, _REGISTER_2) + _number(7, _PORT_GIVEN),
                ),
            )
        ]
    )  # fmt: skip


# ---- expressions (<linux/netfilter/nf_tables.h>) -----------------------------------------------


def _through(which: int, device: str) -> bytes:
    return _meta(which, device.encode().ljust(16, b"\0"))


def _meta(key: int, wanted: bytes) -> bytes:
    return _is("meta", _number(1, _REGISTER_1) + _number(2, key)) + _equal(wanted)


def _equal(wanted: bytes) -> bytes:
    return _is("cmp", _number(1, _REGISTER_1) + _number(2, 0) + _nested(3, _attribute(1, wanted)))


def _unasked() -> bytes:
    """The connection tracking's state has neither of the two bits."""
    mask = struct.pack("=I", _ESTABLISHED_OR_RELATED)
    return (
        _is("ct", _number(1, _REGISTER_1) + _number(2, _CT_STATE))
        + _is(
            "bitwise",
            _number(1, _REGISTER_1) + _number(2, _REGISTER_1) + _number(3, 4)
            + _nested(4, _attribute(1, mask)) + _nested(5, _attribute(1, bytes(4))),
        )
        + _equal(bytes(4))
    )  # fmt: skip


def _drop() -> bytes:
    verdict = _nested(2, _nested(2, _number(1, _DROP)))
    return _is("immediate", _number(1, _VERDICT) + verdict)


def _load(register: int, value: bytes) -> bytes:
    return _is("immediate", _number(1, register) + _nested(2, _attribute(1, value)))


def _is(name: str, data: bytes) -> bytes:
    return _nested(1, _text(1, name) + _nested(2, data))


# ---- messages -----------------------------------------------------------------------------------


def _chain(name: str, kind: str, hook: int, priority: int) -> bytes:
    place = _number(1, hook) + _attribute(2, struct.pack("!i", priority))
    body = _text(1, _TABLE) + _text(3, name) + _nested(4, place) + _text(7, kind)
    return _message(_NEW_CHAIN, _CREATE, body)


def _rule(chain: str, *expressions: bytes) -> bytes:
    body = _text(1, _TABLE) + _text(2, chain) + _nested(4, b"".join(expressions))
    return _message(_NEW_RULE, _CREATE | _APPEND, body)


def _message(kind: int, flags: int, body: bytes) -> bytes:
    generic = struct.pack("!BBH", _IPV4, 0, 0)
    return _packed(_NFTABLES << 8 | kind, flags, generic + body)


def _packed(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 0, 0) + body


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _write(messages: Iterable[bytes]) -> None:
    """All of them or none, as the kernel does with a batch. Raises :class:`OSError`."""
    edge = struct.pack("!BBH", 0, 0, _NFTABLES)
    # Only the last message of the batch proper asks for an answer: errors come unasked.
    batch = list(messages)
    last = batch[-1]
    kind, flags = struct.unpack_from("=HH", last, 4)
    batch[-1] = last[:4] + struct.pack("=HH", kind, flags | _ACK) + last[8:]
    data = _packed(_BEGIN, 0, edge) + b"".join(batch) + _packed(_END, 0, edge)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(10)
        kernel.bind((0, 0))
        kernel.send(data)
        answer = kernel.recv(65_536)
    kind, number = struct.unpack_from("=4xH10xi", answer)
    if kind != _NLMSG_ERROR or number != 0:
        raise OSError(-number, "the kernel refused the rules of nftables")
