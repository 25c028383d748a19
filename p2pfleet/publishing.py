"""From a model and inputs on disk to a manifest: read, checked, packed, durable.

The model is loaded in the publisher's own sandbox, so that a mistake is found at once and not by
silence; inputs are held against its signature and written into packs as they are read. There its
work is counted, and the first unit is run, and run again with an input moved a little: see
``conditioning``. Last, the units are run whose answers the publisher wants to know: ``ringers``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfleet.adapters.inputs import parse_split, units_from_files
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import Cid, Digest, NetworkId, PeerId, cid_of
from p2pfleet.core.model.job import MAX_UNITS, Confidence, Trust, UnitTable
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest, Ringer
from p2pfleet.core.wire.names import MAX_TABLE_BYTES
from p2pfleet.packing import pack, parted
from p2pfleet.ports import ModelSignature, Packs, Sandbox
from p2pfleet.ringers import Bench
from p2pfleet.submission import (
    SubmitRequest,
    audit_ppm,
    check_bounds,
    check_ringers,
    comparison_of,
    limits_of,
    shards_of,
    shortage,
    stop_of,
    told,
    window_ms,
)
from p2pfleet.trial import exact_floats, findings, load_own, ringers_of, run_first, unconfined

__all__ = ["Draft", "Pin", "SubmitRequest", "prepare"]

MAX_MODEL_BYTES = 2 * 2**30


class Draft(msgspec.Struct, frozen=True):
    """A manifest whose blobs are all durably in the packs, and the names of its units.

    ``warnings``: why volunteers may not agree on it; ``notes``: what was not tested, or took long.
    ``ringers`` and ``ringers_secret`` are what only the publisher knows until the job ends.
    """

    manifest: Manifest
    blobs: tuple[Cid, ...]
    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ringers: tuple[Ringer, ...] = ()
    ringers_secret: bytes = b""
    table: UnitTable | None = None

    def terms(self) -> dict[str, Any]:
        """What the job asks for, in plain words and numbers."""
        return told(self.manifest, len(self.ringers))


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
    crowd: Callable[[], int] = lambda: 1,
    snapshot: bytes | None = None,
) -> Draft:
    """Read and check everything, and keep it. ``pin`` protects blobs as they are written.

    ``crowd`` tells, when the units are known, how many volunteers there seem to be; ``snapshot`` is
    the hash of the publisher's trust snapshot for the request's class of models. Raises
    :class:`P2pfleetError` for whatever is wrong with the request, the model or an input.
    """
    limits, stop = limits_of(request), stop_of(request)
    trust = Trust(
        model_class=request.model_class,
        # By a fixed quorum all votes count alike, and no snapshot is handed out.
        snapshot=Digest(snapshot) if snapshot and isinstance(stop, Confidence) else None,
        audit_ppm=audit_ppm(request),
        window_ms=window_ms(request),
    )
    check_bounds(trust)
    check_ringers(request)
    early = _early_warnings(shortage(stop) if snapshot is None else "", request.strict)
    model = await trio.to_thread.run_sync(_read_model, Path(request.model))
    if len(model) > limits.memory_bytes:
        raise P2pfleetError(
            f"The model has {len(model) / 2**20:.0f} MiB, more than the "
            f"{request.memory_mb} MiB of memory that a unit may take.",
            "Raise --memory-mb; running the model takes more than its file.",
            ExitCode.USAGE,
        )
    child = await load_own(model, limits, sandbox, request.model)
    salt, keep = secrets.token_bytes(16), partial(_keep, packs, pin=pin)
    bench = Bench(child, partial(sandbox.load, model, limits))
    try:
        model_cid = await trio.to_thread.run_sync(_keep, packs, model, pin)
        table, names, first = await trio.to_thread.run_sync(
            _pack_inputs, request, child.signature, packs, pin
        )
        volunteers = min(max(1, crowd()), 1_000_000)
        shards = shards_of(request, len(table.units), volunteers)
        table = await trio.to_thread.run_sync(parted, table, salt, shards, packs, keep)
        raw_table = encode(table)
        if len(raw_table) > MAX_TABLE_BYTES:
            raise P2pfleetError(
                f"The job has {len(table.units)} units, too many for one unit table.",
                "Make larger pieces with --split AXIS:SIZE, or publish several jobs.",
            )
        tried = await run_first(child, first, names[0])
        comparison, misplaced = await trio.to_thread.run_sync(
            comparison_of, request, tried.conditioning.first.outputs, child.signature
        )
        trial = findings(
            tried, floats_exact=exact_floats(comparison, child.signature), strict=request.strict
        )
        ringers, more = await ringers_of(
            request, bench, packs, table, names, tried.conditioning, keep
        )
    finally:
        bench.kill()
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
        comparison=comparison,
        stop=stop,
        shards=shards,
        lease_ms=round(request.lease_s * 1000),
        issued_ms=wall_ms,
        expires_ms=wall_ms + round(request.expires_h * 3600 * 1000),
        salt=salt,
        trust=msgspec.structs.replace(trust, ringers=ringers.hash, crowd=volunteers),
        work=tried.work,
    )
    check_bounds(manifest)
    return Draft(
        manifest,
        (model_cid, table_cid, *table.packs, *ringers.blobs),
        tuple(names),
        (*unconfined(sandbox.report), *early, *misplaced, *trial.warnings, *more.warnings),
        (*trial.notes, *more.notes),
        ringers.ringers,
        ringers.secret if ringers.ringers else b"",
        table,
    )


def _early_warnings(shortage: str, strict: bool) -> tuple[str, ...]:
    if shortage and strict:
        raise P2pfleetError(
            f"The job was not published: {shortage}.",
            "Without --strict it is published all the same.",
            ExitCode.USAGE,
        )
    return (f"{shortage}.",) if shortage else ()


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


def _keep(packs: Packs, data: bytes, pin: Pin) -> Cid:
    pin([cid_of(data)])
    return packs.add(data)


def _pack_inputs(
    request: SubmitRequest, signature: ModelSignature, packs: Packs, pin: Pin
) -> tuple[UnitTable, list[str], bytes]:
    """The table, the names of the units, and the input of the first."""
    split = None if request.split is None else parse_split(request.split)
    names: list[str] = []
    first = b""

    def bundles() -> Iterator[bytes]:
        nonlocal first
        paths = [Path(path) for path in request.inputs]
        for name, bundle in units_from_files(paths, signature, split):
            if len(bundle) > request.memory_mb * 2**20:
                raise P2pfleetError(
                    f"The input {name} has {len(bundle) / 2**20:.0f} MiB, more than the "
                    f"{request.memory_mb} MiB of memory that a unit may take.",
                    "Make smaller pieces with --split AXIS:SIZE, or raise --memory-mb.",
                    ExitCode.USAGE,
                )
            if not names:
                first = bundle
            names.append(name)
            assert len(names) <= MAX_UNITS
            yield bundle
        if not names:
            raise P2pfleetError(
                "There are no inputs, so there is nothing to compute.",
                "Name at least one .npz or .npy file.",
                ExitCode.USAGE,
            )

    table = pack(bundles(), partial(_keep, packs, pin=pin))
    return table, names, first
