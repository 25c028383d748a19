"""Who is refused for what it sent: verdicts counted, bans that grow, expire and outlive a restart.

A peer is banned after ``reject_limit`` Rejects within ``reject_window_s``; a signature that does
not match counts twice, because finding out cost a verification, and a proven fault is enough by
itself. The first ban lasts ``ban_s``, each
that follows within a day of the last six times as long, a day at most. An address of which
``address_ban_peers`` bans of peers came within an hour is banned itself: a crowd of keys behind one
address costs no more than one key. Addresses that are shared within a house or a laboratory
(loopback, private, link-local, and the node's own) are never banned, because one bad machine would
lock all others out; their peers are.

Expiry runs on the monotonic clock. What is saved says when a ban began by the wall clock, and a
clock that was set back meanwhile can at most start it anew, never prolong it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable

import trio

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe
from p2pfleet.adapters.network.guard.limits import MAX_TRACKED_PEERS, address_group, is_loopback
from p2pfleet.core.errors import Forged, Proven, Reject
from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import Ban, BanBook, Clock

logger = logging.getLogger(__name__)

MAX_BANS = 1024
MAX_BAN_MS = 24 * 3_600_000
GROWTH = 6
REMEMBERED_MS = 24 * 3_600_000
MAX_REASON_CHARACTERS = 200
_OFFENCES_MS = 3_600_000
_FORGED_WEIGHT = 2


class _Entry:
    """One ban, running or remembered."""

    def __init__(self, ban: Ban, until: int) -> None:
        self.ban = ban
        self.until = until


class _Counted:
    """What happened to whom within a window: a count a key, of few keys."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._times: OrderedDict[bytes | str, deque[int]] = OrderedDict()

    def add(self, key: bytes | str, now: int, weight: int = 1) -> int:
        times = self._times.setdefault(key, deque())
        self._times.move_to_end(key)
        times.extend([now] * weight)
        self._expire(times, now)
        if len(self._times) > MAX_TRACKED_PEERS:
            self._times.popitem(last=False)
        return len(times)

    def count(self, key: bytes | str, now: int) -> int:
        times = self._times.get(key)
        if times is None:
            return 0
        self._expire(times, now)
        return len(times)

    def forget(self, key: bytes | str) -> None:
        self._times.pop(key, None)

    def _expire(self, times: deque[int], now: int) -> None:
        while times and times[0] <= now - self._window_ms:
            times.popleft()


