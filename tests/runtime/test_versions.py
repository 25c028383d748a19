"""Nodes of other versions: refused politely, or understood as far as this one knows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Forged, Ignore, Malformed, Reject, Verdict
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import JobId, Millis, NetworkId, PeerId, sha256
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Deliver, Goodbye, Hello, PeerRecord, Sealed, Wanted
from p2pfleet.core.wire.versions import OURS, goodbye, read_newer, told_versions
from p2pfleet.ports import Disconnected, NetworkEvent, Received
from p2pfleet.runtime.clock import SystemClock
from p2pfleet.runtime.reception import interpret, receive
from p2pfleet.runtime.signing import Signer
from p2pfleet.runtime.views import upgrade_reason

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "speaking.json"
NETWORK = NetworkId(sha256(b"a network"))
NOW = Millis(1000)
BOB = Signer(sha256(b"bob"))
JOB = JobId(bytes(32))
CAPABILITY = Capability("A", b"", "1.32.0")
RECORD = BOB.seal(PeerRecord(NETWORK, BOB.peer, 1, 1, 2, "", (), 0, (), CAPABILITY))


def cases(judged: str) -> list[Any]:
    found = json.loads(VECTORS.read_text("utf-8"))["cases"]
    return [pytest.param(one, id=one["about"]) for one in found if one["judged"] == judged]


@pytest.mark.parametrize("case", cases("greeting"))
def test_a_greeting_of_any_version_says_which_it_speaks(case: dict[str, Any]) -> None:
    told = told_versions(bytes.fromhex(case["encoding"]))
    versions = None if told is None else [told.oldest, told.newest, told.minor]
    assert versions == case["versions"]
    assert (told is not None and told.common) == case["common"]


@pytest.mark.parametrize("case", cases("newer"))
def test_what_a_newer_node_says_is_read_as_far_as_it_is_known(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["encoding"])
    if case["rule"] not in ("", "unknown"):
        with pytest.raises(Malformed):
            read_newer(data)
        return
    message = read_newer(data)
    assert (message is None) == (case["rule"] == "unknown")
    if message is not None:
        assert type(message).__name__ == case["value"]["is"]


def said(message: list[Any], newer: dict[PeerId, bool] | None = None) -> Any:
    return interpret(Received(BOB.peer, msgpack.packb(message)), NETWORK, newer)


def greeting(oldest: int, newest: int, minor: int = 0, *more: Any) -> list[Any]:
    sealed = [RECORD.body, RECORD.signer, RECORD.signature]
    return ["hello", NETWORK, oldest, newest, minor, sealed, *more]


def verdict(found: Any) -> type[Verdict]:
    peer, judged = found
    assert peer == BOB.peer
    kind: type[Verdict] = type(judged)
    return kind


def test_a_node_without_a_version_in_common_is_no_attacker_whatever_else_it_says() -> None:
    assert said(["hello", NETWORK, 2, 3, 0, {"record": "of another shape"}]) == ev.VersionsDiffer(
        BOB.peer, 2, 3, told=False
    )
    assert said(["hello", NETWORK, 0, 0, 0]) == ev.VersionsDiffer(BOB.peer, 0, 0, told=False)
    bye = ["goodbye", 2, 2, 0, "p2pfleet/2.0.0", "and more"]
    assert said(bye) == ev.VersionsDiffer(BOB.peer, 2, 2, told=True)


def test_a_newer_minor_version_works_and_what_only_it_knows_is_passed_over() -> None:
    newer: dict[PeerId, bool] = {}
    hello = said(greeting(1, 1, 4, ["a field of 1.4"]), newer)
    assert isinstance(hello, ev.HelloReceived)
    assert newer == {BOB.peer: True}
    wanted = said(["wanted", JOB, [3], "because"], newer)
    assert wanted == ev.WantedReceived(BOB.peer, JOB, (3,))
    assert verdict(said(["weather", 1, 2], newer)) is Ignore
    body = msgpack.packb(["p2pfleet/1/weather", NETWORK])
    sealed = ["deliver", [body, BOB.peer, bytes(64)]]
    assert verdict(said(sealed, newer)) is Ignore
    assert verdict(said(["wanted", JOB, []], newer)) is Reject
    interpret(Disconnected(BOB.peer), NETWORK, newer)
    assert newer == {}


def test_of_a_node_of_our_own_version_what_nobody_knows_is_a_fault() -> None:
    newer: dict[PeerId, bool] = {}
    assert isinstance(said(greeting(1, 1), newer), ev.HelloReceived)
    for message in (["wanted", JOB, [3], "because"], ["weather"], greeting(1, 1, 0, "more")):
        assert verdict(said(message, newer)) is Reject
    body = msgpack.packb(["p2pfleet/1/weather", NETWORK])
    assert verdict(said(["deliver", [body, BOB.peer, bytes(64)]], newer)) is Forged


def node() -> Node:
    made = Node.create(PeerId(bytes(32)), NETWORK, 0, (), Consent(CAPABILITY))
    made.handle(ev.Started(1, 1, "p2pfleet/0.1.0", ()), NOW)
    return made


def test_who_greets_in_another_version_is_told_which_is_spoken_and_parted_from() -> None:
    effects = node().handle(ev.VersionsDiffer(BOB.peer, 0, 0, told=False), NOW)
    assert effects == [
        ef.Send((BOB.peer,), Goodbye(1, 1, 0, "p2pfleet/0.1.0")),
        ef.Leave(BOB.peer),
    ]
    assert goodbye("s" * 99).software == "s" * 64


def test_the_person_at_the_older_node_is_told_once_in_the_log_and_by_the_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = node()
    assert upgrade_reason(older) == ""
    bye = encode(Goodbye(OURS.newest + 1, OURS.newest + 1, 0, "p2pfleet/2.0.0"))

    class Network:
        def __init__(self) -> None:
            self.send, self.events = trio.open_memory_channel[NetworkEvent](8)

    async def submit(event: ev.Event) -> None:
        assert older.handle(event, NOW) == [ef.Leave(BOB.peer)]
        handled.append(event)
        if len(handled) == 2:
            both.set()

    handled: list[ev.Event] = []
    both = trio.Event()

    async def run() -> None:
        network = Network()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, network, NETWORK, submit, SystemClock())
                for _ in range(2):
                    await network.send.send(Received(BOB.peer, bye))
                await both.wait()
                nursery.cancel_scope.cancel()

    with caplog.at_level(logging.WARNING):
        trio.run(run)
    assert [record.message for record in caplog.records] == [upgrade_reason(older)]
    assert upgrade_reason(older) == (
        "A peer speaks version 2 of the protocol and no older one; this node speaks version 1: "
        "upgrade p2pfleet to take part with them"
    )


def test_the_greeting_that_is_sent_is_of_this_version() -> None:
    data = encode(Hello(NETWORK, OURS.oldest, OURS.newest, OURS.minor, RECORD))
    assert told_versions(data) == OURS
    assert told_versions(encode(Deliver(Sealed(b"x", BOB.peer, bytes(64))))) is None
    assert told_versions(encode(Wanted(JOB, (1,)))) is None
