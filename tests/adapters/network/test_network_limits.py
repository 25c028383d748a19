"""The small parts, without a network: buckets, bans, queues, addresses."""

from __future__ import annotations

import pytest
import trio
from network_harness import trio_test

from p2pfleet.adapters.network.addresses import (
    endpoint,
    expand,
    parse_bootstrap,
    parse_dialable,
    parse_listen,
    usable,
)
from p2pfleet.adapters.network.guard.limits import TokenBucket, address_group, is_loopback
from p2pfleet.adapters.network.streams import SendQueue
from p2pfleet.core.model.ids import PeerId, peer_text

PEER = PeerId(bytes(range(32)))


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = 0.0
    bucket = TokenBucket(2.0, 3.0, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 1.0
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    assert bucket.owe(4) == 2.0
    now = 100.0
    assert bucket.full


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1%eth0", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("not an address", "not an address"),
    ],
)
def test_addresses_are_grouped_by_who_is_likely_behind_them(address: str, group: str) -> None:
    assert address_group(address) == group
    assert not is_loopback(group)


def test_loopback_is_known_in_both_families() -> None:
    assert is_loopback(address_group("127.0.0.1"))
    assert is_loopback(address_group("::1"))


def test_addresses_are_read_with_and_without_their_peer() -> None:
    full = f"/ip4/203.0.113.9/tcp/4001/p2p/{peer_text(PEER)}"
    assert parse_dialable(full) == parse_bootstrap(full) == (PEER, "/ip4/203.0.113.9/tcp/4001")
    assert usable(full) == "/ip4/203.0.113.9/tcp/4001"
    assert usable("/dns4/node.example/tcp/4001") == "/dns4/node.example/tcp/4001"
    for bad in (
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/1.2.3.4/udp/1",
        "/x",
        "",
        "a" * 999,
    ):
        assert usable(bad) is None
    assert endpoint("::1", 7) == "/ip6/::1/tcp/7"


def test_a_wildcard_is_told_as_the_addresses_of_the_interfaces() -> None:
    told = [str(one) for one in expand([parse_listen("/ip4/0.0.0.0/tcp/4001")])]
    assert "/ip4/127.0.0.1/tcp/4001" in told
    assert not any("0.0.0.0" in one for one in told)
    assert [str(one) for one in expand([parse_listen("/ip4/127.0.0.1/tcp/5")])] == [
        "/ip4/127.0.0.1/tcp/5"
    ]


@trio_test(5)
async def test_a_send_queue_is_bounded_in_messages_and_in_bytes() -> None:
    for queue, size in ((SendQueue(2, 10_000), 1), (SendQueue(100, 2_000), 1_000)):
        await queue.put(bytes(size))
        await queue.put(bytes(size))
        with trio.move_on_after(0.05) as waiting:
            await queue.put(b"x")
        assert waiting.cancelled_caught
        count, framed = await queue.batch()
        assert (count, framed) == (2, (size.to_bytes(4, "big") + bytes(size)) * 2)
        assert await queue.batch() == (count, framed)
        queue.done(count)
        await queue.put(b"x")
        assert await queue.batch() == (1, b"\x00\x00\x00\x01x")
