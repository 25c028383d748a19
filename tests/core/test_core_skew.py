"""Clocks that differ: two minutes are taken, more are told to the owner, liars move nothing."""

from __future__ import annotations

import msgspec
import pytest
from core_bench import Bench, only
from core_samples import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    PAULA,
    WALL_MS,
    manifest,
    peer,
    received,
    record,
    seal,
    unseal,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.skew import FRESH_MS, PEERS_MAX, Skew
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.model.network import CLOCK_SKEW_MS
from p2pfleet.core.wire.messages import Hello, PeerRecord

MINUTE_MS = 60_000


def hello(bench: Bench, other: PeerId, ahead_ms: int) -> None:
    """A peer whose clock is so far ahead says hello with a record that is half a minute old."""
    issued = WALL_MS + ahead_ms - FRESH_MS // 2
    said = msgspec.structs.replace(
        record(other).record, issued_ms=issued, expires_ms=issued + 3_600_000, sequence=issued
    )
    bench.tell(ev.PeerConnected(other))
    bench.tell(ev.HelloReceived(other, unseal(seal(said))))


def bench_at_start() -> Bench:
    bench = Bench()
    bench.now = Millis(5_000)
    return bench


@pytest.mark.parametrize("ahead_ms", [-CLOCK_SKEW_MS, CLOCK_SKEW_MS])
def test_manifests_and_records_of_a_clock_two_minutes_off_are_taken(ahead_ms: int) -> None:
    bench = bench_at_start()
    hello(bench, PAULA, ahead_ms)
    assert bench.node.membership.here(PAULA)
    job = seal(manifest(issued_ms=WALL_MS + ahead_ms, lasts_ms=10 * MINUTE_MS))
    bench.tell(received(PAULA, job))
    assert len(bench.node.jobs) == 1


def test_a_clock_that_is_off_by_minutes_is_told_once_three_peers_agree() -> None:
    bench = bench_at_start()
    for number, other in enumerate((BOB, CAROL, PAULA)):
        assert bench.node.skew.warning == "", number
        hello(bench, other, -5 * MINUTE_MS)
    warning = bench.node.skew.warning
    assert warning.startswith("this machine's clock is 5 min ahead of its peers': set it")
    assert warning.endswith("others refuse its messages, or it refuses theirs")


def test_peers_that_this_node_refuses_for_their_clocks_count_as_well() -> None:
    bench = bench_at_start()
    for other in (BOB, CAROL, PAULA):
        hello(bench, other, 3 * 60 * MINUTE_MS)
        assert not bench.node.membership.here(other)
    assert "is 3 h behind its peers'" in bench.node.skew.warning


def test_a_minority_of_liars_moves_nothing() -> None:
    bench = bench_at_start()
    for other in (BOB, CAROL, PAULA):
        hello(bench, other, 0)
    for name in ("liar-1", "liar-2"):
        hello(bench, peer(name), 60 * MINUTE_MS)
    hello(bench, MALLORY, 0)
    assert bench.node.skew.ahead_ms == 0
    assert bench.node.skew.warning == ""


def test_what_is_remembered_of_clocks_is_bounded_and_a_peer_counts_once() -> None:
    skew = Skew()
    for number in range(3 * PEERS_MAX):
        skew.take(peer(f"one-{number}"), WALL_MS, WALL_MS)
        skew.take(BOB, WALL_MS, WALL_MS)
    assert len(skew.heard) == PEERS_MAX


def test_a_clock_that_was_set_is_taken_up_without_a_restart_and_the_warning_ends() -> None:
    bench = bench_at_start()
    for other in (BOB, CAROL, PAULA):
        hello(bench, other, -5 * MINUTE_MS)
    told = bench.tell(ev.ClockSet(WALL_MS - 5 * MINUTE_MS))
    assert bench.node.skew.warning == ""
    assert bench.node.wall_ms(bench.now) == WALL_MS - 5 * MINUTE_MS
    (signed,) = (effect.body for effect in only(ef.Sign, told))
    assert isinstance(signed, PeerRecord)
    assert signed.issued_ms == WALL_MS - 5 * MINUTE_MS
    assert signed.sequence > WALL_MS - 1  # or nobody would take it for newer


def test_who_meets_a_node_hears_a_record_that_is_fresh() -> None:
    bench = Bench(me=ALICE)
    bench.meet(BOB)
    bench.wait(10 * MINUTE_MS)
    told = bench.tell(ev.PeerConnected(CAROL))
    hellos = [
        send.message
        for send in only(ef.Send, told)
        if isinstance(send.message, Hello) and CAROL in send.peers
    ]
    (said,) = (unseal(each.record).record for each in hellos)
    assert bench.node.wall_ms(bench.now) - said.issued_ms <= FRESH_MS
    again = bench.tell(ev.PeerConnected(peer("dave")))
    assert only(ef.Sign, again) == []  # it is fresh for the next as well
