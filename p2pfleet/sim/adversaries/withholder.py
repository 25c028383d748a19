"""Claims units and never answers for ``rate`` of them; when the lease ends it lets them go."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.messages import Claim, Deliver, Entry, Message, Release
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.adversaries.hoarder import Hoarder
from p2pfleet.sim.signatures import seal, unseal


class Withholder(Hoarder):
    """Where its core would renew the claim of a withheld unit, the frame gives it back instead."""

    twists = True
    _claimed: dict[tuple[JobId, int], bytes]

    def started(self) -> None:
        self._claimed = {}

    def outgoing(self, peer: PeerId, message: Message) -> Sequence[Message]:
        if not isinstance(message, Deliver):
            return (message,)
        verified = unseal(message.sealed)
        if not isinstance(verified, VerifiedFrame) or verified.author != self.machine.peer:
            return (message,)
        job = verified.frame.job
        entries: list[Entry] = []
        for entry in verified.frame.entries:
            if not isinstance(entry, Claim):
                entries.append(entry)
                continue
            fresh = tuple(u for u in entry.units if self._first(job, u, verified.hash))
            again = tuple(u for u in entry.units if u not in fresh)
            entries += [Claim(fresh)] if fresh else []
            entries += [Release(again)] if again else []
        twisted = msgspec.structs.replace(verified.frame, entries=tuple(entries[:1024]))
        return (Deliver(seal(twisted)),)

    def _first(self, job: JobId, unit: int, frame: bytes) -> bool:
        withheld = self.share(job, unit, self.machine.peer)
        return not withheld or self._claimed.setdefault((job, unit), frame) == frame
