"""What a machine asks the runtime to do, in the order in which it must happen.

A :class:`Write` is durable before any later effect of the same or a later event is carried out:
durable before announced.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.errors import Verdict
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.model.record import Record
from p2pfleet.core.wire.messages import Manifest, Message, RevealItem, Sealed, SignedBody


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

    ``state``: certified, settled, contested, failed, or open again. ``detail``: the canonical
    certificate, or for a failed unit the reason as UTF-8.
    """

    unit: int
    state: str
    detail: bytes


class SaveUnits(_Effect, frozen=True, tag="SaveUnits"):
    """Ledger lines; each replaces the unit's earlier one."""

    job: JobId
    rows: tuple[UnitRow, ...]


class OwnSeed(_Effect, frozen=True):
    """What this node needs to reveal one entry of commitments: the seed, and its own answers."""

    seed_hash: bytes
    seed: bytes
    items: tuple[RevealItem, ...]


class SaveSeed(_Effect, frozen=True, tag="SaveSeed"):
    """A seed of this node's own, before anything that was committed to with it is announced."""

    job: JobId
    seed: OwnSeed


class Move(_Effect, frozen=True):
    """What one unit means for a peer's record; ``kind`` as in ``rules.reputation``."""

    unit: int
    peer: PeerId
    kind: str


class SaveMoves(_Effect, frozen=True, tag="SaveMoves"):
    """Moves of records by a job of this node's own. Of one (job, unit, peer) the last one counts;
    an empty ``kind`` takes it back. They are part of the totals once the job has ended."""

    job: JobId
    rows: tuple[Move, ...]


class VoidMoves(_Effect, frozen=True, tag="VoidMoves"):
    """The job was found poisoned: nothing of it moves a record, neither what it moved so far nor
    what comes, whoever restarts."""

    job: JobId


class Withdrawn(_Effect, frozen=True):
    """A vote that counts no more, because its author was caught before the unit was final."""

    unit: int
    peer: PeerId
    attempt: int


class SaveWithdrawn(_Effect, frozen=True, tag="SaveWithdrawn"):
    """Votes withdrawn in a job of this node's own. Saving one twice changes nothing."""

    job: JobId
    rows: tuple[Withdrawn, ...]


class RecordRow(_Effect, frozen=True):
    """A peer's record in a class of models over all jobs that have ended."""

    model_class: str
    peer: PeerId
    record: Record


class SaveRecords(_Effect, frozen=True, tag="SaveRecords"):
    """Totals; each replaces the earlier one of its (class, peer)."""

    rows: tuple[RecordRow, ...]


class Earning(_Effect, frozen=True):
    """What one settled unit earned one volunteer."""

    unit: int
    peer: PeerId
    credit: int


class SaveEarnings(_Effect, frozen=True, tag="SaveEarnings"):
    """What settled units of a job of this node's own earned. Each (job, unit, peer) earns once."""

    job: JobId
    rows: tuple[Earning, ...]


class SaveReceipt(_Effect, frozen=True, tag="SaveReceipt"):
    """A receipt, of this node's own as a publisher or for it as a volunteer, before it is announced
    or used. Of one (job, peer) the highest number stays."""

    job: JobId
    receipt: Sealed


class SaveSnapshot(_Effect, frozen=True, tag="SaveSnapshot"):
    """A trust snapshot that weighs votes in a job here."""

    job: JobId
    snapshot: Sealed


class SaveProof(_Effect, frozen=True, tag="SaveProof"):
    """Two frames that prove a fault of ``peer``; of each peer the first proof is kept."""

    peer: PeerId
    first: Sealed
    second: Sealed


class SaveRequirement(_Effect, frozen=True, tag="SaveRequirement"):
    """The newest requirement of the network; it replaces the one before."""

    requirement: Sealed


class SaveMembers(_Effect, frozen=True, tag="SaveMembers"):
    """The newest page of that number of the network's members; it replaces the one before."""

    page: int
    members: Sealed


