"""How far this machine's wall clock is from those of its peers.

A node's record is at most FRESH_MS old when a new peer hears it, and new ones are signed now and
then: what it says of its time of issue tells the peer's clock, give or take half of that. The
median of several peers is believed, so that a liar moves nothing unless it has half of them.
"""

from __future__ import annotations

import statistics

import msgspec

from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.network import CLOCK_SKEW_MS

FRESH_MS = 60_000
PEERS_MIN = 3
PEERS_MAX = 64


class Skew(msgspec.Struct):
    """By peer, how many milliseconds its clock was ahead of this one when it was last heard."""

    heard: dict[PeerId, int] = {}

    def take(self, peer: PeerId, issued_ms: int, wall_ms: int) -> None:
        """A record that ``peer`` has just sent, and this node's own wall clock."""
        self.heard.pop(peer, None)
        if len(self.heard) >= PEERS_MAX:
            del self.heard[next(iter(self.heard))]
        self.heard[peer] = issued_ms + FRESH_MS // 2 - wall_ms

    def moved(self, by_ms: int) -> None:
        """This node's own clock was set forward by so much."""
        self.heard = {peer: ahead - by_ms for peer, ahead in self.heard.items()}

    @property
    def ahead_ms(self) -> int | None:
        """How far this clock is ahead of its peers' (behind: negative); ``None``: too few."""
        if len(self.heard) < PEERS_MIN:
            return None
        return -int(statistics.median(self.heard.values()))

    @property
    def warning(self) -> str:
        """What the owner should do about it; empty if the clocks agree."""
        ahead = self.ahead_ms
        if ahead is None or abs(ahead) <= CLOCK_SKEW_MS:
            return ""
        seconds = abs(ahead) // 1000
        far = f"{seconds // 60} min" if seconds < 2 * 3600 else f"{seconds // 3600} h"
        side = "ahead of" if ahead > 0 else "behind"
        effect = ""
        if abs(ahead) > CLOCK_SKEW_MS + FRESH_MS // 2:
            effect = "; until then others refuse its messages, or it refuses theirs"
        return (
            f"this machine's clock is {far} {side} its peers': set it"
            f" (timedatectl set-ntp true){effect}"
        )
