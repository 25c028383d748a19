"""What this node's own jobs have shown of each peer, and what is proved against it.

Totals are over jobs that have ended; the moves of an open job are kept apart until then, because a
poisoned job takes them all back. Only the publisher of a job judges it, so these are the records
of this node as a publisher, by class of models. They weigh votes in its trust snapshots; beyond
that they only decide whom it works with.
"""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import Move, RecordRow
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules.reputation import moved, served
from p2pfleet.core.wire.messages import SNAPSHOT_PEERS_MAX, PeerChecks

Key = tuple[str, PeerId]


class Standing(msgspec.Struct):
    """``moves`` by open job, then by peer and unit, in the order in which they were made;
    ``current`` are totals and moves together."""

    totals: dict[Key, Record] = {}
    classes: dict[JobId, str] = {}
    moves: dict[JobId, dict[PeerId, dict[int, str]]] = {}
    current: dict[Key, Record] = {}
    proved: dict[PeerId, str] = {}

    def record(self, peer: PeerId, model_class: str | None = None) -> Record:
        """A peer's record in one class, or over all of them."""
        faults = int(peer in self.proved)
        if model_class is not None:
            found = self.current.get((model_class, peer), Record())
            return Record(found.agreed, found.contradicted, found.milli, faults)
        agreed = contradicted = milli = 0
        for (_, other), record in self.current.items():
            if other == peer:
                agreed += record.agreed
                contradicted += record.contradicted
                milli = max(milli, record.milli)
        return Record(agreed, contradicted, milli, faults)

    def peers(self) -> list[PeerId]:
        """Everybody of whom anything is known, sorted."""
        return sorted({peer for _, peer in self.current} | set(self.proved))

    def honest(self, peer: PeerId) -> bool:
        """Whether nothing is proved against a peer."""
        return peer not in self.proved

    def served(self, peer: PeerId, model_class: str) -> bool:
        """Whether this node counts a peer's claims, and its votes where it is the judge."""
        return peer not in self.proved and served(self.current.get((model_class, peer), Record()))

    def restore(self, row: RecordRow) -> None:
        """Put a total back."""
        self.totals[row.model_class, row.peer] = row.record
        self.current[row.model_class, row.peer] = row.record

    def open(self, job: JobId, model_class: str) -> None:
        """A job of this node's own begins to move records."""
        self.classes[job] = model_class
        self.moves.setdefault(job, {})

    def move(self, job: JobId, rows: list[Move]) -> None:
        """Count moves; one of a (unit, peer) that moved already replaces the earlier one."""
        name = self.classes[job]
        for row in rows:
            mine = self.moves[job].setdefault(row.peer, {})
            fresh = row.unit not in mine and row.kind
            if row.kind:
                mine[row.unit] = row.kind
            else:
                mine.pop(row.unit, None)
            if fresh and not self._moved_later(job, row.peer):
                key = (name, row.peer)
                self.current[key] = moved(self.current.get(key, Record()), row.kind)
            else:
                self._refold(name, row.peer)

    def _moved_later(self, job: JobId, peer: PeerId) -> bool:
        """Whether a job that was opened later has moved the peer's record, too.

        Order matters, and after a restart only that of the jobs is known.
        """
        for other in reversed(self.moves):
            if other == job:
                break
            if self.moves[other].get(peer) and self.classes[other] == self.classes[job]:
                return True
        return False

    def _refold(self, name: str, peer: PeerId) -> None:
        record = self.totals.get((name, peer), Record())
        for job, moves in self.moves.items():
            if self.classes[job] == name:
                for kind in moves.get(peer, {}).values():
                    record = moved(record, kind)
        self.current[name, peer] = record

    def void(self, job: JobId) -> list[PeerId]:
        """Take back everything that a job moved; returns the peers concerned."""
        peers = sorted(self.moves[job])
        self.moves[job] = {}
        for peer in peers:
            self._refold(self.classes[job], peer)
        return peers

    def end(self, job: JobId) -> list[RecordRow]:
        """The job has ended: its moves become part of the totals."""
        name = self.classes.pop(job, None)
        moves = self.moves.pop(job, {})
        rows = []
        if name is not None:
            for peer in sorted(moves):
                record = self.totals.get((name, peer), Record())
                for kind in moves[peer].values():
                    record = moved(record, kind)
                self.totals[name, peer] = record
                self._refold(name, peer)
                rows.append(RecordRow(name, peer, record))
        return rows

    def drop(self, job: JobId) -> None:
        """The job had ended before: its moves are in the totals already."""
        name = self.classes.pop(job, None)
        for peer in self.moves.pop(job, {}):
            if name is not None:
                self._refold(name, peer)

    def prove(self, peer: PeerId, fault: str) -> bool:
        """A fault of a peer is proved; ``True`` if it was not known yet."""
        if peer in self.proved:
            return False
        self.proved[peer] = fault
        return True

    def snapshot(self, model_class: str) -> tuple[PeerChecks, ...]:
        """The records of a class for a trust snapshot: those with the most checks, by key."""
        known = [
            (record.checks, peer)
            for (name, peer), record in self.current.items()
            if name == model_class and record.checks and peer not in self.proved
        ]
        best = sorted(known, key=lambda each: (-each[0], each[1]))[:SNAPSHOT_PEERS_MAX]
        return tuple(
            PeerChecks(peer, min(checks, 1_000_000))
            for checks, peer in sorted(best, key=lambda each: each[1])
        )
