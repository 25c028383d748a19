"""What an internet orders from its guard, and what it answers: one JSON document a datagram."""

from __future__ import annotations

import msgspec

from p2pfleet.cli.internet.weather import Weather

MAX_BYTES = 128 * 1024


class AddHost(msgspec.Struct, frozen=True, tag=True):
    """A host with one device; ``gateway`` (an address, or empty) leads out of its segment."""

    address: str
    prefix: int
    segment: int
    lan: str
    gateway: str
    weather: Weather


class AddRouter(msgspec.Struct, frozen=True, tag=True):
    """A host between the public segment and ``segment``."""

    outside: str
    outside_prefix: int
    inside: str
    inside_prefix: int
    segment: int
    nat: str
    weather: Weather


class ForwardPort(msgspec.Struct, frozen=True, tag=True):
    """Let everybody reach a port of a host behind a router."""

    namespace: int
    protocol: str
    port: int
    address: str


class ChangeWeather(msgspec.Struct, frozen=True, tag=True):
    port: int
    weather: Weather


class Renumber(msgspec.Struct, frozen=True, tag=True):
    port: int
    address: str


class Cut(msgspec.Struct, frozen=True, tag=True):
    """Nothing passes between ports of different sides."""

    sides: tuple[tuple[int, ...], ...]


class Heal(msgspec.Struct, frozen=True, tag=True):
    pass


class Count(msgspec.Struct, frozen=True, tag=True):
    """What has passed the device at a port."""

    port: int


Order = AddHost | AddRouter | ForwardPort | ChangeWeather | Renumber | Cut | Heal | Count


class Letter(msgspec.Struct, frozen=True):
    """An order with its number, so that an answer that nobody waited for is known as such."""

    number: int
    order: Order


class Built(msgspec.Struct, frozen=True, tag=True):
    """A namespace (a descriptor of the guard's), and the ports that it has got."""

    namespace: int
    ports: tuple[int, ...]


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class Counted(msgspec.Struct, frozen=True, tag=True):
    sent_bytes: int
    received_bytes: int
    lost: int
    overflowed: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The kernel did not want to."""

    number: int
    text: str


Answer = Built | Done | Counted | Failed


class Reply(msgspec.Struct, frozen=True):
    """The answer to the order of this number."""

    number: int
    answer: Answer
