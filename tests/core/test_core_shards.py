"""Jobs in several shards: who serves which, that the cost stays in the shard, that nothing starves.

Machines of ``cluster.py`` are all connected with each other, so that a frame goes only where the
core sends it.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from cluster import Cluster
from core_samples import ALICE, BOB, MALLORY, NETWORK, SAMPLE, WALL_MS, manifest, peer, unseal
from test_core_cluster import check_ledger, finish, torment

from p2pfleet.core.errors import ACCEPT, Reject
from p2pfleet.core.machines.shards import (
    CALL_MORE_MS,
    CAUGHT_UP_MS,
    DOUBT_MS,
    DWELL_MS,
    HESITATE_MS,
    SETTLE_IN_MS,
    STEP_MS,
    UNHEARD_MS,
    Around,
    Shards,
)
from p2pfleet.core.model.ids import Millis
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules import shards as rule
from p2pfleet.core.rules.admission import judge_frame, judge_manifest
from p2pfleet.core.wire.messages import Claim, Frame, Release, ShardRow

SALT = b"0123456789abcdef"
TERMS = NetworkTerms(NETWORK)


def fleet(seed: int, volunteers: int, work_ms: int = 300, loss: float = 0.0) -> Cluster:
    cluster = Cluster(seed, loss=loss)
    cluster.add("paula", slots=0)
    for number in range(volunteers):
        cluster.add(f"volunteer {number}", work_ms=work_ms)
    return cluster


def test_a_job_needs_a_unit_for_each_of_its_shards() -> None:
    assert judge_manifest(manifest(units=4, shards=4), TERMS, WALL_MS) == ACCEPT
    verdict = judge_manifest(manifest(units=4, shards=5), TERMS, WALL_MS)
    assert verdict == Reject("the job has more shards than units")


def test_a_frame_keeps_to_the_units_of_its_shard() -> None:
    body = manifest(units=20, shards=4)
    mine, other = (rule.units_of(body.salt, 20, 4, shard) for shard in (1, 2))

    def verdict(shard: int, *units: int) -> object:
        frame = Frame(body.network, SAMPLE.job, ALICE, 1, 0, (Claim(units),), shard)
        return judge_frame(frame, body, TERMS)

    assert verdict(1, *mine) == ACCEPT
    assert verdict(1, mine[0], other[0]) == Reject("the frame names a unit of another shard")
    assert verdict(4, mine[0]) == Reject("the frame names a shard that the job does not have")


@pytest.mark.parametrize("seed", range(2))
def test_a_job_of_three_shards_settles_and_no_volunteer_bears_all_of_it(seed: int) -> None:
    cluster = fleet(seed, 12)
    job = cluster.publish("paula", units=120, shards=3)
    finish(cluster, job)
    assert len(cluster["paula"].disk.units[job]) == 120


def test_frames_stay_with_those_who_serve_the_shard_and_with_the_publisher() -> None:
    cluster = fleet(3, 12, work_ms=1_000)
    job = cluster.publish("paula", units=600, shards=3)
    cluster.wait(30_000)
    counts = Counter()
    for machine in cluster.machines.values():
        shards = {unseal(sealed).frame.shard for sealed in machine.disk.frames[job].values()}
        counts[len(shards)] += 1
        if machine.name != "paula":
            node = machine.node
            assert node is not None
            assert shards <= set(node.jobs[job].shards.served)
            assert set(node.jobs[job].settlement.units) <= {
                unit for shard in shards for unit in rule.units_of(SALT, 600, 3, shard)
            }
    assert counts[1] >= 9
    assert counts[3] == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_few_volunteers_finish_many_shards_one_after_the_other(seed: int) -> None:
    cluster = fleet(seed, 4)
    job = cluster.publish("paula", units=64, shards=16)
    finish(cluster, job, 3_600_000)


def test_a_job_of_shards_settles_over_lossy_wires() -> None:
    cluster = fleet(5, 9, loss=0.1)
    job = cluster.publish("paula", units=60, shards=3)
    finish(cluster, job, 1_200_000)


def test_volunteers_that_lose_power_take_their_shards_up_again() -> None:
    cluster = fleet(6, 9)
    job = cluster.publish("paula", units=90, shards=3)
    names = tuple(f"volunteer {number}" for number in range(9))
    assert torment(cluster, job, names, deaths=12)
    finish(cluster, job, 1_200_000)


def test_a_publisher_that_comes_back_collects_every_shard() -> None:
    cluster = fleet(7, 9)
    job = cluster.publish("paula", units=90, shards=3)
    cluster.wait(3_000)
    cluster.kill("paula")
    cluster.wait(120_000)
    cluster.start("paula")
    cluster.run(lambda: cluster.closed(job), 600_000)
    check_ledger(cluster, job)


# ---- where a volunteer works -----------------------------------------------------------------


class Desk:
    """One volunteer's view of a job of several shards."""

    def __init__(self, shards: int = 8, need: int = 2, crowd: int = 1) -> None:
        self.shards = Shards(ALICE, SALT, shards, crowd, Millis(0), DWELL_MS)
        self.need = need
        self.open = dict.fromkeys(range(shards), 5)
        self.owing: set[int] = set()
        self.order = rule.preference(SALT, shards, ALICE)

    def look(self, now: int) -> tuple[int, ...]:
        around = Around(self.need, self.open.__getitem__, lambda shard: shard not in self.owing)
        self.shards.look(around, Millis(now))
        return self.shards.served

    def hear(self, now: int, **how: dict[int, int]) -> None:
        members, open_ = how["members"], how.get("open", {})
        rows = [ShardRow(s, members[s], open_.get(s, 5), 0) for s in sorted(members)]
        self.shards.hear(tuple(rows), Millis(now))


