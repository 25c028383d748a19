"""Values for tests of the core: identities, signed bodies (with a fake signature), their events."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from p2pfleet.core import events as ev
from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import (
    Cid,
    Digest,
    FrameHash,
    JobId,
    NetworkId,
    PeerId,
    cid_of,
    sha256,
)
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import (
    Verified,
    VerifiedClosure,
    VerifiedFrame,
    VerifiedManifest,
    VerifiedRecord,
    VerifiedRequirement,
)

NETWORK = NetworkId(sha256(b"the network of these tests"))
WALL_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000
OUTPUT_BYTES = 100
CAPABILITY = Capability("A", sha256(b"a numeric class"), "1.32.0")
CONSENT = Consent(CAPABILITY)


def peer(name: str) -> PeerId:
    """The identity of a node of this name."""
    return PeerId(sha256(name.encode()))


ALICE, BOB, CAROL, DAVE, MALLORY, PAULA = map(
    peer, ("alice", "bob", "carol", "dave", "mallory", "paula")
)
OWNER = peer("the network's owner")


def digest(text: str) -> Digest:
    return Digest(sha256(text.encode()))


GOOD, BAD, UGLY = map(digest, ("good", "bad", "ugly"))


def honest(job: JobId, unit: int) -> Digest:
    """The right answer of the cluster's jobs."""
    return Digest(sha256(job + unit.to_bytes(8, "big")))


def manifest(
    publisher: PeerId = PAULA,
    units: int = 10,
    quorum: int = 2,
    replicas_max: int = 8,
    issued_ms: int = WALL_MS,
    lasts_ms: int = DAY_MS,
    lease_ms: int = 10_000,
    network: NetworkId = NETWORK,
    name: str = "sample",
    shards: int = 1,
) -> ms.Manifest:
    cid: Cid = cid_of(b"model")
    return ms.Manifest(
        network=network,
        publisher=publisher,
        name=name,
        model=cid,
        model_bytes=1000,
        table=cid,
        table_bytes=1000,
        units=units,
        total_bytes=2000,
        limits=Limits(2**28, 60_000, 10_000),
        comparison=Exact(),
        stop=FixedQuorum(quorum, replicas_max),
        shards=shards,
        lease_ms=lease_ms,
        issued_ms=issued_ms,
        expires_ms=issued_ms + lasts_ms,
        salt=b"0123456789abcdef",
    )


def record(
    of: PeerId,
    network: NetworkId = NETWORK,
    roles: tuple[str, ...] = ("volunteer",),
    capability: Capability = CAPABILITY,
) -> VerifiedRecord:
    """What a peer says of itself for an hour from ``WALL_MS`` on."""
    body = ms.PeerRecord(
        network, of, 1, WALL_MS, WALL_MS + 3_600_000, "test", roles, 1, (), capability
    )
    verified: VerifiedRecord = unseal(seal(body))
    return verified


def requirement(
    onnxruntime: str,
    sequence: int = 1,
    owner: PeerId = OWNER,
    network: NetworkId = NETWORK,
) -> VerifiedRequirement:
    """What the network's owner asks for."""
    body = ms.Requirement(network, owner, sequence, WALL_MS, onnxruntime)
    verified: VerifiedRequirement = unseal(seal(body))
    return verified


def seal(body: ms.SignedBody) -> ms.Sealed:
    """Sign with the fake: 64 zero bytes."""
    return ms.Sealed(encode(body), ms.signer_of(body), bytes(64))


@lru_cache(65536)
def unseal(sealed: ms.Sealed) -> Any:
    """What the runtime's verification makes of a sealed body (a ``Verified``)."""
    body = decode(sealed.body, ms.SignedBody, MAX_FRAME_BYTES)
    assert sealed.signer == ms.signer_of(body)
    verified: Verified
    match body:
        case ms.Manifest():
            verified = VerifiedManifest(sealed, ms.job_id(sealed), body)
        case ms.Closure():
            verified = VerifiedClosure(sealed, body)
        case ms.PeerRecord():
            verified = VerifiedRecord(sealed, body)
        case ms.Requirement():
            verified = VerifiedRequirement(sealed, body)
        case _:
            verified = VerifiedFrame(sealed, FrameHash(sealed.hash), body)
    return verified


def received(source: PeerId, sealed: ms.Sealed) -> ev.Event:
    """The event by which a node hears of a signed body."""
    match unseal(sealed):
        case VerifiedManifest() as verified:
            return ev.ManifestReceived(source, verified)
        case VerifiedClosure() as verified:
            return ev.ClosureReceived(source, verified)
        case VerifiedFrame() as verified:
            return ev.FrameReceived(source, verified)
        case VerifiedRequirement() as verified:
            return ev.RequirementReceived(source, verified)
        case verified:
            return ev.RecordSigned(verified)


def frame(
    author: PeerId,
    *entries: ms.Entry,
    job: JobId | None = None,
    sequence: int = 0,
    incarnation: int = 1,
    network: NetworkId = NETWORK,
) -> VerifiedFrame:
    """A verified frame; of the sample job unless told otherwise."""
    body = ms.Frame(network, job or SAMPLE.job, author, incarnation, sequence, entries)
    verified: VerifiedFrame = unseal(seal(body))
    return verified


def vote(unit: int, answer: Digest, length: int = OUTPUT_BYTES) -> ms.Reveal:
    return ms.Reveal(unit, 0, answer, length)


SAMPLE: VerifiedManifest = unseal(seal(manifest()))
