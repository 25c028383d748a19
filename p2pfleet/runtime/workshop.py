"""Where the work is done: fetches blobs, feeds children, keeps outputs.

Carries out the core's acts on jobs and answers with events. Inputs are fetched while other units
compute; outputs that are ready together become one pack and are durable before the core hears of
them. A task that fails in an unforeseen way becomes the unit's (or job's) bad luck, never the
node's end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from p2pfleet.core.effects import Execute, Fetch, OpenJob, SetPaused, ShutJob, Withdraw
from p2pfleet.core.errors import Malformed, P2pfleetError
from p2pfleet.core.events import (
    BlobArrived,
    BlobFailed,
    Event,
    JobOpened,
    JobUnavailable,
    UnitExecuted,
    UnitFaulted,
    UnitUnavailable,
)
from p2pfleet.core.model.ids import Cid, JobId, PeerId, cid_from_sha256, cid_sha256
from p2pfleet.core.model.job import BlobRef, UnitTable
from p2pfleet.core.rules.admission import table_fault
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.names import MAX_TABLE_BYTES
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.ports import (
    BlobNotFound,
    Bulk,
    Execution,
    ExecutionFault,
    Packs,
    Sandbox,
)
from p2pfleet.runtime.children import Children
from p2pfleet.runtime.governor import Governor
from p2pfleet.runtime.inputs import Inputs

log = logging.getLogger(__name__)

FETCHES_AT_ONCE = 8
OUTPUTS_AT_ONCE = 64
GONE = "a blob of the job was here and is gone; it will be fetched again"

Submit = Callable[[Event], Awaitable[None]]
Twist = Callable[[bytes], bytes]
"""What a testnet's liar does to an output bundle before it votes for it."""


class _Work:
    """One job in the workshop: its model and inputs, and the units under way."""

    def __init__(self, manifest: Manifest, inputs: Inputs) -> None:
        self.manifest = manifest
        self.inputs = inputs
        self.units: dict[int, trio.CancelScope] = {}
        self.executing: dict[int, trio.CancelScope] = {}


