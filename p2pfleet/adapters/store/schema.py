"""The tables of the store, as ordered migrations.

A migration that was released is never changed: the next one comes behind it.
"""

from __future__ import annotations

import sqlite3

from p2pfleet.adapters.store.database import DatabaseKind, Migration


def first_tables(connection: sqlite3.Connection) -> None:
    """Version 1. Jobs and peers get small numbers, because rows and indexes repeat them."""
    for statement in (
        """CREATE TABLE node (
            name TEXT PRIMARY KEY NOT NULL,
            value INTEGER NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY,
            job BLOB NOT NULL UNIQUE,
            manifest BLOB NOT NULL,
            own INTEGER NOT NULL,
            state TEXT NOT NULL DEFAULT 'active',
            closure BLOB
        )""",
        """CREATE TABLE peers (
            number INTEGER PRIMARY KEY,
            peer BLOB NOT NULL UNIQUE
        )""",
        """CREATE TABLE frames (
            number INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (number),
            author INTEGER NOT NULL REFERENCES peers (number),
            incarnation INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            sealed BLOB NOT NULL,
            UNIQUE (job, author, incarnation, sequence)
        )""",
        """CREATE TABLE units (
            job INTEGER NOT NULL REFERENCES jobs (number),
            unit INTEGER NOT NULL,
            state TEXT NOT NULL,
            detail BLOB NOT NULL,
            PRIMARY KEY (job, unit)
        ) WITHOUT ROWID""",
        """CREATE TABLE judgements (
            job INTEGER NOT NULL REFERENCES jobs (number),
            unit INTEGER NOT NULL,
            peer INTEGER NOT NULL REFERENCES peers (number),
            agreed INTEGER NOT NULL,
            PRIMARY KEY (job, unit, peer)
        ) WITHOUT ROWID""",
        """CREATE TABLE addresses (
            number INTEGER PRIMARY KEY,
            peer BLOB NOT NULL,
            address TEXT NOT NULL,
            useful_ms INTEGER NOT NULL,
            UNIQUE (peer, address)
        )""",
    ):
        connection.execute(statement)


def requirement(connection: sqlite3.Connection) -> None:
    """Version 2. What the network's owner asks for: one row, or none."""
    connection.execute(
        """CREATE TABLE requirement (
            number INTEGER PRIMARY KEY CHECK (number = 1),
            sealed BLOB NOT NULL
        )"""
    )


def trust(connection: sqlite3.Connection) -> None:
    """Version 3. What trust rests on: moves instead of judgements, records, proofs, seeds, trust
    snapshots.

    ``moves.place`` is the order of first saving, over all jobs. Records were sums over judgements
    before; now they are kept, and moves of a job join them when it ends.
    """
    for statement in (
        """CREATE TABLE moves (
            place INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (number),
            unit INTEGER NOT NULL,
            peer INTEGER NOT NULL REFERENCES peers (number),
            kind TEXT NOT NULL,
            UNIQUE (job, unit, peer)
        )""",
        "CREATE INDEX moves_of_peers ON moves (peer)",
        """CREATE TABLE records (
            model_class TEXT NOT NULL,
            peer INTEGER NOT NULL REFERENCES peers (number),
            agreed INTEGER NOT NULL,
            contradicted INTEGER NOT NULL,
            milli INTEGER NOT NULL,
            faults INTEGER NOT NULL,
            PRIMARY KEY (model_class, peer)
        ) WITHOUT ROWID""",
        """CREATE TABLE proofs (
            peer INTEGER PRIMARY KEY REFERENCES peers (number),
            first BLOB NOT NULL,
            second BLOB NOT NULL
        )""",
        """CREATE TABLE seeds (
            number INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (number),
            seed_hash BLOB NOT NULL,
            data BLOB NOT NULL,
            UNIQUE (job, seed_hash)
        )""",
        """CREATE TABLE snapshots (
            number INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (number),
            hash BLOB NOT NULL,
            sealed BLOB NOT NULL,
            UNIQUE (job, hash)
        )""",
        "INSERT INTO moves (job, unit, peer, kind) SELECT job, unit, peer,"
        " CASE agreed WHEN 0 THEN 'contradicted' ELSE 'matched' END"
        " FROM judgements ORDER BY job, unit, peer",
        "INSERT INTO records (model_class, peer, agreed, contradicted, milli, faults)"
        " SELECT 'any', judgements.peer, sum(agreed <> 0), sum(agreed = 0), 0, 0"
        " FROM judgements JOIN jobs ON jobs.number = judgements.job"
        " WHERE jobs.state <> 'active' GROUP BY judgements.peer",
        "DROP TABLE judgements",
    ):
        connection.execute(statement)


