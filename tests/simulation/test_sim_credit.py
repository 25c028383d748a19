"""Credit in whole simulated networks, and the checker that finds where it is not conserved."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worlds import with_adversary, world

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.ledger import Dues, Ledger
from p2pfleet.core.model.ids import JobId, NetworkId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.wire.messages import Manifest, Receipt
from p2pfleet.core.wire.verified import VerifiedReceipt
from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.checkers.credit import Credit
from p2pfleet.sim.cluster import Cluster
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.run import Outcome, simulate
from p2pfleet.sim.signatures import peer_of, seal, unseal

CRASHES = [
    {
        "kind": "crash", "machines": machines, "from_ms": 500, "until_ms": 12_000,
        "every_ms": every, "for_ms": [200, 2_000],
    }
    for machines, every in (("all", [300, 1_200]), ("paula", [800, 3_000]))
]  # fmt: skip


NETWORK = NetworkId(sha256(b"a simulated network"))
PAULA, *PEERS = map(peer_of, ("paula", "bob", "carol", "dave"))


def job_of(number: int) -> Manifest:
    cid = cid_of(b"blob")
    return Manifest(
        NETWORK, PAULA, f"job {number}", cid, 5, cid, 5, 1000, 1000, Limits(2**20, 1000, 1000),
        Exact(), FixedQuorum(2, 4), 1, 60_000, 1, 2, bytes(16),
    )  # fmt: skip


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> list[Cluster]:
    """The world of every simulation in the test, as it was at the end."""
    seen: list[Cluster] = []
    at_end = Credit.at_end

    def look(self: Credit) -> None:
        seen.append(self.cluster)
        at_end(self)

    monkeypatch.setattr(Credit, "at_end", look)
    return seen


def found(outcome: Outcome) -> list[str]:
    return [each.text for each in outcome.violations if each.checker == "credit"]


def receipts(cluster: Cluster, name: str) -> list[Receipt]:
    bodies = []
    for job in cluster.by_name[name].disk.jobs.values():
        for sealed in job.receipts.values():
            verified = unseal(sealed)
            assert isinstance(verified, VerifiedReceipt)
            bodies.append(verified.receipt)
    return bodies


def test_every_volunteer_holds_what_the_publisher_signed_for_it(clusters: list[Cluster]) -> None:
    outcome = simulate(world(), 1)

    assert outcome.violations == ()
    (cluster,) = clusters
    issued = {each.peer: each for each in receipts(cluster, "paula-0")}
    assert sum(each.units for each in issued.values()) == 2 * 20
    (manifest,) = cluster.published.values()
    assert manifest.work > 1_000_000
    assert all(each.work == each.units * manifest.work for each in issued.values())
    assert all(each.work <= each.credit <= 2 * each.work for each in issued.values())
    for number in range(5):
        (held,) = receipts(cluster, f"v-{number}")
        assert held == issued[held.peer]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_crashes_of_everybody_lose_no_credit_and_make_none(
    clusters: list[Cluster], seed: int
) -> None:
    jobs = [{"publisher": "paula-0", "units": 40, "lease_ms": 5_000, "replicas_max": 12}]
    outcome = simulate(
        world(jobs=jobs, faults=CRASHES, expect={"within_ms": 600_000}, disk={"sync_ms": [2, 60]}),
        seed,
    )

    assert outcome.violations == ()
    assert outcome.crashes > 3
    (cluster,) = clusters
    assert sum(each.units for each in receipts(cluster, "paula-0")) >= 2 * outcome.settled > 0


def test_receipts_that_were_lost_at_the_end_of_a_job_are_brought_again(
    clusters: list[Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent when it is signed, so that it is like lost."""
    issued = Ledger.issued

    def silent(self: Ledger, receipt: VerifiedReceipt, present: bool) -> list[ef.Effect]:
        return issued(self, receipt, present=False)

    monkeypatch.setattr(Ledger, "issued", silent)
    jobs = [
        {"publisher": "paula-0", "units": 5},
        {"publisher": "paula-0", "units": 5, "at_ms": 90_000},
    ]
    outcome = simulate(world(jobs=jobs, expect={"within_ms": 200_000}), 1)

    assert outcome.violations == ()
    (cluster,) = clusters
    first = next(iter(cluster.published))
    issued_first = {each.peer for each in receipts(cluster, "paula-0") if each.job == first}
    held = {
        each.peer
        for number in range(5)
        for each in receipts(cluster, f"v-{number}")
        if each.job == first
    }
    assert held == issued_first
    assert held


def test_liars_earn_nothing_for_their_lies(clusters: list[Cluster]) -> None:
    machines = with_adversary("liar", 2, rate=1.0)
    outcome = simulate(world(machines=machines), 2)

    assert found(outcome) == []
    (cluster,) = clusters
    liars = {cluster.by_name[f"x-{number}"].peer for number in range(2)}
    assert not liars & {each.peer for each in receipts(cluster, "paula-0")}


