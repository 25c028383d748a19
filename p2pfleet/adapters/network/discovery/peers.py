"""Whom this node knows, and the dialling: queue, back-off, reconnection.

Addresses come from the bootstrap list, the saved address book, the LAN, the DHT, and from the peers
themselves. They are dialled one by one; every failure doubles the peer's pause, with jitter. A peer
that was connected once is *proven*: whatever strangers tell, it is dialled before the others, and
it is not forgotten because it could not be reached for a while. A node that has nobody dials more
at once, since most of an old address book may be dead.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import random
from collections import OrderedDict
from typing import Any

import trio
from multiaddr import Multiaddr

from p2pfleet.adapters.network.addresses import (
    is_relayed,
    on_loopback,
    parse_bootstrap,
    parse_dialable,
    usable,
    with_peer,
)
from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe
from p2pfleet.adapters.network.guard.admission import Admission
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.nat.whereabouts import on_own_lan, own_interfaces
from p2pfleet.adapters.network.sessions import Sessions
from p2pfleet.core.model.ids import PeerId, short_peer
from p2pfleet.ports import AddressBook, Clock

logger = logging.getLogger(__name__)

_MAX_ADDRESSES = 8
_EAGER_RETRY_MAX_S = 30.0
_TICK_S = 5.0
_FORGET_AFTER = 10
_PROVEN_IS_WORTH = 3
_LONELY_DIALS = 8
_SAVE_AGAIN_S = 900.0
# What a peer told of itself is kept behind everything that a connection proved.
_TOLD_IS_OLDER_MS = 30 * 86_400_000


class _Known:
    """One peer that might be dialled."""

    def __init__(self, peer: PeerId, bootstrap: bool) -> None:
        self.peer = peer
        self.bootstrap = bootstrap
        self.proven = False
        self.addresses: OrderedDict[str, None] = OrderedDict()
        self.failures = 0
        self.not_before = 0.0

    @property
    def promise(self) -> tuple[int, bool]:
        """The smaller, the sooner it should be dialled."""
        return max(0, self.failures - _PROVEN_IS_WORTH * self.proven), not self.proven

    def add(self, address: str, proven: bool) -> bool:
        """Keep an address, the proven ones in front; whether it is new."""
        new = address not in self.addresses
        self.addresses[address] = None
        if proven:
            self.addresses.move_to_end(address, last=False)
        while len(self.addresses) > _MAX_ADDRESSES:
            # The oldest unproven hearsay goes; what was just learnt is tried at least once.
            del self.addresses[list(self.addresses)[-2]]
        return new


class Dialler:
    """Keeps the node connected to ``target_peers`` of the peers it knows."""

    def __init__(
        self,
        config: NetworkConfig,
        swarm: Any,
        me: PeerId,
        book: AddressBook,
        clock: Clock,
        sessions: Sessions,
        admission: Admission,
    ) -> None:
        self._config = config
        self._swarm = swarm
        self._me = me
        self._book = book
        self._clock = clock
        self._sessions = sessions
        self._admission = admission
        self._known: OrderedDict[PeerId, _Known] = OrderedDict()
        self._dialling: set[PeerId] = set()
        self._wake = trio.Event()
        self._saved: dict[PeerId, str] = {}
        self._booked: set[PeerId] = set()
        self._sought: frozenset[PeerId] = frozenset()
        for text in config.bootstrap:
            peer, address = parse_bootstrap(text)
            self._learn(peer, [address], bootstrap=True)

    async def load(self) -> None:
        """Take over the saved address book."""
        try:
            entries = await trio.to_thread.run_sync(self._book.load_addresses)
        except Exception as error:
            logger.warning("the saved addresses could not be read: %s", describe(error))
            return
        for peer, text in entries[: self._config.known_peers]:
            dialable = parse_dialable(text)
            address = usable(text) if dialable is None else dialable[1]
            if address is not None and (dialable is None or dialable[0] == peer):
                self._learn(peer, [address])
                self._booked.add(peer)
                if (known := self._known.get(peer)) is not None:
                    known.proven = True

    @property
    def lonely(self) -> bool:
        """Whether nobody is connected."""
        return not len(self._sessions)

    def start_over(self) -> None:
        """The machine is on another network now: what failed before may work."""
        for known in self._known.values():
            known.failures = 0
            known.not_before = trio.current_time() + random.uniform(0.0, 0.3)  # noqa: S311
        self._wake.set()

    def wake(self) -> None:
        """Look again at whom to dial: what held a peer back may be gone."""
        self._wake.set()

    def seek(self, peers: dict[PeerId, list[str]]) -> None:
        """These are to be dialled, however many are connected; replaces the earlier ones."""
        self._sought = frozenset(peers)
        for peer, addresses in peers.items():
            self._learn(peer, addresses)
        self._wake.set()

    def learn(self, peer: PeerId, addresses: list[str]) -> None:
        """Addresses of ``peer`` that somebody told."""
        if self._learn(peer, addresses):
            self._wake.set()

    def _learn(self, peer: PeerId, addresses: list[str], bootstrap: bool = False) -> bool:
        if peer == self._me or not addresses:
            return False
        known = self._known.get(peer)
        if known is None:
            known = self._known[peer] = _Known(peer, bootstrap)
            self._forget()
        known.bootstrap |= bootstrap
        new = [known.add(address, proven=False) for address in addresses[:_MAX_ADDRESSES]]
        if any(new):
            # It may have moved: worth a try before its pause is over. Two that hear of each other
            # at the same time should not both dial.
            known.failures = min(known.failures, 3)
            pause = 0.0 if bootstrap or self._me < peer else self._config.retry_first_s
            soon = trio.current_time() + pause
            known.not_before = min(known.not_before, soon) if known.not_before else soon
        return any(new)

    def _forget(self) -> None:
        if len(self._known) <= self._config.known_peers:
            return
        spare = [one for one in self._known.values() if not one.bootstrap]
        spare.sort(key=lambda one: (one.proven, -one.failures))
        for one in spare[: len(self._known) - self._config.known_peers]:
            del self._known[one.peer]

    async def connected(self, peer: PeerId, address: str | None) -> None:
        """A connection stands; ``address`` if we dialled it, which proves it."""
        if address is None:
            return
        self._learn(peer, [address])
        known = self._known.get(peer)
        if known is not None:
            known.add(address, proven=True)
        if self._saved.get(peer) == address:
            return
        self._saved[peer] = address
        while len(self._saved) > self._config.known_peers:
            del self._saved[next(iter(self._saved))]
        await self._write(peer, address)

    async def told(self, peer: PeerId, addresses: list[str]) -> None:
        """One of ours, which dialled us, says where it listens."""
        self.learn(peer, addresses)
        if addresses and peer not in self._booked:
            await self._write(peer, addresses[0], _TOLD_IS_OLDER_MS)

    async def _write(self, peer: PeerId, address: str, older_ms: int = 0) -> None:
        if len(self._booked) >= self._config.known_peers:
            self._booked.clear()
        self._booked.add(peer)
        full = with_peer(address, peer)
        try:
            now = self._clock.wall_ms() - older_ms
            await trio.to_thread.run_sync(self._book.save_address, peer, full, now)
        except Exception as error:
            logger.warning("an address could not be saved: %s", describe(error))

    async def save_again(self) -> None:
        """Keep the addresses of long connections fresh in the book, for ever."""
        while True:
            await trio.sleep(_SAVE_AGAIN_S)
            for peer, address in list(self._saved.items()):
                if self._sessions.has(peer):
                    await self._write(peer, address)

    def opened(self, peer: PeerId) -> None:
        """``peer`` is one of ours."""
        known = self._known.get(peer)
        if known is not None:
            known.failures = 0
            known.proven = True

    def ended(self, peer: PeerId, was_ours: bool) -> None:
        """The session with ``peer`` is over: back to the queue."""
        known = self._known.get(peer)
        if known is None:
            return
        if was_ours:
            self._saved.pop(peer, None)
            # Both sides notice at once; jitter keeps them from dialling each other at once.
            known.not_before = trio.current_time() + random.uniform(0.1, 0.8)  # noqa: S311
        else:
            known.failures = max(known.failures, 4)
            self._failed(known)
        self._wake.set()

    def _failed(self, known: _Known) -> None:
        known.failures += 1
        eager = known.bootstrap or (known.proven and self.lonely)
        limit = min(self._config.retry_max_s, _EAGER_RETRY_MAX_S if eager else math.inf)
        pause = min(self._config.retry_first_s * 2.0 ** min(known.failures - 1, 20), limit)
        known.not_before = trio.current_time() + pause * random.uniform(0.5, 1.0)  # noqa: S311
        if known.failures > _FORGET_AFTER and not known.bootstrap and not known.proven:
            self._known.pop(known.peer, None)

    async def run(self) -> None:
        """Dial for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                next_at = trio.current_time() + _TICK_S
                most = max(self._config.max_dials, _LONELY_DIALS if self.lonely else 0)
                self._admission.dial_at_once(most)
                for known in self._wanted():
                    if known.not_before > trio.current_time():
                        next_at = min(next_at, known.not_before)
                    elif len(self._dialling) < most:
                        self._dialling.add(known.peer)
                        nursery.start_soon(self._dial, known)
                with trio.move_on_at(max(next_at, trio.current_time() + 0.05)):
                    await self._wake.wait()

    def _wanted(self) -> list[_Known]:
        """The peers that should be dialled now or later, the most promising first."""
        missing = self._config.target_peers - len(self._sessions) - len(self._dialling)
        if missing <= 0 and not self._sought:
            return []
        idle = [
            known
            for known in self._known.values()
            if (missing > 0 or known.peer in self._sought)
            and known.peer not in self._dialling
            and self._idle(known.peer)
        ]
        idle.sort(key=lambda known: (known.peer not in self._sought, known.promise))
        return idle

    def _idle(self, peer: PeerId) -> bool:
        identity = library_id(peer)
        return (
            identity not in self._swarm.connections
            and not self._admission.dialling(identity)
            and self._admission.refusal(identity) is None
        )

    async def _dial(self, known: _Known) -> None:
        """Dial one peer and see it through.

        The place in the queue is kept until the peer proved to be one of ours, and then as long
        again: on an overloaded machine, where everything takes seconds, nodes that went on
        dialling at full speed would let one another's handshakes time out for ever.
        """
        began = trio.current_time()
        try:
            if await self._reach(known):
                await self._sessions.settled(known.peer)
            elif self.lonely:
                return
            await trio.sleep((trio.current_time() - began) * random.uniform(0.5, 1.5))  # noqa: S311
        finally:
            self._dialling.discard(known.peer)
            self._wake.set()

    async def _reach(self, known: _Known) -> bool:
        """Dial the addresses of a peer one by one; whether one led to a connection."""
        identity = library_id(known.peer)
        for address in _likely_first(list(known.addresses)):
            if not self._idle(known.peer):
                return False
            try:
                await self._admission.dial_address(identity, Multiaddr(address))
                return True
            except Exception as error:
                logger.debug(
                    "dialling %s at %s: %s",
                    short_peer(known.peer),
                    address,
                    describe(error.__cause__ or error),
                )
        if identity not in self._swarm.connections:
            self._failed(known)
        return False


def _likely_first(addresses: list[str]) -> list[str]:
    """Addresses in the order in which to try them: private ones of somebody else's LAN come last,
    and those that lead through a relay after the others."""
    here = own_interfaces()

    def rank(address: str) -> int:
        if is_relayed(address):
            return 1
        if on_loopback(address):
            return 3
        try:
            foreign = ipaddress.ip_address(address.split("/")[2]).is_private
        except ValueError:  # a name
            return 0
        return 2 if foreign and not on_own_lan(address.split("/")[2], here) else 0

    return sorted(addresses, key=rank)
