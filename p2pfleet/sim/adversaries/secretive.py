"""Runs units and commits to them, and does not reveal ``rate`` of its commitments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.messages import Deliver, Entry, Message, Release, Reveal
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.signatures import seal, unseal


class Secretive(Behaviour):
    """Where its core reveals, the frame says that the units are let go, which it said before."""

    twists = True

    def outgoing(self, peer: PeerId, message: Message) -> Sequence[Message]:
        if not isinstance(message, Deliver):
            return (message,)
        verified = unseal(message.sealed)
        if not isinstance(verified, VerifiedFrame) or verified.author != self.machine.peer:
            return (message,)
        frame = verified.frame
        entries = tuple(self._silent(frame.job, entry) for entry in frame.entries)
        return (Deliver(seal(msgspec.structs.replace(frame, entries=entries))),)

    def _silent(self, job: JobId, entry: Entry) -> Entry:
        if isinstance(entry, Reveal) and self.share(job, entry.items[0].unit, self.machine.peer):
            return Release(tuple(sorted({item.unit for item in entry.items})))
        return entry
