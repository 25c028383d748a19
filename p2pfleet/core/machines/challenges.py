"""Challenges: keepers of one job show pieces of blobs to whoever has them as well.

Who cannot is no longer counted, by this node, as a keeper of that blob; after a second such blob,
of none. Nobody else hears of it. Whom to ask, and for what, is drawn by a private coin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from p2pfleet.core.model.ids import Digest, Millis, PeerId

CHALLENGE_MS = 60_000
FIRST_CHALLENGE_MS = 5_000
AGAIN_MS = 5_000
ABSENT_MAX = 2
LIES_MAX = 2

GOOD, ABSENT, WRONG, LOST = "good", "absent", "wrong", "lost"


class Challenges(msgspec.Struct):
    """``failed`` says how often a keeper could not show a blob, ``liars`` for how many blobs one
    could not, ``again`` who is to be asked once more for what, ``tried`` when each was asked last.
    ``at`` is when the next challenge is due, ``turn`` how many there were."""

    me: PeerId
    coin: bytes
    failed: dict[tuple[Digest, PeerId], int] = {}
    liars: dict[PeerId, int] = {}
    tried: dict[PeerId, Millis] = {}
    again: tuple[Digest, PeerId] | None = None
    at: Millis | None = None
    turn: int = 0

    def caught(self, digest: Digest, peer: PeerId) -> bool:
        """Whether a keeper of a blob is not believed any more: it could not show it, or others."""
        if not self.failed and not self.liars:
            return False
        failed = self.failed.get((digest, peer), 0) >= ABSENT_MAX
        return failed or self.liars.get(peer, 0) >= LIES_MAX

    def due(self, now: Millis, here: Callable[[PeerId], bool], keepers: Sequence[PeerId]) -> bool:
        """Whether somebody is to be asked now: soon, while a keeper is here that never was."""
        if self.at is None:
            self.at = Millis(now + self._drawn(b"at", FIRST_CHALLENGE_MS))
        if self.at > now:
            return False
        self.turn += 1
        fresh = any(here(peer) and peer not in self.tried for peer in keepers)
        span = FIRST_CHALLENGE_MS if fresh else CHALLENGE_MS
        self.at = Millis(now + span // 2 + self._drawn(b"at", span))
        return True

    def choose(
        self, blobs: Mapping[PeerId, Sequence[Digest]], now: Millis
    ) -> tuple[Digest, PeerId] | None:
        """Whom to ask, and for what: ``blobs`` are those that each keeper here should have.

        First who is to be asked again, then who is doubted, then who was not asked for longest.
        """
        again, self.again = self.again, None
        if again is not None and again[0] in blobs.get(again[1], ()):
            digest, peer = again
        elif blobs:
            doubted = [peer for peer in blobs if self.liars.get(peer)]
            peer = min(doubted or blobs, key=lambda p: (self.tried.get(p, -1), p))
            digest = blobs[peer][self._drawn(b"which", len(blobs[peer]))]
        else:
            return None
        self.tried[peer] = now
        return digest, peer

    def answered(self, digest: Digest, peer: PeerId, verdict: str, now: Millis) -> bool:
        """A keeper showed its piece, or did not; whether it is believed in nothing any more."""
        key = (digest, peer)
        if verdict == GOOD:
            self.failed.pop(key, None)
        if verdict not in (ABSENT, WRONG):
            return False
        failures = ABSENT_MAX if verdict == WRONG else self.failed.get(key, 0) + 1
        self.failed[key] = min(ABSENT_MAX, failures)
        # Who failed is asked once more before it counts as gone; who is, for other blobs.
        self.at = Millis(now + AGAIN_MS)
        if self.failed[key] < ABSENT_MAX:
            self.again = key
            return False
        self.liars[peer] = self.liars.get(peer, 0) + 1
        return self.liars[peer] == LIES_MAX

    def _drawn(self, what: bytes, below: int) -> int:
        """A number below ``below``, by this node's private coin."""
        turn = self.turn.to_bytes(8, "big")
        seed = hashlib.sha256(b"custody:" + what + self.coin + self.me + turn).digest()
        return int.from_bytes(seed[:8], "big") % max(1, below)
