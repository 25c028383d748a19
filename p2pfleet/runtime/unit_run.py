"""One unit in the local sandbox, because a person wants to see what a volunteer would see.

Nothing of it reaches the core: it claims nothing, votes for nothing and moves no record. It runs
outside the slots, the pause and the owner's share of the processor, since the owner asked for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.volunteer import RELEASED_FAULTS
from p2pfleet.core.model.ids import Digest, JobId, cid_sha256, peer_text
from p2pfleet.core.model.job import BlobRef, Limits
from p2pfleet.core.rules.admission import beyond
from p2pfleet.core.rules.consent import refused
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import Certificate, Manifest
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, decode_bundle, digest_of
from p2pfleet.ports import BlobNotFound, ExecutionFault, Packs, Sandbox, Store
from p2pfleet.runtime.inputs import Inputs
from p2pfleet.runtime.views import sandbox_view
from p2pfleet.runtime.workshop import checked_table

UNIT_RUN = JobId(b"unit run")
"""For whom blobs are pinned during a run. One name for all of them, so that what a killed node left
pinned is let go after the next run."""

FIRST_VALUES = 8
_FORMATS = {
    "bool": "?", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B",
    "uint16": "H", "uint32": "I", "uint64": "Q", "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip

FetchBlob = Callable[[BlobRef], Awaitable[None]]
"""Has a range durably here and keeps it here. Raises BlobNotFound, P2pfleetError."""


async def run_unit(
    job: JobId,
    manifest: Manifest,
    number: int,
    *,
    packs: Packs,
    sandbox: Sandbox,
    fetch: FetchBlob,
    consent: Consent,
    own: bool,
    decided: tuple[str, Digest | None],
) -> dict[str, Any]:
    """Run unit ``number`` of ``job``; returns everything that is to be seen, for JSON.

    ``consent`` says what the node may run, ``own`` whether it publishes the job; ``decided`` is the
    unit's state, as far as it is known here, and the digest that was certified. A unit that cannot
    be run is no error: ``fault`` tells it, and ``volunteer`` what a volunteer would do about it
    (it ``votes``, ``fails`` the unit, or ``releases`` it to others). Raises :class:`P2pfleetError`
    when there is no such unit, a blob cannot be had, or the sandbox is too weak for the job.
    """
    _check_may_run(consent, manifest, own)
    if not 0 <= number < manifest.units:
        raise P2pfleetError(
            f"The job has no unit {number}: they are numbered from 0 to {manifest.units - 1}.",
            "See `p2pfleet job show`.",
            ExitCode.USAGE,
        )
    state, certified = decided
    report: dict[str, Any] = {
        "job": job.hex(),
        "name": manifest.name,
        "publisher": peer_text(manifest.publisher),
        "unit": number,
        "sandbox": sandbox_view(sandbox.report),
        "beyond": beyond(manifest.limits, consent.most),
        "limits": limits_view(manifest.limits, consent.most),
        "model": {"bytes": manifest.model_bytes, "admitted": None, "reason": ""},
        "inputs": [],
        "outputs": [],
        "digest": None,
        "output_bytes": None,
        "cpu_ms": None,
        "wall_ms": None,
        "fault": None,
        "volunteer": "votes",
        "state": state,
        "certified_digest": None if certified is None else certified.hex(),
        "agrees": None,
    }
    model, data = await _blobs(job, manifest, number, packs, fetch)
    report["inputs"] = await trio.to_thread.run_sync(_tensors, data)
    try:
        child = await sandbox.start(model, manifest.limits)
        try:
            await _load(child.load, report)
            execution = await child.execute(data)
        finally:
            child.kill()
    except ExecutionFault as fault:
        report["fault"] = {"kind": fault.kind, "reason": fault.reason}
        report["volunteer"] = "releases" if fault.kind in RELEASED_FAULTS else "fails"
        return report
    digest = digest_of(execution.outputs)
    report["outputs"] = await trio.to_thread.run_sync(_tensors, execution.outputs)
    report["output_bytes"] = len(execution.outputs)
    report["digest"] = digest.hex()
    report["cpu_ms"] = execution.cpu_ms
    report["wall_ms"] = execution.wall_ms
    if certified is not None:
        report["agrees"] = digest == certified
    return report


def _check_may_run(consent: Consent, manifest: Manifest, own: bool) -> None:
    """What is too dangerous for a volunteer is so for a curious owner, too; one's own is not."""
    if own:
        return
    requirement = consent.requirement
    why = refused(
        consent.capability,
        None if requirement is None else requirement.requirement.onnxruntime,
        manifest.publisher in consent.trusted,
    )
    if why:
        raise P2pfleetError(
            f"{why[:1].upper()}{why[1:]}.", "`p2pfleet status` says more about the sandbox."
        )


