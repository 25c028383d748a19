"""Whoever tells two stories is found out, with a proof that everybody gets; nobody else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import effects as ef
from p2pfleet.core.model.ids import FrameHash, JobId, PeerId
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.sim.checkers.checker import Checker
from p2pfleet.sim.signatures import unseal

if TYPE_CHECKING:
    from p2pfleet.sim.machine import Machine

STORIES_UNSEEN_MAX = 8
"""A receiver hands on one vote in a few, by a private coin, and the network loses some: who lies
more often than this is found out."""
SPREADING_MS = 10_000

Number = tuple[JobId, PeerId, int, int, int]


class Evidence(Checker):
    """Compares the frames of one number that honest machines have written down."""

    name = "evidence"

    def __init__(self, *what: object) -> None:
        super().__init__(*what)  # type: ignore[arg-type]
        self.frames: dict[Number, dict[FrameHash, VerifiedFrame]] = {}
        self.stories: dict[PeerId, list[int]] = {}

    looks_at = (ef.SaveFrame,)

    def synced(self, machine: Machine, write: ef.Write) -> None:
        if not machine.honest:
            return
        assert isinstance(write, ef.SaveFrame)
        verified = unseal(write.frame)
        assert isinstance(verified, VerifiedFrame)
        frame = verified.frame
        number = (frame.job, frame.author, frame.shard, frame.incarnation, frame.sequence)
        known = self.frames.setdefault(number, {})
        if verified.hash not in known:
            if any(fault(verified, other) for other in known.values()):
                self._two(frame.author)
            known[verified.hash] = verified

    def _two(self, author: PeerId) -> None:
        machine = self.cluster.world.by_peer[author]
        if machine.honest:
            self.violated(machine.name, "an honest machine has told two stories")
        self.stories.setdefault(author, []).append(self.cluster.kernel.now)

    def at_end(self) -> None:
        enough = self.cluster.kernel.now - SPREADING_MS
        for author, times in sorted(self.stories.items()):
            if len(times) <= STORIES_UNSEEN_MAX or times[STORIES_UNSEEN_MAX] > enough:
                continue
            name = self.cluster.world.by_peer[author].name
            for machine in self.cluster.machines:
                if machine.on and machine.honest and author not in machine.disk.proofs:
                    text = f"has no proof against {name}, who told two stories"
                    self.violated(machine.name, text)
