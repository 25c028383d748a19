"""Names of protocols, topics and DHT keys, and the sizes that bound what travels."""

from __future__ import annotations

from p2pfleet.core.model.ids import NetworkId, sha256

# The oldest and the newest major version that are spoken here, and the minor one of the newest.
PROTOCOL_OLDEST = 1
PROTOCOL_VERSION = 1
PROTOCOL_MINOR = 0

FRAME_PROTOCOL = "/p2pfleet/frames/1.0.0"
BLOB_PROTOCOL = "/p2pfleet/blobs/1.0.0"
BULK_PROTOCOL = "/p2pfleet/bulk/1.0.0"

MAX_FRAME_BYTES = 32 * 1024
MAX_MESSAGE_BYTES = 68 * 1024  # a proof is two frames
MAX_ANNOUNCEMENT_BYTES = 8 * 1024
MAX_TABLE_BYTES = 64 * 2**20
BLOB_CHUNK_BYTES = 64 * 1024
PIECE_BYTES = 2**20
MAX_PIECES = 16 * 1024
PIECES_A_GRANT = 16


def announcements_topic(network: NetworkId) -> str:
    """The GossipSub topic of manifests and closures of one network."""
    return f"/p2pfleet/1/{network.hex()[:32]}/announcements"


def rendezvous_key(network: NetworkId) -> bytes:
    """The DHT provider key under which the nodes of one network find each other.

    A SHA-256 multihash: many libraries provide and look up nothing else.
    """
    return b"\x12\x20" + sha256(b"p2pfleet-rendezvous-1:" + network)