def decided_unit(store: Store, job: JobId, number: int) -> tuple[str, Digest | None]:
    """State and certified digest of a unit as the ledger has them. Blocks; call it in a thread."""
    for unit, state, detail in store.units(job):
        if unit == number:
            if state == "failed" or not detail:
                return state, None
            certificate: Certificate = decode(detail, Certificate, MAX_FRAME_BYTES)
            return state, certificate.digest
    return "open", None


def limits_view(asked: Limits, most: Limits) -> dict[str, dict[str, float]]:
    """What the job asks for, what the owner grants, and what applies: MiB, seconds, MiB."""

    def row(job: int, owner: int, unit: int) -> dict[str, float]:
        return {"job": job / unit, "owner": owner / unit, "applied": min(job, owner) / unit}

    return {
        "memory_mb": row(asked.memory_bytes, most.memory_bytes, 2**20),
        "cpu_s": row(asked.cpu_ms, most.cpu_ms, 1000),
        "output_mb": row(asked.output_bytes, most.output_bytes, 2**20),
    }


async def _load(load: Callable[[], Awaitable[None]], report: dict[str, Any]) -> None:
    try:
        await load()
    except ExecutionFault as fault:
        report["model"].update(admitted=False, reason=f"{fault.kind}: {fault.reason}")
        raise
    report["model"]["admitted"] = True


async def _blobs(
    job: JobId, manifest: Manifest, number: int, packs: Packs, fetch: FetchBlob
) -> tuple[bytes, bytes]:
    """The model and the unit's input bundle."""
    table = BlobRef(manifest.table, 0, manifest.table_bytes, cid_sha256(manifest.table))
    model = BlobRef(manifest.model, 0, manifest.model_bytes, cid_sha256(manifest.model))
    what = "unit table"
    try:
        await fetch(table)
        raw = await trio.to_thread.run_sync(packs.read, manifest.table)
        units = await trio.to_thread.run_sync(checked_table, raw, manifest)
        what = "model"
        await fetch(model)
        data = await trio.to_thread.run_sync(packs.read, manifest.model)
        what = f"input of unit {number}"
        inputs = Inputs(job, units, packs, lambda _, ref, __: fetch(ref))
        return data, await inputs.get(number, ())
    except BlobNotFound as error:
        raise P2pfleetError(
            f"The {what} is not here and cannot be had: {error}.",
            "Try again when the publisher or a volunteer of the job is connected "
            "(`p2pfleet peers`).",
        ) from error
    except KeyError as error:
        raise P2pfleetError(
            f"The {what} was here and is gone: the disk quota needed its place.",
            "Try again; it will be fetched. If it stays so, raise disk_mb.",
        ) from error
    except Malformed as error:
        raise P2pfleetError(
            f"The job is damaged: {error}.", "Volunteers refuse it as well; tell its publisher."
        ) from error


def _tensors(bundle: bytes) -> list[dict[str, Any]]:
    """What is in a bundle, with the first values of each tensor. A publisher's inputs may not even
    be a bundle; then there is nothing to show, and the child says what is wrong with them."""
    try:
        tensors = decode_bundle(bundle, len(bundle))
    except Malformed:
        return []
    return [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "bytes": len(tensor.data),
            "first": _first_values(tensor),
        }
        for tensor in tensors
    ]


def _first_values(tensor: Tensor) -> list[Any]:
    """Numbers, and in words those that JSON has no number for."""
    size = ITEM_BYTES[tensor.dtype]
    count = min(FIRST_VALUES, len(tensor.data) // size)
    values = struct.unpack(f"<{count}{_FORMATS[tensor.dtype]}", tensor.data[: count * size])
    return [
        str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for value in values
    ]
