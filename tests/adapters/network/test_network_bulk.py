"""The bulk channel between real hosts: who gets in, what is refused, what falls back."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
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
    seed_of,
    trio_test,
    until,
)

from p2pfleet.adapters.network.bulk.answers import encoded
from p2pfleet.adapters.network.bulk.certificate import (
    OwnCertificate,
    bound_peer,
    check,
    dialling_context,
)
from p2pfleet.adapters.network.bulk.tickets import OPENING_BYTES, Tickets, opening
from p2pfleet.adapters.network.bulk.tls_socket import TlsSocket
from p2pfleet.adapters.network.streams import StreamFailed, TooLong
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, cid_of
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import BlobHeader, BlobRequest, NoTicket, Ticket, TicketRequest
from p2pfleet.ports import BlobNotFound, Disconnected

DATA = noise(3_000_000, 40)
ABSENT = encoded(BlobHeader(found=False, length=0))
STRICT = msgspec.structs.replace(QUICK, reject_limit=1)


def identity(number: int) -> tuple[PeerId, Callable[[bytes], bytes]]:
    key = SigningKey(seed_of(number))
    return PeerId(bytes(key.verify_key)), lambda data: key.sign(data).signature


async def ticket_for(asker: Any, server: Any) -> Ticket:
    answer = await asker.bulk._control.ask(server.peer, TicketRequest(NETWORK), 10.0)
    assert isinstance(answer, Ticket)
    return answer


class Caller:
    """A client of the bulk channel that says what it is told to. Blocks."""

    def __init__(self, port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 10)
        self.tls = dialling_context().wrap_socket(plain)

    def open(self, ticket: Ticket, sign: Callable[[bytes], bytes]) -> Caller:
        self.tls.sendall(opening(ticket.ticket, ticket.certificate, sign))
        return self

    def ask(self, cid: Cid, offset: int = 0, length: int = 1) -> Caller:
        self.tls.sendall(encoded(BlobRequest(NETWORK, cid, offset, length)))
        return self

    def read(self, length: int) -> bytes:
        """So many bytes, or what comes before the end."""
        data = b""
        try:
            while len(data) < length and (part := self.tls.recv(length - len(data))):
                data += part
        except OSError:
            pass
        return data

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.tls.close()


async def answer_to(port: int, *what: Any) -> bytes:
    """What a server says to an opening and a request for one byte."""

    def talk() -> bytes:
        with Caller(port) as caller:
            return caller.open(*what).ask(cid_of(DATA)).read(len(ABSENT) + 1)

    return await trio.to_thread.run_sync(talk)


async def called(ticket: Ticket) -> Caller:
    """Node 2 on the bulk channel, with a ticket."""
    return await trio.to_thread.run_sync(lambda: Caller(ticket.port).open(ticket, identity(2)[1]))


def shelf_of(folder: Path, data: bytes, name: Cid | None = None) -> Shelf:
    folder.mkdir(exist_ok=True)
    shelf = Shelf(folder)
    shelf.put(data, name)
    return shelf


# ---- the way it is meant -----------------------------------------------------------------------


@trio_test(30)
async def test_a_large_blob_travels_beside_libp2p_and_the_connection_is_used_again(
    tmp_path: Path,
) -> None:
    shelf = shelf_of(tmp_path, DATA)
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        b.bulk._carrier._fallback = None
        for _ in range(3):
            partial = MemoryPartial(ref_of(DATA))
            assert await b.bulk.fetch(partial, [a.peer]) == a.peer
            assert bytes(partial.data) == DATA
            assert len(a.bulk._server._open[b.peer]) == 1
        assert a.bulk.given_bytes == 3 * len(DATA)
        # The other way as well, over the libp2p connection that it did not dial.
        assert b.bulk._carrier._host_of(a.peer) == a.bulk._carrier._host_of(b.peer) == "127.0.0.1"


@trio_test(30)
async def test_the_bulk_connections_end_with_the_last_libp2p_connection(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path, DATA)
    before = threading.active_count()  # trio keeps threads of earlier tests for a while
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        await b.bulk.fetch(MemoryPartial(ref_of(DATA)), [a.peer])
        assert a.bulk._server._open
        for connection in a._swarm.get_connections():
            await connection.close()
        assert (await next_of(a, Disconnected)).peer == b.peer
        await until(lambda: not a.bulk._server._open)
    assert threading.active_count() < before + 20, "threads end with what they work for"


# ---- who gets in -------------------------------------------------------------------------------


@trio_test(30)
async def test_a_ticket_opens_one_connection_for_the_peer_it_was_given_to(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path, DATA)
    _, b_signs = identity(2)
    _, c_signs = identity(3)
    good = encoded(BlobHeader(found=True, length=1)) + DATA[:1]
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        ticket = await ticket_for(b, a)
        wrong = msgspec.structs.replace(ticket, ticket=bytes(32))
        other = msgspec.structs.replace(ticket, certificate=bytes(32))
        for said in ((wrong, b_signs), (ticket, c_signs), (other, b_signs)):
            assert await answer_to(ticket.port, *said) == b"", "refused before anything is said"
        assert await answer_to(ticket.port, ticket, b_signs) == good, "nobody else could use it up"
        await ticket_for(b, a)
        assert await answer_to(ticket.port, ticket, b_signs) == b"", "it is used up"


@trio_test(30)
async def test_a_ticket_expires(tmp_path: Path) -> None:
    config = msgspec.structs.replace(QUICK, bulk_ticket_s=0.3)
    shelf = shelf_of(tmp_path, DATA)
    async with node(1, blobs=shelf, config=config) as a, node(2, a.addresses) as b:
        await meet(a, b)
        ticket = await ticket_for(b, a)
        await trio.sleep(0.35)
        assert await answer_to(ticket.port, ticket, identity(2)[1]) == b""


@trio_test(30)
async def test_the_tickets_and_connections_of_a_peer_are_bounded(tmp_path: Path) -> None:
    async with node(1, blobs=shelf_of(tmp_path, DATA)) as a, node(2, a.addresses) as b:
        await meet(a, b)
        most = QUICK.bulk_connections_per_peer
        tickets = [await ticket_for(b, a) for _ in range(most)]
        more = TicketRequest(NETWORK)
        assert isinstance(await b.bulk._control.ask(a.peer, more, 10.0), NoTicket)
        callers = []
        for ticket in tickets:
            callers.append(await called(ticket))
        await until(lambda: len(a.bulk._server._open.get(b.peer, ())) == most)
        assert isinstance(await b.bulk._control.ask(a.peer, more, 10.0), NoTicket)
        # Without a ticket out, nobody even shakes hands.
        with pytest.raises(OSError, match=r"reset|EOF|closed|Broken"):
            await trio.to_thread.run_sync(Caller, tickets[0].port)
        for caller in callers:
            caller.tls.close()
        await until(lambda: not a.bulk._server._open)
        stranger = TicketRequest(NetworkId(bytes(32)))
        assert isinstance(await b.bulk._control.ask(a.peer, stranger, 10.0), NoTicket)


@trio_test(30)
async def test_ends_that_stand_still_are_dropped(tmp_path: Path) -> None:
    config = msgspec.structs.replace(
        QUICK, bulk_handshake_s=0.4, bulk_idle_s=0.4, blob_chunk_s=0.4, bulk_ticket_s=60.0
    )
    shelf = shelf_of(tmp_path, noise(30_000_000, 41), cid_of(DATA))
    async with node(1, blobs=shelf, config=config) as a, node(2, a.addresses) as b:
        await meet(a, b)
        ticket = await ticket_for(b, a)

        def ended(end: socket.socket) -> bool:
            end.settimeout(10)
            try:
                while end.recv(65536):
                    pass
            except ConnectionError:
                pass
            return True

        def half_open() -> bool:
            with socket.create_connection(("127.0.0.1", ticket.port)) as silent:
                return ended(silent)

        def half_a_handshake() -> bool:
            with socket.create_connection(("127.0.0.1", ticket.port)) as silent:
                silent.sendall(b"\x16\x03\x01\x02\x00")
                return ended(silent)

        def no_opening() -> bool:
            with Caller(ticket.port) as caller:
                caller.tls.sendall(bytes(OPENING_BYTES - 1))
                return ended(caller.tls)

        def no_request() -> bool:
            with Caller(ticket.port).open(ticket, identity(2)[1]) as caller:
                return ended(caller.tls)

        for stands_still in (half_open, half_a_handshake, no_opening, no_request):
            assert await trio.to_thread.run_sync(stands_still), stands_still.__name__
        # One that asks for much and reads nothing is dropped as well.
        caller = await called(await ticket_for(b, a))
        caller.ask(cid_of(DATA), 0, 30_000_000)
        await until(lambda: bool(a.bulk._server._open))
        await until(lambda: not a.bulk._server._open)
        caller.tls.close()


@trio_test(30)
async def test_malformed_requests_are_held_against_the_peer(tmp_path: Path) -> None:
    for number, said in enumerate((b"\xff\xff\xff\xff", encoded(ABSENT), encoded("x" * 20))):
        shelf = shelf_of(tmp_path / str(number), DATA)
        async with node(1, blobs=shelf, config=STRICT) as a, node(2, a.addresses) as b:
            await meet(a, b)
            ticket = await ticket_for(b, a)
            caller = await called(ticket)
            caller.tls.sendall(said)
            assert (await next_of(a, Disconnected)).peer == b.peer
            caller.tls.close()


@trio_test(30)
async def test_a_blob_that_is_denied_looks_like_one_that_is_not_here(tmp_path: Path) -> None:
    held = cid_of(DATA)
    shelf = shelf_of(tmp_path, DATA)
    requests = [(0, len(DATA)), (0, 0), (5, 1), (0, len(DATA) + 1), (10**7, 3)]

    def may_fetch(peer: PeerId, cid: Cid) -> bool:
        return cid != held

    async with node(1, blobs=shelf, may_fetch=may_fetch) as a, node(2, a.addresses) as b:
        await meet(a, b)
        answers = []
        for cid in (held, cid_of(b"not here")):
            ticket = await ticket_for(b, a)

            def talk(cid: Cid = cid, ticket: Ticket = ticket) -> list[bytes]:
                with Caller(ticket.port).open(ticket, identity(2)[1]) as caller:
                    return [caller.ask(cid, *one).read(len(ABSENT)) for one in requests]

            answers.append(await trio.to_thread.run_sync(talk))
        assert answers[0] == answers[1] == [ABSENT] * len(requests)
        assert len(shelf.looked_up) == 2 * len(requests)
        assert held not in shelf.looked_up
        with pytest.raises(BlobNotFound, match="has it not"):
            await b.bulk.fetch(MemoryPartial(ref_of(DATA)), [a.peer])


# ---- falling back ------------------------------------------------------------------------------


@trio_test(30)
async def test_where_the_port_is_closed_blobs_come_over_libp2p(tmp_path: Path) -> None:
    shelf = shelf_of(tmp_path, DATA)
    async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
        await meet(a, b)
        with socket.create_server(("127.0.0.1", 0)) as gone:
            a.bulk._server.port = gone.getsockname()[1]
        for _ in range(2):
            partial = MemoryPartial(ref_of(DATA))
            assert await b.bulk.fetch(partial, [a.peer]) == a.peer
            assert bytes(partial.data) == DATA
        assert a.peer in b.bulk._carrier._not_before, "and it is not tried each time"
        assert b._bans.rejects(a.peer) == 0, "bad luck is nobody's fault"


@trio_test(30)
async def test_a_port_that_is_taken_costs_the_bulk_channel_only(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = msgspec.structs.replace(QUICK, bulk_port=taken.getsockname()[1])
        shelf = shelf_of(tmp_path, DATA)
        async with node(1, blobs=shelf, config=config) as a, node(2, a.addresses) as b:
            await meet(a, b)
            assert a.bulk._server.port == 0
            assert await b.bulk.fetch(MemoryPartial(ref_of(DATA)), [a.peer]) == a.peer


class Impostor:
    """Something else that listens where a peer said that it does. Says what it is told to."""

    def __init__(self, own: OwnCertificate, answer: bytes = b"", stay: bool = False) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.openings: list[bytes] = []
        self.done = threading.Event()

        def serve() -> None:
            try:
                plain, _ = self.listening.accept()
                plain.settimeout(10)
                with own.context.wrap_socket(plain, server_side=True) as tls:
                    self.openings.append(tls.recv(OPENING_BYTES))
                    if answer or stay:
                        tls.recv(300)
                        tls.sendall(answer)
                    if stay:
                        self.done.wait(10)
            except OSError:
                pass

        self.thread = threading.Thread(target=serve)
        self.thread.start()

    def close(self) -> None:
        self.done.set()
        self.listening.close()
        self.thread.join(10)


def lead_to(server: Any, impostor: Impostor, certificate: bytes) -> None:
    """Let a node's tickets lead to an impostor."""
    server.bulk._server.port = impostor.port
    given = server.bulk._server._certificate
    given.digest = certificate


