"""What people ask of a running node: in its own process, or over the control socket."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
import trio

from p2pfleet import __version__
from p2pfleet.adapters.control.server import Method
from p2pfleet.adapters.network import OpenNetwork
from p2pfleet.adapters.store import FilePacks, SqliteStore
from p2pfleet.config.network_file import NETWORK_FILE, load_network
from p2pfleet.config.node_file import NodeConfig
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.machines.job import FAILURES_KEPT, Ended
from p2pfleet.core.machines.units import Unit
from p2pfleet.core.model.ids import JobId, Millis, PeerId, parse_peer, peer_text
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules.jobs_record import jobs_key
from p2pfleet.core.wire.verified import VerifiedManifest
from p2pfleet.credit import credit_view, export_receipts
from p2pfleet.ports import SandboxReport
from p2pfleet.publishing import Draft, SubmitRequest
from p2pfleet.results import Progress, write_results
from p2pfleet.runtime.clock import SystemClock
from p2pfleet.runtime.closed import opened_pages
from p2pfleet.runtime.disk import DiskWatch
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.jobs_records import opened_record
from p2pfleet.runtime.requirements import opened_requirement
from p2pfleet.runtime.signing import open_sealed
from p2pfleet.runtime.unit_run import UNIT_RUN, decided_unit
from p2pfleet.runtime.views import (
    ban_view,
    ended_view,
    idle_reason,
    job_view,
    peer_view,
    record_view,
    sandbox_view,
    story_view,
    upgrade_reason,
)
from p2pfleet.runtime.workshop import Workshop
from p2pfleet.submitting import Submitter, answer, request_of

CHANGE_DEBOUNCE_S = 0.2


class RunningNode:
    """What the command line (or a program) asks of a node that runs in this process."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        driver: Driver,
        store: SqliteStore,
        packs: FilePacks,
        network: OpenNetwork,
        sandbox: SandboxReport,
        workshop: Workshop,
        prepare_job: Callable[..., Any],
        run_unit: Callable[..., Any],
        clock: SystemClock,
        stop: Callable[[], None],
        disk: DiskWatch,
    ) -> None:
        self._disk = disk
        self._config = config
        self._driver = driver
        self._store = store
        self._packs = packs
        self._network = network
        self._sandbox = sandbox
        self._workshop = workshop
        self._submitter = Submitter(config, driver, packs, clock, prepare_job)
        self._run_unit = run_unit
        self._unit_runs = trio.Lock()
        self._clock = clock
        self._stop = stop
        self._started = time.monotonic()
        self.peer = driver.node.me
        self.addresses = network.addresses

    # ---- jobs --------------------------------------------------------------------------------

    async def submit(
        self, request: SubmitRequest, drafted: Callable[[Draft], None] | None = None
    ) -> JobId:
        """Read, check and publish a job; when this returns the job is durable.

        ``drafted`` hears what the checks found, before the job is published. Raises
        :class:`P2pfleetError` for whatever is wrong with it.
        """
        return await self._submitter.submit(request, drafted)

    def find_job(self, text: str) -> JobId:
        """The job whose id begins with ``text`` (at least 8 digits)."""
        node = self._driver.node
        known = [*node.jobs, *node.ended]
        found = [job for job in known if job.hex().startswith(text.lower())]
        if not found:  # the core remembers only the last that ended
            found = self._store.find_jobs(text.lower())
        if len(text) < 8 or len(found) != 1:
            raise self._unknown(text, ambiguous=len(found) > 1)
        return found[0]

    @staticmethod
    def _unknown(text: str, ambiguous: bool = False) -> P2pfleetError:
        problem = "is ambiguous" if ambiguous else "is not known to this node"
        return P2pfleetError(
            f"The job {text[:80]!r} {problem}.",
            "See `p2pfleet job list`; at least 8 digits of an id are needed.",
            ExitCode.USAGE,
        )

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that this node knows: ended ones, then open ones, each the newest last."""
        node = self._driver.node
        return [self.job(job) for job in [*node.ended, *node.jobs]]

    def job(self, job: JobId) -> dict[str, Any]:
        """One job; its units by state, and why the first failed ones did."""
        node = self._driver.node
        if job in node.jobs:
            return job_view(node, node.jobs[job], self._now())
        return ended_view(node.ended.get(job) or self._ended_long_ago(job))

    def _ended_long_ago(self, job: JobId) -> Ended:
        """What the store still has of a job that the core has forgotten."""
        stored = self._store.job(job)
        if stored is None:
            raise self._unknown(job.hex())
        manifest = open_sealed(stored.manifest)
        assert isinstance(manifest, VerifiedManifest)
        units = self._store.units(job)
        counts = Counter(state for _, state, _ in units if state != "open")
        failed = [
            (unit, detail.decode(errors="replace"))
            for unit, state, detail in units
            if state == "failed"
        ]
        return Ended(
            id=job,
            manifest=manifest.manifest,
            own=stored.own,
            state=stored.state,
            reason="",
            closure=stored.closure,
            counts=dict(counts),
            votes=0,
            volunteers=0,
            lasted_ms=0,
            failures=tuple(failed[:FAILURES_KEPT]),
        )

    async def recall(self) -> None:
        """Take up again whatever jobs of this node's own others still know: its folder may be new.

        Returns once that is asked for, and the DHT was asked for the record of them.
        """
        await self._driver.carry_out(ev.JobsWanted())
        data = await self._network.get_record(jobs_key(self.peer))
        if data is None:
            return
        try:
            record = opened_record(data)
        except Malformed:
            return  # it was judged when it came, so it is our own that is damaged
        await self._driver.carry_out(ev.JobsRecordReceived(self.peer, record))

    def own_jobs(self) -> tuple[list[dict[str, Any]], int]:
        """The jobs of this node's own that are known here; and how many more its record names."""
        node = self._driver.node
        missing = sum(not node.book.knows(job) for job in node.directory.named)
        return [job for job in self.jobs() if job["own"]], missing

    async def cancel(self, job: JobId) -> None:
        """End an own job; what is certified stays."""
        view = self.job(job)
        if not view["own"]:
            raise P2pfleetError(
                "Only its publisher can cancel a job.",
                "Run the command with the publisher's --data-dir.",
                ExitCode.USAGE,
            )
        await self._driver.carry_out(ev.CancelRequested(job))

    async def results(
        self, job: JobId, output: Path, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Write what is decided so far into ``output``; returns the report."""
        view = self.job(job)
        if not view["own"]:
            raise P2pfleetError(
                "This node did not publish that job, so it has no results of it.",
                "Run the command with the publisher's --data-dir.",
                ExitCode.USAGE,
            )
        # The core knows of an outcome a moment before the disk does; what follows reads the disk.
        await self._driver.durable()
        stored = await trio.to_thread.run_sync(self._store.job, job)
        assert stored is not None
        write = partial(
            write_results,
            output,
            stored=stored,
            names=self._submitter.unit_names(job),
            view=view,
            network=self._config.network.parameters,
            store=self._store,
            packs=self._packs,
            progress=progress,
        )
        return await trio.to_thread.run_sync(write)

    async def unit_run(self, job: JobId, number: int) -> dict[str, Any]:
        """Run one unit in the local sandbox and show it; nobody else hears of it.

        One at a time, however many ask. See :func:`p2pfleet.runtime.unit_run.run_unit`.
        """
        node = self._driver.node
        open_job = node.jobs.get(job)
        if open_job is not None:
            manifest, own = open_job.manifest, open_job.own
        else:
            ended = node.ended.get(job) or self._ended_long_ago(job)
            manifest, own = ended.manifest, ended.own
        here = node.membership.present()
        sources = sorted(here, key=lambda peer: peer != manifest.publisher)

        async def fetch(ref: BlobRef) -> None:
            await self._workshop.fetch(UNIT_RUN, ref, sources)

        async with self._unit_runs:
            if open_job is None:
                decided = await trio.to_thread.run_sync(decided_unit, self._store, job, number)
            else:
                unit = open_job.settlement.units.get(number, Unit())
                certificate = unit.certificate
                decided = (unit.state, None if certificate is None else certificate.digest)
            try:
                found: dict[str, Any] = await self._run_unit(
                    job,
                    manifest,
                    number,
                    fetch=fetch,
                    consent=node.consent,
                    own=own,
                    decided=decided,
                )
                return found
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._packs.unpin, UNIT_RUN)

    # ---- the node ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the node is doing, and why not if it does nothing."""
        node = self._driver.node
        now = self._now()
        states = {"active": len(node.jobs)}
        for ended in node.ended.values():
            states[ended.state] = states.get(ended.state, 0) + 1
        resumes = None if node.pause_until is None else max(0, node.pause_until - now)
        process = psutil.Process()
        return {
            "peer": peer_text(node.me),
            "network": {
                "name": self._config.network.parameters.name,
                "id": node.network.hex(),
                "closed": node.roster.closed,
                "member": node.roster.member(node.me),
                "outside": node.roster.outside(node.me),
                "refused": dict(self._network.refused),
            },
            "version": __version__,
            "upgrade": upgrade_reason(node),
            "clock": {"ahead_ms": node.skew.ahead_ms, "warning": node.skew.warning},
            "addresses": list(self._network.addresses),
            "roles": list(node.roles),
            "slots": node.slots,
            "paused": node.still or bool(self._disk.reason),
            "reason": f"paused: {self._disk.reason}" if self._disk.reason else idle_reason(node),
            "resumes_ms": resumes,
            "peers": len(node.membership.present()),
            "jobs": states,
            "executed": node.executed,
            "traffic": msgspec.to_builtins(self._driver.traffic),
            "sandbox": sandbox_view(self._sandbox),
            "limits": {
                "threads": node.slots,
                "memory_mb": self._config.memory_mb,
                "cpu_percent": self._workshop.cpu_percent,
                "disk_mb": self._config.disk_mb,
                "custody_mb": self._config.custody_mb,
                "custody_used_mb": round(node.kept_bytes / 2**20, 1),
                "unit_cpu_s": self._config.unit_cpu_s,
            },
            "uptime_s": round(time.monotonic() - self._started, 1),
            "memory_mb": round(process.memory_info().rss / 2**20, 1),
            "open_files": process.num_fds(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "data_dir": str(self._config.data_dir),
            "pid": os.getpid(),
        }

    def peers(self) -> list[dict[str, Any]]:
        """The peers connected now."""
        return [
            peer_view(self._driver.node, item.peer, item.address) for item in self._network.peers()
        ]

    def bans(self) -> list[dict[str, Any]]:
        """Whom this node refuses now, the newest ban first."""
        return [ban_view(ban) for ban in self._network.bans()]

    def unban(self, who: str) -> None:
        """Lift the ban of a peer (its id) or of an address, and what led to it."""
        subject = who if "." in who or ":" in who else _peer(who)
        if not self._network.unban(subject):
            raise P2pfleetError(
                f"{who[:80]!r} is not banned.", "See `p2pfleet peers --banned`.", ExitCode.USAGE
            )

    def members(self) -> list[dict[str, Any]]:
        """Who belongs to this closed network, and whom its owner removed, as far as is known."""
        roster = self._driver.node.roster
        owner = roster.terms.owner
        rows = [] if owner is None else [(owner, "owner")]
        rows += [(peer, "listed") for peer in roster.entries]
        rows += [(peer, "invited") for peer in roster.named if peer not in roster.entries]
        return [
            {
                "peer": peer_text(peer),
                "name": roster.name(peer),
                "admitted": roster.member(peer),
                "how": how,
            }
            for peer, how in rows
        ]

    async def reload_network(self) -> None:
        """Take in what the data folder's network file says now: the owner's words, nothing else."""
        file = self._config.data_dir / NETWORK_FILE
        network = await trio.to_thread.run_sync(load_network, file)
        if network.id != self._config.network.id:
            raise P2pfleetError(
                f"{file} is another network's now.", "Put the old one back.", ExitCode.USAGE
            )
        if network.requirement is not None:
            asked = await trio.to_thread.run_sync(opened_requirement, network)
            await self._driver.carry_out(ev.RequirementReceived(self.peer, asked))
        for page in await trio.to_thread.run_sync(opened_pages, network):
            await self._driver.carry_out(ev.MembersReceived(self.peer, page))

    def reputation(self, peer: PeerId | None) -> list[dict[str, Any]]:
        """The record of one peer with its story, or of all that ever moved, the best first."""
        standing = self._driver.node.standing
        if peer is not None:
            events = story_view(self._store.story(peer))
            return [{**record_view(standing, peer), "events": events}]
        views = [record_view(standing, known) for known in standing.peers()]
        return sorted(views, key=lambda view: (-view["score"], view["peer"]))

    async def credit(self, publishers: Sequence[PeerId] = ()) -> dict[str, Any]:
        """What receipts say: earned by this node, and owed for its own jobs; by publisher."""
        await self._driver.durable()
        return await trio.to_thread.run_sync(credit_view, self._store, self.peer, publishers)

    async def export_credit(self, file: Path, publishers: Sequence[PeerId] = ()) -> int:
        """Write the signed receipts to ``file``; returns how many."""
        await self._driver.durable()
        return await trio.to_thread.run_sync(export_receipts, self._store, file, publishers)

    async def pause(self, for_ms: int | None) -> None:
        """Stop computing, until resumed or for so long."""
        await self._driver.carry_out(ev.PauseRequested(for_ms))

    async def resume(self) -> None:
        """Go on computing."""
        await self._driver.carry_out(ev.ResumeRequested())

    async def wait_changed(self) -> None:
        """Return when something may have changed, at most five times a second."""
        await self._driver.changed()
        await trio.sleep(CHANGE_DEBOUNCE_S)

    def stop(self) -> None:
        """End the node: the body of its ``async with`` is cancelled, quietly.

        Unlike a cancellation from outside, it gives the node's claims back first.
        """
        self._stop()

    def _now(self) -> Millis:
        return Millis(self._clock.monotonic_ms())

    # ---- the control socket ------------------------------------------------------------------

    def methods(self) -> dict[str, Method]:
        """What the control socket answers."""

        async def ping(_: Mapping[str, Any]) -> Any:
            return {"peer": peer_text(self.peer), "pid": os.getpid()}

        async def status(_: Mapping[str, Any]) -> Any:
            view = self.status()
            # In a thread: whoever writes to the disk right now may hold this up.
            used = await trio.to_thread.run_sync(lambda: self._packs.used_bytes)
            view["limits"]["disk_used_mb"] = round(used / 2**20, 1)
            return view

        async def peers(_: Mapping[str, Any]) -> Any:
            return self.peers()

        async def bans(_: Mapping[str, Any]) -> Any:
            return self.bans()

        async def unban(params: Mapping[str, Any]) -> Any:
            self.unban(_text(params, "who"))
            return {}

        async def members(_: Mapping[str, Any]) -> Any:
            return self.members()

        async def reload_network(_: Mapping[str, Any]) -> Any:
            await self.reload_network()
            return {}

        async def jobs(_: Mapping[str, Any]) -> Any:
            views = self.jobs()
            await self._driver.durable()
            return views

        async def job(params: Mapping[str, Any]) -> Any:
            view = self.job(self.find_job(_text(params, "job")))
            await self._driver.durable()
            return view

        async def cancel(params: Mapping[str, Any]) -> Any:
            await self.cancel(self.find_job(_text(params, "job")))
            return {}

        async def recall(_: Mapping[str, Any]) -> Any:
            await self.recall()
            return {}

        async def results(params: Mapping[str, Any]) -> Any:
            found = self.find_job(_text(params, "job"))
            return await self.results(found, Path(_text(params, "output")))

        async def submit(params: Mapping[str, Any]) -> Any:
            drafts: list[Draft] = []
            job = await self.submit(request_of(params), drafts.append)
            return answer(job, drafts)

        async def unit_run(params: Mapping[str, Any]) -> Any:
            number = params.get("unit")
            if not isinstance(number, int):
                raise P2pfleetError("'unit' is missing.", "See p2pfleet --help.", ExitCode.USAGE)
            return await self.unit_run(self.find_job(_text(params, "job")), number)

        async def reputation(params: Mapping[str, Any]) -> Any:
            if params.get("peer") is None:
                return self.reputation(None)
            return self.reputation(_peer(_text(params, "peer")))

        async def credit(params: Mapping[str, Any]) -> Any:
            named = params.get("publishers", [])
            if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
                raise P2pfleetError(
                    "'publishers' is no list of peer ids.", "See p2pfleet --help.", ExitCode.USAGE
                )
            publishers = [_peer(each) for each in named]
            if params.get("export") is None:
                return await self.credit(publishers)
            file = Path(_text(params, "export"))
            return {"exported": await self.export_credit(file, publishers)}

        async def pause(params: Mapping[str, Any]) -> Any:
            for_ms = params.get("for_ms")
            if for_ms is not None and (not isinstance(for_ms, int) or for_ms <= 0):
                raise P2pfleetError("A pause lasts a positive time.", "Say for instance 2h.")
            await self.pause(for_ms)
            return {}

        async def resume(_: Mapping[str, Any]) -> Any:
            await self.resume()
            return {}

        async def stop(_: Mapping[str, Any]) -> Any:
            self.stop()
            return {}

        return {
            method.__name__: method
            for method in (
                ping, status, peers, jobs, job, cancel, recall, results, submit, unit_run,
                reputation, credit, pause, resume, stop, members, reload_network, bans,
                unban,
            )
        }  # fmt: skip


def _peer(text: str) -> PeerId:
    try:
        return parse_peer(text)
    except Malformed as error:
        raise P2pfleetError(
            f"{text[:80]!r} is not a peer id: {error}.", "See `p2pfleet peers`.", ExitCode.USAGE
        ) from error


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    if not isinstance(value, str):
        raise P2pfleetError(f"{key!r} is missing.", "See p2pfleet --help.", ExitCode.USAGE)
    return value
