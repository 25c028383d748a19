"""A workshop on a bench: real packs, fake sandboxes, and whatever it answers in a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from p2pfleet.adapters.store import FilePacks
from p2pfleet.core.effects import OpenJob
from p2pfleet.core.events import Event, InputsKnown, JobOpened
from p2pfleet.core.model.ids import Digest, JobId, NetworkId, PeerId, cid_of, sha256
from p2pfleet.core.model.job import BlobRef, Exact, FixedQuorum, UnitInput, UnitTable
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.ports import BlobNotFound, PartialBlob
from p2pfleet.runtime.workshop import Workshop
from tests.runtime.fake_sandbox import LIMITS, FakeSandbox

JOB = JobId(b"\7" * 32)
ME = PeerId(b"\5" * 32)
PUBLISHER = PeerId(b"\2" * 32)
NETWORK = NetworkId(b"\1" * 32)
MODEL = b"a model, as far as the node knows"
T = TypeVar("T")


class Peers:
    """Who has blobs to give: those of ``shelf``; ``silent`` ones never finish."""

    def __init__(self, shelf: tuple[bytes, ...] = ()) -> None:
        self.shelf = {sha256(data): data for data in shelf}
        self.silent: set[bytes] = set()
        self.asked: list[bytes] = []
        self.was_asked = trio.Event()
        self.failure: Exception | None = None
        self.on_fetch: Callable[[], None] = lambda: None

    async def fetch(self, partial: PartialBlob, sources: object) -> PeerId:
        digest = partial.ref.sha256
        self.asked.append(digest)
        self.was_asked.set()
        self.on_fetch()
        if digest in self.silent:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        if digest not in self.shelf:
            raise BlobNotFound("nobody is here")
        await trio.to_thread.run_sync(partial.write, self.shelf[digest])
        if not await trio.to_thread.run_sync(partial.finish):
            raise BlobNotFound("it was wrong")
        return PUBLISHER


class Bench:
    """The workshop and what it said so far."""

    def __init__(self, packs: FilePacks, *, peers: Peers | None = None, **options: Any) -> None:
        self.packs = packs
        self.peers = peers or Peers()
        self.sandbox, self.own = FakeSandbox(), FakeSandbox()
        self.known: dict[JobId, Manifest] = {}
        self.carry_out: Callable[[Event], Awaitable[None]] = self._take
        self._send, self.answers = trio.open_memory_channel[Event](1000)
        self.workshop = Workshop(
            me=ME,
            network=NETWORK,
            packs=packs,
            bulk=self.peers,
            sandbox=self.sandbox,
            own=self.own,
            submit=self._take,
            carry_out=self._told,
            manifest_of=self.known.get,
            **{"slots": 1, **options},
        )
        self.act = self.workshop.act

    async def _take(self, event: Event) -> None:
        await self._send.send(event)

    async def _told(self, event: Event) -> None:
        await self.carry_out(event)

    async def next(self, kind: type[T]) -> T:
        """The next answer, which is of this kind."""
        event = await self.answers.receive()
        assert isinstance(event, kind), event
        return event

    def quiet(self) -> bool:
        """Whether it said nothing more."""
        return self.answers.statistics().current_buffer_used == 0

    async def open(self, manifest: Manifest, job: JobId = JOB) -> None:
        """Open a job whose blobs are here."""
        self.act(OpenJob(job, manifest, ()))
        assert (await self.next(InputsKnown)).job == job
        assert await self.next(JobOpened) == JobOpened(job)


@asynccontextmanager
async def bench(packs: FilePacks, **options: Any) -> AsyncIterator[Bench]:
    """A workshop that runs for as long as the context lasts."""
    found = Bench(packs, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.workshop.run)
        yield found
        nursery.cancel_scope.cancel()


def job_of(packs: FilePacks, *inputs: bytes, **changes: Any) -> Manifest:
    """A job with these inputs, all of whose blobs are here."""
    units, offset = [], 0
    for data in inputs:
        units.append(UnitInput(0, offset, len(data), Digest(sha256(data))))
        offset += len(data)
    pack = b"".join(inputs)
    table = encode(UnitTable((cid_of(pack),), tuple(units)))
    for blob in (MODEL, pack, table):
        packs.add(blob)
    manifest = Manifest(
        network=NETWORK,
        publisher=PUBLISHER,
        name="a few units",
        model=cid_of(MODEL),
        model_bytes=len(MODEL),
        table=cid_of(table),
        table_bytes=len(table),
        units=len(inputs),
        total_bytes=offset,
        limits=LIMITS,
        comparison=Exact(),
        stop=FixedQuorum(1, 3),
        shards=1,
        lease_ms=30_000,
        issued_ms=1,
        expires_ms=10**12,
        salt=b"\3" * 16,
    )
    return msgspec.structs.replace(manifest, **changes)


def ref_to(data: bytes) -> BlobRef:
    """The whole of a blob."""
    return BlobRef(cid_of(data), 0, len(data), sha256(data))