@pytest.mark.parametrize("same_digest", [True, False], ids=["announced", "another"])
def test_a_certificate_of_another_identity_is_not_talked_to(
    tmp_path: Path, same_digest: bool
) -> None:
    @trio_test(30)
    async def run() -> None:
        shelf = shelf_of(tmp_path, DATA)
        foreign = OwnCertificate(*identity(9))
        async with node(1, blobs=shelf) as a, node(2, a.addresses) as b:
            await meet(a, b)
            impostor = Impostor(foreign)
            try:
                if same_digest:
                    lead_to(a, impostor, foreign.digest)
                else:
                    a.bulk._server.port = impostor.port
                partial = MemoryPartial(ref_of(DATA))
                assert await b.bulk.fetch(partial, [a.peer]) == a.peer
                assert bytes(partial.data) == DATA, "over libp2p"
            finally:
                impostor.close()
            assert b"".join(impostor.openings) == b"", "it was not shown a ticket"

    run()


FOUND = encoded(BlobHeader(found=True, length=len(DATA)))
LIES = {
    "wrong bytes": (FOUND + noise(len(DATA), 42), "sent wrong bytes", True),
    "too few": (FOUND + DATA[:-1], "stopped sending", False),
    "none": (FOUND, "stopped sending", False),
    "half a header": (FOUND[:3], "stopped sending", False),
    "another length": (encoded(BlobHeader(True, len(DATA) - 1)), "instead of", True),
    "no header": (encoded([1, 2, 3]), "malformed", True),
    "a long header": (b"\x00\x01\x00\x00", "at most 64", True),
}


