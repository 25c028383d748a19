"""Which pieces to give to whom, so that the load of spreading a blob spreads as well.

A node counts how often it gave each piece of a blob. Everybody gets first what nobody got yet: so
the first who ask carry different pieces away and can trade them. What others got already is given
again to those only who have waited in vain for it, a second for each copy: as a rule they find it
elsewhere before. This is politeness, not defence: a plain request is answered at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import trio

from p2pfleet.core.model.ids import Cid, PeerId

PATIENCE_MS = 1_000
_MAX_BLOBS = 64
_MAX_PEERS = 128
_FORGET_S = 60.0


class _Given:
    def __init__(self, pieces: int) -> None:
        self.counts = [0] * pieces
        self.to: OrderedDict[PeerId, bytearray] = OrderedDict()
        self.next = 0
        self.at = 0.0


class Rations:
    """What this node has given lately, by blob."""

    def __init__(self, now: Callable[[], float] = trio.current_time) -> None:
        self._now = now
        self._given: OrderedDict[tuple[Cid, int, int], _Given] = OrderedDict()

    def grant(
        self,
        blob: tuple[Cid, int, int],
        peer: PeerId,
        held: bytearray,
        asker_held: bytearray,
        most: int,
        waited_ms: int,
    ) -> tuple[tuple[int, ...], int]:
        """The pieces that ``peer`` should ask for now, ascending, and how many ms it should wait
        if there are none (0: there is nothing here that it lacks).

        ``held`` and ``asker_held`` have one byte a piece; at most ``most`` are granted.
        """
        given = self._of(blob, len(held))
        own = given.to.setdefault(peer, bytearray(len(held)))
        given.to.move_to_end(peer)
        if len(given.to) > _MAX_PEERS:
            given.to.popitem(last=False)
        levels: dict[int, list[int]] = {}
        for piece in (*range(given.next, len(held)), *range(given.next)):
            if held[piece] and not asker_held[piece]:
                # What got lost on its way to the same peer is given again.
                copies = 0 if own[piece] else given.counts[piece]
                levels.setdefault(copies, []).append(piece)
        if not levels:
            return (), 0
        copies = min(levels)
        if waited_ms < copies * PATIENCE_MS:
            return (), copies * PATIENCE_MS - waited_ms
        take = levels[copies][:most]
        for piece in take:
            if not own[piece]:
                own[piece] = 1
                given.counts[piece] += 1
        given.next = (take[-1] + 1) % len(held)
        given.at = self._now()
        return tuple(sorted(take)), 0

    def _of(self, blob: tuple[Cid, int, int], pieces: int) -> _Given:
        given = self._given.get(blob)
        if given is None or given.at + _FORGET_S < self._now():
            given = self._given[blob] = _Given(pieces)
            given.at = self._now()
        self._given.move_to_end(blob)
        if len(self._given) > _MAX_BLOBS:
            self._given.popitem(last=False)
        return given
