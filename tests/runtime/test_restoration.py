"""A starting node hears what its store holds, in an order that the core can use."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core import events as ev
from p2pfleet.core.effects import (
    CloseJob,
    Move,
    OwnSeed,
    RecordRow,
    SaveFrame,
    SaveJob,
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
from p2pfleet.core.model.ids import Digest, JobId, NetworkId, sha256
from p2pfleet.core.model.job import Trust
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire.messages import OpenRingers, RevealItem, Ringer, Sealed
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.runtime.restoration import restore
from p2pfleet.runtime.signing import open_sealed
from tests.runtime.signed_bodies import (
    BOB,
    CAROL,
    NETWORK_FILE,
    PAULA,
    closure,
    frame,
    manifest,
    snapshot,
)

SECRET = sha256(b"where the ringers are")
RINGERS = (Ringer(3, Digest(sha256(b"three"))), Ringer(9, Digest(sha256(b"nine"))))
OWN = manifest(1, trust=Trust(ringers=Digest(ringers_hash(OpenRingers(SECRET, RINGERS)))))
OWN_JOB = JobId(OWN.hash)
NOTE: dict[str, Any] = {
    "request": {"model": "m.onnx"},
    "unit_names": ["a", "b"],
    "ringers": [[ringer.unit, ringer.digest.hex()] for ringer in RINGERS],
    "ringers_secret": SECRET.hex(),
}
FOREIGN = manifest(2, publisher=CAROL)
FOREIGN_JOB = JobId(FOREIGN.hash)
SEED = OwnSeed(
    commitment.seed_hash(sha256(b"seed")),
    sha256(b"seed"),
    (RevealItem(4, 0, Digest(sha256(b"four")), 10),),
)


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(10):
                await test(**fixtures)

        trio.run(main)

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(path)
    opened.apply([SaveJob(OWN_JOB, OWN, own=True), SaveJob(FOREIGN_JOB, FOREIGN, own=False)])
    yield opened
    opened.close()


async def told(store: SqliteStore, notes: Path) -> list[ev.Event]:
    events: list[ev.Event] = []

    async def submit(event: ev.Event) -> None:
        events.append(event)

    await restore(submit, store, NETWORK_FILE, PAULA.peer, notes)
    return events


def note(folder: Path, content: Any = NOTE) -> Path:
    data = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (folder / f"{OWN_JOB.hex()}.json").write_bytes(data)
    return folder


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@guarded
async def test_everything_is_told_in_the_order_that_the_core_expects(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (RecordRow("any", BOB.peer, Record(1, 2, 3, 0)),)
    moves = (Move(9, BOB.peer, "matched"), Move(1, CAROL.peer, "audited"))
    proof = (frame(OWN_JOB, 0, CAROL), frame(OWN_JOB, 1, CAROL))
    store.apply(
        [
            SaveFrame(FOREIGN_JOB, frame(FOREIGN_JOB)),
            SaveSeed(FOREIGN_JOB, SEED),
            SaveUnits(OWN_JOB, (UnitRow(5, "failed", b"no memory"),)),
            SaveMoves(OWN_JOB, moves),
            SaveWithdrawn(OWN_JOB, (Withdrawn(9, BOB.peer, 2),)),
            SaveSnapshot(OWN_JOB, snapshot(1)),
            SaveSnapshot(OWN_JOB, snapshot(2)),
            SaveRecords(rows),
            SaveProof(CAROL.peer, *proof),
        ]
    )

    records, proved, own, foreign, framed, ringers = await told(store, note(tmp_path))

    assert records == ev.RecordsRestored(rows)
    assert isinstance(proved, ev.ProofRestored)
    assert (proved.first.sealed, proved.second.sealed) == proof
    assert isinstance(own, ev.JobRestored)
    assert (own.manifest.job, own.own, own.state, own.closure) == (OWN_JOB, True, "active", None)
    assert own.units == (UnitRow(5, "failed", b"no memory"),)
    assert own.moves == moves
    assert own.withdrawn == (Withdrawn(9, BOB.peer, 2),)
    assert not own.poisoned
    assert [each.snapshot.number for each in own.snapshots] == [1, 2]
    assert own.seeds == ()
    assert isinstance(foreign, ev.JobRestored)
    assert (foreign.manifest.job, foreign.own) == (FOREIGN_JOB, False)
    assert (foreign.moves, foreign.snapshots, foreign.seeds) == ((), (), (SEED,))
    assert isinstance(framed, ev.FrameRestored)
    assert framed.frame == open_sealed(frame(FOREIGN_JOB))
    assert ringers == ev.RingersKnown(OWN_JOB, SECRET, RINGERS)
    assert warnings(caplog) == []


@guarded
async def test_a_poisoned_job_is_told_as_such(store: SqliteStore, tmp_path: Path) -> None:
    store.apply([VoidMoves(OWN_JOB)])
    jobs = [e for e in await told(store, note(tmp_path)) if isinstance(e, ev.JobRestored)]
    assert {job.manifest.job: job.poisoned for job in jobs} == {OWN_JOB: True, FOREIGN_JOB: False}


@guarded
async def test_an_ended_job_has_neither_frames_nor_ringers(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.apply(
        [
            SaveFrame(OWN_JOB, frame(OWN_JOB)),
            CloseJob(OWN_JOB, "completed", closure(OWN_JOB)),
        ]
    )

    _, own, _ = await told(store, note(tmp_path))

    assert isinstance(own, ev.JobRestored)
    assert own.state == "completed"
    assert own.closure is not None
    assert own.closure.sealed == closure(OWN_JOB)
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        {},
        {"request": {}, "unit_names": []},
        NOTE | {"ringers_secret": "no hex"},
        NOTE | {"ringers_secret": SECRET.hex()[:-2]},
        NOTE | {"ringers_secret": sha256(b"another secret").hex()},
        NOTE | {"ringers_secret": 5},
        NOTE | {"ringers": []},
        NOTE | {"ringers": NOTE["ringers"][:1]},
        NOTE | {"ringers": [[-1, "00" * 32]]},
        NOTE | {"ringers": [[2**70, "00" * 32]]},
        NOTE | {"ringers": [[3, "00"]]},
        NOTE | {"ringers": [[3]]},
        NOTE | {"ringers": [[3, sha256(b"three").hex(), 1]]},
        NOTE | {"ringers": [[unit, "00" * 32] for unit in range(200)]},
        NOTE | {"ringers": None},
        NOTE | {"ringers": "é"},
    ],
)
@guarded
async def test_a_damaged_note_means_no_ringers_and_is_logged(
    store: SqliteStore, tmp_path: Path, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    events = await told(store, note(tmp_path, content))

    assert [type(event) for event in events] == [ev.RecordsRestored] + [ev.JobRestored] * 2
    (warning,) = warnings(caplog)
    assert f"ringers of job {OWN_JOB.hex()[:12]} are lost" in warning


@guarded
async def test_a_missing_note_means_no_ringers_and_is_logged(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events = await told(store, tmp_path / "submitted")

    assert not any(isinstance(event, ev.RingersKnown) for event in events)
    (warning,) = warnings(caplog)
    assert "are lost" in warning


@guarded
async def test_a_job_without_ringers_needs_no_note(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = manifest(5)
    store.apply([CloseJob(OWN_JOB, "cancelled", None), SaveJob(JobId(plain.hash), plain, own=True)])

    events = await told(store, tmp_path)

    assert not any(isinstance(event, ev.RingersKnown) for event in events)
    assert warnings(caplog) == []


@guarded
async def test_nothing_of_another_network_is_told(store: SqliteStore, tmp_path: Path) -> None:
    elsewhere = NetworkId(sha256(b"elsewhere"))
    strange = manifest(6, network=elsewhere)
    job = JobId(strange.hash)

    def framed(sequence: int) -> Sealed:
        verified = open_sealed(frame(job, sequence))
        assert isinstance(verified, VerifiedFrame)
        return BOB.seal(msgspec.structs.replace(verified.frame, network=elsewhere))

    store.apply(
        [
            SaveJob(job, strange, own=False),
            SaveFrame(job, framed(0)),
            SaveProof(BOB.peer, framed(0), framed(1)),
        ]
    )

    events = await told(store, note(tmp_path))

    kinds = [type(event) for event in events]
    assert kinds == [ev.RecordsRestored, ev.JobRestored, ev.JobRestored, ev.RingersKnown]


@guarded
async def test_what_no_longer_opens_is_left_out_and_the_rest_is_told(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unsigned(sealed: Sealed) -> Sealed:
        return msgspec.structs.replace(sealed, signature=bytes(64))

    lost, odd = manifest(7), manifest(8)
    job = JobId(lost.hash)
    store.apply(
        [
            SaveJob(job, unsigned(lost), own=False),
            SaveJob(JobId(bytes(32)), odd, own=False),
            SaveFrame(job, frame(job)),
            SaveFrame(FOREIGN_JOB, unsigned(frame(FOREIGN_JOB, 0))),
            SaveFrame(FOREIGN_JOB, frame(FOREIGN_JOB, 1)),
            SaveSnapshot(OWN_JOB, unsigned(snapshot(1))),
            SaveSnapshot(OWN_JOB, snapshot(2)),
            SaveProof(BOB.peer, unsigned(frame(OWN_JOB, 0)), frame(OWN_JOB, 1)),
            SaveProof(CAROL.peer, frame(OWN_JOB, 0, CAROL), frame(OWN_JOB, 1, CAROL)),
        ]
    )

    events = await told(store, note(tmp_path))

    _, proved, own, foreign, framed, _ = events
    assert isinstance(proved, ev.ProofRestored)
    assert proved.first.author == CAROL.peer
    assert isinstance(own, ev.JobRestored)
    assert [each.snapshot.number for each in own.snapshots] == [2]
    assert isinstance(foreign, ev.JobRestored)
    assert foreign.manifest.job == FOREIGN_JOB
    assert isinstance(framed, ev.FrameRestored)
    assert framed.frame.frame.sequence == 1
    assert len(warnings(caplog)) == 5
    assert all("damaged and is left out" in warning for warning in warnings(caplog))
