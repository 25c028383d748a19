"""Large blobs between real hosts: in pieces, from several sources, handed on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from network_harness import QUICK, Shelf, meet, node, noise, ref_of, trio_test

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.model.ids import Cid, cid_of
from p2pfleet.core.wire.names import PIECE_BYTES

BIG = noise(12 * PIECE_BYTES + 4321, 30)
STRICT = msgspec.structs.replace(QUICK, reject_limit=1)
Open = Callable[..., FilePacks]


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[Open]:
    known: list[FilePacks] = []

    def opener(name: str = "packs") -> FilePacks:
        known.append(FilePacks(tmp_path / name, 10**9, 0))
        return known[-1]

    yield opener
    for one in known:
        one.close()


def shelf_with(folder: Path, data: bytes, name: Cid | None = None) -> Shelf:
    folder.mkdir()
    shelf = Shelf(folder)
    shelf.put(data, name)
    return shelf


@pytest.mark.parametrize("bulk", [True, False], ids=["bulk channel", "libp2p streams"])
def test_ten_fetchers_share_what_one_source_has(packs: Open, bulk: bool, capsys: Any) -> None:
    config = msgspec.structs.replace(QUICK, bulk=bulk)
    data = noise(24 * PIECE_BYTES if bulk else 12 * PIECE_BYTES, 31)

    @trio_test(90)
    async def run() -> None:
        async with AsyncExitStack() as stack:
            source = packs("source")
            source.add(data)
            first = await stack.enter_async_context(node(1, config=config, blobs=source))
            nodes = [first]
            for number in range(2, 12):
                nodes.append(
                    await stack.enter_async_context(
                        node(
                            number,
                            tuple(one.addresses[0] for one in nodes),
                            config=config,
                            blobs=packs(str(number)),
                        )
                    )
                )
            t0 = trio.current_time()
            await meet(*nodes)
            print("met", trio.current_time() - t0)

            async def fetch(place: int) -> None:
                sources = [one.peer for one in nodes if one is not nodes[place]]
                partial = nodes[place]._blobs._answers._blobs.partial(ref_of(data))
                await nodes[place].bulk.fetch(partial, sources)

            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for place in range(1, 11):
                    nursery.start_soon(fetch, place)
            seconds = trio.current_time() - began
            for one in nodes:
                assert one._blobs._answers._blobs.read(cid_of(data)) == data
            sent = [one.bulk.given_bytes / len(data) for one in nodes]
            with capsys.disabled():
                shares = " ".join(f"{share:.2f}" for share in sent)
                print(f"\nsent, in sizes of the blob: {shares} (source first), {seconds:.1f} s")
            assert max(sent) <= 2.5
            assert sum(sent[1:]) > sum(sent) / 2, "the fetchers carried most of it"

    run()
