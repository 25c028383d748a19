"""What a stranger can make a node keep: the bounds of the core that have no other test."""

from __future__ import annotations

from core_bench import Bench, only, working
from core_samples import (
    BOB,
    CAROL,
    MALLORY,
    PAULA,
    SAMPLE,
    Voter,
    manifest,
    peer,
    record,
    seal,
    snapshot,
    unseal,
)
from test_core_proofs import two_answers

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Ignore
from p2pfleet.core.machines import book, job, membership
from p2pfleet.core.machines.frames import AUTHORS_MAX, FrameLog
from p2pfleet.core.machines.handlers import jobs, trust
from p2pfleet.core.model.ids import JobId, sha256
from p2pfleet.core.wire import messages as ms


def test_jobs_of_a_publisher_that_is_refused_end_here_and_others_go_on() -> None:
    bench, mine = working()
    bad = unseal(seal(manifest(publisher=MALLORY, name="bad")))
    bench.tell(ev.ManifestReceived(BOB, bad))
    assert bad.job in bench.node.jobs
    told = bench.tell(ev.PeerRefused(MALLORY, 1_000))
    assert [effect.job for effect in only(ef.ForgetJob, told)] == [bad.job]
    assert list(bench.node.jobs) == [mine.job]
    another = unseal(seal(manifest(publisher=MALLORY, name="another")))
    (report,) = bench.tell(ev.ManifestReceived(BOB, another))
    assert isinstance(report.verdict, Ignore)
    bench.wait(1_001)
    bench.tell(ev.ManifestReceived(BOB, another))
    assert another.job in bench.node.jobs
    # What ended does not begin again.
    bench.tell(ev.ManifestReceived(BOB, bad))
    assert bad.job not in bench.node.jobs


def test_a_lifted_ban_lets_new_jobs_in_and_a_node_never_refuses_itself() -> None:
    bench, _ = working()
    bench.tell(ev.PeerRefused(MALLORY, 10**9))
    bench.tell(ev.PeerRefused(MALLORY, 0))
    bench.tell(ev.ManifestReceived(BOB, unseal(seal(manifest(publisher=MALLORY)))))
    assert len(bench.node.jobs) == 2
    bench.tell(ev.PeerRefused(bench.node.me, 10**9))
    assert bench.node.refused == {}
    for number in range(jobs.REFUSED_MAX + 5):
        bench.tell(ev.PeerRefused(peer(f"refused {number}"), 10**9))
    assert len(bench.node.refused) == jobs.REFUSED_MAX


def test_proofs_against_keys_that_nobody_knows_are_few_and_small(monkeypatch) -> None:
    monkeypatch.setattr(trust, "STRANGERS_PROVED_MAX", 3)
    bench = Bench()
    bench.meet(BOB, CAROL)
    proved = 0
    for number in range(6):
        _, one, two = two_answers(Voter(peer(f"made {number}"), SAMPLE.job))
        told = bench.tell(ev.ProofReceived(BOB, one, two))
        proved += len(only(ef.SaveProof, told))
    assert proved == 3
    _, one, two = two_answers(Voter(CAROL, SAMPLE.job))
    assert only(ef.SaveProof, bench.tell(ev.ProofReceived(BOB, one, two)))
    monkeypatch.setattr(trust, "STRANGERS_PROVED_MAX", 1_000)
    monkeypatch.setattr(trust, "STRANGERS_PROOF_BYTES", 10)
    _, one, two = two_answers(Voter(peer("long"), SAMPLE.job))
    (report,) = bench.tell(ev.ProofReceived(BOB, one, two))
    assert isinstance(report.verdict, Ignore)


def test_the_trust_snapshots_of_a_job_take_a_bounded_room(monkeypatch) -> None:
    bench, known = working()
    mine = bench.node.jobs[known.job]
    first = snapshot({BOB: 1}, number=1, publisher=PAULA)
    monkeypatch.setattr(job, "SNAPSHOT_BYTES_MAX", 2 * len(first.sealed.body) + 8)
    assert [mine.weigh(snapshot({BOB: 1}, number=number)) for number in (1, 2, 3)] == [
        True, True, False,
    ]  # fmt: skip


def test_records_and_memories_of_jobs_are_bounded_in_number(monkeypatch) -> None:
    monkeypatch.setattr(membership, "RECORDS_MAX", 5)
    bench = Bench()
    for number in range(9):
        who = peer(f"visitor {number}")
        bench.tell(ev.PeerConnected(who))
        bench.tell(ev.HelloReceived(who, record(who)))
        bench.tell(ev.PeerDisconnected(who))
    assert len(bench.node.membership.records) == 5
    monkeypatch.setattr(book, "ENDED_MAX", 2)
    monkeypatch.setattr(book, "TOMBSTONES_MAX", 3)
    for number in range(6):
        bad = unseal(seal(manifest(publisher=MALLORY, name=f"bad {number}")))
        bench.tell(ev.ManifestReceived(BOB, bad))
        bench.tell(ev.PeerRefused(MALLORY, 1))
        bench.wait(2)
    assert (len(bench.node.ended), len(bench.node.book.tombstones)) == (2, 3)


def test_a_job_lists_so_many_participants() -> None:
    bench, known = working()
    for number in range(job.PARTICIPANTS_MAX + 5):
        bench.node.jobs[known.job].join(peer(f"participant {number}"))
    assert len(bench.node.jobs[known.job].participants) == job.PARTICIPANTS_MAX


def test_a_log_takes_frames_of_so_many_authors() -> None:
    known = JobId(sha256(b"job"))
    log = FrameLog(known)
    refused = 0
    for number in range(AUTHORS_MAX + 3):
        frame = Voter(peer(f"author {number}"), known).says(ms.Claim((0,)))
        refused += log.admit(frame, 10) == "too many authors"
    assert refused == 3
