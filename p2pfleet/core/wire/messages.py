"""One type a message.

A *signed body* starts with a tag that names domain, version and type, and names its network and
its job, so that a signature cannot be used anywhere else. It travels inside :class:`Sealed`, whose
signature covers the bytes as sent. A *stream message* is what two connected peers say to each
other; the connection has already proved who says it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.core.model.capability import Capability, Version
from p2pfleet.core.model.ids import (
    CidField,
    DigestField,
    FrameHash,
    FrameHashField,
    JobId,
    JobIdField,
    NetworkIdField,
    PeerId,
    PeerIdField,
    sha256,
)
from p2pfleet.core.model.job import (
    MAX_BLOB_BYTES,
    MAX_SHARDS,
    MAX_UNITS,
    Bytes,
    Comparison,
    Limits,
    ShardIndex,
    StopRule,
    Trust,
    UnitIndex,
)
from p2pfleet.core.model.network import MEMBER_PAGES, MEMBERS_A_PAGE
from p2pfleet.core.wire.names import MAX_FRAME_BYTES, MAX_PIECES, PIECES_A_GRANT

SIGNATURE_PREFIX = b"p2pfleet-signed-1:"

Clock = Annotated[int, Meta(ge=0, lt=2**53)]
Counter = Annotated[int, Meta(ge=0, lt=2**53)]
ShortText = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]
Attempt = Annotated[int, Meta(ge=0, le=255)]
VersionNumber = Annotated[int, Meta(ge=0, le=65535)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]

MemberName = Annotated[str, Meta(max_length=40, pattern=r"^[^\x00-\x1f\x7f]*\Z")]

COMMIT_ITEMS_MAX = 256
INVITATION_USES_MAX = 256
SEEN_MAX = 256
SNAPSHOT_PEERS_MAX = 768
RINGERS_MAX = 128
CUSTODY_ITEMS_MAX = 256
JOBS_RECORD_MAX = 256
SHARD_ROWS_MAX = 128
WORK_MAX = 2**62 - 1


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Manifest(_Body, frozen=True, tag="p2pfleet/1/manifest"):
    """A job as its publisher signed it. The job's id is the SHA-256 of this body's bytes.

    Times are wall-clock milliseconds since 1970 by the publisher's clock; ``lease_ms`` is a
    duration. ``total_bytes`` is what a volunteer that did every unit would fetch. ``work`` is what
    running the model on one unit takes, in operations counted from its graph: what credit is given
    for.
    """

    network: NetworkIdField
    publisher: PeerIdField
    name: Name
    model: CidField
    model_bytes: Bytes
    table: CidField
    table_bytes: Bytes
    units: Annotated[int, Meta(ge=1, le=MAX_UNITS)]
    total_bytes: Annotated[int, Meta(ge=0, le=2**50)]
    limits: Limits
    comparison: Comparison
    stop: StopRule
    shards: Annotated[int, Meta(ge=1, le=MAX_SHARDS)]
    lease_ms: Annotated[int, Meta(ge=1_000, le=24 * 3600 * 1000)]
    issued_ms: Clock
    expires_ms: Clock
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    trust: Trust = Trust()
    work: Counter = 0


class Closure(_Body, frozen=True, tag="p2pfleet/1/closure"):
    """The publisher's word that a job needs no more work: it is complete, or it is cancelled."""

    network: NetworkIdField
    job: JobIdField
    publisher: PeerIdField
    completed: bool
    issued_ms: Clock


class PeerRecord(_Body, frozen=True, tag="p2pfleet/1/peer"):
    """What a node says of itself. A higher ``sequence`` replaces a lower one."""

    network: NetworkIdField
    peer: PeerIdField
    sequence: Counter
    issued_ms: Clock
    expires_ms: Clock
    software: Annotated[str, Meta(max_length=64)]
    roles: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=16)], ...], Meta(max_length=4)
    ]
    slots: Annotated[int, Meta(ge=0, le=4096)]
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=200)], ...], Meta(max_length=8)]
    capability: Capability


class Requirement(_Body, frozen=True, tag="p2pfleet/1/requirement"):
    """What the owner of a network asks of its nodes. A higher ``sequence`` replaces a lower one.

    Below ``onnxruntime`` a node runs no strangers' work.
    """

    network: NetworkIdField
    owner: PeerIdField
    sequence: Counter
    issued_ms: Clock
    onnxruntime: Version


