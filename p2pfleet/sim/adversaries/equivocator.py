"""Tells half of its peers another vote, in another frame of the same number."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.messages import Deliver, Message, Reveal, RevealItem
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.signatures import seal, unseal


class Equivocator(Behaviour):
    """Which half hears what follows from the peer's id; so does it after a restart."""

    twists = True

    def outgoing(self, peer: PeerId, message: Message) -> Sequence[Message]:
        if not isinstance(message, Deliver) or peer[0] % 2 or not self.active:
            return (message,)
        verified = unseal(message.sealed)
        if not isinstance(verified, VerifiedFrame) or verified.author != self.machine.peer:
            return (message,)
        frame = verified.frame
        entries = tuple(
            msgspec.structs.replace(
                entry, items=tuple(self._other(frame.job, item) for item in entry.items)
            )
            if isinstance(entry, Reveal)
            else entry
            for entry in frame.entries
        )
        return (Deliver(seal(msgspec.structs.replace(frame, entries=entries))),)

    def _other(self, job: JobId, item: RevealItem) -> RevealItem:
        me = self.machine.peer
        if not self.share(job, item.unit, me):
            return item
        return msgspec.structs.replace(item, digest=self.wrong(job, item.unit, me))
