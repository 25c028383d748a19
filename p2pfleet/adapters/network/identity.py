"""Peers as the core names them (public keys) and as libp2p does (identity multihashes)."""

from __future__ import annotations

from typing import Any

from libp2p.peer.id import ID

from p2pfleet.core.model.ids import PeerId

# An identity multihash over the protobuf-framed Ed25519 public key.
_PREFIX = b"\x00\x24\x08\x01\x12\x20"
_LENGTH = len(_PREFIX) + 32


def library_id(peer: PeerId) -> Any:
    """The libp2p ``ID`` of a public key."""
    return ID(_PREFIX + peer)


def peer_of(identity: Any) -> PeerId | None:
    """The public key behind a libp2p ``ID``; ``None`` if it is not an Ed25519 identity."""
    raw: bytes = identity.to_bytes()
    if len(raw) != _LENGTH or not raw.startswith(_PREFIX):
        return None
    return PeerId(raw[len(_PREFIX) :])
