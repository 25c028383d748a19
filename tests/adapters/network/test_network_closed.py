"""Closed networks between real hosts on loopback: strangers are refused in the handshake."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.network.exceptions import SwarmException
from multiaddr import Multiaddr
from nacl.secret import SecretBox
from nacl.signing import SigningKey
from network_harness import Book, meet, next_of, node, part, seed_of, trio_test, until

from p2pfleet.adapters.network.guard.members import NO_MEMBER, WRONG_KEY, NotAMember
from p2pfleet.adapters.network.guard.swarm_key import (
    GREETING,
    ProtectedConnection,
    WrongKey,
    hsalsa20,
    key_stream,
)
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import Connected, Received

KEY = bytes(range(32))


def peer(number: int) -> PeerId:
    return PeerId(bytes(SigningKey(seed_of(number)).verify_key))


class Gate:
    """Admits the peers of these numbers, and whoever brings the right word."""

    def __init__(self, *numbers: int, word: bytes = b"", shows: bytes = b"") -> None:
        self.members = {peer(number) for number in numbers}
        self.word = word
        self.shows = shows
        self.shown: list[tuple[PeerId, bytes]] = []

    def admits(self, peer: PeerId) -> bool:
        return peer in self.members

    def proves(self, peer: PeerId, proof: bytes) -> bool:
        self.shown.append((peer, proof))
        if not self.word or proof != self.word:
            return False
        self.members.add(peer)
        return True

    def proof(self) -> bytes:
        return self.shows


# ---- the cipher ------------------------------------------------------------------------------


def test_the_stream_is_the_one_that_nacl_uses_whatever_the_writes_are() -> None:
    # libsodium's box leaves out the first 32 bytes of the stream, with which it makes the tag.
    nonce = secrets.token_bytes(24)
    expected = SecretBox(KEY).encrypt(bytes(1000), nonce).ciphertext[16:]
    encrypt = key_stream(KEY, nonce)
    pieces = [encrypt(bytes(size)) for size in (1, 31, 5, 64, 128, 3, 800)]
    assert b"".join(pieces)[32:] == expected[:1000]


def test_the_subkey_is_the_published_one() -> None:
    # The example of the paper on XSalsa20, which NaCl's own tests use as well.
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert hsalsa20(shared, bytes(16)).hex() == (
        "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389"
    )


class Wire:
    """One end of a raw connection over a memory pipe that hands out one byte at a time."""

    is_initiator = True

    def __init__(self, stream: Any, at_once: int) -> None:
        self.stream = stream
        self._at_once = at_once

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = await self.stream.receive_some(min(n or self._at_once, self._at_once))
        return data

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> None:
        return None


@pytest.mark.parametrize("at_once", [1, 7, 4096])
def test_what_one_side_writes_the_other_reads_however_it_is_cut(at_once: int) -> None:
    async def run() -> None:
        left, right = trio.testing.memory_stream_pair()
        wrong: list[str] = []
        one, two = (
            ProtectedConnection(Wire(end, at_once), KEY, lambda: wrong.append("wrong"))
            for end in (left, right)
        )
        with trio.fail_after(10):
            sent = GREETING + bytes(range(256)) * 3
            await one.write(sent[:5])
            await one.write(sent[5:])
            got = b""
            while len(got) < len(sent):
                got += await two.read(100)
            assert got == sent
            await left.aclose()
            assert await two.read(10) == b""
        assert wrong == []

    trio.run(run)


@pytest.mark.parametrize("first", [GREETING + bytes(24), bytes(4096), b"x" * 25])
def test_whoever_has_no_key_is_found_out_by_its_first_bytes(first: bytes) -> None:
    async def run() -> None:
        left, right = trio.testing.memory_stream_pair()
        wrong: list[str] = []
        protected = ProtectedConnection(Wire(right, 4096), KEY, lambda: wrong.append("wrong"))
        with trio.fail_after(10):
            await left.send_all(first)
            with pytest.raises(WrongKey):
                await protected.read(4096)
        assert wrong == ["wrong"]

    trio.run(run)


# ---- hosts with a swarm key ------------------------------------------------------------------


@trio_test()
async def test_hosts_with_one_key_talk() -> None:
    async with node(1, swarm_key=KEY) as a, node(2, a.addresses, swarm_key=KEY) as b:
        await meet(a, b)
        await a.send(b.peer, bytes(60_000))
        assert len((await next_of(b, Received)).data) == 60_000


@pytest.mark.parametrize("key", [None, bytes(32)])
def test_a_host_without_the_key_is_refused_and_others_still_come(key: bytes | None) -> None:
    @trio_test()
    async def run() -> None:
        async with node(1, swarm_key=KEY) as a, node(2, a.addresses, swarm_key=key) as b:
            await until(lambda: a.refused.get(WRONG_KEY, 0) >= 1)
            assert b.peers() == ()
            async with node(3, a.addresses, swarm_key=KEY) as c:
                await meet(a, c)
                assert [one.peer for one in a.peers()] == [c.peer]

    run()


@trio_test()
async def test_a_host_with_a_key_dials_one_without_and_both_live_on() -> None:
    async with node(1) as a, node(2, a.addresses, swarm_key=KEY) as b:
        await until(lambda: b.refused.get(WRONG_KEY, 0) >= 1)
        assert a.peers() == ()
        async with node(3, a.addresses) as c:
            await meet(a, c)


@trio_test()
async def test_garbage_before_the_key_does_not_end_a_node() -> None:
    async with node(1, swarm_key=KEY) as a:
        host, port = a.addresses[0].split("/")[2], int(a.addresses[0].split("/")[4])
        for garbage in (b"", b"\xff" * 50, GREETING, secrets.token_bytes(100_000), bytes(24)):
            stream = await trio.open_tcp_stream(host, port)
            try:
                await stream.send_all(garbage)
                if len(garbage) > 24:
                    with trio.move_on_after(5) as scope:
                        while await stream.receive_some(65536):
                            pass
                    assert not scope.cancelled_caught, "the node keeps the connection"
            except trio.BrokenResourceError:
                pass  # it was refused while we were still sending
            finally:
                await stream.aclose()
        assert a.refused[WRONG_KEY] == 3
        async with node(2, a.addresses, swarm_key=KEY) as b:
            await meet(a, b)


# ---- hosts with members ----------------------------------------------------------------------


@trio_test()
async def test_members_meet() -> None:
    gate = Gate(1, 2)
    async with node(1, gate=gate) as a, node(2, a.addresses, gate=gate) as b:
        await meet(a, b)
    assert gate.shown == []


@trio_test()
async def test_a_stranger_is_refused_before_a_muxer_and_is_never_reported() -> None:
    muxed: list[Any] = []
    async with node(1, gate=Gate(1, 2)) as a:
        upgrade = a._swarm.upgrader.upgrade_connection

        async def watched(*what: Any) -> Any:
            muxed.append(what)
            return await upgrade(*what)

        a._swarm.upgrader.upgrade_connection = watched
        async with node(3, a.addresses) as stranger:  # it does not know that the network is closed
            await until(lambda: a.refused.get(NO_MEMBER, 0) >= 1)
            assert muxed == []
            assert a.peers() == ()
            assert stranger.peers() == ()
        async with node(2, a.addresses, gate=Gate(1, 2)) as member:
            await meet(a, member)
        assert len(muxed) == 1


@trio_test()
async def test_a_member_does_not_say_who_it_is_to_a_stranger() -> None:
    written: list[bytes] = []

    class Recorded:
        async def write(self, data: bytes) -> None:
            written.append(data)

    async with node(3) as stranger, node(1, gate=Gate(1)) as a:
        identity = library_id(stranger.peer)
        with pytest.raises(SwarmException, match="closed network"):
            await a._admission.dial_address(identity, Multiaddr(stranger.addresses[0]))
        noise = a._swarm.upgrader.security_multistream.transports["/noise"]
        with pytest.raises(NotAMember):
            await noise.secure_outbound(Recorded(), identity)
        assert written == []
        assert (a.peers(), stranger.peers()) == ((), ())


@trio_test()
async def test_who_was_invited_comes_in_with_its_proof_and_without_it_not() -> None:
    gate = Gate(1, word=b"the word")
    async with node(1, gate=gate) as a:
        async with node(2, a.addresses, gate=Gate(1, 2, shows=b"another word")) as b:
            await until(lambda: bool(gate.shown))
            assert gate.shown[0] == (b.peer, b"another word")
            assert a.refused[NO_MEMBER] >= 1
        async with node(3, a.addresses, gate=Gate(1, 3, shows=b"the word")) as c:
            await meet(a, c)
            assert (c.peer, b"the word") in gate.shown


@trio_test()
async def test_a_removed_member_is_parted_from_at_once_and_does_not_come_back() -> None:
    gate = Gate(1, 2)
    async with node(1, gate=gate) as a, node(2, a.addresses, gate=Gate(1, 2)) as b:
        await meet(a, b)
        gate.members.discard(b.peer)
        began = trio.current_time()
        a.reconsider()
        await part(a, b.peer)
        await part(b, a.peer)
        assert trio.current_time() - began < 3
        await until(lambda: a.refused[NO_MEMBER] >= 2)
        assert a.peers() == ()


@trio_test()
async def test_a_peer_that_is_left_hears_the_last_word_and_does_not_come_back() -> None:
    async with node(1) as a, node(2, a.addresses) as b:
        await meet(a, b)
        await a.send(b.peer, b"goodbye")
        a.leave(b.peer)
        assert (await next_of(b, Received)).data == b"goodbye"
        await part(b, a.peer)
        await part(a, b.peer)
        assert a._admission.refusal(library_id(b.peer)) is not None


@trio_test()
async def test_a_new_member_is_dialled_when_the_gate_says_so() -> None:
    gate = Gate(1)
    async with node(2, gate=Gate(1, 2)) as b:
        book = Book([(b.peer, b.addresses[0])])
        async with node(1, book=book, gate=gate) as a:
            gate.members.add(b.peer)
            a.reconsider()
            await next_of(a, Connected)