def credit(connection: sqlite3.Connection) -> None:
    """Version 4. What settled units earned their voters, and the receipts for it."""
    for statement in (
        """CREATE TABLE earnings (
            job INTEGER NOT NULL REFERENCES jobs (number),
            unit INTEGER NOT NULL,
            peer INTEGER NOT NULL REFERENCES peers (number),
            credit INTEGER NOT NULL,
            PRIMARY KEY (job, unit, peer)
        ) WITHOUT ROWID""",
        """CREATE TABLE receipts (
            job INTEGER NOT NULL REFERENCES jobs (number),
            peer INTEGER NOT NULL REFERENCES peers (number),
            number INTEGER NOT NULL,
            sealed BLOB NOT NULL,
            PRIMARY KEY (job, peer)
        )""",
        "CREATE INDEX receipts_of_peers ON receipts (peer, job)",
    ):
        connection.execute(statement)


def poisoned(connection: sqlite3.Connection) -> None:
    """Version 5. Which jobs were found poisoned, so that nothing of them moves a record."""
    connection.execute("ALTER TABLE jobs ADD COLUMN poisoned INTEGER NOT NULL DEFAULT 0")


def withdrawn(connection: sqlite3.Connection) -> None:
    """Version 6. Votes that count no more, because their authors were caught."""
    connection.execute(
        """CREATE TABLE withdrawn (
            job INTEGER NOT NULL REFERENCES jobs (number),
            unit INTEGER NOT NULL,
            peer INTEGER NOT NULL REFERENCES peers (number),
            attempt INTEGER NOT NULL,
            PRIMARY KEY (job, unit, peer, attempt)
        ) WITHOUT ROWID"""
    )


def closed_networks(connection: sqlite3.Connection) -> None:
    """Version 7. Who belongs to a closed network: the owner's pages, and whom it invited."""
    for statement in (
        """CREATE TABLE members (
            page INTEGER PRIMARY KEY,
            sealed BLOB NOT NULL
        )""",
        """CREATE TABLE acceptances (
            number INTEGER PRIMARY KEY,
            key BLOB NOT NULL,
            peer BLOB NOT NULL,
            sealed BLOB NOT NULL,
            UNIQUE (key, peer)
        )""",
    ):
        connection.execute(statement)


def jobs_records(connection: sqlite3.Connection) -> None:
    """Version 8. The newest record that a publisher signed of its jobs."""
    connection.execute(
        """CREATE TABLE jobs_records (
            publisher BLOB PRIMARY KEY NOT NULL,
            sealed BLOB NOT NULL
        ) WITHOUT ROWID"""
    )


def shards(connection: sqlite3.Connection) -> None:
    """Version 9. Authors count their frames by shard. Before, every job had one shard."""
    for statement in (
        """CREATE TABLE frames_by_shard (
            number INTEGER PRIMARY KEY,
            job INTEGER NOT NULL REFERENCES jobs (number),
            author INTEGER NOT NULL REFERENCES peers (number),
            shard INTEGER NOT NULL DEFAULT 0,
            incarnation INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            sealed BLOB NOT NULL,
            UNIQUE (job, author, shard, incarnation, sequence)
        )""",
        "INSERT INTO frames_by_shard"
        " SELECT number, job, author, 0, incarnation, sequence, sealed FROM frames ORDER BY number",
        "DROP TABLE frames",
        "ALTER TABLE frames_by_shard RENAME TO frames",
    ):
        connection.execute(statement)


MIGRATIONS: tuple[Migration, ...] = (
    first_tables,
    requirement,
    trust,
    credit,
    poisoned,
    withdrawn,
    closed_networks,
    jobs_records,
    shards,
)

STORE = DatabaseKind(
    name="the store of jobs and credit",
    application_id=0x70326601,
    migrations=MIGRATIONS,
    if_damaged=(
        "Move it away together with the files of the same name that end in -wal and -shm (or put"
        " a backup in its place), then start again. Your identity is a separate file and is kept;"
        " jobs that are open come back from other nodes; the records of peers, the ledgers of your"
        " own jobs, what you committed to and did not reveal yet, and the receipts for your work"
        " are lost unless a backup has them."
    ),
)
