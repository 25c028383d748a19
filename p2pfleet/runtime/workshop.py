"""Where the work is done: fetches blobs, feeds children, keeps outputs.

Carries out the core's acts on jobs and answers with events. Inputs are fetched while other units
compute; outputs are durable before the core hears of them. A task that fails in an unforeseen way
becomes the unit's (or job's) bad luck, never the node's end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from p2pfleet.core.effects import (
    Challenge,
    CheckCommitments,
    Compare,
    Execute,
    Fetch,
    MakeCommitments,
    OpenJob,
    SetPaused,
    ShutJob,
    Withdraw,
)
from p2pfleet.core.errors import DiskTrouble, Malformed, P2pfleetError
from p2pfleet.core.events import (
    BlobArrived,
    BlobFailed,
    ChallengeAnswered,
    CommitmentsMade,
    Compared,
    Event,
    JobOpened,
    JobUnavailable,
    UnitFaulted,
    UnitUnavailable,
)
from p2pfleet.core.model.ids import (
    Cid,
    Digest,
    JobId,
    NetworkId,
    PeerId,
    cid_from_sha256,
    cid_sha256,
)
from p2pfleet.core.model.job import BlobRef, UnitTable
from p2pfleet.core.rules.admission import table_fault
from p2pfleet.core.rules.commitment import SEED_BYTES
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.names import MAX_TABLE_BYTES
from p2pfleet.ports import (
    BlobNotFound,
    Bulk,
    ExecutionFault,
    Packs,
    Sandbox,
)
from p2pfleet.runtime.children import Children
from p2pfleet.runtime.disk import DiskWatch
from p2pfleet.runtime.governor import Governor
from p2pfleet.runtime.inputs import Inputs, packs_known
from p2pfleet.runtime.keeping import Finished, Keeper, Submit
from p2pfleet.runtime.outputs import UNAVAILABLE, Outputs, unchecked
from p2pfleet.runtime.samples import UNASKED, Samples

log = logging.getLogger(__name__)

FETCHES_AT_ONCE = 8
GONE = "a blob of the job was here and is gone; it will be fetched again"

Order = (
    OpenJob
    | Execute
    | Withdraw
    | ShutJob
    | SetPaused
    | Fetch
    | Challenge
    | MakeCommitments
    | CheckCommitments
    | Compare
)
ManifestOf = Callable[[JobId], Manifest | None]
Twist = Callable[[bytes], bytes]
"""What a testnet's liar does to an output bundle before it votes for it."""


class _Work:
    """One job in the workshop: its model and inputs, and the units under way."""

    def __init__(self, manifest: Manifest, inputs: Inputs, children: Children, own: bool) -> None:
        self.manifest = manifest
        self.children = children
        self.own = own
        self.inputs = inputs
        self.units: dict[int, trio.CancelScope] = {}
        self.executing: dict[int, trio.CancelScope] = {}


