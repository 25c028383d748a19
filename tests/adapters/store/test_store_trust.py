"""What trust rests on comes back as it was saved: moves, records, proofs, seeds, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_values import (
    ALICE,
    BOB,
    CAROL,
    JOB,
    closure,
    frame,
    own_seed,
    save_frame,
    save_job,
    snapshot,
)

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core.effects import (
    CloseJob,
    ForgetJob,
    Move,
    RecordRow,
    SaveMoves,
    SaveProof,
    SaveRecords,
    SaveSeed,
    SaveSnapshot,
    SaveUnits,
    SaveWithdrawn,
    UnitRow,
    VoidMoves,
    Withdrawn,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import JobId
from p2pfleet.core.model.record import Record
from p2pfleet.ports import Store

OTHER = save_job(1).job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = SqliteStore.open(path)
    opened.apply([save_job(own=True), save_job(1, own=True)])
    yield opened
    opened.close()


def again(store: Store, path: Path) -> Store:
    """The same store as the next process finds it."""
    assert isinstance(store, SqliteStore)
    store.close()
    store._database = SqliteStore.open(path)._database
    return store


def moves(*rows: Move, job: JobId = JOB) -> SaveMoves:
    return SaveMoves(job, rows)


def test_moves_come_back_in_the_order_in_which_they_were_first_saved(
    store: Store, path: Path
) -> None:
    store.apply([moves(Move(9, BOB, "matched"), Move(1, CAROL, "confirmed"))])
    store.apply([moves(Move(5, BOB, "audited"), job=OTHER), moves(Move(0, BOB, "ringer"))])

    store = again(store, path)

    assert store.moves(JOB) == [
        Move(9, BOB, "matched"),
        Move(1, CAROL, "confirmed"),
        Move(0, BOB, "ringer"),
    ]
    assert store.moves(OTHER) == [Move(5, BOB, "audited")]
    assert store.moves(save_job(2).job) == []


def test_a_move_that_is_replaced_keeps_its_place(store: Store, path: Path) -> None:
    store.apply([moves(Move(1, BOB, "matched"), Move(2, BOB, "matched"))])
    store.apply([moves(Move(1, BOB, "failed audit"), Move(1, BOB, "contradicted"))])
    store.apply([moves(Move(1, CAROL, "confirmed"))])

    assert again(store, path).moves(JOB) == [
        Move(1, BOB, "contradicted"),
        Move(2, BOB, "matched"),
        Move(1, CAROL, "confirmed"),
    ]


def test_a_move_without_a_kind_is_taken_back_and_comes_last_if_made_again(
    store: Store, path: Path
) -> None:
    store.apply([moves(Move(1, BOB, "matched"), Move(2, BOB, "matched"), Move(3, BOB, "matched"))])
    store.apply([moves(Move(1, BOB, ""), Move(3, BOB, ""), Move(9, CAROL, ""))])
    assert store.moves(JOB) == [Move(2, BOB, "matched")]

    store.apply([moves(Move(2, BOB, ""), Move(3, BOB, "audited"), Move(2, BOB, "confirmed"))])

    assert again(store, path).moves(JOB) == [Move(3, BOB, "audited"), Move(2, BOB, "confirmed")]


def test_a_move_taken_back_in_the_transaction_that_made_it_never_was(store: Store) -> None:
    store.apply([moves(Move(1, BOB, "matched")), moves(Move(1, BOB, ""))])

    assert store.moves(JOB) == store.story(BOB) == []


def test_nothing_of_a_poisoned_job_stays(store: Store, path: Path) -> None:
    store.apply([moves(Move(1, BOB, "matched")), moves(Move(1, BOB, "matched"), job=OTHER)])

    store.apply([VoidMoves(JOB)])

    store = again(store, path)
    assert store.moves(JOB) == []
    assert store.moves(OTHER) == [Move(1, BOB, "matched")]


def test_votes_that_were_withdrawn_stay_so_and_each_is_kept_once(store: Store, path: Path) -> None:
    rows = (Withdrawn(7, BOB, 1), Withdrawn(2, CAROL, 0), Withdrawn(7, BOB, 0))
    store.apply([SaveWithdrawn(JOB, rows), SaveWithdrawn(OTHER, rows[:1])])
    store.apply([SaveWithdrawn(JOB, rows[1:])])

    store = again(store, path)
    assert store.withdrawn(JOB) == sorted(rows, key=lambda row: (row.unit, row.peer, row.attempt))
    assert store.withdrawn(OTHER) == [rows[0]]


def test_that_a_job_was_poisoned_is_known_after_a_restart(store: Store, path: Path) -> None:
    store.apply([VoidMoves(JOB)])

    store = again(store, path)
    assert {stored.job: stored.poisoned for stored in store.jobs()} == {JOB: True, OTHER: False}
    poisoned, sound = store.job(JOB), store.job(OTHER)
    assert poisoned is not None
    assert sound is not None
    assert (poisoned.poisoned, sound.poisoned) == (True, False)


def test_the_story_of_a_peer_tells_its_moves_over_all_jobs_in_order(
    store: Store, path: Path
) -> None:
    store.apply([moves(Move(7, BOB, "matched"), Move(7, CAROL, "contradicted"))])
    store.apply([moves(Move(3, BOB, "ringer"), job=OTHER)])
    store.apply([moves(Move(1, BOB, "audited")), moves(Move(7, BOB, "failed audit"))])
    store.apply([CloseJob(JOB, "completed", closure(JOB, True)), ForgetJob(JOB)])

    story = again(store, path).story(BOB)

    assert [line[:3] for line in story] == [
        (JOB, 7, "failed audit"),
        (OTHER, 3, "ringer"),
        (JOB, 1, "audited"),
    ]
    places = [line[3] for line in story]
    assert places == sorted(set(places))
    assert store.story(ALICE) == []


def test_a_record_replaces_the_earlier_one_of_its_class_and_peer(store: Store, path: Path) -> None:
    first = RecordRow("vision", BOB, Record(1, 2, 3, 4))
    others = (RecordRow("vision", CAROL, Record(5)), RecordRow("any", BOB, Record(0, 0, 999)))
    then = RecordRow("vision", BOB, Record(10, 20, 30_000, 0))
    store.apply([SaveRecords((first, *others))])
    store.apply([SaveRecords((then,))])

    assert again(store, path).records() == sorted(
        [then, *others], key=lambda row: (row.model_class, row.peer)
    )


def test_of_one_record_twice_in_a_transaction_the_last_one_counts(store: Store) -> None:
    rows = tuple(RecordRow("any", BOB, Record(agreed)) for agreed in range(3))

    store.apply([SaveRecords(rows[:2]), SaveRecords(rows[2:])])

    assert store.records() == [rows[2]]


def test_of_each_peer_the_first_proof_is_kept(store: Store, path: Path) -> None:
    one = SaveProof(CAROL, frame(0, author=CAROL), frame(1, author=CAROL))
    two = SaveProof(BOB, frame(0), frame(1))
    store.apply([one, two])
    store.apply([SaveProof(BOB, frame(2), frame(3))])

    assert again(store, path).proofs() == sorted(
        [(each.peer, each.first, each.second) for each in (one, two)], key=lambda proof: proof[0]
    )


def test_a_proof_needs_no_job_that_is_known_here(store: Store) -> None:
    strange = [frame(number, job=save_job(9).job) for number in range(2)]

    store.apply([SaveProof(BOB, strange[0], strange[1])])

    assert store.proofs() == [(BOB, strange[0], strange[1])]


def test_seeds_come_back_in_the_order_in_which_they_were_saved(store: Store, path: Path) -> None:
    store.apply([SaveSeed(JOB, own_seed(2)), SaveSeed(JOB, own_seed(1, count=256))])
    store.apply([SaveSeed(OTHER, own_seed(3)), SaveSeed(JOB, own_seed(2, count=1))])

    store = again(store, path)

    assert store.seeds(JOB) == [own_seed(2), own_seed(1, count=256)]
    assert store.seeds(OTHER) == [own_seed(3)]


def test_snapshots_of_a_job_come_back_each_once_and_in_their_order(
    store: Store, path: Path
) -> None:
    store.apply([SaveSnapshot(JOB, snapshot(2)), SaveSnapshot(OTHER, snapshot(2))])
    store.apply([SaveSnapshot(JOB, snapshot(1)), SaveSnapshot(JOB, snapshot(2))])

    store = again(store, path)

    assert store.snapshots(JOB) == [snapshot(2), snapshot(1)]
    assert store.snapshots(OTHER) == [snapshot(2)]


def test_a_forgotten_job_loses_seeds_and_snapshots_and_keeps_its_moves(
    store: Store, path: Path
) -> None:
    record = RecordRow("any", BOB, Record(1))
    for job in (JOB, OTHER):
        store.apply(
            [
                save_frame(0, job),
                SaveUnits(job, (UnitRow(1, "settled", b"c"),)),
                SaveSeed(job, own_seed(1)),
                SaveSnapshot(job, snapshot(1)),
                moves(Move(1, BOB, "matched"), job=job),
            ]
        )
    store.apply([SaveRecords((record,)), SaveProof(BOB, frame(0), frame(1))])

    store.apply([ForgetJob(JOB)])

    store = again(store, path)
    assert (store.job_frames(JOB), store.units(JOB)) == ([], [])
    assert (store.seeds(JOB), store.snapshots(JOB)) == ([], [])
    assert store.moves(JOB) == [Move(1, BOB, "matched")]
    assert store.records() == [record]
    assert store.proofs() == [(BOB, frame(0), frame(1))]
    assert (store.seeds(OTHER), store.snapshots(OTHER)) == ([own_seed(1)], [snapshot(1)])
    assert len(store.job_frames(OTHER)) == len(store.units(OTHER)) == 1


def fill(store: Store) -> None:
    store.apply(
        [
            SaveMoves(JOB, (Move(1, BOB, "audited"),)),
            SaveRecords((RecordRow("any", BOB, Record(1, 2, 3, 4)),)),
            SaveProof(BOB, frame(0), frame(1)),
            SaveSeed(JOB, own_seed(1)),
            SaveSnapshot(JOB, snapshot(1)),
        ]
    )


def read_trust(store: Store) -> tuple[object, ...]:
    """Everything that the damages below are about."""
    return (
        store.records(),
        store.moves(JOB),
        store.story(BOB),
        store.proofs(),
        store.seeds(JOB),
        store.snapshots(JOB),
    )


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE moves SET kind = 'applauded'",
        "UPDATE moves SET kind = ''",
        "UPDATE moves SET kind = x'00ff'",
        "UPDATE moves SET kind = CAST(x'00ff' AS TEXT)",
        "UPDATE moves SET unit = -1",
        "UPDATE moves SET unit = 'one'",
        "UPDATE records SET agreed = -1",
        "UPDATE records SET milli = 0.5",
        "UPDATE records SET model_class = x'ff'",
        "UPDATE peers SET peer = x'00'",
        "UPDATE proofs SET first = x'c1'",
        "UPDATE proofs SET second = 'text'",
        "UPDATE seeds SET data = x'c1'",
        "UPDATE seeds SET data = x'92c4010090'",
        "UPDATE seeds SET seed_hash = zeroblob(32)",
        "UPDATE snapshots SET sealed = zeroblob(10)",
    ],
)
def test_a_damaged_line_of_what_trust_rests_on_is_a_sentence(store: Store, damage: str) -> None:
    fill(store)
    assert all(read_trust(store))
    assert isinstance(store, SqliteStore)
    store._database._writer.execute(damage)

    with pytest.raises(P2pfleetError, match="damaged") as caught:
        read_trust(store)

    assert caught.value.code == ExitCode.DAMAGED
    assert "Move it away" in caught.value.advice
