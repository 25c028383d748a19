"""A job: a publisher's signed request, and the table of its units."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.core.model.ids import Cid, CidField, DigestField

MAX_UNITS = 1_000_000
MAX_PACKS = 1_024
MAX_BLOB_BYTES = 16 * 2**30
MAX_EXPIRY_MS = 30 * 24 * 3600 * 1000

UnitIndex = Annotated[int, Meta(ge=0, lt=MAX_UNITS)]
Bytes = Annotated[int, Meta(ge=0, le=MAX_BLOB_BYTES)]


class Limits(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one unit may use at most; the owner's own limits apply too, the smaller wins."""

    memory_bytes: Annotated[int, Meta(ge=2**20, le=2**40)]
    cpu_ms: Annotated[int, Meta(ge=1, le=24 * 3600 * 1000)]
    output_bytes: Annotated[int, Meta(ge=1, le=2**32)]


class Exact(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="exact"):
    """Outputs are compared byte for byte."""


Comparison = Exact


class FixedQuorum(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="quorum"
):
    """Stop when ``quorum`` peers voted for one digest; give up after ``replicas_max`` replicas."""

    quorum: Annotated[int, Meta(ge=1, le=32)]
    replicas_max: Annotated[int, Meta(ge=1, le=64)]


StopRule = FixedQuorum


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
