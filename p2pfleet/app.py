"""A whole node: the only place where the adapters meet the driver.

async with open_node(config) as node:
    job = await node.submit(request)
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import trio

from p2pfleet import __version__
from p2pfleet.adapters.control.server import serve_control
from p2pfleet.adapters.network import NetworkConfig, open_network
from p2pfleet.adapters.sandbox import SandboxConfig, open_executors
from p2pfleet.adapters.store import (
    BanFile,
    FilePacks,
    SqliteStore,
    load_or_create_identity,
    lock_data_dir,
)
from p2pfleet.config.node_file import NodeConfig
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Cid, JobId, PeerId, parse_peer
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.tensors import decode_bundle, encode_bundle
from p2pfleet.core.wire.verified import VerifiedAdmission, VerifiedManifest
from p2pfleet.publishing import SubmitRequest, prepare
from p2pfleet.running import RunningNode
from p2pfleet.runtime.clock import SystemClock, watch_clock
from p2pfleet.runtime.closed import ADMISSION_FILE, opened_pages, read_admission
from p2pfleet.runtime.disk import DiskWatch
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.gate import RosterGate, shown_by
from p2pfleet.runtime.inputs import packs_known
from p2pfleet.runtime.jobs_records import JobsRecords
from p2pfleet.runtime.reception import announcement_validator, receive
from p2pfleet.runtime.recording import Recorder
from p2pfleet.runtime.requirements import opened_requirement
from p2pfleet.runtime.restoration import restore
from p2pfleet.runtime.signing import Signer, open_sealed
from p2pfleet.runtime.unit_run import run_unit
from p2pfleet.runtime.workshop import Workshop, checked_table
from p2pfleet.submitting import SUBMITTED

STOP_S = 1.5
M_ARENA_MAX = -8  # malloc.h


def flip(bundle: bytes) -> bytes:
    """What a testnet's liar answers: the right names and shapes, every byte of data inverted."""
    tensors = decode_bundle(bundle, len(bundle))
    return encode_bundle(
        tuple(
            msgspec.structs.replace(
                tensor,
                data=bytes(
                    value ^ (1 if tensor.dtype == "bool" else 0xFF) for value in tensor.data
                ),
            )
            for tensor in tensors
        )
    )


def _use_few_arenas() -> None:
    """Let glibc keep two heaps instead of eight a core.

    Blocking work runs in whatever thread is free; with a heap a thread, each ends up holding the
    largest thing that any of them ever did.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 2)


@asynccontextmanager
async def open_node(config: NodeConfig, *, liar: bool = False) -> AsyncIterator[RunningNode]:
    """Run a node for as long as the context lasts.

    ``liar`` makes it vote for wrong outputs; only a testnet's nodes can be told to. Raises
    :class:`P2pfleetError` when the data folder, the store, an address or the sandbox cannot be
    used, its identity does not fit the network, or the network's owner did not sign what the
    network file asks for.
    """
    if liar and not config.network.parameters.testnet:
        raise P2pfleetError(
            f"{config.network.parameters.name} is not a testnet, so no node lies there.",
            "Lying nodes exist for trying things: p2pfleet testnet up --liars 1",
            ExitCode.USAGE,
        )
    if config.network.requirement is not None:
        opened_requirement(config.network)
    opened_pages(config.network)
    _use_few_arenas()
    clock = SystemClock()
    with lock_data_dir(config.data_dir) as folder:
        # In a thread, for a key that fits may take its time; a cancelled node makes none.
        seed = await trio.to_thread.run_sync(
            load_or_create_identity,
            folder / "identity.key",
            config.network.terms,
            lambda drawn, seconds: trio.from_thread.check_cancelled(),
        )
        signer = Signer(seed)
        store = SqliteStore.open(folder / "node.sqlite")
        try:
            packs = FilePacks(folder / "packs", config.disk_mb * 2**20)
            try:
                async with _running(config, clock, seed, signer, store, packs, liar) as node:
                    yield node
            finally:
                packs.close()
        finally:
            store.close()


class _BlobGate:
    """Who may have which blob of this node: the core decides, once there is one that remembers."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.workshop: Workshop | None = None

    def may_fetch(self, peer: PeerId, cid: Cid) -> bool:
        """Whether ``peer`` may have it."""
        if self.node is None or not self.node.restored:
            return False
        if self.workshop is not None and self.workshop.is_untold(cid):
            return False
        return self.node.may_fetch(peer, cid)


def _own_admission(config: NodeConfig) -> VerifiedAdmission | None:
    """What `p2pfleet network join` left in the data folder, if it was ever run there."""
    file = config.data_dir / ADMISSION_FILE
    try:
        return read_admission(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, Malformed) as error:
        raise P2pfleetError(
            f"{file} cannot be used: {error}.",
            "Remove it, and join again with an invitation if the node is no member yet.",
            ExitCode.DAMAGED,
        ) from error


def _vouched(config: NodeConfig) -> tuple[PeerId, ...]:
    """The peers that the configuration itself names as nodes of the network."""
    named = (parse_peer(address.rpartition("/p2p/")[2]) for address in config.bootstrap)
    return tuple(sorted(set(named)))


async def _tell_shown(members: RosterGate, driver: Driver) -> None:
    """Tell the core of the proofs that strangers brought."""
    async for event in members.shown:
        await driver.carry_out(event)
        members.decided(shown_by(event))


def _manifest_of(store: SqliteStore, job: JobId) -> Manifest | None:
    """The manifest of a job that is known here. Blocks; call it in a thread."""
    stored = store.job(job)
    if stored is None:
        return None
    opened = open_sealed(stored.manifest)
    assert isinstance(opened, VerifiedManifest)
    return opened.manifest


