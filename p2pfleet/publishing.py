"""From a model and inputs on disk to a manifest: read, checked, packed, durable.

The model is loaded in the publisher's own sandbox, so that a mistake is found at once and not by
silence; inputs are held against its signature and written into packs as they are read. Then the
first unit is run there, and run again with an input moved a little: see ``conditioning``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from p2pfleet.adapters.inputs import parse_split, units_from_files
from p2pfleet.conditioning import examine
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
from p2pfleet.core.rules.consent import STRANGERS_GRADES
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.names import MAX_TABLE_BYTES
from p2pfleet.ports import (
    ExecutionFault,
    ModelSignature,
    Packs,
    Sandbox,
    SandboxJob,
    SandboxReport,
)

MAX_MODEL_BYTES = 2 * 2**30
PACK_BYTES = 32 * 2**20
PACK_MEMBERS = 4096
LONG_TRIAL_S = 10


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a researcher asks for. Paths are absolute; each input file is one unit unless split.

    ``strict``: refuse what would otherwise only be warned of.
    """

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
    strict: bool = False


class Draft(msgspec.Struct, frozen=True):
    """A manifest whose blobs are all durably in the packs, and the names of its units.

    ``warnings``: why volunteers may not agree on it; ``notes``: what was not tested, or took long.
    """

    manifest: Manifest
    blobs: tuple[Cid, ...]
    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    child = await _load(model, limits, sandbox, request.model)
    try:
        model_cid = await trio.to_thread.run_sync(_keep, packs, model, pin)
        table, names, first = await trio.to_thread.run_sync(
            _pack_inputs, request, child.signature, packs, pin
        )
        warnings, notes = await _try_unit(child, first, names[0], request.strict)
        warnings = _unconfined(sandbox.report) + warnings
    finally:
        child.kill()
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
    blobs = (model_cid, table_cid, *table.packs)
    return Draft(manifest, blobs, tuple(names), warnings, notes)


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


_LIMIT_ADVICE = {
    "cpu": "Raise --cpu-s, or make smaller units with --split AXIS:SIZE. (If that limit is this "
    "node's own, it is unit_cpu_s in its node.toml.)",
    "memory": "Raise --memory-mb, or make smaller units with --split AXIS:SIZE. (If that limit is "
    "this node's own, it is memory_mb in its node.toml.)",
    "output": "Raise --output-mb, or make smaller units with --split AXIS:SIZE.",
    "wall": "This machine is too slow or too busy for it. Try again later, or make smaller units "
    "with --split AXIS:SIZE.",
    "killed": "The node's sandbox was ended meanwhile. Try again.",
}
_UNIT_ADVICE = "Volunteers would fail in the same way: correct the model or the input."


async def _load(model: bytes, limits: Limits, sandbox: Sandbox, path: str) -> SandboxJob:
    """A child that has admitted and loaded the model, by the same rules as a volunteer's."""
    try:
        return await sandbox.load(model, limits)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"{path} cannot be used as a model: {_reason(fault)}",
            _LIMIT_ADVICE.get(
                fault.kind,
                "Volunteers would refuse it as well. It has to be an ONNX file that onnxruntime "
                "loads within the job's limits, and keep to what protocol/volunteers.md admits.",
            ),
        ) from fault


def _unconfined(report: SandboxReport) -> tuple[str, ...]:
    if report.capability.grade in STRANGERS_GRADES:
        return ()
    return (
        f"the model was tried with weaker locks than volunteers have "
        f"(grade {report.capability.grade}): publish only models that you trust. {report.reason}",
    )


def _reason(fault: ExecutionFault) -> str:
    """The reason for the publisher, whose own child it is that speaks."""
    return fault.reason.removeprefix('the child says: "').removesuffix('"')


async def _try_unit(
    child: SandboxJob, inputs: bytes, name: str, strict: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Run the first unit and test its conditioning; the warnings and the notes that come of it."""
    started = trio.current_time()
    try:
        found = await examine(child, inputs)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"The first unit ({name}) cannot be run: {_reason(fault)}",
            _LIMIT_ADVICE.get(fault.kind, _UNIT_ADVICE),
        ) from fault
    notes = []
    if found.verdict == "too long" and strict:
        raise P2pfleetError(
            f"The job was not published; first unit ({name}): {found.sentence}.",
            "Make smaller units with --split AXIS:SIZE, or leave --strict out.",
        )
    if found.verdict in ("too long", "untested"):
        notes.append(f"first unit ({name}): {found.sentence}")
    seconds = trio.current_time() - started
    if seconds >= LONG_TRIAL_S:
        notes.append(
            f"testing the first unit ({name}) here took {seconds:.0f} s; running it once takes "
            f"{found.first.cpu_ms / 1000:.1f} s of processor time"
        )
    if found.verdict in ("steady", "too long", "untested"):
        return (), tuple(notes)
    if found.verdict == "not deterministic":
        warning = f"the job does not give the same answer twice: in the first unit ({name}), "
        advice = (
            "Volunteers could never agree on it. Take out of the model what draws at random or "
            "depends on the order of its sums."
        )
    else:
        warning = f"the answer depends on the last digits: in the first unit ({name}), "
        advice = (
            "Volunteers whose processors round differently may not agree. Put out what is coarser "
            "or smoother: scores instead of the index of the largest, rounded values, fewer steps "
            "of a chaotic simulation."
        )
    if strict:
        raise P2pfleetError(
            f"The job was not published: {warning}{found.sentence}.",
            f"{advice} Without --strict it is published all the same.",
        )
    return (f"{warning}{found.sentence}. {advice}",), tuple(notes)


def _keep(packs: Packs, data: bytes, pin: Pin) -> Cid:
    pin([cid_of(data)])
    return packs.add(data)


def _pack_inputs(
    request: SubmitRequest, signature: ModelSignature, packs: Packs, pin: Pin
) -> tuple[UnitTable, list[str], bytes]:
    """The table, the names of the units, and the input of the first."""
    split = None if request.split is None else parse_split(request.split)
    cids: list[Cid] = []
    units: list[UnitInput] = []
    names: list[str] = []
    members: list[bytes] = []
    first: bytes | None = None
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
        first = bundle if first is None else first
        size += len(bundle)
        assert len(names) <= MAX_UNITS
    close_pack()
    if first is None:
        raise P2pfleetError(
            "There are no inputs, so there is nothing to compute.",
            "Name at least one .npz or .npy file.",
            ExitCode.USAGE,
        )
    return UnitTable(tuple(cids), tuple(units)), names, first