def test_a_volunteer_is_at_home_in_the_shard_of_its_lowest_rank() -> None:
    desk = Desk()
    assert desk.look(0) == (desk.order[0],)


def test_a_full_shard_is_passed_over_and_so_is_one_that_others_say_is_done() -> None:
    desk = Desk()
    first, second, third = desk.order[:3]
    desk.hear(0, members={first: rule.MATES_MAX, second: 3}, open={second: 0})
    assert desk.look(0) == (third,)


def test_a_shard_that_is_done_makes_room_for_the_next_once_nothing_is_owed_there() -> None:
    desk = Desk()
    first, second = desk.order[:2]
    desk.look(0)
    desk.open[first] = 0
    desk.owing.add(first)
    assert desk.look(5_000) == (first,)
    desk.owing.clear()
    assert desk.look(10_000) == (first,)  # nothing was heard of the others
    desk.hear(10_000, members={second: 3}, open={second: 90})
    assert desk.look(15_000) == (second,)


def test_whoever_is_done_goes_where_hands_are_lacking_and_looks_elsewhere_in_time() -> None:
    desk = Desk()
    first, second, third = desk.order[:3]
    desk.look(0)
    desk.open[first] = 0
    desk.hear(0, members=dict.fromkeys(range(8), 16) | {third: 4}, open={third: 300})
    assert desk.look(5_000) == (third,)
    desk.open[third] = 0
    assert desk.look(10_000) == (third,)
    at = 10_000
    while desk.shards.home == third:
        at += 5_000
        desk.hear(at, members=dict.fromkeys(range(8), 16))
        desk.look(at)
    assert DOUBT_MS <= at - 10_000 <= 2 * DOUBT_MS + 5_000
    assert desk.shards.home == second


def test_who_comes_to_a_shard_begins_when_it_has_heard_of_its_mates() -> None:
    desk = Desk()
    (home,) = desk.look(0)
    assert not desk.shards.settled_in(home, Millis(0))
    assert desk.shards.look_at == CAUGHT_UP_MS
    assert desk.shards.settled_in(home, Millis(SETTLE_IN_MS))
    desk.shards.joined(BOB, home)
    desk.look(1_000)
    assert not desk.shards.settled_in(home, Millis(1_000))
    assert desk.shards.settled_in(home, Millis(1_000 + CAUGHT_UP_MS))


