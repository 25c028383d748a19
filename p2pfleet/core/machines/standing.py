"""What certificates have said about each peer so far."""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Judgement
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.rules.reputation import Record, has_vote


class Standing(msgspec.Struct):
    """The records of all peers, and whose votes count."""

    records: dict[PeerId, Record] = {}

    def record(self, peer: PeerId) -> Record:
        return self.records.get(peer, Record())

    def counts(self, peer: PeerId) -> bool:
        """Whether this peer has a vote."""
        return has_vote(self.record(peer))

    def restore(self, peer: PeerId, agreed: int, contradicted: int) -> None:
        self.records[peer] = Record(agreed, contradicted)

    def move(self, judgements: list[Judgement], reversed_: list[Judgement]) -> list[PeerId]:
        """Count judgements, take earlier ones back; returns whose vote was lost or won."""
        before: dict[PeerId, bool] = {}
        for sign, group in ((1, judgements), (-1, reversed_)):
            for judgement in group:
                old = self.record(judgement.peer)
                before.setdefault(judgement.peer, has_vote(old))
                self.records[judgement.peer] = Record(
                    old.agreed + sign * judgement.agreed,
                    old.contradicted + sign * (not judgement.agreed),
                )
        return sorted(peer for peer, had in before.items() if had != self.counts(peer))