class SaveAcceptance(_Effect, frozen=True, tag="SaveAcceptance"):
    """The acceptance of a peer by an invitation's key; it replaces another of the same two."""

    key: PeerId
    peer: PeerId
    acceptance: Sealed


class DropAcceptance(_Effect, frozen=True, tag="DropAcceptance"):
    """An acceptance that was overtaken: the invitation was used up before it."""

    key: PeerId
    peer: PeerId


class SaveJobsRecord(_Effect, frozen=True, tag="SaveJobsRecord"):
    """A publisher's newest record of its jobs; it replaces the one before."""

    record: Sealed


class ForgetJobsRecord(_Effect, frozen=True, tag="ForgetJobsRecord"):
    """No job of this publisher's is kept here any more."""

    publisher: PeerId


class ForgetJob(_Effect, frozen=True, tag="ForgetJob"):
    """Drop the frames, seeds, snapshots and the ledger of a job; moves and receipts stay."""

    job: JobId


Write = (
    SaveJob
    | CloseJob
    | SaveFrame
    | SaveUnits
    | SaveSeed
    | SaveMoves
    | VoidMoves
    | SaveWithdrawn
    | SaveRecords
    | SaveEarnings
    | SaveReceipt
    | SaveSnapshot
    | SaveProof
    | SaveRequirement
    | SaveMembers
    | SaveAcceptance
    | DropAcceptance
    | SaveJobsRecord
    | ForgetJobsRecord
    | ForgetJob
)

# ---- acts ------------------------------------------------------------------------------------


class Sign(_Effect, frozen=True, tag="Sign"):
    """Sign this body with the node's key.

    The runtime feeds it back at once, before any other event, as the event of its kind with the
    node's own id as source; from there it is saved and sent.
    """

    body: SignedBody


class Send(_Effect, frozen=True, tag="Send"):
    """Send one stream message to each of these peers (sorted). May be lost: pulls repair it."""

    peers: tuple[PeerId, ...]
    message: Message


class SendFrames(_Effect, frozen=True, tag="SendFrames"):
    """Send ``peer`` the stored frames of an author's incarnation in a shard, from ``first`` below
    ``end``."""

    peer: PeerId
    job: JobId
    author: PeerId
    incarnation: int
    first: int
    end: int
    shard: int = 0


class SendReceipts(_Effect, frozen=True, tag="SendReceipts"):
    """Send ``peer`` the stored receipts for it of the jobs of this node's own in which it earned
    something, the last ``most`` jobs."""

    peer: PeerId
    most: int


class Gossip(_Effect, frozen=True, tag="Gossip"):
    """Gossip a manifest or a closure to the whole network."""

    sealed: Sealed


class PublishRecord(_Effect, frozen=True, tag="PublishRecord"):
    """Put a jobs record into the DHT."""

    sealed: Sealed


class Report(_Effect, frozen=True, tag="Report"):
    """Hold a verdict against (or for) the peer a message came from."""

    peer: PeerId
    verdict: Verdict


class Leave(_Effect, frozen=True, tag="Leave"):
    """Close the connections to a peer in a moment, when what was sent to it has left, and do not
    take new ones for a while. Nobody is to blame."""

    peer: PeerId


class Reconsider(_Effect, frozen=True, tag="Reconsider"):
    """Who belongs to the closed network has changed: part at once from whoever does not, and dial
    those who do now."""


class Watch(_Effect, frozen=True, tag="Watch"):
    """These peers (sorted) hold claims in a job that this node takes part in: let it be known
    within 10 s that one of them has stopped. It replaces what was asked for before."""

    peers: tuple[PeerId, ...]


class Want(_Effect, frozen=True):
    """So many ``peers`` that provide a key of the DHT are wanted as connections; ``provide``: this
    node says that it is one of them. ``here`` are those of them that are connected. ``whom`` are
    wanted beside, whether they provide it or not."""

    key: bytes
    peers: int
    provide: bool
    here: tuple[PeerId, ...] = ()
    whom: tuple[PeerId, ...] = ()


