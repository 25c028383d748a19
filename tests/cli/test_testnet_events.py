"""Groups and events of scenarios for real processes: read strictly; each happens in its time."""

from __future__ import annotations

import signal
import tomllib
from pathlib import Path
from typing import Any, cast

import onnx
import pytest

from p2pfleet.cli.internet import Weather
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.local_network import LocalNetwork
from p2pfleet.cli.testnet_groups import members
from p2pfleet.cli.testnet_hosts import ScenarioHosts
from p2pfleet.cli.testnet_publication import enlarge_model
from p2pfleet.cli.testnet_scenario import NetworkScenario, parse_network_scenario
from p2pfleet.cli.testnet_stage import Stage
from p2pfleet.resources import resource_path
from p2pfleet.sim.scenario import ScenarioError

DIGITS = resource_path("testnet", "jobs", "digits")
BEGIN = """
network = "namespaces"
seed = 3
[job]
model = "digits.onnx"
inputs = ["digits.npz"]
quorum = 2
[publisher]
bandwidth_mbit = 10
[[groups]]
name = "left"
count = 2
latency_ms = 20
[[groups]]
name = "right"
count = 3
nat = "cone"
lan = "home"
"""


def plan(text: str = "", begin: str = BEGIN) -> NetworkScenario:
    return parse_network_scenario(tomllib.loads(begin + text), "plan", DIGITS)


def mistakes(text: str, begin: str = BEGIN) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as caught:
        plan(text, begin)
    return caught.value.mistakes


def event(text: str) -> str:
    return "[[events]]\n" + "\n".join(text.split("; ")) + "\n"


# ---- reading -------------------------------------------------------------------------------------


def test_groups_name_the_nodes_in_order_and_say_how_each_is_connected() -> None:
    found = plan(event('at_s = 1; do = "cut"; groups = [["left", "publisher"], "right"]'))
    assert (found.nodes, found.network, found.seed, found.staged) == (5, "namespaces", 3, True)
    assert members(found.groups) == {"left": range(2), "right": range(2, 5)}
    assert found.groups[0].weather == Weather(latency_ms=20)
    assert found.publisher.weather == Weather(bandwidth_mbit=10)
    assert found.events[0].sides == (("left", "publisher"), ("right",))


def test_without_groups_and_events_nothing_is_new() -> None:
    found = parse_network_scenario(
        {"nodes": 3, "job": {"model": "digits.onnx", "inputs": ["digits.npz"]}}, "old", DIGITS
    )
    assert (found.network, found.staged, len(found.groups)) == ("loopback", False, 1)


def test_every_mistake_in_groups_and_events_is_reported_with_its_key() -> None:
    found = mistakes(
        """
nodes = 3
[[groups]]
name = "Left"
latency_ms = -1
loss = 2
nat = "full"
colour = "red"
[[events]]
at_s = -1
do = "explode"
every_s = [1]
""",
        begin="""
network = "moon"
job = 3
publisher = { count = 2 }
expect = { sent_max = -1 }
""",
    )
    assert {mistake.split(": ")[0] for mistake in found} == {
        "network", "job", "publisher.count", "expect.sent_max", "groups.0.name",
        "groups.0.latency_ms", "groups.0.loss", "groups.0.nat", "groups.0.colour",
        "events.0.at_s", "events.0.do", "events.0.every_s", "nodes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('at_s = 1; do = "kill"; groups = ["middle"]', "0.groups: there is no group 'middle'"),
        ('at_s = 1; do = "kill"; nodes = [5]', "0.nodes: there is no node 5"),
        ('at_s = 1; do = "kill"', "0.groups: nobody is named"),
        ('at_s = 1; do = "kill"; groups = [["left", "right"]]', "kill has no sides"),
        ('at_s = 1; do = "cut"; groups = [["left"], []]', "a side is empty"),
        ('at_s = 1; do = "cut"; groups = ["left"]; nodes = [1]', "sides of cut are groups"),
        ('at_s = 1; do = "cut"; groups = ["left"]; pick = 1', "pick: says nothing for cut"),
        (
            'at_s = 1; do = "expect-certified"; groups = [["left", "right"]]',
            "two sides of volunteers are wanted",
        ),
        (
            'at_s = 1; do = "expect-certified"; groups = ["left", "publisher"]',
            "two sides of volunteers are wanted",
        ),
        ('at_s = 1; do = "heal"; groups = ["left"]', "heal undoes every cut"),
        ('at_s = 1; do = "heal"; for_s = 3', "for_s: heal has no opposite"),
        ('at_s = 1; do = "kill"; nodes = [1]; every_s = [3, 2]', "must not be larger"),
        ('at_s = 1; do = "kill"; nodes = [1]; until_s = 3', "nothing without every_s"),
        ('at_s = 1; do = "kill"; nodes = [1]; loss = 0.1', "kill changes no weather"),
    ],
)
def test_events_that_cannot_be_are_refused(text: str, said: str) -> None:
    (found,) = mistakes(event(text))
    assert found.startswith("events.0")
    assert said in found


def test_what_wants_hosts_is_refused_on_the_loopback_device() -> None:
    found = mistakes(
        "[expect]\nsent_max = 2\n" + event('at_s = 1; do = "cut"; groups = ["left"]'),
        begin=BEGIN.replace('"namespaces"', '"loopback"'),
    )
    assert len(found) == 5, found
    assert all("namespaces" in mistake for mistake in found)


