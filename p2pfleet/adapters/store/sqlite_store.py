"""The store: jobs, frames, ledgers, what trust rests on, and addresses in one SQLite file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from p2pfleet.adapters.store.database import Database
from p2pfleet.adapters.store.schema import STORE
from p2pfleet.adapters.store.store_writes import SeedData, carry_out
from p2pfleet.core.effects import Earning, Move, OwnSeed, RecordRow, Withdrawn, Write
from p2pfleet.core.model.ids import JobId, JobIdField, PeerId, PeerIdField
from p2pfleet.core.model.job import UnitIndex
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment
from p2pfleet.core.rules.reputation import Kind
from p2pfleet.core.wire.messages import Sealed
from p2pfleet.ports import StoredJob

_log = logging.getLogger(__name__)

MAX_ADDRESSES = 512
MAX_ADDRESSES_PER_PEER = 8
MAX_ADDRESS_CHARACTERS = 200

_Count = Annotated[int, Meta(ge=0)]
_Credit = Annotated[int, Meta(ge=1)]

_sealed_decoder = msgspec.msgpack.Decoder(Sealed)
_seed_decoder = msgspec.msgpack.Decoder(SeedData)


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
            carry_out(connection, writes)

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

    def members(self) -> list[Sealed]:
        """The pages of the closed network's list of members, by number."""
        rows = self._database.rows("SELECT sealed FROM members ORDER BY page")
        return [self._sealed(sealed) for (sealed,) in rows]

    def acceptances(self) -> list[Sealed]:
        """The acceptances of invited peers, in the order in which they were first saved."""
        rows = self._database.rows("SELECT sealed FROM acceptances ORDER BY number")
        return [self._sealed(sealed) for (sealed,) in rows]

    def jobs_records(self) -> list[Sealed]:
        """The newest record of its jobs of each publisher that one is kept of, by publisher."""
        rows = self._database.rows("SELECT sealed FROM jobs_records ORDER BY publisher")
        return [self._sealed(row[0]) for row in rows]

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
            f"SELECT job, manifest, own, state, closure, poisoned FROM jobs {which}",  # noqa: S608
            values,
        )
        return [
            StoredJob(
                job=JobId(job),
                manifest=self._sealed(manifest),
                own=bool(own),
                state=state,
                closure=None if closure is None else self._sealed(closure),
                poisoned=bool(poisoned),
            )
            for job, manifest, own, state, closure, poisoned in rows
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
        self, job: JobId, author: PeerId, incarnation: int, first: int, end: int, shard: int = 0
    ) -> list[Sealed]:
        """The frames of one author's incarnation in a shard, from number ``first`` below
        ``end``."""
        rows = self._database.rows(
            "SELECT sealed FROM frames WHERE job = (SELECT number FROM jobs WHERE job = ?)"
            " AND author = (SELECT number FROM peers WHERE peer = ?)"
            " AND shard = ? AND incarnation = ? AND sequence >= ? AND sequence < ?"
            " ORDER BY sequence",
            (job, author, shard, incarnation, first, end),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    def units(self, job: JobId) -> list[tuple[int, str, bytes]]:
        """The ledger of a job, by unit: (unit, state, certificate or b"" or UTF-8 reason)."""
        return self._database.rows(
            "SELECT unit, state, detail FROM units"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY unit",
            (job,),
        )

    # ---- what trust rests on -----------------------------------------------------------------

    def records(self) -> list[RecordRow]:
        """The records over all jobs that have ended, sorted by (class, peer)."""
        rows = self._database.rows(
            "SELECT model_class, peers.peer, agreed, contradicted, milli, faults FROM records"
            " JOIN peers ON peers.number = records.peer ORDER BY model_class, peers.peer"
        )
        return [
            RecordRow(model_class, peer, Record(*counts))
            for model_class, peer, *counts in self._checked(
                rows, tuple[str, PeerIdField, _Count, _Count, _Count, _Count]
            )
        ]

    def moves(self, job: JobId) -> list[Move]:
        """The moves of a job of one's own, in the order in which they were first saved."""
        rows = self._database.rows(
            "SELECT unit, peers.peer, kind FROM moves JOIN peers ON peers.number = moves.peer"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY place",
            (job,),
        )
        return [
            Move(unit, peer, kind)
            for unit, peer, kind in self._checked(rows, tuple[UnitIndex, PeerIdField, Kind])
        ]

    def withdrawn(self, job: JobId) -> list[Withdrawn]:
        """The votes that count no more in a job of one's own, sorted by (unit, peer, attempt)."""
        rows = self._database.rows(
            "SELECT unit, peers.peer, attempt FROM withdrawn"
            " JOIN peers ON peers.number = withdrawn.peer"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?)"
            " ORDER BY unit, peers.peer, attempt",
            (job,),
        )
        return [
            Withdrawn(unit, peer, attempt)
            for unit, peer, attempt in self._checked(rows, tuple[UnitIndex, PeerIdField, _Count])
        ]

    def story(self, peer: PeerId) -> list[tuple[JobId, int, str, int]]:
        """Every move of one peer's record: (job, unit, kind, place), by place.

        Places grow in the order of first saving, over all jobs and peers.
        """
        rows = self._database.rows(
            "SELECT jobs.job, unit, kind, place FROM moves JOIN jobs ON jobs.number = moves.job"
            " WHERE peer = (SELECT number FROM peers WHERE peer = ?) ORDER BY place",
            (peer,),
        )
        return self._checked(rows, tuple[JobIdField, UnitIndex, Kind, int])

    def proofs(self) -> list[tuple[PeerId, Sealed, Sealed]]:
        """Of each peer that was caught, the two frames that prove it; sorted by peer."""
        rows = self._database.rows(
            "SELECT peers.peer, first, second FROM proofs"
            " JOIN peers ON peers.number = proofs.peer ORDER BY peers.peer"
        )
        return [
            (PeerId(peer), self._sealed(first), self._sealed(second))
            for peer, first, second in rows
        ]

    def seeds(self, job: JobId) -> list[OwnSeed]:
        """This node's own seeds in a job, in the order in which they were saved."""
        rows = self._database.rows(
            "SELECT seed_hash, data FROM seeds"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY number",
            (job,),
        )
        return [self._seed(seed_hash, data) for seed_hash, data in rows]

    def snapshots(self, job: JobId) -> list[Sealed]:
        """The trust snapshots of a job, in the order in which they were saved."""
        rows = self._database.rows(
            "SELECT sealed FROM snapshots"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY number",
            (job,),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    # ---- credit ------------------------------------------------------------------------------

    def earnings(self, job: JobId) -> list[Earning]:
        """What the settled units of a job of one's own earned, sorted by (unit, peer)."""
        rows = self._database.rows(
            "SELECT unit, peers.peer, credit FROM earnings"
            " JOIN peers ON peers.number = earnings.peer"
            " WHERE job = (SELECT number FROM jobs WHERE job = ?) ORDER BY unit, peers.peer",
            (job,),
        )
        return [
            Earning(unit, peer, credit)
            for unit, peer, credit in self._checked(rows, tuple[UnitIndex, PeerIdField, _Credit])
        ]

    def receipts(self, job: JobId | None = None) -> list[Sealed]:
        """The newest receipts of a job, or of all jobs in the order of first sight; by peer."""
        which = "" if job is None else " WHERE jobs.job = ?"
        rows = self._database.rows(
            "SELECT sealed FROM receipts JOIN jobs ON jobs.number = receipts.job"  # noqa: S608
            f" JOIN peers ON peers.number = receipts.peer{which} ORDER BY receipts.job, peers.peer",
            () if job is None else (job,),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    def receipts_for(self, peer: PeerId, most: int) -> list[Sealed]:
        """The newest receipts for a peer of the last ``most`` jobs of one's own that have one."""
        rows = self._database.rows(
            "SELECT sealed FROM receipts JOIN jobs ON jobs.number = receipts.job"
            " WHERE receipts.peer = (SELECT number FROM peers WHERE peer = ?) AND jobs.own <> 0"
            " ORDER BY receipts.job DESC LIMIT ?",
            (peer, most),
        )
        return [self._sealed(sealed) for (sealed,) in rows]

    # ---- checking what was read --------------------------------------------------------------

    def _checked(self, rows: list[Any], kind: Any) -> list[Any]:
        """The rows, each of which is a ``kind``: SQLite itself keeps no column to its type."""
        try:
            return msgspec.convert(rows, list[kind])
        except msgspec.ValidationError as error:
            raise self._database.damaged("a line of its tables makes no sense") from error

    def _seed(self, seed_hash: bytes, data: bytes) -> OwnSeed:
        try:
            kept = _seed_decoder.decode(data)
        except (msgspec.MsgspecError, TypeError) as error:
            raise self._database.damaged("a seed in it cannot be read") from error
        if commitment.seed_hash(kept.seed) != seed_hash:
            raise self._database.damaged("a seed in it is not the one that was committed to")
        return OwnSeed(seed_hash, kept.seed, kept.items)

    def _sealed(self, data: bytes) -> Sealed:
        try:
            return _sealed_decoder.decode(data)
        except (msgspec.MsgspecError, TypeError) as error:
            raise self._database.damaged("a message in it cannot be read") from error