@pytest.mark.parametrize("lie", LIES, ids=list(LIES))
def test_a_source_that_lies_is_left_and_blamed_for_what_it_did(tmp_path: Path, lie: str) -> None:
    answer, why, blamed = LIES[lie]

    @trio_test(30)
    async def run() -> None:
        async with node(1) as a, node(2, a.addresses, config=STRICT) as b:
            await meet(a, b)
            theirs = OwnCertificate(*identity(1))
            impostor = Impostor(theirs, answer)
            try:
                lead_to(a, impostor, theirs.digest)
                partial = MemoryPartial(ref_of(DATA))
                with pytest.raises(BlobNotFound, match=why):
                    await b.bulk.fetch(partial, [a.peer])
            finally:
                impostor.close()
            if blamed:
                assert (await next_of(b, Disconnected)).peer == a.peer
            else:
                assert len(b.peers()) == 1
            assert not b.bulk._carrier._idle.get(a.peer)

    run()


@trio_test(30)
async def test_bytes_beyond_the_end_are_not_taken_for_the_next_answer(tmp_path: Path) -> None:
    async with node(1, blobs=shelf_of(tmp_path, DATA)) as a, node(2, a.addresses) as b:
        await meet(a, b)
        theirs = OwnCertificate(*identity(1))
        impostor = Impostor(theirs, FOUND + DATA + ABSENT * 3)
        port, digest = a.bulk._server.port, a.bulk._server._certificate.digest
        try:
            lead_to(a, impostor, theirs.digest)
            assert await b.bulk.fetch(MemoryPartial(ref_of(DATA)), [a.peer]) == a.peer
        finally:
            impostor.close()
        a.bulk._server.port, a.bulk._server._certificate.digest = port, digest
        again = MemoryPartial(ref_of(DATA))
        assert await b.bulk.fetch(again, [a.peer]) == a.peer
        assert bytes(again.data) == DATA


