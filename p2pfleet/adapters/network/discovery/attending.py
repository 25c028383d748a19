"""Being connected with those whom the core asks for, and room for them among the connections.

A want names a key of the DHT, how many of those who provide it are wanted here, and who of those
that are connected is one of them; and peers that are wanted themselves. Only for what is lacking
the DHT is asked, one look-up every half second and one provide a second at most, and a key again
only after a while: a look-up takes seconds and is asked of many nodes.

When all places are taken, whoever is wanted takes the place of somebody who is not; any other
newcomer does so now and then, if the other one came to this node rather than was dialled by it: so
that nobody is refused for ever, and strangers do not push out whom this node chose.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import trio

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe
from p2pfleet.core.effects import Want
from p2pfleet.core.model.ids import PeerId

logger = logging.getLogger(__name__)

WANTS_MAX = 64
FOUND_MAX = 64
LOOK_UPS = 4


class Keys(Protocol):
    """What the DHT is for here."""

    async def provide(self, key: bytes) -> None:
        """Say that this node provides a key. Slow, and may be lost."""
        ...

    async def find(self, key: bytes) -> dict[PeerId, list[str]]:
        """Who says that it provides a key, and where it listens. Slow."""
        ...

    async def where(self, peer: PeerId) -> list[str]:
        """Where a peer listens, as far as the DHT knows. Slow."""
        ...


class Place(Protocol):
    """One who is connected, or about to be: :class:`Session`."""

    @property
    def peer(self) -> PeerId:
        """Who it is."""
        ...

    @property
    def since(self) -> float:
        """Since when, on trio's clock."""
        ...


