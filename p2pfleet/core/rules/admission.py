"""Which manifests, closures, frames and records a node takes notice of (``protocol/jobs.md``)."""

from __future__ import annotations

from typing import get_args

from p2pfleet.core.errors import ACCEPT, Ignore, Malformed, Reject, Verdict
from p2pfleet.core.model.ids import cid_sha256, sha256
from p2pfleet.core.model.job import MAX_EXPIRY_MS, Exact, FixedQuorum, Limits, UnitTable
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.rules.shards import shard_of
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    PUBLISHER_ENTRIES,
    Audit,
    Claim,
    Closure,
    Commit,
    Drop,
    Endorse,
    Entry,
    Failure,
    Frame,
    Keep,
    Manifest,
    OpenRingers,
    PeerRecord,
    Release,
    Reveal,
    Snapshot,
)
from p2pfleet.core.wire.names import MAX_TABLE_BYTES

RECORD_LIFE_MS = 24 * 3600 * 1000

_RINGERS = b"p2pfleet-ringers-1:"
_BY_PUBLISHER = frozenset(get_args(PUBLISHER_ENTRIES))


def judge_manifest(manifest: Manifest, terms: NetworkTerms, wall_ms: int) -> Verdict:
    """Accept, or why not. Only what contradicts itself is the sender's fault."""
    if manifest.network != terms.id:
        return Reject("the manifest belongs to another network")
    if not fits(terms, manifest.publisher):
        return Reject("the publisher's key does not fit the network")
    if manifest.expires_ms <= manifest.issued_ms:
        return Reject("the job expires before it was issued")
    if manifest.expires_ms - manifest.issued_ms > MAX_EXPIRY_MS:
        return Reject("the job lasts longer than 30 days")
    if isinstance(manifest.stop, FixedQuorum) and manifest.stop.replicas_max < manifest.stop.quorum:
        return Reject("the quorum is larger than the number of replicas allowed")
    if manifest.shards > manifest.units:
        return Reject("the job has more shards than units")
    for cid in (manifest.model, manifest.table):
        try:
            cid_sha256(cid)
        except Malformed as error:
            return Reject(f"the manifest names its blobs wrongly: {error}")
    if manifest.table_bytes > MAX_TABLE_BYTES:
        return Reject("the unit table is too large")
    if manifest.model_bytes > manifest.limits.memory_bytes:
        return Reject("the model is larger than the memory that a unit may take")
    if manifest.expires_ms + CLOCK_SKEW_MS < wall_ms:
        return Ignore("the job has expired")
    if manifest.issued_ms - CLOCK_SKEW_MS > wall_ms:
        return Ignore("the job was issued in the future by this clock")
    return ACCEPT


def judge_frame(frame: Frame, manifest: Manifest, terms: NetworkTerms) -> Verdict:
    """Accept a frame of the job that ``manifest`` asked for, or why not."""
    if frame.network != manifest.network:
        return Reject("the frame belongs to another network")
    if not fits(terms, frame.author):
        return Reject("the author's key does not fit the network")
    if frame.shard >= manifest.shards:
        return Reject("the frame names a shard that the job does not have")
    published = frame.author == manifest.publisher
    for entry in frame.entries:
        if (type(entry) in _BY_PUBLISHER) != published:
            if published:
                return Reject("the publisher does not run units of its own job")
            return Reject("somebody else than the publisher says what is right")
        fault = _entry_fault(entry, manifest) or _astray(entry, frame.shard, manifest)
        if fault:
            return Reject(fault)
    return ACCEPT


def _entry_fault(entry: Entry, manifest: Manifest) -> str:
    if max(named_units(entry), default=0) >= manifest.units:
        return "the frame names a unit that the job does not have"
    # Every entry of every frame passes here, so this asks for its type instead of matching: the
    # metaclass of message types makes a pattern that does not match cost 95 ns instead of 20.
    if type(entry) is Reveal:
        items = entry.items
        most = manifest.limits.output_bytes
        if max([item.length for item in items]) > most:
            return "the frame votes for an output larger than the job allows"
        if len(items) > 1 and len({(item.unit, item.attempt) for item in items}) != len(items):
            return "the frame votes twice on a unit"
    elif type(entry) is Commit:
        made = entry.items
        if len(made) > 1 and len({(item.unit, item.attempt) for item in made}) != len(made):
            return "the frame commits twice to a unit"
    elif type(entry) is Endorse:
        if isinstance(manifest.comparison, Exact):
            return "the frame endorses where results are compared byte for byte"
    elif type(entry) is OpenRingers and ringers_hash(entry) != manifest.trust.ringers:
        return "the ringers are not those that the manifest names"
    return ""