@trio_test(30)
async def test_a_source_that_stands_still_is_left_in_time_and_the_next_continues(
    tmp_path: Path,
) -> None:
    config = msgspec.structs.replace(QUICK, blob_chunk_s=0.5)
    shelf = shelf_of(tmp_path, DATA)
    async with (
        node(1) as a,
        node(2, a.addresses, blobs=shelf) as b,
        node(3, a.addresses, config=config) as c,
    ):
        await meet(a, b, c)
        theirs = OwnCertificate(*identity(1))
        impostor = Impostor(theirs, FOUND + DATA[:1_500_000], stay=True)
        try:
            lead_to(a, impostor, theirs.digest)
            partial = MemoryPartial(ref_of(DATA))
            assert await c.bulk.fetch(partial, [a.peer, b.peer]) == b.peer
        finally:
            impostor.close()
        assert partial.restarts == 0
        assert b.bulk.given_bytes == 1_500_000, "only what was missing"


@trio_test(30)
async def test_a_fetch_that_is_cancelled_ends_at_once_and_leaves_no_thread(tmp_path: Path) -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        theirs = OwnCertificate(*identity(1))
        impostor = Impostor(theirs, FOUND + DATA[:1_500_000], stay=True)
        try:
            lead_to(a, impostor, theirs.digest)
            partial = MemoryPartial(ref_of(DATA))
            with trio.CancelScope() as scope:
                partial.on_write = lambda: trio.from_thread.run_sync(scope.cancel)
                await b.bulk.fetch(partial, [a.peer])
            began = trio.current_time()
            assert scope.cancelled_caught
            assert trio.current_time() - began < 1.0
            assert b.bulk._carrier._threads.borrowed_tokens == 0
            assert 0 < partial.present <= 1_500_000, "what came is kept"
        finally:
            impostor.close()


