"""Feeds the core and carries its effects out.

One task owns the core. It takes whatever events wait, lets the core answer, makes all writes of
that batch durable in one transaction, and only then acts. A body that the core wants signed comes
back to it at once as an event, before anything else happens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, assert_never

import trio

from p2pfleet.core.effects import (
    Act,
    Attend,
    Challenge,
    CheckCommitments,
    Compare,
    Effect,
    Execute,
    Fetch,
    Gossip,
    Leave,
    MakeCommitments,
    OpenJob,
    Prove,
    PublishRecord,
    Reconsider,
    Report,
    Send,
    SendFrames,
    SendReceipts,
    SetPaused,
    ShutJob,
    Sign,
    Watch,
    Withdraw,
    Write,
)
from p2pfleet.core.errors import Accept, DiskTrouble, Malformed, P2pfleetError
from p2pfleet.core.events import (
    AcceptanceReceived,
    ClosureReceived,
    Event,
    FrameReceived,
    JobsRecordReceived,
    ManifestReceived,
    MembersReceived,
    PeerDisconnected,
    ProofReceived,
    ReceiptReceived,
    RecordSigned,
    RequirementReceived,
    SnapshotReceived,
    Tick,
)
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.rules.jobs_record import jobs_key
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Deliver, Manifest, Message, Sealed, SignedBody
from p2pfleet.core.wire.verified import (
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
from p2pfleet.ports import Clock, Network, PeerGone, Store
from p2pfleet.runtime.disk import DiskWatch
from p2pfleet.runtime.recording import Recorder
from p2pfleet.runtime.signing import Signer, open_sealed
from p2pfleet.runtime.traffic import Traffic
from p2pfleet.runtime.workshop import Workshop

log = logging.getLogger(__name__)

EVENTS_MAX = 256
OUTBOX_MAX = 1024
OUTBOX_MAX_BYTES = 4 * 2**20
DRAIN_S = 0.02
DRAIN_STEPS = 50


class Driver:
    """One node's loop. ``submit`` hands it events, ``publish`` jobs."""

    def __init__(
        self,
        node: Node,
        *,
        store: Store,
        network: Network,
        workshop: Workshop,
        signer: Signer,
        clock: Clock,
        recorder: Recorder | None = None,
        disk: DiskWatch | None = None,
    ) -> None:
        self.node = node
        self._store = store
        self._network = network
        self._workshop = workshop
        self._signer = signer
        self._clock = clock
        self._recorder = recorder
        self._disk = disk or DiskWatch()
        self.traffic = Traffic()
        self._send_events, self._events = trio.open_memory_channel[tuple[Event, trio.Event | None]](
            EVENTS_MAX
        )
        self._outboxes: dict[PeerId, trio.MemorySendChannel[bytes]] = {}
        self._outbox_bytes: dict[PeerId, int] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()

    # ---- in ----------------------------------------------------------------------------------

    async def submit(self, event: Event) -> None:
        """Queue an event; waits while too many are queued."""
        await self._send_events.send((event, None))

    async def carry_out(self, event: Event) -> None:
        """Queue an event and wait until its writes are durable and its acts begun."""
        done = trio.Event()
        await self._send_events.send((event, done))
        await done.wait()

    async def durable(self) -> None:
        """Return when everything that the core says by now is on disk as well."""
        await self.carry_out(Tick())

    async def publish(self, manifest: Manifest) -> None:
        """Sign a manifest and have the core take it in, durably (or refuse it)."""
        await self.carry_out(self._sign(manifest))

    async def changed(self) -> None:
        """Return after the next batch of events."""
        await self._changed.wait()

    async def drained(self) -> None:
        """Return when everything that was to be sent is with the network, or after a second."""
        for _ in range(DRAIN_STEPS):
            if not any(box.statistics().current_buffer_used for box in self._outboxes.values()):
                break
            await trio.sleep(DRAIN_S)
        await trio.sleep(5 * DRAIN_S)  # the network's own queues have no end that one could await

    # ---- the loop ----------------------------------------------------------------------------

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                batch = await self._wait()
                effects: list[Effect] = []
                for event, _ in batch:
                    effects.extend(self._step(event))
                writes = [effect for effect in effects if isinstance(effect, Write)]
                if writes:
                    await self._make_durable(writes)
                for effect in effects:
                    if not isinstance(effect, Write):
                        self._act(effect, nursery)
                for event, done in batch:
                    if isinstance(event, PeerDisconnected):
                        self._forget(event.peer)
                    if done is not None:
                        done.set()
                self._changed.set()
                self._changed = trio.Event()

    async def _make_durable(self, writes: Sequence[Write]) -> None:
        """Apply one transaction, however long the disk does not take it.

        Nothing that follows from it is done before, and nobody waits for this node meanwhile: it
        leaves the network, as if its cable had been pulled.
        """
        stands_still = False
        while True:
            try:
                await trio.to_thread.run_sync(self._store.apply, writes)
            except DiskTrouble as error:
                self._disk.report(error)
                if not stands_still:
                    stands_still = self._disk.waited_for = True
                    self._workshop.act(SetPaused(True))
                    self._network.hold_off(True)
                await trio.sleep(self._disk.every_s)
            else:
                break
        if stands_still:
            self._disk.waited_for = False
            self._network.hold_off(False)
            self._workshop.act(SetPaused(self.node.still))

    async def _wait(self) -> list[tuple[Event, trio.Event | None]]:
        deadline = self.node.deadline()
        seconds = math.inf
        if deadline is not None:
            seconds = max(0, deadline - self._now()) / 1000
        batch: list[tuple[Event, trio.Event | None]] = []
        with trio.move_on_after(seconds):
            batch.append(await self._events.receive())
        while len(batch) < EVENTS_MAX:
            try:
                batch.append(self._events.receive_nowait())
            except trio.WouldBlock:
                break
        # Nothing has changed the node meanwhile, and with many jobs it takes a while to find.
        if deadline is not None and deadline <= self._now():
            batch.append((Tick(), None))
        return batch

    def _now(self) -> Millis:
        return Millis(self._clock.monotonic_ms())

    def _step(self, event: Event) -> list[Effect]:
        """Let the core take one event; what it wants signed comes back to it at once."""
        now = self._now()
        if self._recorder is not None:
            self._recorder.before(self.node)
        effects = self.node.handle(event, now)
        if self._recorder is not None:
            self._recorder.after(now, event, effects)
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Sign):
                done.extend(self._step(self._sign(effect.body)))
            else:
                done.append(effect)
        return done

    def _sign(self, body: SignedBody) -> Event:
        verified = self._signer.signed(body)
        me = self._signer.peer
        match verified:
            case VerifiedFrame():
                return FrameReceived(me, verified)
            case VerifiedManifest():
                return ManifestReceived(me, verified)
            case VerifiedClosure():
                return ClosureReceived(me, verified)
            case VerifiedRecord():
                return RecordSigned(verified)
            case VerifiedRequirement():
                return RequirementReceived(me, verified)
            case VerifiedSnapshot():
                return SnapshotReceived(me, verified)
            case VerifiedJobsRecord():
                return JobsRecordReceived(me, verified)
            case VerifiedReceipt():
                return ReceiptReceived(me, verified)
            case VerifiedAcceptance():
                return AcceptanceReceived(me, verified)
            case VerifiedMembers():
                return MembersReceived(me, verified)
            case VerifiedInvitation() | VerifiedAdmission():
                raise AssertionError("the core signs no invitations")

    # ---- out ---------------------------------------------------------------------------------

    def _act(self, effect: Act, nursery: trio.Nursery) -> None:
        """Begin one act. Nothing here waits: a slow peer or disk must not hold up the core."""
        match effect:
            case Sign():
                raise AssertionError("signed in _step")
            case Send(peers=peers, message=message):
                self._send(peers, message)
            case SendFrames():
                nursery.start_soon(self._from_disk, self._send_frames, effect)
            case SendReceipts():
                nursery.start_soon(self._from_disk, self._send_receipts, effect)
            case Prove():
                nursery.start_soon(self._from_disk, self._prove, effect)
            case PublishRecord(sealed=sealed):
                nursery.start_soon(self._publish_record, sealed)
            case Gossip(sealed=sealed):
                nursery.start_soon(self._network.announce, encode(sealed))
            case Report(peer=peer, verdict=verdict):
                if not isinstance(verdict, Accept):
                    log.debug("from %s: %s", peer.hex()[:8], verdict.reason)
                self._network.report(peer, verdict)
            case Leave(peer=peer):
                self._network.leave(peer)
            case Reconsider():
                self._network.reconsider()
            case Attend(wants=wants):
                self._network.attend(wants)
            case Watch(peers=peers):
                self._network.watch(peers)
            case OpenJob() | Execute() | Withdraw() | ShutJob() | SetPaused() | Fetch():
                self._workshop.act(effect)
            case MakeCommitments() | CheckCommitments() | Compare() | Challenge():
                self._workshop.act(effect)
            case _:
                assert_never(effect)

    def _send(self, peers: tuple[PeerId, ...], message: Message) -> None:
        data = encode(message)
        assert self._nursery is not None
        for peer in peers:
            outbox = self._outboxes.get(peer)
            if outbox is None:
                outbox, inbox = trio.open_memory_channel[bytes](OUTBOX_MAX)
                self._outboxes[peer] = outbox
                self._nursery.start_soon(self._deliver, peer, inbox)
            waiting = self._outbox_bytes.get(peer, 0) + len(data)
            try:
                if waiting > OUTBOX_MAX_BYTES:
                    raise trio.WouldBlock
                outbox.send_nowait(data)
                self._outbox_bytes[peer] = waiting
                self.traffic.says(len(data))
            except trio.WouldBlock:
                log.debug("dropped a message to %s: it does not keep up", peer.hex()[:8])
            except trio.BrokenResourceError:
                pass  # the node is closing: whoever would have sent it is cancelled already

    def _forget(self, peer: PeerId) -> None:
        self._outbox_bytes.pop(peer, None)
        outbox = self._outboxes.pop(peer, None)
        if outbox is not None:
            outbox.close()

    async def _deliver(self, peer: PeerId, inbox: trio.MemoryReceiveChannel[bytes]) -> None:
        """Send what waits for one peer, in order; what a lost connection swallows is pulled."""
        async with inbox:
            async for data in inbox:
                if peer in self._outbox_bytes:
                    self._outbox_bytes[peer] = max(0, self._outbox_bytes[peer] - len(data))
                try:
                    await self._network.send(peer, data)
                except PeerGone as error:
                    log.debug("%s is gone: %s", peer.hex()[:8], error)

    async def _from_disk(self, act: Callable[[Any], Awaitable[None]], effect: Act) -> None:
        """What the disk does not give now is asked for again."""
        try:
            await act(effect)
        except P2pfleetError as error:
            log.warning("not answered: %s", error)

    async def _prove(self, effect: Prove) -> None:
        """Put a stored frame beside the one at hand; the core judges what the two prove."""
        stored = await trio.to_thread.run_sync(
            self._store.frame_range,
            effect.job,
            effect.author,
            effect.incarnation,
            effect.sequence,
            effect.sequence + 1,
            effect.shard,
        )
        if not stored:
            return
        try:
            first, second = open_sealed(stored[0]), open_sealed(effect.other)
        except Malformed as error:
            log.warning("a frame in the store is damaged: %s", error)
            return
        if isinstance(first, VerifiedFrame) and isinstance(second, VerifiedFrame):
            await self.submit(ProofReceived(self._signer.peer, first, second))

    async def _publish_record(self, sealed: Sealed) -> None:
        """Put a jobs record into the DHT; it is put again now and then, so once may fail."""
        key = jobs_key(sealed.signer)
        if not await self._network.put_record(key, encode(sealed)):
            log.debug("the record %s could not be stored anywhere", key)

    async def _send_frames(self, effect: SendFrames) -> None:
        frames = await trio.to_thread.run_sync(
            self._store.frame_range,
            effect.job,
            effect.author,
            effect.incarnation,
            effect.first,
            effect.end,
            effect.shard,
        )
        for sealed in frames:
            self._send((effect.peer,), Deliver(sealed))

    async def _send_receipts(self, effect: SendReceipts) -> None:
        receipts = await trio.to_thread.run_sync(self._store.receipts_for, effect.peer, effect.most)
        for sealed in receipts:
            self._send((effect.peer,), Deliver(sealed))
