"""The people, the job and the messages that the vectors are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import msgspec

from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.ids import Digest, PeerId, cid_of, sha256
from p2pfleet.core.model.job import (
    Confidence,
    Exact,
    FixedQuorum,
    Limits,
    Trust,
    UnitInput,
    UnitTable,
)
from p2pfleet.core.model.network import NetworkParameters, network_id, network_terms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Acceptance,
    Admission,
    Audit,
    AuthorPosition,
    BlobHeader,
    BlobRequest,
    Certificate,
    Claim,
    Closure,
    Commit,
    CommitItem,
    Deliver,
    Drop,
    Endorse,
    Entry,
    Failure,
    Frame,
    FrameHash,
    FramesSummary,
    Goodbye,
    Hello,
    Invitation,
    JobId,
    JobsRecord,
    JobsSummary,
    Keep,
    Manifest,
    MemberEntry,
    Members,
    NoTicket,
    OpenRingers,
    OwnJob,
    PeerChecks,
    PeerRecord,
    Pieces,
    PiecesRequest,
    Proof,
    Receipt,
    Release,
    Requirement,
    Reveal,
    RevealItem,
    Ringer,
    RosterSummary,
    ShardRow,
    ShardsSummary,
    Snapshot,
    Ticket,
    TicketRequest,
    VoteRef,
    Wanted,
    job_id,
)
from p2pfleet.runtime.signing import Signer

GIB = 2**30
DAY_MS = 24 * 3600 * 1000
ISSUED_MS = 1_800_000_000_000


def seed_of(name: str) -> bytes:
    """The seed of a sample key: anybody can make it, so it is good for nothing else."""
    return sha256(b"p2pfleet vectors: " + name.encode())


BASE = {
    name: Signer(seed_of(name))
    for name in ("publisher", "alice", "bob", "carol", "dave", "erin", "mallory", "owner")
}
PUBLISHER, ALICE, BOB, CAROL, DAVE, ERIN, MALLORY, OWNER = BASE.values()
NETWORK = NetworkParameters("vectors", True)
OTHER_NETWORK = NetworkParameters("elsewhere", True)
OWNED_NETWORK = NetworkParameters("vectors", True, OWNER.peer)
CLOSED_NETWORK = NetworkParameters("vectors", True, OWNER.peer, closed=True)
ID = network_id(NETWORK)
CLOSED_ID = network_id(CLOSED_NETWORK)
# Whoever holds this key was invited.
INVITED = Signer(seed_of("an invitation"))


def _puzzling(name: str, fitting: Sequence[Signer], others: Sequence[Signer]) -> NetworkParameters:
    """The first network of that name and a number that some of the sample keys fit, others not."""
    for number in count():
        found = NetworkParameters(f"{name}-{number}", True, None, 4)
        terms = network_terms(found)
        if all(fits(terms, one.peer) for one in fitting) and not any(
            fits(terms, one.peer) for one in others
        ):
            return found
    raise AssertionError


PUZZLE_NETWORK = _puzzling("puzzle", (PUBLISHER, ALICE), (BOB, MALLORY))
SALT = bytes(range(16))
PACK = bytes(range(80))
TABLE = UnitTable(
    (cid_of(PACK),),
    tuple(UnitInput(0, 10 * at, 10, Digest(sha256(PACK[10 * at :][:10]))) for at in range(8)),
)
MANIFEST = Manifest(
    network=ID,
    publisher=PUBLISHER.peer,
    name="digits, first try",
    model=cid_of(b"a model"),
    model_bytes=7,
    table=cid_of(encode(TABLE)),
    table_bytes=len(encode(TABLE)),
    units=len(TABLE.units),
    total_bytes=len(PACK),
    limits=Limits(512 * 2**20, 60_000, 2**20),
    comparison=Exact(),
    stop=FixedQuorum(2, 5),
    shards=1,
    lease_ms=60_000,
    issued_ms=ISSUED_MS,
    expires_ms=ISSUED_MS + DAY_MS,
    salt=SALT,
)
JOB = job_id(PUBLISHER.seal(MANIFEST))


def frame(author: Signer, entries: Sequence[Entry], sequence: int = 0) -> Frame:
    """A frame of the sample job."""
    return Frame(ID, JOB, author.peer, ISSUED_MS + 5, sequence, tuple(entries))


_LEAST = Manifest(
    network=ID, publisher=PUBLISHER.peer, name="x", model=cid_of(b""), model_bytes=0,
    table=cid_of(b""), table_bytes=0, units=1, total_bytes=0, limits=Limits(2**20, 1, 1),
    comparison=Exact(), stop=FixedQuorum(1, 1), shards=1, lease_ms=1000, issued_ms=0, expires_ms=0,
    salt=bytes(16), trust=Trust("x", None, None, 0, 1, 100, 100), work=0,
)  # fmt: skip
_MOST = Manifest(
    network=ID, publisher=PUBLISHER.peer, name="\U0001f697" * 120, model=cid_of(b""),
    model_bytes=16 * GIB, table=cid_of(b""), table_bytes=16 * GIB, units=1_000_000,
    total_bytes=2**50, limits=Limits(2**40, DAY_MS, 2**32), comparison=Exact(),
    stop=FixedQuorum(32, 64), shards=4096, lease_ms=DAY_MS, issued_ms=2**53 - 1,
    expires_ms=2**53 - 1, salt=b"\xff" * 16, work=2**53 - 1,
    trust=Trust("\U0001f697" * 64, Digest(b"\xff" * 32), Digest(b"\xff" * 32), 10**6, 10**6,
                3_600_000, 3_600_000),
)  # fmt: skip
_ANSWER = Digest(sha256(b"answer"))
_COMMIT = FrameHash(sha256(b"a frame with commitments"))
_SEEN = tuple(sorted(FrameHash(sha256(bytes([number]))) for number in range(3)))
REF = VoteRef(FrameHash(sha256(b"1")), 0, 2)
REVEAL = Reveal(_COMMIT, 1, sha256(b"seed"), (RevealItem(0, 0, _ANSWER, 123),), _SEEN)
COMMIT = Commit(sha256(b"seed hash"), (CommitItem(0, 0, sha256(b"commitment")),))
RINGERS = OpenRingers(sha256(b"secret"), (Ringer(1, _ANSWER), Ringer(3, _ANSWER)))
_EVERYTHING: tuple[Entry, ...] = (
    Claim((0, 1, 2)),
    Release((2,)),
    REVEAL,
    Failure(1, 0, "memory: more than 512 MiB"),
    COMMIT,
    Endorse(3, 1, REF, _ANSWER),
    Keep((_ANSWER,)),
    Drop((_ANSWER,)),
)
TRUSTING = msgspec.structs.replace(
    MANIFEST,
    comparison=Tolerance((OutputTolerance("mean", 1, 0), OutputTolerance("scores", 10**9, 10**7))),
    stop=Confidence(1_000_000, 200_000, 16),
    trust=Trust("vision", Digest(sha256(b"a snapshot")), Digest(sha256(b"ringers")), 50_000, 30),
    work=123_456_789,
)
SNAPSHOT = Snapshot(
    ID, PUBLISHER.peer, "any", 7, ISSUED_MS,
    tuple(PeerChecks(peer, 20) for peer in sorted((ALICE.peer, BOB.peer))),
)  # fmt: skip
BLOBS = tuple(sorted(Digest(sha256(b"blob %d" % number)) for number in range(256)))
JOBS_RECORD = JobsRecord(
    ID, PUBLISHER.peer, ISSUED_MS, ISSUED_MS, ISSUED_MS + DAY_MS, (OwnJob(JOB, ISSUED_MS + DAY_MS),)
)
RECEIPT = Receipt(ID, JOB, PUBLISHER.peer, ALICE.peer, 2, 5, 500, 750, ISSUED_MS)
RECORD = PeerRecord(
    network=ID, peer=ALICE.peer, sequence=ISSUED_MS, issued_ms=ISSUED_MS,
    expires_ms=ISSUED_MS + 3_600_000, software="p2pfleet/0.1.0", roles=("volunteer",), slots=2,
    addresses=("/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWExample",),
    capability=Capability("A", sha256(b"results of probes"), "1.32.0"),
)  # fmt: skip
SEALED_RECORD = ALICE.seal(RECORD)
REQUIREMENT = Requirement(
    network=network_id(OWNED_NETWORK), owner=OWNER.peer, sequence=5, issued_ms=ISSUED_MS,
    onnxruntime="1.32.0",
)  # fmt: skip


def page(number: int, *entries: MemberEntry) -> Members:
    """A page of the closed network's list."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.peer))
    return Members(CLOSED_ID, OWNER.peer, number, 5, ISSUED_MS, ordered)


