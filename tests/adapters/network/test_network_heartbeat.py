"""The heartbeat: who stops is noticed, co-workers within seconds; and silence is cheap."""

from __future__ import annotations

import signal
import time
from typing import Any

import msgspec
import trio
from network_harness import QUICK, meet, next_of, node, part, trio_test, until
from test_network_discovery import child

from p2pfleet.adapters.network import NetworkConfig
from p2pfleet.ports import Disconnected, Received


def links(network: Any) -> list[Any]:
    return [connection.muxed_conn for connection in network._swarm.get_connections()]


class Pings:
    """Counts the questions that a node's connections ask from now on."""

    def __init__(self, network: Any) -> None:
        self.asked = 0
        for link in links(network):
            self._count(link)

    def _count(self, link: Any) -> None:
        ping = link._ping

        async def counted() -> None:
            self.asked += 1
            await ping()

        link._ping = counted


@trio_test(60)
async def test_a_frozen_co_worker_is_noticed_within_ten_seconds_by_the_settings_as_they_are() -> (
    None
):
    usual = NetworkConfig()
    config = msgspec.structs.replace(
        QUICK, beat_s=usual.beat_s, silence_s=usual.silence_s, ping_every_s=usual.ping_every_s
    )
    async with node(1, config=config) as a, child(7, a.addresses[0]) as other:
        await until(lambda: len(a.peers()) == 1)
        a.watch([a.peers()[0].peer])
        began = trio.current_time()
        other.process.send_signal(signal.SIGSTOP)
        await next_of(a, Disconnected)
        assert 1.0 < trio.current_time() - began < 10.0


@trio_test(60)
async def test_who_is_not_watched_has_its_time_and_who_becomes_watched_is_hurried() -> None:
    config = msgspec.structs.replace(QUICK, beat_s=0.2, silence_s=0.6)
    async with node(1, config=config) as a, child(7, a.addresses[0]) as other:
        await until(lambda: len(a.peers()) == 1)
        peer = a.peers()[0].peer
        other.process.send_signal(signal.SIGSTOP)
        with trio.move_on_after(3.0) as waiting:
            await next_of(a, Disconnected)
        assert waiting.cancelled_caught
        began = trio.current_time()
        a.watch([peer])
        await next_of(a, Disconnected)
        assert trio.current_time() - began < 3.0


@trio_test()
async def test_what_is_sent_anyway_is_a_beat_so_that_a_busy_connection_carries_no_pings() -> None:
    config = msgspec.structs.replace(QUICK, beat_s=0.5, silence_s=5.0)
    async with node(1, config=config) as a, node(2, a.addresses, config=config) as b:
        await meet(a, b)
        a.watch([b.peer])
        pings = Pings(a)
        for _ in range(30):
            await b.send(a.peer, b"work")
            assert (await next_of(a, Received)).data == b"work"
            await trio.sleep(0.05)
        assert pings.asked == 0
        await until(lambda: pings.asked >= 2)  # and now that nobody speaks
        a.watch([])
        await trio.sleep(0.6)
        asked = pings.asked
        await trio.sleep(1.5)
        assert pings.asked == asked
        assert len(a.peers()) == 1


@trio_test()
async def test_a_watched_peer_that_is_parted_from_and_met_again_is_still_watched() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        a.watch([b.peer])
        for link in links(a):
            await link.close()
        await part(a, b.peer)
        await meet(a)
        await until(lambda: any(link.watched for link in links(a)))


@trio_test(90)
async def test_a_node_that_was_itself_suspended_takes_nobody_for_gone() -> None:
    config = msgspec.structs.replace(QUICK, beat_s=0.1, silence_s=0.3)
    async with node(1, config=config) as a, child(7, a.addresses[0]):
        await until(lambda: len(a.peers()) == 1)
        a.watch([a.peers()[0].peer])
        for _ in range(3):
            await trio.sleep(0.15)
            time.sleep(2.0)  # noqa: ASYNC251 - the whole process stands still
        with trio.move_on_after(1.0) as waiting:
            await next_of(a, Disconnected)
        assert waiting.cancelled_caught
