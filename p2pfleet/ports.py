"""The interfaces behind which the world lies.

The runtime speaks to these; ``adapters/`` implements them for real, ``sim/`` and the tests run
fakes. A port speaks in the core's values: peers are public keys, contents are CIDs, messages are
bytes whose meaning only the core knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from p2pfleet.core.effects import Earning, Move, OwnSeed, RecordRow, Want, Withdrawn, Write
from p2pfleet.core.errors import Verdict
from p2pfleet.core.model.capability import Capability
from p2pfleet.core.model.ids import Cid, JobId, PeerId
from p2pfleet.core.model.job import BlobRef, Limits
from p2pfleet.core.wire.messages import Sealed

# ---- network ---------------------------------------------------------------------------------


class Connected(msgspec.Struct, frozen=True):
    """A connection to ``peer`` stands (the first one; further ones are not reported)."""

    peer: PeerId
    address: str


class Disconnected(msgspec.Struct, frozen=True):
    """The last connection to ``peer`` is gone."""

    peer: PeerId


class Received(msgspec.Struct, frozen=True):
    """One message of the frames protocol, from the peer at the other end."""

    peer: PeerId
    data: bytes


class Announced(msgspec.Struct, frozen=True):
    """One gossiped announcement that the validator accepted; ``peer`` handed it on."""

    peer: PeerId
    data: bytes


class Refused(msgspec.Struct, frozen=True):
    """``peer`` is refused from now on for ``for_ms``, for what it sent (0: it may come again)."""

    peer: PeerId
    for_ms: int


class Moved(msgspec.Struct, frozen=True):
    """This node can be reached at other addresses than before."""

    addresses: tuple[str, ...]


NetworkEvent = Connected | Disconnected | Received | Announced | Refused | Moved


class PeerGone(Exception):
    """The peer is not connected (any more), or does not take what it is sent."""


class Network(Protocol):
    """Connections, gossip and message streams. Everything that arrives is hostile until checked."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Own listening multiaddresses, each ending in ``/p2p/<peer id>``."""
        ...

    @property
    def events(self) -> trio.MemoryReceiveChannel[NetworkEvent]:
        """What happens, in order; bounded, so a slow reader slows the peers' streams down."""
        ...

    def peers(self) -> tuple[Connected, ...]:
        """The peers connected now, sorted."""
        ...

    async def send(self, peer: PeerId, data: bytes) -> None:
        """Queue one message (at most MAX_MESSAGE_BYTES) on the long-lived stream to ``peer``.

        Returns when it is queued; waits while the bounded queue is full. Raises :class:`PeerGone`.
        """
        ...

    async def announce(self, data: bytes) -> None:
        """Gossip one announcement (at most MAX_ANNOUNCEMENT_BYTES). Lossy."""
        ...

    def leave(self, peer: PeerId) -> None:
        """Part from ``peer`` in a moment, and for a while; it did nothing wrong."""
        ...

    def reconsider(self) -> None:
        """Whom the :class:`MemberGate` admits has changed: part from all others, dial the new."""
        ...

    async def put_record(self, key: str, data: bytes) -> bool:
        """Store a value under a key of the DHT; whether anybody took it. Slow, and may be lost."""
        ...

    async def get_record(self, key: str) -> bytes | None:
        """The best value that the DHT has for a key, if it is found in time. Slow."""
        ...

    def hold_off(self, alone: bool) -> None:
        """Part from everybody and meet nobody, until told otherwise; returns at once."""
        ...

    def attend(self, wants: Sequence[Want]) -> None:
        """Be connected with those who provide these keys, as far as they are found, and part from
        others for it where all places are taken. Replaces the earlier ones; returns at once."""
        ...

    def watch(self, peers: Sequence[PeerId]) -> None:
        """Notice within 10 s when one of these stops, and within minutes when any other does.

        Who stops is disconnected, like one whose cable was pulled. Replaces the earlier ones.
        """
        ...

    def report(self, peer: PeerId, verdict: Verdict) -> None:
        """Tell what a message of ``peer`` turned out to be; Rejects lead to disconnection."""
        ...


class MemberGate(Protocol):
    """Who may connect to this node of a closed network. Must be quick and must not raise."""

    def admits(self, peer: PeerId) -> bool:
        """Whether this node talks to ``peer``."""
        ...

    def proves(self, peer: PeerId, proof: bytes) -> bool:
        """Whether ``peer``, whose handshake brought ``proof``, is to be admitted for it."""
        ...

    def proof(self) -> bytes:
        """What this node shows in the handshake of connections that it opens; may be empty."""
        ...


