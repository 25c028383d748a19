"""What a starting node tells its core: everything that the store holds, as events like any other.

What no longer opens (a damaged row whose bytes are still a message, a body of an older protocol) is
logged and left out; it costs what it said, never the start.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio

from p2pfleet.core import events as ev
from p2pfleet.core.effects import UnitRow
from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import Digest, JobId, PeerId
from p2pfleet.core.model.network import NetworkFile
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.rules.closed import acceptance_order
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.messages import Manifest, OpenRingers, Ringer, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES
from p2pfleet.core.wire.verified import (
    Verified,
    VerifiedAcceptance,
    VerifiedClosure,
    VerifiedFrame,
    VerifiedJobsRecord,
    VerifiedManifest,
    VerifiedMembers,
    VerifiedReceipt,
    VerifiedRequirement,
    VerifiedSnapshot,
)
from p2pfleet.ports import Store, StoredJob
from p2pfleet.runtime.closed import opened_pages
from p2pfleet.runtime.requirements import opened_requirement
from p2pfleet.runtime.signing import open_sealed

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 256

Submit = Callable[[ev.Event], Awaitable[None]]


async def restore(
    submit: Submit, store: Store, network: NetworkFile, me: PeerId, notes: Path
) -> None:
    """Tell the core what lies between ``Started`` and ``RestoreFinished``.

    ``notes`` is the folder of what this node noted of the jobs that it published. Raises
    :class:`P2pfleetError` when the store is damaged.
    """
    await _requirement(submit, store, network, me)
    await _roster(submit, store, network, me)
    rows = await trio.to_thread.run_sync(store.records)
    await submit(ev.RecordsRestored(tuple(rows)))
    for proof in await trio.to_thread.run_sync(_proofs, store):
        if proof.first.frame.network == network.id:
            await submit(proof)
    for record in await trio.to_thread.run_sync(_jobs_records, store):
        if record.record.network == network.id:
            await submit(ev.JobsRecordReceived(me, record))
    jobs: dict[JobId, ev.JobRestored] = {}
    for stored in await trio.to_thread.run_sync(store.jobs):
        job = await trio.to_thread.run_sync(_job, store, stored)
        if job is not None and job.manifest.manifest.network == network.id:
            await submit(job)
            if job.state == "active":
                jobs[stored.job] = job
    frames = [each for each in await trio.to_thread.run_sync(store.frames) if each[0] in jobs]
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        chunk = frames[start : start + FRAMES_AT_ONCE]
        for frame in await trio.to_thread.run_sync(_frames, chunk):
            await submit(frame)
    for known, job in jobs.items():
        if job.own and job.manifest.manifest.trust.ringers is not None:
            ringers = await trio.to_thread.run_sync(
                _ringers, notes / f"{known.hex()}.json", known, job.manifest.manifest
            )
            if ringers is not None:
                await submit(ringers)


async def _requirement(submit: Submit, store: Store, network: NetworkFile, me: PeerId) -> None:
    """What the network's owner asks for: what was heard last, and what the network file says."""
    found = []
    heard = await trio.to_thread.run_sync(store.requirement)
    if heard is not None:
        try:
            found.append(open_sealed(heard))
        except Malformed as error:
            log.warning("the network's requirement in the store is damaged: %s", error)
    if network.requirement is not None:
        found.append(opened_requirement(network))
    for verified in found:
        if isinstance(verified, VerifiedRequirement):
            await submit(ev.RequirementReceived(me, verified))


async def _roster(submit: Submit, store: Store, network: NetworkFile, me: PeerId) -> None:
    """Who belongs to a closed network: what was heard last, and what the network file says."""
    if not network.parameters.closed:
        return
    kept = await trio.to_thread.run_sync(store.members)
    kept += await trio.to_thread.run_sync(store.acceptances)
    found = await trio.to_thread.run_sync(_opened, kept)
    for page in [*(one for one in found if isinstance(one, VerifiedMembers))]:
        await submit(ev.MembersReceived(me, page))
    for page in opened_pages(network):
        await submit(ev.MembersReceived(me, page))
    accepted = [one for one in found if isinstance(one, VerifiedAcceptance)]
    for one in sorted(accepted, key=acceptance_order):
        await submit(ev.AcceptanceReceived(me, one))


def _opened(kept: Sequence[Sealed]) -> list[Verified]:
    found = []
    for sealed in kept:
        try:
            found.append(open_sealed(sealed))
        except Malformed as error:
            log.warning("a word on who belongs to the network is damaged in the store: %s", error)
    return found


