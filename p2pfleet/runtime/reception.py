"""From bytes of peers to events of the core: decoded, verified, or turned into a verdict.

Verification runs in a worker thread, for everything that waits at once; the order in which a peer
sent its messages is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import trio

from p2pfleet.core.errors import (
    ACCEPT,
    Accept,
    BadSignature,
    Forged,
    Ignore,
    Malformed,
    Reject,
    Verdict,
)
from p2pfleet.core.events import (
    AcceptanceReceived,
    AddressesChanged,
    ClosureReceived,
    Event,
    FrameReceived,
    FramesSummaryReceived,
    HelloReceived,
    JobsRecordReceived,
    JobsSummaryReceived,
    ManifestReceived,
    MembersReceived,
    PeerConnected,
    PeerDisconnected,
    PeerRefused,
    ProofReceived,
    ReceiptReceived,
    RecordReceived,
    RequirementReceived,
    RosterSummaryReceived,
    ShardsSummaryReceived,
    SnapshotReceived,
    VersionsDiffer,
    WantedReceived,
)
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules.admission import judge_manifest
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.messages import (
    Deliver,
    FramesSummary,
    Goodbye,
    Hello,
    JobsSummary,
    Message,
    Proof,
    RosterSummary,
    ShardsSummary,
    Wanted,
)
from p2pfleet.core.wire.names import MAX_ANNOUNCEMENT_BYTES, MAX_MESSAGE_BYTES, PROTOCOL_VERSION
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
)
from p2pfleet.core.wire.versions import (
    read_newer,
    told_versions,
    unknown_body,
    upgrade_sentence,
)
from p2pfleet.ports import (
    Announced,
    Clock,
    Connected,
    Disconnected,
    Moved,
    Network,
    NetworkEvent,
    Received,
    Refused,
    Validator,
)
from p2pfleet.runtime.budgets import PublishBudget, TalkBudget
from p2pfleet.runtime.signing import open_bytes, open_sealed
from p2pfleet.runtime.traffic import Traffic

log = logging.getLogger(__name__)

BATCH = 64

Interpreted = Event | tuple[PeerId, Verdict]
_TALK = (
    HelloReceived,
    JobsSummaryReceived,
    FramesSummaryReceived,
    WantedReceived,
    RecordReceived,
    RosterSummaryReceived,
)


def announcement_validator(
    terms: NetworkTerms, clock: Clock, belongs: Callable[[PeerId], bool] = lambda _: True
) -> Validator:
    """Judges gossip before it is handed on: manifests and closures of this network, signed by
    keys that fit it, of peers that belong to it, within what a publisher may announce."""
    budget = PublishBudget(clock)

    def judge(publisher: PeerId, announcement: bytes, verdict: Verdict) -> Verdict:
        if not isinstance(verdict, Accept):
            return verdict
        # Who hands it on may have heard more of who belongs here than this node.
        if not belongs(publisher):
            return Ignore("the publisher is not known to belong to this closed network")
        if not budget.allows(publisher, announcement):
            return Ignore("the publisher announces too much")
        return verdict

    def validate(peer: PeerId, data: bytes) -> Verdict:
        del peer
        if len(data) > MAX_ANNOUNCEMENT_BYTES:
            return Reject("the announcement is too long")
        try:
            verified = open_bytes(data)
        except Malformed as error:
            return _fault(f"the announcement is malformed: {error}", error)
        match verified:
            case VerifiedManifest(manifest=manifest):
                verdict = judge_manifest(manifest, terms, clock.wall_ms())
                return judge(manifest.publisher, verified.sealed.hash, verdict)
            case VerifiedClosure(closure=closure):
                if closure.network != terms.id:
                    return Reject("the closure belongs to another network")
                if not fits(terms, closure.publisher):
                    return Reject("the publisher's key does not fit the network")
                return judge(closure.publisher, verified.sealed.hash, ACCEPT)
            case _:
                return Reject("neither a manifest nor a closure")

    return validate


def _fault(reason: str, error: Malformed) -> Reject:
    return Forged(reason) if isinstance(error, BadSignature) else Reject(reason)


def interpret(
    event: NetworkEvent, network: NetworkId, newer: dict[PeerId, bool] | None = None
) -> Interpreted:
    """What one network event means to the core, or the verdict on it. Never raises.

    ``newer`` are the peers that said they speak a newer minor version, kept from call to call.
    """
    newer = {} if newer is None else newer
    match event:
        case Connected(peer=peer):
            return PeerConnected(peer, event.address)
        case Disconnected(peer=peer):
            newer.pop(peer, None)
            return PeerDisconnected(peer)
        case Refused(peer=peer):
            return PeerRefused(peer, event.for_ms)
        case Moved(addresses=addresses):
            return AddressesChanged(addresses)
        case Announced(peer=peer, data=data):
            try:
                return _delivered(peer, open_bytes(data))
            except Malformed as error:
                return peer, _fault(f"malformed announcement: {error}", error)
        case Received(peer=peer, data=data):
            versions = told_versions(data)
            if versions is not None:
                if versions.goodbye or not versions.common:
                    told = versions.goodbye
                    return VersionsDiffer(peer, versions.oldest, versions.newest, told)
                newer[peer] = versions.newer
            return _received(peer, data, network, newer.get(peer, False))


def _received(peer: PeerId, data: bytes, network: NetworkId, newer: bool) -> Interpreted:
    try:
        message = read_newer(data) if newer else decode(data, Message, MAX_MESSAGE_BYTES)
        if message is None:
            return peer, Ignore("a kind of message that a newer version has")
        if newer and isinstance(message, Deliver) and unknown_body(message.sealed.body):
            return peer, Ignore("a kind of signed body that a newer version has")
        return _message(peer, message, network)
    except Malformed as error:
        return peer, _fault(f"malformed message: {error}", error)


def _message(peer: PeerId, message: Message, network: NetworkId) -> Interpreted:
    match message:
        case Goodbye(oldest=oldest, newest=newest):
            return VersionsDiffer(peer, oldest, newest, told=True)
        case Hello(network=theirs, record=sealed):
            if theirs != network:
                return peer, Ignore("the peer is on another network")
            record = open_sealed(sealed)
            if not isinstance(record, VerifiedRecord) or record.record.peer != peer:
                return peer, Reject("the record in the hello is not the sender's own")
            return HelloReceived(peer, record)
        case Deliver(sealed=sealed):
            return _delivered(peer, open_sealed(sealed))
        case JobsSummary(open=open_jobs, closed=closed):
            return JobsSummaryReceived(peer, open_jobs, closed)
        case FramesSummary(job=job, positions=positions, snapshot=snapshot):
            return FramesSummaryReceived(
                peer, job, positions, snapshot, message.shard, message.serving, message.whole
            )
        case ShardsSummary(job=job, rows=rows):
            return ShardsSummaryReceived(peer, job, rows)
        case Wanted(job=job, units=units):
            return WantedReceived(peer, job, units)
        case RosterSummary():
            return RosterSummaryReceived(peer, message)
        case Proof(first=first, second=second):
            one, two = open_sealed(first), open_sealed(second)
            if not isinstance(one, VerifiedFrame) or not isinstance(two, VerifiedFrame):
                return peer, Reject("a proof that is not made of two frames")
            return ProofReceived(peer, one, two)


def _delivered(peer: PeerId, verified: Verified) -> Interpreted:
    match verified:
        case VerifiedManifest():
            return ManifestReceived(peer, verified)
        case VerifiedClosure():
            return ClosureReceived(peer, verified)
        case VerifiedFrame():
            return FrameReceived(peer, verified)
        case VerifiedRequirement():
            return RequirementReceived(peer, verified)
        case VerifiedSnapshot():
            return SnapshotReceived(peer, verified)
        case VerifiedJobsRecord():
            return JobsRecordReceived(peer, verified)
        case VerifiedReceipt():
            return ReceiptReceived(peer, verified)
        case VerifiedMembers():
            return MembersReceived(peer, verified)
        case VerifiedAcceptance():
            return AcceptanceReceived(peer, verified)
        case VerifiedRecord():
            return RecordReceived(peer, verified)
        case VerifiedInvitation() | VerifiedAdmission():
            return peer, Ignore("an invitation outside a handshake")


async def receive(
    network: Network,
    id_: NetworkId,
    submit: Callable[[Event], Awaitable[None]],
    clock: Clock,
    traffic: Traffic | None = None,
) -> None:
    """Turn the network's events into the core's, for ever.

    The core answers what it is told, so a peer's talk has a budget; what goes beyond is passed over
    and the peer charged for it. Summaries come again.
    """
    events = network.events
    newer: dict[PeerId, bool] = {}
    behind = False
    talk = TalkBudget(clock)
    while True:
        batch = [await events.receive()]
        while len(batch) < BATCH:
            try:
                batch.append(events.receive_nowait())
            except trio.WouldBlock:
                break
        if traffic is not None:
            for event in batch:
                if isinstance(event, Received | Announced):
                    traffic.hears(len(event.data))
        for result in await trio.to_thread.run_sync(_interpret_all, batch, id_, newer):
            if isinstance(result, VersionsDiffer) and result.oldest > PROTOCOL_VERSION:
                if not behind:  # once is enough; the status goes on saying it
                    log.warning("%s", upgrade_sentence(result.oldest, 1))
                behind = True
            if isinstance(result, tuple):
                network.report(*result)
            elif isinstance(result, _TALK) and not talk.allows(result.peer):
                network.report(result.peer, Ignore("it asks and tells too much at once"))
            else:
                await submit(result)


def _interpret_all(
    batch: Sequence[NetworkEvent], network: NetworkId, newer: dict[PeerId, bool]
) -> list[Interpreted]:
    return [interpret(event, network, newer) for event in batch]
