"""What happened, as the core hears of it. Every event is a fact that the runtime has checked."""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Earning, Move, OwnSeed, RecordRow, UnitRow, Withdrawn
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.wire.messages import (
    AuthorPosition,
    RevealItem,
    Ringer,
    RosterSummary,
    ShardRow,
)
from p2pfleet.core.wire.verified import (
    VerifiedAcceptance,
    VerifiedAdmission,
    VerifiedClosure,
    VerifiedFrame,
    VerifiedJobsRecord,
    VerifiedManifest,
    VerifiedMembers,
    VerifiedReceipt,
    VerifiedRecord,
    VerifiedRequirement,
    VerifiedSnapshot,
)


class _Event(msgspec.Struct, frozen=True):
    pass


# ---- life of the node ------------------------------------------------------------------------


class Started(_Event, frozen=True, tag="Started"):
    """First event of a run. ``wall_ms`` is the wall clock at this event's ``now``.

    ``coin`` is a secret of 32 bytes, drawn anew for every run: it decides which units this node
    audits, so that nobody else can tell.
    """

    incarnation: int
    wall_ms: int
    software: str
    addresses: tuple[str, ...]
    coin: bytes = bytes(32)


class AddressesChanged(_Event, frozen=True, tag="AddressesChanged"):
    """This node can be reached at other addresses than before."""

    addresses: tuple[str, ...]


class RecordsRestored(_Event, frozen=True, tag="RecordsRestored"):
    """The records over all jobs that have ended, as the store has them."""

    rows: tuple[RecordRow, ...]


class ProofRestored(_Event, frozen=True, tag="ProofRestored"):
    """A proof from the store."""

    first: VerifiedFrame
    second: VerifiedFrame


class JobRestored(_Event, frozen=True, tag="JobRestored"):
    """A job from the store, with its ledger, the moves of records that it brought about so far (in
    the order in which they were first saved), its trust snapshots and this node's own seeds.

    ``earnings`` are what its settled units earned so far, ``receipts`` those issued for them, both
    for an open job of this node's own; of somebody else's job the receipt that this node holds.
    ``poisoned`` says that it was found to be so, ``withdrawn`` which votes count no more there."""

    manifest: VerifiedManifest
    own: bool
    state: str
    closure: VerifiedClosure | None
    units: tuple[UnitRow, ...]
    moves: tuple[Move, ...]
    snapshots: tuple[VerifiedSnapshot, ...] = ()
    seeds: tuple[OwnSeed, ...] = ()
    earnings: tuple[Earning, ...] = ()
    receipts: tuple[VerifiedReceipt, ...] = ()
    poisoned: bool = False
    withdrawn: tuple[Withdrawn, ...] = ()


class FrameRestored(_Event, frozen=True, tag="FrameRestored"):
    """A frame from the store, in the order in which it was saved."""

    frame: VerifiedFrame


class RestoreFinished(_Event, frozen=True, tag="RestoreFinished"):
    """Everything that the store holds has been told."""


class Tick(_Event, frozen=True, tag="Tick"):
    """The time that ``deadline`` named has come."""


class StopRequested(_Event, frozen=True, tag="StopRequested"):
    """The node is about to end: give every claim back, so that others take over at once."""


class PauseRequested(_Event, frozen=True, tag="PauseRequested"):
    """The owner wants the machine for himself, until ``for_ms`` have passed (or until resumed)."""

    for_ms: int | None


class ResumeRequested(_Event, frozen=True, tag="ResumeRequested"):
    """The owner lets the node go on."""


class ClockSet(_Event, frozen=True, tag="ClockSet"):
    """Somebody set the machine's wall clock: it says ``wall_ms`` at this event's ``now``."""

    wall_ms: int


class DiskChanged(_Event, frozen=True, tag="DiskChanged"):
    """The disk takes no blobs for this ``reason``, or does again (empty)."""

    reason: str


# ---- peers -----------------------------------------------------------------------------------


class PeerConnected(_Event, frozen=True, tag="PeerConnected"):
    """A connection to ``peer`` stands; ``address`` is its multiaddress as the connection has it."""

    peer: PeerId
    address: str = ""


class PeerDisconnected(_Event, frozen=True, tag="PeerDisconnected"):
    """The last connection to ``peer`` is gone."""

    peer: PeerId


class PeerRefused(_Event, frozen=True, tag="PeerRefused"):
    """``peer`` sent too much that was wrong: nothing is done for it for ``for_ms`` (0: it is)."""

    peer: PeerId
    for_ms: int


class HelloReceived(_Event, frozen=True, tag="HelloReceived"):
    """``peer`` is on our network, speaks our protocol, and says this of itself."""

    peer: PeerId
    record: VerifiedRecord