def _jobs_records(store: Store) -> list[VerifiedJobsRecord]:
    restored = []
    for sealed in store.jobs_records():
        try:
            verified = open_sealed(sealed)
        except Malformed as error:
            log.warning("a jobs record in the store is damaged and is left out: %s", error)
            continue
        if isinstance(verified, VerifiedJobsRecord):
            restored.append(verified)
    return restored


def _proofs(store: Store) -> list[ev.ProofRestored]:
    restored = []
    for peer, *frames in store.proofs():
        try:
            first, second = map(open_sealed, frames)
        except Malformed as error:
            log.warning(
                "a proof against %s in the store is damaged and is left out: %s",
                peer.hex()[:8],
                error,
            )
            continue
        if isinstance(first, VerifiedFrame) and isinstance(second, VerifiedFrame):
            restored.append(ev.ProofRestored(first, second))
    return restored


def _job(store: Store, stored: StoredJob) -> ev.JobRestored | None:
    try:
        manifest = open_sealed(stored.manifest)
        closure = None if stored.closure is None else open_sealed(stored.closure)
    except Malformed as error:
        log.warning("a job in the store is damaged and is left out: %s", error)
        return None
    if not isinstance(manifest, VerifiedManifest) or manifest.job != stored.job:
        log.warning("a job in the store is damaged and is left out: its manifest is another's")
        return None
    due = stored.own and stored.state == "active"
    return ev.JobRestored(
        manifest=manifest,
        own=stored.own,
        state=stored.state,
        closure=closure if isinstance(closure, VerifiedClosure) else None,
        units=tuple(UnitRow(*row) for row in store.units(stored.job)),
        moves=tuple(store.moves(stored.job)),
        snapshots=tuple(_snapshots(store, stored.job)),
        seeds=tuple(store.seeds(stored.job)),
        earnings=tuple(store.earnings(stored.job)) if due else (),
        receipts=tuple(_receipts(store, stored.job)) if due or not stored.own else (),
        poisoned=stored.poisoned,
        withdrawn=tuple(store.withdrawn(stored.job)) if due else (),
    )


def _snapshots(store: Store, job: JobId) -> list[VerifiedSnapshot]:
    restored = []
    for sealed in store.snapshots(job):
        try:
            verified = open_sealed(sealed)
        except Malformed as error:
            log.warning("a trust snapshot in the store is damaged and is left out: %s", error)
            continue
        if isinstance(verified, VerifiedSnapshot):
            restored.append(verified)
    return restored


def _receipts(store: Store, job: JobId) -> list[VerifiedReceipt]:
    restored = []
    for sealed in store.receipts(job):
        try:
            verified = open_sealed(sealed)
        except Malformed as error:
            log.warning("a receipt in the store is damaged and is left out: %s", error)
            continue
        if isinstance(verified, VerifiedReceipt):
            restored.append(verified)
    return restored


def _frames(chunk: Sequence[tuple[JobId, Sealed]]) -> list[ev.FrameRestored]:
    restored = []
    for _, sealed in chunk:
        try:
            verified = open_sealed(sealed)
        except Malformed as error:
            log.warning("a frame in the store is damaged and is left out: %s", error)
            continue
        if isinstance(verified, VerifiedFrame):
            restored.append(ev.FrameRestored(verified))
    return restored


class _RingerNote(msgspec.Struct):
    """Of the publisher's note on a job, what it says of ringers: (unit, digest) and the secret."""

    ringers: list[tuple[int, str]]
    ringers_secret: str


def _ringers(note: Path, job: JobId, manifest: Manifest) -> ev.RingersKnown | None:
    """The ringers that the manifest promises, if the note still knows them."""
    try:
        known = msgspec.json.decode(note.read_bytes(), type=_RingerNote)
        opened = OpenRingers(
            secret=bytes.fromhex(known.ringers_secret),
            ringers=tuple(
                Ringer(unit, Digest(bytes.fromhex(digest))) for unit, digest in known.ringers
            ),
        )
        # Encoded and decoded, for the bounds that stand on the types.
        opened = decode(encode(opened), OpenRingers, MAX_FRAME_BYTES)
    except (OSError, ValueError, OverflowError, msgspec.MsgspecError, Malformed) as error:
        log.warning("the ringers of job %s are lost: %s", job.hex()[:12], error)
        return None
    if ringers_hash(opened) != manifest.trust.ringers:
        log.warning("the ringers of job %s are lost: its note names others", job.hex()[:12])
        return None
    return ev.RingersKnown(job, opened.secret, opened.ringers)
