"""What one peer and one address may use: messages, streams, memory, and a turn like everybody."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
import trio
from network_harness import QUICK, meet, next_of, node, part, trio_test, until

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.guard.holding import Holding
from p2pfleet.adapters.network.guard.places import PEERS_A_PLACE, Budget, Places
from p2pfleet.core.errors import Ignore
from p2pfleet.ports import Announced, PeerGone, Received

CONFIG = NetworkConfig(held_bytes_per_peer=100, held_bytes=250)


class Identity:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def to_bytes(self) -> bytes:
        return self._key


class Connection:
    """As much of a connection as a place needs."""

    def __init__(self, key: bytes, address: str | None, *ways: str) -> None:
        self.peer_id = Identity(key)
        self._address = address
        self._ways = ways

    def get_remote_address(self) -> tuple[str, int] | None:
        return None if self._address is None else (self._address, 4001)

    def get_transport_addresses(self) -> list[str]:
        return list(self._ways)


def test_a_peer_is_where_its_newest_connection_is_and_nowhere_once_it_is_gone() -> None:
    places = Places(CONFIG)
    first, second = Connection(b"a", "203.0.113.9"), Connection(b"a", "2001:db8:1:2:3::4")
    places.connected(first)
    places.connected(second)
    assert places.of(b"a") == "2001:db8:1:2::/64"
    places.disconnected(second)
    places.disconnected(second)
    assert places.of(b"a") == "203.0.113.9"
    places.disconnected(first)
    assert places.of(b"a") is None
    for address in ("127.0.0.1", "::1", None):
        places.connected(Connection(b"b", address))
        assert places.of(b"b") is None
    way = "/ip4/203.0.113.9/tcp/4001/p2p/relay/p2p-circuit"
    places.connected(Connection(b"c", None, way))
    assert places.of(b"c") == way, "all who come through one relay are in one place"


@trio_test(5)
async def test_many_peers_behind_one_address_have_no_more_than_four() -> None:
    places = Places(CONFIG)
    keys = [b"peer %d" % number for number in range(16)]
    for key in keys:
        places.connected(Connection(key, "203.0.113.9"))
    places.connected(Connection(b"elsewhere", "203.0.113.10"))
    budget = Budget(places, 0.001, 10)
    taken = sum(budget[key].take() for key in keys for _ in range(20))
    assert taken == 10 * PEERS_A_PLACE
    assert sum(budget[b"elsewhere"].take() for _ in range(20)) == 10
    # Who comes again has not forgotten what it took.
    assert not budget[b"elsewhere"].take()
    assert budget[b"elsewhere"].owe(0) == 0
    assert budget[b"elsewhere"].owe(5) > 0


def test_all_buffers_of_a_peer_are_one_account() -> None:
    parted: list[bytes] = []
    holding = Holding(CONFIG, parted.append)
    buffers = {"window": 60, "queue": 30}
    holding.watch(b"a", "window", lambda: buffers["window"])
    holding.watch(b"a", "queue", lambda: buffers["queue"])
    assert holding.held(b"a") == 90
    assert holding.admits(b"a", 10)
    assert not holding.admits(b"a", 11)
    buffers["window"] = 0
    assert holding.admits(b"a", 70)
    holding.forget(b"a", "queue")
    assert holding.held(b"a") == 0
    holding.forget(b"a", "window")
    holding.forget(b"a", "window")
    assert (holding.measure(), parted) == (0, [])


def test_when_all_hold_too_much_together_who_holds_most_has_to_go() -> None:
    parted: list[bytes] = []
    holding = Holding(CONFIG, parted.append)
    held = {b"a": 90, b"b": 70, b"c": 80}
    for key in held:
        holding.watch(key, "window", partial(held.__getitem__, key))
        assert holding.admits(key, 0)
    assert holding.admits(b"b", 10)
    assert parted == []
    assert holding.admits(b"b", 11)
    assert parted == [b"a"]
    held[b"b"] = 95
    assert not holding.admits(b"b", 5)
    held[b"a"] = 0  # it is read meanwhile: what was summed up earlier does not count
    assert holding.admits(b"b", 5)
    assert parted == [b"a"]


@trio_test(30)
async def test_a_flooder_delays_neither_other_peers_nor_announcements() -> None:
    config = msgspec.structs.replace(QUICK, events=16)
    async with node(1, config=config) as victim:
        at = (victim.addresses[0],)
        async with node(2, at) as flooder, node(3, at) as honest, trio.open_nursery() as nursery:
            await meet(victim, flooder, honest)

            async def flood() -> None:
                while True:
                    await flooder.send(victim.peer, bytes(100))

            nursery.start_soon(flood)
            await until(lambda: victim.events.statistics().current_buffer_used == config.events)
            await until(lambda: victim.peer in {one.peer for one in honest.peers()})
            await honest.send(victim.peer, b"short")
            # Its message has reached the queue of those who wait for their turn.
            await until(lambda: victim.events.statistics().tasks_waiting_send >= 2)
            others = 0
            while (event := await next_of(victim, Received)).peer != honest.peer:
                assert event.peer == flooder.peer
                others += 1
            assert others <= config.events + 2
            await until(lambda: victim.events.statistics().tasks_waiting_send >= 1)
            await honest.announce(b"heard in spite of it")
            await next_of(victim, Announced)
            nursery.cancel_scope.cancel()


@trio_test(30)
async def test_what_turns_out_to_be_of_no_use_is_read_ever_more_slowly() -> None:
    config = msgspec.structs.replace(QUICK, useless_per_s=20.0, useless_burst=20.0)
    async with node(1, config=config) as victim, node(2, (victim.addresses[0],)) as other:
        await meet(victim, other)

        async def send() -> None:
            while True:
                await other.send(victim.peer, b"old news" * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            began, came = trio.current_time(), 0
            while trio.current_time() < began + 3:
                with trio.move_on_after(0.5):
                    await next_of(victim, Received)
                    victim.report(other.peer, Ignore("known"))
                    came += 1
            nursery.cancel_scope.cancel()
        # A read brings up to 256 KiB, which is 32 of these, before it is known what they are.
        assert 20 <= came <= 20 + 3 * 20 + 3 * 32
        assert victim.bans() == ()


@trio_test(30)
async def test_a_peer_that_reads_nothing_is_parted_from_when_too_much_waits_for_it() -> None:
    small = msgspec.structs.replace(QUICK, held_bytes_per_peer=2**20)
    deaf = msgspec.structs.replace(QUICK, events=2)
    async with (
        node(1, config=small) as victim,
        node(2, (victim.addresses[0],), config=deaf) as other,
    ):
        await meet(victim, other)

        async def send_on() -> None:
            while True:
                await victim.send(other.peer, bytes(60_000))

        with pytest.raises(PeerGone, match="lets too much wait"):
            await send_on()
        await part(victim, other.peer)
        assert victim._holding.measure() == 0
