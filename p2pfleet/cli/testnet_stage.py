"""What a scenario lets happen while its job runs, and what it expects in between."""

from __future__ import annotations

import heapq
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass

from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import LocalNetwork
from p2pfleet.cli.testnet_apart import Apart, StoredBooks
from p2pfleet.cli.testnet_condition import Condition
from p2pfleet.cli.testnet_groups import OF_LINKS, OPPOSITES, PUBLISHER, Deed, Event, members
from p2pfleet.cli.testnet_hosts import ScenarioHosts
from p2pfleet.cli.testnet_scenario import NetworkScenario
from p2pfleet.core.model.ids import JobId, parse_peer

_SIGNALS = {
    "kill": signal.SIGKILL, "stop": signal.SIGTERM, "freeze": signal.SIGSTOP,
    "thaw": signal.SIGCONT,
}  # fmt: skip


@dataclass(frozen=True)
class _Act:
    """``do`` the event to these nodes; ``again``: it is the event itself, not its opposite."""

    event: Event
    do: Deed
    numbers: tuple[int, ...]
    again: bool


@dataclass(frozen=True)
class _Hope:
    """By ``until_s``, these nodes have so many peers."""

    at_s: float
    until_s: float
    numbers: tuple[int, ...]
    peers: int


class Stage:
    """The events of ``plan``, each in its time. ``publisher`` is the number of its node.

    Time is passed in: seconds since the job was published. What is drawn is drawn from the
    scenario's seed.
    """

    def __init__(
        self,
        plan: NetworkScenario,
        network: LocalNetwork,
        publisher: int,
        hosts: ScenarioHosts | None,
        interruptions: Interruptions,
        note: Callable[[str], None],
    ) -> None:
        self._network = network
        self._hosts = hosts
        self._interruptions = interruptions
        self._note = note
        self._luck = random.Random(f"stage {plan.seed}")  # noqa: S311
        self._groups = {name: tuple(numbers) for name, numbers in members(plan.groups).items()}
        self._groups[PUBLISHER] = (publisher,)
        self._due: list[tuple[float, int, _Act]] = []
        self._count = 0
        self._hopes: list[_Hope] = []
        self._first = len(plan.events)
        self._happened = 0
        self._job: JobId | None = None
        self.apart: list[Apart] = []
        self.conditions: list[Condition] = []
        for event in plan.events:
            self._add(event.at_s, event)

    @property
    def waits(self) -> bool:
        """Whether something that is to happen once, or to be seen, has still to come.

        What happens again and again ends with the job, and so does its opposite.
        """
        return bool(self._hopes) or any(act.event.every_s is None for _, _, act in self._due)

    def begin(self, job: JobId) -> None:
        """The job was published; time begins."""
        self._job = job

    def advance(self, now_s: float) -> None:
        """Let everything happen that is due."""
        while self._due and self._due[0][0] <= now_s:
            at_s, _, act = heapq.heappop(self._due)
            self._happen(at_s, act, now_s)
        for hope in list(self._hopes):
            self._look(hope, now_s)
        for apart in self.apart:
            apart.look(now_s)

    def close(self) -> list[Condition]:
        """What was expected in between, once the job is over or its time is up."""
        for hope in self._hopes:
            self._judge(hope, None)
        self._hopes.clear()
        if self._first:
            self.conditions.append(
                Condition(
                    "every event happened before the end",
                    self._happened == self._first,
                    f"{self._happened} of {self._first}",
                )
            )
        return self.conditions

    # ---- events --------------------------------------------------------------------------

    def _add(self, at_s: float, event: Event) -> None:
        self._push(at_s, _Act(event, event.do, (), again=True))

    def _push(self, at_s: float, act: _Act) -> None:
        self._count += 1
        heapq.heappush(self._due, (at_s, self._count, act))

    def _happen(self, at_s: float, act: _Act, now_s: float) -> None:
        event = act.event
        numbers = act.numbers
        if act.again:
            numbers = self._picked(event)
            self._happened += at_s == event.at_s
            if event.for_s is not None:
                opposite = _Act(event, OPPOSITES[event.do], numbers, again=False)
                self._push(at_s + event.for_s, opposite)
            if event.every_s is not None:
                next_s = at_s + self._luck.uniform(*event.every_s)
                if event.until_s is None or next_s <= event.until_s:
                    self._add(next_s, event)
        self._do(act.do, event, numbers, now_s)

    def _picked(self, event: Event) -> tuple[int, ...]:
        """Whom it strikes this time."""
        named = {number for name in event.named for number in self._groups[name]}
        numbers = sorted(named | set(event.nodes))
        if event.pick and event.pick < len(numbers):
            numbers = sorted(self._luck.sample(numbers, event.pick))
        return tuple(numbers)

    def _do(self, do: Deed, event: Event, numbers: tuple[int, ...], now_s: float) -> None:
        who = ", ".join(self._called(number) for number in numbers)
        if do in OF_LINKS:
            self._change_links(do, event, numbers)
            who = " | ".join("+".join(side) for side in event.sides) if do != "heal" else ""
        elif do == "expect-peers":
            self._hopes.append(_Hope(now_s, now_s + event.within_s, numbers, event.peers))
            return
        elif do == "expect-certified":
            self.apart.append(self._ask_sides(event, now_s))
            who = " | ".join("+".join(side) for side in event.sides)
        else:
            for number in numbers:
                if do == "restart":
                    self._network.restart(number, self._interruptions)
                else:
                    self._network.signal(number, _SIGNALS[do])
        self._note(f"{now_s:.0f} s: {do} {who}".rstrip())

    def _change_links(self, do: Deed, event: Event, numbers: tuple[int, ...]) -> None:
        assert self._hosts is not None
        if do == "cut":
            self._hosts.internet.cut(*(self._hosts.of(side) for side in event.sides))
        elif do == "heal":
            self._hosts.internet.heal()
        else:
            everybody = (*self._hosts.nodes, self._hosts.publisher)
            for number in numbers:
                everybody[number].change(event.weather)

    def _ask_sides(self, event: Event, now_s: float) -> Apart:
        assert self._job is not None
        sides = {
            "+".join(side): [number for name in side for number in self._groups[name]]
            for side in event.sides
        }
        peers = {node.number: parse_peer(node.peer) for node in self._network.nodes if node.peer}
        books = StoredBooks(self._network.folder, self._job)
        return Apart(now_s, sides, event.units, event.rivals, peers, books)

    def _called(self, number: int) -> str:
        return PUBLISHER if (number,) == self._groups[PUBLISHER] else f"node {number}"

    # ---- expectations --------------------------------------------------------------------

    def _look(self, hope: _Hope, now_s: float) -> None:
        lonely = [number for number in hope.numbers if self._peers(number) < hope.peers]
        if not lonely or now_s >= hope.until_s:
            self._hopes.remove(hope)
            self._judge(hope, now_s if not lonely else None)

    def _judge(self, hope: _Hope, met_s: float | None) -> None:
        what = f"within {hope.until_s - hope.at_s:.0f} s from {hope.at_s:.0f} s on, "
        what += ", ".join(self._called(number) for number in hope.numbers)
        what += f" had {hope.peers} peers"
        seen = (
            f"after {met_s - hope.at_s:.1f} s"
            if met_s is not None
            else "they have " + ", ".join(str(self._peers(number)) for number in hope.numbers)
        )
        self.conditions.append(Condition(what, met_s is not None, seen))

    def _peers(self, number: int) -> int:
        status = self._network.ask(number, "status")
        return -1 if status is None else int(status["peers"])