def twice(rows: list[ef.Earning]) -> list[ef.Earning]:
    return [*rows[:-1], *(ef.Earning(r.unit, r.peer, 3 * r.credit) for r in rows[-1:])]


def one_less(rows: list[ef.Earning]) -> list[ef.Earning]:
    return rows[:-1] if rows and rows[0].unit == 3 else rows


def nobody(rows: list[ef.Earning]) -> list[ef.Earning]:
    return [] if rows and rows[0].unit == 3 else rows


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (twice, "where it is worth"),
        (one_less, "gave credit not to v-"),
        (nobody, "no credit to v-"),
    ],
)
def test_credit_that_certificates_do_not_say_is_seen(
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[ef.Earning]], list[ef.Earning]],
    text: str,
) -> None:
    honest = Dues._unit

    def changed(self: Dues, *what: Any) -> list[ef.Earning]:
        return change(honest(self, *what))

    monkeypatch.setattr(Dues, "_unit", changed)
    assert any(text in each for each in found(simulate(world(), 1)))


def test_credit_for_somebody_who_did_not_vote_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Dues._unit

    def changed(self: Dues, *what: Any) -> list[ef.Earning]:
        rows = honest(self, *what)
        return [*rows, ef.Earning(rows[0].unit, self.manifest.publisher, rows[0].credit)]

    monkeypatch.setattr(Dues, "_unit", changed)
    assert any("for nothing to paula-0" in each for each in found(simulate(world(), 1)))


def test_a_receipt_that_is_not_the_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(self: Behaviour, effects: list[ef.Effect]) -> list[ef.Effect]:
        return [
            each
            for each in effects
            if not (isinstance(each, ef.SaveEarnings) and each.rows[0].unit % 2)
        ]

    monkeypatch.setattr(Behaviour, "decide", forget)
    assert any("was earned" in each for each in found(simulate(world(), 1)))


def test_a_receipt_that_leaves_before_it_is_durable_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forget(self: Behaviour, effects: list[ef.Effect]) -> list[ef.Effect]:
        return [each for each in effects if not isinstance(each, ef.SaveReceipt)]

    monkeypatch.setattr(Behaviour, "decide", forget)
    outcome = simulate(world(), 1)
    assert any(v.text == "announced what is not durable" for v in outcome.violations)


def test_a_receipt_kept_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(self: Behaviour, effects: list[ef.Effect]) -> list[ef.Effect]:
        kept = [each for each in effects if isinstance(each, ef.SaveReceipt)]
        return [*kept, *effects]

    monkeypatch.setattr(Behaviour, "decide", double)
    assert any("kept receipt 0 after 0" in each for each in found(simulate(world(), 1)))


@pytest.mark.parametrize("seed", range(4))
def test_the_simulated_disk_keeps_credit_as_the_real_store_does(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    disk, store = Disk(), SqliteStore.open(tmp_path / "store.sqlite")
    sealed_jobs = [seal(job_of(number)) for number in range(4)]
    jobs = [JobId(sealed.hash) for sealed in sealed_jobs]
    writes: list[ef.Write] = [
        ef.SaveJob(job, sealed, own=number < 3)
        for number, (job, sealed) in enumerate(zip(jobs, sealed_jobs, strict=True))
    ]
    free = [(job, unit, peer) for job in jobs for unit in range(5) for peer in PEERS]
    chance.shuffle(free)
    for _ in range(20):
        for _ in range(chance.randint(1, 4)):
            job, unit, peer = free.pop()
            writes.append(ef.SaveEarnings(job, (ef.Earning(unit, peer, chance.randint(1, 99)),)))
            body = Receipt(
                NETWORK, job, PAULA, chance.choice(PEERS), chance.randrange(5), 1, 1, 1, 0
            )
            writes.append(ef.SaveReceipt(job, seal(body)))
        disk.write(writes)
        disk.sync()
        store.apply(writes)
        writes = [ef.CloseJob(jobs[1], "cancelled", None)]

    told = [each for each in disk.restore(PAULA) if isinstance(each, ev.JobRestored)]
    assert [each.manifest.job for each in told] == jobs
    for each, due in zip(told, (True, False, True, False), strict=True):
        job = each.manifest.job
        assert list(each.earnings) == (store.earnings(job) if due else [])
        receipts = store.receipts(job) if due or not each.own else []
        assert [one.sealed for one in each.receipts] == receipts
        assert store.receipts(job)
    for peer in PEERS:
        for most in (1, 2, 9):
            assert disk.receipts_for(peer, most) == store.receipts_for(peer, most)
    store.close()
