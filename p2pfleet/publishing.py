"""From a model and inputs on disk to a manifest: read, checked, packed, durable.

The model is loaded in the publisher's own sandbox, so that a mistake is found at once and not by
silence; inputs are held against its signature and written into packs as they are read.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from p2pfleet.adapters.inputs import parse_split, units_from_files
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import Cid, Digest, NetworkId, PeerId, cid_of, sha256
from p2pfleet.core.model.job import (
    MAX_PACKS,
    MAX_UNITS,
    Exact,
    FixedQuorum,
    Limits,
    UnitInput,
    UnitTable,
)
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.names import MAX_TABLE_BYTES
from p2pfleet.ports import ExecutionFault, ModelSignature, Packs, Sandbox

MAX_MODEL_BYTES = 2 * 2**30
PACK_BYTES = 32 * 2**20
PACK_MEMBERS = 4096


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a researcher asks for. Paths are absolute; each input file is one unit unless split."""

    model: str
    inputs: tuple[str, ...]
    name: str
    quorum: int = 2
    replicas_max: int | None = None
    split: str | None = None
    memory_mb: int = 512
    cpu_s: float = 60.0
    output_mb: int = 64
    lease_s: float = 30.0
    expires_h: float = 24.0


class Draft(msgspec.Struct, frozen=True):
    """A manifest whose blobs are all durably in the packs, and the names of its units."""

    manifest: Manifest
    blobs: tuple[Cid, ...]
    names: tuple[str, ...]


Pin = Callable[[list[Cid]], None]


async def prepare(
    request: SubmitRequest,
    *,
    packs: Packs,
    sandbox: Sandbox,
    network: NetworkId,
    publisher: PeerId,
    wall_ms: int,
    pin: Pin,
) -> Draft:
    """Read and check everything, and keep it. ``pin`` protects blobs as they are written.

    Raises :class:`P2pfleetError` for whatever is wrong with the request, the model or an input.
    """
    limits, stop = _terms(request)
    model = await trio.to_thread.run_sync(_read_model, Path(request.model))
    if len(model) > limits.memory_bytes:
        raise P2pfleetError(
            f"The model has {len(model) / 2**20:.0f} MiB, more than the "
            f"{request.memory_mb} MiB of memory that a unit may take.",
            "Raise --memory-mb; running the model takes more than its file.",
            ExitCode.USAGE,
        )
    signature = await _signature(model, limits, sandbox, request.model)
    model_cid = await trio.to_thread.run_sync(_keep, packs, model, pin)
    table, names = await trio.to_thread.run_sync(_pack_inputs, request, signature, packs, pin)
    raw_table = encode(table)
    if len(raw_table) > MAX_TABLE_BYTES:
        raise P2pfleetError(
            f"The job has {len(table.units)} units, too many for one unit table.",
            "Make larger pieces with --split AXIS:SIZE, or publish several jobs.",
        )
    table_cid = await trio.to_thread.run_sync(_keep, packs, raw_table, pin)
    manifest = Manifest(
        network=network,
        publisher=publisher,
        name=request.name,
        model=model_cid,
        model_bytes=len(model),
        table=table_cid,
        table_bytes=len(raw_table),
        units=len(table.units),
        total_bytes=sum(unit.length for unit in table.units),
        limits=limits,
        comparison=Exact(),
        stop=stop,
        shards=1,
        lease_ms=round(request.lease_s * 1000),
        issued_ms=wall_ms,
        expires_ms=wall_ms + round(request.expires_h * 3600 * 1000),
        salt=secrets.token_bytes(16),
    )
    _check_bounds(manifest)
    return Draft(manifest, (model_cid, table_cid, *table.packs), tuple(names))