def invitation(uses: int = 1) -> Invitation:
    """An invitation to the closed network, for a day."""
    return Invitation(
        CLOSED_ID, OWNER.peer, INVITED.peer, "LAB-PC-7", uses, ISSUED_MS, ISSUED_MS + DAY_MS
    )


def admission(who: Signer, uses: int = 1) -> Admission:
    """What somebody shows who was invited."""
    return Admission(CLOSED_ID, INVITED.peer, who.peer, OWNER.seal(invitation(uses)))


def acceptance(by: Signer, who: Signer, later_ms: int = 1, uses: int = 1) -> Acceptance:
    """The word of ``by`` on ``who``, so long after the invitation was made."""
    sealed = INVITED.seal(admission(who, uses))
    return Acceptance(CLOSED_ID, by.peer, ISSUED_MS + later_ms, sealed)


ALICES_PAGE = page(ALICE.peer[0] >> 4, MemberEntry(ALICE.peer, "Alice's machine", True))
VALID_BODIES: tuple[tuple[str, str, Any], ...] = (
    ("body", "a manifest", MANIFEST),
    ("body", "a manifest, everything at its least", _LEAST),
    ("body", "a manifest, everything at its most", _MOST),
    ("body", "a manifest that asks for confidence", TRUSTING),
    ("body", "a manifest with the least confidence", msgspec.structs.replace(
        MANIFEST, stop=Confidence(1, 1, 1), comparison=Tolerance())),
    ("body", "a manifest with the largest error", msgspec.structs.replace(
        MANIFEST, stop=Confidence(500_000_000, 500_000, 64))),
    ("body", "a closure: complete", Closure(ID, JOB, PUBLISHER.peer, True, ISSUED_MS + 9)),
    ("body", "a closure: cancelled", Closure(ID, JOB, PUBLISHER.peer, False, 0)),
    ("body", "a peer record", RECORD),
    ("body", "a peer record, everything at its least",
     PeerRecord(ID, BOB.peer, 0, 0, 0, "", (), 0, (), Capability("none", b"", ""))),
    ("body", "a peer record, everything at its most",
     PeerRecord(ID, BOB.peer, 2**53 - 1, 2**53 - 1, 2**53 - 1, "s" * 64, ("r" * 16,) * 4, 4096,
                ("a" * 200,) * 8, Capability("C", b"\xff" * 32, "v" * 32))),
    ("body", "a requirement", REQUIREMENT),
    ("body", "a requirement, everything at its least", Requirement(ID, OWNER.peer, 0, 0, "0")),
    ("body", "a requirement, everything at its most",
     Requirement(ID, OWNER.peer, 2**53 - 1, 2**53 - 1, ".".join(["999999"] * 4))),
    ("body", "a page of members", ALICES_PAGE),
    ("body", "a page of members, everything at its least", Members(ID, OWNER.peer, 0, 0, 0, ())),
    ("body", "a page of members, everything at its most", Members(
        ID, OWNER.peer, 15, 2**53 - 1, 2**53 - 1,
        (MemberEntry(PeerId(b"\xff" * 32), "\u00fc" * 40, False),))),
    ("body", "an invitation", invitation()),
    ("body", "an invitation, everything at its most", Invitation(
        ID, OWNER.peer, INVITED.peer, "\u00fc" * 40, 256, 2**53 - 1, 2**53 - 1)),
    ("body", "an admission", admission(BOB)),
    ("body", "an acceptance", acceptance(ALICE, BOB)),
    ("body", "a frame with an entry of each kind", frame(ALICE, _EVERYTHING)),
    ("body", "a frame of the publisher's", frame(PUBLISHER, [Audit(3, _ANSWER), RINGERS])),
    ("body", "a trust snapshot", SNAPSHOT),
    ("body", "a trust snapshot that knows nobody", Snapshot(ID, BOB.peer, "x", 0, 0, ())),
    ("body", "a trust snapshot, everything at its most", Snapshot(
        ID, BOB.peer, "\U0001f697" * 64, 2**53 - 1, 2**53 - 1,
        (PeerChecks(PeerId(b"\xff" * 32), 1_000_000),))),
    ("body", "a jobs record", JOBS_RECORD),
    ("body", "a jobs record of no job", JobsRecord(ID, BOB.peer, 0, 0, 0, ())),
    ("body", "a jobs record, everything at its most", JobsRecord(
        ID, BOB.peer, 2**53 - 1, 2**53 - 1, 2**53 - 1,
        tuple(OwnJob(JobId(bytes(blob)), 2**53 - 1) for blob in BLOBS))),
    ("body", "a receipt", RECEIPT),
    ("body", "a receipt, everything at its most", Receipt(
        ID, JOB, BOB.peer, ALICE.peer, 2**53 - 1, 1_000_000, 2**62 - 1, 2**63 - 2, 2**53 - 1)),
    ("body", "a frame, everything at its most",
     Frame(ID, JOB, BOB.peer, 2**53 - 1, 2**53 - 1, (Failure(999_999, 255, "\u00fc" * 200),))),
)  # fmt: skip
VALID_OTHERS: tuple[tuple[str, str, Any], ...] = (
    ("entry", "a claim", Claim((7,))),
    ("entry", "a claim of 4096 units", Claim(tuple(range(4096)))),
    ("entry", "units in any order, even twice", Claim((3, 1, 3))),
    ("entry", "integers of every width", Claim((0, 127, 128, 255, 256, 65_535, 65_536, 999_999))),
    ("entry", "a release", Release((0,))),
    ("entry", "a reveal", REVEAL),
    ("entry", "a reveal that has seen nothing, of the largest output", Reveal(
        _COMMIT, 1023, bytes(32), (RevealItem(5, 255, _ANSWER, 16 * GIB),), ())),
    ("entry", "units in any order, an empty output", Reveal(_COMMIT, 0, bytes(32), (
        RevealItem(5, 0, _ANSWER, 0), RevealItem(3, 1, _ANSWER, 0)), _SEEN[:1])),
    ("entry", "a commitment", COMMIT),
    ("entry", "commitments in several attempts", Commit(bytes(32), (
        CommitItem(999_999, 255, bytes(32)), CommitItem(0, 0, bytes(32)),
        CommitItem(0, 1, bytes(32))))),
    ("entry", "an endorsement", Endorse(5, 1, REF, _ANSWER)),
    ("entry", "an endorsement, everything at its most", Endorse(
        999_999, 255, VoteRef(_COMMIT, 1023, 255), _ANSWER)),
    ("entry", "an audit", Audit(999_999, _ANSWER)),
    ("entry", "opened ringers", RINGERS),
    ("entry", "a blob kept", Keep(BLOBS[:1])),
    ("entry", "256 blobs kept", Keep(BLOBS)),
    ("entry", "two blobs dropped", Drop(BLOBS[:2])),
    ("entry", "a failure without words", Failure(5, 0, "")),
    ("entry", "a text of 31 bytes", Failure(5, 0, "r" * 31)),
    ("entry", "a text of 32 bytes", Failure(5, 0, "r" * 32)),
    ("sealed", "a sealed peer record", SEALED_RECORD),
    ("certificate", "a certificate", Certificate(JOB, 3, _ANSWER, Digest(sha256(b"s")), (
        REF, VoteRef(FrameHash(sha256(b"2")), 1023, 255)), (VoteRef(_COMMIT, 0, 0),))),
    ("certificate", "a certificate by the publisher's word", Certificate(
        JOB, 999_999, _ANSWER, None, (), (), VoteRef(_COMMIT, 7))),
    ("message", "hello", Hello(ID, 1, 1, 0, SEALED_RECORD)),
    ("message", "hello of a later version", Hello(ID, 1, 65_535, 65_535, SEALED_RECORD)),
    ("message", "goodbye", Goodbye(2, 3, 7, "p2pfleet/2.0.0")),
    ("message", "deliver", Deliver(BOB.seal(frame(BOB, [Release((1,))])))),
    ("message", "a jobs summary of nothing", JobsSummary((), ())),
    ("message", "a jobs summary", JobsSummary((JOB,), (JobId(sha256(b"old")),))),
    ("message", "a frames summary of nothing", FramesSummary(JOB, ())),
    ("message", "a frames summary", FramesSummary(JOB, (
        AuthorPosition(ALICE.peer, ISSUED_MS, 4), AuthorPosition(PeerId(BOB.peer), 0, 2**53 - 1)))),
    ("message", "a frames summary with a trust snapshot", FramesSummary(JOB, (), 2**53 - 1)),
    ("message", "a frames summary of the last shard, for whoever asks", FramesSummary(
        JOB, (), -1, 4_095, False)),
    ("message", "a frames summary that asks for own frames only", FramesSummary(
        JOB, (AuthorPosition(ALICE.peer, 1, 1),), 3, 2, True, False)),
    ("message", "a word on one shard", ShardsSummary(JOB, (ShardRow(0, 0, 0, 0),))),
    ("message", "a word on 128 shards", ShardsSummary(JOB, tuple(
        ShardRow(shard, 65_535, 1_000_000, 3_600) for shard in range(3_968, 4_096)))),
    ("message", "a proof", Proof(ALICE.seal(frame(ALICE, [REVEAL])),
                                 ALICE.seal(frame(ALICE, [REVEAL], 1)))),
    ("message", "deliver a trust snapshot", Deliver(PUBLISHER.seal(SNAPSHOT))),
    ("message", "one unit wanted", Wanted(JOB, (3,))),
    ("message", "1024 units wanted, in any order, even twice", Wanted(
        JOB, (999_999, 7, 7, *range(1021)))),
    ("blob message", "a request", BlobRequest(ID, cid_of(PACK), 10, 20)),
    ("blob message", "a request for everything there can be",
     BlobRequest(ID, cid_of(PACK), 16 * GIB, 16 * GIB)),
    ("blob message", "found", BlobHeader(True, 20)),
    ("blob message", "not found", BlobHeader(False, 0)),
    ("bulk message", "a ticket is wanted", TicketRequest(ID)),
    ("bulk message", "a ticket", Ticket(4002, sha256(b"ticket"), sha256(b"certificate"), 20_000)),
    ("bulk message", "no ticket", NoTicket(5_000)),
    ("bulk message", "pieces are wanted", PiecesRequest(
        ID, cid_of(PACK), 0, 12 * 2**20 + 1, b"\x05\x10", 4, 1_500)),
    ("bulk message", "pieces of the largest blob are wanted", PiecesRequest(
        ID, cid_of(PACK), 0, 16 * GIB, bytes(2048), 16, 3_600_000)),
    ("bulk message", "all pieces are here", Pieces(True, b"", (1, 2, 3), 0)),
    ("bulk message", "some pieces are here, and none for now", Pieces(False, b"\xff\x01", (), 700)),
    ("bulk message", "no piece is here", Pieces(False, b"", (), 0)),
    ("message", "deliver a jobs record", Deliver(PUBLISHER.seal(JOBS_RECORD))),
    ("message", "deliver a requirement", Deliver(OWNER.seal(REQUIREMENT))),
    ("message", "deliver a page of members", Deliver(OWNER.seal(ALICES_PAGE))),
    ("message", "deliver an acceptance", Deliver(ALICE.seal(acceptance(ALICE, BOB)))),
    ("message", "a roster summary of nothing", RosterSummary((0,) * 16, (bytes(32),) * 16)),
    ("message", "a roster summary", RosterSummary(
        (2**53 - 1, *range(15)), (sha256(b"acceptances"),) * 16)),
    ("network", "a closed network", CLOSED_NETWORK),
    ("network", "a network of nobody's", NETWORK),
    ("network", "a network that somebody owns", OWNED_NETWORK),
    ("network", "a network that asks for work", PUZZLE_NETWORK),
    ("network", "a network with a cap for subnets", NetworkParameters("capped", False, None, 0, 3)),
    ("table", "a unit table", TABLE),
)  # fmt: skip
