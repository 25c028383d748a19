"""A unit run from what lies in a data folder, while no node runs there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import trio

from p2pfleet.adapters.sandbox import SandboxConfig, open_executors
from p2pfleet.adapters.store import FilePacks, SqliteStore, lock_data_dir
from p2pfleet.cli.folders import Place
from p2pfleet.config.node_file import NodeConfig, load_config
from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.model.ids import JobId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.wire.verified import VerifiedManifest, VerifiedRequirement
from p2pfleet.ports import StoredJob
from p2pfleet.runtime.signing import open_sealed
from p2pfleet.runtime.unit_run import UNIT_RUN, decided_unit, run_unit

STORE_FILE = "node.sqlite"


def run_offline(place: Place, text: str, number: int) -> dict[str, Any]:
    """Run unit ``number`` of the job whose id begins with ``text``; see ``run_unit``.

    Raises :class:`P2pfleetError`, also when the folder does not hold all that it takes.
    """
    if not (place.folder / STORE_FILE).is_file():
        raise P2pfleetError(
            f"No node is running in {place.folder}, and no job is kept there.",
            f"Start one with: p2pfleet run --data-dir {shlex.quote(str(place.folder))}",
            ExitCode.NO_NODE,
        )
    config = load_config(None, data_dir=place.folder, network=place.network)
    return trio.run(_run, config, text, number)


async def _run(config: NodeConfig, text: str, number: int) -> dict[str, Any]:
    with lock_data_dir(config.data_dir) as folder:
        store = SqliteStore.open(folder / STORE_FILE)
        try:
            packs = FilePacks(folder / "packs", config.disk_mb * 2**20)
            try:
                return await _run_stored(config, store, packs, text, number)
            finally:
                packs.unpin(UNIT_RUN)
                packs.close()
        finally:
            store.close()


async def _run_stored(
    config: NodeConfig, store: SqliteStore, packs: FilePacks, text: str, number: int
) -> dict[str, Any]:
    stored = _find(store, text, config.data_dir)
    try:
        opened = open_sealed(stored.manifest)
    except Malformed as error:
        raise P2pfleetError(
            f"The job is damaged in the store: {error}.", "Fetch it anew.", ExitCode.DAMAGED
        ) from error
    assert isinstance(opened, VerifiedManifest)
    most = config.unit_limits
    sandbox_config = SandboxConfig(
        memory_bytes=most.memory_bytes, cpu_ms=most.cpu_ms, contrib_ops=config.contrib_ops
    )

    async def fetch(ref: BlobRef) -> None:
        own_cid = cid_from_sha256(ref.sha256)
        packs.pin(UNIT_RUN, [own_cid])
        if not packs.has(own_cid):
            raise P2pfleetError(
                f"The folder {config.data_dir} does not hold all that the unit needs, and no node "
                "is running there that could fetch it.",
                "Start one and ask again: p2pfleet run --data-dir "
                f"{shlex.quote(str(config.data_dir))}",
                ExitCode.NO_NODE,
            )

    async with open_executors(sandbox_config) as executors:
        consent = Consent(
            executors.strangers.report.capability,
            most,
            config.trusted_publishers,
            config.network.parameters.owner,
        )
        _take_requirement(consent, store, config)
        return await run_unit(
            stored.job,
            opened.manifest,
            number,
            packs=packs,
            sandbox=executors.own if stored.own else executors.strangers,
            fetch=fetch,
            consent=consent,
            own=stored.own,
            decided=decided_unit(store, stored.job, number),
        )


def _take_requirement(consent: Consent, store: SqliteStore, config: NodeConfig) -> None:
    """What the network's owner asked for last counts without a network as well."""
    sealed = store.requirement()
    if sealed is None:
        return
    try:
        verified = open_sealed(sealed)
    except Malformed:
        return  # the node says so when it starts
    assert isinstance(verified, VerifiedRequirement)
    consent.take(verified, config.network.id)


def _find(store: SqliteStore, text: str, folder: Path) -> StoredJob:
    found: list[JobId] = store.find_jobs(text)
    stored = store.job(found[0]) if len(found) == 1 else None
    if stored is None:
        problem = "is ambiguous" if found else "is not known"
        raise P2pfleetError(
            f"The job {text!r} {problem} in {folder}, where no node is running.",
            "Give more digits of its id, or start the node: p2pfleet run --data-dir "
            f"{shlex.quote(str(folder))}",
            ExitCode.USAGE,
        )
    return stored