class RecordRule(Protocol):
    """What may be stored under a key of the DHT. Must be quick."""

    def validate(self, key: str, data: bytes) -> None:
        """Raises :class:`Malformed` for what must not be stored under ``key``."""
        ...

    def select(self, key: str, values: Sequence[bytes]) -> int:
        """Which of several valid values of ``key`` stays."""
        ...


class AddressBook(Protocol):
    """The saved addresses of peers, so that a node comes back without any bootstrap."""

    def load_addresses(self) -> list[tuple[PeerId, str]]:
        """Known addresses, the most recently useful first."""
        ...

    def save_address(self, peer: PeerId, address: str, now_ms: int) -> None:
        """Remember an address that a connection proved to work. Bounded: the oldest go."""
        ...


class Ban(msgspec.Struct, frozen=True):
    """A peer or an address that this node refuses, or refused lately.

    ``peer`` is ``None`` for an address, ``address`` empty for a peer; an address is an IPv4 address
    or an IPv6 /64. It lasts ``lasts_ms`` from ``since_ms`` (wall clock); ``times`` counts the bans
    of this one that followed each other, this one included.
    """

    peer: PeerId | None
    address: str
    reason: str
    since_ms: int
    lasts_ms: int
    times: int


class BanBook(Protocol):
    """Where bans outlive the process. Both methods block."""

    def load_bans(self) -> list[Ban]:
        """What was saved last."""
        ...

    def save_bans(self, bans: Sequence[Ban]) -> None:
        """Keep these, durably, and no others."""
        ...


# ---- bulk ------------------------------------------------------------------------------------


class BlobNotFound(Exception):
    """No source delivered the blob; says what each one answered."""


class ArrivingPieces(Protocol):
    """A blob that arrives in pieces of PIECE_BYTES (the last may be shorter), in any order.

    May be used from several threads at once. Survives a restart like the blob itself.
    """

    def held(self) -> bytearray:
        """One byte a piece: 1 if it is here. A copy."""
        ...

    def write(self, piece: int, data: bytes | memoryview) -> bool:
        """Keep one whole piece; ``False`` if it was here already (the first that comes counts).

        Raises :class:`P2pfleetError` when the quota or the disk is full.
        """
        ...

    def read(self, piece: int) -> bytes:
        """The bytes of a piece that is here."""
        ...

    def right(self) -> bool:
        """Whether all pieces are here and have the blob's hash. Changes nothing; blocks."""
        ...

    def open(self) -> int | None:
        """A descriptor to read pieces from, at their place; ``None`` when it is gone."""
        ...


class PartialBlob(Protocol):
    """A blob that is arriving. Survives a restart: what was written is found again."""

    @property
    def ref(self) -> BlobRef: ...

    @property
    def present(self) -> int:
        """Bytes from the start that are there already; the next ``write`` continues there."""
        ...

    def write(self, data: bytes) -> None:
        """Append. Raises :class:`P2pfleetError` when the quota or the disk is full."""
        ...

    def pieces(self) -> ArrivingPieces | None:
        """Let it arrive in pieces from now on; whole pieces that are here stay.

        ``None`` if this one only grows from the front. After it, ``write`` is not for use until
        ``restart``. Blocks; raises :class:`P2pfleetError` when there is no room for all of it.
        """
        ...

    def restart(self) -> None:
        """Throw away what is there (the bytes turned out wrong)."""
        ...

    def finish(self) -> bool:
        """Check the hash and keep the blob durably; ``False`` (and restarted) if it is wrong."""
        ...


class BlobReader(Protocol):
    """Where a serving node looks up what it may give away."""

    def locate(self, cid: Cid) -> tuple[Path, int, int] | None:
        """File, offset and length of the blob ``cid`` (which may be a member of a pack)."""
        ...


BlobGate = Callable[[PeerId, Cid], bool]
"""Whether a peer may have a blob (or a range of it) from here; must be quick and must not raise."""


class Bulk(Protocol):
    """Models, tables, packs and outputs: large, verified by hash, resumable."""

    async def fetch(self, partial: PartialBlob, sources: Sequence[PeerId]) -> PeerId:
        """Fill ``partial``; returns who completed it.

        Small ones come from the first source that can; large ones, if ``partial`` takes pieces,
        from several at once, and what is here of them is served to others meanwhile. Continues
        where it stands; a source that sends wrong bytes is reported and left. Raises
        :class:`BlobNotFound` when every source failed.
        """
        ...


