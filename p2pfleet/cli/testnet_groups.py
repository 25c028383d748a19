"""What a scenario for real processes says of groups of nodes, their links, and of events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pfleet.cli.internet.weather import Bandwidth, Delay, Loss, Weather

PUBLISHER = "publisher"
DAY_S = 86_400.0
GROUPS_MAX = 64
EVENTS_MAX = 1_000

Network = Literal["loopback", "namespaces"]
Nat = Literal["none", "cone", "symmetric"]
Deed = Literal[
    "cut",
    "heal",
    "weather",
    "kill",
    "stop",
    "restart",
    "freeze",
    "thaw",
    "expect-peers",
    "expect-certified",
]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
LanName = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9-]{0,31})?\Z")]
Moment = Annotated[float, Meta(ge=0, le=DAY_S)]
Span = Annotated[float, Meta(gt=0, le=DAY_S)]
# Without constraints: msgspec 0.22 crashes over a union of constrained types inside a tuple.
Side = str | tuple[str, ...]

# Whose opposite is done ``for_s`` later.
OPPOSITES: dict[str, Deed] = {
    "cut": "heal", "kill": "restart", "stop": "restart", "freeze": "thaw",
}  # fmt: skip
# What is done to the network, and not to processes.
OF_LINKS = ("cut", "heal", "weather")
# Whose groups are sides.
OF_SIDES = ("cut", "expect-certified")


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a host is connected: the weather of its link, what kind of NAT is in front of it, and
    with whom it shares a LAN (behind NAT: and the router)."""

    latency_ms: Delay = 0.0
    jitter_ms: Delay = 0.0
    loss: Loss = 0.0
    bandwidth_mbit: Bandwidth = 0.0
    nat: Nat = "none"
    lan: LanName = ""

    @property
    def weather(self) -> Weather:
        return Weather(self.latency_ms, self.jitter_ms, self.loss, self.bandwidth_mbit)

    @property
    def plain(self) -> bool:
        """Whether a loopback device will do."""
        return self.weather == Weather() and self.nat == "none" and not self.lan


class Group(Link, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``count`` nodes that are alike. Numbers of nodes go on from group to group."""

    name: Name
    count: Annotated[int, Meta(ge=1, le=200)] = 1


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What happens ``at_s`` after the job was published, to the nodes of ``groups`` and ``nodes``
    (numbers), or to ``pick`` of them, drawn by the scenario's seed.

    * ``cut``: each member of ``groups`` (a group, or a list of groups) is a side, and nothing
      passes between sides; a single side is cut off from everybody. ``heal`` undoes every cut.
    * ``weather``: the links of these hosts get the weather of the event.
    * ``kill`` (SIGKILL), ``stop`` (SIGTERM), ``restart`` (whether it runs or not), ``freeze`` and
      ``thaw`` (SIGSTOP and SIGCONT): these processes.
    * ``expect-peers``: within ``within_s`` each of these has at least ``peers`` peers.
    * ``expect-certified``: each member of ``groups`` is a side, as of a cut, and at this moment all
      have certified at least ``units`` of the same units, each by votes of its own members, of them
      ``rivals`` with different answers. It names no publisher. In the end all of them are settled.

    ``for_s`` later the opposite is done. With ``every_s`` it happens again and again, so many
    seconds (drawn between the two) after the last time, until ``until_s`` or the job's end.
    """

    at_s: Moment
    do: Deed
    groups: tuple[Side, ...] = ()
    nodes: Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=200)] = ()
    pick: Annotated[int, Meta(ge=0, le=200)] = 0
    for_s: Span | None = None
    every_s: tuple[Span, Span] | None = None
    until_s: Span | None = None
    latency_ms: Delay = 0.0
    jitter_ms: Delay = 0.0
    loss: Loss = 0.0
    bandwidth_mbit: Bandwidth = 0.0
    peers: Annotated[int, Meta(ge=1, le=200)] = 1
    within_s: Span = 30.0
    units: Annotated[int, Meta(ge=1, le=100_000)] = 1
    rivals: Annotated[int, Meta(ge=0, le=100_000)] = 0

    @property
    def weather(self) -> Weather:
        return Weather(self.latency_ms, self.jitter_ms, self.loss, self.bandwidth_mbit)

    @property
    def sides(self) -> tuple[tuple[str, ...], ...]:
        """The names of ``groups``, side by side."""
        return tuple((side,) if isinstance(side, str) else side for side in self.groups)

    @property
    def named(self) -> tuple[str, ...]:
        """Every group that it names."""
        return tuple(name for side in self.sides for name in side)


