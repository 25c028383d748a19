"""``closed-networks.md`` a second time: who belongs, and the cipher of the swarm key."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from typing import Any

from independent import DAY_MS, SKEW_MS, fits

Body = dict[str, Any]


def page_of(key: str) -> int:
    return int(key[0], 16)


def judge_page(page: Body, network: str, owner: str | None, closed: bool, known: int | None) -> str:
    if page["network"] != network:
        return "reject network"
    if not closed or page["owner"] != owner:
        return "reject owner"
    if {page_of(one["peer"]) for one in page["entries"]} - {page["page"]}:
        return "reject page"
    return "accept" if known is None or page["sequence"] > known else "ignore stale"


def _invited(admission: Body, network: str, terms: dict[str, Any]) -> str:
    """What is wrong with an admission and the invitation in it, whenever it is read."""
    invitation = admission["inside"]
    if invitation["network"] != network:
        return "reject network"
    if not terms["closed"] or invitation["owner"] != terms["owner"]:
        return "reject owner"
    lasts = invitation["expires_ms"] - invitation["issued_ms"]
    if lasts <= 0:
        return "reject order"
    if lasts > 30 * DAY_MS:
        return "reject life"
    if not fits(network, admission["peer"], terms["puzzle_bits"]):
        return "reject puzzle"
    return ""


def judge_admission(admission: Body, network: str, terms: dict[str, Any], wall_ms: int) -> str:
    wrong, invitation = _invited(admission, network, terms), admission["inside"]
    if wrong:
        return wrong
    if wall_ms > invitation["expires_ms"]:
        return "ignore expired"
    return "ignore future" if wall_ms + SKEW_MS < invitation["issued_ms"] else "accept"


def judge_acceptance(acceptance: Body, network: str, terms: dict[str, Any], wall_ms: int) -> str:
    wrong, at = _invited(acceptance["inside"], network, terms), acceptance["accepted_ms"]
    if wrong:
        return wrong
    invitation = acceptance["inside"]["inside"]
    if at > invitation["expires_ms"] or at + SKEW_MS < invitation["issued_ms"]:
        return "reject time"
    return "ignore future" if at > wall_ms + SKEW_MS else "accept"


def roster(owner: str, pages: list[Body], acceptances: list[Body]) -> tuple[set[str], list[str]]:
    """The members, and the witnesses of those whom invitations named."""
    said = {one["peer"]: one["admitted"] for page in pages for one in page["entries"]}
    may_witness, used = {owner, *said}, Counter[str]()
    named: dict[str, tuple[str, str]] = {}

    def place(one: Body) -> tuple[int, str, str]:
        return one["accepted_ms"], one["inside"]["peer"], one["member"]

    for one in sorted(acceptances, key=place):
        peer, key = one["inside"]["peer"], one["inside"]["key"]
        full = used[key] == one["inside"]["inside"]["uses"]
        if one["member"] in may_witness and peer not in named and not full:
            used[key] += 1
            named[peer] = (key, one["member"])
            may_witness.add(peer)
    members = {owner, *(peer for peer, admitted in said.items() if admitted)}
    for peer, (key, _) in named.items():
        if peer not in said and said.get(key, True):
            members.add(peer)
    return members, sorted(witness for _, witness in named.values())


def acceptances_hash(hashes: list[str]) -> str:
    if not hashes:
        return "00" * 32
    return hashlib.sha256(b"".join(bytes.fromhex(one) for one in sorted(hashes))).hexdigest()


# ---- the swarm key ---------------------------------------------------------------------------


def key_file(text: str) -> str:
    head, codec, key, rest = text.split("\n")
    assert (head, codec, rest) == ("/key/swarm/psk/1.0.0/", "/base16/", "")
    return key


def _rounds(state: list[int]) -> list[int]:
    x = [state[4 * row + column] for row in range(4) for column in range(4)]

    def turn(to: int, one: int, two: int, by: int) -> None:
        total = (x[one] + x[two]) % 2**32
        x[to] ^= (total * 2**by | total >> (32 - by)) % 2**32

    for _ in range(10):
        for index in range(4):  # down the columns, then along the rows, each from its diagonal
            at = [(index + step) % 4 * 4 + index for step in range(4)]
            for step, by in enumerate((7, 9, 13, 18), 1):
                turn(at[step % 4], at[(step - 1) % 4], at[(step - 2) % 4], by)
        for index in range(4):
            at = [index * 4 + (index + step) % 4 for step in range(4)]
            for step, by in enumerate((7, 9, 13, 18), 1):
                turn(at[step % 4], at[(step - 1) % 4], at[(step - 2) % 4], by)
    return x


def _state(key: bytes, middle: bytes) -> list[int]:
    c, k, n = struct.unpack("<4I", b"expand 32-byte k"), struct.unpack("<8I", key), middle
    return [c[0], *k[:4], c[1], *struct.unpack("<4I", n), c[2], *k[4:], c[3]]


def xsalsa20(key: bytes, nonce: bytes, length: int) -> bytes:
    """The first bytes of the key stream."""
    x = _rounds(_state(key, nonce[:16]))
    subkey = struct.pack("<8I", *(x[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))
    stream = b""
    while len(stream) < length:
        state = _state(subkey, nonce[16:] + struct.pack("<Q", len(stream) // 64))
        sums = [(one + two) % 2**32 for one, two in zip(state, _rounds(state), strict=True)]
        stream += struct.pack("<16I", *sums)
    return stream[:length]


def sent(key: bytes, nonce: bytes, writes: list[bytes]) -> list[bytes]:
    """What goes over the wire for each write, after the nonce."""
    stream, found = xsalsa20(key, nonce, sum(map(len, writes))), []
    for data in writes:
        found.append(bytes(one ^ two for one, two in zip(data, stream, strict=False)))
        stream = stream[len(data) :]
    return found
