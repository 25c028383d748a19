"""The workshop answers every order to run a unit, and orders that follow on its answer as well."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.effects import Execute, OpenJob, SetPaused
from p2pfleet.core.events import Event, JobOpened, UnitExecuted, UnitFaulted
from p2pfleet.core.model.ids import Digest, JobId, NetworkId, PeerId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, UnitInput, UnitTable
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.ports import BlobNotFound, ExecutionFault, PartialBlob
from p2pfleet.runtime.workshop import Workshop
from tests.runtime.fake_sandbox import LIMITS, FakeSandbox

JOB = JobId(b"\7" * 32)
MODEL = b"a model, as far as the node knows"
INPUT = b"an input"


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(10):
                await test(**fixtures)

        trio.run(main)

    return run


class NoPeers:
    """Nobody has anything."""

    async def fetch(self, partial: PartialBlob, sources: object) -> PeerId:
        raise BlobNotFound("nobody is here")


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[FilePacks]:
    found = FilePacks(tmp_path / "packs", 2**26)
    yield found
    found.close()


def job_of_one_unit(packs: FilePacks) -> Manifest:
    """All its blobs are here."""
    unit = UnitInput(0, 0, len(INPUT), Digest(sha256(INPUT)))
    table = encode(UnitTable((cid_of(INPUT),), (unit,)))
    for blob in (MODEL, INPUT, table):
        packs.add(blob)
    return Manifest(
        network=NetworkId(b"\1" * 32),
        publisher=PeerId(b"\2" * 32),
        name="one unit",
        model=cid_of(MODEL),
        model_bytes=len(MODEL),
        table=cid_of(table),
        table_bytes=len(table),
        units=1,
        total_bytes=len(INPUT),
        limits=LIMITS,
        comparison=Exact(),
        stop=FixedQuorum(1, 3),
        shards=1,
        lease_ms=30_000,
        issued_ms=1,
        expires_ms=10**12,
        salt=b"\3" * 16,
    )


@guarded
async def test_a_unit_that_is_wanted_again_as_soon_as_it_failed_is_run_again(
    packs: FilePacks,
) -> None:
    """The core says so while the workshop is still telling it of the failure."""
    sandbox = FakeSandbox()
    sandbox.unit_fault = ExecutionFault("crash", "it fell over")
    answers: list[Event] = []
    enough = trio.Event()

    async def submit(event: Event) -> None:
        answers.append(event)
        if isinstance(event, JobOpened) or (isinstance(event, UnitFaulted) and len(answers) < 5):
            workshop.act(Execute(JOB, 0, ()))
        if len(answers) == 5:
            enough.set()
        await trio.lowlevel.checkpoint()

    workshop = Workshop(packs=packs, bulk=NoPeers(), sandbox=sandbox, submit=submit, slots=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(workshop.run)
        workshop.act(OpenJob(JOB, job_of_one_unit(packs), ()))
        await enough.wait()
        nursery.cancel_scope.cancel()

    assert [type(event) for event in answers[1:]] == [UnitFaulted] * 4
    assert all(child.dead for child in sandbox.started)


@guarded
async def test_the_time_in_which_the_share_stood_still_counts_for_how_long_units_take(
    packs: FilePacks,
) -> None:
    executed: list[UnitExecuted] = []
    done = trio.Event()

    async def submit(event: Event) -> None:
        if isinstance(event, JobOpened):
            workshop.act(Execute(JOB, 0, ()))
        if isinstance(event, UnitExecuted):
            executed.append(event)
            done.set()

    workshop = Workshop(
        packs=packs, bulk=NoPeers(), sandbox=FakeSandbox(), submit=submit, slots=1, cpu_percent=20
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(workshop.run)
        workshop.act(SetPaused(True))
        workshop.act(OpenJob(JOB, job_of_one_unit(packs), ()))
        workshop.act(SetPaused(False))
        await done.wait()
        assert workshop.cpu_percent == 20
        workshop.set_share(60)
        assert workshop.cpu_percent == 60
        nursery.cancel_scope.cancel()

    assert executed[0].wall_ms == 5, "one millisecond at a fifth of the time"
