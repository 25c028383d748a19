"""Receipts on their way through the runtime: opened, told at a start, and sent from the store."""

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
    Earning,
    SaveEarnings,
    SaveJob,
    SaveReceipt,
    SendReceipts,
)
from p2pfleet.core.errors import Malformed, Reject
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import Deliver, Message, Receipt, Sealed
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES, MAX_MESSAGE_BYTES
from p2pfleet.core.wire.verified import VerifiedReceipt
from p2pfleet.ports import Received
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.reception import announcement_validator, interpret
from p2pfleet.runtime.restoration import restore
from p2pfleet.runtime.signing import Signer, open_sealed
from tests.runtime.signed_bodies import (
    BOB,
    CAROL,
    NETWORK,
    NETWORK_FILE,
    PAULA,
    WALL_MS,
    closure,
    manifest,
)

OWN, FOREIGN = manifest(1), manifest(2, publisher=CAROL)
OWN_JOB, FOREIGN_JOB = JobId(OWN.hash), JobId(FOREIGN.hash)


def receipt(
    peer: Signer = BOB, job: JobId = OWN_JOB, publisher: Signer = PAULA, number: int = 0
) -> Sealed:
    units = number + 1
    body = Receipt(NETWORK, job, publisher.peer, peer.peer, number, units, units, units, WALL_MS)
    return publisher.seal(body)


class StandingClock:
    def monotonic_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return WALL_MS


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(10):
                await test(**fixtures)

        trio.run(main)

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore.open(tmp_path / "node.sqlite")
    opened.apply([SaveJob(OWN_JOB, OWN, own=True), SaveJob(FOREIGN_JOB, FOREIGN, own=False)])
    yield opened
    opened.close()


async def told(store: SqliteStore, notes: Path) -> dict[JobId, ev.JobRestored]:
    jobs: dict[JobId, ev.JobRestored] = {}

    async def submit(event: ev.Event) -> None:
        if isinstance(event, ev.JobRestored):
            jobs[event.manifest.job] = event

    await restore(submit, store, NETWORK_FILE, PAULA.peer, notes)
    return jobs


def test_a_receipt_is_heard_as_what_its_publisher_signed() -> None:
    event = interpret(Received(CAROL.peer, encode(Deliver(receipt()))), NETWORK)

    assert isinstance(event, ev.ReceiptReceived)
    assert event.source == CAROL.peer
    assert event.receipt == open_sealed(receipt())
    assert PAULA.signed(event.receipt.receipt) == event.receipt


def test_a_receipt_that_its_publisher_did_not_sign_is_malformed() -> None:
    opened = open_sealed(receipt())
    assert isinstance(opened, VerifiedReceipt)
    forged = msgspec.structs.replace(receipt(), signature=bytes(64))
    for wrong, why in ((BOB.seal(opened.receipt), "somebody else"), (forged, "signature")):
        with pytest.raises(Malformed, match=why):
            open_sealed(wrong)
        assert isinstance(interpret(Received(CAROL.peer, encode(Deliver(wrong))), NETWORK), tuple)


def test_receipts_are_not_gossiped_and_fit_where_they_travel() -> None:
    data = encode(receipt())
    assert len(data) < MAX_ANNOUNCEMENT_BYTES
    validate = announcement_validator(NETWORK_FILE.terms, StandingClock())
    assert validate(CAROL.peer, data) == Reject("neither a manifest nor a closure")


@guarded
async def test_a_start_tells_what_is_owed_and_what_is_held(
    store: SqliteStore, tmp_path: Path
) -> None:
    held = receipt(PAULA, FOREIGN_JOB, CAROL, number=3)
    earned = (Earning(1, BOB.peer, 7), Earning(2, BOB.peer, 9))
    store.apply([SaveEarnings(OWN_JOB, earned), SaveReceipt(OWN_JOB, receipt())])
    store.apply([SaveReceipt(FOREIGN_JOB, held)])

    jobs = await told(store, tmp_path)

    assert jobs[OWN_JOB].earnings == earned
    assert [each.sealed for each in jobs[OWN_JOB].receipts] == [receipt()]
    assert jobs[FOREIGN_JOB].earnings == ()
    assert [each.sealed for each in jobs[FOREIGN_JOB].receipts] == [held]


@guarded
async def test_of_jobs_that_ended_only_what_one_holds_oneself_is_told(
    store: SqliteStore, tmp_path: Path
) -> None:
    held = receipt(PAULA, FOREIGN_JOB, CAROL)
    store.apply([SaveReceipt(OWN_JOB, receipt()), SaveReceipt(FOREIGN_JOB, held)])
    store.apply([SaveEarnings(OWN_JOB, (Earning(1, BOB.peer, 7),))])
    store.apply([CloseJob(OWN_JOB, "completed", closure(OWN_JOB))])
    store.apply([CloseJob(FOREIGN_JOB, "expired", None)])

    jobs = await told(store, tmp_path)

    assert (jobs[OWN_JOB].earnings, jobs[OWN_JOB].receipts) == ((), ())
    assert [each.sealed for each in jobs[FOREIGN_JOB].receipts] == [held]


@guarded
async def test_a_receipt_that_no_longer_opens_is_left_out_and_logged(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unsigned = msgspec.structs.replace(receipt(), signature=bytes(64))
    store.apply([SaveReceipt(OWN_JOB, unsigned), SaveReceipt(OWN_JOB, receipt(CAROL))])

    jobs = await told(store, tmp_path)

    assert [each.sealed for each in jobs[OWN_JOB].receipts] == [receipt(CAROL)]
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "receipt in the store is damaged" in warnings[0].getMessage()


class RecordingNetwork:
    """Takes messages, and says when as many are here as are waited for."""

    def __init__(self, wanted: int) -> None:
        self.sent: list[tuple[PeerId, bytes]] = []
        self.wanted, self.enough = wanted, trio.Event()

    async def send(self, peer: PeerId, data: bytes) -> None:
        self.sent.append((peer, data))
        if len(self.sent) >= self.wanted:
            self.enough.set()


@guarded
async def test_stored_receipts_are_sent_to_the_peer_that_they_are_for(store: SqliteStore) -> None:
    store.apply([SaveReceipt(OWN_JOB, receipt()), SaveReceipt(OWN_JOB, receipt(CAROL))])
    network = RecordingNetwork(1)
    node = Node.create(PAULA.peer, NETWORK, 0, (), Consent(Capability("A", b"", "1.32.0")))
    driver = Driver(
        node,
        store=store,
        network=network,  # type: ignore[arg-type]
        workshop=None,  # type: ignore[arg-type]
        signer=PAULA,
        clock=StandingClock(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        driver._act(SendReceipts(BOB.peer, 9), nursery)
        await network.enough.wait()
        nursery.cancel_scope.cancel()

    (sent,) = network.sent
    assert sent == (BOB.peer, encode(Deliver(receipt())))
    assert decode(sent[1], Message, MAX_MESSAGE_BYTES) == Deliver(receipt())