class PeerChecks(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many checks a peer has passed (k of the credibility rule)."""

    peer: PeerIdField
    checks: Annotated[int, Meta(ge=1, le=1_000_000)]


class Snapshot(_Body, frozen=True, tag="p2pfleet/1/snapshot"):
    """A publisher's records of peers for one class of models, which weigh their votes.

    Its name is the SHA-256 of the body's bytes. A higher ``number`` replaces a lower one; peers
    stand in ascending order of their keys, each once; who is not in it is a newcomer.
    """

    network: NetworkIdField
    publisher: PeerIdField
    model_class: Annotated[str, Meta(min_length=1, max_length=64)]
    number: Counter
    issued_ms: Clock
    records: Annotated[tuple[PeerChecks, ...], Meta(max_length=SNAPSHOT_PEERS_MAX)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.records):
            if one.peer >= two.peer:
                raise ValueError("records must be in ascending order of keys, each key once")


class MemberEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One key of which the owner of a closed network says something: a member, or (``admitted``
    false) a peer that was removed or an invitation that was withdrawn. ``name`` is for people."""

    peer: PeerIdField
    name: MemberName
    admitted: bool


class Members(_Body, frozen=True, tag="p2pfleet/1/members"):
    """One page of a closed network's list of members. A higher ``sequence`` replaces a lower one of
    the same page.

    A key stands on the page of its highest four bits; keys ascend, each once.
    """

    network: NetworkIdField
    owner: PeerIdField
    page: Annotated[int, Meta(ge=0, lt=MEMBER_PAGES)]
    sequence: Counter
    issued_ms: Clock
    entries: Annotated[tuple[MemberEntry, ...], Meta(max_length=MEMBERS_A_PAGE)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.entries):
            if one.peer >= two.peer:
                raise ValueError("entries must be in ascending order of keys, each key once")


class Invitation(_Body, frozen=True, tag="p2pfleet/1/invitation"):
    """The owner's word that whoever holds the private half of ``key`` may name up to ``uses``
    peers as members. ``name`` is for people."""

    network: NetworkIdField
    owner: PeerIdField
    key: PeerIdField
    name: MemberName
    uses: Annotated[int, Meta(ge=1, le=INVITATION_USES_MAX)]
    issued_ms: Clock
    expires_ms: Clock


class Admission(_Body, frozen=True, tag="p2pfleet/1/admission"):
    """The word of an invitation's key that it is for ``peer``. ``invitation`` is the sealed
    :class:`Invitation` of that key."""

    network: NetworkIdField
    key: PeerIdField
    peer: PeerIdField
    invitation: Sealed


class Acceptance(_Body, frozen=True, tag="p2pfleet/1/acceptance"):
    """A member's word that it saw ``admission`` (a sealed :class:`Admission`) at this time by its
    clock: the first ones use an invitation up."""

    network: NetworkIdField
    member: PeerIdField
    accepted_ms: Clock
    admission: Sealed


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Claim(_Entry, frozen=True, tag=1):
    """I am going to run these units: a lease that lapses by itself after the job's lease time."""

    units: Annotated[tuple[UnitIndex, ...], Meta(min_length=1, max_length=4096)]


class Release(_Entry, frozen=True, tag=2):
    """I shall not run these units after all: others may take them at once."""

    units: Annotated[tuple[UnitIndex, ...], Meta(min_length=1, max_length=4096)]


class VoteRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Points at one entry of one frame, and at one item of it (0 where an entry has no items)."""

    frame: FrameHashField
    index: Annotated[int, Meta(ge=0, lt=1024)]
    item: Annotated[int, Meta(ge=0, lt=COMMIT_ITEMS_MAX)] = 0


class RevealItem(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One unit's output: its digest, and its size in bytes."""

    unit: UnitIndex
    attempt: Attempt
    digest: DigestField
    length: Bytes


class Reveal(_Entry, frozen=True, tag=3):
    """Votes: what the author committed to in entry ``index`` of its frame ``commit``.

    ``seed`` is what the nonces of those commitments were made from; ``items`` are the same units
    and attempts in the same order. ``seen`` are the frames (ascending, each once) whose commitments
    to these units the author held when it revealed: it counts together with them only.
    """

    commit: FrameHashField
    index: Annotated[int, Meta(ge=0, lt=1024)]
    seed: Hash
    items: Annotated[tuple[RevealItem, ...], Meta(min_length=1, max_length=COMMIT_ITEMS_MAX)]
    seen: Annotated[tuple[FrameHashField, ...], Meta(max_length=SEEN_MAX)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.seen):
            if one >= two:
                raise ValueError("frames seen must be in ascending order, each once")


class Failure(_Entry, frozen=True, tag=4):
    """The author tried ``unit`` and it cannot be run within the job's limits; says why."""

    unit: UnitIndex
    attempt: Attempt
    reason: ShortText


class CommitItem(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A commitment to the output of one unit (``core/rules/commitment.py``)."""

    unit: UnitIndex
    attempt: Attempt
    commitment: Hash


class Commit(_Entry, frozen=True, tag=5):
    """The author has run these units. Their nonces come from a seed of this hash, which reveals
    them together. Each (unit, attempt) stands once."""

    seed_hash: Hash
    items: Annotated[tuple[CommitItem, ...], Meta(min_length=1, max_length=COMMIT_ITEMS_MAX)]


class Endorse(_Entry, frozen=True, tag=6):
    """A vote for another's digest: the author, whose own reveal for ``unit`` is ``own``, compared
    that output with its own and holds them for the same answer."""

    unit: UnitIndex
    attempt: Attempt
    own: VoteRef
    digest: DigestField


class Audit(_Entry, frozen=True, tag=7):
    """The publisher's word: it executed ``unit`` itself (or knew its answer from the beginning),
    and ``digest`` is right. Final for the unit."""

    unit: UnitIndex
    digest: DigestField


class Ringer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A unit whose answer the publisher knew when it published."""

    unit: UnitIndex
    digest: DigestField


class OpenRingers(_Entry, frozen=True, tag=8):
    """The publisher's word at the end of the job: these were the ringers that the manifest names
    by hash (``ringers_hash``)."""

    secret: Hash
    ringers: Annotated[tuple[Ringer, ...], Meta(min_length=1, max_length=RINGERS_MAX)]


class _Blobs(_Entry, frozen=True):
    digests: Annotated[tuple[DigestField, ...], Meta(min_length=1, max_length=CUSTODY_ITEMS_MAX)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.digests):
            if one >= two:
                raise ValueError("blobs must be in ascending order, each once")


class Keep(_Blobs, frozen=True, tag=9):
    """The author holds these blobs of the job durably (each named by its SHA-256), and serves them
    to whom may have them until the job ends."""


class Drop(_Blobs, frozen=True, tag=10):
    """The author holds these blobs no more."""


Entry = Claim | Release | Reveal | Failure | Commit | Endorse | Audit | OpenRingers | Keep | Drop
PUBLISHER_ENTRIES = Audit | OpenRingers


class Frame(_Body, frozen=True, tag="p2pfleet/1/frame"):
    """Many entries under one signature; the unit of evidence.

    ``incarnation`` is the wall-clock millisecond at which the author's process started (never less
    than an earlier one of the same identity); ``sequence`` counts the author's frames of this job,
    shard and incarnation from 0 without a gap. Every unit that an entry names belongs to ``shard``
    (``core/rules/shards.py``), but for opened ringers.
    """

    network: NetworkIdField
    job: JobIdField
    author: PeerIdField
    incarnation: Counter
    sequence: Counter
    entries: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=1024)]
    shard: ShardIndex = 0


