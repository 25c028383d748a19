"""Signed bodies whose signature has been checked.

Only the runtime's verification makes these (and the store's recovery, from bytes that it wrote
itself after verification); the core takes nothing else from the network.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.wire.messages import (
    Closure,
    Frame,
    Manifest,
    PeerRecord,
    Receipt,
    Requirement,
    Sealed,
    Snapshot,
)


class VerifiedManifest(msgspec.Struct, frozen=True, tag="manifest"):
    """A manifest signed by the publisher it names; ``job`` is its id."""

    sealed: Sealed
    job: JobId
    manifest: Manifest


class VerifiedClosure(msgspec.Struct, frozen=True, tag="closure"):
    """A closure signed by the publisher it names."""

    sealed: Sealed
    closure: Closure


class VerifiedRecord(msgspec.Struct, frozen=True, tag="record"):
    """A peer record signed by the peer it names."""

    sealed: Sealed
    record: PeerRecord


class VerifiedRequirement(msgspec.Struct, frozen=True, tag="requirement"):
    """A requirement signed by the owner it names, who need not be the network's."""

    sealed: Sealed
    requirement: Requirement


class VerifiedSnapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """A trust snapshot signed by the publisher it names; ``hash`` is its name."""

    sealed: Sealed
    hash: Digest
    snapshot: Snapshot


class VerifiedReceipt(msgspec.Struct, frozen=True, tag="receipt"):
    """A receipt signed by the publisher it names."""

    sealed: Sealed
    receipt: Receipt


class VerifiedFrame(msgspec.Struct, frozen=True, tag="frame"):
    """A frame signed by the author it names."""

    sealed: Sealed
    hash: FrameHash
    frame: Frame

    @property
    def author(self) -> PeerId:
        return self.frame.author


Verified = (
    VerifiedManifest
    | VerifiedClosure
    | VerifiedRecord
    | VerifiedRequirement
    | VerifiedFrame
    | VerifiedSnapshot
    | VerifiedReceipt
)
