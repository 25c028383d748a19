"""Signing without keys: a signature here is 64 bytes that follow from the signer's id.

Whoever knows an id could sign for it; no adversary of the simulator does. What a receiver checks
beside the signature (canonical bytes, the signer that the body names) is checked as it is by a real
node.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from p2pfleet.core import events as ev
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, FrameHash, PeerId
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import (
    Verified,
    VerifiedAcceptance,
    VerifiedAdmission,
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


def peer_of(name: str) -> PeerId:
    """The identity of the machine of this name."""
    return PeerId(hashlib.sha256(b"p2pfleet simulated machine:" + name.encode()).digest())


@lru_cache(4096)
def signature_of(signer: PeerId) -> bytes:
    """The 64 bytes that stand for a signature of ``signer``."""
    return hashlib.sha512(b"p2pfleet simulated signature:" + signer).digest()


def seal(body: ms.SignedBody) -> ms.Sealed:
    """Sign a body with the key of whom it names."""
    signer = ms.signer_of(body)
    return ms.Sealed(encode(body), signer, signature_of(signer))


@lru_cache(65536)
def unseal(sealed: ms.Sealed) -> Verified:
    """What verification makes of a sealed body. Raises :class:`Malformed`."""
    return _unseal_as(sealed, ms.SignedBody)


def _unseal_as(sealed: ms.Sealed, kind: Any) -> Verified:
    if sealed.signature != signature_of(sealed.signer):
        raise Malformed("the signature does not match")
    body: ms.SignedBody = decode(sealed.body, kind, MAX_FRAME_BYTES)
    if sealed.signer != ms.signer_of(body):
        raise Malformed("signed by somebody else than it names")
    match body:
        case ms.Frame():
            return VerifiedFrame(sealed, FrameHash(sealed.hash), body)
        case ms.Manifest():
            return VerifiedManifest(sealed, ms.job_id(sealed), body)
        case ms.Closure():
            return VerifiedClosure(sealed, body)
        case ms.PeerRecord():
            return VerifiedRecord(sealed, body)
        case ms.Requirement():
            return VerifiedRequirement(sealed, body)
        case ms.Snapshot():
            return VerifiedSnapshot(sealed, Digest(sealed.hash), body)
        case ms.JobsRecord():
            return VerifiedJobsRecord(sealed, body)
        case ms.Receipt():
            return VerifiedReceipt(sealed, body)
        case ms.Members():
            return VerifiedMembers(sealed, body)
        case ms.Invitation():
            return VerifiedInvitation(sealed, body)
        case ms.Admission():
            return admission_around(sealed, body, _unseal_as(body.invitation, ms.Invitation))
        case ms.Acceptance():
            return acceptance_around(sealed, body, _unseal_as(body.admission, ms.Admission))


def signed(me: PeerId, body: ms.SignedBody) -> ev.Event:
    """The event by which a node gets back what it wanted signed."""
    verified = unseal(seal(body))
    if isinstance(verified, VerifiedRecord):
        return ev.RecordSigned(verified)
    event = delivered(me, verified)
    assert event is not None
    return event


def delivered(source: PeerId, verified: Verified) -> ev.Event | None:
    """The event by which a node hears of a signed body."""
    match verified:
        case VerifiedFrame():
            return ev.FrameReceived(source, verified)
        case VerifiedManifest():
            return ev.ManifestReceived(source, verified)
        case VerifiedClosure():
            return ev.ClosureReceived(source, verified)
        case VerifiedRequirement():
            return ev.RequirementReceived(source, verified)
        case VerifiedSnapshot():
            return ev.SnapshotReceived(source, verified)
        case VerifiedJobsRecord():
            return ev.JobsRecordReceived(source, verified)
        case VerifiedRecord():
            return ev.RecordReceived(source, verified)
        case VerifiedReceipt():
            return ev.ReceiptReceived(source, verified)
        case VerifiedMembers():
            return ev.MembersReceived(source, verified)
        case VerifiedAcceptance():
            return ev.AcceptanceReceived(source, verified)
        case VerifiedRecord() | VerifiedInvitation() | VerifiedAdmission():
            return None


def heard(source: PeerId, message: ms.Message) -> ev.Event | None:
    """What a stream message of ``source`` means to the core; ``None``: refused before it."""
    match message:
        case ms.Deliver(sealed=sealed):
            return delivered(source, unseal(sealed))
        case ms.Hello(record=sealed):
            record = unseal(sealed)
            if not isinstance(record, VerifiedRecord) or record.record.peer != source:
                return None
            return ev.HelloReceived(source, record)
        case ms.JobsSummary(open=open_jobs, closed=closed):
            return ev.JobsSummaryReceived(source, open_jobs, closed)
        case ms.FramesSummary(job=job, positions=positions, snapshot=snapshot):
            return ev.FramesSummaryReceived(
                source, job, positions, snapshot, message.shard, message.serving, message.whole
            )
        case ms.ShardsSummary(job=job, rows=rows):
            return ev.ShardsSummaryReceived(source, job, rows)
        case ms.Wanted(job=job, units=units):
            return ev.WantedReceived(source, job, units)
        case ms.Goodbye(oldest=oldest, newest=newest):
            return ev.VersionsDiffer(source, oldest, newest, told=True)
        case ms.RosterSummary():
            return ev.RosterSummaryReceived(source, message)
        case ms.Proof(first=first, second=second):
            one, two = unseal(first), unseal(second)
            if not isinstance(one, VerifiedFrame) or not isinstance(two, VerifiedFrame):
                return None
            return ev.ProofReceived(source, one, two)