@asynccontextmanager
async def _running(
    config: NodeConfig,
    clock: SystemClock,
    seed: bytes,
    signer: Signer,
    store: SqliteStore,
    packs: FilePacks,
    liar: bool,
) -> AsyncIterator[RunningNode]:
    most = config.unit_limits
    sandbox_config = SandboxConfig(
        memory_bytes=most.memory_bytes, cpu_ms=most.cpu_ms, contrib_ops=config.contrib_ops
    )
    network_config = NetworkConfig(
        listen=config.listen,
        announce=config.announce,
        bootstrap=config.bootstrap,
        bulk_port=config.bulk_port,
        mdns=config.mdns,
        relay=config.relay,
    )
    recorder = Recorder(config.data_dir / "recording") if config.recording else None
    gate = _BlobGate()
    members = RosterGate(clock, _own_admission(config)) if config.network.terms.closed else None

    def belongs(peer: PeerId) -> bool:
        return gate.node is None or gate.node.roster.member(peer)

    async with (
        open_executors(sandbox_config) as executors,
        open_network(
            network_config,
            seed=seed,
            network=config.network.id,
            validator=announcement_validator(config.network.terms, clock, belongs),
            addresses=store,
            blobs=packs,
            may_fetch=gate.may_fetch,
            clock=clock,
            gate=members,
            swarm_key=config.network.swarm_key,
            records=JobsRecords(config.network.terms, clock),
            bans=BanFile(config.data_dir),
        ) as network,
        trio.open_nursery() as nursery,
    ):

        async def submit(event: ev.Event) -> None:
            await driver.submit(event)

        async def carry_out(event: ev.Event) -> None:
            await driver.carry_out(event)

        disk = DiskWatch(packs.check_room)
        workshop = Workshop(
            me=signer.peer,
            network=config.network.id,
            packs=packs,
            bulk=network.bulk,
            sandbox=executors.strangers,
            own=executors.own,
            submit=submit,
            carry_out=carry_out,
            manifest_of=partial(_manifest_of, store),
            slots=config.slots,
            cpu_percent=config.cpu_percent,
            twist=flip if liar else None,
            disk=disk,
        )
        report = executors.strangers.report
        consent = Consent(
            report.capability,
            most,
            config.trusted_publishers,
            config.network.parameters.owner,
        )

        async def run_one(*what: Any, own: bool, **how: Any) -> dict[str, Any]:
            sandbox = executors.own if own else executors.strangers
            return await run_unit(*what, packs=packs, sandbox=sandbox, own=own, **how)

        driver = Driver(
            Node.create(
                signer.peer,
                config.network.id,
                config.slots,
                config.roles,
                consent,
                config.network.terms,
                _vouched(config),
                config.custody_mb * 2**20,
            ),
            store=store,
            network=network,
            workshop=workshop,
            signer=signer,
            clock=clock,
            recorder=recorder,
            disk=disk,
        )
        gate.node, gate.workshop = driver.node, workshop
        if members is not None:
            members.node = driver.node
        body = trio.CancelScope()
        running = RunningNode(
            config=config,
            driver=driver,
            store=store,
            packs=packs,
            network=network,
            sandbox=report,
            workshop=workshop,
            prepare_job=partial(prepare, packs=packs, sandbox=executors.own),
            run_unit=run_one,
            clock=clock,
            stop=body.cancel,
            disk=disk,
        )
        try:
            await nursery.start(workshop.run)
            await nursery.start(driver.run)
            await nursery.start(disk.run, driver.submit)
            nursery.start_soon(watch_clock, driver.node, clock, driver.submit)
            await _restore(driver, store, packs, clock, network.addresses, config)
            if members is not None:
                network.reconsider()
                nursery.start_soon(_tell_shown, members, driver)
            nursery.start_soon(
                receive, network, config.network.id, driver.submit, clock, driver.traffic
            )
            with body:
                async with serve_control(config.data_dir, running.methods()):
                    yield running
            with trio.move_on_after(STOP_S):
                await driver.carry_out(ev.StopRequested())
                await driver.drained()
        finally:
            if recorder is not None:
                recorder.close()
        nursery.cancel_scope.cancel()


async def _restore(
    driver: Driver,
    store: SqliteStore,
    packs: FilePacks,
    clock: SystemClock,
    addresses: tuple[str, ...],
    config: NodeConfig,
) -> None:
    """Tell the core that it runs, and what the store holds."""
    wall_ms = clock.wall_ms()
    incarnation = await trio.to_thread.run_sync(store.next_incarnation, wall_ms)
    coin = secrets.token_bytes(32)
    software = f"p2pfleet/{__version__}"
    await driver.submit(ev.Started(incarnation, wall_ms, software, addresses, coin))
    notes = config.data_dir / SUBMITTED
    await restore(driver.submit, store, config.network, driver.node.me, notes)
    await driver.durable()
    own = [(job.id, job.manifest) for job in driver.node.jobs.values() if job.own]
    for event in await trio.to_thread.run_sync(_inputs, own, packs):
        await driver.submit(event)
    await driver.carry_out(ev.RestoreFinished())


def _inputs(jobs: Sequence[tuple[JobId, Manifest]], packs: FilePacks) -> list[ev.InputsKnown]:
    """What packs these jobs have, as far as their tables are here."""
    known = []
    for job, manifest in jobs:
        try:
            table = checked_table(packs.read(manifest.table), manifest)
        except (KeyError, Malformed, P2pfleetError):
            continue
        known.append(packs_known(job, manifest, table))
    return known


__all__ = ["RunningNode", "SubmitRequest", "flip", "open_node"]
