"""Seals and opens signed bodies: the only place that touches signatures.

A signature covers the bytes as sent, behind a prefix that no other use of the key shares. Opening
also checks that the body names its signer, so that nobody signs in another's name.
"""

from __future__ import annotations

from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from p2pfleet.core.errors import BadSignature, Malformed
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import (
    SIGNATURE_PREFIX,
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
    SignedBody,
    Snapshot,
    signer_of,
)
from p2pfleet.core.wire.names import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from p2pfleet.core.wire.verified import (
    Verified,
    VerifiedClosure,
    VerifiedFrame,
    VerifiedInvitation,
    VerifiedJobsRecord,
    VerifiedManifest,
    VerifiedMembers,
    VerifiedReceipt,
    VerifiedRecord,
    VerifiedRequirement,
    VerifiedSnapshot,
    acceptance_around,
    admission_around,
)


class Signer:
    """The node's own key."""

    def __init__(self, seed: bytes) -> None:
        """``seed``: the 32 bytes of the identity file."""
        self._key = SigningKey(seed)
        self.peer = PeerId(bytes(self._key.verify_key))

    def seal(self, body: SignedBody) -> Sealed:
        """Sign a body; its canonical bytes are what travels from now on."""
        raw = encode(body)
        assert len(raw) <= MAX_FRAME_BYTES
        return Sealed(raw, self.peer, self._key.sign(SIGNATURE_PREFIX + raw).signature)

    def signed(self, body: SignedBody) -> Verified:
        """The same, for the core: what one signed oneself need not be verified."""
        return _opened(self.seal(body), body)


def open_sealed(sealed: Sealed) -> Verified:
    """Check the signature and decode the body. Raises :class:`Malformed`; safe in any thread."""
    return _open_as(sealed, SignedBody)


def _open_as(sealed: Sealed, kind: Any) -> Verified:
    """The same for a body of a known kind: what is nested in another is never of the other's own
    kind, so that depth and signatures to check are bounded."""
    try:
        VerifyKey(sealed.signer).verify(SIGNATURE_PREFIX + sealed.body, sealed.signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise BadSignature("the signature does not match") from error
    return _opened(sealed, decode(sealed.body, kind, MAX_FRAME_BYTES))


def _opened(sealed: Sealed, body: SignedBody) -> Verified:
    """``body`` with its seal. Raises :class:`Malformed` if somebody signed in another's name."""
    match body:
        case Manifest():
            verified: Verified = VerifiedManifest(sealed, JobId(sealed.hash), body)
        case Closure():
            verified = VerifiedClosure(sealed, body)
        case PeerRecord():
            verified = VerifiedRecord(sealed, body)
        case Requirement():
            verified = VerifiedRequirement(sealed, body)
        case Frame():
            verified = VerifiedFrame(sealed, FrameHash(sealed.hash), body)
        case Snapshot():
            verified = VerifiedSnapshot(sealed, Digest(sealed.hash), body)
        case JobsRecord():
            verified = VerifiedJobsRecord(sealed, body)
        case Receipt():
            verified = VerifiedReceipt(sealed, body)
        case Members():
            verified = VerifiedMembers(sealed, body)
        case Invitation():
            verified = VerifiedInvitation(sealed, body)
        case Admission():
            verified = admission_around(sealed, body, _open_as(body.invitation, Invitation))
        case Acceptance():
            verified = acceptance_around(sealed, body, _open_as(body.admission, Admission))
    if signer_of(body) != sealed.signer:
        raise Malformed("somebody else signed it than the one it names")
    return verified


def open_bytes(data: bytes) -> Verified:
    """The same from the bytes of a :class:`Sealed` (a gossiped announcement)."""
    return open_sealed(decode(data, Sealed, MAX_MESSAGE_BYTES))
