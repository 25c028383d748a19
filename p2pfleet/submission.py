"""What a researcher asks for, and the terms of a manifest that it comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import msgspec

from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.job import (
    MAX_SHARDS,
    WINDOW_MAX_MS,
    WINDOW_MIN_MS,
    Comparison,
    Confidence,
    Exact,
    FixedQuorum,
    Limits,
    StopRule,
    Trust,
)
from p2pfleet.core.rules.comparison import FLOATS, misplaced
from p2pfleet.core.rules.credibility import replicas_missing
from p2pfleet.core.rules.shards import CROWD, count_for
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import RINGERS_MAX, Manifest
from p2pfleet.ports import ModelSignature
from p2pfleet.runtime.comparison import suggested

QUORUM = 2
ASSUME_FAULTY = 0.1
AUDIT = 0.1
REPLICAS_MAX = 64
_HELP = "See p2pfleet submit --help."


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a researcher asks for. Paths are absolute; each input file is one unit unless split.

    ``quorum`` votes settle a unit, or as many as make it right with probability ``confidence``
    where a share ``assume_faulty`` of all volunteers is faulty; not both, and without either a
    quorum of 2. ``tolerance``: floating outputs are compared by distance, those in ``tolerances``
    by a distance of their own; else every byte counts. ``audit`` of all certified units are
    executed here once more; ``ringers`` units are executed here beforehand. ``model_class`` names
    the kind of work by which records of peers are kept. ``window_s`` seconds a volunteer waits for
    others before it says what it committed to (default: 5). ``shards``: in so many parts the units
    are worked on (default: by how many volunteers are here). ``strict``: refuse what would
    otherwise only be warned of.
    """

    model: str
    inputs: tuple[str, ...]
    name: str
    quorum: int | None = None
    confidence: float | None = None
    assume_faulty: float | None = None
    replicas_max: int | None = None
    tolerance: bool = False
    tolerances: tuple[OutputTolerance, ...] = ()
    audit: float | None = None
    ringers: int | None = None
    model_class: str = "any"
    split: str | None = None
    memory_mb: int = 512
    cpu_s: float = 60.0
    output_mb: int = 64
    lease_s: float = 30.0
    window_s: float | None = None
    shards: int | None = None
    expires_h: float = 24.0
    strict: bool = False


def limits_of(request: SubmitRequest) -> Limits:
    """What a unit may take. Raises :class:`P2pfleetError` if it is out of bounds."""
    limits = Limits(
        memory_bytes=request.memory_mb * 2**20,
        cpu_ms=_rounded(request.cpu_s, 1000, "--cpu-s"),
        output_bytes=request.output_mb * 2**20,
    )
    check_bounds(limits)
    return limits


def stop_of(request: SubmitRequest) -> StopRule:
    """When a unit is decided. Raises :class:`P2pfleetError` for what contradicts itself."""
    theta = request.confidence
    if theta is None:
        if request.assume_faulty is not None:
            raise _wrong("--assume-faulty says nothing without --confidence.", "Give both.")
        quorum = QUORUM if request.quorum is None else request.quorum
        most = min(REPLICAS_MAX, 2 * quorum + 3)
        stop: StopRule = FixedQuorum(quorum, _given(request.replicas_max, most))
        check_bounds(stop)
        if stop.replicas_max < quorum:
            raise _wrong(
                f"At most {stop.replicas_max} replicas cannot reach a quorum of {quorum}.",
                "Raise --replicas-max or lower --quorum.",
            )
        return stop
    if request.quorum is not None:
        raise _wrong(
            "--confidence and --quorum are two ways to decide a unit.", "Give one of them."
        )
    faulty = ASSUME_FAULTY if request.assume_faulty is None else request.assume_faulty
    if not 0.5 <= theta < 1:
        raise _wrong(
            f"A confidence of {theta:g} cannot be asked for.",
            "Give a number from 0.5 to below 1, as in --confidence 0.999.",
        )
    if not 0 < faulty <= 0.5:
        raise _wrong(
            f"{faulty:g} is no share of faulty volunteers to reckon with.",
            "Give a number above 0, and 0.5 at most, as in --assume-faulty 0.1.",
        )
    error_ppb = _parts(1 - Decimal(str(theta)), 10**9)
    faulty_ppm = max(1, _parts(Decimal(str(faulty)), 10**6))
    if error_ppb < 1:
        raise _wrong(
            f"A confidence of {theta!r} is more than can be shown.",
            "0.999999999 is the most.",
        )
    needed = replicas_missing({}, 0, faulty_ppm, error_ppb)
    most = REPLICAS_MAX if needed is None else min(REPLICAS_MAX, 2 * needed + 3)
    stop = Confidence(error_ppb, faulty_ppm, _given(request.replicas_max, most))
    check_bounds(stop)
    return stop


