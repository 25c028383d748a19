"""Relays, holes and reachability, their bounds, and peers that ask for more or tell lies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from libp2p.host.autonat.pb.autonat_pb2 import Message
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr
from network_harness import QUICK, meet, next_of, node, noise, part, trio_test, until

from p2pfleet.adapters.network.identity import library_id
from p2pfleet.adapters.network.nat.circuit import (
    HOP,
    PUNCH,
    REACH,
    STOP,
    Refused,
    read_message,
    relayed,
    write_message,
)
from p2pfleet.adapters.network.nat.reachability import observed_by
from p2pfleet.adapters.network.streams import StreamFailed, open_stream
from p2pfleet.core.errors import Reject
from p2pfleet.core.model.ids import peer_text
from p2pfleet.ports import Connected, Received

RELAY = msgspec.structs.replace(QUICK, relay="on")
ALONE = msgspec.structs.replace(QUICK, target_peers=0)


async def reserve(one: Any, relay: Any) -> bool:
    """Ask for a place as a node does that has found out that nobody can dial it."""
    return bool(await one._nat.circuits._reserve(relay.peer))


def way(one: Any) -> Any:
    """The address of ``one`` through its relay."""
    (address,) = one._nat.circuits.addresses()
    return Multiaddr(address)


async def call(one: Any, other: Any) -> None:
    await one._admission.dial_address(library_id(other.peer), way(other))


async def ask(one: Any, other: Any, protocol: str, message: Any, kind: Any) -> Any:
    """Send one message on a new stream, and read one."""
    stream = await open_stream(one._host, library_id(other.peer), protocol)
    await write_message(stream, message)
    return await read_message(stream, kind)


def connections(one: Any, other: Any) -> list[Any]:
    return [c for c in one._swarm.get_connections(library_id(other.peer)) if not c.is_closed]


@asynccontextmanager
async def three(
    swarm_key: bytes | None = None, **changes: Any
) -> AsyncIterator[tuple[Any, Any, Any]]:
    """A relay, and two that are connected to it and would not dial each other by themselves."""
    config = msgspec.structs.replace(RELAY, **changes)
    async with node(1, config=config, swarm_key=swarm_key) as relay:
        few = msgspec.structs.replace(QUICK, target_peers=1, lookup_first_s=30.0)
        async with (
            node(2, relay.addresses, config=few, swarm_key=swarm_key) as one,
            node(3, relay.addresses, config=few, swarm_key=swarm_key) as other,
        ):
            await meet(one, relay)
            await meet(other, relay)
            yield relay, one, other


@trio_test(45)
async def test_messages_and_blobs_pass_through_a_relay_that_cannot_read_them() -> None:
    async with three() as (relay, one, other):
        other._nat.punching._allowed = one._nat.punching._allowed = None  # no holes here
        assert await reserve(one, relay)
        assert any("/p2p-circuit/p2p/" in address for address in one.addresses)
        await call(other, one)
        await meet(one, other)
        (event,) = [found for found in other.peers() if found.peer == one.peer]
        assert event.address == f"{way(one)}/p2p/{peer_text(one.peer)}"
        for size in (1, 60_000):
            await other.send(one.peer, noise(size, 1))
            assert (await next_of(one, Received)).data == noise(size, 1)
            await one.send(other.peer, noise(size, 2))
            assert (await next_of(other, Received)).data == noise(size, 2)
        assert relay._nat.relay.circuits == 1
        await other._sessions.close(library_id(one.peer))
        await part(one, other.peer)
        await until(lambda: relay._nat.relay.circuits == 0)


@trio_test(45)
async def test_who_is_banned_does_not_come_back_through_a_relay() -> None:
    async with three() as (relay, one, other):
        assert await reserve(one, relay)
        for _ in range(QUICK.reject_limit):
            one.report(other.peer, Reject("it sent nonsense"))
        with pytest.raises((Refused, SwarmException)):
            await call(other, one)
        assert not connections(one, other)


@trio_test(45)
async def test_a_relay_gives_as_many_places_and_circuits_as_it_may() -> None:
    async with three(relay_reservations=1, relay_circuits_per_peer=0) as (relay, one, other):
        assert await reserve(one, relay)
        assert await reserve(one, relay), "renewing is no second place"
        assert not await reserve(other, relay)
        with pytest.raises((Refused, SwarmException), match=str(Status.RESOURCE_LIMIT_EXCEEDED)):
            await call(other, one)
    async with three(relay_reservations_per_address=1) as (relay, one, other):
        assert await reserve(one, relay)
        assert not await reserve(other, relay), "from the same address"
        connect = HopMessage(type=HopMessage.CONNECT)
        connect.peer.id = library_id(other.peer).to_bytes()
        answer = await ask(one, relay, HOP, connect, HopMessage)
        assert answer.status == Status.NO_RESERVATION


@trio_test(45)
async def test_a_circuit_ends_after_its_bytes_and_after_its_time() -> None:
    async with three(relay_circuit_bytes=100_000) as (relay, one, other):
        assert await reserve(one, relay)
        await call(other, one)
        await meet(other, one)
        await other.send(one.peer, noise(60_000, 1))
        await next_of(one, Received)
        await one.send(other.peer, noise(60_000, 1))
        await part(one, other.peer)
        assert relay._nat.relay.circuits == 0
    async with three(relay_circuit_s=2.0) as (relay, one, other):
        assert await reserve(one, relay)
        await call(other, one)
        await meet(other, one)
        await part(one, other.peer)
        assert relay._nat.relay.circuits == 0


@trio_test(45)
async def test_a_node_that_carries_nothing_says_so_and_off_speaks_none_of_it() -> None:
    async with three(relay="auto") as (relay, one, _):
        assert not await reserve(one, relay), "nobody has dialled it yet"
    async with three(relay="off") as (relay, one, _):
        assert not await reserve(one, relay)
        with pytest.raises(StreamFailed):
            await open_stream(one._host, library_id(relay.peer), HOP)


@trio_test(45)
async def test_garbage_and_unasked_for_callers_are_refused() -> None:
    async with three() as (relay, one, other):
        stop = StopMessage(type=StopMessage.CONNECT)
        stop.peer.id = library_id(other.peer).to_bytes()
        answer = await ask(relay, one, STOP, stop, StopMessage)
        assert answer.status == Status.PERMISSION_DENIED, "it holds no place there"
        for protocol in (HOP, REACH, STOP, PUNCH):
            for data in (b"\xff" * 20, b"\x05hello", b"\x00", b"\xff\xff\x03"):
                # A refusal may come before the stream stands.
                with contextlib.suppress(StreamFailed, StreamError):
                    stream = await open_stream(one._host, library_id(relay.peer), protocol)
                    await stream.write(data)
                    await stream.close()
        strange = HopMessage(type=HopMessage.CONNECT)
        strange.peer.id = b"nobody"
        assert (await ask(one, relay, HOP, strange, HopMessage)).status == Status.NO_RESERVATION
        with pytest.raises(StreamFailed):
            await ask(one, relay, PUNCH, HolePunch(type=HolePunch.CONNECT), HolePunch)
        await other.send(relay.peer, b"still here")
        assert (await next_of(relay, Received)).data == b"still here"


# ---- whether a node can be dialled ---------------------------------------------------------------


async def dialled(one: Any, other: Any, *addresses: str, identity: Any = None) -> Any:
    """What ``other`` answers when ``one`` asks to be dialled there."""
    question = Message(type=Message.DIAL)
    question.dial.peer.id = (identity or library_id(one.peer)).to_bytes()
    question.dial.peer.addrs.extend(Multiaddr(text).to_bytes() for text in addresses)
    return (await ask(one, other, REACH, question, Message)).dialResponse


@trio_test(45)
async def test_a_node_dials_only_who_asks_and_only_where_it_comes_from() -> None:
    async with node(1, config=ALONE) as one, node(2, one.addresses) as other, node(3) as third:
        await meet(one, other)
        own = other.addresses[0].partition("/p2p/")[0]
        assert await observed_by(other._host, one.peer) is not None
        answer = await dialled(other, one, own)
        assert answer.status == Message.OK
        assert str(Multiaddr(answer.addr)) == own
        closed = "/ip4/127.0.0.1/tcp/9"
        assert (await dialled(other, one, closed)).status == Message.E_DIAL_ERROR
        elsewhere = third.addresses[0].partition("/p2p/")[0]
        assert (await dialled(other, one, elsewhere)).status == Message.E_DIAL_ERROR, (
            "somebody else answers there"
        )
        far = ["/ip4/203.0.113.9/tcp/22", "/dns4/victim.example/tcp/22"]
        assert (await dialled(other, one, *far)).status == Message.E_DIAL_REFUSED
        lie = await dialled(other, one, own, identity=library_id(third.peer))
        assert lie.status == Message.E_BAD_REQUEST


@trio_test(45)
async def test_who_asks_too_often_to_be_dialled_is_refused() -> None:
    async with node(1, config=ALONE) as one, node(2, one.addresses) as other:
        await meet(one, other)
        own = other.addresses[0].partition("/p2p/")[0]
        answers = [(await dialled(other, one, own)).status for _ in range(8)]
        assert answers[0] == Message.OK
        assert answers[-1] == Message.E_DIAL_REFUSED


@trio_test(30)
async def test_an_address_of_a_router_is_believed_when_two_agree() -> None:
    async with node(1, config=ALONE) as one:
        found = one._nat.reachability
        here = "192.0.2.7"
        told = f"/ip4/{here}/tcp/4001"
        found._answers = type(found._answers)({b"a": (here, told), b"b": (here, None)})
        found._conclude()
        assert (found.reachable, found.mapped) == (False, ())
        found._answers[b"c"] = here, told
        found._conclude()
        assert (found.reachable, found.mapped) == (True, (told,))
        assert any(address.startswith(f"{told}/p2p/") for address in one.addresses)
        # Who sees another address is another witness to it, not to this one.
        found._answers.clear()
        for number in range(3):
            found._answers[bytes([number])] = here, None
        found._conclude()
        assert (found.reachable, found.mapped) == (False, ())


@pytest.mark.parametrize("swarm_key", [None, bytes(range(32))], ids=["open", "swarm key"])
@trio_test(60)
async def test_a_relayed_connection_becomes_direct_where_nothing_is_in_between(
    swarm_key: bytes | None,
) -> None:
    async with three(swarm_key) as (relay, one, other):
        assert await reserve(one, relay)
        await call(other, one)
        await until(
            lambda: (
                bool(connections(other, one))
                and not any(relayed(connection) for connection in connections(other, one))
            )
        )
        await until(lambda: relay._nat.relay.circuits == 0)
        await until(lambda: any(found.peer == one.peer for found in other.peers()))
        while "/p2p-circuit" in (event := await next_of(other, Connected)).address:
            pass
        assert event.peer in (one.peer, relay.peer)