class Receipt(_Body, frozen=True, tag="p2pfleet/1/receipt"):
    """A publisher's word on what ``peer`` has earned in one job so far (``core/rules/credit.py``).

    Of (job, peer) a higher ``number`` replaces a lower one. ``units`` are settled units, ``work``
    their operations, ``credit`` the same with the bonus for quick answers.
    """

    network: NetworkIdField
    job: JobIdField
    publisher: PeerIdField
    peer: PeerIdField
    number: Counter
    units: Annotated[int, Meta(ge=1, le=MAX_UNITS)]
    work: Annotated[int, Meta(ge=1, le=WORK_MAX)]
    credit: Annotated[int, Meta(ge=1, le=2 * WORK_MAX)]
    issued_ms: Clock


class OwnJob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A job that its publisher has not closed yet, and when it expires."""

    job: JobIdField
    expires_ms: Clock


class JobsRecord(_Body, frozen=True, tag="p2pfleet/1/jobs"):
    """A publisher's word on which jobs it has open, so that it finds them again whatever becomes of
    its folder. A higher ``sequence`` replaces a lower one; jobs stand in ascending order.
    """

    network: NetworkIdField
    publisher: PeerIdField
    sequence: Counter
    issued_ms: Clock
    expires_ms: Clock
    jobs: Annotated[tuple[OwnJob, ...], Meta(max_length=JOBS_RECORD_MAX)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.jobs):
            if one.job >= two.job:
                raise ValueError("jobs must be in ascending order, each once")


SignedBody = (
    Manifest
    | Closure
    | PeerRecord
    | Requirement
    | Frame
    | Snapshot
    | Receipt
    | Members
    | Invitation
    | Admission
    | Acceptance
    | JobsRecord
)


def signer_of(body: SignedBody) -> PeerId:
    """Who has to sign a body: the peer that it names."""
    match body:
        case Manifest() | Closure() | Snapshot() | Receipt() | JobsRecord():
            return body.publisher
        case PeerRecord():
            return body.peer
        case Requirement() | Members() | Invitation():
            return body.owner
        case Admission():
            return body.key
        case Acceptance():
            return body.member
        case Frame():
            return body.author


class Sealed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed body, as it travels and as it is kept.

    ``signature`` is Ed25519 by ``signer`` over ``SIGNATURE_PREFIX + body``.
    """

    body: Annotated[bytes, Meta(min_length=1, max_length=MAX_FRAME_BYTES)]
    signer: PeerIdField
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]

    @property
    def hash(self) -> bytes:
        """SHA-256 of the body: the job id of a manifest, the frame hash of a frame."""
        return sha256(self.body)


