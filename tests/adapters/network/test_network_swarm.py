"""Large blobs between real hosts: in pieces, from several sources, handed on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from network_harness import QUICK, next_of, node, noise, ref_of, trio_test, until

from p2pfleet.adapters.network import NetworkConfig
from p2pfleet.adapters.network.streams import StreamFailed
from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.errors import Reject
from p2pfleet.core.model.ids import Cid, PeerId, cid_of
from p2pfleet.core.wire.messages import BlobRequest, Pieces
from p2pfleet.core.wire.names import PIECE_BYTES
from p2pfleet.ports import BlobNotFound, Disconnected

PIECES = 12
BIG = noise((PIECES - 1) * PIECE_BYTES + 4321, 30)
BAD = BIG[: 5 * PIECE_BYTES] + noise(PIECE_BYTES, 33) + BIG[6 * PIECE_BYTES :]
CONFIG = msgspec.structs.replace(QUICK, target_peers=4, lookup_first_s=60.0)
Open = Callable[..., FilePacks]


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[Open]:
    """Opens packs in folders of their own; ``wrong``: under that name lie other bytes."""
    known: list[FilePacks] = []

    def opener(name: str, data: bytes = b"", wrong: bytes = b"") -> FilePacks:
        one = FilePacks(tmp_path / name, 10**9, 0)
        known.append(one)
        if data:
            one.add(data)
        if wrong:
            located = one.locate(cid_of(data))
            assert located is not None
            located[0].write_bytes(wrong)
        return one

    yield opener
    for one in known:
        one.close()


@asynccontextmanager
async def fleet(
    shelves: Sequence[FilePacks], config: NetworkConfig = CONFIG
) -> AsyncIterator[list[Any]]:
    """Nodes 1, 2, ... on these packs, each connected with the first and the three before it."""
    async with AsyncExitStack() as stack:
        nodes: list[Any] = []
        for number, blobs in enumerate(shelves, 1):
            near = [*nodes[:1], *nodes[1:][-3:]]
            known = tuple(one.addresses[0] for one in near)
            opened = node(number, known, config=config, blobs=blobs)
            nodes.append(await stack.enter_async_context(opened))
            await until(lambda near=near: {one.peer for one in near} <= known_to(nodes[-1]))
        yield nodes


def known_to(one: Any) -> set[PeerId]:
    return {other.peer for other in one.peers()}


async def fetch(here: Any, blobs: FilePacks, sources: Sequence[Any]) -> PeerId:
    partial = blobs.partial(ref_of(BIG))
    source: PeerId = await here.bulk.fetch(partial, [one.peer for one in sources])
    assert blobs.read(cid_of(BIG)) == BIG
    return source


# ---- sharing the load ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bulk", "fetchers"), [(True, 10), (False, 4)], ids=["bulk channel", "libp2p streams"]
)
def test_those_who_fetch_share_what_one_source_has(
    packs: Open, bulk: bool, fetchers: int, capsys: Any
) -> None:
    @trio_test(90)
    async def run() -> None:
        shelves = [packs("0", BIG), *(packs(str(number)) for number in range(1, fetchers + 1))]
        config = msgspec.structs.replace(CONFIG, bulk=bulk)
        async with fleet(shelves, config) as nodes:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for here, blobs in list(zip(nodes, shelves, strict=True))[1:]:
                    near = [one for one in nodes if one.peer in known_to(here)]
                    nursery.start_soon(fetch, here, blobs, near)
            seconds = trio.current_time() - began
            sent = [one.bulk.given_bytes / len(BIG) for one in nodes]
        with capsys.disabled():
            shares = " ".join(f"{share:.2f}" for share in sent)
            print(f"\nsent, in sizes of the blob: {shares} (source first), {seconds:.1f} s")
        assert max(sent) <= 2.5
        assert round(sum(sent), 6) >= fetchers  # shares of the blob, as floats
        if fetchers > 4:
            assert sum(sent[1:]) > sum(sent) / 2, "the fetchers carried most of it"

    run()


@trio_test(60)
async def test_several_sources_send_at_the_same_time(packs: Open) -> None:
    shelves = [packs("a", BIG), packs("b", BIG), packs("c", BIG), packs("d")]
    async with fleet(shelves) as (a, b, c, d):
        gates = [trio.Event() for _ in range(3)]
        held_up = []
        for one, gate in zip((a, b, c), gates, strict=True):
            held_up.append(hold_up(one, gate))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, d, shelves[3], [a, b, c])
            for asked in held_up:
                await asked.wait()  # all three have been asked before any has answered
            for gate in gates:
                gate.set()


def hold_up(server: Any, gate: trio.Event) -> trio.Event:
    """Let a node answer requests for blobs only once ``gate`` is set; set when it was asked."""
    asked = trio.Event()
    answers = server.bulk._answers
    opened = answers.open

    async def held_up(peer: PeerId, request: BlobRequest) -> Any:
        asked.set()
        await gate.wait()
        return await opened(peer, request)

    answers.open = held_up
    return asked


@trio_test(60)
async def test_a_slow_source_does_not_hold_up_the_end(packs: Open) -> None:
    shelves = [packs("slow", BIG), packs("quick", BIG), packs("here")]
    async with fleet(shelves) as (slow, quick, here):
        asked = hold_up(slow, trio.Event())
        hold_up(quick, asked)  # else it may have given everything before the slow one is asked
        assert await fetch(here, shelves[2], [slow, quick]) == quick.peer
        assert asked.is_set()
        assert len(here.peers()) == 2, "slowness is nobody's fault"
        assert here.bulk._carrier._threads.borrowed_tokens == 0, "and nobody waits for it"


@trio_test(60)
async def test_a_source_that_goes_away_in_the_middle_is_replaced(packs: Open) -> None:
    shelves = [packs("a", BIG), packs("b", BIG), packs("here")]
    async with fleet(shelves) as (a, b, here):
        asked = hold_up(b, go := trio.Event())
        hold_up(a, asked)  # else it may have given everything before the other one is asked

        async def drop() -> None:
            await asked.wait()
            for connection in list(here._swarm.get_connections()):
                if connection.muxed_conn.peer_id == b._host.get_id():
                    await connection.close()
            go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            assert await fetch(here, shelves[2], [b, a]) == a.peer


@trio_test(60)
async def test_a_node_hands_on_what_it_has_while_it_fetches_the_rest(packs: Open) -> None:
    shelves = [packs("publisher", BIG), packs("first"), packs("second")]
    async with fleet(shelves) as (publisher, first, second):
        partial = shelves[1].partial(ref_of(BIG))
        pieces = partial.pieces()
        for piece in range(PIECES // 2):
            pieces.write(piece, BIG[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES])
        hold_up(publisher, go := trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.bulk.fetch, partial, [publisher.peer])
            await until(lambda: bool(first.bulk._answers._arriving._here))
            nursery.start_soon(fetch, second, shelves[2], [publisher, first])
            await until(lambda: first.bulk.given_bytes >= 5 * PIECE_BYTES)
            assert not shelves[1].has(cid_of(BIG))
            go.set()
        assert first.bulk._answers._arriving._here == {}


@trio_test(60)
async def test_a_range_that_is_not_here_yet_is_answered_as_absent(packs: Open) -> None:
    shelves = [packs("publisher", BIG), packs("first"), packs("second")]
    async with fleet(shelves) as (publisher, first, second):
        partial = shelves[1].partial(ref_of(BIG))
        partial.pieces().write(3, BIG[3 * PIECE_BYTES : 4 * PIECE_BYTES])
        hold_up(publisher, trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.bulk.fetch, partial, [publisher.peer])
            await until(lambda: bool(first.bulk._answers._arriving._here))
            got: list[bytes] = []

            async def ask(offset: int, length: int) -> bool:
                request = BlobRequest(second.bulk._carrier._network, cid_of(BIG), offset, length)
                found: bool = await second.bulk._carrier.receive(
                    first.peer, request, PIECE_BYTES, lambda block: got.append(bytes(block))
                )
                return found

            third = 3 * PIECE_BYTES
            assert await ask(third + 5, 700_000)
            assert b"".join(got) == BIG[third + 5 : third + 700_005]
            for offset, length in ((third - 1, 2), (third + PIECE_BYTES - 1, 2), (0, 9), (0, 0)):
                assert not await ask(offset, length)
            first.bulk._answers._may_fetch = lambda peer, cid: False
            assert not await ask(third, 1), "and what is denied is not here"
            question = PieceQuestion(second, cid_of(BIG))
            assert await question.to(first) == Pieces(False, b"", (), 0)
            nursery.cancel_scope.cancel()


class PieceQuestion:
    def __init__(self, asker: Any, cid: Cid, held: bytes = b"", waited_ms: int = 0) -> None:
        from p2pfleet.core.wire.messages import PiecesRequest

        self.asker = asker
        self.request = PiecesRequest(
            asker.bulk._carrier._network, cid, 0, len(BIG), held, 4, waited_ms
        )

    async def to(self, server: Any) -> Pieces:
        answer: Pieces = await self.asker.bulk._control.pieces(server.peer, self.request, 10.0)
        return answer


@trio_test(60)
async def test_pieces_go_to_each_other_first_and_again_to_those_who_waited(packs: Open) -> None:
    shelves = [packs("source", BIG), packs("b"), packs("c")]
    async with fleet(shelves) as (a, b, c):
        first = await PieceQuestion(b, cid_of(BIG)).to(a)
        assert first == Pieces(True, b"", (0, 1, 2, 3), 0)
        assert (await PieceQuestion(c, cid_of(BIG)).to(a)).take == (4, 5, 6, 7)
        late = b"\xf0\xff"  # all but what the other was given
        told = await PieceQuestion(c, cid_of(BIG), late).to(a)
        assert told == Pieces(True, b"", (), 1000)
        assert (await PieceQuestion(c, cid_of(BIG), late, 1000).to(a)).take == (0, 1, 2, 3)
        assert (await PieceQuestion(b, cid_of(BIG), late).to(a)).take == (0, 1, 2, 3), "again"
        assert await PieceQuestion(b, cid_of(b"no")).to(a) == Pieces(False, b"", (), 0)


# ---- kept over a restart -------------------------------------------------------------------------


@trio_test(60)
async def test_a_node_that_was_stopped_goes_on_with_the_pieces_that_are_missing(
    packs: Open,
) -> None:
    source = packs("source", BIG)
    config = msgspec.structs.replace(CONFIG, pieces_from_bytes=2**20)
    async with fleet([source, packs("here")], config) as (a, b):
        partial = packs("again").partial(ref_of(BIG))
        with trio.CancelScope() as scope:
            pieces = partial.pieces()
            write = pieces.write

            def counted(piece: int, data: Any) -> bool:
                if sum(pieces.held()) == 5:
                    trio.from_thread.run_sync(scope.cancel)
                    raise StreamFailed("stopped")
                return write(piece, data)

            pieces.write = counted  # type: ignore[method-assign]
            await b.bulk.fetch(partial, [a.peer])
        assert scope.cancelled_caught
        held = [piece for piece, there in enumerate(pieces.held()) if there]
        assert len(held) == 5
    here = packs("again")
    async with fleet([source, here], config) as (a, b):
        await fetch(b, here, [a])
        kept = sum(len(BIG[n * PIECE_BYTES :][:PIECE_BYTES]) for n in held)
        assert a.bulk.given_bytes == len(BIG) - kept, "only what was missing"


# ---- wrong bytes ---------------------------------------------------------------------------------


def rejects(here: Any) -> list[PeerId]:
    """Collects whom a node holds something against."""
    found: list[PeerId] = []
    report = here.bulk._fetcher._report

    def noted(peer: PeerId, verdict: Any) -> None:
        assert isinstance(verdict, Reject)
        found.append(peer)
        report(peer, verdict)

    here.bulk._fetcher._report = noted
    return found


@trio_test(60)
async def test_among_several_sources_the_one_with_wrong_bytes_is_found_out(packs: Open) -> None:
    shelves = [packs("a", BIG), packs("liar", BIG, BAD), packs("b", BIG), packs("here")]
    async with fleet(shelves) as (a, liar, b, here):
        blamed = rejects(here)
        # So that the liar surely sends the piece that it has spoilt.
        gates = trio.Event()
        for honest in (a, b):
            hold_up(honest, gates)
        partial = shelves[3].partial(ref_of(BIG))
        pieces = partial.pieces()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.bulk.fetch, partial, [one.peer for one in (liar, a, b)])
            await until(lambda: bool(pieces.held()[5]))
            gates.set()
        assert shelves[3].read(cid_of(BIG)) == BIG
        assert blamed == [liar.peer]
        assert {one.peer for one in here.peers()} >= {a.peer, b.peer}


@trio_test(60)
async def test_a_single_source_with_wrong_bytes_is_found_out(packs: Open) -> None:
    shelves = [packs("liar", BIG, BAD), packs("here")]
    strict = msgspec.structs.replace(CONFIG, reject_limit=1)
    async with fleet(shelves, strict) as (liar, here):
        partial = shelves[1].partial(ref_of(BIG))
        with pytest.raises(BlobNotFound, match="sent wrong bytes"):
            await here.bulk.fetch(partial, [liar.peer])
        assert (await next_of(here, Disconnected)).peer == liar.peer
        assert shelves[1].used_bytes == 0


@trio_test(60)
async def test_who_hands_on_what_it_could_not_check_is_not_blamed_but_asked_no_more(
    packs: Open,
) -> None:
    shelves = [packs("publisher", BIG), packs("dupe"), packs("here")]
    async with fleet(shelves) as (publisher, dupe, here):
        blamed = rejects(here)
        partial = shelves[1].partial(ref_of(BIG))
        pieces = partial.pieces()
        for piece in range(PIECES - 1):
            pieces.write(piece, BAD[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES])
        stop = hold_up(publisher, go := trio.Event())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dupe.bulk.fetch, partial, [publisher.peer])
            await stop.wait()
            mine = shelves[2].partial(ref_of(BIG))
            coming = mine.pieces()
            async with trio.open_nursery() as inner:
                inner.start_soon(here.bulk.fetch, mine, [publisher.peer, dupe.peer])
                await until(lambda: bool(coming.held()[5]))
                go.set()
        assert shelves[2].read(cid_of(BIG)) == BIG
        assert blamed == []
        assert list(here.bulk._fetcher._distrusted) == [(cid_of(BIG), dupe.peer)]


@trio_test(60)
async def test_wrong_pieces_from_before_a_restart_are_nobodys_fault(packs: Open) -> None:
    shelves = [packs("a", BIG), packs("here")]
    async with fleet(shelves) as (a, here):
        blamed = rejects(here)
        partial = shelves[1].partial(ref_of(BIG))
        pieces = partial.pieces()
        for piece in (2, 5):
            pieces.write(piece, BAD[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES])
        assert await here.bulk.fetch(partial, [a.peer]) == a.peer
        assert blamed == []
        assert shelves[1].read(cid_of(BIG)) == BIG


@trio_test(60)
async def test_a_large_blob_that_nobody_has_is_not_found_and_says_who_was_asked(
    packs: Open,
) -> None:
    shelves = [packs("a"), packs("b"), packs("here")]
    async with fleet(shelves) as (a, b, here):
        partial = shelves[2].partial(ref_of(BIG))
        with pytest.raises(BlobNotFound, match=r"has it not; .*has it not"):
            await here.bulk.fetch(partial, [a.peer, b.peer])
        with pytest.raises(BlobNotFound, match="nobody to ask"):
            await here.bulk.fetch(partial, [])
