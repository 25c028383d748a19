"""Refuses strangers of a closed network while hands are still being shaken.

Who has the swarm key reaches the Noise handshake, which tells who it is. The side that dialled goes
on only with a member, and before it says who it is itself; the side that was dialled ends the
handshake as soon as it has read the other's name, unless that is a member's or comes with the proof
of an invitation. No muxer is negotiated, no stream opened.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import InvalidSignature, NoiseStateError
from libp2p.security.noise.io import NoiseHandshakeReadWriter, NoiseTransportReadWriter
from libp2p.security.noise.messages import (
    NoiseExtensions,
    NoiseHandshakePayload,
    verify_handshake_payload_sig,
)
from libp2p.security.noise.patterns import PatternXX
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession

from p2pfleet.adapters.network.containment import refused
from p2pfleet.adapters.network.guard.swarm_key import ProtectedConnection
from p2pfleet.adapters.network.identity import peer_of
from p2pfleet.ports import MemberGate

logger = logging.getLogger(__name__)

WRONG_KEY = "swarm key"
NO_MEMBER = "not a member"


class NotAMember(HandshakeFailure):  # type: ignore[misc]
    """The other side does not belong to this closed network."""


class Door:
    """What stands in front of a node of a closed network; of an open one it lets everybody in.

    ``refused`` counts the refusals, by reason.
    """

    def __init__(self, gate: MemberGate | None, swarm_key: bytes | None) -> None:
        self._gate = gate
        self._key = swarm_key
        self.refused: Counter[str] = Counter()

    def protected(self, raw: Any) -> Any:
        """A raw connection under the swarm key, if there is one."""
        if self._key is None:
            return raw
        return ProtectedConnection(raw, self._key, self._wrong_key)

    def _wrong_key(self) -> None:
        self.refused[WRONG_KEY] += 1
        refused(None, "it does not have the network's swarm key")

    def admits(self, identity: Any) -> bool:
        """Whether a peer may be connected to, as far as is known of it."""
        peer = peer_of(identity)
        return self._gate is None or (peer is not None and self._gate.admits(peer))

    def lets_in(self, identity: Any, proof: bytes) -> bool:
        """The same for a peer that dialled this node and brought ``proof``; counts a refusal."""
        if self.admits(identity):
            return True
        peer = peer_of(identity)
        if peer is not None and self._gate is not None and self._gate.proves(peer, proof):
            return True
        self.turn_away(identity)
        return False

    def turn_away(self, identity: Any) -> None:
        """Count and log a refusal."""
        self.refused[NO_MEMBER] += 1
        refused(identity, "it does not belong to this closed network")

    def proof(self) -> bytes:
        """What this node shows where it dials."""
        return b"" if self._gate is None else self._gate.proof()

    def noise(self, pair: Any, exchange: Any) -> Any:
        """The security transport of this node."""
        if self._gate is None:
            return Transport(pair, noise_privkey=exchange)
        return _MemberNoise(pair, exchange, self)


class _MemberNoise(Transport):  # type: ignore[misc]
    """Noise that ends the handshake with a stranger."""

    def __init__(self, pair: Any, exchange: Any, door: Door) -> None:
        super().__init__(pair, noise_privkey=exchange)
        self._door = door

    def get_pattern(self) -> Any:
        """The XX handshake, with the door in it."""
        return _MemberPattern(self._door, self.local_peer, self.libp2p_privkey, self.noise_privkey)


class _MemberPattern(PatternXX):  # type: ignore[misc]
    def __init__(self, door: Door, *keys: Any) -> None:
        super().__init__(*keys)
        self._door = door

    async def handshake_outbound(self, conn: Any, remote_peer: Any) -> Any:
        """As the side that dialled.

        The library compares the other's proved identity with ``remote_peer`` before it sends its
        own, so that it is enough to ask about that one first.
        """
        if remote_peer is None or not self._door.admits(remote_peer):
            self._door.turn_away(remote_peer)
            raise NotAMember("the peer does not belong to this closed network")
        return await super().handshake_outbound(conn, remote_peer)

    def make_handshake_payload(self, extensions: Any = None) -> Any:
        """The payload of the side that dialled: its identity, and the proof that it belongs."""
        proof = self._door.proof()
        if extensions is None and proof:
            extensions = NoiseExtensions(early_data=proof)
        return super().make_handshake_payload(extensions)

    async def handshake_inbound(self, conn: Any) -> Any:
        """As the side that was dialled: the XX handshake as its responder, and then the door."""
        state = self.create_noise_state(prologue=self.prologue)
        state.set_as_responder()
        state.start_handshake()
        handshake = state.noise_protocol.handshake_state
        messages = NoiseHandshakeReadWriter(conn, state)
        await messages.read_msg()
        # Whoever asks may be a stranger: it is shown the identity alone.
        await messages.write_msg(super().make_handshake_payload().serialize())
        payload = NoiseHandshakePayload.deserialize(await messages.read_msg())
        if handshake.rs is None or not state.handshake_finished:
            raise NoiseStateError("the handshake did not end")
        static = self._get_pubkey_from_noise_keypair(handshake.rs)
        if not verify_handshake_payload_sig(payload, static):
            raise InvalidSignature
        identity = ID.from_pubkey(payload.id_pubkey)
        extensions = payload.extensions
        proof = b"" if extensions is None else extensions.early_data or b""
        if not self._door.lets_in(identity, proof):
            raise NotAMember("the peer does not belong to this closed network")
        return SecureSession(
            local_peer=self.local_peer,
            local_private_key=self.libp2p_privkey,
            remote_peer=identity,
            remote_permanent_pubkey=static,
            is_initiator=False,
            conn=NoiseTransportReadWriter(conn, state),
        )
