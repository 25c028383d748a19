"""Vectors of ``closed-networks.md``: pages, invitations, who belongs, and the swarm key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from canonical import untagged, verdict_text
from samples import (
    ALICE,
    ALICES_PAGE,
    BOB,
    CAROL,
    CLOSED_NETWORK,
    DAVE,
    DAY_MS,
    ERIN,
    INVITED,
    ISSUED_MS,
    MALLORY,
    OTHER_NETWORK,
    OWNED_NETWORK,
    OWNER,
    acceptance,
    admission,
    invitation,
    page,
)

from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.core.model.network import NetworkParameters, network_id, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules import closed
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Acceptance, Invitation, MemberEntry, Members
from p2pfleet.core.wire.verified import VerifiedAcceptance, VerifiedAdmission
from p2pfleet.runtime.signing import Signer, open_sealed

Case = dict[str, Any]
SKEW_MS = 120_000
NAMES = {
    "owner": OWNER, "alice": ALICE, "bob": BOB, "carol": CAROL, "dave": DAVE, "erin": ERIN,
    "mallory": MALLORY, "invitation": INVITED,
}  # fmt: skip


def _case(judged: str, about: str, network: NetworkParameters, **more: Any) -> Case:
    return {"about": f"{judged}: {about}", "judged": judged, "network": untagged(network), **more}


def closing() -> Iterable[Case]:
    yield from _pages()
    yield from _admissions()
    yield from _acceptances()
    yield from _rosters()
    yield from _summaries()


def _pages() -> Iterable[Case]:
    replace = msgspec.structs.replace
    wrong = (ALICES_PAGE.page + 1) % 16
    elsewhere = replace(ALICES_PAGE, network=network_id(OWNED_NETWORK))
    for about, check, signer, body, network, known in (
        ("the first", "", OWNER, ALICES_PAGE, CLOSED_NETWORK, None),
        ("a newer one", "", OWNER, ALICES_PAGE, CLOSED_NETWORK, 4),
        ("a newer one that lists nobody", "", OWNER, replace(ALICES_PAGE, entries=()),
         CLOSED_NETWORK, 4),
        ("the same again", "stale", OWNER, ALICES_PAGE, CLOSED_NETWORK, 5),
        ("an older one", "stale", OWNER, replace(ALICES_PAGE, sequence=4), CLOSED_NETWORK, 5),
        ("of another network", "network", OWNER, ALICES_PAGE, OTHER_NETWORK, None),
        ("of the owner's open network", "owner", OWNER, elsewhere, OWNED_NETWORK, None),
        ("by somebody else", "owner", MALLORY, replace(ALICES_PAGE, owner=MALLORY.peer),
         CLOSED_NETWORK, None),
        ("a key on the wrong page", "page", OWNER, replace(ALICES_PAGE, page=wrong),
         CLOSED_NETWORK, None),
    ):  # fmt: skip
        sealed = signer.seal(body)
        verdict = closed.judge_members(body, network_terms(network), known)
        yield _case(
            "page", about, network, body=encode(sealed).hex(), hash=sealed.hash.hex(),
            known=known, verdict=verdict_text(verdict, check),
        )  # fmt: skip


def _puzzling() -> NetworkParameters:
    """A closed network whose puzzle Bob's key does not fit."""
    for bits in range(1, 9):
        found = msgspec.structs.replace(CLOSED_NETWORK, puzzle_bits=bits)
        if not fits(network_terms(found), BOB.peer):
            return found
    raise AssertionError


def _invitations() -> Iterable[tuple[str, str, Invitation, Signer, NetworkParameters]]:
    replace, good = msgspec.structs.replace, invitation()
    yield "as it should be", "", good, OWNER, CLOSED_NETWORK
    yield "of another network", "network", good, OWNER, OTHER_NETWORK
    by_mallory = replace(good, owner=MALLORY.peer)
    yield "not by the owner", "owner", by_mallory, MALLORY, CLOSED_NETWORK
    backwards = replace(good, expires_ms=good.issued_ms)
    yield "that expires when issued", "order", backwards, OWNER, CLOSED_NETWORK
    long = replace(good, expires_ms=good.issued_ms + 30 * DAY_MS + 1)
    yield "for more than 30 days", "life", long, OWNER, CLOSED_NETWORK
    asking = _puzzling()
    good = replace(good, network=network_id(asking))
    yield "of a key without work", "puzzle", good, OWNER, asking


