"""What a machine asks the runtime to do, in the order in which it must happen.

A :class:`Write` is durable before any later effect of the same or a later event is carried out:
durable before announced.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.model.ids import Cid, JobId, PeerId
from p2pfleet.core.model.job import BlobRef, Limits
from p2pfleet.core.wire.messages import Entry, Message, Sealed


class _Effect(msgspec.Struct, frozen=True):
    pass


# ---- writes ----------------------------------------------------------------------------------


class SaveJob(_Effect, frozen=True, tag="SaveJob"):
    """A job that this node publishes (``own``) or takes notice of."""

    job: JobId
    manifest: Sealed
    own: bool


class CloseJob(_Effect, frozen=True, tag="CloseJob"):
    """The job needs no more work. ``state``: completed, cancelled, expired."""

    job: JobId
    state: str
    closure: Sealed | None


class SaveFrame(_Effect, frozen=True, tag="SaveFrame"):
    """A verified frame of a job that matters to this node. Saving it twice changes nothing."""

    job: JobId
    frame: Sealed


class UnitRow(_Effect, frozen=True):
    """The ledger line of one unit.

    ``state``: certified, settled, contested, failed. ``detail``: the canonical certificate, or for
    a failed unit the reason as UTF-8.
    """

    unit: int
    state: str
    detail: bytes


class SaveUnits(_Effect, frozen=True, tag="SaveUnits"):
    """Ledger lines; each replaces the unit's earlier one."""

    job: JobId
    rows: tuple[UnitRow, ...]


class Judgement(_Effect, frozen=True):
    """A certificate agreed with, or contradicted, a peer's vote on a unit."""

    unit: int
    peer: PeerId
    agreed: bool


class SaveJudgements(_Effect, frozen=True, tag="SaveJudgements"):
    """Movements of records. A (job, unit, peer) counts once; later ones replace earlier ones."""

    job: JobId
    rows: tuple[Judgement, ...]


class ForgetJob(_Effect, frozen=True, tag="ForgetJob"):
    """Drop the frames and the ledger of a job; its judgements stay."""

    job: JobId


Write = SaveJob | CloseJob | SaveFrame | SaveUnits | SaveJudgements | ForgetJob
