"""What units earned, and receipts, come back as they were saved; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stored_values import ALICE, BOB, CAROL, JOB, NETWORK, closure, save_job, sealed

from p2pfleet.adapters.store import SqliteStore, schema
from p2pfleet.adapters.store.database import DatabaseKind
from p2pfleet.core.effects import (
    CloseJob,
    Earning,
    ForgetJob,
    SaveEarnings,
    SaveReceipt,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.messages import WORK_MAX, Receipt

OTHER, THIRD = save_job(1).job, save_job(2).job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(path)
    opened.apply([save_job(own=True), save_job(1, own=True), save_job(2, own=False)])
    yield opened
    opened.close()


def again(store: SqliteStore, path: Path) -> SqliteStore:
    """The same store as the next process finds it."""
    store.close()
    store._database = SqliteStore.open(path)._database
    return store


def receipt(number: int, peer: PeerId = BOB, job: JobId = JOB, units: int = 1) -> SaveReceipt:
    body = Receipt(NETWORK, job, ALICE, peer, number, units, units * 10, units * 15, 3)
    return SaveReceipt(job, sealed(body, ALICE))


def test_earnings_come_back_by_unit_and_peer(store: SqliteStore, path: Path) -> None:
    store.apply([SaveEarnings(JOB, (Earning(7, CAROL, 5), Earning(7, BOB, 2 * WORK_MAX)))])
    store.apply(
        [
            SaveEarnings(JOB, (Earning(2, BOB, 1),)),
            SaveEarnings(OTHER, (Earning(7, BOB, 9),)),
        ]
    )

    store = again(store, path)

    both = [Earning(7, BOB, 2 * WORK_MAX), Earning(7, CAROL, 5)]
    assert store.earnings(JOB) == [
        Earning(2, BOB, 1),
        *sorted(both, key=lambda row: row.peer),
    ]
    assert store.earnings(OTHER) == [Earning(7, BOB, 9)]
    assert store.earnings(THIRD) == []


def test_a_unit_that_earns_twice_is_our_own_mistake_and_leaves_nothing_behind(
    store: SqliteStore,
) -> None:
    store.apply([SaveEarnings(JOB, (Earning(1, BOB, 5),))])

    with pytest.raises(AssertionError):
        store.apply([receipt(0), SaveEarnings(JOB, (Earning(2, BOB, 5), Earning(1, BOB, 6)))])

    assert store.earnings(JOB) == [Earning(1, BOB, 5)]
    assert store.receipts() == []


def test_of_a_job_and_peer_the_receipt_of_the_highest_number_stays(
    store: SqliteStore, path: Path
) -> None:
    store.apply([receipt(3), receipt(5, units=2), receipt(4, units=3)])
    store.apply([receipt(5, units=9), receipt(0, peer=CAROL)])

    store = again(store, path)

    kept = {BOB: receipt(5, units=2).receipt, CAROL: receipt(0, peer=CAROL).receipt}
    assert store.receipts(JOB) == store.receipts() == [kept[peer] for peer in sorted(kept)]


def test_all_receipts_come_by_job_in_the_order_of_first_sight(store: SqliteStore) -> None:
    store.apply([receipt(0, job=THIRD), receipt(0, job=OTHER), receipt(0)])

    assert store.receipts() == [receipt(0, job=job).receipt for job in (JOB, OTHER, THIRD)]
    assert store.receipts(OTHER) == [receipt(0, job=OTHER).receipt]


def test_a_peer_that_comes_back_is_told_of_the_last_jobs_of_ones_own(store: SqliteStore) -> None:
    store.apply([receipt(0), receipt(1), receipt(0, job=OTHER), receipt(0, job=THIRD)])
    store.apply([receipt(0, peer=CAROL)])

    assert store.receipts_for(BOB, 9) == [receipt(0, job=OTHER).receipt, receipt(1).receipt]
    assert store.receipts_for(BOB, 1) == [receipt(0, job=OTHER).receipt]
    assert store.receipts_for(CAROL, 9) == [receipt(0, peer=CAROL).receipt]
    assert store.receipts_for(ALICE, 9) == []


def test_a_job_that_ended_and_was_forgotten_keeps_its_receipts(
    store: SqliteStore, path: Path
) -> None:
    store.apply([receipt(0), SaveEarnings(JOB, (Earning(1, BOB, 15),))])
    store.apply([CloseJob(JOB, "completed", closure(JOB, True)), ForgetJob(JOB)])

    store = again(store, path)

    assert store.receipts(JOB) == [receipt(0).receipt]
    assert store.earnings(JOB) == [Earning(1, BOB, 15)]


def test_what_is_no_receipt_of_the_job_is_our_own_mistake(store: SqliteStore) -> None:
    for wrong in (SaveReceipt(OTHER, receipt(0).receipt), SaveReceipt(JOB, closure(JOB, True))):
        with pytest.raises(AssertionError):
            store.apply([wrong])
    unknown = save_job(9).job
    with pytest.raises(AssertionError):
        store.apply([receipt(0, job=unknown)])
    assert store.receipts() == []


def test_a_store_of_before_gets_the_tables_and_keeps_what_it_has(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before = DatabaseKind(
            schema.STORE.name,
            schema.STORE.application_id,
            schema.MIGRATIONS[:3],
            schema.STORE.if_damaged,
        )
        patch.setattr("p2pfleet.adapters.store.sqlite_store.STORE", before)
        old = SqliteStore.open(path)
        old.apply([save_job(own=True)])
        old.close()

    store = SqliteStore.open(path)
    try:
        store.apply([receipt(0), SaveEarnings(JOB, (Earning(1, BOB, 15),))])
        assert [job.job for job in store.jobs()] == [JOB]
        assert store.receipts_for(BOB, 1) == [receipt(0).receipt]
    finally:
        store.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE earnings SET credit = -1",
        "UPDATE earnings SET credit = 'much'",
        "UPDATE earnings SET unit = 1000000",
        "UPDATE receipts SET sealed = x'c1'",
        "UPDATE receipts SET sealed = 'text'",
        "UPDATE peers SET peer = x'00'",
    ],
)
def test_a_damaged_line_of_credit_is_a_sentence(store: SqliteStore, damage: str) -> None:
    store.apply([receipt(0), SaveEarnings(JOB, (Earning(1, BOB, 15),))])
    store._database._writer.execute(damage)

    with pytest.raises(P2pfleetError, match="damaged") as caught:
        (store.earnings(JOB), store.receipts())

    assert caught.value.code == ExitCode.DAMAGED
