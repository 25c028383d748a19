"""The store's file: migrated, refused when newer or damaged, and sentences when the disk fails."""

from __future__ import annotations

import dataclasses
import errno
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from stored_values import (
    BOB,
    CAROL,
    JOB,
    content,
    frame,
    reveals,
    save_frame,
    save_job,
    save_requirement,
)

from p2pfleet.adapters.store import SqliteStore, schema, sqlite_store
from p2pfleet.adapters.store.database import Database, DatabaseKind
from p2pfleet.adapters.store.durable_file import os_errors_explained
from p2pfleet.core.effects import (
    CloseJob,
    Move,
    RecordRow,
    SaveFrame,
    SaveMoves,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.record import Record
from p2pfleet.core.wire.codec import encode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def filled(path: Path) -> None:
    """A store of a few hundred kilobytes, closed."""
    store = SqliteStore.open(path)
    store.apply([save_job()])
    store.apply(
        [SaveFrame(job=JOB, frame=frame(number, entries=reveals(200))) for number in range(40)]
    )
    store.save_address(BOB, "/ip4/127.0.0.1/tcp/1", 1)
    store.close()


def filled_before_shards(path: Path) -> None:
    """The same, as a p2pfleet wrote it that knew no shards."""
    store = SqliteStore.open(path)
    store.apply([save_job()])
    store.save_address(BOB, "/ip4/127.0.0.1/tcp/1", 1)
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO peers (peer) VALUES (?)", (BOB,))
        for number in range(40):
            connection.execute(
                "INSERT INTO frames (job, author, incarnation, sequence, sealed)"
                " VALUES (1, 1, 7, ?, ?)",
                (number, encode(frame(number, entries=reveals(200)))),
            )
        connection.commit()


def with_versions(
    monkeypatch: pytest.MonkeyPatch, *migrations: Callable[..., None]
) -> DatabaseKind:
    kind = dataclasses.replace(schema.STORE, migrations=migrations)
    monkeypatch.setattr(sqlite_store, "STORE", kind)
    return kind


def next_version(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE jobs ADD COLUMN note TEXT NOT NULL DEFAULT 'kept'")
    connection.execute("CREATE TABLE added (number INTEGER PRIMARY KEY)")


def test_the_file_is_ours_durable_and_private(path: Path) -> None:
    filled(path)
    store = SqliteStore.open(path)

    def pragma(name: str) -> object:
        return store._database._writer.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma("application_id") == schema.STORE.application_id
    assert pragma("user_version") == len(schema.MIGRATIONS)
    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2
    assert pragma("foreign_keys") == 1
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_an_older_version_is_migrated_and_keeps_its_data(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path)
    with_versions(monkeypatch, *schema.MIGRATIONS, next_version)

    store = SqliteStore.open(path)

    assert len(store.job_frames(JOB)) == 40
    assert [job.job for job in store.jobs()] == [JOB]
    assert store._database.rows("SELECT note FROM jobs") == [("kept",)]
    assert store._database.rows("PRAGMA user_version") == [(len(schema.MIGRATIONS) + 1,)]
    store.close()


def test_a_store_from_before_requirements_can_keep_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with_versions(patch, *schema.MIGRATIONS[:1])
        filled_before_shards(path)

    store = SqliteStore.open(path)

    assert store._database.rows("PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    assert len(store.job_frames(JOB)) == 40
    assert store.requirement() is None
    store.apply([save_requirement(1)])
    assert store.requirement() == save_requirement(1).requirement
    store.close()


def judge(path: Path, job: object, *rows: tuple[int, PeerId, bool]) -> None:
    """What a p2pfleet of before moves wrote into its table of judgements."""
    with closing(sqlite3.connect(path)) as connection:
        for unit, peer, agreed in rows:
            connection.execute("INSERT OR IGNORE INTO peers (peer) VALUES (?)", (peer,))
            connection.execute(
                "INSERT INTO judgements SELECT jobs.number, ?, peers.number, ? FROM jobs, peers"
                " WHERE jobs.job = ? AND peers.peer = ?",
                (unit, agreed, job, peer),
            )
        connection.commit()


def test_judgements_of_an_older_store_become_moves_and_those_of_ended_jobs_records(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = save_job(1).job
    with monkeypatch.context() as patch:
        with_versions(patch, *schema.MIGRATIONS[:2])
        filled_before_shards(path)
        store = SqliteStore.open(path)
        store.apply([save_job(1), save_requirement(1), CloseJob(ended, "completed", None)])
        store.close()
        judge(path, JOB, (2, CAROL, False), (1, BOB, True))
        judge(path, ended, (7, CAROL, True), (3, CAROL, True), (3, BOB, False), (9, CAROL, False))

    store = SqliteStore.open(path)

    assert store.moves(JOB) == [Move(1, BOB, "matched"), Move(2, CAROL, "contradicted")]
    assert sorted(store.moves(ended), key=lambda move: (move.unit, move.kind)) == [
        Move(3, BOB, "contradicted"),
        Move(3, CAROL, "matched"),
        Move(7, CAROL, "matched"),
        Move(9, CAROL, "contradicted"),
    ]
    assert [line[:3] for line in store.story(BOB)] == [
        (JOB, 1, "matched"),
        (ended, 3, "contradicted"),
    ]
    assert store.records() == sorted(
        [RecordRow("any", BOB, Record(0, 1)), RecordRow("any", CAROL, Record(2, 1))],
        key=lambda row: row.peer,
    )
    assert len(store.job_frames(JOB)) == 40
    assert store.requirement() == save_requirement(1).requirement
    tables = store._database.rows("SELECT name FROM sqlite_master WHERE name = 'judgements'")
    assert tables == []
    store.apply([SaveMoves(JOB, (Move(2, CAROL, "matched"), Move(0, CAROL, "audited")))])
    assert [move.unit for move in store.moves(JOB)] == [1, 2, 0]
    store.close()


def test_a_requirement_that_cannot_be_read_is_damage_and_a_sentence(path: Path) -> None:
    store = SqliteStore.open(path)
    store.apply([save_requirement(1)])
    store._database._writer.execute("UPDATE requirement SET sealed = x'c1'")
    store._database._writer.commit()

    with pytest.raises(P2pfleetError) as caught:
        store.requirement()

    assert caught.value.code == ExitCode.DAMAGED
    store.close()


def test_a_file_of_version_zero_gets_every_table(path: Path) -> None:
    Database.open(path, dataclasses.replace(schema.STORE, migrations=())).close()

    store = SqliteStore.open(path)
    store.apply([save_job(), save_frame(0)])

    assert store.frames() == [(JOB, frame(0))]
    store.close()


def test_a_migration_that_fails_leaves_the_old_version_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(connection: sqlite3.Connection) -> None:
        next_version(connection)
        raise RuntimeError("power cut")

    filled(path)
    with monkeypatch.context() as patch:
        with_versions(patch, *schema.MIGRATIONS, breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            SqliteStore.open(path)

    store = SqliteStore.open(path)
    assert len(store.frames()) == 40
    assert store._database.rows("PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    store.close()


def test_a_newer_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        with_versions(patch, *schema.MIGRATIONS, next_version)
        filled(path)

    with pytest.raises(P2pfleetError, match="written by a newer p2pfleet") as caught:
        SqliteStore.open(path)

    assert caught.value.code == ExitCode.DAMAGED
    assert "--data-dir" in caught.value.advice


def overwrite_middle(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(3, 40, 2):
            file.seek(page * 4096)
            file.write(content(page, 4096))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def truncate_to_odd_bytes(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1000)


def of_another_program(path: Path) -> None:
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE jobs (other)")
    other.commit()
    other.close()


def sealed_garbage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE frames SET sealed = x'00ff' WHERE number = 7")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(content(1, 100_000)),
        lambda path: path.write_bytes(b"x"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(100_000)),
        overwrite_middle,
        truncate,
        truncate_to_odd_bytes,
        of_another_program,
        sealed_garbage,
    ],
    ids=[
        "random",
        "one byte",
        "empty",
        "zeros",
        "middle",
        "half",
        "first page cut",
        "other program",
        "garbled row",
    ],
)
def test_a_damaged_file_is_refused_with_advice_and_left_as_it_is(
    path: Path, damage: Callable[[Path], object]
) -> None:
    filled(path)
    damage(path)
    before = path.read_bytes()

    with (
        pytest.raises(P2pfleetError, match="damaged") as caught,
        closing(SqliteStore.open(path)) as store,
    ):
        store.frames()

    assert caught.value.code == ExitCode.DAMAGED
    assert "Move it away" in caught.value.advice
    assert "identity is a separate file" in caught.value.advice
    assert path.read_bytes() == before


def test_a_log_without_its_file_is_not_replayed_into_a_new_one(path: Path) -> None:
    filled(path)
    path.with_name(path.name + "-wal").write_bytes(content(1, 5000))
    path.unlink()

    with pytest.raises(P2pfleetError, match="write-ahead log"):
        SqliteStore.open(path)

    assert not path.exists()


def test_a_half_made_new_file_is_made_anew(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half")

    store = SqliteStore.open(path)

    assert store.jobs() == []
    assert not path.with_name(path.name + ".new").exists()
    store.close()


def test_a_full_disk_is_a_sentence_and_the_store_goes_on_afterwards(path: Path) -> None:
    store = SqliteStore.open(path)
    store.apply([save_job(), save_frame(0)])
    writer = store._database._writer
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = [SaveFrame(job=JOB, frame=frame(number, entries=reveals(500))) for number in range(1, 9)]

    with pytest.raises(P2pfleetError, match="is full") as caught:
        store.apply(big)

    assert "Free some space" in caught.value.advice
    assert store.job_frames(JOB) == [frame(0)]
    writer.execute("PRAGMA max_page_count = 1000000")
    store.apply(big)
    assert len(store.job_frames(JOB)) == 9
    store.close()


def test_a_file_that_cannot_be_written_is_a_sentence(path: Path) -> None:
    store = SqliteStore.open(path)
    store._database._writer.execute("PRAGMA query_only = 1")

    with pytest.raises(P2pfleetError, match="cannot be written") as caught:
        store.apply([save_job()])

    assert "read-only" in caught.value.advice
    store.close()


def test_a_file_that_another_program_holds_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfleet.adapters.store.database._BUSY_TIMEOUT_SECONDS", 0.01)
    store = SqliteStore.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(P2pfleetError, match="another program holds"):
        store.apply([save_job()])

    other.close()
    store.apply([save_job()])
    assert len(store.jobs()) == 1
    store.close()


def test_a_folder_in_the_place_of_the_file_is_a_sentence(path: Path) -> None:
    path.mkdir()

    with pytest.raises(P2pfleetError) as caught:
        SqliteStore.open(path)

    assert caught.value.advice


def test_a_closed_store_says_so_and_closes_twice(path: Path) -> None:
    store = SqliteStore.open(path)
    store.close()
    store.close()

    with pytest.raises(P2pfleetError, match="closed"):
        store.apply([save_job()])
    with pytest.raises(P2pfleetError, match="closed"):
        store.jobs()


@pytest.mark.parametrize(
    ("number", "sentence", "advice"),
    [
        (errno.ENOSPC, "is full", "Free some space"),
        (errno.EDQUOT, "is full", "Free some space"),
        (errno.EROFS, "is mounted read-only", "--data-dir"),
        (errno.EACCES, "cannot be used", "belongs to you"),
        (errno.EIO, "failed to read or write", "Check the disk"),
        (errno.ENOTDIR, "Not a directory", "--data-dir"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    path: Path, number: int, sentence: str, advice: str
) -> None:
    import os

    with pytest.raises(P2pfleetError, match=sentence) as caught, os_errors_explained(path):
        raise OSError(number, os.strerror(number))

    assert advice in caught.value.advice