class Attending:
    """Looks for whom is wanted, and says who has to make room. ``dialled`` says whether this node
    dialled a peer that is connected, ``seek`` takes addresses of those that are to be dialled."""

    def __init__(
        self,
        config: NetworkConfig,
        keys: Keys,
        connected: Callable[[PeerId], bool],
        dialled: Callable[[PeerId], bool],
        seek: Callable[[dict[PeerId, list[str]]], None],
    ) -> None:
        self._config = config
        self._keys = keys
        self._connected = connected
        self._dialled = dialled
        self._seek = seek
        self._wants: tuple[Want, ...] = ()
        self._provided: dict[bytes, float] = {}
        self._looked: dict[bytes, float] = {}
        self._pause: dict[bytes, float] = {}
        self._found: dict[bytes, dict[PeerId, list[str]]] = {}
        self._made_room: float | None = None
        self._wake = trio.Event()
        self.look_ups = 0
        self.provides = 0

    def attend(self, wants: Sequence[Want]) -> None:
        """From now on these are wanted, and no others."""
        self._wants = tuple(wants)[:WANTS_MAX]
        keys = {key for want in self._wants for key in (want.key, *want.whom)}
        now = trio.current_time()
        for known in (self._provided, self._looked):
            # What was asked a moment ago is not asked again because it was not wanted in between.
            for key in [k for k, at in known.items() if k not in keys and now > at]:
                del known[key]
        for key in [k for k in self._found if k not in keys and k not in self._looked]:
            del self._found[key]
            self._pause.pop(key, None)
        self._choose()
        self._wake.set()

    # ---- room --------------------------------------------------------------------------------

    def wanted(self, peer: PeerId) -> bool:
        """Whether a peer is wanted: it is one of those whom the core means, or says so itself."""
        return any(
            peer in want.here
            or peer in want.whom
            or (len(want.here) < want.peers and peer in self._found.get(want.key, ()))
            for want in self._wants
        )

    def makes_room(self, newcomer: PeerId, here: Sequence[Place]) -> PeerId | None:
        """Who of those that are here gives its place to a newcomer; ``None``: nobody."""
        spare = [place for place in here if not self.wanted(place.peer)]
        now = trio.current_time()
        if not self.wanted(newcomer):
            if self._made_room is None:
                self._made_room = now
            if now - self._made_room < self._config.room_every_s:
                return None
            spare = [place for place in spare if not self._dialled(place.peer)]
        if not spare:
            return None
        self._made_room = now
        return min(spare, key=lambda place: place.since).peer

    # ---- looking -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Provide and look up, for ever."""
        room = trio.CapacityLimiter(LOOK_UPS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._provide)
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                due, again = self._due(now)
                if due is None:
                    with trio.move_on_at(again):
                        await self._wake.wait()
                    continue
                self._looked[due] = now + self._pause.get(due, self._config.attend_again_s)
                nursery.start_soon(self._look_up, due, room)
                await trio.sleep(self._config.attend_every_s)

    def _lacking(self) -> Iterator[bytes]:
        """Keys of which too few are connected, and peers of whom it is not known where they are."""
        for want in self._wants:
            for peer in want.whom:
                if not self._connected(peer) and not self._addresses(peer):
                    yield peer
            if len(want.here) < want.peers:
                yield want.key

    def _due(self, now: float) -> tuple[bytes | None, float]:
        """What to look up now, or when to see again."""
        again = now + self._config.attend_again_s
        for key in self._lacking():
            at = self._looked.get(key, 0.0)
            if at <= now:
                return key, now
            again = min(again, at)
        return None, again

    async def _ask(self, key: bytes) -> dict[PeerId, list[str]]:
        if any(key in want.whom for want in self._wants):
            addresses = await self._keys.where(PeerId(key))
            return {PeerId(key): addresses} if addresses else {}
        return await self._keys.find(key)

    async def _look_up(self, key: bytes, room: trio.CapacityLimiter) -> None:
        async with room:
            self.look_ups += 1
            try:
                found = await self._ask(key)
            except Exception as error:
                logger.debug("looking for a shard: %s", describe(error))
                found = {}
        known = self._found.get(key, {})
        news = [peer for peer in found if peer not in known]
        # Where nobody new turns up it is looked ever more rarely.
        longest = self._config.attend_again_s * 16
        pause = self._pause.get(key, self._config.attend_again_s)
        self._pause[key] = self._config.attend_again_s if news else min(2 * pause, longest)
        if found:
            self._found[key] = dict([*known.items(), *found.items()][-FOUND_MAX:])
            self._choose()

    def _choose(self) -> None:
        """Have those dialled that are lacking."""
        sought: dict[PeerId, list[str]] = {}
        for want in self._wants:
            found = self._found.get(want.key, {})
            far = [peer for peer in found if not self._connected(peer)]
            lacking = want.peers - len(want.here)
            if lacking > 0 and far:
                sought.update({p: found[p] for p in random.sample(far, min(lacking, len(far)))})
            for peer in want.whom:
                addresses = self._addresses(peer)
                if addresses and not self._connected(peer):
                    sought[peer] = addresses
        self._seek(sought)

    def _addresses(self, peer: PeerId) -> list[str]:
        """Where a peer is, if it was found for anything."""
        return next((found[peer] for found in self._found.values() if peer in found), [])

    async def _provide(self) -> None:
        """Say which keys this node provides, one a second at most."""
        while True:
            now = trio.current_time()
            mine = [want.key for want in self._wants if want.provide]
            due = [key for key in mine if self._provided.get(key, 0.0) <= now]
            if not due:
                await trio.sleep(self._config.provide_pause_s)
                continue
            every = self._config.provide_every_s * random.uniform(0.7, 1.3)  # noqa: S311
            # The first nodes met are rarely the ones that keep a key: soon again, once.
            first = due[0] not in self._provided
            self._provided[due[0]] = now + (self._config.attend_again_s if first else every)
            self.provides += 1
            try:
                await self._keys.provide(due[0])
            except Exception as error:
                logger.debug("providing a shard: %s", describe(error))
            await trio.sleep(self._config.provide_pause_s)
