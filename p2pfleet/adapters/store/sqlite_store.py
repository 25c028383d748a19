"""The store: jobs, frames, ledgers, judgements and addresses in one SQLite file."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from p2pfleet.adapters.store.database import Database
from p2pfleet.adapters.store.schema import STORE
from p2pfleet.core.effects import (
    CloseJob,
    ForgetJob,
    Judgement,
    SaveFrame,
    SaveJob,
    SaveJudgements,
    SaveRequirement,
    SaveUnits,
    Write,
)
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.ports import StoredJob

_log = logging.getLogger(__name__)

MAX_ADDRESSES = 512
MAX_ADDRESSES_PER_PEER = 8
MAX_ADDRESS_CHARACTERS = 200


class _FrameHead(msgspec.Struct, frozen=True, array_like=True, tag="p2pfleet/1/frame"):
    """The first fields of a frame. The frame was verified when it came; its entries, which can
    be a thousand, are skipped here instead of decoded once more."""

    network: bytes
    job: bytes
    author: bytes
    incarnation: int
    sequence: int


_head_decoder = msgspec.msgpack.Decoder(_FrameHead)
_sealed_decoder = msgspec.msgpack.Decoder(Sealed)


class SqliteStore:
    """The port ``Store`` on SQLite. Every method blocks and may be called from any thread.

    Every method raises :class:`P2pfleetError` when the disk is full, the file cannot be written,
    or it turns out to be damaged.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """Open the store at ``path`` (made if missing), check it, and migrate it.

        Raises :class:`P2pfleetError`, with the exit code DAMAGED when the file is damaged or was
        written by a newer p2pfleet. The caller holds the lock of the data folder.
        """
        return cls(Database.open(path, STORE))

    def close(self) -> None:
        """Close the file; idempotent. Everything that returned is durable without it."""
        self._database.close()

    # ---- writing -----------------------------------------------------------------------------

    def apply(self, writes: Sequence[Write]) -> None:
        """Make all of these durable, in order and in one transaction, or none.

        A write about a job that was never saved is our own mistake: AssertionError.
        """
        if not writes:
            return
        with self._database.transaction() as connection:
            # Neighbours of one kind go to SQLite together; the order stays.
            for kind, run in itertools.groupby(writes, key=type):
                _WRITERS[kind](connection, list(run))

    def next_incarnation(self, now_ms: int) -> int:
        """``max(now_ms, last + 1)``, made durable before it is returned."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT value FROM node WHERE name = 'incarnation'").fetchone()
            incarnation = now_ms if row is None else max(now_ms, int(row[0]) + 1)
            connection.execute(
                "INSERT INTO node (name, value) VALUES ('incarnation', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (incarnation,),
            )
            return incarnation

    def requirement(self) -> Sealed | None:
        """What the network's owner asked for last, if anything was ever heard."""
        rows = self._database.rows("SELECT sealed FROM requirement")
        return self._sealed(rows[0][0]) if rows else None

    def save_address(self, peer: PeerId, address: str, now_ms: int) -> None:
        """Remember an address that a connection proved to work.

        At most MAX_ADDRESSES are kept, of one peer at most MAX_ADDRESSES_PER_PEER, so that no
        peer pushes the others out; the oldest go. An address that is too long is not kept.
        """
        if len(address) > MAX_ADDRESS_CHARACTERS:
            _log.debug("an address of %d characters is not remembered", len(address))
            return
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM addresses WHERE (peer, address) = (?, ?)", (peer, address)
            )
            connection.execute(
                "INSERT INTO addresses (peer, address, useful_ms) VALUES (?, ?, ?)",
                (peer, address, now_ms),
            )
            connection.execute(
                "DELETE FROM addresses WHERE number IN (SELECT number FROM addresses"
                " WHERE peer = ? ORDER BY useful_ms DESC, number DESC LIMIT -1 OFFSET ?)",
                (peer, MAX_ADDRESSES_PER_PEER),
            )
            connection.execute(
                "DELETE FROM addresses WHERE number IN (SELECT number FROM addresses"
                " ORDER BY useful_ms DESC, number DESC LIMIT -1 OFFSET ?)",
                (MAX_ADDRESSES,),
            )

    # ---- reading -----------------------------------------------------------------------------

    def load_addresses(self) -> list[tuple[PeerId, str]]:
        """Known addresses, the most recently useful first."""
        rows = self._database.rows(
            "SELECT peer, address FROM addresses ORDER BY useful_ms DESC, number DESC"
        )
        return [(PeerId(peer), address) for peer, address in rows]

    def jobs(self) -> list[StoredJob]:
        """Every job known, in the order in which they were first seen."""
        return self._stored_jobs("ORDER BY number")

    def job(self, job: JobId) -> StoredJob | None:
        """One job, if it is known."""
        return next(iter(self._stored_jobs("WHERE job = ?", job)), None)

    def find_jobs(self, prefix: str) -> list[JobId]:
        """At most two jobs whose id, in lower-case hexadecimal, begins with ``prefix``."""
        rows = self._database.rows(
            "SELECT job FROM jobs WHERE substr(lower(hex(job)), 1, ?) = ? LIMIT 2",
            (len(prefix), prefix),
        )
        return [JobId(job) for (job,) in rows]

    def _stored_jobs(self, which: str, *values: bytes) -> list[StoredJob]:
        rows = self._database.rows(
            f"SELECT job, manifest, own, state, closure FROM jobs {which}",  # noqa: S608
            values,
        )
        return [
            StoredJob(
                job=JobId(job),
                manifest=self._sealed(manifest),
                own=bool(own),
                state=state,
                closure=None if closure is None else self._sealed(closure),
            )
            for job, manifest, own, state, closure in rows
        ]

    def frames(self) -> list[tuple[JobId, Sealed]]:
        """Every frame of every active job, in the order in which they were saved."""
        rows = self._database.rows(
            "SELECT jobs.job, frames.sealed FROM frames JOIN jobs ON jobs.number = frames.job"
            " WHERE jobs.state = 'active' ORDER BY frames.number"
        )
        return [(JobId(job), self._sealed(sealed)) for job, sealed in rows]

    def job_frames(self, job: JobId) -> list[Sealed]:
        """Every frame of one job, in the order in which they were saved."""
        rows = self._database.rows(
            "SELECT sealed FROM frames WHERE job = (SELECT number FROM jobs WHERE job = ?)"
            " ORDER BY number",
            (job,),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    def frame_range(
        self, job: JobId, author: PeerId, incarnation: int, first: int, end: int
    ) -> list[Sealed]:
        """The frames of one author's incarnation from number ``first`` below ``end``."""
        rows = self._database.rows(
            "SELECT sealed FROM frames WHERE job = (SELECT number FROM jobs WHERE job = ?)"
            " AND author = (SELECT number FROM peers WHERE peer = ?)"
            " AND incarnation = ? AND sequence >= ? AND sequence < ? ORDER BY sequence",
            (job, author, incarnation, first, end),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    def units(self, job: JobId) -> list[tuple[int, str, bytes]]:
        """The ledger of a job, by unit: (unit, state, certificate or b"" or UTF-8 reason)."""
        return self._database.rows(
            "SELECT unit, state, detail FROM units"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY unit",
            (job,),
        )

    def judgements(self) -> list[tuple[PeerId, int, int]]:
        """(peer, agreed, contradicted), over all jobs ever, sorted by peer."""
        rows = self._database.rows(
            "SELECT peers.peer, total.agreed, total.counted - total.agreed FROM"
            " (SELECT peer, sum(agreed) AS agreed, count(*) AS counted FROM judgements"
            "  GROUP BY peer) AS total"
            " JOIN peers ON peers.number = total.peer ORDER BY peers.peer"
        )
        return [(PeerId(peer), agreed, contradicted) for peer, agreed, contradicted in rows]

    def judged(self, job: JobId) -> list[Judgement]:
        """The judgements of a job that already moved a record, sorted by (unit, peer)."""
        rows = self._database.rows(
            "SELECT judgements.unit, peers.peer, judgements.agreed FROM judgements"
            " JOIN peers ON peers.number = judgements.peer"
            " WHERE judgements.job = (SELECT number FROM jobs WHERE job = ?)"
            " ORDER BY judgements.unit, peers.peer",
            (job,),
        )
        return [Judgement(unit, PeerId(peer), bool(agreed)) for unit, peer, agreed in rows]

    def _sealed(self, data: bytes) -> Sealed:
        try:
            return _sealed_decoder.decode(data)
        except (msgspec.MsgspecError, TypeError) as error:
            raise self._database.damaged("a message in it cannot be read") from error


# ---- one function a kind of write ------------------------------------------------------------


def _save_jobs(connection: sqlite3.Connection, writes: Sequence[SaveJob]) -> None:
    connection.executemany(
        "INSERT INTO jobs (job, manifest, own) VALUES (?, ?, ?) ON CONFLICT (job) DO NOTHING",
        [(write.job, codec.encode(write.manifest), write.own) for write in writes],
    )


def _close_jobs(connection: sqlite3.Connection, writes: Sequence[CloseJob]) -> None:
    for write in writes:
        closure = None if write.closure is None else codec.encode(write.closure)
        changed = connection.execute(
            "UPDATE jobs SET state = ?, closure = ? WHERE job = ?",
            (write.state, closure, write.job),
        ).rowcount
        if changed != 1:
            raise AssertionError(f"job {write.job.hex()} is closed but was never saved")


def _save_frames(connection: sqlite3.Connection, writes: Sequence[SaveFrame]) -> None:
    heads = [_head(write.frame) for write in writes]
    for head, write in zip(heads, writes, strict=True):
        if head.job != write.job:
            raise AssertionError(f"a frame of job {head.job.hex()} is saved under another")
    _number_peers(connection, (head.author for head in heads))
    connection.executemany(
        "INSERT INTO frames (job, author, incarnation, sequence, sealed)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?),"
        "  (SELECT number FROM peers WHERE peer = ?), ?, ?, ?)"
        " ON CONFLICT (job, author, incarnation, sequence) DO NOTHING",
        [
            (head.job, head.author, head.incarnation, head.sequence, codec.encode(write.frame))
            for head, write in zip(heads, writes, strict=True)
        ],
    )


def _head(frame: Sealed) -> _FrameHead:
    try:
        return _head_decoder.decode(frame.body)
    except msgspec.MsgspecError as error:
        raise AssertionError(f"what is saved as a frame is none: {error}") from error


def _save_units(connection: sqlite3.Connection, writes: Sequence[SaveUnits]) -> None:
    connection.executemany(
        "INSERT INTO units (job, unit, state, detail)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?, ?, ?)"
        " ON CONFLICT (job, unit)"
        " DO UPDATE SET state = excluded.state, detail = excluded.detail",
        [(write.job, row.unit, row.state, row.detail) for write in writes for row in write.rows],
    )


def _save_judgements(connection: sqlite3.Connection, writes: Sequence[SaveJudgements]) -> None:
    _number_peers(connection, (row.peer for write in writes for row in write.rows))
    connection.executemany(
        "INSERT INTO judgements (job, unit, peer, agreed)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?,"
        "  (SELECT number FROM peers WHERE peer = ?), ?)"
        " ON CONFLICT (job, unit, peer) DO UPDATE SET agreed = excluded.agreed",
        [(write.job, row.unit, row.peer, row.agreed) for write in writes for row in write.rows],
    )


def _save_requirements(connection: sqlite3.Connection, writes: Sequence[SaveRequirement]) -> None:
    connection.execute(
        "INSERT INTO requirement (number, sealed) VALUES (1, ?)"
        " ON CONFLICT (number) DO UPDATE SET sealed = excluded.sealed",
        (codec.encode(writes[-1].requirement),),
    )


def _forget_jobs(connection: sqlite3.Connection, writes: Sequence[ForgetJob]) -> None:
    jobs = [(write.job,) for write in writes]
    connection.executemany(
        "DELETE FROM frames WHERE job = (SELECT number FROM jobs WHERE job = ?)", jobs
    )
    connection.executemany(
        "DELETE FROM units WHERE job = (SELECT number FROM jobs WHERE job = ?)", jobs
    )


def _number_peers(connection: sqlite3.Connection, peers: Iterable[bytes]) -> None:
    connection.executemany(
        "INSERT INTO peers (peer) VALUES (?) ON CONFLICT (peer) DO NOTHING",
        [(peer,) for peer in sorted(set(peers))],
    )


_WRITERS = cast(
    "dict[type[Write], Any]",
    {
        SaveJob: _save_jobs,
        CloseJob: _close_jobs,
        SaveFrame: _save_frames,
        SaveUnits: _save_units,
        SaveJudgements: _save_judgements,
        SaveRequirement: _save_requirements,
        ForgetJob: _forget_jobs,
    },
)