def members(groups: Iterable[Group]) -> dict[str, range]:
    """The numbers of the nodes of each group."""
    found = {}
    begin = 0
    for group in groups:
        found[group.name] = range(begin, begin + group.count)
        begin += group.count
    return found


def contradictions(
    network: Network, groups: Sequence[Group], publisher: Link, events: Sequence[Event]
) -> list[str]:
    """What is wrong with groups and events although each of their values is right."""
    mistakes = []
    places = [(f"groups.{group.name}", group) for group in groups] + [(PUBLISHER, publisher)]
    names = [group.name for group in groups]
    for name in sorted(set(names)):
        if names.count(name) > 1:
            mistakes.append(f"groups.{name}: there are {names.count(name)} groups of this name")
    if PUBLISHER in names:
        mistakes.append(f"groups.{PUBLISHER}: this name is the publisher's")
    kinds: dict[str, str] = {}
    for where, link in places:
        if network == "loopback" and not link.plain:
            mistakes.append(f'{where}: weather, nat and lan want network = "namespaces"')
        if link.lan and kinds.setdefault(link.lan, link.nat) != link.nat:
            mistakes.append(f"{where}.lan: {link.lan} is behind {kinds[link.lan]} elsewhere")
    if groups and groups[0].nat != "none":
        mistakes.append(f"groups.{groups[0].name}.nat: node 0 is the bootstrap node, all dial it")
    count = sum(group.count for group in groups)
    for number, event in enumerate(events):
        mistakes += [f"events.{number}{text}" for text in _misfits(event, network, {*names}, count)]
    return mistakes


def _misfits(event: Event, network: Network, names: set[str], count: int) -> list[str]:
    """What is wrong with one event."""
    mistakes = []
    for name in sorted({*event.named} - names - {PUBLISHER}):
        mistakes.append(f".groups: there is no group {name[:32]!r}")
    if not all(event.sides):
        mistakes.append(".groups: a side is empty")
    for node in event.nodes:
        if node >= count:
            mistakes.append(f".nodes: there is no node {node}, as the last one is {count - 1}")
    if network == "loopback" and event.do in OF_LINKS:
        mistakes.append(f'.do: {event.do} wants network = "namespaces"')
    if event.do == "heal" and (event.groups or event.nodes):
        mistakes.append(".do: heal undoes every cut, so it names nobody")
    if event.do in OF_SIDES and event.nodes:
        mistakes.append(f".nodes: sides of {event.do} are groups")
    if event.do != "heal" and not event.groups and not event.nodes:
        mistakes.append(".groups: nobody is named")
    if event.do not in OF_SIDES and len(event.sides) != len(event.named):
        mistakes.append(f".groups: {event.do} has no sides")
    if event.do == "expect-certified" and (len(event.sides) < 2 or PUBLISHER in event.named):
        mistakes.append(".groups: two sides of volunteers are wanted, or more")
    if event.pick and event.do in (*OF_SIDES, "heal"):
        mistakes.append(f".pick: says nothing for {event.do}")
    if event.for_s is not None and event.do not in OPPOSITES:
        mistakes.append(f".for_s: {event.do} has no opposite")
    if event.every_s is not None and event.every_s[0] > event.every_s[1]:
        mistakes.append(".every_s: the first must not be larger than the second")
    if event.until_s is not None and event.every_s is None:
        mistakes.append(".until_s: says nothing without every_s")
    if event.do != "weather" and event.weather != Weather():
        mistakes.append(f".do: {event.do} changes no weather")
    return mistakes
