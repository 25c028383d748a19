"""How each kind of write changes the tables of the store: one function a kind."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec

from p2pfleet.core.effects import (
    CloseJob,
    DropAcceptance,
    ForgetJob,
    ForgetJobsRecord,
    SaveAcceptance,
    SaveEarnings,
    SaveFrame,
    SaveJob,
    SaveJobsRecord,
    SaveMembers,
    SaveMoves,
    SaveProof,
    SaveReceipt,
    SaveRecords,
    SaveRequirement,
    SaveSeed,
    SaveSnapshot,
    SaveUnits,
    SaveWithdrawn,
    VoidMoves,
    Write,
)
from p2pfleet.core.errors import Malformed
from p2pfleet.core.rules import commitment
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import Hash, Receipt, RevealItem, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES


class _FrameHead(msgspec.Struct, frozen=True, array_like=True, tag="p2pfleet/1/frame"):
    """Where a frame stands. The frame was verified when it came; its entries, which can be a
    thousand, are skipped here instead of decoded once more."""

    network: bytes
    job: bytes
    author: bytes
    incarnation: int
    sequence: int
    entries: msgspec.Raw
    shard: int


class SeedData(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is kept of a seed under its hash."""

    seed: Hash
    items: tuple[RevealItem, ...]


_head_decoder = msgspec.msgpack.Decoder(_FrameHead)


def carry_out(connection: sqlite3.Connection, writes: Sequence[Write]) -> None:
    """Carry the writes out in their order, inside the caller's transaction.

    A write about a job that was never saved, and one that contradicts itself, is our own mistake:
    AssertionError (or sqlite3.IntegrityError).
    """
    # Neighbours of one kind go to SQLite together; the order stays.
    for kind, run in itertools.groupby(writes, key=type):
        _WRITERS[kind](connection, list(run))


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
        "INSERT INTO frames (job, author, shard, incarnation, sequence, sealed)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?),"
        "  (SELECT number FROM peers WHERE peer = ?), ?, ?, ?, ?)"
        " ON CONFLICT (job, author, shard, incarnation, sequence) DO NOTHING",
        [
            (*_place(head), codec.encode(write.frame))
            for head, write in zip(heads, writes, strict=True)
        ],
    )


def _place(head: _FrameHead) -> tuple[bytes, bytes, int, int, int]:
    return head.job, head.author, head.shard, head.incarnation, head.sequence


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


def _save_seeds(connection: sqlite3.Connection, writes: Sequence[SaveSeed]) -> None:
    for write in writes:
        if commitment.seed_hash(write.seed.seed) != write.seed.seed_hash:
            raise AssertionError("a seed is saved under another's hash")
    connection.executemany(
        "INSERT INTO seeds (job, seed_hash, data)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?, ?)"
        " ON CONFLICT (job, seed_hash) DO NOTHING",
        [
            (
                write.job,
                write.seed.seed_hash,
                codec.encode(SeedData(write.seed.seed, write.seed.items)),
            )
            for write in writes
        ],
    )


def _save_moves(connection: sqlite3.Connection, writes: Sequence[SaveMoves]) -> None:
    rows = [(write.job, row) for write in writes for row in write.rows]
    _number_peers(connection, (row.peer for _, row in rows if row.kind))
    for kept, run in itertools.groupby(rows, key=lambda each: bool(each[1].kind)):
        if kept:
            connection.executemany(
                "INSERT INTO moves (job, unit, peer, kind)"
                " VALUES ((SELECT number FROM jobs WHERE job = ?), ?,"
                "  (SELECT number FROM peers WHERE peer = ?), ?)"
                " ON CONFLICT (job, unit, peer) DO UPDATE SET kind = excluded.kind",
                [(job, row.unit, row.peer, row.kind) for job, row in run],
            )
        else:
            connection.executemany(
                "DELETE FROM moves WHERE job = (SELECT number FROM jobs WHERE job = ?)"
                " AND unit = ? AND peer = (SELECT number FROM peers WHERE peer = ?)",
                [(job, row.unit, row.peer) for job, row in run],
            )


