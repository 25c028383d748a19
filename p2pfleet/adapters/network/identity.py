"""Peers as the core names them (public keys) and as libp2p does (identity multihashes)."""

from __future__ import annotations

from typing import Any

from libp2p.peer.id import ID

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text


def library_id(peer: PeerId) -> Any:
    """The libp2p ``ID`` of a public key."""
    return ID.from_base58(peer_text(peer))


def peer_of(identity: Any) -> PeerId | None:
    """The public key behind a libp2p ``ID``; ``None`` if it is not an Ed25519 identity."""
    try:
        return parse_peer(identity.to_base58())
    except (Malformed, ValueError):
        return None