def _astray(entry: Entry, shard: int, manifest: Manifest) -> str:
    if manifest.shards == 1 or isinstance(entry, OpenRingers):
        return ""
    of = (manifest.salt, manifest.units, manifest.shards)
    if any(shard_of(*of, unit) != shard for unit in named_units(entry)):
        return "the frame names a unit of another shard"
    return ""


def weight(entry: Entry) -> int:
    """What an entry counts against its author's budget: one for each unit or blob it names."""
    if type(entry) is Claim or type(entry) is Release:
        return len(entry.units)
    if type(entry) is Reveal or type(entry) is Commit:
        return len(entry.items)
    if type(entry) is Keep or type(entry) is Drop:
        return len(entry.digests)
    return len(named_units(entry))


def named_units(entry: Entry) -> tuple[int, ...]:
    """The units that an entry is about; none where it is about blobs."""
    if type(entry) is Claim or type(entry) is Release:
        return entry.units
    if type(entry) is Reveal or type(entry) is Commit:
        return tuple([item.unit for item in entry.items])
    if type(entry) is OpenRingers:
        return tuple([ringer.unit for ringer in entry.ringers])
    if type(entry) is Keep or type(entry) is Drop:
        return ()
    assert isinstance(entry, (Failure, Endorse, Audit))
    return (entry.unit,)


def ringers_hash(opened: OpenRingers) -> bytes:
    """What the manifest tells of the ringers before they are opened: 32 bytes."""
    return sha256(_RINGERS + opened.secret + encode(opened.ringers))


def judge_snapshot(snapshot: Snapshot, terms: NetworkTerms) -> Verdict:
    """Accept a publisher's trust snapshot, or why not."""
    if snapshot.network != terms.id:
        return Reject("the trust snapshot belongs to another network")
    if not fits(terms, snapshot.publisher):
        return Reject("the publisher's key does not fit the network")
    return ACCEPT


def judge_record(record: PeerRecord, terms: NetworkTerms, wall_ms: int) -> Verdict:
    """Accept what a peer says of itself, or why not."""
    if record.network != terms.id:
        return Reject("the peer record belongs to another network")
    if not fits(terms, record.peer):
        return Reject("the peer's key does not fit the network")
    if record.expires_ms <= record.issued_ms:
        return Reject("the peer record expires before it was issued")
    if record.expires_ms - record.issued_ms > RECORD_LIFE_MS:
        return Reject("the peer record lasts longer than a day")
    if record.expires_ms + CLOCK_SKEW_MS < wall_ms:
        return Ignore("the peer record has expired")
    if record.issued_ms - CLOCK_SKEW_MS > wall_ms:
        return Ignore("the peer record was issued in the future by this clock")
    return ACCEPT


def beyond(asked: Limits, most: Limits) -> str:
    """Why a unit of such a job may not run under the owner's limits; empty if it may."""
    if asked.memory_bytes > most.memory_bytes:
        return (
            f"a unit may take {asked.memory_bytes >> 20} MiB of memory, "
            f"more than the {most.memory_bytes >> 20} MiB that the owner allows"
        )
    if asked.cpu_ms > most.cpu_ms:
        return (
            f"a unit may take {asked.cpu_ms / 1000:.0f} s of processor time, "
            f"more than the {most.cpu_ms / 1000:.0f} s that the owner allows"
        )
    if asked.output_bytes > most.output_bytes:
        return (
            f"a unit may give {asked.output_bytes >> 20} MiB of output, "
            f"more than the {most.output_bytes >> 20} MiB that the owner allows"
        )
    return ""


def table_fault(table: UnitTable, manifest: Manifest) -> str | None:
    """Why a unit table is not the one that the manifest promises, or ``None``."""
    if len(table.units) != manifest.units:
        return f"it lists {len(table.units)} units where {manifest.units} are promised"
    if sum(unit.length for unit in table.units) != manifest.total_bytes:
        return "its units do not add up to the promised bytes"
    for number, unit in enumerate(table.units):
        if unit.pack >= len(table.packs):
            return f"unit {number} lies in a pack that it does not list"
        if unit.length > manifest.limits.memory_bytes:
            return f"the input of unit {number} is larger than the memory that it may take"
    for cid in table.packs:
        try:
            cid_sha256(cid)
        except Malformed as error:
            return f"a pack of it is {error}"
    return None


def judge_closure(closure: Closure, manifest: Manifest) -> Verdict:
    """Accept a closure of the job that ``manifest`` asked for, if its publisher signed it."""
    if closure.network != manifest.network:
        return Reject("the closure belongs to another network")
    if closure.publisher != manifest.publisher:
        return Reject("somebody else than the publisher closes the job")
    return ACCEPT