def test_of_too_many_members_those_of_the_highest_ranks_go_elsewhere_after_a_while() -> None:
    desk = Desk()
    first, second = desk.order[:2]
    desk.look(0)
    before = (peer(f"mate {number}") for number in range(10_000))
    mine = rule.rank(SALT, first, ALICE)
    lower = [mate for mate in before if rule.rank(SALT, first, mate) < mine][: rule.MATES_MAX]
    for mate in lower:
        desk.shards.joined(mate, first)
    assert desk.look(DWELL_MS - 1) == (first,)
    desk.owing.add(first)
    assert desk.look(DWELL_MS) == (first,)
    assert desk.shards.leaving == first
    desk.owing.clear()
    assert desk.look(DWELL_MS + 5_000) == (second,)
    assert desk.shards.leaving is None


def test_a_starving_shard_is_helped_after_a_moment_and_kept_when_it_has_enough() -> None:
    desk = Desk()
    alone = desk.order[3]
    desk.hear(0, members=dict.fromkeys(range(8), 5) | {alone: 1})
    assert desk.look(0) == (desk.order[0],)
    assert desk.look(HESITATE_MS - 1) == (desk.order[0],)
    assert desk.look(HESITATE_MS + 5 * STEP_MS) == (desk.order[0], alone)
    desk.shards.joined(BOB, alone)
    assert desk.look(DWELL_MS * 9) == (desk.order[0], alone)


def test_of_those_who_are_done_no_more_come_than_are_lacking_and_more_with_time() -> None:
    came = []
    for number in range(200):
        shards = Shards(peer(f"volunteer {number}"), SALT, 2, 200, Millis(0), DWELL_MS)
        shards.home, shards.known = 0, {0: True, 1: True}
        around = Around(2, lambda shard: 30 * shard, lambda shard: True)
        came.append([0, 0])
        for turn, now in enumerate((1, 2 * CALL_MORE_MS + 1)):
            shards.hear((ShardRow(1, 6, 30, 0),), Millis(now))  # 10 would take a minute
            shards.look(around, Millis(now))
            came[-1][turn] = shards.home
    at_once, later = (sum(turns) for turns in zip(*came, strict=True))
    assert 8 <= at_once <= 32
    assert 40 <= later <= 128


def test_a_helper_leaves_a_shard_that_has_enough_without_it() -> None:
    desk = Desk()
    alone = desk.order[3]
    desk.hear(0, members=dict.fromkeys(range(8), 5) | {alone: 1})
    desk.look(0)
    desk.look(HESITATE_MS + 5 * STEP_MS)
    mine = rule.rank(SALT, alone, ALICE)
    others = [peer(f"mate {number}") for number in range(1_000)]
    first = [mate for mate in others if rule.rank(SALT, alone, mate) < mine]
    last = [mate for mate in others if rule.rank(SALT, alone, mate) > mine]
    for mate in (*last[:5], first[0]):
        desk.shards.joined(mate, alone)
    assert desk.look(DWELL_MS * 9) == (desk.order[0], alone), "others may leave"
    desk.shards.joined(first[1], alone)
    desk.owing.add(alone)
    assert desk.look(DWELL_MS * 10) == (desk.order[0], alone)
    desk.owing.clear()
    assert desk.look(DWELL_MS * 11) == (desk.order[0],)


def test_whom_one_knows_of_a_shard_by_chance_is_not_all_of_it() -> None:
    desk = Desk()
    desk.hear(0, members=dict.fromkeys(range(1, 8), 9))
    for other in range(8):
        desk.shards.joined(peer(f"by chance {other}"), other)
    for now in range(0, 2 * UNHEARD_MS, 5_000):
        assert desk.look(now) == (desk.order[0],)


