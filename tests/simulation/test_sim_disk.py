"""The simulated disk keeps what the real store keeps, and tells a starting core the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, JobId, NetworkId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment
from p2pfleet.core.wire import messages as ms
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.signatures import delivered, heard, peer_of, seal, signed, unseal

NETWORK = NetworkId(sha256(b"a simulated network"))
PAULA, *PEERS = map(peer_of, ("paula", "bob", "carol", "dave"))
KINDS = ("matched", "confirmed", "audited", "contradicted", "")


def manifest(number: int) -> ms.Sealed:
    cid = cid_of(b"blob")
    return seal(
        ms.Manifest(
            network=NETWORK,
            publisher=PAULA,
            name=f"job {number}",
            model=cid,
            model_bytes=5,
            table=cid,
            table_bytes=5,
            units=1000,
            total_bytes=1000,
            limits=Limits(2**20, 1000, 1000),
            comparison=Exact(),
            stop=FixedQuorum(2, 4),
            shards=1,
            lease_ms=60_000,
            issued_ms=1,
            expires_ms=2,
            salt=bytes(16),
        )
    )


JOBS = [JobId(manifest(number).hash) for number in range(3)]


def frame(job: JobId, sequence: int, author: int = 0, unit: int = 1) -> ms.Sealed:
    return seal(ms.Frame(NETWORK, job, PEERS[author], 7, sequence, (ms.Claim((unit,)),)))


def snapshot(number: int) -> ms.Sealed:
    return seal(ms.Snapshot(NETWORK, PAULA, "any", number, 3, ()))


def own_seed(number: int) -> ef.OwnSeed:
    seed = sha256(b"seed %d" % number)
    items = (ms.RevealItem(number, 0, Digest(sha256(b"answer")), 10),)
    return ef.OwnSeed(commitment.seed_hash(seed), seed, items)


def anything(chance: random.Random) -> Iterator[ef.Write]:
    """Writes as a core could make them, and in orders in which it would not."""
    while True:
        job, peer = chance.choice(JOBS), chance.randrange(len(PEERS))
        match chance.randrange(9):
            case 0:
                rows = tuple(
                    ef.Move(chance.randrange(4), chance.choice(PEERS), chance.choice(KINDS))
                    for _ in range(chance.randint(1, 6))
                )
                yield ef.SaveMoves(job, rows)
            case 1:
                yield ef.SaveSeed(job, own_seed(chance.randrange(6)))
            case 2:
                yield ef.SaveSnapshot(job, snapshot(chance.randrange(4)))
            case 3:
                record = Record(chance.randrange(9), chance.randrange(9), chance.randrange(9999))
                name = chance.choice(["any", "vision"])
                yield ef.SaveRecords((ef.RecordRow(name, PEERS[peer], record),))
            case 4:
                number = chance.randrange(9)
                yield ef.SaveProof(
                    PEERS[peer], frame(job, number, peer), frame(job, number + 1, peer)
                )
            case 5 | 6:
                unit = chance.randrange(3)
                yield ef.SaveFrame(job, frame(job, chance.randrange(5), peer, unit))
            case 7:
                row = ef.UnitRow(chance.randrange(4), chance.choice(["open", "settled"]), b"")
                yield ef.SaveUnits(job, (row,))
            case _:
                if chance.random() < 0.3:
                    yield ef.ForgetJob(job) if chance.random() < 0.5 else ef.VoidMoves(job)


@pytest.mark.parametrize("seed", range(8))
def test_the_simulated_disk_keeps_what_the_real_store_keeps(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    disk, store = Disk(), SqliteStore.open(tmp_path / "store.sqlite")
    writes: list[ef.Write] = [ef.SaveJob(JobId(m.hash), m, True) for m in map(manifest, range(3))]
    source = anything(chance)
    for _ in range(20):
        writes.extend(next(source) for _ in range(chance.randint(1, 8)))
        disk.write(writes)
        disk.sync()
        store.apply(writes)
        writes = []

    told = list(disk.restore(PAULA))

    records = [event.rows for event in told if isinstance(event, ev.RecordsRestored)]
    assert records == [tuple(store.records())]
    proofs = [event for event in told if isinstance(event, ev.ProofRestored)]
    assert [
        (event.first.author, event.first.sealed, event.second.sealed) for event in proofs
    ] == store.proofs()
    jobs = [event for event in told if isinstance(event, ev.JobRestored)]
    assert [event.manifest.job for event in jobs] == JOBS
    for event in jobs:
        job = event.manifest.job
        assert list(event.moves) == store.moves(job)
        assert list(event.seeds) == store.seeds(job)
        assert [each.sealed for each in event.snapshots] == store.snapshots(job)
        assert [(row.unit, row.state, row.detail) for row in event.units] == store.units(job)
    frames = [event.frame.sealed for event in told if isinstance(event, ev.FrameRestored)]
    assert frames == [sealed for _, sealed in store.frames()]
    kept = sum(len(event.moves) + len(event.seeds) + len(event.snapshots) for event in jobs)
    assert kept + len(frames) > 10
    store.close()


def test_a_crash_loses_the_transaction_that_was_under_way() -> None:
    disk = Disk()
    disk.write([ef.SaveJob(JOBS[0], manifest(0), True), ef.SaveSeed(JOBS[0], own_seed(1))])
    disk.sync()
    disk.write(
        [
            ef.SaveSeed(JOBS[0], own_seed(2)),
            ef.SaveMoves(JOBS[0], (ef.Move(1, PEERS[0], "matched"),)),
            ef.SaveProof(PEERS[0], frame(JOBS[0], 0), frame(JOBS[0], 1)),
        ]
    )

    disk.crash()

    job = disk.jobs[JOBS[0]]
    assert list(job.seeds.values()) == [own_seed(1)]
    assert (job.moves, disk.proofs, disk.lost) == ({}, {}, 3)


def test_what_contradicts_itself_is_not_kept() -> None:
    wrong: list[ef.Write] = [
        ef.SaveSeed(JOBS[0], ef.OwnSeed(bytes(32), sha256(b"seed"), ())),
        ef.SaveProof(PEERS[1], frame(JOBS[0], 0), frame(JOBS[0], 1)),
    ]
    for write in wrong:
        disk = Disk()
        disk.write([ef.SaveJob(JOBS[0], manifest(0), True), write])
        with pytest.raises(AssertionError):
            disk.sync()


def test_ringers_of_open_jobs_are_told_after_the_frames() -> None:
    ringers = (ms.Ringer(3, Digest(sha256(b"three"))),)
    disk = Disk()
    disk.write([ef.SaveJob(JobId(m.hash), m, True) for m in map(manifest, range(2))])
    disk.sync()
    for job in JOBS:
        disk.ringers[job] = (bytes(32), ringers)
    disk.write([ef.CloseJob(JOBS[1], "cancelled", None), ef.SaveFrame(JOBS[0], frame(JOBS[0], 0))])
    disk.sync()

    *_, framed, known, end = disk.restore(PAULA)

    assert isinstance(framed, ev.FrameRestored)
    assert known == ev.RingersKnown(JOBS[0], bytes(32), ringers)
    assert end == ev.RestoreFinished()


def test_a_trust_snapshot_is_durable_while_a_job_has_it() -> None:
    disk = Disk()
    disk.write([ef.SaveJob(JOBS[0], manifest(0), True), ef.SaveSnapshot(JOBS[0], snapshot(1))])
    assert not disk.holds(snapshot(1))
    disk.sync()

    assert disk.holds(snapshot(1))
    assert not disk.holds(snapshot(2))


def test_snapshots_and_proofs_are_heard_as_a_real_node_hears_them() -> None:
    one, two = frame(JOBS[0], 0), frame(JOBS[0], 1)
    kept = unseal(snapshot(1))

    assert signed(PAULA, ms.Snapshot(NETWORK, PAULA, "any", 1, 3, ())) == delivered(PAULA, kept)
    event = heard(PEERS[0], ms.Deliver(snapshot(1)))
    assert isinstance(event, ev.SnapshotReceived)
    assert event.snapshot.hash == snapshot(1).hash
    event = heard(PEERS[0], ms.Proof(one, two))
    assert isinstance(event, ev.ProofReceived)
    assert (event.source, event.first.sealed, event.second.sealed) == (PEERS[0], one, two)
    for other in (manifest(0), snapshot(1)):
        assert heard(PEERS[0], ms.Proof(one, other)) is None
        assert heard(PEERS[0], ms.Proof(other, one)) is None
    forged = ms.Sealed(one.body, one.signer, bytes(64))
    with pytest.raises(Malformed):
        heard(PEERS[0], ms.Proof(two, forged))
