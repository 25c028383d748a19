"""Signed bodies whose signature has been checked.

Only the runtime's verification makes these (and the store's recovery, from bytes that it wrote
itself after verification); the core takes nothing else from the network.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.wire.messages import (
    Acceptance,
    Admission,
    Closure,
    Frame,
    Invitation,
    JobsRecord,
    Manifest,
    Members,
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


class VerifiedJobsRecord(msgspec.Struct, frozen=True, tag="jobs"):
    """A jobs record signed by the publisher it names."""

    sealed: Sealed
    record: JobsRecord


class VerifiedFrame(msgspec.Struct, frozen=True, tag="frame"):
    """A frame signed by the author it names."""

    sealed: Sealed
    hash: FrameHash
    frame: Frame

    @property
    def author(self) -> PeerId:
        return self.frame.author


class VerifiedMembers(msgspec.Struct, frozen=True, tag="members"):
    """A page of members signed by the owner it names, who need not be the network's."""

    sealed: Sealed
    members: Members


class VerifiedInvitation(msgspec.Struct, frozen=True, tag="invitation"):
    """An invitation signed by the owner it names, who need not be the network's."""

    sealed: Sealed
    invitation: Invitation


class VerifiedAdmission(msgspec.Struct, frozen=True, tag="admission"):
    """An admission signed by the key of the invitation in it, which is signed as well."""

    sealed: Sealed
    admission: Admission
    invitation: Invitation


class VerifiedAcceptance(msgspec.Struct, frozen=True, tag="acceptance"):
    """An acceptance signed by the peer it names, of an admission that is signed as well."""

    sealed: Sealed
    acceptance: Acceptance
    admission: Admission
    invitation: Invitation

    @property
    def peer(self) -> PeerId:
        """Whom it is about."""
        return self.admission.peer


Verified = (
    VerifiedManifest
    | VerifiedClosure
    | VerifiedRecord
    | VerifiedRequirement
    | VerifiedFrame
    | VerifiedSnapshot
    | VerifiedReceipt
    | VerifiedMembers
    | VerifiedInvitation
    | VerifiedAdmission
    | VerifiedAcceptance
    | VerifiedJobsRecord
)


def admission_around(sealed: Sealed, body: Admission, inside: Verified) -> VerifiedAdmission:
    """An admission with what is inside it. Raises :class:`Malformed` if that is another's."""
    if not isinstance(inside, VerifiedInvitation):
        raise Malformed("the admission holds no invitation")
    invitation = inside.invitation
    if invitation.key != body.key or invitation.network != body.network:
        raise Malformed("the admission holds the invitation of another key or network")
    return VerifiedAdmission(sealed, body, invitation)


def acceptance_around(sealed: Sealed, body: Acceptance, inside: Verified) -> VerifiedAcceptance:
    """An acceptance with the admission inside it. Raises :class:`Malformed` if that is none."""
    if not isinstance(inside, VerifiedAdmission) or inside.admission.network != body.network:
        raise Malformed("the acceptance holds no admission to its network")
    return VerifiedAcceptance(sealed, body, inside.admission, inside.invitation)
