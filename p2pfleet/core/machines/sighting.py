"""Whether a job's publisher is there, where not everybody can be connected with it.

In a job of many shards most volunteers are not. The publisher signs its own peer record anew every
few seconds while it has such a job; who has a newer one than its neighbours hands it on with what
it tells of shards. It is hearsay on one question only: whether to do now what is done for a
publisher that is away.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Send
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.model.network import CLOCK_SKEW_MS
from p2pfleet.core.wire.messages import Deliver
from p2pfleet.core.wire.verified import VerifiedRecord

SIGN_MS = 20_000
SEEN_MS = 180_000
TOLD_MAX = 256


class Sighting(msgspec.Struct):
    """The newest ``record`` of a publisher that reached this node, when it did (``at``), and by
    peer the sequence of the one that it is known to have (``told``)."""

    record: VerifiedRecord | None = None
    at: Millis | None = None
    told: dict[PeerId, int] = {}

    def take(self, verified: VerifiedRecord, source: PeerId, now: Millis, wall_ms: int) -> None:
        """``source`` hands a record of the publisher on. One that is no newer, or was signed too
        long ago to say anything of now, changes nothing."""
        sequence = verified.record.sequence
        if len(self.told) < TOLD_MAX or source in self.told:
            self.told[source] = max(sequence, self.told.get(source, 0))
        if self.record is not None and self.record.record.sequence >= sequence:
            return
        if wall_ms - verified.record.issued_ms > SEEN_MS + CLOCK_SKEW_MS:
            return
        self.record, self.at = verified, now

    def fresh(self, now: Millis) -> bool:
        """Whether the publisher has been heard of lately."""
        return self.at is not None and now - self.at < SEEN_MS

    def tell(self, peer: PeerId, now: Millis) -> list[Send]:
        """Hand the record on to a peer that is not known to have it."""
        if self.record is None or not self.fresh(now) or peer == self.record.record.peer:
            return []
        sequence = self.record.record.sequence
        if self.told.get(peer, -1) >= sequence:
            return []
        if len(self.told) < TOLD_MAX or peer in self.told:
            self.told[peer] = sequence
        return [Send((peer,), Deliver(self.record.sealed))]

    def left(self, peer: PeerId) -> None:
        """``peer`` is not here any more."""
        self.told.pop(peer, None)
