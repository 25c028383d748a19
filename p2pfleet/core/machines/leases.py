"""Who has said that it is going to run which units of a job, and how far that is believed.

A claim runs from its first sight by this node's own clock. A peer may hold a few claims, more the
more it has committed to lately, half as many for each that lapsed; and it may not hold one unit
for ever by renewing its claim. What goes beyond that is ignored: it may be another clock's fault.

The claims of a peer whose connection is gone count for a moment only, so that others can take its
units at once. That is what this node happens to know and nobody's fault: no claim lapses by it, and
those of a peer that is back in time count as before.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.rules import sortition

HOLD_LEASES = 4
TRIES_MAX = 8
GRACE_MS = 5_000
HEARSAY_MS = 30_000
_NEVER = Millis(2**62)


class Lease(msgspec.Struct, array_like=True):
    """A claim: first seen when, running until when, and how often it was begun anew."""

    since: Millis
    until: Millis
    tries: int = 1


class Activity(msgspec.Struct, array_like=True):
    """What a peer committed to, and let lapse, in this lease period and the one before."""

    period: Millis
    committed: int = 0
    lapsed: int = 0
    committed_before: int = 0
    lapsed_before: int = 0


class Leases(msgspec.Struct):
    """The claims on the units of one job, by unit and by peer.

    ``lease_ms`` is how long a claim runs, ``hold_ms`` how long it may be renewed altogether.
    ``gone`` says from when on the claims of a peer that has vanished do not count.
    """

    lease_ms: int
    hold_ms: int
    units: dict[int, dict[PeerId, Lease]] = {}
    holding: dict[PeerId, dict[int, bool]] = {}
    activity: dict[PeerId, Activity] = {}
    gone: dict[PeerId, Millis] = {}

    def vanished(self, peer: PeerId, at: Millis) -> None:
        """From ``at`` on what the peer holds does not count, unless it is heard of before."""
        if self.holding.get(peer):
            self.gone[peer] = at

    def heard_of(self, peer: PeerId, now: Millis) -> None:
        """Others have something new of a peer that vanished here: it may work all the same.

        Or it said it before it vanished, and the word was late; so this lasts for a while only.
        """
        if peer in self.gone:
            self.gone[peer] = max(self.gone[peer], Millis(now + HEARSAY_MS))

    def back(self, peer: PeerId) -> None:
        """The peer is connected (again)."""
        self.gone.pop(peer, None)

    def _active(self, peer: PeerId, now: Millis) -> Activity:
        found = self.activity.get(peer)
        if found is None:
            found = self.activity[peer] = Activity(now)
        if now - found.period >= self.lease_ms:
            fresh = now - found.period < 2 * self.lease_ms
            found.committed_before = found.committed if fresh else 0
            found.lapsed_before = found.lapsed if fresh else 0
            found.committed = found.lapsed = 0
            found.period = now
        return found

    def room(self, peer: PeerId, now: Millis, debtor: bool = False) -> int:
        """How many more units the peer may claim now; a ``debtor`` as if it had committed to none.

        Else who commits and never reveals would gain room by it.
        """
        active = self._active(peer, now)
        held = self.holding.get(peer, {})
        for unit in [u for u in held if self.units[u][peer].until <= now]:
            del held[unit]
            active.lapsed += 1
        committed = 0 if debtor else active.committed + active.committed_before
        allowed = sortition.allowance(committed, active.lapsed + active.lapsed_before)
        return max(0, allowed - len(held))

    def claim(self, peer: PeerId, unit: int, now: Millis, debtor: bool = False) -> bool:
        """Take a claim in, new or renewed; ``False`` if it is ignored."""
        here = self.units.setdefault(unit, {})
        lease = here.get(peer)
        held = self.holding.setdefault(peer, {})
        if lease is not None and unit in held and lease.until > now:
            # Beyond the whole of its time it lapses, and others may take the unit.
            lease.until = Millis(min(now + self.lease_ms, lease.since + self.hold_ms))
            return True
        if lease is not None and lease.until - lease.since >= self.hold_ms:
            return False  # and it had its time: who comes back for the same unit only blocks it
        tries = 0 if lease is None else lease.tries
        if tries >= TRIES_MAX or self.room(peer, now, debtor) < 1:
            return False
        here[peer] = Lease(now, Millis(now + self.lease_ms), tries + 1)
        held[unit] = True
        return True

    def release(self, peer: PeerId, unit: int) -> None:
        """The peer gave the unit back, or has answered."""
        held = self.holding.get(peer)
        if held and held.pop(unit, None):
            self.units[unit][peer].until = Millis(0)

    def committed(self, peer: PeerId, unit: int, now: Millis) -> None:
        """The peer has run the unit."""
        self.release(peer, unit)
        self._active(peer, now).committed += 1

    def until(self, peer: PeerId, unit: int) -> Millis | None:
        """When the peer's claim on the unit ends, if it has one."""
        lease = self.units.get(unit, {}).get(peer)
        return None if lease is None or unit not in self.holding.get(peer, {}) else lease.until

    def claimants(self, unit: int, now: Millis) -> list[PeerId]:
        """Peers with a running claim on the unit; sorted."""
        here = self.units.get(unit)
        if not here:
            return []
        gone = self.gone
        return sorted(
            peer
            for peer, lease in here.items()
            if lease.until > now and gone.get(peer, _NEVER) > now
        )

    def running(self, now: Millis) -> int:
        """Claims that run now."""
        return sum(
            self.units[unit][peer].until > now
            for peer, held in self.holding.items()
            if self.gone.get(peer, _NEVER) > now
            for unit in held
        )

    def clear(self, unit: int) -> None:
        """Nobody needs to run the unit any more."""
        for peer in self.units.pop(unit, {}):
            self.holding.get(peer, {}).pop(unit, None)