def _terms(request: SubmitRequest) -> tuple[Limits, FixedQuorum]:
    replicas_max = request.replicas_max
    if replicas_max is None:
        replicas_max = min(64, 2 * request.quorum + 3)
    limits = Limits(
        memory_bytes=request.memory_mb * 2**20,
        cpu_ms=round(request.cpu_s * 1000),
        output_bytes=request.output_mb * 2**20,
    )
    stop = FixedQuorum(request.quorum, replicas_max)
    for part in (limits, stop):
        _check_bounds(part)
    if replicas_max < request.quorum:
        raise P2pfleetError(
            f"At most {replicas_max} replicas cannot reach a quorum of {request.quorum}.",
            "Raise --replicas-max or lower --quorum.",
            ExitCode.USAGE,
        )
    return limits, stop


def _check_bounds(value: Limits | FixedQuorum | Manifest) -> None:
    """Hold a value of our own making against the bounds that its receivers will enforce."""
    try:
        msgspec.msgpack.decode(encode(value), type=type(value))
    except msgspec.ValidationError as error:
        raise P2pfleetError(
            f"The job cannot be published: {error}.",
            "Choose a value within the bounds (p2pfleet submit --help).",
            ExitCode.USAGE,
        ) from error


def _read_model(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise P2pfleetError(
                f"The model {path} has {size / 2**30:.1f} GiB; at most 2 GiB are possible.",
                "ONNX itself ends there for a single file.",
            )
        return path.read_bytes()
    except OSError as error:
        raise P2pfleetError(
            f"The model {path} cannot be read: {error.strerror or error}.",
            "Check the path.",
            ExitCode.USAGE,
        ) from error


async def _signature(model: bytes, limits: Limits, sandbox: Sandbox, path: str) -> ModelSignature:
    try:
        child = await sandbox.load(model, limits)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"{path} cannot be used as a model: {fault.reason}",
            "Volunteers would refuse it as well. It has to be an ONNX file that onnxruntime "
            "loads within the job's limits.",
        ) from fault
    try:
        return child.signature
    finally:
        child.kill()


def _keep(packs: Packs, data: bytes, pin: Pin) -> Cid:
    pin([cid_of(data)])
    return packs.add(data)


def _pack_inputs(
    request: SubmitRequest, signature: ModelSignature, packs: Packs, pin: Pin
) -> tuple[UnitTable, list[str]]:
    split = None if request.split is None else parse_split(request.split)
    cids: list[Cid] = []
    units: list[UnitInput] = []
    names: list[str] = []
    members: list[bytes] = []
    size = 0

    def close_pack() -> None:
        nonlocal members, size
        if not members:
            return
        if len(cids) >= MAX_PACKS:
            raise P2pfleetError(
                f"The inputs fill more than {MAX_PACKS} packs.", "Publish them as several jobs."
            )
        data = b"".join(members)
        cid = _keep(packs, data, pin)
        offset = 0
        for member in members:
            units.append(UnitInput(len(cids), offset, len(member), Digest(sha256(member))))
            offset += len(member)
        cids.append(cid)
        members, size = [], 0

    paths = [Path(path) for path in request.inputs]
    for name, bundle in units_from_files(paths, signature, split):
        if members and (size + len(bundle) > PACK_BYTES or len(members) >= PACK_MEMBERS):
            close_pack()
        if len(bundle) > request.memory_mb * 2**20:
            raise P2pfleetError(
                f"The input {name} has {len(bundle) / 2**20:.0f} MiB, more than the "
                f"{request.memory_mb} MiB of memory that a unit may take.",
                "Make smaller pieces with --split AXIS:SIZE, or raise --memory-mb.",
                ExitCode.USAGE,
            )
        names.append(name)
        members.append(bundle)
        size += len(bundle)
        assert len(names) <= MAX_UNITS
    close_pack()
    if not units:
        raise P2pfleetError(
            "There are no inputs, so there is nothing to compute.",
            "Name at least one .npz or .npy file.",
            ExitCode.USAGE,
        )
    return UnitTable(tuple(cids), tuple(units)), names
