"""Tickets: who may open a connection of the bulk channel, once, for a while.

A ticket is given over the authenticated libp2p connection. Whoever opens a TLS connection sends
the ticket and signs it, together with the certificate that it sees, with the identity that the
ticket was given to: a ticket that got into other hands opens nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable

import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2pfleet.core.model.ids import PeerId

TICKET_BYTES = 32
OPENING_BYTES = TICKET_BYTES + 64
_SIGNED_PREFIX = b"p2pfleet-bulk-1:"


def opening(ticket: bytes, certificate: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """What the dialler says first: the ticket, and its signature over it and the SHA-256
    of the certificate that it was shown."""
    return ticket + sign(_SIGNED_PREFIX + ticket + certificate)


class Tickets:
    """The tickets that are out. ``certificate`` is the SHA-256 of this node's certificate."""

    def __init__(
        self,
        certificate: bytes,
        lifetime_s: float,
        most: int,
        most_per_peer: int,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._certificate = certificate
        self._lifetime_s = lifetime_s
        self._most = most
        self._most_per_peer = most_per_peer
        self._now = now
        # By their hash: how long a look-up takes tells nothing about the tickets.
        self._out: OrderedDict[bytes, tuple[PeerId, float]] = OrderedDict()
        self._count: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._out)

    def _forget(self, key: bytes) -> tuple[PeerId, float] | None:
        found = self._out.pop(key, None)
        if found is not None:
            self._count[found[0]] -= 1
            if not self._count[found[0]]:
                del self._count[found[0]]
        return found

    def issue(self, peer: PeerId) -> bytes | None:
        """A new ticket for ``peer``; ``None`` while too many are out."""
        now = self._now()
        while self._out and next(iter(self._out.values()))[1] <= now:
            self._forget(next(iter(self._out)))
        if len(self._out) >= self._most or self._count[peer] >= self._most_per_peer:
            return None
        ticket = secrets.token_bytes(TICKET_BYTES)
        self._out[hashlib.sha256(ticket).digest()] = peer, now + self._lifetime_s
        self._count[peer] += 1
        return ticket

    def redeem(self, said: bytes) -> PeerId | None:
        """Whose ticket is at the head of an opening, if it is good and signed. Used up then."""
        ticket, signature = said[:TICKET_BYTES], said[TICKET_BYTES:]
        key = hashlib.sha256(ticket).digest()
        found = self._out.get(key)
        if found is None:
            return None
        peer, until = found
        try:
            Ed25519PublicKey.from_public_bytes(peer).verify(
                signature, _SIGNED_PREFIX + ticket + self._certificate
            )
        except (InvalidSignature, ValueError):
            return None  # still good for whom it was given to
        self._forget(key)
        return peer if self._now() < until else None

    def withdraw(self, peer: PeerId) -> None:
        """``peer`` is gone: its tickets open nothing any more."""
        for key in [key for key, (owner, _) in self._out.items() if owner == peer]:
            self._forget(key)
