"""Values for tests of the core: identities, signed bodies (with a fake signature), their events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from p2pfleet.core.model.job import Comparison, Exact, FixedQuorum, Limits, StopRule, Trust
from p2pfleet.core.rules import commitment as rule
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import (
    Verified,
    VerifiedAcceptance,
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


def output_of(answer: Digest) -> bytes:
    """What stands for the bytes of the output with this digest."""
    return b"output of " + answer


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
    stop: StopRule | None = None,
    comparison: Comparison | None = None,
    trust: Trust | None = None,
) -> ms.Manifest:
    """A job; results count by ``quorum`` and ``replicas_max`` unless a ``stop`` rule is given."""
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
        comparison=Exact() if comparison is None else comparison,
        stop=FixedQuorum(quorum, replicas_max) if stop is None else stop,
        shards=shards,
        lease_ms=lease_ms,
        issued_ms=issued_ms,
        expires_ms=issued_ms + lasts_ms,
        salt=b"0123456789abcdef",
        trust=Trust() if trust is None else trust,
    )


def record(
    of: PeerId,
    network: NetworkId = NETWORK,
    roles: tuple[str, ...] = ("volunteer",),
    capability: Capability = CAPABILITY,
    sequence: int = 1,
    issued_ms: int = WALL_MS,
) -> VerifiedRecord:
    """What a peer says of itself for an hour."""
    times = (sequence, issued_ms, issued_ms + 3_600_000)
    body = ms.PeerRecord(network, of, *times, "test", roles, 1, (), capability)
    verified: VerifiedRecord = unseal(seal(body))
    return verified


def snapshot(
    records: Mapping[PeerId, int],
    number: int = 1,
    publisher: PeerId = PAULA,
    network: NetworkId = NETWORK,
    model_class: str = "any",
) -> VerifiedSnapshot:
    """A trust snapshot: of each peer, how many checks it has passed."""
    rows = tuple(ms.PeerChecks(who, records[who]) for who in sorted(records))
    body = ms.Snapshot(network, publisher, model_class, number, WALL_MS, rows)
    verified: VerifiedSnapshot = unseal(seal(body))
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
        case ms.Snapshot():
            verified = VerifiedSnapshot(sealed, Digest(sealed.hash), body)
        case ms.JobsRecord():
            verified = VerifiedJobsRecord(sealed, body)
        case ms.Receipt():
            verified = VerifiedReceipt(sealed, body)
        case ms.Members():
            verified = VerifiedMembers(sealed, body)
        case ms.Invitation():
            verified = VerifiedInvitation(sealed, body)
        case ms.Admission():
            verified = admission_around(sealed, body, unseal(body.invitation))
        case ms.Acceptance():
            verified = acceptance_around(sealed, body, unseal(body.admission))
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
        case VerifiedJobsRecord() as verified:
            return ev.JobsRecordReceived(source, verified)
        case VerifiedReceipt() as verified:
            return ev.ReceiptReceived(source, verified)
        case VerifiedSnapshot() as verified:
            return ev.SnapshotReceived(source, verified)
        case VerifiedMembers() as verified:
            return ev.MembersReceived(source, verified)
        case VerifiedAcceptance() as verified:
            return ev.AcceptanceReceived(source, verified)
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
    """A reveal by itself: it opens a commitment that nobody made."""
    item = ms.RevealItem(unit, 0, answer, length)
    return ms.Reveal(FrameHash(sha256(b"no commitment")), 0, sha256(b"seed"), (item,), ())


class Voter:
    """A peer that answers by hand: it writes frames of one job, commits first and reveals then."""

    def __init__(self, me: PeerId, job: JobId, incarnation: int = 1) -> None:
        self.me, self.job, self.incarnation = me, job, incarnation
        self.sequence = 0
        self.made: dict[FrameHash, tuple[bytes, tuple[ms.RevealItem, ...]]] = {}

    def says(self, *entries: ms.Entry) -> VerifiedFrame:
        """Its next frame."""
        self.sequence += 1
        return frame(
            self.me,
            *entries,
            job=self.job,
            sequence=self.sequence - 1,
            incarnation=self.incarnation,
        )

    def commits(
        self,
        answers: Mapping[int, Digest],
        attempt: int = 0,
        length: int = OUTPUT_BYTES,
        held: Digest | None = None,
    ) -> VerifiedFrame:
        """Commit to an answer a unit; to the bytes of ``held`` instead, if they are others."""
        seed = sha256(self.me + self.job + bytes([self.incarnation % 256, self.sequence % 256]))
        items = tuple(ms.RevealItem(unit, attempt, answers[unit], length) for unit in answers)
        made = tuple(
            ms.CommitItem(
                item.unit,
                attempt,
                rule.commitment(
                    NETWORK,
                    self.job,
                    item.unit,
                    attempt,
                    self.me,
                    seed,
                    output_of(held or item.digest),
                ),
            )
            for item in items
        )
        written = self.says(ms.Commit(rule.seed_hash(seed), made))
        self.made[written.hash] = (seed, items)
        return written

    def opening(
        self, commit: VerifiedFrame, seen: Iterable[VerifiedFrame] = (), **changed: Digest
    ) -> ms.Reveal:
        """The reveal of what it committed to in a frame, having seen others' ``seen``; of another
        digest if one is given."""
        seed, items = self.made[commit.hash]
        if changed:
            items = tuple(
                ms.RevealItem(item.unit, item.attempt, changed["digest"], item.length)
                for item in items
            )
        names = tuple(sorted({commit.hash, *(each.hash for each in seen)}))
        return ms.Reveal(commit.hash, 0, seed, items, names)

    def reveals(
        self, commit: VerifiedFrame, seen: Iterable[VerifiedFrame] = (), **changed: Digest
    ) -> VerifiedFrame:
        """The same as its next frame."""
        return self.says(self.opening(commit, seen, **changed))


class Poll:
    """Those who vote on a job by hand, each with frames of its own."""

    def __init__(self, job: JobId) -> None:
        self.job = job
        self.voters: dict[PeerId, Voter] = {}

    def __getitem__(self, who: PeerId) -> Voter:
        return self.voters.setdefault(who, Voter(who, self.job))

    def closed(
        self, said: Mapping[PeerId, Mapping[int, Digest]], attempt: int = 0, **how: Any
    ) -> list[VerifiedFrame]:
        """Commitments of everybody, then their reveals, each having seen all of them."""
        made = {who: self[who].commits(said[who], attempt, **how) for who in said}
        seen = list(made.values())
        return [*seen, *(self[who].reveals(commit, seen) for who, commit in made.items())]


SAMPLE: VerifiedManifest = unseal(seal(manifest()))
