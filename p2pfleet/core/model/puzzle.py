"""The puzzle that an identity has to solve before a network takes it for one of its own.

S/Kademlia's static crypto puzzle (Baumgart and Mies, 2007, section 4.1), bound to the network: the
hash of a fixed prefix, the network id and the public key begins with a number of zero bits. So
nothing beside the key travels, whoever sees a key checks it with one hash, and a key made for one
network is worth nothing on another.
"""

from __future__ import annotations

from p2pfleet.core.model.ids import NetworkId, PeerId, sha256
from p2pfleet.core.model.network import NetworkTerms

PREFIX = b"p2pfleet-puzzle-1:"
# What a network for real work asks for unless its maker says otherwise (protocol/identity.md
# tells how long that takes, and how it was measured).
DEFAULT_BITS = 18


def work(network: NetworkId, peer: PeerId) -> int:
    """How many zero bits the hash of ``peer`` (its public key) begins with on ``network``.

    0 to 256. A key drawn at random has at least ``n`` of them with a chance of ``2**-n``.
    """
    return 256 - int.from_bytes(sha256(PREFIX + network + peer), "big").bit_length()


def fits(terms: NetworkTerms, peer: PeerId) -> bool:
    """Whether ``peer`` may take part in a network of these terms."""
    return terms.puzzle_bits == 0 or work(terms.id, peer) >= terms.puzzle_bits