def test_nobody_runs_to_a_shard_of_which_nothing_could_be_heard_yet() -> None:
    desk = Desk()
    assert desk.look(0) == desk.look(UNHEARD_MS - 1) == (desk.order[0],)
    desk.look(UNHEARD_MS)
    assert len(desk.look(UNHEARD_MS + HESITATE_MS)) == 2


def test_of_a_large_network_few_are_called_at_first_and_all_in_the_end() -> None:
    peers = [peer(f"volunteer {number}") for number in range(2_000)]
    called = [
        sum(rule.called(SALT, 5, each, 1, len(peers), steps) for each in peers)
        for steps in range(12)
    ]
    assert called == sorted(called)
    assert called[0] <= 4 * rule.HELPERS
    assert called[-1] == len(peers)


def test_helpers_meet_where_the_least_is_lacking() -> None:
    members = {3: 0, 5: 1, 7: 1, 9: 0}
    order = rule.most_starving(SALT, members)
    assert set(order[:2]) == {5, 7}
    assert order == rule.most_starving(SALT, dict(reversed(members.items())))


def test_the_latest_word_on_a_shard_counts_and_own_shards_are_known_better() -> None:
    desk = Desk()
    home = desk.look(0)[0]
    other = next(shard for shard in range(8) if shard != home)
    desk.shards.hear((ShardRow(other, 4, 5, 1),), Millis(100_000))
    desk.shards.hear((ShardRow(other, 9, 5, 50),), Millis(100_000))
    desk.shards.hear((ShardRow(home, 9, 0, 0), ShardRow(99, 1, 1, 0)), Millis(100_000))
    assert {shard: heard.members for shard, heard in desk.shards.heard.items()} == {other: 4}


def test_what_the_publisher_wants_of_a_shard_that_was_done_opens_it_again() -> None:
    desk = Desk(shards=2)
    desk.look(0)
    desk.open = {0: 0, 1: 0}
    first = desk.shards.served[0]
    desk.look(5_000)
    desk.shards.recall(first, Millis(10_000))
    assert first in desk.look(10_000) or first in desk.look(10_000 + HESITATE_MS)


def test_summaries_of_many_shards_tell_of_all_in_turn() -> None:
    desk = Desk(shards=400)
    desk.look(0)
    rows = tuple(ShardRow(shard, 5, 5, 0) for shard in range(400))
    for start in range(0, 400, 100):
        desk.shards.hear(rows[start : start + 100], Millis(1_000))
    told: Counter[int] = Counter()
    for _ in range(5):
        summary = desk.shards.tell(SAMPLE.job, lambda shard: 5, 2, Millis(SETTLE_IN_MS))
        assert summary is not None
        told.update(row.shard for row in summary.rows)
    assert set(told) == set(range(400))


def test_a_peer_is_taken_for_a_member_of_two_shards_at_most() -> None:
    desk = Desk()
    for shard in range(8):
        desk.shards.joined(MALLORY, shard)
    assert sorted(desk.shards.members) == [6, 7]
    desk.shards.gone(MALLORY)
    assert not desk.shards.members


def test_claims_of_two_shards_leave_in_two_frames() -> None:
    cluster = fleet(1, 1)
    job_id = cluster.publish("paula", units=20, shards=2)
    cluster.wait(2_000)
    node = cluster["volunteer 0"].node
    assert node is not None
    job = node.jobs[job_id]
    job.outbox.clear()
    job.write([Release(tuple(range(20)))], Millis(0))
    for shard in (0, 1):
        assert job.outbox[shard] == [Release(tuple(rule.units_of(SALT, 20, 2, shard)))]


def test_everything_of_shards_survives_being_written_down() -> None:
    desk = Desk()
    desk.hear(0, members={1: 2})
    desk.look(0)
    desk.shards.joined(BOB, 1)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(desk.shards), type=Shards)
    assert kept == desk.shards