class JobsSummaryReceived(_Event, frozen=True, tag="JobsSummaryReceived"):
    """``peer`` knows these jobs and asks for what we know more."""

    peer: PeerId
    open: tuple[JobId, ...]
    closed: tuple[JobId, ...]


class FramesSummaryReceived(_Event, frozen=True, tag="FramesSummaryReceived"):
    """``peer`` holds these frames of a shard (and the trust snapshot of this number), and asks for
    the others (without ``whole``: for those that this node wrote); ``serving``: it takes part in
    the shard."""

    peer: PeerId
    job: JobId
    positions: tuple[AuthorPosition, ...]
    snapshot: int = -1
    shard: int = 0
    serving: bool = True
    whole: bool = True


class ShardsSummaryReceived(_Event, frozen=True, tag="ShardsSummaryReceived"):
    """``peer`` tells what it has heard of some shards of a job."""

    peer: PeerId
    job: JobId
    rows: tuple[ShardRow, ...]


class WantedReceived(_Event, frozen=True, tag="WantedReceived"):
    """``peer`` says that these units of a job want one more replica each."""

    peer: PeerId
    job: JobId
    units: tuple[int, ...]


# ---- signed bodies ---------------------------------------------------------------------------


class ManifestReceived(_Event, frozen=True, tag="ManifestReceived"):
    """A manifest, from ``source`` (the node's own id: published here)."""

    source: PeerId
    manifest: VerifiedManifest


class ClosureReceived(_Event, frozen=True, tag="ClosureReceived"):
    """A closure, from ``source`` (the node's own id: signed here)."""

    source: PeerId
    closure: VerifiedClosure


class FrameReceived(_Event, frozen=True, tag="FrameReceived"):
    """A frame, from ``source`` (the node's own id: signed here)."""

    source: PeerId
    frame: VerifiedFrame


class RecordSigned(_Event, frozen=True, tag="RecordSigned"):
    """The node's own peer record, signed."""

    record: VerifiedRecord


class RecordReceived(_Event, frozen=True, tag="RecordReceived"):
    """``peer`` hands on what another says of itself."""

    peer: PeerId
    record: VerifiedRecord


class RequirementReceived(_Event, frozen=True, tag="RequirementReceived"):
    """What a network's owner asks for, from ``source`` (the node's own id: from its own files)."""

    source: PeerId
    requirement: VerifiedRequirement


class VersionsDiffer(_Event, frozen=True, tag="VersionsDiffer"):
    """``peer`` speaks the major versions from ``oldest`` to ``newest``, and we have none in common;
    ``told``: it is the one that said goodbye."""

    peer: PeerId
    oldest: int
    newest: int
    told: bool


class MembersReceived(_Event, frozen=True, tag="MembersReceived"):
    """A page of a closed network's members, from ``source`` (own id: from the node's own files)."""

    source: PeerId
    members: VerifiedMembers


class AdmissionShown(_Event, frozen=True, tag="AdmissionShown"):
    """``peer`` showed in its handshake that it was invited."""

    peer: PeerId
    admission: VerifiedAdmission


class AcceptanceReceived(_Event, frozen=True, tag="AcceptanceReceived"):
    """A member's word on somebody invited, from ``source`` (the node's own id: signed or kept
    here)."""

    source: PeerId
    acceptance: VerifiedAcceptance


class RosterSummaryReceived(_Event, frozen=True, tag="RosterSummaryReceived"):
    """What a peer holds of the list of members and of acceptances."""

    peer: PeerId
    summary: RosterSummary


class SnapshotReceived(_Event, frozen=True, tag="SnapshotReceived"):
    """A trust snapshot, from ``source`` (the node's own id: signed here)."""

    source: PeerId
    snapshot: VerifiedSnapshot


class ReceiptReceived(_Event, frozen=True, tag="ReceiptReceived"):
    """A receipt, from ``source`` (the node's own id: signed here)."""

    source: PeerId
    receipt: VerifiedReceipt


class JobsRecordReceived(_Event, frozen=True, tag="JobsRecordReceived"):
    """A publisher's record of its jobs, from ``source`` (the node's own id: signed here, or found
    in the store or the DHT)."""

    source: PeerId
    record: VerifiedJobsRecord


class JobsWanted(_Event, frozen=True, tag="JobsWanted"):
    """The person at this node wants its own jobs back that others still know, whatever became of
    its folder."""


class ProofReceived(_Event, frozen=True, tag="ProofReceived"):
    """Two frames that are said to prove a fault of their author, from ``source``."""

    source: PeerId
    first: VerifiedFrame
    second: VerifiedFrame


# ---- work ------------------------------------------------------------------------------------


class RingersKnown(_Event, frozen=True, tag="RingersKnown"):
    """The ringers of a job of this node's own, whose answers it computed when it published, and the
    secret that hides them in the manifest."""

    job: JobId
    secret: bytes
    ringers: tuple[Ringer, ...]


