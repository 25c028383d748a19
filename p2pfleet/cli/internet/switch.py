"""The switch that all hosts hang on: routes packets, through the weather of two links.

Pure: packets and the time go in, packets come out of a function; devices are somebody else's. It
routes IPv4 by exact address within a *segment*: segment 0 is the public one, every other belongs to
a router's private side, and what nobody in it has as an address goes to the router. Multicast and
broadcast reach the other ports of the same *lan*, and nobody else.
"""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Callable, Collection, Iterable

from p2pfleet.cli.internet.line import Line
from p2pfleet.cli.internet.weather import CLEAR, Weather

PUBLIC = 0
FLYING_MAX_BYTES = 256 * 2**20

_HEADER_BYTES = 20
_IPV4 = 4
_DONT_FRAGMENT = 0x40
_ICMP_QUOTE_BYTES = 28
_MULTICAST = range(224, 240)
_BROADCAST = bytes([255, 255, 255, 255])

Deliver = Callable[[int, bytes], None]


class Port:
    """One host's plug: ``up`` is the line away from the host, ``down`` the one to it."""

    def __init__(
        self, number: int, address: bytes, segment: int, lan: str, weather: Weather, seed: str
    ) -> None:
        self.number = number
        self.address = address
        self.segment = segment
        self.lan = lan
        self.mtu = weather.mtu
        self.up = Line(weather, random.Random(f"{seed} up {number}"))  # noqa: S311
        self.down = Line(weather, random.Random(f"{seed} down {number}"))  # noqa: S311


class Switch:
    """All ports, and what is under way between them. The same seed gives the same luck."""

    def __init__(self, seed: int, deliver: Deliver) -> None:
        self._seed = f"internet {seed}"
        self._deliver = deliver
        self._ports: dict[int, Port] = {}
        self._addresses: dict[tuple[int, bytes], Port] = {}
        self._gateways: dict[int, Port] = {}
        self._lans: dict[str, list[Port]] = {}
        self._cuts: set[tuple[int, int]] = set()
        self._flying: list[tuple[float, int, bool, bytes, Port, Port]] = []
        self._flying_bytes = 0
        self._count = 0
        self.dropped = 0

    # ---- who is there --------------------------------------------------------------------

    def add(
        self,
        number: int,
        address: bytes,
        segment: int = PUBLIC,
        *,
        lan: str = "",
        gateway: bool = False,
        weather: Weather = CLEAR,
    ) -> None:
        """A port with an IPv4 address of 4 bytes. ``gateway``: what nobody in the segment has as
        an address goes there."""
        assert number not in self._ports
        assert (segment, address) not in self._addresses
        port = Port(number, address, segment, lan, weather, self._seed)
        self._ports[number] = port
        self._addresses[segment, address] = port
        if gateway:
            self._gateways[segment] = port
        if lan:
            self._lans.setdefault(lan, []).append(port)

    def renumber(self, number: int, address: bytes) -> None:
        """Give a port another address; what is sent to the old one is lost."""
        port = self._ports[number]
        assert (port.segment, address) not in self._addresses
        del self._addresses[port.segment, port.address]
        port.address = address
        self._addresses[port.segment, address] = port

    def change(self, number: int, weather: Weather) -> None:
        """From now on, this weather on the port's link."""
        port = self._ports[number]
        port.mtu = weather.mtu
        port.up.change(weather)
        port.down.change(weather)

    def cut(self, sides: Iterable[Collection[int]]) -> None:
        """Nothing passes from a port of one side to a port of another until :meth:`heal`."""
        gathered = [tuple(side) for side in sides]
        for one in gathered:
            for other in gathered:
                if one is not other:
                    self._cuts.update((a, b) for a in one for b in other)

    def heal(self) -> None:
        """Undo every cut."""
        self._cuts.clear()

    def lost(self, number: int) -> tuple[int, int]:
        """How many packets vanished on the port's link, and how many did not fit through."""
        port = self._ports[number]
        return port.up.lost + port.down.lost, port.up.overflowed + port.down.overflowed

    # ---- packets -------------------------------------------------------------------------

    def receive(self, number: int, packet: bytes, now: float) -> None:
        """A host sent ``packet`` (IPv4; anything else is dropped)."""
        if len(packet) < _HEADER_BYTES or packet[0] >> 4 != _IPV4:
            return
        source = self._ports[number]
        to = packet[16:20]
        if to[0] in _MULTICAST or to == _BROADCAST:
            for target in self._lans.get(source.lan, ()):
                if target is not source:
                    self._send(source, target, packet, now)
            return
        segment = source.segment
        found = self._addresses.get((segment, to)) or self._gateways.get(segment)
        # As providers do: on the public segment nobody sends under another's address.
        spoofed = segment == PUBLIC and packet[12:16] != source.address
        if found is None or found is source or spoofed:
            self.dropped += 1
            return
        if len(packet) > found.mtu and packet[6] & _DONT_FRAGMENT:
            self._deliver(source.number, too_big(packet, found.mtu))
            return
        self._send(source, found, packet, now)

    def _send(self, source: Port, target: Port, packet: bytes, now: float) -> None:
        if self._cuts and (source.number, target.number) in self._cuts:
            self.dropped += 1
        elif source.up.free:
            self._arrive(source, target, packet, now)
        else:
            self._fly(source.up, False, source, target, packet, now)

    def _arrive(self, source: Port, target: Port, packet: bytes, now: float) -> None:
        """Out of the source's line, into the target's."""
        if target.down.free:
            self._deliver(target.number, packet)
        else:
            self._fly(target.down, True, source, target, packet, now)

    def _fly(
        self, line: Line, last: bool, source: Port, target: Port, packet: bytes, now: float
    ) -> None:
        size = len(packet)
        if self._flying_bytes + size > FLYING_MAX_BYTES:
            self.dropped += 1
            return
        at = line.admit(size, now)
        if at is None:
            return
        self._flying_bytes += size
        self._count += 1
        heapq.heappush(self._flying, (at, self._count, last, packet, source, target))

    @property
    def next_at(self) -> float | None:
        """When the next packet comes out of a line."""
        return self._flying[0][0] if self._flying else None

    def advance(self, now: float) -> None:
        """Let everything come out that is due."""
        flying = self._flying
        while flying and flying[0][0] <= now:
            at, _, last, packet, source, target = heapq.heappop(flying)
            size = len(packet)
            self._flying_bytes -= size
            if last:
                target.down.landed(size)
                self._deliver(target.number, packet)
            else:
                source.up.landed(size)
                self._arrive(source, target, packet, at)


def too_big(packet: bytes, mtu: int) -> bytes:
    """What a router answers to a packet that is too large for the next link (RFC 792, RFC 1191)."""
    quote = packet[: max(_ICMP_QUOTE_BYTES, (packet[0] & 0x0F) * 4 + 8)]
    icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote
    icmp = icmp[:2] + _checksum(icmp) + icmp[4:]
    size = _HEADER_BYTES + len(icmp)
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 1, 0, packet[16:20], packet[12:16]
    )
    return header[:10] + _checksum(header) + header[12:] + icmp


def _checksum(data: bytes) -> bytes:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
