"""Who is wanted is found and gets a place; a full node is full for nobody for ever."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import trio
from network_harness import QUICK, meet, node, trio_test, until

from p2pfleet.adapters.network.discovery.attending import Attending
from p2pfleet.core.effects import Want
from p2pfleet.core.model.ids import PeerId

KEY = b"\x12\x20" + hashlib.sha256(b"a shard").digest()
FAST = msgspec.structs.replace(QUICK, attend_every_s=0.1, attend_again_s=0.5, mdns=False)
LONELY = msgspec.structs.replace(FAST, target_peers=1)
FULL = msgspec.structs.replace(FAST, max_peers=3, target_peers=3, visit_s=0.5)


def peers_of(host: Any) -> set[PeerId]:
    return {one.peer for one in host.peers()}


async def watch_size(host: Any, sizes: list[int]) -> None:
    while True:
        sizes.append(len(host.peers()))
        await trio.sleep(0.02)


@trio_test()
async def test_who_provides_a_key_is_found_and_takes_the_place_of_who_is_not_wanted() -> None:
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(node(1, config=FAST))
        mates = [
            await stack.enter_async_context(node(number, way.addresses, config=LONELY))
            for number in (2, 3)
        ]
        full = await stack.enter_async_context(node(4, way.addresses, config=FULL))
        others = [
            await stack.enter_async_context(node(number, full.addresses, config=LONELY))
            for number in (5, 6)
        ]
        await until(lambda: len(full.peers()) == 3)
        sizes: list[int] = []
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(watch_size, full, sizes)
        for mate in mates:
            mate.attend((Want(KEY, 0, provide=True),))
        full.attend((Want(KEY, 2, provide=False),))
        wanted = {mate.peer for mate in mates}
        await until(lambda: wanted <= peers_of(full))
        assert len(peers_of(full) & {other.peer for other in others}) <= 1
        assert max(sizes) <= 3
        nursery.cancel_scope.cancel()


@trio_test()
async def test_a_full_node_makes_room_for_a_newcomer_in_time() -> None:
    full_for_a_while = msgspec.structs.replace(FULL, max_peers=2, room_every_s=1.0)
    async with (
        node(1, config=full_for_a_while) as full,
        node(2, full.addresses, config=LONELY) as first,
        node(3, full.addresses, config=LONELY) as second,
    ):
        await meet(full, first)
        await meet(full, second)
        async with node(4, full.addresses, config=LONELY) as newcomer:
            await until(lambda: newcomer.peer in peers_of(full))
            assert len(full.peers()) <= 2


@trio_test()
async def test_who_is_wanted_itself_is_found_by_its_name_and_stays() -> None:
    async with AsyncExitStack() as stack:
        way = await stack.enter_async_context(node(1, config=FAST))
        wanted = await stack.enter_async_context(node(2, way.addresses, config=LONELY))
        seeker = await stack.enter_async_context(node(3, way.addresses, config=LONELY))
        await until(lambda: way.peer in peers_of(wanted) and way.peer in peers_of(seeker))
        seeker.attend((Want(KEY, 0, False, whom=(wanted.peer,)),))
        await until(lambda: wanted.peer in peers_of(seeker))


class Dht:
    """Counts what it is asked, and knows two peers."""

    def __init__(self) -> None:
        self.provided: list[tuple[float, bytes]] = []
        self.asked: list[tuple[float, bytes]] = []

    async def provide(self, key: bytes) -> None:
        self.provided.append((trio.current_time(), key))

    async def find(self, key: bytes) -> dict[PeerId, list[str]]:
        self.asked.append((trio.current_time(), key))
        return {PeerId(bytes([n]) * 32): ["/ip4/127.0.0.1/tcp/1"] for n in (1, 2)}

    async def where(self, peer: PeerId) -> list[str]:
        self.asked.append((trio.current_time(), peer))
        return ["/ip4/127.0.0.1/tcp/3"] if peer == THREE else []


class Spot(msgspec.Struct, frozen=True):
    """Somebody who is connected."""

    peer: PeerId
    since: float


ONE, TWO, THREE = (PeerId(bytes([n]) * 32) for n in (1, 2, 3))


@trio_test()
async def test_the_dht_is_asked_for_what_is_lacking_only_and_rarely() -> None:
    dht = Dht()
    sought: list[dict[PeerId, list[str]]] = []
    config = msgspec.structs.replace(
        FAST, attend_every_s=0.1, attend_again_s=0.4, provide_pause_s=0.2
    )
    attending = Attending(config, dht, lambda peer: False, lambda peer: False, sought.append)
    keys = [bytes([n]) * 34 for n in range(5)]
    enough = Want(b"enough", 1, True, (THREE,))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attending.run)
        attending.attend((enough, *(Want(key, 2, True) for key in keys)))
        await trio.sleep(4.0)
        nursery.cancel_scope.cancel()
    assert {key for _, key in dht.asked} == set(keys)
    # Looked for once, again for news, and then ever more rarely.
    assert all(2 <= sum(one == key for _, one in dht.asked) <= 6 for key in keys)
    assert all(b - a >= 0.09 for (a, _), (b, _) in zip(dht.asked, dht.asked[1:], strict=False))
    assert {key for _, key in dht.provided} == {b"enough", *keys}
    gaps = zip(dht.provided, dht.provided[1:], strict=False)
    assert all(later - sooner >= 0.19 for (sooner, _), (later, _) in gaps)
    assert set(sought[-1]) == {ONE, TWO}


@trio_test()
async def test_who_is_wanted_is_never_displaced_and_whom_this_node_dialled_only_for_such() -> None:
    attending = Attending(
        msgspec.structs.replace(FAST, room_every_s=0.05),
        Dht(),
        lambda peer: True,
        lambda peer: peer == TWO,
        lambda peers: None,
    )
    here = [Spot(ONE, 1.0), Spot(TWO, 2.0)]
    assert attending.makes_room(THREE, here) is None  # not at once
    await trio.sleep(0.06)
    assert attending.makes_room(THREE, here) == ONE
    attending.attend((Want(KEY, 2, False, (ONE,)),))
    await trio.sleep(0.06)
    assert attending.makes_room(THREE, here) is None
    attending.attend((Want(KEY, 2, False, (ONE, THREE)),))
    assert attending.makes_room(THREE, here) == TWO
    assert attending.makes_room(THREE, here[:1]) is None
    attending.attend((Want(KEY, 1, False, (ONE,), whom=(TWO,)),))
    assert attending.makes_room(THREE, here) is None, "enough of the key, and the other is wanted"


@trio_test()
async def test_whoever_is_wanted_by_name_is_asked_for_once_and_dialled_where_it_is() -> None:
    dht, sought = Dht(), list[dict[PeerId, list[str]]]()
    config = msgspec.structs.replace(FAST, attend_every_s=0.05, attend_again_s=30.0)
    attending = Attending(config, dht, lambda peer: False, lambda peer: False, sought.append)
    lost = PeerId(bytes([9]) * 32)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attending.run)
        attending.attend((Want(KEY, 0, False, whom=(THREE, lost)),))
        await until(lambda: sought[-1] == {THREE: ["/ip4/127.0.0.1/tcp/3"]} and len(dht.asked) == 2)
        attending.attend((Want(KEY, 0, False, whom=(THREE, lost)),))
        await trio.sleep(0.2)
        nursery.cancel_scope.cancel()
    assert [key for _, key in dht.asked] == [THREE, lost]
