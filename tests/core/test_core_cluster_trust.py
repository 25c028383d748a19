"""Several nodes and a job that asks for a confidence: audits, records and proofs outlast deaths."""

from __future__ import annotations

import pytest
from cluster import Cluster
from core_samples import BAD, GOOD, Voter, peer
from test_core_cluster import VOLUNTEERS, finish, fleet, records, torment

from p2pfleet.core import events as ev
from p2pfleet.core.model.ids import JobId
from p2pfleet.core.model.job import Confidence, Trust

STOP = Confidence(error_ppb=10_000_000, faulty_ppm=200_000, replicas_max=12)
AUDITED = Trust(audit_ppm=200_000, window_ms=1_000)


def publish(cluster: Cluster, units: int = 20, trust: Trust = AUDITED) -> JobId:
    return cluster.publish("paula", units=units, stop=STOP, trust=trust)


@pytest.mark.parametrize("seed", range(3))
def test_a_job_settles_with_liars_that_agree_and_their_records_show_it(seed: int) -> None:
    cluster = fleet(seed, liars=0)
    for name in ("frank", "gina", "heidi", "ivan"):
        cluster.add(name)
    for name in ("mallory", "mordred"):
        cluster.add(name, lies="one lie of both", lie_share=0.5)
    finish(cluster, publish(cluster))
    known = records(cluster)
    for name in VOLUNTEERS:
        assert known[peer(name)].contradicted == 0
    assert known[peer("mallory")].contradicted + known[peer("mordred")].contradicted > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_judge_killed_at_any_time_comes_back_settles_nothing_twice_and_loses_no_record(
    seed: int,
) -> None:
    cluster = fleet(seed, liars=0, snapshots=seed == 0)
    cluster.add("frank", lies="a lie", lie_share=0.3)
    job = publish(cluster)
    assert torment(cluster, job, ("paula",), 12) > 0
    finish(cluster, job)


@pytest.mark.parametrize("seed", range(4))
def test_volunteers_killed_between_commitment_and_reveal_keep_their_word(seed: int) -> None:
    cluster = fleet(seed, liars=0, loss=0.1)
    job = publish(cluster)
    assert torment(cluster, job, VOLUNTEERS, 12) > 0
    finish(cluster, job)
    for record in records(cluster).values():
        assert record.contradicted == 0


def test_without_its_publisher_a_job_goes_on_and_is_judged_when_it_is_back() -> None:
    cluster = fleet(seed=3, liars=1)
    job = publish(cluster)
    cluster.wait(1_500)
    cluster.kill("paula")
    cluster.wait(120_000)
    cluster.start("paula")
    finish(cluster, job, 60_000)


def test_a_second_job_costs_less_than_the_first_for_its_volunteers_are_known() -> None:
    cluster = fleet(seed=4, liars=0)
    runs = []
    for _ in range(2):
        before = sum(len(machine.executed) for machine in cluster.machines.values())
        known = cluster["paula"].node
        assert known is not None
        snapshot = known.snapshot_for("any")
        trust = Trust(
            audit_ppm=200_000, snapshot=None if snapshot is None else snapshot.hash, window_ms=1_000
        )
        finish(cluster, publish(cluster, units=60, trust=trust))
        runs.append(sum(len(machine.executed) for machine in cluster.machines.values()) - before)
    assert runs[1] < 0.8 * runs[0]


def test_two_answers_told_to_two_peers_are_a_proof_in_everybodys_hands_and_outlast_restarts() -> (
    None
):
    cluster = fleet(seed=5, liars=0, loss=0.2, work_ms=3_000)
    cluster.add("mallory", slots=0)
    job = publish(cluster, units=60)
    cluster.wait(2_000)
    mallory = Voter(peer("mallory"), job)
    for unit in range(8):  # each time somebody sees both by chance
        made = mallory.commits({unit: GOOD})
        one = mallory.reveals(made)
        mallory.sequence -= 1
        two = mallory.reveals(made, digest=BAD)
        for name, reveal in (("alice", one), ("bob", two)):
            for frame in (made, reveal):
                cluster.happen(cluster[name], ev.FrameReceived(peer("mallory"), frame))
    cluster.kill("erin")
    cluster.wait(5_000)
    cluster.start("erin")
    everybody = [m for m in cluster.machines.values() if m.name != "mallory"]
    cluster.run(lambda: all(list(m.disk.proofs) == [peer("mallory")] for m in everybody), 120_000)
    cluster.kill("carol")
    cluster.start("carol")
    node = cluster["carol"].node
    assert node is not None
    assert list(node.standing.proved) == [peer("mallory")]
