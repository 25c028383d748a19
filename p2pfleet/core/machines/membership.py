"""Who is here: connected peers that said hello on our network, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p2pfleet.core.effects import Send
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.consent import STRANGERS_GRADES
from p2pfleet.core.rules.subnets import crowded, subnet
from p2pfleet.core.wire.messages import PeerRecord
from p2pfleet.core.wire.verified import VerifiedRecord
from p2pfleet.core.wire.versions import hello

RECORDS_MAX = 4096
FOREIGN_MAX = 256


class Membership(msgspec.Struct):
    """Connected peers (in order of connection), their records, and those seen earlier.

    ``listed``, ``listed_after`` and ``listed_volunteers`` are the answers of :meth:`present`,
    :meth:`present_after` and :meth:`volunteers`, until somebody comes, goes or says something new
    of itself. ``subnets`` are where peers were
    connected from, if the network wants to know. ``foreign`` are peers without a version of the
    protocol in common, with the oldest that they speak.
    """

    terms: NetworkTerms
    own: VerifiedRecord | None = None
    connected: dict[PeerId, bool] = {}
    foreign: dict[PeerId, int] = {}
    records: dict[PeerId, PeerRecord] = {}
    subnets: dict[PeerId, str] = {}
    listed: tuple[PeerId, ...] | None = None
    listed_after: dict[PeerId, tuple[PeerId, ...]] = {}
    listed_volunteers: tuple[PeerId, ...] | None = None

    def hello(self, peer: PeerId) -> list[Send]:
        """The first message to a new connection, once the node's own record is signed."""
        if self.own is None:
            return []
        return [Send((peer,), hello(self.terms.id, self.own.sealed))]

    def connect(self, peer: PeerId, address: str) -> list[Send]:
        """A connection stands, from (or to) this address."""
        self.connected[peer] = False
        if self.terms.votes_a_subnet:
            if len(self.subnets) >= RECORDS_MAX and peer not in self.subnets:
                self.subnets.pop(next(iter(self.subnets)))
            self.subnets[peer] = subnet(address)
        self._changed()
        return self.hello(peer)

    def corner(self, peer: PeerId, others: Iterable[PeerId]) -> bool:
        """Whether as many of ``others`` as the network allows are of the same subnet as ``peer``.

        Of a peer that was never connected to this node nothing is known, so it is not held back.
        """
        mine = self.subnets.get(peer, "")
        theirs = (self.subnets.get(other, "") for other in others if other != peer)
        return crowded(mine, theirs, self.terms.votes_a_subnet)

    def disconnect(self, peer: PeerId) -> None:
        self.connected.pop(peer, None)
        self._changed()

    def differ(self, peer: PeerId, oldest: int) -> None:
        """A peer turned out to speak other versions of the protocol."""
        if len(self.foreign) >= FOREIGN_MAX and peer not in self.foreign:
            self.foreign.pop(next(iter(self.foreign)))
        self.foreign[peer] = oldest

    def _changed(self) -> None:
        self.listed = self.listed_volunteers = None
        self.listed_after.clear()

    def greet(self, peer: PeerId, record: PeerRecord) -> bool:
        """Take a hello in; ``True`` if it is the first of this connection."""
        if peer not in self.connected:
            return False
        self._changed()
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

    def present(self) -> tuple[PeerId, ...]:
        """Everybody who is here, sorted."""
        if self.listed is None:
            self.listed = tuple(sorted(peer for peer, greeted in self.connected.items() if greeted))
        return self.listed

    def present_after(self, first: PeerId) -> tuple[PeerId, ...]:
        """Everybody who is here, sorted but for one peer that comes first, if it is here."""
        if not self.here(first):
            return self.present()
        known = self.listed_after.get(first)
        if known is None:
            known = (first, *(peer for peer in self.present() if peer != first))
            self.listed_after[first] = known
        return known

    def volunteers(self) -> tuple[PeerId, ...]:
        """Everybody here who says that it runs strangers' units, sorted."""
        if self.listed_volunteers is None:
            self.listed_volunteers = tuple(
                peer
                for peer in self.present()
                if peer in self.records
                and "volunteer" in self.records[peer].roles
                and self.records[peer].capability.grade in STRANGERS_GRADES
            )
        return self.listed_volunteers
