"""Connections and message streams between real hosts on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter

import msgspec
import pytest
import trio
from network_harness import (
    QUICK,
    Book,
    NetworkConfig,
    meet,
    next_of,
    node,
    noise,
    part,
    seed_of,
    trio_test,
    until,
)

from p2pfleet.core.errors import ACCEPT, Ignore, P2pfleetError, Reject
from p2pfleet.core.model.ids import parse_peer
from p2pfleet.core.wire.names import MAX_MESSAGE_BYTES
from p2pfleet.ports import Connected, Disconnected, PeerGone, Received


def test_importing_the_package_does_not_import_libp2p() -> None:
    code = "import sys, p2pfleet.adapters.network; print('libp2p' in sys.modules)"
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30)
    assert printed.strip() == "False"


@trio_test()
async def test_two_nodes_report_each_other_and_messages_arrive_in_order() -> None:
    messages = [noise(1 + 37 * number % 4000, number) for number in range(500)]
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        received: list[bytes] = []

        async def read() -> None:
            while len(received) < len(messages):
                event = await next_of(b, Received)
                assert event.peer == a.peer
                received.append(event.data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for message in messages:
                await a.send(b.peer, message)
        await b.send(a.peer, b"and back")

        assert received == messages
        assert await next_of(a, Received) == Received(b.peer, b"and back")
        assert [one.peer for one in a.peers()] == [b.peer]
        assert parse_peer(a.addresses[0].rpartition("/")[2]) == a.peer


@trio_test()
async def test_the_largest_message_passes_and_a_larger_one_is_not_even_queued() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        await a.send(b.peer, bytes(MAX_MESSAGE_BYTES))
        assert len((await next_of(b, Received)).data) == MAX_MESSAGE_BYTES
        with pytest.raises(AssertionError):
            await a.send(b.peer, bytes(MAX_MESSAGE_BYTES + 1))


@trio_test()
async def test_sending_to_somebody_who_is_not_connected_says_so() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        with pytest.raises(PeerGone):
            await a.send(parse_peer("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"), b"x")


@trio_test()
async def test_simultaneous_dials_give_one_event_on_each_side() -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1], two.getsockname()[1]]
    listen = [msgspec.structs.replace(QUICK, listen=(f"/ip4/127.0.0.1/tcp/{p}",)) for p in ports]
    async with node(1) as probe_a, node(2) as probe_b:
        peers = [probe_a.addresses[0].rpartition("/")[2], probe_b.addresses[0].rpartition("/")[2]]
    full = [
        f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}" for port, peer in zip(ports, peers, strict=True)
    ]
    seen: dict[int, list[object]] = {1: [], 2: []}
    looked = {1: trio.Event(), 2: trio.Event()}

    async def live(number: int) -> None:
        other = full[2 - number]
        async with node(number, (other,), config=listen[number - 1]) as network:
            with trio.move_on_after(2.5):
                async for event in network.events:
                    seen[number].append(type(event))
            assert len(network.peers()) == 1
            looked[number].set()
            await looked[3 - number].wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live, 1)
        nursery.start_soon(live, 2)

    for events in seen.values():
        assert Counter(events)[Connected] - Counter(events)[Disconnected] == 1
        assert events[0] is Connected
        assert Counter(events)[Connected] == 1


@trio_test()
async def test_a_slow_reader_slows_the_sender_down_and_nothing_is_lost() -> None:
    small = msgspec.structs.replace(QUICK, events=4, send_patience_s=0.3)
    async with node(1, config=small) as a, node(2, a.addresses, config=small) as b:
        await meet(a, b)
        sent = 0
        try:
            while sent < 1000:
                await a.send(b.peer, sent.to_bytes(4, "big") + bytes(60_000))
                sent += 1
        except PeerGone:
            pass
        assert 60 < sent < 400
        for number in range(sent):
            assert int.from_bytes((await next_of(b, Received)).data[:4], "big") == number


@trio_test()
async def test_a_peer_that_restarts_on_another_port_is_found_again() -> None:
    async with node(1) as a:
        for _ in range(2):
            async with node(2, a.addresses) as b:
                await meet(a, b)
                await b.send(a.peer, b"here")
                assert (await next_of(a, Received)).data == b"here"
            await part(a, b.peer)


@trio_test()
async def test_a_lost_connection_is_dialled_again() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        (connection,) = b._swarm.get_connections()
        await connection.close()
        await part(b, a.peer)
        assert (await next_of(b, Connected)).peer == a.peer
        await b.send(a.peer, b"again")
        assert (await next_of(a, Received)).data == b"again"


@trio_test()
async def test_a_failed_stream_is_reopened_and_its_messages_still_arrive() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        for stream in list(a._swarm.get_connections()[0].get_streams()):
            if "frames" in str(stream.get_protocol()):
                await stream.reset()
        await a.send(b.peer, b"still here")
        assert (await next_of(b, Received)).data == b"still here"


@trio_test()
async def test_the_saved_address_book_replaces_the_bootstrap_list() -> None:
    book = Book()
    async with node(1) as a:
        async with node(2, a.addresses, book=book) as b:
            await meet(a, b)
            await until(lambda: bool(book.entries))
        assert book.entries[0] == (a.peer, a.addresses[0])
        await part(a, b.peer)
        async with node(2, book=book) as b:
            await meet(a, b)


@trio_test()
async def test_a_peer_with_too_many_rejects_is_sent_away_and_refused() -> None:
    config = msgspec.structs.replace(QUICK, reject_limit=3)
    async with node(1, config=config) as a, node(2, a.addresses) as b:
        await meet(a, b)
        for _ in range(20):
            a.report(b.peer, ACCEPT)
            a.report(b.peer, Ignore("late"))
        for _ in range(3):
            a.report(b.peer, Reject("wrong signature"))
        await part(a, b.peer)
        await part(b, a.peer)
        with trio.move_on_after(2.0) as waiting:
            await next_of(a, Connected)
        assert waiting.cancelled_caught
        assert a.peers() == () == b.peers()


@trio_test()
async def test_a_full_node_reports_no_more_than_its_limit() -> None:
    config = msgspec.structs.replace(QUICK, max_peers=2, visit_s=0.5)
    lonely = msgspec.structs.replace(QUICK, target_peers=1)
    async with (
        node(1, config=config) as a,
        node(2, a.addresses, config=lonely) as b,
        node(3, a.addresses, config=lonely) as c,
    ):
        await meet(a, b)
        await meet(a, c)
        async with node(4, a.addresses, config=lonely) as d:
            await until(lambda: len(a._swarm.connections) == 3)
            await until(lambda: len(a._swarm.connections) == 2)
            assert {one.peer for one in a.peers()} == {b.peer, c.peer}
            assert a.peer not in {one.peer for one in d.peers()}


@trio_test()
async def test_a_node_does_not_dial_itself() -> None:
    async with node(1) as probe:
        peer = probe.addresses[0].rpartition("/")[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = msgspec.structs.replace(QUICK, listen=(f"/ip4/127.0.0.1/tcp/{port}",))
    async with node(1, (f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}",), config=config) as a:
        await trio.sleep(0.8)
        assert not a._swarm.get_connections()


@trio_test()
async def test_a_port_in_use_is_an_error_for_people() -> None:
    async with node(1) as a:
        taken = a.addresses[0].rpartition("/p2p/")[0]
        config = msgspec.structs.replace(QUICK, listen=(taken,))
        with pytest.raises(P2pfleetError, match=r"Cannot listen on .*: Address already in use\."):
            async with node(2, config=config):
                pass


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(listen=("127.0.0.1:4001",)),
        NetworkConfig(listen=("/ip4/300.1.1.1/tcp/1",)),
        NetworkConfig(listen=("/ip4/127.0.0.1/udp/1/quic-v1",)),
        NetworkConfig(bootstrap=("/ip4/127.0.0.1/tcp/1",)),
        NetworkConfig(
            bootstrap=("/ip4/127.0.0.1/tcp/1/p2p/QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",)
        ),
        NetworkConfig(bootstrap=("nonsense " * 50,)),
    ],
)
def test_a_malformed_address_is_an_error_for_people(config: NetworkConfig) -> None:
    @trio_test(5)
    async def attempt() -> None:
        async with node(1, config=config):
            pass

    with pytest.raises(P2pfleetError, match="address") as caught:
        attempt()
    assert caught.value.advice


@trio_test()
async def test_a_dialler_that_speaks_only_plaintext_is_refused() -> None:
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
    from multiaddr import Multiaddr

    pair = create_new_key_pair(seed_of(9))
    plain = new_host(key_pair=pair, sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(pair)})
    async with node(1) as a, plain.run(listen_addrs=[]):
        with trio.move_on_after(10) as dialling:
            with pytest.raises(Exception, match="unable to connect"):
                await plain.connect(info_from_p2p_addr(Multiaddr(a.addresses[0])))
        assert not dialling.cancelled_caught
        assert not a._swarm.get_connections()
        await plain.close()


@trio_test()
async def test_leaving_is_quick_and_leaves_no_task_and_no_socket() -> None:
    import os

    def sockets() -> int:
        return sum(
            os.readlink(f"/proc/self/fd/{fd}").startswith("socket")
            for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")
        )

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    before = sockets(), tasks()
    async with node(1) as a, node(2, a.addresses) as b, node(3, a.addresses) as c:
        await meet(a, b)
        await meet(a, c)
        began = trio.current_time()
    assert trio.current_time() - began < 4.0
    with trio.move_on_after(2):
        await until(lambda: (sockets(), tasks()) <= before)
    assert (sockets(), tasks()) == before
    assert isinstance([event async for event in a.events][-1], Disconnected)


@trio_test()
async def test_cancelling_the_caller_closes_the_network_in_time() -> None:
    async with node(1) as a:
        with trio.CancelScope() as scope:
            async with node(2, a.addresses) as b:
                await meet(a, b)
                scope.cancel()
                began = trio.current_time()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() - began < 2.0
        await part(a, b.peer)


@trio_test()
async def test_cancelling_while_it_starts_leaves_nothing_behind() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    for checkpoints in (0, 3, 10, 30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def cancel(wait: int = checkpoints) -> None:
                    for _ in range(wait):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                nursery.start_soon(cancel)
                async with node(1):
                    await trio.sleep_forever()
        assert scope.cancelled_caught
    await until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)


@trio_test()
async def test_ipv6_works_and_its_addresses_are_saved() -> None:
    book = Book()
    config = msgspec.structs.replace(QUICK, listen=("/ip6/::1/tcp/0",))
    async with node(1, config=config) as a, node(2, a.addresses, config=config, book=book) as b:
        await meet(a, b)
        await until(lambda: (a.peer, a.addresses[0]) in book.entries)


@trio_test()
async def test_an_exception_of_the_caller_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with node(1):
            raise KeyError("mine")
