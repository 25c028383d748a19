"""What a person may set about the network, with the bounds that protect a node from strangers."""

from __future__ import annotations

from typing import Literal

import msgspec


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of :func:`open_network`. Durations in seconds, rates per second.

    ``listen``, ``announce`` and ``bootstrap`` are multiaddresses. ``announce`` replaces what is
    told to others (for a forwarded port); without it the listening addresses are told, a wildcard
    as the addresses of the machine's interfaces. Every bootstrap address ends in ``/p2p/<id>``.

    ``max_peers`` bounds the peers that are reported; up to ``visitors`` further connections are
    served for ``visit_s``, so that newcomers can ask a full node's DHT for the way.

    A peer that is watched is asked for a sign of life after ``beat_s`` of silence, and taken for
    gone after ``silence_s``; any other is asked after ``ping_every_s``, and has ``ping_timeout_s``.

    What a peer may use is counted for its address as well, which has as much as four peers, except
    on loopback (``budget_loopback`` counts there too). ``useless_per_s`` are messages that turned
    out to be of no use; a peer that owes some is read more slowly. ``held_bytes_per_peer`` and
    ``held_bytes`` bound all buffers together.
    ``attend_every_s`` is the least time between two look-ups in the DHT for those whom the node
    wants to be connected with, ``attend_again_s`` (and more, where nobody new is found) between two
    for the same, ``provide_pause_s`` between two provides. A full node gives a newcomer a place
    every ``room_every_s``.
    ``mdns`` says whether the node announces itself on the LANs that it listens on, and looks for
    others there.

    ``relay`` says whether the node carries connections for those that nobody can dial (``auto``: if
    it can be dialled itself), and lets others carry its own where that is needed; ``off`` is
    neither. ``relay_circuit_bytes`` and ``relay_circuit_s`` bound one carried connection,
    ``relay_bytes_per_s`` all together.

    ``bulk_port`` is the TCP port of the bulk channel (0: the system chooses), on the hosts of
    ``listen``. Blobs from ``bulk_from_bytes`` on are worth a connection of their own, and those
    from ``pieces_from_bytes`` on are fetched from up to ``piece_sources`` peers at once.
    """

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce: tuple[str, ...] = ()
    bootstrap: tuple[str, ...] = ()

    max_peers: int = 50
    target_peers: int = 24
    visitors: int = 16
    visit_s: float = 30.0
    max_peers_per_address: int = 8
    max_peers_on_loopback: int = 256
    max_handshakes: int = 64
    handshake_s: float = 20.0
    accepts_per_s: float = 100.0
    accepts_per_address_s: float = 2.0

    connect_s: float = 6.0
    dial_s: float = 20.0
    negotiate_s: float = 20.0
    max_dials: int = 3
    retry_first_s: float = 1.0
    retry_max_s: float = 300.0
    known_peers: int = 1024

    beat_s: float = 3.0
    silence_s: float = 9.0
    ping_every_s: float = 30.0
    ping_timeout_s: float = 15.0
    greeting_s: float = 30.0

    events: int = 64
    send_queue_messages: int = 256
    send_queue_bytes: int = 4 * 2**20
    send_patience_s: float = 10.0
    stall_s: float = 60.0
    messages_per_s: float = 5_000.0
    message_bytes_per_s: float = 32.0 * 2**20
    announcements_per_s: float = 5.0
    announcements_burst: float = 64.0
    gossip_bytes_per_s: float = 512.0 * 2**10
    max_streams_per_peer: int = 64
    streams_per_s: float = 200.0
    useless_per_s: float = 50.0
    useless_burst: float = 1_000.0
    held_bytes_per_peer: int = 8 * 2**20
    held_bytes: int = 64 * 2**20
    budget_loopback: bool = False

    reject_limit: int = 8
    reject_window_s: float = 60.0
    ban_s: float = 600.0
    address_ban_peers: int = 3
    failed_handshakes_per_address: int = 30

    mdns: bool = True

    relay: Literal["auto", "on", "off"] = "auto"
    relay_reservations: int = 32
    relay_reservations_per_address: int = 8
    relay_reservation_s: float = 1800.0
    relay_circuits: int = 64
    relay_circuits_per_peer: int = 16
    relay_circuit_s: float = 7200.0
    relay_circuit_bytes: int = 512 * 2**20
    relay_bytes_per_s: float = 4.0 * 2**20

    provide_every_s: float = 180.0
    lookup_first_s: float = 0.5
    lookup_max_s: float = 60.0

    attend_every_s: float = 0.5
    attend_again_s: float = 20.0
    provide_pause_s: float = 1.0
    room_every_s: float = 30.0

    serves: int = 16
    serves_per_peer: int = 2
    fetches: int = 8
    blob_idle_s: float = 120.0
    blob_answer_s: float = 45.0
    blob_chunk_s: float = 20.0

    bulk: bool = True
    bulk_port: int = 0
    bulk_from_bytes: int = 256 * 1024
    bulk_connections: int = 64
    bulk_connections_per_peer: int = 4
    bulk_connections_per_address: int = 16
    bulk_handshakes: int = 16
    bulk_connect_s: float = 2.0
    bulk_handshake_s: float = 10.0
    bulk_idle_s: float = 60.0
    bulk_ticket_s: float = 20.0
    bulk_tickets: int = 512
    bulk_unreachable_s: float = 300.0

    pieces_from_bytes: int = 4 * 2**20
    piece_sources: int = 6
    piece_patience_s: float = 45.0
