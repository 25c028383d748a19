"""What is applied is read again: jobs, frames, ledgers, addresses, incarnations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from stored_values import (
    ALICE,
    BOB,
    CAROL,
    JOB,
    closure,
    frame,
    manifest,
    own_seed,
    reveals,
    save_frame,
    save_job,
    save_requirement,
    sealed,
    snapshot,
)

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core.effects import (
    CloseJob,
    ForgetJob,
    Move,
    SaveFrame,
    SaveJob,
    SaveMoves,
    SaveProof,
    SaveSeed,
    SaveSnapshot,
    SaveUnits,
    UnitRow,
    Write,
)
from p2pfleet.core.model.ids import JobId, PeerId, sha256
from p2pfleet.core.wire.messages import Claim
from p2pfleet.ports import Store, StoredJob


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = SqliteStore.open(path)
    yield opened
    opened.close()


def again(store: Store, path: Path) -> Store:
    """The same store as the next process finds it."""
    assert isinstance(store, SqliteStore)
    store.close()
    store._database = SqliteStore.open(path)._database
    return store


def test_jobs_come_back_in_the_order_in_which_they_were_first_seen(
    store: Store, path: Path
) -> None:
    writes = [save_job(number, own=number == 1) for number in (2, 0, 1)]
    store.apply(writes)

    store = again(store, path)

    assert store.jobs() == [
        StoredJob(write.job, write.manifest, write.own, "active", None) for write in writes
    ]


def test_a_job_saved_twice_changes_nothing(store: Store) -> None:
    store.apply([save_job(0, own=True), save_job(1)])
    store.apply([CloseJob(job=JOB, state="cancelled", closure=closure(JOB, False))])
    before = store.jobs()

    store.apply([SaveJob(job=JOB, manifest=manifest(5), own=False)])

    assert store.jobs() == before


def test_a_closed_job_keeps_its_state_and_closure(store: Store, path: Path) -> None:
    word = closure(JOB, True)
    store.apply([save_job(), save_job(1), CloseJob(job=JOB, state="completed", closure=word)])
    store.apply([CloseJob(job=save_job(1).job, state="expired", closure=None)])

    jobs = again(store, path).jobs()

    assert [(job.state, job.closure) for job in jobs] == [("completed", word), ("expired", None)]


def test_frames_come_back_in_the_order_in_which_they_were_saved(store: Store, path: Path) -> None:
    other = save_job(1).job
    store.apply([save_job(), save_job(1), save_frame(1), save_frame(0, author=CAROL)])
    store.apply([save_frame(0, other), save_frame(0)])

    store = again(store, path)

    assert store.frames() == [
        (JOB, frame(1)),
        (JOB, frame(0, author=CAROL)),
        (other, frame(0, other)),
        (JOB, frame(0)),
    ]
    assert store.job_frames(JOB) == [frame(1), frame(0, author=CAROL), frame(0)]


def test_a_frame_saved_twice_is_there_once_and_the_first_one_stays(store: Store) -> None:
    contrary = SaveFrame(job=JOB, frame=frame(0, entries=(Claim(units=(9,)),)))

    store.apply([save_job(), save_frame(0), save_frame(0)])
    store.apply([contrary, save_frame(1)])

    assert store.job_frames(JOB) == [frame(0), frame(1)]


def test_frames_of_another_incarnation_are_others(store: Store) -> None:
    later = frame(0, incarnation=8)

    store.apply([save_job(), save_frame(0), SaveFrame(job=JOB, frame=later)])

    assert store.job_frames(JOB) == [frame(0), later]


def test_a_range_of_one_authors_frames_comes_in_its_order(store: Store) -> None:
    later = SaveFrame(job=JOB, frame=frame(3, incarnation=8))
    other = save_job(1)
    store.apply([save_job(), other, *(save_frame(number) for number in (4, 2, 3, 1, 0)), later])
    store.apply([save_frame(2, author=CAROL), save_frame(2, other.job)])

    assert store.frame_range(JOB, BOB, 7, 1, 4) == [frame(1), frame(2), frame(3)]
    assert store.frame_range(JOB, BOB, 7, 4, 2**53) == [frame(4)]
    assert store.frame_range(JOB, BOB, 7, 3, 3) == []
    assert store.frame_range(JOB, BOB, 9, 0, 9) == []
    assert store.frame_range(JOB, ALICE, 7, 0, 9) == []


def test_a_frame_full_of_entries_comes_back_whole(store: Store) -> None:
    full = frame(0, entries=reveals(700))

    store.apply([save_job(), SaveFrame(job=JOB, frame=full)])

    assert store.job_frames(JOB) == [full]


def test_frames_of_closed_jobs_are_not_recovered_but_can_be_asked_for(store: Store) -> None:
    store.apply([save_job(), save_frame(0), CloseJob(job=JOB, state="expired", closure=None)])

    assert store.frames() == []
    assert store.job_frames(JOB) == [frame(0)]


def test_a_later_ledger_line_replaces_the_earlier_one(store: Store, path: Path) -> None:
    first = (UnitRow(unit=3, state="certified", detail=b"c3"), UnitRow(1, "certified", b"c1"))
    then = (UnitRow(unit=3, state="failed", detail="no memory – at all".encode()),)
    store.apply([save_job(), SaveUnits(job=JOB, rows=first), SaveUnits(job=JOB, rows=then)])

    store = again(store, path)

    assert store.units(JOB) == [
        (1, "certified", b"c1"),
        (3, "failed", "no memory – at all".encode()),
    ]
    assert store.units(save_job(1).job) == []


def test_a_forgotten_job_loses_frames_and_ledger(store: Store) -> None:
    other = save_job(1).job
    store.apply(
        [
            save_job(),
            save_job(1),
            save_frame(0),
            save_frame(0, other),
            SaveUnits(job=JOB, rows=(UnitRow(1, "certified", b"c"),)),
            CloseJob(job=JOB, state="completed", closure=closure(JOB, True)),
        ]
    )

    store.apply([ForgetJob(job=JOB)])

    assert (store.job_frames(JOB), store.units(JOB)) == ([], [])
    assert store.frames() == [(other, frame(0, other))]
    assert [job.state for job in store.jobs()] == ["completed", "active"]


def test_writes_happen_in_their_order(store: Store) -> None:
    store.apply([save_job(), save_frame(0), ForgetJob(job=JOB), save_frame(1)])

    assert store.job_frames(JOB) == [frame(1)]


def test_of_what_the_networks_owner_asks_for_the_last_one_saved_is_kept(
    store: Store, path: Path
) -> None:
    assert store.requirement() is None
    store.apply([save_requirement(1)])
    assert store.requirement() == save_requirement(1).requirement
    # Which of them is newer was decided before; all are of one transaction.
    store.apply([save_requirement(2), save_job(), save_requirement(4), save_requirement(3, "99")])
    assert store.requirement() == save_requirement(3, "99").requirement
    assert again(store, path).requirement() == save_requirement(3, "99").requirement


@pytest.mark.parametrize(
    "wrong",
    [
        save_frame(0, save_job(9).job),
        SaveFrame(job=JOB, frame=frame(0, save_job(9).job)),
        SaveFrame(job=JOB, frame=manifest()),
        SaveFrame(job=JOB, frame=sealed(b"no message", BOB)),
        SaveUnits(job=save_job(9).job, rows=(UnitRow(1, "certified", b""),)),
        SaveMoves(save_job(9).job, (Move(1, BOB, "matched"),)),
        SaveSeed(save_job(9).job, own_seed(1)),
        SaveSeed(JOB, msgspec.structs.replace(own_seed(1), seed=bytes(32))),
        SaveSnapshot(save_job(9).job, snapshot(1)),
        SaveProof(CAROL, frame(0), frame(1)),
        CloseJob(job=save_job(9).job, state="expired", closure=None),
    ],
)
def test_all_or_none_of_the_writes_happen(store: Store, wrong: Write) -> None:
    with pytest.raises(AssertionError):
        store.apply([save_job(), save_frame(0), wrong])

    assert store.jobs() == []
    store.apply([save_job(), save_frame(0)])
    assert store.job_frames(JOB) == [frame(0)]


def test_no_writes_are_no_transaction(store: Store) -> None:
    store.apply([])

    assert store.jobs() == []


def test_an_incarnation_never_comes_twice(store: Store, path: Path) -> None:
    assert store.next_incarnation(1000) == 1000
    assert store.next_incarnation(1000) == 1001
    assert store.next_incarnation(5) == 1002

    store = again(store, path)

    assert store.next_incarnation(5) == 1003
    assert store.next_incarnation(2000) == 2000


def test_the_most_recently_useful_address_comes_first(store: Store, path: Path) -> None:
    store.save_address(BOB, "/ip4/127.0.0.1/tcp/1", 10)
    store.save_address(CAROL, "/ip4/127.0.0.1/tcp/2", 20)
    store.save_address(BOB, "/ip4/127.0.0.1/tcp/1", 30)

    assert again(store, path).load_addresses() == [
        (BOB, "/ip4/127.0.0.1/tcp/1"),
        (CAROL, "/ip4/127.0.0.1/tcp/2"),
    ]


def test_of_too_many_addresses_the_oldest_go(store: Store) -> None:
    for number in range(520):
        store.save_address(PeerId(sha256(b"%d" % number)), "/ip4/127.0.0.1/tcp/1", number)

    peers = [peer for peer, _ in store.load_addresses()]

    assert peers == [PeerId(sha256(b"%d" % number)) for number in range(519, 7, -1)]


def test_one_peer_cannot_push_the_others_out_of_the_address_book(store: Store) -> None:
    store.save_address(ALICE, "/ip4/127.0.0.1/tcp/1", 1)
    for number in range(20):
        store.save_address(BOB, f"/ip4/127.0.0.1/tcp/{number}", 2 + number)
    store.save_address(CAROL, "/dns4/" + "a" * 200 + "/tcp/1", 50)

    addresses = store.load_addresses()

    assert addresses == [
        *((BOB, f"/ip4/127.0.0.1/tcp/{number}") for number in range(19, 11, -1)),
        (ALICE, "/ip4/127.0.0.1/tcp/1"),
    ]


def test_threads_write_and_read_at_once(store: Store) -> None:
    store.apply([save_job()])
    authors = [PeerId(sha256(b"author %d" % number)) for number in range(4)]
    seen: list[int] = []
    failures: list[BaseException] = []

    def write(author: PeerId) -> None:
        try:
            for sequence in range(25):
                store.apply([save_frame(sequence, author=author)])
                seen.append(len(store.job_frames(JOB)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(author,)) for author in authors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert max(seen) == len(store.frames()) == 100
    for author in authors:
        own = [kept for kept in store.job_frames(JOB) if kept.signer == author]
        assert own == [frame(sequence, author=author) for sequence in range(25)]


def test_one_job_is_found_by_its_id_and_by_how_its_id_begins(store: Store) -> None:
    other = save_job(2)
    store.apply([save_job(), other])

    found = store.job(JOB)
    assert found is not None
    assert found.job == JOB
    assert store.job(JobId(bytes(32))) is None
    assert store.find_jobs(JOB.hex()[:12]) == [JOB]
    assert sorted(store.find_jobs("")) == sorted([JOB, other.job])
    assert store.find_jobs("%") == []
