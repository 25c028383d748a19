"""Links between machines: delay, loss, reordering, duplication, partitions, and gossip over them.

A link carries messages in order, as a stream does. ``reorder`` is the share of messages that are
exempt from it, and ``loss`` the share that vanishes; both stand for what a broken and renewed
connection does. When a link breaks, whatever is under way on it is lost. The first messages of a
connection, the hellos, are lost with it only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from p2pfleet.core import events as ev
from p2pfleet.core.effects import Want
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.scenario import NetworkQuality

QUEUE_MAX = 1024
GOSSIP_SWALLOWS_MS = 120_000
CONNECT_MS = (5, 400)
CONNECTIONS_MAX = 50
GOSSIP_DEGREE = 8
LOOKUP_MS = (1_000, 3_000)
LOOKUP_AGAIN_MS = 20_000


class Station(Protocol):
    """What the network needs to know of a machine."""

    number: int
    peer: PeerId

    @property
    def on(self) -> bool:
        """Whether it runs."""
        ...

    def hear(self, event: ev.Event) -> None:
        """Take in what came over the network."""
        ...

    def announced(self, source: PeerId, sealed: Sealed) -> bool:
        """Take in a gossiped body; whether it is to be handed on."""
        ...


class Link:
    """One direction of a connection. ``known`` is the connection that its source was told of."""

    __slots__ = ("base", "epoch", "known", "last", "pending", "source", "target", "up")

    def __init__(self, source: Station, target: Station, base: int) -> None:
        self.source, self.target, self.base = source, target, base
        self.up = False
        self.epoch = 0
        self.last = 0
        self.pending = 0
        self.known: int | None = None


class Network:
    """All links. ``delivered`` and ``lost`` count messages."""

    def __init__(self, kernel: Kernel, quality: NetworkQuality) -> None:
        self.kernel, self.quality = kernel, quality
        self.stations: list[Station] = []
        self.by_peer: dict[PeerId, Station] = {}
        self.links: dict[tuple[int, int], Link] = {}
        self.neighbours: dict[int, list[int]] = {}
        self.islands: dict[int, frozenset[int]] = {}
        self.delivered = 0
        self.lost = 0
        self.providers: dict[bytes, dict[int, bool]] = {}
        self.wants: dict[int, tuple[Want, ...]] = {}
        self.most_connections = 0
        self.lookups = 0
        self._asking: dict[int, int] = {}
        self._seen: list[dict[bytes, int]] = []
        self._jitter = quality.jitter_ms

    def build(self, stations: list[Station]) -> None:
        """Draw who is connected with whom: everybody, or a ring and random chords."""
        self.stations = stations
        self.by_peer = {station.peer: station for station in stations}
        self._seen = [{} for _ in stations]
        count = len(stations)
        pairs = {(a, b): True for a in range(count) for b in range(a + 1, count)}
        degree = self.quality.degree
        if degree and degree < count - 1:
            pairs = {
                (min(a, b), max(a, b)): True for a in range(count) if (b := (a + 1) % count) != a
            }
            chances = 100 * count * degree
            while len(pairs) * 2 < count * degree and chances:
                chances -= 1
                a, b = self.kernel.random.randrange(count), self.kernel.random.randrange(count)
                if a != b:
                    pairs[min(a, b), max(a, b)] = True
        self.neighbours = {number: [] for number in range(count)}
        for a, b in sorted(pairs):
            base = self.kernel.draw(self.quality.latency_ms)
            self.links[a, b] = Link(stations[a], stations[b], base)
            self.links[b, a] = Link(stations[b], stations[a], base)
            self.neighbours[a].append(b)
            self.neighbours[b].append(a)

    # ---- connections -------------------------------------------------------------------------

    def _whole(self, a: int, b: int) -> bool:
        """Whether two machines can reach each other now."""
        if not (self.stations[a].on and self.stations[b].on):
            return False
        return all((a in island) == (b in island) for island in self.islands.values())

    def rewire(self, number: int | None = None) -> None:
        """Connections come and go with machines (``number``) and partitions (all of them)."""
        for a in sorted(self.neighbours) if number is None else (number,):
            for b in self.neighbours[a]:
                if number is None and b < a:
                    continue
                if not self._whole(a, b):
                    self._down(a, b)
                elif not self.links[a, b].up:
                    self.kernel.later(self.kernel.draw(CONNECT_MS), self._connect, a, b)

    def _connect(self, a: int, b: int) -> None:
        if self.links[a, b].up or not self._whole(a, b):
            return
        pair = (self.links[a, b], self.links[b, a])
        for link in pair:
            link.up = True
            link.epoch += 1
            link.pending = 0
            link.last = self.kernel.now
        for link in pair:
            self._notice(link)

    def _down(self, a: int, b: int) -> None:
        for link in (self.links[a, b], self.links[b, a]):
            if link.up:
                link.up = False
                link.epoch += 1
                self.kernel.later(self.kernel.draw(self.quality.notice_ms), self._notice, link)

    def _notice(self, link: Link) -> None:
        """Let the source of a link know what became of its connection."""
        if not link.source.on:
            return
        now = link.epoch if link.up else None
        if link.known == now:
            return
        if link.known is not None:
            link.source.hear(ev.PeerDisconnected(link.target.peer))
        link.known = now
        if now is not None and link.source.on:
            link.source.hear(ev.PeerConnected(link.target.peer))

    def forget(self, number: int) -> None:
        """A machine went off: it will know of no connection when it is on again."""
        self.attend(number, ())
        for other in self.neighbours[number]:
            self.links[number, other].known = None
        self._seen[number].clear()

    def connected(self, number: int, peer: PeerId) -> bool:
        """Whether the machine has a connection to ``peer``."""
        other = self.by_peer.get(peer)
        link = None if other is None else self.links.get((number, other.number))
        return link is not None and link.up

    # ---- who looks for whom ------------------------------------------------------------------

    def attend(self, number: int, wants: Sequence[Want]) -> None:
        """A machine wants to be connected with those who provide some keys, and provides some."""
        for want in self.wants.pop(number, ()):
            self.providers.get(want.key, {}).pop(number, None)
        self._asking[number] = self._asking.get(number, 0) + 1
        if not wants:
            return
        self.wants[number] = tuple(wants)
        for want in wants:
            if want.provide:
                self.providers.setdefault(want.key, {})[number] = True
        self.kernel.later(self.kernel.draw(LOOKUP_MS), self._look_up, number, self._asking[number])

    def _look_up(self, number: int, asking: int) -> None:
        if self._asking.get(number) != asking:
            return
        chance = self.kernel.random
        for want in self.wants.get(number, ()):
            for peer in want.whom:
                if peer in self.by_peer and not self.connected(number, peer):
                    self.lookups += 1
                    self._meet(number, self.by_peer[peer].number)
            found = [one for one in self.providers.get(want.key, {}) if one != number]
            near = [o for o in found if (number, o) in self.links and self.links[number, o].up]
            lacking = min(want.peers, len(found)) - len(near)
            if lacking <= 0:
                continue
            self.lookups += 1
            known = dict.fromkeys(near)
            far = [one for one in found if one not in known]
            for other in chance.sample(far, min(lacking, len(far))):
                self._meet(number, other)
        self.kernel.later(LOOKUP_AGAIN_MS, self._look_up, number, asking)

    def _meet(self, a: int, b: int) -> None:
        if not self._whole(a, b):
            return
        if b not in self.neighbours[a]:
            full = [one for one in (a, b) if len(self.neighbours[one]) >= CONNECTIONS_MAX]
            spare = [self._spare(one) for one in full]
            if None in spare:
                return
            for one, other in zip(full, spare, strict=True):
                if other in self.neighbours[one]:
                    self._down(one, other)
                    self.neighbours[one].remove(other)
                    self.neighbours[other].remove(one)
        if (a, b) not in self.links:
            base = self.kernel.draw(self.quality.latency_ms)
            for one, other in ((a, b), (b, a)):
                self.links[one, other] = Link(self.stations[one], self.stations[other], base)
        if b not in self.neighbours[a]:
            self.neighbours[a].append(b)
            self.neighbours[b].append(a)
            count = max(len(self.neighbours[a]), len(self.neighbours[b]))
            self.most_connections = max(self.most_connections, count)
        if not self.links[a, b].up:
            self.kernel.later(self.kernel.draw(CONNECT_MS), self._connect, a, b)

    def _spare(self, number: int) -> int | None:
        """A neighbour that is wanted for nothing, if there is one."""
        wants = self.wants.get(number, ())
        for other in self.neighbours[number]:
            peer = self.stations[other].peer
            if not any(
                peer in want.here
                or peer in want.whom
                or (len(want.here) < want.peers and other in self.providers.get(want.key, ()))
                for want in wants
            ):
                return other
        return None

    # ---- messages ----------------------------------------------------------------------------

    def send(self, number: int, peer: PeerId, event: ev.Event, first: bool = False) -> None:
        """Put a message on its way: ``event`` is what the receiver will hear."""
        other = self.by_peer.get(peer)
        link = None if other is None else self.links.get((number, other.number))
        if link is None or not link.up or link.pending >= QUEUE_MAX:
            self.lost += 1
            return
        kernel, quality = self.kernel, self.quality
        chance = kernel.random.random
        if not first and quality.loss and chance() < quality.loss:
            self.lost += 1
            return
        twice = quality.duplicate and kernel.chance(quality.duplicate)
        for _ in (1, 2) if twice else (1,):
            arrival = kernel.now + link.base + int(chance() * self._jitter)
            if first or not quality.reorder or not kernel.chance(quality.reorder):
                link.last = arrival = max(arrival, link.last)
            link.pending += 1
            kernel.at(arrival, self._arrive, link, link.epoch, event)

    def _arrive(self, link: Link, epoch: int, event: ev.Event) -> None:
        if link.epoch != epoch:
            self.lost += 1
            return
        link.pending -= 1
        self.delivered += 1
        link.target.hear(event)

    # ---- gossip ------------------------------------------------------------------------------

    def gossip(self, number: int, sealed: Sealed) -> None:
        """Flood a sealed body from a machine on; each hands on what it sees for the first time."""
        if self._first_sight(number, sealed):
            self._flood(number, sealed, None)

    def _first_sight(self, number: int, sealed: Sealed) -> bool:
        seen, now = self._seen[number], self.kernel.now
        name = sealed.hash
        if name in seen and now - seen[name] < GOSSIP_SWALLOWS_MS:
            return False
        seen[name] = now
        return True

    def _flood(self, number: int, sealed: Sealed, source: int | None) -> None:
        neighbours = self.neighbours[number]
        if self.quality.degree:
            neighbours = neighbours[:GOSSIP_DEGREE]
        for other in neighbours:
            link = self.links[number, other]
            if other == source or not link.up:
                continue
            if self.kernel.chance(self.quality.gossip_loss):
                self.lost += 1
                continue
            delay = link.base + int(self.kernel.random.random() * self._jitter)
            self.kernel.later(delay, self._gossiped, link, link.epoch, sealed)

    def _gossiped(self, link: Link, epoch: int, sealed: Sealed) -> None:
        if link.epoch != epoch or not self._first_sight(link.target.number, sealed):
            return
        self.delivered += 1
        if link.target.announced(link.source.peer, sealed):
            self._flood(link.target.number, sealed, link.source.number)
