"""Kept outputs are committed to, held against others' commitments, and compared with others'."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.effects import (
    CheckCommitments,
    Compare,
    MakeCommitments,
    OpenedCommitment,
    ShutJob,
)
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.events import (
    CommitmentsChecked,
    CommitmentsMade,
    Compared,
    UnitUnavailable,
)
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Cid, Digest, JobId, PeerId, cid_of, sha256
from p2pfleet.core.model.job import Exact
from p2pfleet.core.rules.commitment import commitment
from p2pfleet.core.wire.messages import RevealItem
from p2pfleet.runtime import outputs
from p2pfleet.runtime.outputs import COMPARED_AT_ONCE, Candidate
from tests.adapters.sandbox.guarded import guarded, until
from tests.adapters.sandbox.models import bundle
from tests.runtime.workbench import JOB, ME, NETWORK, Bench, Peers, bench, job_of, ref_to

ALICE, BOB = PeerId(b"\x0a" * 32), PeerId(b"\x0b" * 32)
OTHER = JobId(b"\x08" * 32)
OWN = bundle(y=np.float32([1, 2, 3]))
SAME = bundle(y=np.float32([1, 2, 3.0001]))
NEAR = bundle(y=np.float32([1, 2, 3.01]))
WRONG = bundle(y=np.float32([7, 7, 7]))


def item_of(unit: int, output: bytes, attempt: int = 0) -> RevealItem:
    return RevealItem(unit, attempt, Digest(sha256(output)), len(output))


def compare(candidate: bytes, own: bytes = OWN, unit: int = 4) -> Compare:
    return Compare(JOB, unit, ref_to(candidate), Digest(sha256(own)), (ALICE,))


# ---- commitments -------------------------------------------------------------------------------


@guarded()
async def test_commitments_bind_this_peer_to_the_bytes_that_are_kept(packs: FilePacks) -> None:
    first, second = b"an output", b"another output"
    packs.add_pack([first, second])
    items = (item_of(3, second, 1), item_of(9, first))
    async with bench(packs) as there:
        there.act(MakeCommitments(JOB, items))
        made = await there.next(CommitmentsMade)
        there.act(MakeCommitments(JOB, items))
        again = await there.next(CommitmentsMade)
    assert (made.job, made.items) == (JOB, items)
    assert made.commitments == (
        commitment(NETWORK, JOB, 3, 1, ME, made.seed, second),
        commitment(NETWORK, JOB, 9, 0, ME, made.seed, first),
    )
    assert len(made.seed) == 32
    assert made.seed != again.seed, "a seed serves once"


@guarded()
async def test_an_output_that_is_gone_or_damaged_is_committed_to_by_nobody(
    packs: FilePacks, tmp_path: Path
) -> None:
    packs.add(b"whole")
    packs.add(b"spoilt")
    place = packs.locate(cid_of(b"spoilt"))
    assert place is not None
    place[0].chmod(0o600)
    place[0].write_bytes(b"SPOILT")
    items = (item_of(0, b"gone"), item_of(1, b"whole"), item_of(2, b"spoilt"))
    async with bench(packs) as there:
        there.act(MakeCommitments(JOB, items))
        assert (await there.next(CommitmentsMade)).items == (items[1],)
        gone, spoilt = await there.next(UnitUnavailable), await there.next(UnitUnavailable)
        assert (gone.job, gone.unit, spoilt.unit) == (JOB, 0, 2)
        assert "gone" in gone.reason
        assert "damaged" in spoilt.reason
        there.act(MakeCommitments(JOB, items[::2]))
        assert (await there.next(CommitmentsMade)).commitments == (), "an answer, all the same"
        assert {(await there.next(UnitUnavailable)).unit for _ in range(2)} == {0, 2}


@guarded()
async def test_opened_commitments_are_told_apart(packs: FilePacks) -> None:
    packs.add(OWN)
    seed = bytes(range(32))

    def opened(peer: PeerId, output: bytes, unit: int = 5, attempt: int = 0) -> OpenedCommitment:
        made = commitment(NETWORK, JOB, 5, 0, peer, seed, output)
        return OpenedCommitment(unit, attempt, peer, seed, made)

    items = (
        opened(ALICE, OWN),
        opened(BOB, WRONG),
        msgspec.structs.replace(opened(ALICE, OWN), peer=BOB),
        opened(ALICE, OWN, unit=6),
        opened(ALICE, OWN, attempt=1),
        msgspec.structs.replace(opened(ALICE, OWN), seed=bytes(32)),
        opened(BOB, OWN),
    )
    async with bench(packs) as there:
        there.act(CheckCommitments(JOB, Digest(sha256(OWN)), items))
        checked = await there.next(CommitmentsChecked)
    assert (checked.job, checked.digest) == (JOB, sha256(OWN))
    assert checked.good == ((5, 0, ALICE), (5, 0, BOB))
    assert checked.bad == ((5, 0, BOB), (5, 0, BOB), (6, 0, ALICE), (5, 1, ALICE), (5, 0, ALICE))


@guarded()
async def test_commitments_to_an_output_that_is_not_here_are_answered_all_the_same(
    packs: FilePacks,
) -> None:
    packs.add(OWN)
    item = OpenedCommitment(4, 1, ALICE, bytes(32), bytes(32))
    async with bench(packs) as there:
        there.act(CheckCommitments(JOB, Digest(sha256(b"gone")), (item,)))
        told = await there.next(CommitmentsChecked)
        assert told.digest == sha256(b"gone")
        assert (told.good, told.bad, told.lost) == ((), (), ((4, 1, ALICE),))
        there.act(CheckCommitments(JOB, Digest(sha256(OWN)), (item,)))
        told = await there.next(CommitmentsChecked)
        assert (told.digest, told.bad, told.lost) == (sha256(OWN), ((4, 1, ALICE),), ())


@guarded()
async def test_what_nobody_foresaw_costs_the_units_and_not_the_node(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.add(OWN)

    def broken(cid: Cid) -> bytes:
        raise RuntimeError("the moon fell down")

    async with bench(packs) as there:
        there.known[JOB] = job_of(packs, b"in")
        with monkeypatch.context() as patch:
            patch.setattr(packs, "read", broken)
            there.act(MakeCommitments(JOB, (item_of(1, OWN), item_of(2, OWN))))
            assert (await there.next(CommitmentsMade)).items == ()
            for unit in (1, 2):
                event = await there.next(UnitUnavailable)
                assert event == UnitUnavailable(JOB, unit, "RuntimeError: the moon fell down")
            item = OpenedCommitment(4, 1, ALICE, bytes(32), bytes(32))
            there.act(CheckCommitments(JOB, Digest(sha256(OWN)), (item,)))
            assert (await there.next(CommitmentsChecked)).lost == ((4, 1, ALICE),)
            there.act(compare(OWN))
            assert (await there.next(Compared)).verdict == "unavailable"
        assert there.quiet()
        there.act(compare(OWN))
        assert (await there.next(Compared)).verdict == "same"


# ---- comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "exact", "tolerant"),
    [
        (OWN, "same", "same"),
        (SAME, "near", "same"),
        (NEAR, "near", "near"),
        (WRONG, "different", "different"),
        (b"no bundle at all", "different", "different"),
        (b"what nobody has", "unavailable", "unavailable"),
    ],
)
@guarded()
async def test_a_candidate_is_fetched_and_compared_by_the_rule_of_the_job(
    packs: FilePacks, candidate: bytes, exact: str, tolerant: str
) -> None:
    packs.add(OWN)
    peers = Peers((SAME, NEAR, WRONG, b"no bundle at all"))
    async with bench(packs, peers=peers) as there:
        for rule, verdict in ((Exact(), exact), (Tolerance(), tolerant)):
            there.known[JOB] = job_of(packs, b"in", comparison=rule)
            there.act(compare(candidate))
            expected = Compared(JOB, 4, Digest(sha256(candidate)), Digest(sha256(OWN)), verdict)
            assert await there.next(Compared) == expected


@guarded()
async def test_a_job_that_is_open_here_need_not_be_looked_up(packs: FilePacks) -> None:
    packs.add(OWN)
    async with bench(packs, peers=Peers((SAME,))) as there:
        await there.open(job_of(packs, b"in", comparison=Tolerance()))
        there.act(compare(SAME))
        assert (await there.next(Compared)).verdict == "same"


@guarded()
async def test_what_cannot_be_compared_is_unavailable(packs: FilePacks) -> None:
    peers = Peers((SAME,))
    async with bench(packs, peers=peers) as there:
        there.act(compare(SAME))
        assert (await there.next(Compared)).verdict == "unavailable", "of a job that nobody knows"
        there.known[JOB] = job_of(packs, b"in")
        there.act(compare(SAME))
        assert (await there.next(Compared)).verdict == "unavailable", "without an own output"
        packs.add(OWN)
        there.act(compare(bytes(2**20 + 1)))
        assert (await there.next(Compared)).verdict == "unavailable", "beyond the job's limit"
        assert sha256(bytes(2**20 + 1)) not in peers.asked
        peers.failure = P2pfleetError("the disk is full.", "Free some space.")
        there.act(compare(WRONG))
        assert (await there.next(Compared)).verdict == "unavailable"


@guarded()
async def test_a_candidate_is_never_among_the_blobs_that_are_served(
    packs: FilePacks, tmp_path: Path
) -> None:
    packs.add(OWN)
    peers = Peers((SAME, NEAR))
    async with bench(packs, peers=peers) as there:
        there.known[JOB] = job_of(packs, b"in")
        peers.on_fetch = lambda: assert_gone(packs, tmp_path)
        before = packs.used_bytes
        for candidate in (SAME, NEAR, SAME):
            there.act(compare(candidate))
            assert (await there.next(Compared)).verdict == "near"
        assert_gone(packs, tmp_path)
        assert packs.used_bytes == before
        assert len(peers.asked) == 3


def assert_gone(packs: FilePacks, folder: Path) -> None:
    assert not packs.has(cid_of(SAME))
    assert not packs.has(cid_of(NEAR))
    assert list((folder / "packs" / "partial").iterdir()) == []


@guarded()
async def test_a_candidate_that_is_here_already_is_not_fetched(packs: FilePacks) -> None:
    packs.add(OWN)
    packs.add(WRONG)
    async with bench(packs) as there:
        there.known[JOB] = job_of(packs, b"in")
        there.act(compare(WRONG))
        assert (await there.next(Compared)).verdict == "different"
        assert there.peers.asked == []


def test_a_candidate_begins_anew_when_its_bytes_are_wrong() -> None:
    candidate = Candidate(ref_to(b"right"))
    candidate.write(b"wro")
    candidate.write(b"ng")
    assert candidate.present == 5
    assert not candidate.finish()
    assert candidate.present == 0
    candidate.write(b"right")
    assert candidate.finish()
    assert bytes(candidate.data) == b"right"


@guarded()
async def test_a_job_that_is_shut_ends_its_comparisons_and_leaves_nothing(
    packs: FilePacks,
) -> None:
    packs.add(OWN)
    peers = Peers((NEAR,))
    peers.silent.add(sha256(SAME))
    async with bench(packs, peers=peers) as there:
        there.known[JOB] = job_of(packs, b"in")
        for unit in range(3 * COMPARED_AT_ONCE):
            there.act(compare(SAME, unit=unit))
        await until(lambda: len(peers.asked) == COMPARED_AT_ONCE)
        await trio.testing.wait_all_tasks_blocked()
        assert len(peers.asked) == COMPARED_AT_ONCE, "so many at once"
        there.act(ShutJob(JOB, keep=False))
        await until(lambda: not there.workshop._scopes and not there.workshop._leaving)
        assert there.quiet()
        there.act(compare(NEAR))
        assert (await there.next(Compared)).verdict == "near", "the places are free again"


@guarded()
async def test_a_source_that_never_finishes_is_not_waited_for_for_ever(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "PATIENCE_S", 0.05)
    packs.add(OWN)
    peers = Peers()
    peers.silent.add(sha256(SAME))
    async with bench(packs, peers=peers) as there:
        there.known[JOB] = job_of(packs, b"in")
        there.act(compare(SAME))
        assert (await there.next(Compared)).verdict == "unavailable"


@guarded()
async def test_a_job_that_is_shut_in_the_middle_of_reading_is_answered_no_more(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.add(OWN)
    read, reads = packs.read, []

    def counted(cid: Cid) -> bytes:
        reads.append(cid)
        trio.from_thread.run_sync(there.act, ShutJob(JOB, keep=True))
        return read(cid)

    monkeypatch.setattr(packs, "read", counted)
    async with bench(packs) as there:
        there.act(MakeCommitments(JOB, (item_of(0, OWN), item_of(1, OWN), item_of(2, OWN))))
        await until(lambda: reads and not there.workshop._scopes)
        monkeypatch.undo()
        there.act(MakeCommitments(OTHER, (item_of(7, OWN),)))
        assert (await there.next(CommitmentsMade)).job == OTHER
    assert len(reads) == 1


@guarded()
async def test_only_a_few_threads_read_at_a_time(
    packs: FilePacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.add(OWN)
    there: Bench
    busiest = 0

    def watched(cid: Cid) -> bytes:
        nonlocal busiest
        busiest = max(busiest, there.workshop._kept._readers.borrowed_tokens)
        return OWN

    monkeypatch.setattr(packs, "read", watched)
    async with bench(packs) as there:
        for unit in range(20):
            there.act(MakeCommitments(JOB, (item_of(unit, OWN),)))
        units = [(await there.next(CommitmentsMade)).items[0].unit for _ in range(20)]
    assert sorted(units) == list(range(20))
    assert busiest <= outputs.READERS_AT_ONCE