class Packs(BlobReader, Protocol):
    """Blobs on disk by CID, within a quota; written atomically, never half."""

    def partial(self, ref: BlobRef) -> PartialBlob:
        """Begin or continue to fetch. The finished range is kept under the CID of its SHA-256."""
        ...

    def add(self, data: bytes) -> Cid:
        """Keep one blob durably; returns its CID. Raises :class:`P2pfleetError` (quota, disk)."""
        ...

    def add_pack(self, members: Sequence[bytes]) -> list[tuple[Cid, int, int]]:
        """Keep several blobs durably in one file.

        Returns (pack CID, offset, length) of each; each can be located by its own CID as well.
        """
        ...

    def check_room(self) -> None:
        """Write something small. Raises :class:`P2pfleetError` when the disk does not take it."""
        ...

    def has(self, cid: Cid) -> bool: ...

    def read(self, cid: Cid) -> bytes:
        """The blob's bytes, verified. Raises KeyError, or :class:`P2pfleetError` if damaged."""
        ...

    def pin(self, owner: bytes, cids: Sequence[Cid]) -> None:
        """Keep these as long as ``owner`` (a job id) needs them; the rest may be evicted."""
        ...

    def unpin(self, owner: bytes) -> None:
        """``owner`` needs nothing any more."""
        ...


# ---- store -----------------------------------------------------------------------------------


class StoredJob(msgspec.Struct, frozen=True):
    """A job as it lies in the store. ``state``: active, completed, cancelled, expired.

    ``poisoned``: so many of its volunteers disagreed that it moves nobody's record.
    """

    job: JobId
    manifest: Sealed
    own: bool
    state: str
    closure: Sealed | None
    poisoned: bool = False


class Store(AddressBook, Protocol):
    """SQLite: the truth and the recovery. One writer; an ``apply`` is one durable transaction."""

    def apply(self, writes: Sequence[Write]) -> None:
        """Make all of these durable, in order, or none. Blocks; call it in a thread."""
        ...

    def next_incarnation(self, now_ms: int) -> int:
        """``max(now_ms, last + 1)``, made durable before it is returned."""
        ...

    def requirement(self) -> Sealed | None:
        """What the network's owner asked for last, if anything was ever heard."""
        ...

    def members(self) -> list[Sealed]:
        """The pages of the closed network's list of members, by number."""
        ...

    def acceptances(self) -> list[Sealed]:
        """The acceptances of invited peers, in the order in which they were first saved."""
        ...

    def jobs_records(self) -> list[Sealed]:
        """The newest record of its jobs of each publisher that one is kept of, by publisher."""
        ...

    def jobs(self) -> list[StoredJob]:
        """Every job known, in the order in which they were first seen."""
        ...

    def job(self, job: JobId) -> StoredJob | None:
        """One job, if it is known."""
        ...

    def find_jobs(self, prefix: str) -> list[JobId]:
        """At most two jobs whose id, in lower-case hexadecimal, begins with ``prefix``."""
        ...

    def frames(self) -> list[tuple[JobId, Sealed]]:
        """Every frame of every active job, in the order in which they were saved."""
        ...

    def job_frames(self, job: JobId) -> list[Sealed]:
        """Every frame of one job, in the order in which they were saved."""
        ...

    def frame_range(
        self, job: JobId, author: PeerId, incarnation: int, first: int, end: int, shard: int = 0
    ) -> list[Sealed]:
        """The frames of one author's incarnation in a shard, from number ``first`` below
        ``end``."""
        ...

    def units(self, job: JobId) -> list[tuple[int, str, bytes]]:
        """The ledger of a job: (unit, state, canonical certificate or b"" or UTF-8 reason)."""
        ...

    def records(self) -> list[RecordRow]:
        """The records over all jobs that have ended, sorted by (class, peer)."""
        ...

    def moves(self, job: JobId) -> list[Move]:
        """The moves of a job of one's own, in the order in which they were first saved."""
        ...

    def withdrawn(self, job: JobId) -> list[Withdrawn]:
        """The votes that count no more in a job of one's own, sorted by (unit, peer, attempt)."""
        ...

    def story(self, peer: PeerId) -> list[tuple[JobId, int, str, int]]:
        """Every move of one peer's record over all jobs: (job, unit, kind, place), by place.

        Places grow in the order of first saving, over all jobs and peers.
        """
        ...

    def proofs(self) -> list[tuple[PeerId, Sealed, Sealed]]:
        """Of each peer that was caught, the two frames that prove it; sorted by peer."""
        ...

    def seeds(self, job: JobId) -> list[OwnSeed]:
        """This node's own seeds in a job, in the order in which they were saved."""
        ...

    def snapshots(self, job: JobId) -> list[Sealed]:
        """The trust snapshots of a job, in the order in which they were saved."""
        ...

    def earnings(self, job: JobId) -> list[Earning]:
        """What the settled units of a job of one's own earned, sorted by (unit, peer)."""
        ...

    def receipts(self, job: JobId | None = None) -> list[Sealed]:
        """The newest receipts of a job, or of all jobs in the order of first sight; by peer."""
        ...

    def receipts_for(self, peer: PeerId, most: int) -> list[Sealed]:
        """The newest receipts for a peer of the last ``most`` jobs of one's own that have one."""
        ...


