"""The pieces of a blob that turned out wrong as a whole, until it is known which of them were."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import ArrivingPieces


class Doubted:
    """Remembers what each piece was, and who sent it (see ``PieceFetch.senders``). Blocks."""

    def __init__(self, pieces: ArrivingPieces, senders: Mapping[int, tuple[PeerId, bool]]) -> None:
        self._senders = dict(senders)
        self._hashes = {piece: _hash(pieces, piece) for piece in self._senders}
        self._count = len(pieces.held())
        self.answers: list[str] = []
        self.blamed: set[PeerId] = set()

    def alone(self) -> PeerId | None:
        """Who sent every single piece and claimed to have checked the whole, if one did."""
        claims = set(self._senders.values())
        if len(self._senders) < self._count or len(claims) != 1:
            return None
        peer, complete = claims.pop()
        return peer if complete else None

    def unchecked(self) -> list[PeerId]:
        """Who handed pieces on without having checked the whole, sorted."""
        return sorted({peer for peer, complete in self._senders.values() if not complete})

    def in_order_of_trust(self, sources: Sequence[PeerId]) -> list[PeerId]:
        """Whom to ask for all of it, each alone: who sent the least of the wrong one first, and
        nobody who was blamed for it already."""
        sent = Counter(peer for peer, _ in self._senders.values())
        return sorted((one for one in sources if one not in self.blamed), key=sent.__getitem__)

    def compared(self, right: ArrivingPieces) -> tuple[list[PeerId], list[PeerId]]:
        """Held against the right pieces: who claimed to have checked the whole and sent others,
        and who sent none that was wrong; both sorted."""
        wrong: set[PeerId] = set()
        wrong_unchecked: set[PeerId] = set()
        for piece, (peer, complete) in self._senders.items():
            if self._hashes[piece] != _hash(right, piece):
                (wrong if complete else wrong_unchecked).add(peer)
        senders = {peer for peer, _ in self._senders.values()}
        return sorted(wrong), sorted(senders - wrong - wrong_unchecked)


def _hash(pieces: ArrivingPieces, piece: int) -> bytes:
    return hashlib.sha256(pieces.read(piece)).digest()
