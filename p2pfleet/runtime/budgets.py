"""What one identity may ask of this node: announcements an hour, and talk without end."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import Clock

ANNOUNCED_AN_HOUR = 1_024
"""How many different manifests and closures of one publisher are handed on within an hour."""
ANNOUNCED_A_MINUTE = 32
"""The same within a minute. What is announced is handed on by everybody to everybody, so that a
crowd of jobs is dear; those that come later are told by summaries."""
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
PUBLISHERS_MAX = 4_096
TALK_A_SECOND = 100
TALK_AT_ONCE = 2_000
"""Summaries, greetings and wishes that one peer may send."""
TALKERS_MAX = 1_024


class PublishBudget:
    """How many different announcements each publisher made lately. What is announced again counts
    once, so that a publisher may go on repeating what is open."""

    def __init__(
        self, clock: Clock, most: int = ANNOUNCED_AN_HOUR, a_minute: int = ANNOUNCED_A_MINUTE
    ) -> None:
        self._clock = clock
        self._most = most
        self._a_minute = a_minute
        self._made: OrderedDict[PeerId, deque[tuple[int, Hashable]]] = OrderedDict()

    def allows(self, publisher: PeerId, announcement: Hashable) -> bool:
        """Whether this announcement is within the budget; counts it if so."""
        now = self._clock.monotonic_ms()
        made = self._made.setdefault(publisher, deque())
        self._made.move_to_end(publisher)
        if len(self._made) > PUBLISHERS_MAX:
            self._made.popitem(last=False)
        while made and made[0][0] <= now - HOUR_MS:
            made.popleft()
        if any(one == announcement for _, one in made):
            return True
        if len(made) >= self._most:
            return False
        if len(made) >= self._a_minute and made[-self._a_minute][0] > now - MINUTE_MS:
            return False
        made.append((now, announcement))
        return True


class TalkBudget:
    """How much each peer may say that is no signed body: a rate, and a stock for busy moments."""

    def __init__(
        self, clock: Clock, a_second: int = TALK_A_SECOND, at_once: int = TALK_AT_ONCE
    ) -> None:
        self._clock = clock
        self._a_second = a_second
        self._at_once = at_once
        self._left: OrderedDict[PeerId, tuple[float, int]] = OrderedDict()

    def allows(self, peer: PeerId) -> bool:
        """Whether one more message is within the budget; counts it if so."""
        now = self._clock.monotonic_ms()
        left, at = self._left.get(peer, (float(self._at_once), now))
        left = min(self._at_once, left + (now - at) * self._a_second / 1000)
        self._left[peer] = (left - 1 if left >= 1 else left), now
        self._left.move_to_end(peer)
        if len(self._left) > TALKERS_MAX:
            self._left.popitem(last=False)
        return left >= 1
