"""Tells half of its peers another vote, in another frame of the same number."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import Deliver, Message, Reveal
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
                entry, digest=self.wrong(frame.job, entry.unit, self.machine.peer)
            )
            if isinstance(entry, Reveal) and self.share(frame.job, entry.unit, self.machine.peer)
            else entry
            for entry in frame.entries
        )
        return (Deliver(seal(msgspec.structs.replace(frame, entries=entries))),)