def shortage(stop: StopRule) -> str:
    """Why a first job, whose volunteers nobody knows, cannot be decided; empty if it can."""
    if isinstance(stop, FixedQuorum):
        return ""
    needed = replicas_missing({}, 0, stop.faulty_ppm, stop.error_ppb)
    if needed is not None and needed <= stop.replicas_max:
        return ""
    votes = f"{needed} votes" if needed is not None else f"more than {REPLICAS_MAX} votes"
    return (
        f"volunteers without a record are believed only after {votes} that agree, and a unit has "
        f"{stop.replicas_max} replicas at most: units will fail. Raise --replicas-max, or lower "
        "--confidence or --assume-faulty"
    )


def comparison_of(
    request: SubmitRequest, outputs: bytes, signature: ModelSignature
) -> tuple[Comparison, tuple[str, ...]]:
    """How answers are compared, and what to warn of.

    ``outputs`` is the result of one unit, ``signature`` that of its model. Reads all of ``outputs``
    where a tolerance is asked for: call it in a thread. Raises :class:`P2pfleetError` if an output
    is named twice, or for warnings with ``strict``.
    """
    if not request.tolerance and not request.tolerances:
        return Exact(), ()
    named = {one.name: one for one in request.tolerances}
    if len(named) < len(request.tolerances):
        raise _wrong("--tolerance names an output twice.", "Name each output once.")
    chosen = {one.name: one for one in suggested(outputs).outputs} | named
    tolerance = Tolerance(tuple(chosen[name] for name in sorted(chosen)))
    dtypes = {spec.name: spec.dtype for spec in signature.outputs}
    warnings = []
    for name in misplaced(tolerance, dtypes):
        why = (
            f"it is {dtypes[name]}, compared value by value" if name in dtypes else "there is none"
        )
        warnings.append(f"--tolerance for the output {name!r} sets nothing: {why}")
    if not set(dtypes.values()) & set(FLOATS):
        warnings.append("--tolerance sets nothing: no output of the model is floating")
    if warnings and request.strict:
        raise _wrong(
            f"The job was not published: {'; '.join(warnings)}.",
            "The floating outputs are: "
            + (", ".join(repr(name) for name, dtype in dtypes.items() if dtype in FLOATS) or "none")
            + ". Without --strict it is published all the same.",
        )
    return tolerance, tuple(f"{text}." for text in warnings)


def audit_ppm(request: SubmitRequest) -> int:
    """The share of units that are executed once more, in millionths."""
    share = request.audit
    if share is None:
        share = 0.0 if request.confidence is None else AUDIT
    if not 0 <= share <= 1:
        raise _wrong(
            f"{share:g} is no share of units to audit.",
            "Give a number from 0 to 1, as in --audit 0.1.",
        )
    return _parts(Decimal(str(share)), 10**6)


