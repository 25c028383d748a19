"""A job: a publisher's signed request, and the table of its units."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Cid, CidField, DigestField

MAX_UNITS = 1_000_000
MAX_SHARDS = 4_096
MAX_PACKS = 1_024
MAX_BLOB_BYTES = 16 * 2**30
MAX_EXPIRY_MS = 30 * 24 * 3600 * 1000
WINDOW_MIN_MS = 100
WINDOW_MAX_MS = 3_600_000

UnitIndex = Annotated[int, Meta(ge=0, lt=MAX_UNITS)]
ShardIndex = Annotated[int, Meta(ge=0, lt=MAX_SHARDS)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_BLOB_BYTES)]


class Limits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one unit may use at most; the owner's own limits apply too, the smaller wins."""

    memory_bytes: Annotated[int, Meta(ge=2**20, le=2**40)]
    cpu_ms: Annotated[int, Meta(ge=1, le=24 * 3600 * 1000)]
    output_bytes: Annotated[int, Meta(ge=1, le=2**32)]


class Exact(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="exact"):
    """Outputs are compared byte for byte."""


Comparison = Exact | Tolerance


class FixedQuorum(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="quorum"
):
    """Stop when ``quorum`` peers voted for one digest; give up after ``replicas_max`` replicas."""

    quorum: Annotated[int, Meta(ge=1, le=32)]
    replicas_max: Annotated[int, Meta(ge=1, le=64)]


class Confidence(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="confidence"
):
    """Stop when one digest is credible enough; give up after ``replicas_max`` replicas.

    ``error_ppb`` is the accepted error 1 - theta in billionths, ``faulty_ppm`` the share of peers
    that the publisher takes for faulty, in millionths.
    """

    error_ppb: Annotated[int, Meta(ge=1, le=500_000_000)]
    faulty_ppm: Annotated[int, Meta(ge=1, le=500_000)]
    replicas_max: Annotated[int, Meta(ge=1, le=64)]


StopRule = FixedQuorum | Confidence


class Trust(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How the answers of a job come to be trusted.

    ``model_class`` is the publisher's name for the kind of work: records are kept by it.
    ``snapshot`` is the hash of the trust snapshot that weighs votes at first; without one every
    peer is a newcomer. ``ringers`` is the hash over the units whose answers the publisher already
    knows, opened at the end. ``audit_ppm`` of all certified units are executed once more, in
    millionths. ``crowd`` is the publisher's guess of how many volunteers there are, ``step_ms``
    the time after which twice as many become eligible for a unit, ``window_ms`` how long others
    are waited for before a commitment is revealed.
    """

    model_class: Annotated[str, Meta(min_length=1, max_length=64)] = "any"
    snapshot: DigestField | None = None
    ringers: DigestField | None = None
    audit_ppm: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    crowd: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    step_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 2_000
    window_ms: Annotated[int, Meta(ge=WINDOW_MIN_MS, le=WINDOW_MAX_MS)] = 5_000


class UnitInput(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a unit's input lies: pack number, offset and length in bytes, and its SHA-256."""

    pack: Annotated[int, Meta(ge=0, lt=MAX_PACKS)]
    offset: Bytes
    length: Bytes
    sha256: DigestField


class UnitTable(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The inputs of all units, in the order of their numbers. A blob, named by the manifest."""

    packs: Annotated[tuple[CidField, ...], Meta(min_length=1, max_length=MAX_PACKS)]
    units: Annotated[tuple[UnitInput, ...], Meta(min_length=1, max_length=MAX_UNITS)]


class BlobRef(msgspec.Struct, frozen=True, array_like=True):
    """A range of a blob that is wanted, and what proves that the right bytes came.

    ``cid`` is the blob (a model, a table, a pack, or a single output), ``offset`` and ``length``
    the range in bytes, ``sha256`` the hash of that range.
    """

    cid: Cid
    offset: int
    length: int
    sha256: bytes