def _void_moves(connection: sqlite3.Connection, writes: Sequence[VoidMoves]) -> None:
    connection.executemany(
        "DELETE FROM moves WHERE job = (SELECT number FROM jobs WHERE job = ?)",
        [(write.job,) for write in writes],
    )
    connection.executemany(
        "UPDATE jobs SET poisoned = 1 WHERE job = ?", [(write.job,) for write in writes]
    )


def _save_withdrawn(connection: sqlite3.Connection, writes: Sequence[SaveWithdrawn]) -> None:
    rows = [(write.job, row) for write in writes for row in write.rows]
    _number_peers(connection, (row.peer for _, row in rows))
    connection.executemany(
        "INSERT INTO withdrawn (job, unit, peer, attempt)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?,"
        "  (SELECT number FROM peers WHERE peer = ?), ?)"
        " ON CONFLICT (job, unit, peer, attempt) DO NOTHING",
        [(job, row.unit, row.peer, row.attempt) for job, row in rows],
    )


def _save_records(connection: sqlite3.Connection, writes: Sequence[SaveRecords]) -> None:
    rows = [row for write in writes for row in write.rows]
    _number_peers(connection, (row.peer for row in rows))
    connection.executemany(
        "INSERT INTO records (model_class, peer, agreed, contradicted, milli, faults)"
        " VALUES (?, (SELECT number FROM peers WHERE peer = ?), ?, ?, ?, ?)"
        " ON CONFLICT (model_class, peer) DO UPDATE SET agreed = excluded.agreed,"
        "  contradicted = excluded.contradicted, milli = excluded.milli, faults = excluded.faults",
        [(row.model_class, row.peer, *msgspec.structs.astuple(row.record)) for row in rows],
    )


def _save_earnings(connection: sqlite3.Connection, writes: Sequence[SaveEarnings]) -> None:
    rows = [(write.job, row) for write in writes for row in write.rows]
    _number_peers(connection, (row.peer for _, row in rows))
    connection.executemany(
        "INSERT INTO earnings (job, unit, peer, credit)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?,"
        "  (SELECT number FROM peers WHERE peer = ?), ?)",
        [(job, row.unit, row.peer, row.credit) for job, row in rows],
    )


def _save_receipts(connection: sqlite3.Connection, writes: Sequence[SaveReceipt]) -> None:
    receipts = [(_receipt(write.receipt), write) for write in writes]
    if any(receipt.job != write.job for receipt, write in receipts):
        raise AssertionError("a receipt of one job is saved under another")
    _number_peers(connection, (receipt.peer for receipt, _ in receipts))
    connection.executemany(
        "INSERT INTO receipts (job, peer, number, sealed)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?),"
        "  (SELECT number FROM peers WHERE peer = ?), ?, ?)"
        " ON CONFLICT (job, peer) DO UPDATE SET number = excluded.number, sealed = excluded.sealed"
        " WHERE excluded.number > receipts.number",
        [
            (receipt.job, receipt.peer, receipt.number, codec.encode(write.receipt))
            for receipt, write in receipts
        ],
    )


def _receipt(sealed: Sealed) -> Receipt:
    try:
        receipt: Receipt = codec.decode(sealed.body, Receipt, MAX_FRAME_BYTES)
    except Malformed as error:
        raise AssertionError(f"what is saved as a receipt is none: {error}") from error
    return receipt


def _save_snapshots(connection: sqlite3.Connection, writes: Sequence[SaveSnapshot]) -> None:
    connection.executemany(
        "INSERT INTO snapshots (job, hash, sealed)"
        " VALUES ((SELECT number FROM jobs WHERE job = ?), ?, ?)"
        " ON CONFLICT (job, hash) DO NOTHING",
        [(write.job, write.snapshot.hash, codec.encode(write.snapshot)) for write in writes],
    )


