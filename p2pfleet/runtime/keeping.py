"""Makes outputs durable before the core hears of them.

Those that are ready together become one pack, which is one wait for the disk. From the moment an
output is on the disk until the core has taken it in, nobody but this node may have it: only the
core knows who else may.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final, NamedTuple

import trio

from p2pfleet.core.errors import DiskTrouble, P2pfleetError
from p2pfleet.core.events import Event, UnitExecuted, UnitUnavailable
from p2pfleet.core.model.ids import Cid, Digest, JobId, cid_from_sha256
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.ports import Packs
from p2pfleet.runtime.disk import DiskWatch

log = logging.getLogger(__name__)

OUTPUTS_AT_ONCE: Final = 64
SALT_BYTES: Final = 32

Submit = Callable[[Event], Awaitable[None]]


class Finished(NamedTuple):
    """A unit that was run: its output bundle, and the milliseconds that it took."""

    job: JobId
    unit: int
    output: bytes
    wall_ms: int


class Keeper:
    """Keeps the outputs of ``jobs`` in work, in the order in which they are handed in.

    ``carry_out`` is ``submit`` that waits until the core has taken the event in. ``unpin`` lets go
    of the blobs of a job that was shut while its outputs were being kept. While the ``disk`` takes
    no more, outputs wait.
    """

    def __init__(
        self,
        packs: Packs,
        jobs: Container[JobId],
        submit: Submit,
        carry_out: Submit,
        unpin: Callable[[JobId], None],
        disk: DiskWatch,
    ) -> None:
        self._disk = disk
        self._packs = packs
        self._jobs = jobs
        self._submit = submit
        self._carry_out = carry_out
        self._unpin = unpin
        self._untold: frozenset[Cid] = frozenset()
        self._send, self._receive = trio.open_memory_channel[Finished](OUTPUTS_AT_ONCE)

    async def hand_in(self, finished: Finished) -> None:
        """Have an output kept and the core told; waits while too many are waiting."""
        await self._send.send(finished)

    def is_untold(self, cid: Cid) -> bool:
        """Whether this is an output of which the core has yet to hear."""
        return cid in self._untold

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            ready = [await self._receive.receive()]
            while len(ready) < OUTPUTS_AT_ONCE:
                try:
                    ready.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            ready = [item for item in ready if item.job in self._jobs]  # the others are shut
            if not ready:
                continue
            try:
                await self._tell(await self._answers(ready))
            finally:
                self._untold = frozenset()
            for job in sorted({item.job for item in ready}):
                if job not in self._jobs:
                    self._unpin(job)

    async def _answers(self, ready: Sequence[Finished]) -> list[Event]:
        """Keep outputs, as soon as the disk takes them; what to tell of them."""
        try:
            digests = await self._stored(ready)
        except P2pfleetError as error:
            log.warning("outputs cannot be kept: %s", error)
            why = str(error)
        except Exception as error:
            log.exception("outputs cannot be kept, for an unforeseen reason")
            why = f"{type(error).__name__}: {error}"
        else:
            return [
                UnitExecuted(item.job, item.unit, digest, len(item.output), item.wall_ms)
                for item, digest in zip(ready, digests, strict=True)
            ]
        return [UnitUnavailable(item.job, item.unit, why[:300]) for item in ready]

    async def _stored(self, ready: Sequence[Finished]) -> list[Digest]:
        while True:
            try:
                return await trio.to_thread.run_sync(self._store, ready)
            except DiskTrouble as error:
                self._disk.report(error)
                await self._disk.room()

    async def _tell(self, events: Sequence[Event]) -> None:
        for event in events[:-1]:
            await self._submit(event)
        await self._carry_out(events[-1])  # when the core has taken in the last, it has all

    def _store(self, ready: Sequence[Finished]) -> list[Digest]:
        """Keep what is not here yet; the digests of all.

        The pack ends in random bytes, so that nobody can ask for it by the name of the whole: not
        even who guesses every output in it may learn from this node that the guess is right.
        """
        digests = [digest_of(item.output) for item in ready]
        cids = [cid_from_sha256(digest) for digest in digests]
        self._untold = frozenset(cids)
        pins: dict[JobId, list[Cid]] = {}
        for item, cid in zip(ready, cids, strict=True):
            pins.setdefault(item.job, []).append(cid)
        for job, wanted in pins.items():
            self._packs.pin(bytes(job), wanted)
        outputs = {cid: item.output for item, cid in zip(ready, cids, strict=True)}
        fresh = [output for cid, output in outputs.items() if not self._packs.has(cid)]
        if fresh:
            self._packs.add_pack([*fresh, secrets.token_bytes(SALT_BYTES)])
        return digests