# ---- certificates and tickets ------------------------------------------------------------------


def test_a_certificate_says_whose_it_is_and_any_change_of_it_is_noticed() -> None:
    peer, sign = identity(1)
    own = OwnCertificate(peer, sign)
    shown = certificate_of(own)
    assert hashlib.sha256(shown).digest() == own.digest
    assert bound_peer(shown) == peer
    check(shown, peer, own.digest)
    for wrong in (
        (None, peer, own.digest),
        (shown, identity(2)[0], own.digest),
        (shown, peer, b""),
    ):
        with pytest.raises(Malformed):
            check(*wrong)
    with pytest.raises(Malformed, match="did not sign"):
        bound_peer(certificate_of(OwnCertificate(identity(2)[0], sign)))


def certificate_of(own: OwnCertificate) -> bytes:
    """What a dialler is shown."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with own.context.wrap_socket(theirs, server_side=True) as tls:
            tls.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with dialling_context().wrap_socket(ours) as tls:
        shown = tls.getpeercert(binary_form=True)
    thread.join(10)
    assert shown is not None
    return shown


SHOWN = certificate_of(OwnCertificate(*identity(1)))


@given(at=st.integers(0, len(SHOWN) - 1), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_or_a_cut_leaves_no_certificate_of_that_peer(
    at: int, bit: int, cut: bool
) -> None:
    data = bytearray(SHOWN)
    data[at] ^= 1 << bit
    try:
        peer = bound_peer(bytes(data[:at]) if cut else bytes(data))
    except Malformed:
        return
    raise AssertionError(f"taken for one of {peer.hex()}")


@given(
    acts=st.lists(
        st.one_of(
            st.tuples(st.just("issue"), st.integers(0, 3)),
            st.tuples(st.just("redeem"), st.integers(0, 40), st.integers(0, 3)),
            st.tuples(st.just("wait"), st.floats(0.0, 12.0)),
            st.tuples(st.just("withdraw"), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
@settings(max_examples=60, deadline=None)
def test_a_ticket_is_good_once_in_time_and_for_its_owner_only(acts: list[Any]) -> None:
    now = [100.0]
    certificate = bytes(range(32))
    tickets = Tickets(certificate, 10.0, most=6, most_per_peer=3, now=lambda: now[0])
    peers = [identity(number) for number in range(4)]
    out: list[list[Any]] = []  # [ticket, owner, until, good]
    for act in acts:
        match act:
            case ("issue", owner):
                ticket = tickets.issue(peers[owner][0])
                alive = [one for one in out if one[3] and one[2] > now[0]]
                full = len(alive) >= 6 or sum(one[1] == owner for one in alive) >= 3
                assert (ticket is None) == full
                if ticket is not None:
                    out.append([ticket, owner, now[0] + 10.0, True])
            case ("redeem", number, who) if out:
                one = out[number % len(out)]
                got = tickets.redeem(opening(one[0], certificate, peers[who][1]))
                good = one[3] and one[1] == who and now[0] < one[2]
                assert got == (peers[who][0] if good else None)
                if one[1] == who:
                    one[3] = False
            case ("wait", seconds):
                now[0] += seconds
            case ("withdraw", owner):
                tickets.withdraw(peers[owner][0])
                for one in out:
                    one[3] &= one[1] != owner
        assert len(tickets) <= 6


# ---- the threads' side of a connection -----------------------------------------------------------


def pair() -> tuple[TlsSocket, Any]:
    """A dialler for threads, and the server's end of it."""
    ours, theirs = socket.socketpair()
    own = OwnCertificate(*identity(1))
    ends: list[Any] = []
    thread = threading.Thread(
        target=lambda: ends.append(own.context.wrap_socket(theirs, server_side=True))
    )
    thread.start()
    # A socket pair has no Nagle's algorithm to switch off.
    tls = TlsSocket.__new__(TlsSocket)
    tls._tls = dialling_context().wrap_socket(ours)
    tls._tls.settimeout(5)
    tls._buffer, tls._working, tls._over = None, False, False
    thread.join(10)
    return tls, ends[0]


