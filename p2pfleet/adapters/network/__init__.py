"""The network port over libp2p: connections, gossip, message streams, blobs.

Importing this package does not import libp2p (a second and a half of CPU); :func:`open_network`
does, when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.core.model.ids import NetworkId, PeerId
from p2pfleet.ports import (
    AddressBook,
    Ban,
    BanBook,
    BlobGate,
    BlobReader,
    Bulk,
    Clock,
    MemberGate,
    Network,
    RecordRule,
    Validator,
)

__all__ = ["NetworkConfig", "OpenNetwork", "open_network"]


class OpenNetwork(Network, Protocol):
    """What :func:`open_network` yields: the ``Network`` port, with the ``Bulk`` port beside it."""

    @property
    def bulk(self) -> Bulk:
        """Blobs, over the same connections."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """How often strangers were refused while hands were shaken, by reason."""
        ...

    def bans(self) -> tuple[Ban, ...]:
        """Whom this node refuses now, the newest first."""
        ...

    def unban(self, who: PeerId | str) -> bool:
        """Lift the ban of a peer or an address; whether there was one."""
        ...


def open_network(
    config: NetworkConfig,
    *,
    seed: bytes,
    network: NetworkId,
    validator: Validator,
    addresses: AddressBook,
    blobs: BlobReader,
    may_fetch: BlobGate,
    clock: Clock,
    gate: MemberGate | None = None,
    swarm_key: bytes | None = None,
    records: RecordRule | None = None,
    bans: BanBook | None = None,
) -> AbstractAsyncContextManager[OpenNetwork]:
    """Listen, join ``network``, and stay in it for as long as the context lasts.

    ``seed`` is the 32-byte Ed25519 seed of the node's identity. ``validator`` judges gossiped
    announcements in the event loop; ``may_fetch`` is asked there about every blob that a peer wants
    from this node, before any of it is looked up. ``gate`` says who may connect at all (a closed
    network; ``None``: everybody), ``swarm_key`` (32 bytes) encrypts every connection. ``bans``
    is where bans outlive the process. Entering
    raises :class:`P2pfleetError` when an address is malformed or cannot be listened on. Leaving
    closes every connection within two seconds, also under cancellation; after that ``events`` ends.
    ``records`` judges values of the DHT; without it none is stored here.
    """
    from p2pfleet.adapters.network.life import open_host

    return open_host(
        config,
        seed=seed,
        network=network,
        validator=validator,
        addresses=addresses,
        blobs=blobs,
        may_fetch=may_fetch,
        clock=clock,
        gate=gate,
        swarm_key=swarm_key,
        records=records,
        bans=bans,
    )
