"""GossipSub's scores, by the library's own scorer: signs, caps, and what real hosts do by them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from libp2p.pubsub.score import PeerScorer
from network_harness import QUICK, meet, next_of, node, seed_of, trio_test, until
from test_network_hostile import attacker

from p2pfleet.adapters.network.gossip import PROTOCOL, next_framed
from p2pfleet.adapters.network.guard.scoring import GRAYLIST_FROM, PUBLISH_FROM, Score, parameters
from p2pfleet.adapters.network.identity import library_id
from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import PeerId
from p2pfleet.ports import Announced

PATIENT = msgspec.structs.replace(QUICK, reject_limit=10_000)
ONE = library_id(PeerId(seed_of(7)))


def judged(data: bytes) -> Verdict:
    """A validator that does what the announcement says."""
    if data.startswith(b"reject"):
        return Reject("it asked for it")
    return Ignore("it asked for it") if data.startswith(b"ignore") else ACCEPT


def score(rejects: int = 0) -> tuple[PeerScorer, Score]:
    scorer = PeerScorer(parameters(lambda peer: rejects))
    return scorer, Score(scorer, "topic")


def test_rejects_lower_a_score_ignores_do_not_and_first_deliveries_raise_it() -> None:
    _, mine = score()
    assert mine.of(ONE) == 0.0
    for _ in range(100):
        mine.judged(ONE, Ignore("late"))
    assert mine.of(ONE) == 0.0
    for _ in range(100):
        mine.judged(ONE, ACCEPT)
    assert mine.of(ONE) == 10.0
    for _ in range(5):
        mine.judged(ONE, Reject("wrong"))
    assert mine.of(ONE) == -40.0
    assert not mine.graylisted(ONE)
    mine.judged(ONE, Reject("wrong"))
    assert mine.graylisted(ONE)
    assert mine.heard(ONE)
    for _ in range(6):
        mine.judged(ONE, Reject("wrong"))
    assert not mine.heard(ONE)


def test_what_a_peer_sent_outside_gossip_counts_as_well() -> None:
    _, mine = score(rejects=18)
    assert mine.of(ONE) == -45.0
    assert mine.graylisted(ONE)


def test_a_score_recovers_with_time_and_cannot_be_saved_up() -> None:
    scorer, mine = score()
    for _ in range(1_000):
        mine.judged(ONE, Reject("wrong"))
    assert mine.of(ONE) < -199.0
    for _ in range(240):
        scorer.on_heartbeat()
    # The counter counts on beyond its cap; only what is below it moves the score.
    assert mine.of(ONE) == -200.0
    fresh, mine = score()
    for _ in range(6):
        mine.judged(ONE, Reject("wrong"))
    for _ in range(240):
        fresh.on_heartbeat()
    assert -31.0 < mine.of(ONE) < -29.0


def test_the_gates_of_the_library_follow_the_same_thresholds() -> None:
    scorer, mine = score()
    for rejects in range(14):
        assert scorer.allow_gossip(ONE, ["topic"]) == (rejects <= 2)
        assert scorer.allow_publish(ONE, ["topic"]) == (-10.0 * rejects >= PUBLISH_FROM)
        assert scorer.is_graylisted(ONE, ["topic"]) == (-10.0 * rejects < GRAYLIST_FROM)
        assert not scorer.allow_px_from(ONE, ["topic"])
        mine.judged(ONE, Reject("wrong"))


def attacker_key(number: int) -> Any:
    from libp2p.crypto.ed25519 import create_new_key_pair

    return create_new_key_pair(seed_of(number)).private_key


async def announce(
    hostile: Any,
    stream: Any,
    data: bytes,
    topic: str,
    forged: bool = False,
    author: Any = None,
) -> None:
    """One announcement as any GossipSub peer would sign and send it."""
    from libp2p.peer.id import ID
    from libp2p.pubsub.pb import rpc_pb2
    from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
    from libp2p.utils.varint import encode_uvarint

    key = author or hostile.host.get_private_key()
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=ID.from_pubkey(key.get_public_key()).to_bytes(),
        seqno=trio.current_time().hex().encode()[:8],
    )
    payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
    message.signature = key.sign(payload)
    if forged:
        message.signature = bytes(64)
    raw = rpc_pb2.RPC(publish=[message]).SerializeToString()
    await stream.write(encode_uvarint(len(raw)) + raw)


@trio_test(30)
async def test_who_gossips_rejects_is_graylisted_who_gossips_ignores_is_not() -> None:
    async with node(1, config=PATIENT, validator=lambda peer, data: judged(data)) as victim:
        gossip = victim._gossip
        async with attacker(victim, 50) as wrong, attacker(victim, 51) as late:
            streams = {one: await one.stream(PROTOCOL) for one in (wrong, late)}
            for number in range(12):
                await announce(wrong, streams[wrong], b"reject %d" % number, gossip._topic)
                await announce(late, streams[late], b"ignore %d" % number, gossip._topic)
            await announce(late, streams[late], b"worth hearing", gossip._topic)
            assert (await next_of(victim, Announced)).data == b"worth hearing"
            await until(lambda: not gossip.score.heard(wrong.host.get_id()))
            assert gossip.score.of(late.host.get_id()) > 0.0
            # What such a peer says is not looked at any more, right or wrong.
            await announce(wrong, streams[wrong], b"worth hearing too", gossip._topic)
            await announce(late, streams[late], b"the last", gossip._topic)
            assert (await next_of(victim, Announced)).data == b"the last"
            assert gossip.score.graylisted(wrong.host.get_id())


@trio_test(30)
async def test_announcements_with_signatures_that_do_not_match_ban_whoever_hands_them_on() -> None:
    config = msgspec.structs.replace(QUICK, reject_limit=6)
    async with node(1, config=config) as victim, attacker(victim, 52) as forger:
        stream = await forger.stream(PROTOCOL)
        for number in range(3):
            await announce(forger, stream, b"forged %d" % number, victim._gossip._topic, True)
        await until(lambda: len(victim.bans()) == 1)
        assert "signature" in victim.bans()[0].reason
        await until(lambda: not forger.connected)


@trio_test(30)
async def test_a_peer_of_the_mesh_that_sends_rejects_leaves_it_and_is_told() -> None:
    config = PATIENT
    async with node(1, config=config) as first, node(2, (first.addresses[0],)) as second:
        await meet(first, second)
        router = first._gossip._router
        identity = library_id(second.peer)
        await until(lambda: identity in router.mesh.get(router.fleet_topic, ()))
        for _ in range(9):
            first._gossip.score.judged(identity, Reject("wrong"))
        await until(lambda: identity not in router.mesh[router.fleet_topic])
        theirs = second._gossip._router
        await until(lambda: library_id(first.peer) not in theirs.mesh[theirs.fleet_topic])


@trio_test(30)
async def test_who_announces_without_end_is_banned_who_only_hands_on_is_not() -> None:
    config = msgspec.structs.replace(QUICK, announcements_per_s=0.5, announcements_burst=4.0)
    async with node(1, config=config) as victim:
        topic = victim._gossip._topic
        async with attacker(victim, 53) as flooder, attacker(victim, 54) as forwarder:
            made, passed = await flooder.stream(PROTOCOL), await forwarder.stream(PROTOCOL)
            author = attacker_key(55)
            for number in range(400):
                await announce(forwarder, passed, b"others' %d" % number, topic, author=author)
            for number in range(400):
                try:
                    await announce(flooder, made, b"mine %d" % number, topic)
                except Exception:
                    break  # thrown out
            await until(lambda: len(victim.bans()) == 1)
            assert victim.bans()[0].reason == "announces without end"
            await until(lambda: not flooder.connected)
            assert forwarder.connected


@trio_test(10)
async def test_a_node_announces_no_more_than_others_take_from_it() -> None:
    config = msgspec.structs.replace(QUICK, announcements_per_s=0.1, announcements_burst=3.0)
    async with node(1, config=config) as alone:
        before = alone._gossip._pubsub.counter
        for number in range(50):
            await alone.announce(b"%d" % number)
        assert alone._gossip._pubsub.counter - before <= 4


def test_gossip_messages_are_read_whole_however_they_are_cut_and_none_is_too_long() -> None:
    from libp2p.exceptions import ParseError
    from libp2p.utils.varint import encode_uvarint

    bodies = [b"", b"a", bytes(127), bytes(128), bytes(range(256)) * 70, bytes(128 * 1024)]
    wire = b"".join(encode_uvarint(len(body)) + body for body in bodies)
    for step in (1, 3, 1000, len(wire)):
        buffer, found = bytearray(), []
        for at in range(0, len(wire), step):
            buffer += wire[at : at + step]
            while (body := next_framed(buffer)) is not None:
                found.append(body)
        assert found == bodies
        assert not buffer
    for bad in (encode_uvarint(128 * 1024 + 1), b"\xff" * 4, b"\xff" * 50):
        with pytest.raises(ParseError):
            next_framed(bytearray(bad))