# ---- sandbox ---------------------------------------------------------------------------------


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model: its dtype, and its shape with ``None`` for free axes."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class ModelSignature(msgspec.Struct, frozen=True):
    """The inputs and outputs of a model, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Execution(msgspec.Struct, frozen=True):
    """One unit's result: the canonical output bundle, and what it cost."""

    outputs: bytes
    cpu_ms: int
    wall_ms: int


class ExecutionFault(Exception):
    """A unit or a model that could not be run.

    ``kind``: ``model`` (the model was refused or failed: the publisher's fault), ``input`` (the
    bundle does not fit the model), ``memory``, ``cpu``, ``output`` (a limit of the manifest),
    ``wall`` (the wall limit: this machine was too slow), ``killed`` (on our own order), ``crash``.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason


class SandboxProperty(msgspec.Struct, frozen=True):
    """One thing that a sandbox may keep a model from: whether it was seen to hold, and how."""

    name: str
    held: bool
    detail: str


class SandboxReport(msgspec.Struct, frozen=True):
    """What a sandbox showed of itself when it was opened, by property and not by name of a layer.

    ``reason`` says in one sentence why the grade is not A (empty if it is), ``advice`` what the
    owner can do about it.
    """

    capability: Capability
    properties: tuple[SandboxProperty, ...]
    reason: str
    advice: str


class SandboxJob(Protocol):
    """One child process with one model. Used by one task at a time."""

    async def load(self) -> None:
        """Admit the model and load it, once, before anything else.

        Raises :class:`ExecutionFault`; after it the child is dead. Cancelling kills the child.
        """
        ...

    @property
    def signature(self) -> ModelSignature:
        """Known once the model is loaded."""
        ...

    async def count(self, inputs: bytes) -> int:
        """How many operations one unit with inputs of these shapes takes: 1 to 2**53 - 1.

        Counted from the model's graph, the same on every machine. Only before the first unit: the
        child forgets the model's bytes then. Raises :class:`ExecutionFault`; after it the child is
        dead. Cancelling kills the child.
        """
        ...

    async def execute(self, inputs: bytes) -> Execution:
        """Run one unit: a canonical bundle in, a canonical bundle out.

        Raises :class:`ExecutionFault`; after any fault but ``input`` and ``output`` the child is
        dead. Cancelling kills the child.
        """
        ...

    def freeze(self) -> None:
        """Stop the child at once (SIGSTOP)."""
        ...

    def thaw(self) -> None:
        """Let it go on."""
        ...

    def kill(self) -> None:
        """End the child at once; idempotent."""
        ...


class Sandbox(Protocol):
    """Runs strangers' models in child processes. Here a model is opaque bytes."""

    @property
    def report(self) -> SandboxReport:
        """What it showed of itself when it was opened."""
        ...

    async def start(self, model: bytes, limits: Limits) -> SandboxJob:
        """A child that was given the model: from now on it can be frozen and killed.

        Its ``load`` has to be called before anything else. Raises :class:`ExecutionFault`.
        """
        ...

    async def load(self, model: bytes, limits: Limits) -> SandboxJob:
        """Start a child and load the model there. Raises :class:`ExecutionFault`."""
        ...


# ---- the rest --------------------------------------------------------------------------------


class Clock(Protocol):
    """Time is passed into the core, so that it can be replayed."""

    def monotonic_ms(self) -> int:
        """For leases, windows and timers."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, for what other machines read."""
        ...


Validator = Callable[[PeerId, bytes], Verdict]
"""Judges a gossiped announcement before it is handed on; must be quick and must not raise."""