def test_groups_that_contradict_each_other_are_refused() -> None:
    found = mistakes(
        '[[groups]]\nname = "left"\nlan = "home"\n[[groups]]\nname = "publisher"\n',
        begin=BEGIN.replace("latency_ms = 20", 'nat = "symmetric"'),
    )
    text = "\n".join(found)
    assert "groups.left: there are 2 groups of this name" in text
    assert "groups.publisher: this name is the publisher's" in text
    assert "groups.left.lan: home is behind cone elsewhere" in text
    assert "groups.left.nat: node 0 is the bootstrap node" in text


# ---- happening -----------------------------------------------------------------------------------


class FakeNetwork:
    """Writes down what is done to whom; everybody has as many peers as ``peers`` says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[tuple[float, str, int]] = []
        self.peers = 0

    def signal(self, number: int, what: signal.Signals) -> None:
        self.done.append((self.now, what.name, number))

    def restart(self, number: int, interruptions: Interruptions) -> None:
        self.done.append((self.now, "restart", number))

    def ask(self, number: int, method: str, **params: Any) -> Any:
        return {"peers": self.peers} if method == "status" else None


class FakeHosts:
    """The same for the network between them."""

    def __init__(self, network: FakeNetwork) -> None:
        self.internet = self
        self._network = network

    def of(self, names: tuple[str, ...]) -> str:
        return "+".join(names)

    def cut(self, *sides: str) -> None:
        self._network.done.append((self._network.now, " | ".join(sides), -1))

    def heal(self) -> None:
        self._network.done.append((self._network.now, "heal", -1))


class Play:
    """A stage with nobody on it."""

    def __init__(self, text: str) -> None:
        self.network = FakeNetwork()
        self.notes: list[str] = []
        self.stage = Stage(
            plan(text), cast("LocalNetwork", self.network), 5,
            cast("ScenarioHosts", FakeHosts(self.network)), Interruptions(), self.notes.append,
        )  # fmt: skip

    def until(self, end_s: float) -> list[tuple[float, str, int]]:
        while self.network.now <= end_s:
            self.stage.advance(self.network.now)
            self.network.now += 0.5
        return self.network.done


def test_each_event_happens_in_its_time_and_its_opposite_later() -> None:
    play = Play(
        event('at_s = 9; do = "stop"; groups = ["publisher"]; for_s = 20')
        + event('at_s = 2; do = "cut"; groups = ["left", ["right", "publisher"]]; for_s = 3')
        + event('at_s = 4; do = "freeze"; nodes = [1, 3]; for_s = 2')
    )
    assert play.until(20) == [
        (2.0, "left | right+publisher", -1),
        (4.0, "SIGSTOP", 1),
        (4.0, "SIGSTOP", 3),
        (5.0, "heal", -1),
        (6.0, "SIGCONT", 1),
        (6.0, "SIGCONT", 3),
        (9.0, "SIGTERM", 5),
    ]
    assert play.stage.waits, "the publisher comes back"
    assert play.until(30)[-1] == (29.0, "restart", 5)
    assert not play.stage.waits
    assert "9 s: stop publisher" in play.notes
    (condition,) = play.stage.close()
    assert (condition.held, condition.seen) == (True, "3 of 3")


def test_an_event_that_comes_again_and_again_strikes_others_each_time_and_holds_nothing_up() -> (
    None
):
    text = event(
        'at_s = 5; do = "kill"; groups = ["left", "right"]; pick = 1; for_s = 1; '
        "every_s = [4, 6]; until_s = 60"
    )
    play = Play(text)
    done = play.until(100)
    killed = [(at, number) for at, what, number in done if what == "SIGKILL"]
    assert 9 <= len(killed) <= 14
    assert len({number for _, number in killed}) > 2
    assert all(at <= 60.5 for at, _ in killed)
    restarted = [number for _, what, number in done if what == "restart"]
    assert restarted == [number for _, number in killed]
    assert Play(text).until(100) == done, "the same seed draws the same"
    other = Play(text)
    other.until(7)
    assert not other.stage.waits


def test_expected_peers_are_looked_for_until_their_time_is_up() -> None:
    play = Play(
        event('at_s = 2; do = "expect-peers"; nodes = [0, 4]; peers = 3; within_s = 10')
        + event('at_s = 20; do = "expect-peers"; nodes = [1]; peers = 9; within_s = 10')
    )
    play.until(5)
    assert play.stage.waits
    play.network.peers = 3
    play.until(40)
    assert not play.stage.waits
    first, second, happened = play.stage.close()
    assert (first.held, first.seen) == (True, "after 3.5 s")
    assert (second.held, second.seen) == (False, "they have 3")
    assert happened.held


def test_what_did_not_happen_in_time_is_told() -> None:
    play = Play(
        event('at_s = 2; do = "expect-peers"; nodes = [0]; within_s = 60')
        + event('at_s = 50; do = "heal"')
    )
    play.until(10)
    assert [condition.held for condition in play.stage.close()] == [False, False]


# ---- the model -----------------------------------------------------------------------------------


def test_an_enlarged_model_has_the_size_that_was_asked_for_and_means_the_same(
    tmp_path: Path,
) -> None:
    large = tmp_path / "large.onnx"
    enlarge_model(DIGITS / "digits.onnx", large, 2_000_000, 1)
    assert abs(large.stat().st_size - 2_000_000) <= 4
    one, other = onnx.load(DIGITS / "digits.onnx"), onnx.load(large)
    assert len(other.doc_string) > 1_000_000
    other.ClearField("doc_string")
    assert one == other
    enlarge_model(DIGITS / "digits.onnx", large, 10, 1)
    assert large.read_bytes() == (DIGITS / "digits.onnx").read_bytes()
