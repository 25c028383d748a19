"""One node as a whole: in the midst of anything it can be written down, and goes on elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from core_bench import Bench, arrive, execute, only, publishing, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    PAULA,
    SAMPLE,
    UGLY,
    Poll,
    Voter,
    received,
    snapshot,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, Millis
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire import messages as ms

STOP = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=8)


def again(node: Node) -> Node:
    """The node as somebody else would read it."""
    data = msgspec.msgpack.encode(node)
    read = msgspec.msgpack.decode(data, type=Node)
    assert msgspec.msgpack.encode(read) == data
    return read


def in_the_midst() -> Bench:
    """A volunteer that claims, runs, commits, waits to reveal, opens, compares and owes."""
    bench, job = working(units=20, slots=2, stop=STOP, comparison=Tolerance())
    bench.tell(received(PAULA, snapshot({BOB: 9, CAROL: 2}).sealed))
    poll = Poll(job.job)
    held = sorted(bench.volunteer().held)
    execute(bench, job, held[0])
    bench.wait(60)
    bench.prompt = False
    bench.hear(*poll.closed({BOB: {held[0]: BAD}, CAROL: {held[0]: GOOD, held[1]: UGLY}}))
    bench.hear(poll[DAVE].reveals(poll[DAVE].commits({7: GOOD})))
    execute(bench, job, held[1])
    execute(bench, job, held[2])
    bench.tell(ev.UnitFaulted(job.job, held[3], "wall", "too slow"))
    mallory = Voter(MALLORY, SAMPLE.job)
    made = mallory.commits({0: GOOD})
    bench.tell(ev.ProofReceived(BOB, mallory.reveals(made), mallory.reveals(made, digest=BAD)))
    return bench


def judging() -> Bench:
    """A publisher that fetches, opens, executes, compares, with ringers and a snapshot."""
    ringers = (ms.Ringer(0, GOOD), ms.Ringer(1, UGLY))
    trust = Trust(
        audit_ppm=500_000,
        ringers=Digest(ringers_hash(ms.OpenRingers(bytes(32), ringers))),
    )
    bench, job, poll = publishing(votes=(), units=20, stop=STOP, trust=trust)
    bench.tell(ev.RingersKnown(job, bytes(32), ringers))
    answers = {unit: GOOD if unit % 2 else BAD for unit in range(12)}
    bench.hear(*poll.closed(dict.fromkeys((ALICE, BOB), answers)))
    arrive(bench, job)
    bench.tell(ev.JobOpened(job))
    bench.prompt = False
    bench.hear(*poll.closed({CAROL: {13: GOOD}, BOB: {13: UGLY}}))
    return bench


@pytest.mark.parametrize(
    "scene", [in_the_midst, judging, lambda: working()[0], lambda: publishing()[0]]
)
def test_a_node_can_be_written_down_and_read_back_at_any_time(scene: Callable[[], Bench]) -> None:
    bench = scene()
    assert again(bench.node) == bench.node


@pytest.mark.parametrize("scene", [in_the_midst, judging])
def test_a_node_that_was_read_back_goes_on_with_the_same_effects(
    scene: Callable[[], Bench],
) -> None:
    one, two = scene(), scene()
    assert one.effects == two.effects
    two.node = again(two.node)
    one.prompt = two.prompt = True
    for bench in (one, two):
        bench.tell(ev.PeerDisconnected(BOB))
        bench.wait(30_000)
        bench.meet(BOB)
        bench.wait(30_000)
    assert one.effects == two.effects
    assert one.node == two.node


def test_the_scenes_have_something_of_everything() -> None:
    """Else the tests above would prove little."""
    volunteer, judge = in_the_midst(), judging().publisher().judge
    mine = volunteer.volunteer()
    assert mine.held
    assert mine.answers.batches
    assert mine.answers.making
    assert mine.answers.opened
    assert volunteer.settlement().pending
    assert volunteer.settlement().weights
    assert volunteer.node.proofs
    assert judge.here
    assert judge.drawn
    assert judge.trials
    assert judge.executing
    assert judge.ringers


def test_who_has_moved_signs_a_new_record_and_tells_everybody_who_is_connected() -> None:
    bench = Bench()
    bench.tell(ev.PeerConnected(BOB, "/ip4/192.0.2.1/tcp/1"))
    before = bench.node.membership.own
    assert before is not None
    address = "/ip4/203.0.113.9/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    bench.now = Millis(bench.now + 10)
    told = bench.tell(ev.AddressesChanged((address,)))
    (hello,) = [send for send in only(ef.Send, told) if isinstance(send.message, ms.Hello)]
    assert hello.peers == (BOB,)
    after = bench.node.membership.own
    assert after is not None
    assert after.record.addresses == (address,)
    assert after.record.sequence > before.record.sequence
    assert bench.tell(ev.AddressesChanged((address,))) == [], "nothing has changed"