def _save_proofs(connection: sqlite3.Connection, writes: Sequence[SaveProof]) -> None:
    for write in writes:
        for frame in (write.first, write.second):
            if _head(frame).author != write.peer:
                raise AssertionError("a proof against one peer is made of another's frames")
    _number_peers(connection, (write.peer for write in writes))
    connection.executemany(
        "INSERT INTO proofs (peer, first, second)"
        " VALUES ((SELECT number FROM peers WHERE peer = ?), ?, ?)"
        " ON CONFLICT (peer) DO NOTHING",
        [(write.peer, codec.encode(write.first), codec.encode(write.second)) for write in writes],
    )


def _save_jobs_records(connection: sqlite3.Connection, writes: Sequence[SaveJobsRecord]) -> None:
    connection.executemany(
        "INSERT INTO jobs_records (publisher, sealed) VALUES (?, ?)"
        " ON CONFLICT (publisher) DO UPDATE SET sealed = excluded.sealed",
        [(write.record.signer, codec.encode(write.record)) for write in writes],
    )


def _forget_jobs_records(
    connection: sqlite3.Connection, writes: Sequence[ForgetJobsRecord]
) -> None:
    connection.executemany(
        "DELETE FROM jobs_records WHERE publisher = ?", [(write.publisher,) for write in writes]
    )


def _save_requirements(connection: sqlite3.Connection, writes: Sequence[SaveRequirement]) -> None:
    connection.execute(
        "INSERT INTO requirement (number, sealed) VALUES (1, ?)"
        " ON CONFLICT (number) DO UPDATE SET sealed = excluded.sealed",
        (codec.encode(writes[-1].requirement),),
    )


def _save_members(connection: sqlite3.Connection, writes: Sequence[SaveMembers]) -> None:
    connection.executemany(
        "INSERT INTO members (page, sealed) VALUES (?, ?)"
        " ON CONFLICT (page) DO UPDATE SET sealed = excluded.sealed",
        [(write.page, codec.encode(write.members)) for write in writes],
    )


def _save_acceptances(connection: sqlite3.Connection, writes: Sequence[SaveAcceptance]) -> None:
    connection.executemany(
        "INSERT INTO acceptances (key, peer, sealed) VALUES (?, ?, ?)"
        " ON CONFLICT (key, peer) DO UPDATE SET sealed = excluded.sealed",
        [(write.key, write.peer, codec.encode(write.acceptance)) for write in writes],
    )


def _drop_acceptances(connection: sqlite3.Connection, writes: Sequence[DropAcceptance]) -> None:
    connection.executemany(
        "DELETE FROM acceptances WHERE (key, peer) = (?, ?)",
        [(write.key, write.peer) for write in writes],
    )


def _forget_jobs(connection: sqlite3.Connection, writes: Sequence[ForgetJob]) -> None:
    jobs = [(write.job,) for write in writes]
    for table in ("frames", "units", "seeds", "snapshots"):
        connection.executemany(
            f"DELETE FROM {table} WHERE job = (SELECT number FROM jobs WHERE job = ?)",  # noqa: S608
            jobs,
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
        SaveSeed: _save_seeds,
        SaveMoves: _save_moves,
        VoidMoves: _void_moves,
        SaveWithdrawn: _save_withdrawn,
        SaveRecords: _save_records,
        SaveEarnings: _save_earnings,
        SaveReceipt: _save_receipts,
        SaveSnapshot: _save_snapshots,
        SaveProof: _save_proofs,
        SaveRequirement: _save_requirements,
        SaveMembers: _save_members,
        SaveAcceptance: _save_acceptances,
        DropAcceptance: _drop_acceptances,
        SaveJobsRecord: _save_jobs_records,
        ForgetJobsRecord: _forget_jobs_records,
        ForgetJob: _forget_jobs,
    },
)
