"""Bans: what leads to one, how long it lasts, what it does to an address, and that it stays."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from network_harness import QUICK, Book, Shelf, meet, node, part, trio_test, until

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.guard.admission import MAX_PAUSE_S
from p2pfleet.adapters.network.guard.bans import MAX_BAN_MS, MAX_BANS, Bans
from p2pfleet.adapters.network.guard.limits import address_group
from p2pfleet.adapters.store import BanFile
from p2pfleet.core.errors import Forged, P2pfleetError, Proven, Reject
from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.ports import Ban

CONFIG = NetworkConfig(reject_limit=4, reject_window_s=10, ban_s=60)
PEER = PeerId(bytes(range(32)))
PUBLIC = "93.184.216.34"
WRONG = Reject("wrong")


class SetClock:
    """A clock that stands where it was put."""

    def __init__(self, ms: int = 0, wall: int = 10**12) -> None:
        self.ms = ms
        self.wall = wall

    def monotonic_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return self.wall + self.ms


class Shown:
    """A ban book in memory."""

    def __init__(self) -> None:
        self.bans: list[Ban] = []
        self.saves = 0

    def load_bans(self) -> list[Ban]:
        return list(self.bans)

    def save_bans(self, bans: object) -> None:
        self.bans = list(bans)  # type: ignore[call-overload]
        self.saves += 1


def peer(number: int) -> PeerId:
    return PeerId(sha256(b"peer %d" % number))


def banned_once(bans: Bans, who: PeerId = PEER, place: str | None = None) -> None:
    for _ in range(CONFIG.reject_limit - 1):
        assert not bans.reject(who, WRONG, place)
    assert bans.reject(who, WRONG, place)


@trio_test(5)
async def test_rejects_within_the_window_ban_for_a_while() -> None:
    clock = SetClock()
    bans = Bans(clock, CONFIG)
    assert [bans.reject(PEER, WRONG) for _ in range(2)] == [False, False]
    clock.ms = 10_000
    assert [bans.reject(PEER, WRONG) for _ in range(4)] == [False, False, False, True]
    assert bans.banned(PEER)
    clock.ms += 59_999
    assert bans.banned(PEER)
    clock.ms += 1
    assert not bans.banned(PEER)
    assert bans.running() == ()


@trio_test(5)
async def test_a_signature_that_does_not_match_counts_twice() -> None:
    bans = Bans(SetClock(), CONFIG)
    assert [bans.reject(PEER, Forged("forged")) for _ in range(2)] == [False, True]
    assert bans.running()[0].reason == "forged"


@trio_test(5)
async def test_one_proven_fault_is_enough() -> None:
    bans = Bans(SetClock(), CONFIG)
    assert bans.reject(PEER, Proven("two answers"))
    assert [ban.reason for ban in bans.running()] == ["two answers"]


@trio_test(5)
async def test_bans_grow_with_repetition_up_to_a_day_and_are_forgotten_after_one() -> None:
    clock = SetClock()
    bans = Bans(clock, msgspec.structs.replace(CONFIG, ban_s=600))
    lasted = []
    for _ in range(5):
        banned_once(bans)
        (ban,) = bans.running()
        lasted.append(ban.lasts_ms)
        clock.ms += ban.lasts_ms
    hour = 3_600_000
    assert lasted == [hour // 6, hour, 6 * hour, MAX_BAN_MS, MAX_BAN_MS]
    clock.ms += 24 * hour
    banned_once(bans)
    assert bans.running()[0].times == 1


@trio_test(5)
async def test_an_address_is_banned_after_its_peers_were_again_and_again() -> None:
    clock = SetClock()
    bans = Bans(clock, CONFIG)
    for number in range(CONFIG.address_ban_peers):
        assert not bans.banned(PUBLIC)
        banned_once(bans, peer(number), PUBLIC)
    assert bans.banned(PUBLIC)
    assert [ban.address for ban in bans.running() if ban.peer is None] == [PUBLIC]
    clock.ms = 60_000
    assert not bans.banned(PUBLIC)


@trio_test(5)
async def test_handshakes_that_fail_again_and_again_ban_an_address() -> None:
    bans = Bans(SetClock(), CONFIG)
    for _ in range(CONFIG.failed_handshakes_per_address):
        assert not bans.banned(PUBLIC)
        bans.failed_handshake(PUBLIC)
        bans.failed_handshake("127.0.0.1")
    assert bans.banned(PUBLIC)
    assert not bans.banned("127.0.0.1")


@pytest.mark.parametrize(
    "place",
    ["127.0.0.1", "::/64", "10.1.2.3", "192.168.0.9", "172.16.5.5", "100.64.0.1", "169.254.1.1",
     "fd12:3456::/64", "fe80::/64", "no address", "2606:4700:1:2::/64", "198.51.100.7"],
)  # fmt: skip
@trio_test(5)
async def test_an_address_that_a_house_or_a_laboratory_shares_is_never_banned(place: str) -> None:
    bans = Bans(SetClock(), CONFIG, own_addresses=lambda: ["2606:4700:1:2:3::4", "192.168.0.2"])
    for number in range(10):
        banned_once(bans, peer(number), place)
    assert not bans.banned(place)
    assert len(bans.running()) == 10


@trio_test(5)
async def test_a_ban_can_be_lifted_and_then_counting_begins_anew() -> None:
    bans = Bans(SetClock(), CONFIG)
    banned_once(bans)
    assert bans.lift(PEER)
    assert not bans.lift(PEER)
    assert not bans.banned(PEER)
    banned_once(bans)
    assert bans.running()[0].times == 1


@trio_test(5)
async def test_who_is_held_off_without_fault_is_neither_listed_nor_remembered() -> None:
    clock = SetClock()
    bans = Bans(clock, CONFIG)
    bans.hold_off(PEER)
    assert bans.banned(PEER)
    assert bans.running() == ()
    clock.ms = 60_000
    assert not bans.banned(PEER)
    banned_once(bans)
    assert bans.running()[0].times == 1


@trio_test(5)
async def test_the_list_of_bans_is_bounded_and_those_that_last_longest_stay() -> None:
    clock = SetClock()
    bans = Bans(clock, CONFIG)
    banned_once(bans)
    clock.ms = 60_000
    banned_once(bans)  # its second
    for number in range(MAX_BANS + 10):
        banned_once(bans, peer(number))
    assert len(bans.running()) == MAX_BANS
    assert bans.banned(PEER)


@pytest.mark.parametrize(
    ("passed_ms", "left_ms"),
    [(0, 60_000), (20_000, 40_000), (-(10**9), 60_000), (60_000, 0), (10**9, 0)],
)
@trio_test(5)
async def test_a_ban_that_was_saved_goes_on_whatever_the_clocks_do(
    passed_ms: int, left_ms: int
) -> None:
    clock = SetClock()
    before = Bans(clock, CONFIG)
    banned_once(before)
    saved = before.running()
    clock = SetClock(ms=77, wall=10**12 + passed_ms - 77)
    after = Bans(clock, CONFIG)
    after.restore(saved)
    clock.ms += max(left_ms - 1, 0)
    assert after.banned(PEER) == (left_ms > 0)
    clock.ms += 1
    assert not after.banned(PEER)


@trio_test(5)
async def test_what_changes_is_saved() -> None:
    book = Shown()
    bans = Bans(SetClock(), CONFIG, book)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bans.keep)
        banned_once(bans)
        await until(lambda: book.saves > 0)
        nursery.cancel_scope.cancel()
    assert [ban.peer for ban in book.bans] == [PEER]
    bans.lift(PEER)
    await bans.close()
    assert book.bans == []


def test_the_file_of_bans_holds_peers_and_addresses(tmp_path) -> None:
    file = BanFile(tmp_path)
    assert file.load_bans() == []
    bans = [Ban(PEER, "", "sent wrong things", 1, 2, 3), Ban(None, PUBLIC, "three peers", 4, 5, 6)]
    file.save_bans(bans)
    assert BanFile(tmp_path).load_bans() == bans
    assert [path.name for path in tmp_path.iterdir()] == ["bans.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'[{"peer": "x"}]', b"\xff" * 100])
def test_a_damaged_file_of_bans_is_named(tmp_path, data: bytes) -> None:
    (tmp_path / "bans.json").write_bytes(data)
    with pytest.raises(P2pfleetError, match=r"bans\.json cannot be read"):
        BanFile(tmp_path).load_bans()


@trio_test(40)
async def test_a_banned_peer_is_parted_from_and_refused_after_a_restart_until_it_is_unbanned(
    tmp_path,
) -> None:
    book = BanFile(tmp_path)

    def victim():
        return node(1, bans=book, book=Book(), blobs=Shelf(tmp_path))

    async with node(2) as other:
        async with victim() as first:
            at = first.addresses
            other._dialler.learn(first.peer, [at[0].partition("/p2p/")[0]])
            await meet(first, other)
            for _ in range(QUICK.reject_limit):
                first.report(other.peer, WRONG)
            await part(first, other.peer)
            assert [ban.peer for ban in first.bans()] == [other.peer]
            await until(lambda: bool(book.load_bans()))
        async with victim() as second:
            assert [ban.peer for ban in second.bans()] == [other.peer]
            other._dialler.learn(second.peer, [second.addresses[0].partition("/p2p/")[0]])
            await trio.sleep(1.5)  # long enough to come back in, were it let in
            assert second.peers() == ()
            assert second.unban(other.peer)
            other._dialler.wake()
            await meet(second, other)
            assert second.bans() == ()


@trio_test(30)
async def test_who_is_banned_while_its_connection_is_being_added_is_parted_from(tmp_path) -> None:
    async with node(1) as victim, node(2) as other:
        add = victim._admission._add_conn

        async def banned_meanwhile(muxed: Any, direction: str) -> Any:
            conn = await add(muxed, direction)
            victim.report(other.peer, Proven("two answers"))
            return conn

        victim._admission._add_conn = banned_meanwhile
        other._dialler.learn(victim.peer, [victim.addresses[0].partition("/p2p/")[0]])
        await until(lambda: bool(victim.bans()))
        await until(lambda: not victim._swarm.connections)
        await until(lambda: not other._swarm.connections)
        assert victim.peers() == ()


@trio_test(30)
async def test_of_the_banned_no_muxer_is_negotiated_and_nobody_else_pays_for_it(tmp_path) -> None:
    async with node(1) as victim, node(2) as other:
        upgraded: list[Any] = []
        upgrade = victim._admission._upgrade

        async def noticed(secured: Any, identity: Any) -> Any:
            upgraded.append(identity)
            return await upgrade(secured, identity)

        victim._admission._upgrade = noticed
        victim.report(other.peer, Proven("two answers"))
        other._dialler.learn(victim.peer, [victim.addresses[0].partition("/p2p/")[0]])
        await until(lambda: victim._admission.came_back > 0)
        assert upgraded == []
        async with node(3, victim.addresses) as third:
            await meet(victim, third)


@trio_test(40)
async def test_where_the_banned_come_back_all_wait_a_little_and_nobody_is_locked_out() -> None:
    async with node(1) as victim:
        admission, group = victim._admission, address_group("127.0.0.1")
        for _ in range(1000):
            admission._came_back(group)
        began = trio.current_time()
        async with node(2, victim.addresses) as honest:
            await meet(victim, honest)
        waited = trio.current_time() - began
        assert waited > 0.5 * MAX_PAUSE_S
        # A thousand returns are no longer remembered than a few.
        assert admission._returns[group.encode()].owe(0) <= MAX_PAUSE_S + 2.5


@trio_test(20)
async def test_whoever_comes_from_where_nobody_was_banned_does_not_wait() -> None:
    async with node(1) as victim:
        for _ in range(1000):
            victim._admission._came_back(address_group("10.0.0.7"))
        began = trio.current_time()
        async with node(2, victim.addresses) as honest:
            await meet(victim, honest)
        assert victim._admission._returns[b"127.0.0.1"].owe(0) == 0
        assert trio.current_time() - began < 15


@trio_test(30)
async def test_when_somebody_is_thrown_out_nobody_is_looked_for_in_a_hurry() -> None:
    async with node(1) as victim, node(2, victim.addresses) as other:
        await meet(victim, other)
        hurried: list[bool] = []
        victim._rendezvous.lost = lambda: hurried.append(True)
        victim.report(other.peer, Proven("two answers"))
        await part(victim, other.peer)
        assert hurried == []


@trio_test(30)
async def test_who_was_left_without_fault_makes_nobody_wait() -> None:
    async with node(1) as victim, node(2) as other:
        turned_away: list[Any] = []
        refusal = victim._admission.refusal

        def noticed(identity: Any) -> str | None:
            reason: str | None = refusal(identity)
            turned_away.extend([reason] if reason else [])
            return reason

        victim._admission.refusal = noticed
        victim._bans.hold_off(other.peer)
        other._dialler.learn(victim.peer, [victim.addresses[0].partition("/p2p/")[0]])
        await until(lambda: bool(turned_away))
        await until(lambda: not victim._admission._shaking)
        assert victim._admission.came_back == 0
