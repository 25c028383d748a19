"""The index beside the blob files: lengths, members of packs, pins, and last use.

The files are the truth about contents; this says what lies where in them and what may go. A blob
is *evictable* when no owner has pinned it or any of its members.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from p2pfleet.adapters.store.database import Database, DatabaseKind
from p2pfleet.core.model.ids import Cid, cid_from_sha256

_PAGE_ROWS = 256


def _first_tables(connection: sqlite3.Connection) -> None:
    for statement in (
        """CREATE TABLE blobs (
            number INTEGER PRIMARY KEY,
            cid BLOB NOT NULL UNIQUE,
            length INTEGER NOT NULL,
            used INTEGER NOT NULL
        )""",
        "CREATE INDEX blobs_by_use ON blobs (used)",
        """CREATE TABLE members (
            cid BLOB NOT NULL,
            pack INTEGER NOT NULL REFERENCES blobs (number) ON DELETE CASCADE,
            offset INTEGER NOT NULL,
            length INTEGER NOT NULL,
            PRIMARY KEY (cid, pack)
        ) WITHOUT ROWID""",
        "CREATE INDEX members_by_pack ON members (pack)",
        """CREATE TABLE pins (
            owner BLOB NOT NULL,
            cid BLOB NOT NULL,
            PRIMARY KEY (owner, cid)
        ) WITHOUT ROWID""",
        "CREATE INDEX pins_by_cid ON pins (cid)",
    ):
        connection.execute(statement)


PACK_INDEX = DatabaseKind(
    name="the index of the kept blobs",
    application_id=0x70326602,
    migrations=(_first_tables,),
    if_damaged=(
        "Move it away together with the files of the same name that end in -wal and -shm, then"
        " start again: the blobs themselves stay, are checked and taken up again. Which results"
        " lie where in a pack is lost, so those of open jobs may be computed or fetched again."
    ),
)


class Place(NamedTuple):
    """Where a content lies: in the file of ``blob`` (``blob_length`` bytes), from ``offset``."""

    blob: Cid
    offset: int
    length: int
    blob_length: int


class Member(NamedTuple):
    """A content inside a pack."""

    cid: Cid
    offset: int
    length: int


class PackIndex:
    """Rows about blobs. Every method may be called from any thread and is durable on return."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> PackIndex:
        """Open the index at ``path``. Raises :class:`P2pfleetError` as ``Database.open``."""
        return cls(Database.open(path, PACK_INDEX))

    def close(self) -> None:
        self._database.close()

    def total_bytes(self) -> int:
        """The lengths of all blobs together."""
        return int(self._database.rows("SELECT coalesce(sum(length), 0) FROM blobs")[0][0])

    def last_use(self) -> int:
        """The highest number of use that any blob has."""
        return int(self._database.rows("SELECT coalesce(max(used), 0) FROM blobs")[0][0])

    def place(self, cid: Cid) -> Place | None:
        """Where ``cid`` lies: as a blob of its own if there is one, else inside a pack."""
        own = self._database.rows("SELECT length FROM blobs WHERE cid = ?", (cid,))
        if own:
            return Place(cid, 0, own[0][0], own[0][0])
        inside = self._database.rows(
            "SELECT blobs.cid, members.offset, members.length, blobs.length FROM members"
            " JOIN blobs ON blobs.number = members.pack WHERE members.cid = ?"
            " ORDER BY blobs.number LIMIT 1",
            (cid,),
        )
        return Place._make(inside[0]) if inside else None

    def blobs_between(self, low: bytes, high: bytes) -> dict[Cid, int]:
        """The lengths of the blobs whose SHA-256 is at least ``low`` and at most ``high``."""
        rows = self._database.rows(
            "SELECT cid, length FROM blobs WHERE cid BETWEEN ? AND ?",
            (cid_from_sha256(low), cid_from_sha256(high)),
        )
        return {Cid(cid): length for cid, length in rows}

    def add(self, cid: Cid, length: int, members: Sequence[Member], used: int) -> bool:
        """Enter a blob and its members; ``False`` if the blob was known (members are added)."""
        with self._database.transaction() as connection:
            added = connection.execute(
                "INSERT INTO blobs (cid, length, used) VALUES (?, ?, ?)"
                " ON CONFLICT (cid) DO NOTHING",
                (cid, length, used),
            ).rowcount
            connection.executemany(
                "INSERT INTO members (cid, pack, offset, length)"
                " VALUES (?, (SELECT number FROM blobs WHERE cid = ?), ?, ?)"
                " ON CONFLICT (cid, pack) DO NOTHING",
                [(member.cid, cid, member.offset, member.length) for member in members],
            )
        return added == 1

    def remove(self, cids: Iterable[Cid]) -> None:
        """Take out blobs, with their members. Pins stay: they say what is wanted."""
        with self._database.transaction() as connection:
            connection.executemany("DELETE FROM blobs WHERE cid = ?", [(cid,) for cid in cids])

    def note_use(self, uses: Mapping[Cid, int]) -> None:
        """Set the number of the last use; a higher number is a later use."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE blobs SET used = ? WHERE cid = ?",
                [(used, cid) for cid, used in uses.items()],
            )

    def evictable(self) -> Iterator[tuple[Cid, int]]:
        """(blob, length) of what nobody pinned, the least recently used first."""
        used, number = -1, -1
        while True:
            rows = self._database.rows(
                "SELECT used, number, cid, length FROM blobs WHERE (used, number) > (?, ?)"
                " AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.cid = blobs.cid)"
                " AND NOT EXISTS (SELECT 1 FROM members JOIN pins ON pins.cid = members.cid"
                "  WHERE members.pack = blobs.number)"
                " ORDER BY used, number LIMIT ?",
                (used, number, _PAGE_ROWS),
            )
            for used, number, cid, length in rows:  # noqa: B007 (the last row begins the next page)
                yield Cid(cid), length
            if len(rows) < _PAGE_ROWS:
                return

    def is_pinned(self, cid: Cid) -> bool:
        """Whether somebody pinned exactly this content."""
        return bool(self._database.rows("SELECT 1 FROM pins WHERE cid = ? LIMIT 1", (cid,)))

    def pin(self, owner: bytes, cids: Iterable[Cid]) -> None:
        """Add to what ``owner`` needs; a content that is not here yet may be pinned as well."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT INTO pins (owner, cid) VALUES (?, ?) ON CONFLICT (owner, cid) DO NOTHING",
                [(owner, cid) for cid in cids],
            )

    def unpin(self, owner: bytes) -> None:
        """Forget what ``owner`` needs."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM pins WHERE owner = ?", (owner,))