class Workshop:
    """Runs units of all jobs in at most ``slots`` children at once, and besides them, one at a time
    and without a slot, units of jobs that ``me`` published.

    ``sandbox`` is for strangers' models, ``own`` for those of this node's own jobs. ``carry_out``
    is ``submit`` that waits until the core has taken the event in. ``manifest_of`` looks up a job
    that may not be open here; it may block, and is called in threads.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        network: NetworkId,
        packs: Packs,
        bulk: Bulk,
        sandbox: Sandbox,
        own: Sandbox,
        submit: Submit,
        carry_out: Submit,
        manifest_of: ManifestOf,
        slots: int,
        cpu_percent: int = 100,
        twist: Twist | None = None,
        disk: DiskWatch | None = None,
    ) -> None:
        self._me = me
        self._packs = packs
        self._bulk = bulk
        self._submit = submit
        self._manifest_of = manifest_of
        self._twist = twist
        self._governor = Governor(cpu_percent)
        self._children = Children(sandbox, slots, self._governor)
        self._own_children = Children(own, 1, self._governor)
        self._kept = Outputs(packs, bulk, me, network)
        self._samples = Samples(packs, bulk)
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)
        self._work: dict[JobId, _Work] = {}
        self._scopes: dict[JobId, list[trio.CancelScope]] = {}
        self._leaving: set[JobId] = set()
        self._nursery: trio.Nursery | None = None
        self._disk = disk or DiskWatch()
        self._keeper = Keeper(packs, self._work.keys(), submit, carry_out, self._unpin, self._disk)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; ends every child."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._keeper.run)
                nursery.start_soon(self._governor.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._children.close()
            self._own_children.close()

    @property
    def cpu_percent(self) -> int:
        """The share of the time in which children compute now."""
        return self._governor.percent

    def set_share(self, percent: int) -> None:
        """Let children compute ``percent`` (1 to 100) of the time from now on."""
        self._governor.set_share(percent)

    def is_untold(self, cid: Cid) -> bool:
        """Whether this is an output that is kept already, but of which the core has yet to hear.

        Until then the core cannot say who may have it: nobody may.
        """
        return self._keeper.is_untold(cid)

    def act(self, effect: Order) -> None:
        """Begin one act; returns at once."""
        assert self._nursery is not None
        match effect:
            case OpenJob(job=job):
                self._start(
                    job,
                    partial(self._open, effect),
                    lambda why: [JobUnavailable(job, why, final=True)],
                )
            case Execute(job=job, unit=unit):
                self._execute(job, unit, effect.sources)
            case Withdraw(job=job):
                self._withdraw(effect)
            case ShutJob(job=job, keep=keep):
                self._shut(job, keep)
            case SetPaused(paused=paused):
                self._children.set_paused(paused)
                self._own_children.set_paused(paused)
            case Fetch(job=job):
                self._start(
                    job,
                    partial(self._fetch, effect),
                    lambda why: [BlobFailed(job, effect.ref, why)],
                )
            case Challenge(job=job):
                ask = partial(self._samples.ask, effect)
                lost = ChallengeAnswered(job, effect.digest, effect.peer, UNASKED)
                self._start(job, partial(self._answer, ask), lambda why: [lost])
            case MakeCommitments(job=job, items=items):
                self._start(
                    job,
                    partial(self._answer, partial(self._kept.commit, effect)),
                    lambda why: [
                        CommitmentsMade(job, bytes(SEED_BYTES), (), ()),
                        *(UnitUnavailable(job, item.unit, why) for item in items),
                    ],
                )
            case CheckCommitments(job=job):
                check = partial(self._kept.check, effect)
                self._start(job, partial(self._answer, check), lambda why: [unchecked(effect)])
            case Compare(job=job):
                self._start(
                    job,
                    partial(self._compare, effect),
                    lambda why: [compared(effect, UNAVAILABLE)],
                )

    def _start(
        self,
        job: JobId,
        work: Callable[[], Awaitable[None]],
        failed: Callable[[str], Sequence[Event]],
    ) -> trio.CancelScope:
        """Run ``work`` for a job, to be cancelled when the job is shut.

        ``failed`` makes the events that tell the core of a failure that nobody foresaw.
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
                for event in failed(f"{type(error).__name__}: {error}"[:300]):
                    await self._submit(event)
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
        own = manifest.publisher == self._me
        children = self._own_children if own else self._children
        self._work[effect.job] = _Work(manifest, inputs, children, own)
        packs = await trio.to_thread.run_sync(packs_known, effect.job, manifest, units)
        await self._submit(packs)
        await self._submit(JobOpened(effect.job))

    async def fetch(self, job: JobId, ref: BlobRef, sources: Sequence[PeerId]) -> None:
        """Have a range durably here, pinned for the job. Raises BlobNotFound, P2pfleetError."""
        try:
            await self._have(job, ref, sources)
        except DiskTrouble as error:
            self._disk.report(error)
            raise

    async def _have(self, job: JobId, ref: BlobRef, sources: Sequence[PeerId]) -> None:
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

    # ---- kept outputs ------------------------------------------------------------------------

    async def _answer(self, ask: Callable[[], Awaitable[list[Event]]]) -> None:
        for event in await ask():
            await self._submit(event)

    async def _compare(self, effect: Compare) -> None:
        verdict = UNAVAILABLE
        manifest = await self._manifest(effect.job)
        if manifest is not None and effect.candidate.length <= manifest.limits.output_bytes:
            verdict = await self._kept.compare(effect, manifest.comparison)
        await self._submit(compared(effect, verdict))

    async def _manifest(self, job: JobId) -> Manifest | None:
        work = self._work.get(job)
        if work is not None:
            return work.manifest
        return await trio.to_thread.run_sync(self._manifest_of, job)

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

        scope = self._start(job, run, lambda why: [UnitUnavailable(job, unit, why)])
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
            async with work.children.child(job, model, manifest.limits) as child:
                work.executing[unit] = scope
                execution = await child.execute(data)
            output = execution.outputs
            if self._twist is not None and not work.own:
                output = self._twist(output)
            # How long a unit takes here decides how many are claimed at a time, and the time in
            # which the owner's share had the child frozen is part of it.
            wall_ms = execution.wall_ms * 100 // self._governor.percent
            await self._keeper.hand_in(Finished(job, unit, output, wall_ms))
        except ExecutionFault as fault:
            log.info("unit %d of job %s: %s", unit, job.hex()[:8], fault)
            return UnitFaulted(job, unit, fault.kind, fault.reason[:300])
        except (BlobNotFound, P2pfleetError, Malformed) as error:
            log.info("unit %d of job %s: %s", unit, job.hex()[:8], error)
            return UnitUnavailable(job, unit, str(error)[:300])
        except KeyError:
            return UnitUnavailable(job, unit, GONE)
        return None

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
        for children in (self._children, self._own_children):
            children.end(job)
        if not keep and scopes:
            self._leaving.add(job)  # a thread may be pinning something for it right now
        elif not keep:
            self._unpin(job)

    def _unpin(self, job: JobId) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._let_go, job)

    async def _let_go(self, job: JobId) -> None:
        while True:
            try:
                await trio.to_thread.run_sync(self._packs.unpin, bytes(job))
            except DiskTrouble as error:
                self._disk.report(error)
                await self._disk.room()
            except P2pfleetError as error:
                log.warning("the blobs of job %s stay pinned: %s", job.hex()[:8], error)
                return
            else:
                return


def compared(effect: Compare, verdict: str) -> Compared:
    """The answer to an effect."""
    digest = Digest(effect.candidate.sha256)
    return Compared(effect.job, effect.unit, digest, effect.own, verdict)


def checked_table(raw: bytes, manifest: Manifest) -> UnitTable:
    """The unit table, if it fits the manifest. Raises :class:`Malformed`."""
    table: UnitTable = decode(raw, UnitTable, MAX_TABLE_BYTES)
    fault = table_fault(table, manifest)
    if fault is not None:
        raise Malformed(fault)
    return table