class Attend(_Effect, frozen=True, tag="Attend"):
    """Be connected with those who serve the same shards. It replaces what was asked for before."""

    wants: tuple[Want, ...]


class OpenJob(_Effect, frozen=True, tag="OpenJob"):
    """Get model and unit table and check them; ends in JobOpened or JobUnavailable."""

    job: JobId
    manifest: Manifest
    sources: tuple[PeerId, ...]


class Execute(_Effect, frozen=True, tag="Execute"):
    """Get the input of a unit and run it.

    The runtime answers with exactly one of UnitExecuted, UnitFaulted, UnitUnavailable, unless the
    unit is withdrawn first.
    """

    job: JobId
    unit: int
    sources: tuple[PeerId, ...]


class Withdraw(_Effect, frozen=True, tag="Withdraw"):
    """Do not run these units any more. ``kill``: not even if they are running already."""

    job: JobId
    units: tuple[int, ...]
    kill: bool


class ShutJob(_Effect, frozen=True, tag="ShutJob"):
    """Stop everything for this job and end its child; unless ``keep``, let its blobs be evicted."""

    job: JobId
    keep: bool


class SetPaused(_Effect, frozen=True, tag="SetPaused"):
    """Freeze (or thaw) all children, start nothing while paused."""

    paused: bool


class Fetch(_Effect, frozen=True, tag="Fetch"):
    """Get a blob from one of these peers and keep it for the job."""

    job: JobId
    ref: BlobRef
    sources: tuple[PeerId, ...]


class Challenge(_Effect, frozen=True, tag="Challenge"):
    """Have one peer show a piece, drawn at random, of a blob of ``length`` bytes that is here too.

    The runtime answers with ChallengeAnswered. Nobody else hears of it.
    """

    job: JobId
    digest: Digest
    length: int
    peer: PeerId


class MakeCommitments(_Effect, frozen=True, tag="MakeCommitments"):
    """Draw a seed and commit with it to these outputs, which are durably here.

    The runtime answers with CommitmentsMade for those that it could read, and UnitUnavailable for
    the others.
    """

    job: JobId
    items: tuple[RevealItem, ...]


class OpenedCommitment(_Effect, frozen=True):
    """A commitment of a peer, and the seed that it revealed."""

    unit: int
    attempt: int
    peer: PeerId
    seed: bytes
    commitment: bytes


class CheckCommitments(_Effect, frozen=True, tag="CheckCommitments"):
    """Hold commitments against the output of ``digest``, which is durably here.

    The runtime answers with CommitmentsChecked, also if the output is here no more.
    """

    job: JobId
    digest: Digest
    items: tuple[OpenedCommitment, ...]


class Prove(_Effect, frozen=True, tag="Prove"):
    """Take a stored frame of an author, by its number, together with another one.

    The runtime answers with ProofReceived from the node itself, if the stored frame is there.
    """

    job: JobId
    author: PeerId
    incarnation: int
    sequence: int
    other: Sealed
    shard: int = 0


class Compare(_Effect, frozen=True, tag="Compare"):
    """Get another's output for a unit and compare it with one that is here, ``own``.

    The runtime answers with Compared.
    """

    job: JobId
    unit: int
    candidate: BlobRef
    own: Digest
    sources: tuple[PeerId, ...]


Act = (
    Sign
    | Send
    | SendFrames
    | SendReceipts
    | Gossip
    | PublishRecord
    | Report
    | Reconsider
    | Leave
    | Watch
    | Attend
    | OpenJob
    | Execute
    | Withdraw
    | ShutJob
    | SetPaused
    | Fetch
    | Challenge
    | MakeCommitments
    | CheckCommitments
    | Compare
    | Prove
)
Effect = Write | Act
