"""A peer that attacks, as a process of its own: ``python -m tests.e2e.hostile_peer PLAN``.

``PLAN`` is a JSON file: ``victims`` (addresses), ``network`` (id, hex), ``seed``, ``kind``,
``output`` and ``go``, a file that says by being there that it begins. Until it is ended it does
what its kind says, to every victim, and connects again each second when it was thrown out:

* ``spammer``: signed manifests of jobs that do not exist, as fast as it may (gossip, and straight
  at the victims), and fake provider records for the DHT, up to 10,000;
* ``equivocator``: of every job that it hears of, frames that contradict each other under one
  number;
* ``forger``: the same, and garbage and forged signatures on the frames stream;
* ``clinger``: streams and TCP connections that it opens and says nothing on, and a frames stream
  that it never reads;
* ``burner``: nothing but ``percent`` of a core, silently: the control.

Every second ``output`` is replaced by what it used and sent so far. Only for networks of tests.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trio

PACE = {"manifest": 100.0, "record": 100.0, "garbage": 200.0, "stream": 40.0}
"""What one attacker sends to one victim a second, at most."""
RECORDS = 10_000
TURN_S = 0.05


class Hostile:
    """One attacker and all that it does to one victim after the other."""

    def __init__(self, plan: dict[str, Any]) -> None:
        from libp2p import new_host
        from libp2p.crypto.ed25519 import create_new_key_pair
        from libp2p.crypto.x25519 import create_new_key_pair as exchange_pair
        from libp2p.network.config import RetryConfig
        from libp2p.security.noise.transport import PROTOCOL_ID, Transport

        from p2pfleet.adapters.network.containment import tame_library
        from p2pfleet.core.model.ids import NetworkId
        from p2pfleet.core.wire.names import FRAME_PROTOCOL, announcements_topic
        from p2pfleet.runtime.signing import Signer

        tame_library()
        seed = hashlib.sha256(plan["seed"].encode()).digest()
        self.kind: str = plan["kind"]
        self.network = NetworkId(bytes.fromhex(plan["network"]))
        self.topic = announcements_topic(self.network)
        self.signer = Signer(seed)
        self.sent: Counter[str] = Counter()
        self.jobs: list[bytes] = []
        self.incarnation = time.time_ns() // 10**6
        self.frames = FRAME_PROTOCOL
        pair = create_new_key_pair(seed)
        self.pair = pair
        self.host = new_host(
            key_pair=pair,
            sec_opt={PROTOCOL_ID: Transport(pair, noise_privkey=exchange_pair().private_key)},
        )
        self.host.get_network().retry_config = RetryConfig(max_retries=0)
        self.host.set_stream_handler(FRAME_PROTOCOL, self._listen)

    # ---- what it hears -----------------------------------------------------------------------

    async def _listen(self, stream: Any) -> None:
        """Learn of jobs; or, as a clinger, let the victim fill its window and read nothing."""
        from p2pfleet.core.errors import Malformed
        from p2pfleet.core.wire.codec import decode
        from p2pfleet.core.wire.messages import Deliver, JobsSummary, Message
        from p2pfleet.core.wire.names import MAX_MESSAGE_BYTES

        if self.kind == "clinger":
            await trio.sleep_forever()
        data = b""
        while part := await stream.read(65536):
            data += part
            while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                length = int.from_bytes(data[:4], "big")
                with contextlib.suppress(Malformed):
                    message = decode(data[4 : 4 + length], Message, MAX_MESSAGE_BYTES)
                    if isinstance(message, JobsSummary):
                        self.jobs.extend(one for one in message.open if one not in self.jobs)
                    elif isinstance(message, Deliver):
                        self.jobs.append(hashlib.sha256(message.sealed.body).digest())
                    del self.jobs[:-64]
                data = data[4 + length :]

    # ---- what it says ------------------------------------------------------------------------

    async def attack(self, address: str) -> None:
        """Do it to one victim for ever; connect again when thrown out."""
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        victim = info_from_p2p_addr(Multiaddr(address))
        while True:
            with contextlib.suppress(Exception):
                # The library dials those less and less who closed on it: no attacker would.
                self.host.get_network().unblock_peer(victim.peer_id)
                self.sent["dials"] += 1
                with trio.move_on_after(10):
                    await self.host.connect(victim)
                    self.sent["connections"] += 1
                    # A ban may close it only when the handshake is over.
                    await trio.sleep(0.3)
                await getattr(self, self.kind)(victim.peer_id, address)
            self.sent["thrown out"] += 1
            with contextlib.suppress(Exception):
                await self.host.get_network().close_peer(victim.peer_id)
            await trio.sleep(1.0)

    async def _stream(self, identity: Any, protocol: str) -> Any:
        with trio.fail_after(10):
            return await self.host.new_stream(identity, [protocol])

    def manifest(self) -> Any:
        """The signed manifest of a job that nobody can run."""
        from p2pfleet.core.model.ids import cid_of
        from p2pfleet.core.model.job import Exact, FixedQuorum, Limits, Trust
        from p2pfleet.core.wire.messages import Manifest

        now = time.time_ns() // 10**6
        cid = cid_of(random.randbytes(16))
        return self.signer.seal(
            Manifest(
                network=self.network,
                publisher=self.signer.peer,
                name="spam",
                model=cid,
                model_bytes=1000,
                table=cid,
                table_bytes=1000,
                units=1000,
                total_bytes=2000,
                limits=Limits(2**28, 60_000, 10_000),
                comparison=Exact(),
                stop=FixedQuorum(2, 8),
                shards=1,
                lease_ms=10_000,
                issued_ms=now,
                expires_ms=now + 3_600_000,
                salt=random.randbytes(16),
                trust=Trust(),
            )
        )

    def gossip(self, data: bytes) -> bytes:
        """The bytes of a GossipSub message, signed."""
        from libp2p.pubsub.pb import rpc_pb2
        from libp2p.pubsub.pubsub import PUBSUB_SIGNING_PREFIX
        from libp2p.utils.varint import encode_uvarint

        message = rpc_pb2.Message(
            data=data,
            topicIDs=[self.topic],
            from_id=self.host.get_id().to_bytes(),
            seqno=time.time_ns().to_bytes(8, "big"),
        )
        payload = PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString()
        message.signature = self.pair.private_key.sign(payload)
        raw = rpc_pb2.RPC(publish=[message]).SerializeToString()
        return encode_uvarint(len(raw)) + raw

    def record(self, number: int) -> bytes:
        """A fake provider record: this peer has something that does not exist."""
        from libp2p.kad_dht.pb.kademlia_pb2 import Message
        from libp2p.utils.varint import encode_uvarint
        from multiaddr import Multiaddr

        message = Message(type=Message.MessageType.ADD_PROVIDER)
        message.key = hashlib.sha256(b"fake %d" % number).digest()
        provider = message.providerPeers.add()
        provider.id = self.host.get_id().to_bytes()
        provider.addrs.append(Multiaddr(f"/ip4/127.0.0.1/tcp/{1024 + number % 60_000}").to_bytes())
        raw = message.SerializeToString()
        return encode_uvarint(len(raw)) + raw

    async def spammer(self, identity: Any, address: str) -> None:
        """Manifests by gossip and straight, and fake records."""
        from p2pfleet.core.wire.codec import encode
        from p2pfleet.core.wire.messages import Deliver

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._records, identity)
            gossip = await self._stream(identity, "/meshsub/1.1.0")
            frames = await self._stream(identity, self.frames)
            while True:
                for _ in range(max(1, round(PACE["manifest"] * TURN_S))):
                    sealed = self.manifest()
                    await gossip.write(self.gossip(encode(sealed)))
                    await frames.write(framed(encode(Deliver(self.manifest()))))
                    self.sent["manifests"] += 2
                await trio.sleep(TURN_S)

    async def _records(self, identity: Any) -> None:
        number = 0
        while number < RECORDS:
            try:
                stream = await self._stream(identity, "/ipfs/kad/1.0.0")
                while number < RECORDS:
                    await stream.write(self.record(number))
                    number += 1
                    self.sent["records"] += 1
                    await trio.sleep(1 / PACE["record"])
            except Exception:
                await trio.sleep(0.5)

    async def equivocator(self, identity: Any, address: str) -> None:
        """Frames that contradict each other."""
        await self._equivocate(await self._greeted(identity))

    async def _equivocate(self, stream: Any) -> None:
        while True:
            for message in self.contradicting():
                await stream.write(framed(message))
                self.sent["equivocations"] += 1
            await trio.sleep(TURN_S)

    async def forger(self, identity: Any, address: str) -> None:
        """Frames that contradict each other, for a second; then garbage and forged signatures."""
        stream = await self._greeted(identity)
        with trio.move_on_after(1.0):
            await self._equivocate(stream)
        while True:
            for _ in range(max(1, round(PACE["garbage"] * TURN_S / 4))):
                for message in (
                    random.randbytes(random.randrange(1, 2000)),
                    self.forged(),
                    *self.contradicting(),
                ):
                    await stream.write(framed(message))
                    self.sent["garbage"] += 1
            await trio.sleep(TURN_S)

    async def _greeted(self, identity: Any) -> Any:
        """A stream of the frames protocol on which it has introduced itself as a volunteer."""
        from p2pfleet.core.wire.codec import encode
        from p2pfleet.core.wire.messages import Capability, Hello, PeerRecord
        from p2pfleet.core.wire.names import PROTOCOL_VERSION

        stream = await self._stream(identity, self.frames)
        now = time.time_ns() // 10**6
        record = PeerRecord(
            self.network, self.signer.peer, now, now, now + 3_600_000, "hostile", ("volunteer",), 1,
            (), Capability("A", bytes(32), "1.0.0"),
        )  # fmt: skip
        version = PROTOCOL_VERSION
        hello = Hello(self.network, version, version, 0, self.signer.seal(record))
        await stream.write(framed(encode(hello)))
        return stream

    def forged(self) -> bytes:
        """A message whose signature is somebody else's."""
        from p2pfleet.core.wire.codec import encode
        from p2pfleet.core.wire.messages import Deliver, Sealed

        sealed = self.manifest()
        return encode(Deliver(Sealed(sealed.body, sealed.signer, random.randbytes(64))))

    def contradicting(self) -> list[bytes]:
        """A commitment, and two frames of one number that reveal different outputs for it."""
        from p2pfleet.core.model.ids import Digest, JobId
        from p2pfleet.core.rules.commitment import seed_hash
        from p2pfleet.core.wire.codec import encode
        from p2pfleet.core.wire.messages import (
            Commit,
            CommitItem,
            Deliver,
            Entry,
            Frame,
            Reveal,
            RevealItem,
        )

        job = JobId(random.choice(self.jobs) if self.jobs else random.randbytes(32))
        # A life of its own each time: frames of one that have no forerunner here are put aside.
        self.incarnation += 1

        def sealed(number: int, entry: Entry) -> Any:
            made = (self.network, job, self.signer.peer, self.incarnation, number)
            return self.signer.seal(Frame(*made, (entry,)))

        seed = random.randbytes(32)
        commit = sealed(0, Commit(seed_hash(seed), (CommitItem(0, 0, random.randbytes(32)),)))
        reveals = [
            Reveal(
                commit.hash, 0, seed, (RevealItem(0, 0, Digest(random.randbytes(32)), 10),),
                (commit.hash,),
            )
            for _ in range(2)
        ]  # fmt: skip
        return [encode(Deliver(one)) for one in (commit, *(sealed(1, each) for each in reveals))]

    async def clinger(self, identity: Any, address: str) -> None:
        """Half-open streams and connections, and one that is never read."""
        kept = [await self._stream(identity, self.frames)]
        (connection,) = self.host.get_network().get_connections(identity)[:1]
        _, _, ip, _, port, *_ = address.split("/")
        sockets: list[trio.SocketStream] = []
        try:
            while not connection.is_closed:
                for _ in range(max(1, round(PACE["stream"] * TURN_S))):
                    kept.append(await connection.new_stream())
                    self.sent["streams"] += 1
                if len(sockets) < 16:
                    socket = await trio.open_tcp_stream(ip, int(port))
                    await socket.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n")
                    sockets.append(socket)
                    self.sent["handshakes"] += 1
                await trio.sleep(TURN_S)
        finally:
            for socket in sockets:
                await trio.aclose_forcefully(socket)

    # ---- life --------------------------------------------------------------------------------

    async def run(self, victims: list[str], output: Path, go: Path) -> None:
        """Attack until ended from outside."""
        async with self.host.run(listen_addrs=[]), trio.open_nursery() as nursery:
            while not await trio.Path(go).exists():
                tell(output, {})
                await trio.sleep(0.1)
            for address in victims:
                nursery.start_soon(self.attack, address)
            while True:
                tell(output, dict(self.sent))
                await trio.sleep(1.0)


