"""A SQLite file: opened with care, migrated in order, one writer, errors for people.

One connection writes and one reads, each under its own lock, so that worker threads share them
and a long read does not hold up the writer. Every transaction is on the disk when it returns
(write-ahead log, ``synchronous=FULL``).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pfleet.adapters.store.durable_file import (
    CHECK_DISK,
    FREE_SPACE,
    MOUNT_AGAIN,
    make_folder,
    os_errors_explained,
    sync_folder,
)
from p2pfleet.core.errors import DiskTrouble, ExitCode, P2pfleetError

_log = logging.getLogger(__name__)

Migration = Callable[[sqlite3.Connection], None]
"""Brings the tables from one version to the next; runs inside a transaction, never commits."""

_BUSY_TIMEOUT_SECONDS = 5.0
_LOG_KEPT_BYTES = 16 * 2**20
# A cache that fills soon: what a node takes in memory shows in its first minutes.
_CACHE_KIB = 512
_HEAD_BYTES = 512
_MAGIC = b"SQLite format 3\x00"
_APPLICATION_ID = slice(68, 72)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@dataclass(frozen=True, slots=True)
class DatabaseKind:
    """What a database file is for.

    ``migrations[n]`` brings version n to n + 1; the file's version is SQLite's ``user_version``.
    ``application_id`` tells our file from others. ``name`` completes "... is damaged";
    ``if_damaged`` says what a person does then and what is lost.
    """

    name: str
    application_id: int
    migrations: tuple[Migration, ...]
    if_damaged: str


class Database:
    """An open database of one kind. Usable from any thread."""

    def __init__(
        self,
        path: Path,
        kind: DatabaseKind,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
    ) -> None:
        self._path = path
        self._kind = kind
        self._writer = writer
        self._reader = reader
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, kind: DatabaseKind) -> Database:
        """Open ``path``, make it if it is missing, check it, and bring it to the newest version.

        Reads the whole file once (``quick_check``). Raises :class:`P2pfleetError` when it is
        damaged, of another program, written by a newer p2pfleet, or cannot be used at all.
        """
        with os_errors_explained(path):
            make_folder(path.parent)
            if path.exists():
                _check_head(path, kind)
            else:
                _create(path, kind)
        writer = _connect(path, kind)
        try:
            _check(writer, path, kind)
            _migrate(writer, path, kind)
            reader = _connect(path, kind)
        except BaseException:
            writer.close()
            raise
        with _explained(path, kind):
            reader.execute("PRAGMA query_only = 1")
        return cls(path, kind, writer, reader)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction: durable when the block has ended, undone when it raises.

        Raises :class:`P2pfleetError` (disk full, read-only, damaged, closed), and AssertionError
        when a constraint is broken, which is our own mistake.
        """
        with self._write_lock, _explained(self._path, self._kind):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors; then there is nothing to do.
                if self._writer.in_transaction:
                    with suppress(sqlite3.Error):
                        self._writer.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, as tuples, of what is committed. Raises as ``transaction``."""
        with self._read_lock, _explained(self._path, self._kind):
            return self._reader.execute(query, parameters).fetchall()

    def damaged(self, reason: str) -> P2pfleetError:
        """The error to raise when what was read makes no sense."""
        return _damaged(self._path, self._kind, reason)

    def close(self) -> None:
        """Close both connections, after what is running now; idempotent."""
        with self._read_lock, suppress(sqlite3.Error):
            self._reader.close()
        with self._write_lock, suppress(sqlite3.Error):
            self._writer.close()


def log_path(path: Path) -> Path:
    """The write-ahead log that belongs to the database ``path``."""
    return path.with_name(path.name + "-wal")


def _connect(path: Path, kind: DatabaseKind) -> sqlite3.Connection:
    with _explained(path, kind):
        connection = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA trusted_schema = 0")
            connection.execute("PRAGMA cell_size_check = 1")
            connection.execute("PRAGMA foreign_keys = 1")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = 1")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_KEPT_BYTES}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
        return connection


def _create(path: Path, kind: DatabaseKind) -> None:
    """Make a complete database beside ``path`` and then name it ``path``.

    So an empty or half-made file under that name is always damage, never a young database that
    may silently be filled anew.
    """
    log = log_path(path)
    if log.exists() and log.stat().st_size > 0:
        # SQLite would replay the log of another file into the new one.
        raise P2pfleetError(
            f"{path} is missing, but its write-ahead log {log.name} is there.",
            f"Put {path.name} back; or, to begin anew, move {log.name} away as well.",
            ExitCode.DAMAGED,
        )
    log.unlink(missing_ok=True)
    fresh = path.with_name(path.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _connect(fresh, kind)
    try:
        with _explained(fresh, kind):
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
        _migrate(connection, fresh, kind)
    finally:
        connection.close()
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(path)
    sync_folder(path.parent)


def _check_head(path: Path, kind: DatabaseKind) -> None:
    # Before SQLite opens it: that would change another program's file, and fill an empty one.
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        raise _damaged(
            path, kind, "it does not begin as such a file does" if head else "it is empty"
        )
    if int.from_bytes(head[_APPLICATION_ID], "big") != kind.application_id:
        raise _damaged(path, kind, "it is the file of another program")


def _check(connection: sqlite3.Connection, path: Path, kind: DatabaseKind) -> None:
    with _explained(path, kind):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(kind.migrations):
            raise P2pfleetError(
                f"data folder was written by a newer p2pfleet ({path.name} has version {version},"
                f" this p2pfleet knows up to {len(kind.migrations)}).",
                "Please upgrade p2pfleet, or choose another --data-dir.",
                ExitCode.DAMAGED,
            )
        findings = connection.execute("PRAGMA quick_check(1)").fetchall()
    if findings != [("ok",)]:
        raise _damaged(path, kind, str(findings[0][0])[:200] if findings else "no answer")


def _migrate(connection: sqlite3.Connection, path: Path, kind: DatabaseKind) -> None:
    with _explained(path, kind):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for number, migration in enumerate(kind.migrations[version:], start=version + 1):
            connection.execute("BEGIN IMMEDIATE")
            try:
                migration(connection)
                connection.execute(f"PRAGMA user_version = {number}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if version:
                _log.info("%s: brought to version %d", path, number)


@contextmanager
def _explained(path: Path, kind: DatabaseKind) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise AssertionError(f"{kind.name}: {error}") from error
    except sqlite3.Error as error:
        raise _explain(error, path, kind) from error


def _explain(error: sqlite3.Error, path: Path, kind: DatabaseKind) -> P2pfleetError:
    # The low byte is the error; the rest says where it came up.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    reason = str(error).rstrip(".")
    # Text that is none: Python's own error, without a code of SQLite's.
    if code in _DAMAGED or reason.startswith("Could not decode"):
        return _damaged(path, kind, reason)
    if code == sqlite3.SQLITE_FULL:
        return DiskTrouble(
            f"the disk that holds {path} is full, so nothing more can be saved.",
            "Free some space there, or choose another --data-dir, and start again.",
            FREE_SPACE,
        )
    if code in _REFUSED:
        return DiskTrouble(
            f"{path} cannot be written: {reason}.",
            "Check that the file and its folder belong to you and that the disk is not mounted"
            " read-only, or choose another --data-dir.",
            MOUNT_AGAIN,
        )
    if code in _BUSY:
        return P2pfleetError(
            f"another program holds {path}.", "End that program (perhaps a backup) and try again."
        )
    if code == sqlite3.SQLITE_IOERR:
        return DiskTrouble(
            f"the disk that holds {path} failed to read or write ({reason}).",
            "Check that it is not full and not failing (dmesg names it), and start again.",
            CHECK_DISK,
            ExitCode.DAMAGED,
        )
    return P2pfleetError(f"{kind.name} ({path}) could not be used: {reason}.", "Start again.")


def _damaged(path: Path, kind: DatabaseKind, reason: str) -> P2pfleetError:
    return P2pfleetError(
        f"{kind.name} ({path}) is damaged: {reason}.", kind.if_damaged, ExitCode.DAMAGED
    )