def job_id(manifest: Sealed) -> JobId:
    """The id of the job that a sealed manifest asks for."""
    return JobId(manifest.hash)


def frame_hash(frame: Sealed) -> FrameHash:
    """The name of a frame in certificates."""
    return FrameHash(frame.hash)


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A closed set of votes that fulfils the job's stop rule for one digest of one unit.

    ``votes`` are reveals and endorsements for ``digest``, ``against`` those of others for anything
    else that was counted against it; ``snapshot`` names the trust snapshot that weighs them.
    ``audit`` points at the publisher's own word, where the unit rests on that. Carries no signature
    of its own: anybody can recompute it from manifest, snapshot and frames.
    """

    job: JobIdField
    unit: UnitIndex
    digest: DigestField
    snapshot: DigestField | None
    votes: Annotated[tuple[VoteRef, ...], Meta(max_length=64)]
    against: Annotated[tuple[VoteRef, ...], Meta(max_length=64)] = ()
    audit: VoteRef | None = None


# ---- stream messages -------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class Hello(_Message, frozen=True, tag="hello"):
    """First message in each direction: the network, the protocol's versions, the sender's record.

    The sender speaks the major versions from ``oldest`` to ``newest``, and of the newest the minor
    version ``minor``. Up to there a greeting is the same in all versions.
    """

    network: NetworkIdField
    oldest: VersionNumber
    newest: VersionNumber
    minor: VersionNumber
    record: Sealed

    def __post_init__(self) -> None:
        if self.oldest > self.newest:
            raise ValueError("the oldest version is above the newest")


class Goodbye(_Message, frozen=True, tag="goodbye"):
    """You speak none of my major versions, which are these. The same in all versions.

    ``software`` is for people: what they would have to be like.
    """

    oldest: VersionNumber
    newest: VersionNumber
    minor: VersionNumber
    software: Annotated[str, Meta(max_length=64)]

    def __post_init__(self) -> None:
        if self.oldest > self.newest:
            raise ValueError("the oldest version is above the newest")


class Deliver(_Message, frozen=True, tag="deliver"):
    """A sealed body, the sender's or somebody else's: a manifest, closure, frame, requirement,
    snapshot, receipt, page of members, acceptance or jobs record."""

    sealed: Sealed


class JobsSummary(_Message, frozen=True, tag="jobs"):
    """I know these jobs as open and as closed; tell me what you know more.

    The answer delivers manifests of open jobs in neither list, and closures of jobs in ``open``.
    """

    open: Annotated[tuple[JobIdField, ...], Meta(max_length=512)]
    closed: Annotated[tuple[JobIdField, ...], Meta(max_length=512)]


class AuthorPosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of this author and incarnation I have every frame below ``next_sequence``."""

    author: PeerIdField
    incarnation: Counter
    next_sequence: Counter


class FramesSummary(_Message, frozen=True, tag="frames"):
    """I hold these frames of one shard of this job; send me the others that you have (``whole``),
    or of those only the ones that you wrote yourself.

    ``snapshot`` is the number of the newest trust snapshot that I hold for it, -1 without one; send
    me a newer one, too. ``serving``: I take part in this shard, and want to hear what happens in
    it; without it I only keep what I have, for whoever asks.
    """

    job: JobIdField
    positions: Annotated[tuple[AuthorPosition, ...], Meta(max_length=1024)]
    snapshot: Annotated[int, Meta(ge=-1, lt=2**53)] = -1
    shard: ShardIndex = 0
    serving: bool = True
    whole: bool = True


class ShardRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was said of a shard ``age_s`` seconds ago: how many volunteers serve it, and how many of
    its units are not decided."""

    shard: ShardIndex
    members: Annotated[int, Meta(ge=0, le=65_535)]
    open: Annotated[int, Meta(ge=0, le=MAX_UNITS)]
    age_s: Annotated[int, Meta(ge=0, le=3_600)]


class ShardsSummary(_Message, frozen=True, tag="shards"):
    """What I have heard of some shards of a job. Hearsay: it decides where a volunteer looks for
    work, and nothing else."""

    job: JobIdField
    rows: Annotated[tuple[ShardRow, ...], Meta(min_length=1, max_length=SHARD_ROWS_MAX)]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.rows):
            if one.shard >= two.shard:
                raise ValueError("shards must be in ascending order, each once")


class Wanted(_Message, frozen=True, tag="wanted"):
    """From a job's publisher: by its ledger each of these units wants one more replica.

    The publisher's records decide what counts and may differ from a volunteer's; and an output that
    nobody has any more has to be made again.
    """

    job: JobIdField
    units: Annotated[tuple[UnitIndex, ...], Meta(min_length=1, max_length=1024)]


class Proof(_Message, frozen=True, tag="proof"):
    """Two frames of one author which prove that it broke the protocol (``rules/evidence.py``)."""

    first: Sealed
    second: Sealed


class RosterSummary(_Message, frozen=True, tag="roster"):
    """I hold these pages of the list of members, and these acceptances; send me what I lack.

    By page: the lowest sequence that is news (0: none is held), and the hash over the acceptances
    of the peers of that page (:func:`p2pfleet.core.rules.closed.acceptances_hash`).
    """

    pages: Annotated[tuple[Counter, ...], Meta(min_length=MEMBER_PAGES, max_length=MEMBER_PAGES)]
    accepted: Annotated[tuple[Hash, ...], Meta(min_length=MEMBER_PAGES, max_length=MEMBER_PAGES)]


Message = (
    Hello
    | Goodbye
    | Deliver
    | JobsSummary
    | FramesSummary
    | Wanted
    | Proof
    | RosterSummary
    | ShardsSummary
)


# ---- blobs -----------------------------------------------------------------------------------


class BlobRequest(_Message, frozen=True, tag="want"):
    """Ask for ``length`` bytes from ``offset`` of the blob ``cid``."""

    network: NetworkIdField
    cid: CidField
    offset: Bytes
    length: Bytes


class BlobHeader(_Message, frozen=True, tag="have"):
    """The answer: ``length`` bytes follow (0 with ``found`` false: the sender has it not)."""

    found: bool
    length: Bytes


BlobMessage = BlobRequest | BlobHeader


# ---- bulk channel ----------------------------------------------------------------------------

PieceMap = Annotated[bytes, Meta(max_length=MAX_PIECES // 8)]
Piece = Annotated[int, Meta(ge=0, lt=MAX_PIECES)]
Pause = Annotated[int, Meta(ge=0, le=3_600_000)]


class TicketRequest(_Message, frozen=True, tag="ticket"):
    """Ask to be let in on the bulk channel."""

    network: NetworkIdField


class Ticket(_Message, frozen=True, tag="admit"):
    """Opens one connection to ``port``, once, within ``lifetime_ms``.

    ``certificate`` is the SHA-256 of the certificate that is shown there.
    """

    port: Annotated[int, Meta(ge=1, le=65_535)]
    ticket: Hash
    certificate: Hash
    lifetime_ms: Pause


class NoTicket(_Message, frozen=True, tag="refuse"):
    """No ticket; worth asking again after ``wait_ms``."""

    wait_ms: Pause


class PiecesRequest(_Message, frozen=True, tag="pieces"):
    """Ask which pieces of a range the peer has, and which of them to fetch from it.

    ``held`` maps the pieces that the sender has or gets elsewhere (bit ``i % 8`` of byte
    ``i // 8``; what is left out is 0), ``most`` is how many it takes now, ``waited_ms`` how long it
    has been without any.
    """

    network: NetworkIdField
    cid: CidField
    offset: Bytes
    length: Annotated[int, Meta(ge=1, le=MAX_BLOB_BYTES)]
    held: PieceMap
    most: Annotated[int, Meta(ge=1, le=PIECES_A_GRANT)]
    waited_ms: Pause


class Pieces(_Message, frozen=True, tag="holds"):
    """The answer: which pieces are here, and which of them to ask for now.

    ``complete``: all of them, and their hash was checked; then ``held`` is empty. An empty
    ``take`` means to come back after ``wait_ms``.
    """

    complete: bool
    held: PieceMap
    take: Annotated[tuple[Piece, ...], Meta(max_length=PIECES_A_GRANT)]
    wait_ms: Pause


BulkMessage = TicketRequest | Ticket | NoTicket | PiecesRequest | Pieces