def _admissions() -> Iterable[Case]:
    for about, check, body, signer, network in _invitations():
        shown = msgspec.structs.replace(
            admission(BOB), network=body.network, invitation=signer.seal(body)
        )
        yield _admission(about, check, shown, network, ISSUED_MS)
    for about, check, wall_ms in (
        ("at its last moment", "", ISSUED_MS + DAY_MS),
        ("a millisecond later", "expired", ISSUED_MS + DAY_MS + 1),
        ("two minutes early", "", ISSUED_MS - SKEW_MS),
        ("earlier", "future", ISSUED_MS - SKEW_MS - 1),
    ):
        yield _admission(about, check, admission(BOB), CLOSED_NETWORK, wall_ms)


def _admission(about: str, check: str, body: Any, network: NetworkParameters, wall_ms: int) -> Case:
    sealed = INVITED.seal(body)
    opened = open_sealed(sealed)
    assert isinstance(opened, VerifiedAdmission)
    verdict = closed.judge_admission(opened, network_terms(network), wall_ms)
    return _case(
        "admission", about, network, body=encode(sealed).hex(), hash=sealed.hash.hex(),
        wall_ms=wall_ms, verdict=verdict_text(verdict, check),
    )  # fmt: skip


def _acceptances() -> Iterable[Case]:
    good = acceptance(ALICE, BOB)
    for about, check, body, signer, network in _invitations():
        inner = msgspec.structs.replace(
            admission(BOB), network=body.network, invitation=signer.seal(body)
        )
        heard = msgspec.structs.replace(good, network=body.network, admission=INVITED.seal(inner))
        yield _acceptance(about, check, heard, network, ISSUED_MS)
    for about, check, later_ms, wall_ms in (
        ("accepted at its last moment", "", DAY_MS, ISSUED_MS + 5 * DAY_MS),
        ("accepted a millisecond later", "time", DAY_MS + 1, ISSUED_MS + 5 * DAY_MS),
        ("accepted two minutes early", "", -SKEW_MS, ISSUED_MS),
        ("accepted earlier", "time", -SKEW_MS - 1, ISSUED_MS),
        ("accepted two minutes from now", "", SKEW_MS, ISSUED_MS),
        ("accepted later than that", "future", SKEW_MS + 1, ISSUED_MS),
    ):
        yield _acceptance(about, check, acceptance(ALICE, BOB, later_ms), CLOSED_NETWORK, wall_ms)


def _acceptance(
    about: str, check: str, body: Acceptance, network: NetworkParameters, wall_ms: int
) -> Case:
    sealed = ALICE.seal(body)
    opened = open_sealed(sealed)
    assert isinstance(opened, VerifiedAcceptance)
    verdict = closed.judge_acceptance(opened, network_terms(network), wall_ms)
    return _case(
        "acceptance", about, network, body=encode(sealed).hex(), hash=sealed.hash.hex(),
        wall_ms=wall_ms, verdict=verdict_text(verdict, check),
    )  # fmt: skip


def _pages_of(listed: Sequence[tuple[str, bool]]) -> list[Members]:
    entries = [MemberEntry(NAMES[name].peer, name, admitted) for name, admitted in listed]
    numbers = sorted({closed.page_of(one.peer) for one in entries})
    return [
        page(number, *(one for one in entries if closed.page_of(one.peer) == number))
        for number in numbers
    ]