class Bans:
    """The peers and addresses that this node refuses, and what is counted towards it."""

    def __init__(
        self,
        clock: Clock,
        config: NetworkConfig,
        book: BanBook | None = None,
        own_addresses: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """``own_addresses`` gives the IP addresses of this machine."""
        self._clock = clock
        self._limit = config.reject_limit
        self._address_limit = config.address_ban_peers
        self._first_ms = round(config.ban_s * 1000)
        self._book = book
        self._own_addresses = own_addresses
        self._rejects = _Counted(round(config.reject_window_s * 1000))
        self._offences = _Counted(_OFFENCES_MS)
        self._failures = _Counted(round(config.reject_window_s * 1000))
        self._failure_limit = config.failed_handshakes_per_address
        self._entries: OrderedDict[PeerId | str, _Entry] = OrderedDict()
        self._held_off: OrderedDict[PeerId | str, int] = OrderedDict()
        self._changed = trio.Event()

    # ---- what leads to a ban -----------------------------------------------------------------

    def reject(self, peer: PeerId, verdict: Reject, place: str | None = None) -> bool:
        """Count one Reject; whether ``peer``, who is at ``place``, is banned now because of it."""
        now = self._clock.monotonic_ms()
        weight = _FORGED_WEIGHT if isinstance(verdict, Forged) else 1
        if isinstance(verdict, Proven):
            weight = self._limit
        if self._rejects.add(peer, now, weight) < self._limit:
            return False
        self._rejects.forget(peer)
        self._ban(peer, verdict.reason, now)
        if place is not None and self.bannable(place):
            offences = self._offences.add(place, now)
            if offences >= self._address_limit:
                self._offences.forget(place)
                self._ban(place, f"{offences} peers there were banned within an hour", now)
        return True

    def failed_handshake(self, place: str) -> None:
        """Count a handshake that came to nothing; too many ban the address."""
        if not self.bannable(place):
            return
        now = self._clock.monotonic_ms()
        if self._failures.add(place, now) >= self._failure_limit:
            self._failures.forget(place)
            self._ban(place, f"{self._failure_limit} handshakes from there failed", now)

    def rejects(self, peer: PeerId) -> int:
        """The Rejects of ``peer`` that count now."""
        return self._rejects.count(peer, self._clock.monotonic_ms())

    def bannable(self, place: str) -> bool:
        """Whether an address may be banned as a whole: only one that nobody nearby shares."""
        try:
            network = ipaddress.ip_network(place)
        except ValueError:
            return False
        if is_loopback(place) or not network.is_global or network.is_multicast:
            return False
        return place not in {address_group(one) for one in self._own_addresses()}

    def hold_off(self, peer: PeerId) -> None:
        """Refuse ``peer`` for as long as a first ban lasts, for a reason that is nobody's fault: it
        is not listed, not remembered, and makes no later ban longer."""
        self._held_off[peer] = self._clock.monotonic_ms() + self._first_ms
        self._held_off.move_to_end(peer)
        if len(self._held_off) > MAX_TRACKED_PEERS:
            self._held_off.popitem(last=False)

    def _ban(self, who: PeerId | str, reason: str, now: int) -> None:
        before = self._entries.pop(who, None)
        times = 1
        if before is not None and now < before.until + REMEMBERED_MS:
            times = before.ban.times + 1
        lasts = min(self._first_ms * GROWTH ** min(times - 1, 8), MAX_BAN_MS)
        peer, address = (None, who) if isinstance(who, str) else (who, "")
        reason = reason[:MAX_REASON_CHARACTERS]
        ban = Ban(peer, address, reason, self._clock.wall_ms(), lasts, times)
        self._entries[who] = _Entry(ban, now + lasts)
        self._bound()
        self._changed.set()

    def _bound(self) -> None:
        while len(self._entries) > MAX_BANS:
            del self._entries[min(self._entries, key=lambda one: self._entries[one].until)]

    # ---- what a ban means --------------------------------------------------------------------

    def banned(self, who: PeerId | str) -> bool:
        """Whether a peer, or an address group, is refused now."""
        now = self._clock.monotonic_ms()
        if now < self._held_off.get(who, 0):
            return True
        self._held_off.pop(who, None)
        return self._runs(who, now)

    def _runs(self, who: PeerId | str, now: int) -> bool:
        entry = self._entries.get(who)
        if entry is None:
            return False
        if now < entry.until:
            return True
        if now >= entry.until + REMEMBERED_MS:
            del self._entries[who]
        return False

    def left_ms(self, who: PeerId | str) -> int:
        """For how long a peer or an address is refused yet."""
        entry = self._entries.get(who)
        return 0 if entry is None else max(0, entry.until - self._clock.monotonic_ms())

    def running(self) -> tuple[Ban, ...]:
        """The bans that hold now, the newest first."""
        now = self._clock.monotonic_ms()
        found = [entry.ban for who, entry in list(self._entries.items()) if self._runs(who, now)]
        return tuple(sorted(found, key=lambda ban: -ban.since_ms))

    def lift(self, who: PeerId | str) -> bool:
        """Forget a ban and what led to it; whether there was one."""
        self._rejects.forget(who)
        self._offences.forget(who)
        self._failures.forget(who)
        if self._entries.pop(who, None) is None:
            return False
        self._changed.set()
        return True

    # ---- across restarts ---------------------------------------------------------------------

    async def load(self) -> None:
        """Take over what was saved. A book that cannot be read is said and begun anew."""
        if self._book is None:
            return
        try:
            found = await trio.to_thread.run_sync(self._book.load_bans)
        except Exception as error:
            logger.warning("the saved bans could not be read: %s", describe(error))
            return
        self.restore(found)

    def restore(self, found: Iterable[Ban]) -> None:
        """Take bans over that were saved earlier, by another monotonic clock."""
        now, wall = self._clock.monotonic_ms(), self._clock.wall_ms()
        for ban in found:
            who = ban.address if ban.peer is None else ban.peer
            lasts = min(ban.lasts_ms, MAX_BAN_MS)
            left = lasts - max(0, wall - ban.since_ms)
            if left > -REMEMBERED_MS and (ban.peer is not None or self.bannable(ban.address)):
                self._entries[who] = _Entry(ban, now + left)
        self._bound()

    async def keep(self) -> None:
        """Save whatever changes, for ever."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._save()
            await trio.sleep(1.0)  # a crowd of bans is one write

    async def close(self) -> None:
        """Save what has not been saved yet."""
        if self._changed.is_set():
            await self._save()

    async def _save(self) -> None:
        if self._book is None:
            return
        now = self._clock.monotonic_ms()
        kept = [entry.ban for entry in self._entries.values() if now < entry.until + REMEMBERED_MS]
        try:
            await trio.to_thread.run_sync(self._book.save_bans, kept)
        except Exception as error:
            logger.warning("bans could not be saved: %s", describe(error))