class Workshop:
    """Runs units of all jobs in at most ``slots`` children at once."""

    def __init__(
        self,
        *,
        packs: Packs,
        bulk: Bulk,
        sandbox: Sandbox,
        submit: Submit,
        slots: int,
        cpu_percent: int = 100,
        twist: Twist | None = None,
    ) -> None:
        self._packs = packs
        self._bulk = bulk
        self._submit = submit
        self._twist = twist
        self._governor = Governor(cpu_percent)
        self._children = Children(sandbox, slots, self._governor)
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._work: dict[JobId, _Work] = {}
        self._scopes: dict[JobId, list[trio.CancelScope]] = {}
        self._leaving: set[JobId] = set()
        self._nursery: trio.Nursery | None = None
        self._send_outputs, self._outputs = trio.open_memory_channel[tuple[JobId, int, Execution]](
            OUTPUTS_AT_ONCE
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; ends every child."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keep_outputs)
                nursery.start_soon(self._governor.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._children.close()

    @property
    def cpu_percent(self) -> int:
        """The share of the time in which children compute now."""
        return self._governor.percent

    def set_share(self, percent: int) -> None:
        """Let children compute ``percent`` (1 to 100) of the time from now on."""
        self._governor.set_share(percent)

    def act(self, effect: OpenJob | Execute | Withdraw | ShutJob | SetPaused | Fetch) -> None:
        """Begin one act; returns at once."""
        assert self._nursery is not None
        match effect:
            case OpenJob(job=job):
                self._start(
                    job,
                    partial(self._open, effect),
                    lambda why: JobUnavailable(job, why, final=True),
                )
            case Execute(job=job, unit=unit):
                self._execute(job, unit, effect.sources)
            case Withdraw(job=job):
                self._withdraw(effect)
            case ShutJob(job=job, keep=keep):
                self._shut(job, keep)
            case SetPaused(paused=paused):
                self._children.set_paused(paused)
            case Fetch(job=job):
                self._start(
                    job, partial(self._fetch, effect), lambda why: BlobFailed(job, effect.ref, why)
                )

    def _start(
        self, job: JobId, work: Callable[[], Awaitable[None]], failed: Callable[[str], Event]
    ) -> trio.CancelScope:
        """Run ``work`` for a job, to be cancelled when the job is shut.

        ``failed`` makes the event that tells the core of a failure that nobody foresaw.
        """
        assert self._nursery is not None
        scope = trio.CancelScope()
        scopes = self._scopes.setdefault(job, [])
        scopes.append(scope)

        async def run() -> None:
            try:
                with scope:
                    await work()
            except Exception as error:
                log.exception("work on job %s failed in an unforeseen way", job.hex()[:8])
                await self._submit(failed(f"{type(error).__name__}: {error}"[:300]))
            finally:
                scopes.remove(scope)
                if not scopes and self._scopes.get(job) is scopes:
                    del self._scopes[job]
                if not scopes and job in self._leaving:
                    self._leaving.discard(job)
                    self._unpin(job)

        self._nursery.start_soon(run)
        return scope

    # ---- opening a job -----------------------------------------------------------------------

    async def _open(self, effect: OpenJob) -> None:
        manifest = effect.manifest
        model = BlobRef(manifest.model, 0, manifest.model_bytes, cid_sha256(manifest.model))
        table = BlobRef(manifest.table, 0, manifest.table_bytes, cid_sha256(manifest.table))
        try:
            for ref in (table, model):
                await self.fetch(effect.job, ref, effect.sources)
            raw = await trio.to_thread.run_sync(self._packs.read, manifest.table)
            units = await trio.to_thread.run_sync(checked_table, raw, manifest)
        except (BlobNotFound, P2pfleetError) as error:
            await self._submit(JobUnavailable(effect.job, str(error)[:300], final=False))
            return
        except KeyError:
            await self._submit(JobUnavailable(effect.job, GONE, final=False))
            return
        except Malformed as error:
            why = f"the unit table is malformed: {error}"
            await self._submit(JobUnavailable(effect.job, why, final=True))
            return
        inputs = Inputs(effect.job, units, self._packs, self.fetch)
        self._work[effect.job] = _Work(manifest, inputs)
        await self._submit(JobOpened(effect.job))

    async def fetch(self, job: JobId, ref: BlobRef, sources: Sequence[PeerId]) -> None:
        """Have a range durably here, pinned for the job. Raises BlobNotFound, P2pfleetError."""
        own_cid = cid_from_sha256(ref.sha256)
        # Pinned before it comes, so that it cannot be evicted between arriving and being used.
        await trio.to_thread.run_sync(self._packs.pin, bytes(job), [own_cid])
        if not await trio.to_thread.run_sync(self._packs.has, own_cid):
            async with self._fetches:
                blob = await trio.to_thread.run_sync(self._packs.partial, ref)
                await self._bulk.fetch(blob, sources)

    async def _fetch(self, effect: Fetch) -> None:
        try:
            await self.fetch(effect.job, effect.ref, effect.sources)
        except (BlobNotFound, P2pfleetError) as error:
            log.debug("blob %s: %s", effect.ref.sha256.hex()[:16], error)
            await self._submit(BlobFailed(effect.job, effect.ref, str(error)[:300]))
        else:
            await self._submit(BlobArrived(effect.job, effect.ref))

    # ---- units -------------------------------------------------------------------------------

    def _execute(self, job: JobId, unit: int, sources: tuple[PeerId, ...]) -> None:
        work = self._work.get(job)
        if work is None or unit in work.units:
            return

        async def run() -> None:
            outcome: Event | None = None
            try:
                outcome = await self._run_unit(job, work, unit, sources, scope)
            finally:
                # The unit may have been withdrawn and begun anew since.
                for table in (work.units, work.executing):
                    if table.get(unit) is scope:
                        del table[unit]
            # Only now: the core may want the unit run again as soon as it hears of it.
            if outcome is not None:
                await self._submit(outcome)

        scope = self._start(job, run, lambda why: UnitUnavailable(job, unit, why))
        work.units[unit] = scope

    async def _run_unit(
        self,
        job: JobId,
        work: _Work,
        unit: int,
        sources: tuple[PeerId, ...],
        scope: trio.CancelScope,
    ) -> Event | None:
        """Run a unit and have its output kept; or the event that tells what went wrong."""
        manifest = work.manifest
        try:
            data = await work.inputs.get(unit, sources)
            model = partial(self._packs.read, manifest.model)
            async with self._children.child(job, model, manifest.limits) as child:
                work.executing[unit] = scope
                execution = await child.execute(data)
            await self._send_outputs.send((job, unit, execution))
        except ExecutionFault as fault:
            log.info("unit %d of job %s: %s", unit, job.hex()[:8], fault)
            return UnitFaulted(job, unit, fault.kind, fault.reason[:300])
        except (BlobNotFound, P2pfleetError, Malformed) as error:
            log.info("unit %d of job %s: %s", unit, job.hex()[:8], error)
            return UnitUnavailable(job, unit, str(error)[:300])
        except KeyError:
            return UnitUnavailable(job, unit, GONE)
        return None

    async def _keep_outputs(self) -> None:
        """Make outputs durable, those that wait together in one pack, then tell the core."""
        while True:
            ready = [await self._outputs.receive()]
            while len(ready) < OUTPUTS_AT_ONCE:
                try:
                    ready.append(self._outputs.receive_nowait())
                except trio.WouldBlock:
                    break
            ready = [item for item in ready if item[0] in self._work]  # the others are shut
            if not ready:
                continue
            members = [
                execution.outputs if self._twist is None else self._twist(execution.outputs)
                for _, _, execution in ready
            ]
            try:
                await trio.to_thread.run_sync(self._store_outputs, ready, members)
            except P2pfleetError as error:
                log.warning("outputs cannot be kept: %s", error)
                for job, unit, _ in ready:
                    await self._submit(UnitUnavailable(job, unit, str(error)[:300]))
                continue
            for (job, unit, execution), data in zip(ready, members, strict=True):
                # How long a unit takes here decides how many are claimed at a time, and the time in
                # which the owner's share had the child frozen is part of it.
                wall_ms = execution.wall_ms * 100 // self._governor.percent
                await self._submit(UnitExecuted(job, unit, digest_of(data), len(data), wall_ms))
            for job in {job for job, _, _ in ready} - self._work.keys():
                self._unpin(job)  # it was shut while its outputs were being kept

    def _store_outputs(
        self, ready: Sequence[tuple[JobId, int, Execution]], members: Sequence[bytes]
    ) -> None:
        pins: dict[JobId, list[Cid]] = {}
        for (job, _, _), data in zip(ready, members, strict=True):
            pins.setdefault(job, []).append(cid_from_sha256(digest_of(data)))
        for job, cids in pins.items():
            self._packs.pin(bytes(job), cids)
        self._packs.add_pack(members)

    def _withdraw(self, effect: Withdraw) -> None:
        work = self._work.get(effect.job)
        if work is None:
            return
        for unit in effect.units:
            scope = work.units.get(unit)
            if scope is not None and (effect.kill or unit not in work.executing):
                scope.cancel()
                work.units.pop(unit, None)

    def _shut(self, job: JobId, keep: bool) -> None:
        scopes = self._scopes.pop(job, [])
        for scope in scopes:
            scope.cancel()
        self._work.pop(job, None)
        self._children.end(job)
        if not keep and scopes:
            self._leaving.add(job)  # a thread may be pinning something for it right now
        elif not keep:
            self._unpin(job)

    def _unpin(self, job: JobId) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(trio.to_thread.run_sync, self._packs.unpin, bytes(job))


def checked_table(raw: bytes, manifest: Manifest) -> UnitTable:
    """The unit table, if it fits the manifest. Raises :class:`Malformed`."""
    table: UnitTable = decode(raw, UnitTable, MAX_TABLE_BYTES)
    fault = table_fault(table, manifest)
    if fault is not None:
        raise Malformed(fault)
    return table