@given(
    sizes=st.lists(st.integers(0, 70_000), max_size=6),
    block=st.integers(1, 50_000),
    missing=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_blocks_come_whole_and_in_order_however_the_bytes_come(
    sizes: list[int], block: int, missing: int
) -> None:
    reader, writer = pair()
    data = os.urandom(sum(sizes))
    length = len(data) + missing

    def write() -> None:
        at = 0
        for size in sizes:
            writer.sendall(data[at : at + size])
            at += size
        writer.close()

    thread = threading.Thread(target=write)
    thread.start()
    blocks: list[bytes] = []

    def keep(part: memoryview) -> None:
        blocks.append(bytes(part))

    if missing:
        with pytest.raises(StreamFailed):
            reader.receive_blocks(length, block, keep)
    else:
        reader.receive_blocks(length, block, keep)
        assert all(len(one) == block for one in blocks[:-1])
    assert b"".join(blocks) == data
    thread.join(10)
    reader._tls.close()


@given(said=st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_whatever_is_said_a_message_is_read_refused_or_missing(said: bytes) -> None:
    reader, writer = pair()
    writer.sendall(said)
    writer.close()
    length = int.from_bytes(said[:4], "big")
    try:
        message = reader.receive_message(256)
    except TooLong:
        assert len(said) >= 4
        assert not 0 < length <= 256
    except StreamFailed:
        assert len(said) < 4 or len(said) < 4 + length
    else:
        assert message == said[4 : 4 + length]
    reader._tls.close()


def test_a_request_says_what_it_wants_in_the_form_of_the_stream() -> None:
    request = BlobRequest(NETWORK, cid_of(DATA), 1, 2)
    data = encoded(request)
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert codec.decode(data[4:], BlobRequest, 256) == request
