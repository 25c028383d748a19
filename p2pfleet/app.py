"""A whole node: the only place where the adapters meet the driver.

async with open_node(config) as node:
    job = await node.submit(request)
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import AsyncIterator
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
    FilePacks,
    SqliteStore,
    load_or_create_identity,
    lock_data_dir,
)
from p2pfleet.config import NodeConfig
from p2pfleet.core import events as ev
from p2pfleet.core.effects import UnitRow
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import JobId
from p2pfleet.core.wire.messages import job_id
from p2pfleet.core.wire.tensors import decode_bundle, encode_bundle
from p2pfleet.core.wire.verified import (
    VerifiedClosure,
    VerifiedFrame,
    VerifiedManifest,
    VerifiedRequirement,
)
from p2pfleet.ports import StoredJob
from p2pfleet.publishing import SubmitRequest, prepare
from p2pfleet.running import RunningNode
from p2pfleet.runtime.clock import SystemClock
from p2pfleet.runtime.driver import Driver
from p2pfleet.runtime.reception import announcement_validator, receive
from p2pfleet.runtime.recording import Recorder
from p2pfleet.runtime.requirements import opened_requirement
from p2pfleet.runtime.signing import Signer, open_sealed
from p2pfleet.runtime.unit_run import run_unit
from p2pfleet.runtime.workshop import Workshop

log = logging.getLogger(__name__)

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
    network_config = NetworkConfig(listen=config.listen, bootstrap=config.bootstrap)
    recorder = Recorder(config.data_dir / "recording") if config.recording else None
    async with (
        open_executors(sandbox_config) as executors,
        open_network(
            network_config,
            seed=seed,
            network=config.network.id,
            validator=announcement_validator(config.network.terms, clock),
            addresses=store,
            blobs=packs,
            clock=clock,
        ) as network,
        trio.open_nursery() as nursery,
    ):

        async def submit(event: ev.Event) -> None:
            await driver.submit(event)

        workshop = Workshop(
            packs=packs,
            bulk=network.bulk,
            sandbox=executors.strangers,
            submit=submit,
            slots=config.slots,
            cpu_percent=config.cpu_percent,
            twist=flip if liar else None,
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
                config.network.parameters.puzzle_bits,
            ),
            store=store,
            network=network,
            workshop=workshop,
            signer=signer,
            clock=clock,
            recorder=recorder,
        )
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
        )
        try:
            await nursery.start(workshop.run)
            await nursery.start(driver.run)
            await _restore(driver, store, clock, network.addresses, config)
            nursery.start_soon(receive, network, config.network.id, driver.submit)
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
    clock: SystemClock,
    addresses: tuple[str, ...],
    config: NodeConfig,
) -> None:
    """Tell the core what the store holds, as events like any other."""
    wall_ms = clock.wall_ms()
    incarnation = await trio.to_thread.run_sync(store.next_incarnation, wall_ms)
    await driver.submit(ev.Started(incarnation, wall_ms, f"p2pfleet/{__version__}", addresses))
    await _restore_requirement(driver, store, config)
    records = await trio.to_thread.run_sync(store.judgements)
    await driver.submit(ev.RecordsRestored(tuple(records)))
    for stored in await trio.to_thread.run_sync(store.jobs):
        event = await trio.to_thread.run_sync(_restored_job, store, stored)
        if event is not None and event.manifest.manifest.network == config.network.id:
            await driver.submit(event)
    frames = await trio.to_thread.run_sync(store.frames)
    for start in range(0, len(frames), 256):
        chunk = frames[start : start + 256]
        for frame in await trio.to_thread.run_sync(_restored_frames, chunk):
            await driver.submit(frame)
    await driver.carry_out(ev.RestoreFinished())


async def _restore_requirement(driver: Driver, store: SqliteStore, config: NodeConfig) -> None:
    """What the network's owner asks for: what was heard last, and what the network file says."""
    found = []
    heard = await trio.to_thread.run_sync(store.requirement)
    if heard is not None:
        try:
            found.append(open_sealed(heard))
        except Malformed as error:
            log.warning("the network's requirement in the store is damaged: %s", error)
    if config.network.requirement is not None:
        found.append(opened_requirement(config.network))
    for verified in found:
        if isinstance(verified, VerifiedRequirement):
            await driver.submit(ev.RequirementReceived(driver.node.me, verified))


def _restored_job(store: SqliteStore, stored: StoredJob) -> ev.JobRestored | None:
    try:
        manifest = open_sealed(stored.manifest)
        closure = None if stored.closure is None else open_sealed(stored.closure)
    except Malformed as error:
        log.warning("a job in the store is damaged and is left out: %s", error)
        return None
    assert isinstance(manifest, VerifiedManifest)
    assert manifest.job == job_id(stored.manifest)
    return ev.JobRestored(
        manifest=manifest,
        own=stored.own,
        state=stored.state,
        closure=closure if isinstance(closure, VerifiedClosure) else None,
        units=tuple(UnitRow(*row) for row in store.units(stored.job)),
        judged=tuple(store.judged(stored.job)),
    )


def _restored_frames(chunk: list[tuple[JobId, Any]]) -> list[ev.FrameRestored]:
    restored = []
    for _, sealed in chunk:
        try:
            verified = open_sealed(sealed)
        except Malformed as error:
            log.warning("a frame in the store is damaged and is left out: %s", error)
            continue
        if isinstance(verified, VerifiedFrame):
            restored.append(ev.FrameRestored(verified))
    return restored


__all__ = ["RunningNode", "SubmitRequest", "flip", "open_node"]
