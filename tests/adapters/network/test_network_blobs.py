"""Blobs between real hosts: whole, resumed, wrong, absent, refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from network_harness import (
    NETWORK,
    QUICK,
    MemoryPartial,
    Shelf,
    meet,
    next_of,
    node,
    noise,
    ref_of,
    trio_test,
)

from p2pfleet.adapters.network.streams import frame, open_stream, read_message
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, cid_of
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobHeader, BlobRequest
from p2pfleet.core.wire.names import BLOB_PROTOCOL
from p2pfleet.ports import BlobNotFound, Disconnected

BIG = noise(20_000_000, 20)


async def answers_to(asker: Any, server: Any, *requests: BlobRequest) -> list[bytes]:
    """The header that each request gets, as it comes over one stream; nothing may follow it."""
    stream = await open_stream(asker._host, server._host.get_id(), BLOB_PROTOCOL)
    answers = []
    for request in requests:
        await stream.write(frame(codec.encode(request)))
        answers.append(await read_message(stream, 64))
    await stream.reset()
    return answers


@trio_test(60)
async def test_a_blob_of_20_mb_arrives_whole(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(BIG)
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        partial = MemoryPartial(ref_of(BIG))
        assert await b.bulk.fetch(partial, [a.peer]) == a.peer
        assert partial.finished
        assert bytes(partial.data) == BIG


@trio_test(60)
async def test_an_interrupted_blob_is_resumed_where_it_stood(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(BIG)
    partial = MemoryPartial(ref_of(BIG))
    async with node(1, blobs=shelf) as a:
        async with node(2, a.addresses) as b:
            await meet(a, b)
            with trio.CancelScope() as scope:
                partial.on_write = lambda: (
                    trio.from_thread.run_sync(scope.cancel)
                    if partial.present >= len(BIG) // 2
                    else None
                )
                await b.bulk.fetch(partial, [a.peer])
            assert scope.cancelled_caught
        half = partial.present
        assert len(BIG) // 2 <= half < len(BIG)
        async with node(2, a.addresses) as b:
            await meet(a, b)
            partial.on_write = lambda: None
            assert await b.bulk.fetch(partial, [a.peer]) == a.peer
        assert partial.restarts == 0
        assert bytes(partial.data) == BIG


@trio_test(30)
async def test_many_ranges_travel_over_few_streams(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    data = noise(300_000, 3)
    pack = shelf.put(data)
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        opened = a._swarm.get_connections()[0].muxed_conn.streams

        async def fetch(offset: int) -> None:
            part = data[offset : offset + 1000]
            ref = BlobRef(pack, offset, len(part), hashlib.sha256(part).digest())
            partial = MemoryPartial(ref)
            await b.bulk.fetch(partial, [a.peer])
            assert bytes(partial.data) == part

        async with trio.open_nursery() as nursery:
            for offset in range(0, 40_000, 1000):
                nursery.start_soon(fetch, offset)
        highest = max(opened)
        for offset in range(0, 200_000, 2000):
            await fetch(offset)
        assert max(opened) - highest <= 4
        empty = MemoryPartial(BlobRef(pack, 5, 0, hashlib.sha256(b"").digest()))
        assert await b.bulk.fetch(empty, [a.peer]) == a.peer


@trio_test(30)
async def test_wrong_bytes_are_reported_and_the_next_source_is_asked(tmp_path: Path) -> None:
    (tmp_path / "liar").mkdir()
    data = noise(2_000_000, 5)
    right, wrong = Shelf(tmp_path), Shelf(tmp_path / "liar")
    right.put(data)
    wrong.put(noise(len(data), 6), cid_of(data))
    strict = msgspec.structs.replace(QUICK, reject_limit=1)
    async with (
        node(1, blobs=wrong) as liar,
        node(2, liar.addresses, blobs=right) as honest,
        node(3, liar.addresses, config=strict) as c,
    ):
        await meet(liar, honest, c)
        partial = MemoryPartial(ref_of(data))
        assert await c.bulk.fetch(partial, [liar.peer, honest.peer]) == honest.peer
        assert partial.restarts == 1
        assert bytes(partial.data) == data
        assert (await next_of(c, Disconnected)).peer == liar.peer


@trio_test(30)
async def test_a_source_is_not_blamed_for_bytes_that_were_there_before(tmp_path: Path) -> None:
    data = noise(1_000_000, 7)
    shelf = Shelf(tmp_path)
    shelf.put(data)
    strict = msgspec.structs.replace(QUICK, reject_limit=1)
    async with node(1, blobs=shelf) as a, node(2, a.addresses, config=strict) as b:
        await meet(a, b)
        partial = MemoryPartial(ref_of(data), present=b"spoilt" * 1000)
        assert await b.bulk.fetch(partial, [a.peer]) == a.peer
        assert partial.restarts == 1
        assert bytes(partial.data) == data
        assert len(b.peers()) == 1


@trio_test(30)
async def test_a_blob_that_nobody_has_is_not_found_and_says_who_was_asked(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    short = shelf.put(b"twelve bytes")
    async with (
        node(1, blobs=shelf) as a,
        node(2, a.addresses, blobs=shelf) as b,
        node(3, a.addresses) as c,
    ):
        await meet(a, b, c)
        with pytest.raises(BlobNotFound, match=r"has it not; .*has it not"):
            await c.bulk.fetch(MemoryPartial(ref_of(b"unknown")), [a.peer, b.peer])
        with pytest.raises(BlobNotFound, match="has it not"):
            await c.bulk.fetch(MemoryPartial(BlobRef(short, 4, 9, bytes(32))), [a.peer])
        with pytest.raises(BlobNotFound, match="nobody to ask"):
            await c.bulk.fetch(MemoryPartial(ref_of(b"unknown")), [])
    with pytest.raises(BlobNotFound, match="not connected"):
        await c.bulk.fetch(MemoryPartial(ref_of(b"unknown")), [a.peer])


@trio_test(30)
async def test_a_request_of_another_network_is_answered_as_absent(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    cid = shelf.put(b"the bytes")
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        stream = await open_stream(b._host, a._host.get_id(), BLOB_PROTOCOL)
        for network, found in ((NetworkId(bytes(32)), False), (NETWORK, True)):
            request = BlobRequest(network=network, cid=cid, offset=0, length=9)
            await stream.write(frame(codec.encode(request)))
            header = codec.decode(await read_message(stream, 64), BlobHeader, 64)
            assert header == BlobHeader(found=found, length=9 if found else 0)
        await stream.reset()


@trio_test(30)
async def test_a_reader_that_stands_still_is_dropped(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    cid = shelf.put(BIG)
    config = msgspec.structs.replace(QUICK, blob_chunk_s=0.5, serves=1, serves_per_peer=1)
    async with node(1, blobs=shelf, config=config) as a, node(2, a.addresses) as b:
        await meet(a, b)
        stream = await open_stream(b._host, a._host.get_id(), BLOB_PROTOCOL)
        request = BlobRequest(network=NETWORK, cid=cid, offset=0, length=len(BIG))
        await stream.write(frame(codec.encode(request)))
        # The only slot is taken by a stream that nobody reads, and is free again.
        partial = MemoryPartial(ref_of(BIG))
        assert await b.bulk.fetch(partial, [a.peer]) == a.peer
        await stream.reset()


@trio_test(30)
async def test_a_full_disk_comes_out_of_the_fetch(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    data = noise(3_000_000, 8)
    shelf.put(data)

    def full() -> None:
        raise P2pfleetError("The disk is full.", "Free some space.")

    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        partial = MemoryPartial(ref_of(data))
        partial.on_write = full
        with pytest.raises(P2pfleetError, match="disk is full"):
            await b.bulk.fetch(partial, [a.peer])


# ---- who may fetch -----------------------------------------------------------------------------


@trio_test(30)
async def test_a_blob_goes_to_those_only_who_may_have_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    held, free = noise(5_000, 1), noise(5_000, 2)
    for data in (held, free):
        shelf.put(data)
    asked: list[tuple[PeerId, Cid]] = []
    friends: set[PeerId] = set()

    def may_fetch(peer: PeerId, cid: Cid) -> bool:
        asked.append((peer, cid))
        return cid != cid_of(held) or peer in friends

    async with (
        node(1, blobs=shelf, may_fetch=may_fetch) as a,
        node(2, a.addresses) as b,
        node(3, a.addresses) as c,
    ):
        await meet(a, b, c)
        friends.add(b.peer)
        for friend, data in ((b, held), (b, free), (c, free)):
            partial = MemoryPartial(ref_of(data))
            assert await friend.bulk.fetch(partial, [a.peer]) == a.peer
            assert bytes(partial.data) == data
        with pytest.raises(BlobNotFound, match="has it not"):
            await c.bulk.fetch(MemoryPartial(ref_of(held)), [a.peer])
        part = BlobRef(cid_of(held), 10, 20, hashlib.sha256(held[10:30]).digest())
        with pytest.raises(BlobNotFound, match="has it not"):
            await c.bulk.fetch(MemoryPartial(part), [a.peer])
        assert {peer for peer, cid in asked if cid == cid_of(held)} == {b.peer, c.peer}
        assert asked[-1] == (c.peer, cid_of(held)), "also for a range of it"
        friends.add(c.peer)
        assert await c.bulk.fetch(MemoryPartial(part), [a.peer]) == a.peer, "it is asked each time"


@trio_test(30)
async def test_a_blob_that_is_denied_is_answered_and_looked_for_as_one_that_is_not_here(
    tmp_path: Path,
) -> None:
    shelf = Shelf(tmp_path)
    held = shelf.put(noise(5_000, 1))
    ranges = [(0, 5_000), (0, 0), (4_999, 1), (0, 5_001), (5_000, 0), (10**6, 7)]
    async with (
        node(1, blobs=shelf, may_fetch=lambda peer, cid: cid != held) as a,
        node(2, a.addresses) as b,
    ):
        await meet(a, b)
        answers = []
        for cid in (held, cid_of(b"not here")):
            requests = [BlobRequest(NETWORK, cid, *place) for place in ranges]
            answers.append(await answers_to(b, a, *requests))
        assert answers[0] == answers[1]
        assert set(answers[0]) == {codec.encode(BlobHeader(found=False, length=0))}
        assert len(shelf.looked_up) == 2 * len(ranges), "which takes its time in both cases"
        assert held not in shelf.looked_up, "what nobody was given was not used either"
        assert await answers_to(b, a, BlobRequest(NETWORK, held, 0, 1)) == answers[0][:1]
        assert shelf.looked_up[-1] == shelf.looked_up[0], "the same place each time"