class CancelRequested(_Event, frozen=True, tag="CancelRequested"):
    """The publisher at this node wants its job ended."""

    job: JobId


KnownPacks = tuple[tuple[Digest, int, tuple[int, ...]], ...]
"""Packs of a job: of each its SHA-256, its length in bytes, and the shards (ascending) whose units'
inputs lie in it."""


class InputsKnown(_Event, frozen=True, tag="InputsKnown"):
    """The unit table of a job is here: the packs it names."""

    job: JobId
    packs: KnownPacks


class JobOpened(_Event, frozen=True, tag="JobOpened"):
    """Model and unit table are here, and agree with the manifest."""

    job: JobId


class JobUnavailable(_Event, frozen=True, tag="JobUnavailable"):
    """Model or table could not be had (``final``: it never will, they are wrong)."""

    job: JobId
    reason: str
    final: bool


class UnitExecuted(_Event, frozen=True, tag="UnitExecuted"):
    """The output of a unit is durably here: its digest, its size, and what it took."""

    job: JobId
    unit: int
    digest: Digest
    length: int
    wall_ms: int


class UnitFaulted(_Event, frozen=True, tag="UnitFaulted"):
    """The sandbox could not run a unit; ``kind`` as in :class:`p2pfleet.ports.ExecutionFault`."""

    job: JobId
    unit: int
    kind: str
    reason: str


class UnitUnavailable(_Event, frozen=True, tag="UnitUnavailable"):
    """The input of a claimed unit could not be had."""

    job: JobId
    unit: int
    reason: str


class CommitmentsMade(_Event, frozen=True, tag="CommitmentsMade"):
    """Commitments to own outputs, in the order of ``items``, all with the nonces of ``seed``."""

    job: JobId
    seed: bytes
    items: tuple[RevealItem, ...]
    commitments: tuple[bytes, ...]


class CommitmentsChecked(_Event, frozen=True, tag="CommitmentsChecked"):
    """Of the peers whose commitments to ``digest`` were to be opened, (unit, attempt, peer): the
    good ones, those who had committed to something else, and those of whom nothing is known,
    because the output is ``lost``: here no more."""

    job: JobId
    digest: Digest
    good: tuple[tuple[int, int, PeerId], ...]
    bad: tuple[tuple[int, int, PeerId], ...]
    lost: tuple[tuple[int, int, PeerId], ...] = ()


class Compared(_Event, frozen=True, tag="Compared"):
    """Another's output for a unit was compared with ``own``.

    ``verdict``: same (the same answer by the job's rule), near (not the same, but no further off
    than processors may differ: a hundred times the tolerance), different, or unavailable.
    """

    job: JobId
    unit: int
    candidate: Digest
    own: Digest
    verdict: str


class BlobArrived(_Event, frozen=True, tag="BlobArrived"):
    """What a :class:`~p2pfleet.core.effects.Fetch` asked for is durably here."""

    job: JobId
    ref: BlobRef


class ChallengeAnswered(_Event, frozen=True, tag="ChallengeAnswered"):
    """A keeper was asked for a piece of a blob that is here, too.

    ``verdict``: good, absent (it has it not, or did not answer), wrong (other bytes), or lost (it
    is this node that has it not, or not as it was).
    """

    job: JobId
    digest: Digest
    peer: PeerId
    verdict: str


class BlobFailed(_Event, frozen=True, tag="BlobFailed"):
    """No source delivered it."""

    job: JobId
    ref: BlobRef
    reason: str


Event = (
    Started
    | AddressesChanged
    | RecordsRestored
    | ProofRestored
    | JobRestored
    | FrameRestored
    | RestoreFinished
    | Tick
    | StopRequested
    | PauseRequested
    | ResumeRequested
    | ClockSet
    | DiskChanged
    | PeerConnected
    | PeerDisconnected
    | PeerRefused
    | HelloReceived
    | JobsSummaryReceived
    | FramesSummaryReceived
    | ShardsSummaryReceived
    | WantedReceived
    | ManifestReceived
    | ClosureReceived
    | FrameReceived
    | RecordReceived
    | RecordSigned
    | RequirementReceived
    | VersionsDiffer
    | MembersReceived
    | AdmissionShown
    | AcceptanceReceived
    | RosterSummaryReceived
    | SnapshotReceived
    | ReceiptReceived
    | JobsRecordReceived
    | JobsWanted
    | ProofReceived
    | RingersKnown
    | CancelRequested
    | InputsKnown
    | ChallengeAnswered
    | JobOpened
    | JobUnavailable
    | UnitExecuted
    | UnitFaulted
    | UnitUnavailable
    | CommitmentsMade
    | CommitmentsChecked
    | Compared
    | BlobArrived
    | BlobFailed
)
