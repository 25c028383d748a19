"""A store of every version that there ever was is opened, and everything in it is found again.

The rows are written as SQL, as the p2pfleet of that version had them: today's code must not be what
decides how yesterday's tables were filled.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stored_values import (
    ALICE,
    BOB,
    CAROL,
    JOB,
    NETWORK,
    closure,
    frame,
    manifest,
    own_seed,
    save_job,
    save_requirement,
    sealed,
)  # fmt: skip

from p2pfleet.adapters.store import SqliteStore, schema, store_writes
from p2pfleet.adapters.store.database import Database
from p2pfleet.core.effects import DropAcceptance, Earning, RecordRow, SaveAcceptance, SaveMembers
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.core.model.record import Record
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Acceptance,
    Admission,
    Invitation,
    JobsRecord,
    MemberEntry,
    Members,
    Receipt,
    Sealed,
    Snapshot,
)

VERSIONS = range(1, len(schema.MIGRATIONS) + 1)
ENDED = save_job(1).job
SEED = own_seed(1)
SEED_DATA = encode(store_writes.SeedData(SEED.seed, SEED.items))
RECEIPT = sealed(Receipt(NETWORK, JOB, ALICE, BOB, 1, 1, 10, 15, 3), ALICE)
SNAPSHOT = sealed(Snapshot(NETWORK, ALICE, "any", 1, 3, ()), ALICE)
PAGE = sealed(Members(NETWORK, CAROL, BOB[0] >> 4, 1, 3, (MemberEntry(BOB, "b", True),)), CAROL)
KEY = PeerId(sha256(b"an invitation's key"))
OWN_JOBS = sealed(JobsRecord(NETWORK, ALICE, 1, 3, 4, ()), ALICE)


def acceptance(who: PeerId) -> Sealed:
    invitation = sealed(Invitation(NETWORK, CAROL, KEY, "", 1, 3, 4), CAROL)
    shown = sealed(Admission(NETWORK, KEY, who, invitation), KEY)
    return sealed(Acceptance(NETWORK, BOB, 3, shown), BOB)


# What a node of each version wrote into the tables that were new in it.
Row = tuple[str, Sequence[Any]]
FIRST: list[Row] = [
    ("INSERT INTO node VALUES ('incarnation', ?)", (41,)),
    ("INSERT INTO jobs (number, job, manifest, own) VALUES (1, ?, ?, 1)",
     (JOB, encode(manifest()))),
    ("INSERT INTO jobs (number, job, manifest, own, state, closure)"
     " VALUES (2, ?, ?, 0, 'completed', ?)",
     (ENDED, encode(manifest(1)), encode(closure(ENDED, True)))),
    ("INSERT INTO peers VALUES (1, ?), (2, ?)", (BOB, CAROL)),
    *[("INSERT INTO frames (job, author, incarnation, sequence, sealed) VALUES (1, 1, 7, ?, ?)",
       (number, encode(frame(number)))) for number in range(3)],
    ("INSERT INTO units VALUES (1, 5, 'failed', ?)", (b"too slow",)),
    ("INSERT INTO addresses (peer, address, useful_ms) VALUES (?, '/ip4/192.0.2.1/tcp/1', 9)",
     (BOB,)),
]  # fmt: skip
JUDGED: list[Row] = [("INSERT INTO judgements VALUES (1, 5, 1, 1)", ()),
                     ("INSERT INTO judgements VALUES (2, 6, 2, 0)", ())]  # fmt: skip
MOVED: list[Row] = [
    ("INSERT INTO moves (job, unit, peer, kind) VALUES (1, 5, 1, 'matched')", ()),
    ("INSERT INTO moves (job, unit, peer, kind) VALUES (2, 6, 2, 'contradicted')", ()),
    ("INSERT INTO records VALUES ('any', 2, 0, 1, 0, 0)", ()),
    ("INSERT INTO proofs VALUES (2, ?, ?)", (encode(frame(0)), encode(frame(1)))),
    ("INSERT INTO seeds (job, seed_hash, data) VALUES (1, ?, ?)", (SEED.seed_hash, SEED_DATA)),
    ("INSERT INTO snapshots (job, hash, sealed) VALUES (1, ?, ?)",
     (SNAPSHOT.hash, encode(SNAPSHOT))),
]  # fmt: skip
ADDED: dict[int, list[Row]] = {
    1: FIRST,
    2: [("INSERT INTO requirement VALUES (1, ?)", (encode(save_requirement(4).requirement),))],
    3: MOVED,
    4: [("INSERT INTO earnings VALUES (1, 5, 1, 15)", ()),
        ("INSERT INTO receipts VALUES (1, 1, 1, ?)", (encode(RECEIPT),))],
    5: [("UPDATE jobs SET poisoned = 1 WHERE number = 2", ())],
    6: [("INSERT INTO withdrawn VALUES (1, 5, 1, 0)", ())],
    7: [("INSERT INTO members VALUES (?, ?)", (BOB[0] >> 4, encode(PAGE))),
        ("INSERT INTO acceptances (key, peer, sealed) VALUES (?, ?, ?)",
         (KEY, ALICE, encode(acceptance(ALICE))))],
    8: [("INSERT INTO jobs_records VALUES (?, ?)", (ALICE, encode(OWN_JOBS)))],
    9: [("INSERT INTO frames (job, author, shard, incarnation, sequence, sealed)"
         " VALUES (1, 1, 2, 7, 0, ?)", (encode(frame(3)),))],
}  # fmt: skip


def written_by(version: int, path: Path) -> None:
    kind = dataclasses.replace(schema.STORE, migrations=schema.MIGRATIONS[:version])
    Database.open(path, kind).close()
    rows = [row for number in VERSIONS if number <= version for row in ADDED[number]]
    with closing(sqlite3.connect(path)) as connection:
        for statement, values in rows + (JUDGED if version < 3 else []):
            connection.execute(statement, values)
        connection.commit()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def store(version: int, tmp_path: Path) -> Iterator[SqliteStore]:
    path = tmp_path / "node.sqlite"
    written_by(version, path)
    opened = SqliteStore.open(path)
    yield opened
    opened.close()


def test_every_version_has_sample_rows() -> None:
    assert sorted(ADDED) == list(VERSIONS)


def test_everything_that_an_older_version_wrote_is_found_again(
    store: SqliteStore, version: int
) -> None:
    active, ended = store.jobs()
    assert (active.job, active.manifest, active.own, active.state) == (
        JOB, manifest(), True, "active",
    )  # fmt: skip
    assert (ended.job, ended.state, ended.closure) == (ENDED, "completed", closure(ENDED, True))
    assert (active.poisoned, ended.poisoned) == (False, version >= 5)
    numbers = range(4 if version >= 9 else 3)
    assert store.frames() == [(JOB, frame(number)) for number in numbers]
    assert store.frame_range(JOB, BOB, 7, 0, 9) == [frame(number) for number in range(3)]
    assert store.frame_range(JOB, BOB, 7, 0, 9, 2) == ([frame(3)] if version >= 9 else [])
    assert store.units(JOB) == [(5, "failed", b"too slow")]
    assert store.load_addresses() == [(BOB, "/ip4/192.0.2.1/tcp/1")]
    assert store.next_incarnation(0) == 42
    assert [(move.unit, move.peer, move.kind) for move in store.moves(JOB)] == [(5, BOB, "matched")]
    assert [line[1:3] for line in store.story(CAROL)] == [(6, "contradicted")]
    assert store.records() == [RecordRow("any", CAROL, Record(0, 1))]
    expected = save_requirement(4).requirement
    assert store.requirement() == (expected if version >= 2 else None)
    assert store.proofs() == ([(CAROL, frame(0), frame(1))] if version >= 3 else [])
    assert store.seeds(JOB) == ([SEED] if version >= 3 else [])
    assert store.snapshots(JOB) == ([SNAPSHOT] if version >= 3 else [])
    assert store.earnings(JOB) == ([Earning(5, BOB, 15)] if version >= 4 else [])
    assert store.receipts(JOB) == ([RECEIPT] if version >= 4 else [])
    withdrawn = store._database.rows("SELECT job, unit, peer, attempt FROM withdrawn")
    assert withdrawn == ([(1, 5, 1, 0)] if version >= 6 else [])
    assert store.members() == ([PAGE] if version >= 7 else [])
    assert store.acceptances() == ([acceptance(ALICE)] if version >= 7 else [])
    assert store.jobs_records() == ([OWN_JOBS] if version >= 8 else [])


def test_what_is_new_can_be_kept_in_a_migrated_store(store: SqliteStore) -> None:
    assert store._database.rows("PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    store.apply([SaveMembers(BOB[0] >> 4, PAGE), SaveAcceptance(KEY, BOB, acceptance(BOB))])
    assert store.members() == [PAGE]
    assert acceptance(BOB) in store.acceptances()
    store.apply([DropAcceptance(KEY, BOB)])
    assert acceptance(BOB) not in store.acceptances()


def test_a_newer_version_is_refused_with_a_sentence_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite"
    written_by(len(schema.MIGRATIONS), path)
    newer = len(schema.MIGRATIONS) + 1
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(P2pfleetError, match="newer p2pfleet") as caught:
        SqliteStore.open(path)
    assert caught.value.code == ExitCode.DAMAGED
    assert "upgrade" in caught.value.advice
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (newer,)
        assert connection.execute("SELECT count(*) FROM frames").fetchone() == (4,)