def framed(message: bytes) -> bytes:
    """A message of the frames protocol."""
    return len(message).to_bytes(4, "big") + message


def tell(output: Path, sent: dict[str, int]) -> None:
    """Replace ``output`` with what was used and sent so far."""
    fresh = output.with_suffix(".new")
    fresh.write_text(json.dumps({"cpu_s": time.process_time(), "sent": sent}))
    os.replace(fresh, output)


def burn(percent: float, output: Path, go: Path) -> None:
    """Use ``percent`` of one core, silently, until ended."""
    while not go.exists():
        tell(output, {})
        time.sleep(0.1)
    began, used, told = time.monotonic(), 0.0, 0.0
    while True:
        owed = (time.monotonic() - began) * percent / 100 - used
        if owed > 0:
            before = time.process_time()
            while time.process_time() - before < min(owed, 0.02):
                hashlib.sha256(bytes(4096)).digest()
            used += time.process_time() - before
        else:
            time.sleep(0.005)
        if time.monotonic() - told > 1:
            told = time.monotonic()
            tell(output, {})


def main() -> None:
    """Read the plan and carry it out."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    output = Path(plan["output"])
    if plan["kind"] == "burner":
        burn(float(plan["percent"]), output, Path(plan["go"]))
    else:
        trio.run(Hostile(plan).run, plan["victims"], output, Path(plan["go"]))


if __name__ == "__main__":
    main()
