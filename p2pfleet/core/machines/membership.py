"""Who is here: connected peers that said hello on our network, and what they say of themselves."""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Send
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.consent import STRANGERS_GRADES
from p2pfleet.core.wire.messages import Hello, PeerRecord
from p2pfleet.core.wire.names import PROTOCOL_VERSION
from p2pfleet.core.wire.verified import VerifiedRecord

RECORDS_MAX = 4096


class Membership(msgspec.Struct):
    """Connected peers (in order of connection), their records, and those seen earlier."""

    terms: NetworkTerms
    own: VerifiedRecord | None = None
    connected: dict[PeerId, bool] = {}
    records: dict[PeerId, PeerRecord] = {}

    def hello(self, peer: PeerId) -> list[Send]:
        """The first message to a new connection, once the node's own record is signed."""
        if self.own is None:
            return []
        return [Send((peer,), Hello(self.terms.id, PROTOCOL_VERSION, self.own.sealed))]

    def connect(self, peer: PeerId) -> list[Send]:
        self.connected[peer] = False
        return self.hello(peer)

    def disconnect(self, peer: PeerId) -> None:
        self.connected.pop(peer, None)

    def greet(self, peer: PeerId, record: PeerRecord) -> bool:
        """Take a hello in; ``True`` if it is the first of this connection."""
        if peer not in self.connected:
            return False
        known = self.records.get(peer)
        if known is None or known.sequence < record.sequence:
            if len(self.records) >= RECORDS_MAX and peer not in self.records:
                self.records.pop(next(iter(self.records)))
            self.records[peer] = record
        first = not self.connected[peer]
        self.connected[peer] = True
        return first

    def here(self, peer: PeerId) -> bool:
        """Whether this peer is connected and has said hello."""
        return self.connected.get(peer, False)

    def numeric_class(self, peer: PeerId) -> bytes:
        """The numeric class that a peer says it is of; empty if it is not known."""
        record = self.records.get(peer)
        return b"" if record is None else record.capability.numeric_class

    def present(self) -> list[PeerId]:
        """Everybody who is here, sorted."""
        return sorted(peer for peer, greeted in self.connected.items() if greeted)

    def volunteers(self) -> list[PeerId]:
        """Everybody here who says that it runs strangers' units, sorted."""
        return [
            peer
            for peer in self.present()
            if peer in self.records
            and "volunteer" in self.records[peer].roles
            and self.records[peer].capability.grade in STRANGERS_GRADES
        ]