def shards_of(request: SubmitRequest, units: int, volunteers: int) -> int:
    """In how many shards a job of ``units`` is worked on, where ``volunteers`` are seen.

    Raises :class:`P2pfleetError` if what is asked for is out of bounds.
    """
    if request.shards is None:
        return count_for(volunteers, units)
    if not 1 <= request.shards <= MAX_SHARDS:
        raise _wrong(
            f"A job cannot be parted into {request.shards} shards.",
            f"Give --shards a number from 1 to {MAX_SHARDS}: about one for each {CROWD} "
            "volunteers that you expect.",
        )
    if request.shards > units:
        raise _wrong(
            f"A job of {units} units cannot be parted into {request.shards} shards.",
            "Give --shards at most the number of units, or leave it out.",
        )
    return request.shards


def window_ms(request: SubmitRequest) -> int:
    """How long others are waited for before a commitment is revealed, in milliseconds.

    Raises :class:`P2pfleetError` if it is out of bounds.
    """
    if request.window_s is None:
        return Trust().window_ms
    least, most = WINDOW_MIN_MS / 1000, WINDOW_MAX_MS / 1000
    if not least <= request.window_s <= most:
        raise _wrong(
            f"Volunteers cannot wait {request.window_s:g} s for each other.",
            f"Give --window a number from {least:g} to {most:g} seconds; longer than one unit "
            "takes the slowest volunteer is of no use.",
        )
    return round(request.window_s * 1000)


def check_ringers(request: SubmitRequest) -> None:
    """Raises :class:`P2pfleetError` if more ringers are asked for than can be told."""
    if request.ringers is not None and not 0 <= request.ringers <= RINGERS_MAX:
        raise _wrong(
            f"{request.ringers} ringers cannot be had.", f"Ask for 0 to {RINGERS_MAX} of them."
        )


def told(manifest: Manifest, ringers: int) -> dict[str, Any]:
    """The terms of a job in plain words and numbers, for people and programs."""
    stop, comparison, trust = manifest.stop, manifest.comparison, manifest.trust
    decided: Mapping[str, Any]
    if isinstance(stop, FixedQuorum):
        decided = {"stop": "quorum", "quorum": stop.quorum}
    else:
        decided = {
            "stop": "confidence",
            "confidence": float(1 - Decimal(stop.error_ppb) / 10**9),
            "assume_faulty": stop.faulty_ppm / 10**6,
        }
    tolerances = comparison.outputs if isinstance(comparison, Tolerance) else ()
    return {
        **decided,
        "replicas_max": stop.replicas_max,
        "comparison": "exact" if isinstance(comparison, Exact) else "tolerance",
        "tolerances": {
            one.name: [float(Decimal(one.absolute).scaleb(-12)), one.relative / 10**9]
            for one in tolerances
        },
        "audit": trust.audit_ppm / 10**6,
        "ringers": ringers,
        "model_class": trust.model_class,
        "snapshot": None if trust.snapshot is None else trust.snapshot.hex(),
        "crowd": trust.crowd,
        "window_s": trust.window_ms / 1000,
        "work": manifest.work,
    }


def check_bounds(value: Limits | StopRule | Trust | Manifest) -> None:
    """Hold a value of our own making against the bounds that its receivers will enforce.

    Raises :class:`P2pfleetError`.
    """
    try:
        msgspec.msgpack.decode(encode(value), type=type(value))
    except (msgspec.ValidationError, OverflowError) as error:
        raise P2pfleetError(
            f"The job cannot be published: {error}.",
            "Choose a value within the bounds (p2pfleet submit --help).",
            ExitCode.USAGE,
        ) from error


def _parts(share: Decimal, whole: int) -> int:
    """``share`` of ``whole``, rounded down: never more is forgiven than was asked for."""
    return int((share * whole).to_integral_value(ROUND_FLOOR))


def _rounded(value: float, times: int, option: str) -> int:
    if not math.isfinite(value):
        raise _wrong(f"{option} {value} is no number to reckon with.", _HELP)
    return round(value * times)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _wrong(message: str, advice: str) -> P2pfleetError:
    return P2pfleetError(message, advice, ExitCode.USAGE)