def _rosters() -> Iterable[Case]:
    """Who of the sample peers belongs to the network, by pages and acceptances."""
    alice = [("alice", True)]
    for about, uses, listed, words in (
        ("nobody but the owner", 1, [], []),
        ("one listed, one removed", 1, [("alice", True), ("bob", False)], []),
        ("one let in by a listed one", 1, alice, [("alice", "bob", 1)]),
        ("one let in by the owner", 1, [], [("owner", "bob", 1)]),
        ("nobody let in by a stranger", 1, alice, [("mallory", "bob", 1)]),
        ("nobody let in by himself", 1, alice, [("bob", "bob", 1)]),
        ("used up: the earlier one counts", 1, alice, [("alice", "carol", 2), ("alice", "bob", 1)]),
        ("used up at one moment: the lower key counts", 1, [*alice, ("dave", True)],
         [("alice", "carol", 1), ("dave", "bob", 1)]),
        ("two uses", 2, alice,
         [("alice", "carol", 2), ("alice", "bob", 1), ("alice", "erin", 3)]),
        ("let in by one who was let in", 2, alice, [("alice", "bob", 1), ("bob", "carol", 2)]),
        ("not by one who was let in later", 2, alice, [("alice", "bob", 2), ("bob", "carol", 1)]),
        ("not by one whom another displaced", 1, alice,
         [("alice", "erin", 1), ("alice", "bob", 2), ("bob", "carol", 3)]),
        ("removed after being let in", 1, [*alice, ("bob", False)], [("alice", "bob", 1)]),
        ("let in by one who was removed since", 2, [("alice", False)], [("alice", "bob", 1)]),
        ("the invitation withdrawn", 1, [*alice, ("invitation", False)], [("alice", "bob", 1)]),
        ("withdrawn, but listed as well", 1,
         [*alice, ("bob", True), ("invitation", False)], [("alice", "bob", 1)]),
        ("the same seen by two", 1, [*alice, ("dave", True)],
         [("dave", "bob", 2), ("alice", "bob", 1), ("alice", "carol", 3)]),
    ):  # fmt: skip
        pages = _pages_of(listed)
        sealed = [NAMES[by].seal(acceptance(NAMES[by], NAMES[who], at, uses))
                  for by, who, at in words]  # fmt: skip
        heard = [one for one in map(open_sealed, sealed) if isinstance(one, VerifiedAcceptance)]
        entries = {one.peer: one for body in pages for one in body.entries}
        named = closed.invited(heard, entries, OWNER.peer)
        members = sorted(
            one.peer.hex() for one in NAMES.values()
            if closed.belongs(one.peer, entries, named, OWNER.peer)
        )  # fmt: skip
        yield _case(
            "roster", about, CLOSED_NETWORK,
            pages=[encode(OWNER.seal(body)).hex() for body in pages],
            acceptances=[encode(one).hex() for one in sealed],
            members=members,
            witnesses=sorted(one.acceptance.member.hex() for one in named.values()),
        )  # fmt: skip


def _summaries() -> Iterable[Case]:
    three = [b"c", b"a", b"b"]
    for about, names in (("none", []), ("one", [b"a"]), ("three, in any order", three)):
        hashes = [sha256(name) for name in names]
        yield {
            "about": f"summary: {about}",
            "judged": "summary",
            "hashes": [one.hex() for one in hashes],
            "hash": closed.acceptances_hash(hashes).hex(),
        }
    for first in (0x00, 0x0F, 0x10, 0xFF):
        key = PeerId(bytes([first] * 32))
        page = closed.page_of(key)
        yield {"about": f"place: {first:02x}", "judged": "place", "first": first, "page": page}


def swarm_keys() -> Iterable[Case]:
    """What a side sends under a swarm key: its nonce, and then each write."""
    from p2pfleet.adapters.network.guard.swarm_key import GREETING, key_stream
    from p2pfleet.core.model.swarm_key import parse_swarm_key, swarm_key_text

    for number, writes in enumerate(
        ([GREETING], [GREETING, b"\x07/noise\n"], [bytes(1), bytes(63), bytes(64), bytes(65)],
         [bytes(200)], [bytes(130), b"over a block's edge"])
    ):  # fmt: skip
        key, nonce = sha256(b"key %d" % number), sha256(b"nonce %d" % number)[:24]
        encrypt = key_stream(key, nonce)
        text = swarm_key_text(key)
        assert parse_swarm_key(text) == key
        yield {
            "about": f"writes of {', '.join(str(len(one)) for one in writes)} bytes",
            "file": text,
            "key": key.hex(),
            "nonce": nonce.hex(),
            "writes": [one.hex() for one in writes],
            "sent": [encrypt(one).hex() for one in writes],
        }
