"""What the library remembers about peers, bounded.

Its own peer store takes whatever identify, DHT answers and signed records tell, with a thousand
addresses
each, and when it is full it throws out whoever has no address: this node's own key first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from libp2p.peer.peerstore import PeerStore

from p2pfleet.adapters.network.addresses import usable

MAX_PEERS = 1024
MAX_RECORDS = 256
MAX_ADDRESSES = 8
MAX_PROTOCOLS = 64
MAX_PROTOCOL_CHARS = 128
MAX_RECORD_BYTES = 4096


class _Bounded(dict[Any, Any]):
    """A mapping that forgets its oldest entries, as far as they may be forgotten."""

    def __init__(self, most: int, keep: Callable[[Any], bool]) -> None:
        super().__init__()
        self._most = most
        self._keep = keep

    def __setitem__(self, key: Any, value: Any) -> None:
        new = key not in self
        super().__setitem__(key, value)
        if new and len(self) > self._most:
            old = next((one for one in self if one != key and not self._keep(one)), None)
            if old is not None:
                del self[old]

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As of a dict."""
        if key not in self:
            self[key] = default
        return self[key]


class Acquaintances(PeerStore):  # type: ignore[misc]
    """The library's peer store, for so many peers, addresses and records, whatever is told."""

    def __init__(self) -> None:
        super().__init__()
        self.max_peers = self.max_records = 2**31
        self.keep: Callable[[Any], bool] = lambda identity: False
        self.peer_data_map = _Bounded(MAX_PEERS, self._stays)
        self.peer_record_map = _Bounded(MAX_RECORDS, self._stays)

    def _stays(self, identity: Any) -> bool:
        data = self.peer_data_map.get(identity)
        return self.keep(identity) or (data is not None and data.privkey is not None)

    def add_addrs(self, peer_id: Any, addrs: Sequence[Any], ttl: int = 0) -> None:
        """Keep the addresses that can be dialled, the latest few."""
        told = list(addrs)[-2 * MAX_ADDRESSES :]
        super().add_addrs(peer_id, [one for one in told if usable(one) is not None], ttl)
        data = self.peer_data_map.get(peer_id)
        if data is not None:
            del data.addrs[:-MAX_ADDRESSES]

    def consume_peer_record(self, envelope: Any, ttl: int) -> bool:
        """Keep a signed record, if it is small."""
        if len(envelope.marshal_envelope()) > MAX_RECORD_BYTES:
            return False
        return bool(super().consume_peer_record(envelope, ttl))

    def set_protocols(self, peer_id: Any, protocols: Sequence[str]) -> None:
        """Keep the first few protocols that a peer speaks."""
        super().set_protocols(peer_id, _few(protocols))

    def add_protocols(self, peer_id: Any, protocols: Sequence[str]) -> None:
        """As many more as there is room for."""
        known = self.get_protocols(peer_id) if self.has_peer(peer_id) else []
        super().set_protocols(peer_id, _few([*known, *protocols]))


def _few(protocols: Sequence[str]) -> list[str]:
    short = [one for one in protocols if len(one) <= MAX_PROTOCOL_CHARS]
    return list(dict.fromkeys(short))[:MAX_PROTOCOLS]
