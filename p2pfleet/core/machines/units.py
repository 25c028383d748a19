"""One unit of a job as a node sees it: commitments, votes, endorsements, failures."""

from __future__ import annotations

import msgspec

from p2pfleet.core.model.ids import Digest, FrameHash, Millis, PeerId
from p2pfleet.core.wire.messages import Certificate, VoteRef

ATTEMPTS_A_PEER = 8


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a frame stands in its author's sequence, of which it has one a shard."""

    incarnation: int
    sequence: int
    shard: int = 0


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """A commitment: where it stands, and from when on it counts by this node's clock."""

    attempt: int
    frame: FrameHash
    index: int
    item: int
    commitment: bytes
    seen: Millis
    counts_from: Millis


class Vote(msgspec.Struct, frozen=True, array_like=True):
    """A revealed commitment: the digest, the output's size in bytes, what its author had seen."""

    attempt: int
    digest: Digest
    length: int
    ref: VoteRef
    commit: FrameHash
    seen: tuple[FrameHash, ...]
    seed: bytes
    commitment: bytes
    counts_from: Millis
    place: Place


class Endorsement(msgspec.Struct, frozen=True, array_like=True):
    """Whose answer a peer holds for its own, too."""

    attempt: int
    digest: Digest
    own: VoteRef
    ref: VoteRef
    place: Place = Place(0, 0)


class Unit(msgspec.Struct):
    """``state``: open, certified, settled, contested or failed; the last certificate.

    Votes, commitments and endorsements by peer, in the order of their attempts; ``unrevealed`` are
    the last commitments of those who have not revealed them. ``attempt`` is what
    a new commitment belongs to: the first in which nobody ``revealed`` anything yet. ``opened``
    tells of (peer, attempt) whether its commitment held those bytes; ``withdrawn`` are votes that
    count no more, because their author was caught. ``voters_for`` vote for the leading result;
    ``votes_for`` and ``votes_against`` are their checks, and those of the voters for each other
    result. ``asked`` is how many replicas the publisher wants in all.
    """

    state: str = "open"
    attempt: int = 0
    revealed: dict[int, bool] = {}
    asked: int = 0
    commits: dict[PeerId, list[Committed]] = {}
    unrevealed: dict[PeerId, Committed] = {}
    votes: dict[PeerId, list[Vote]] = {}
    endorsed: dict[PeerId, list[Endorsement]] = {}
    failures: dict[PeerId, str] = {}
    opened: dict[tuple[PeerId, int], bool] = {}
    withdrawn: dict[tuple[PeerId, int], bool] = {}
    leading: Digest | None = None
    voters_for: tuple[PeerId, ...] = ()
    votes_for: tuple[int, ...] = ()
    votes_against: tuple[tuple[int, ...], ...] = ()
    latest_vote: Millis = Millis(0)
    certificate: Certificate | None = None
    audit: tuple[Digest, VoteRef] | None = None
    reason: str = ""

    @property
    def replicas(self) -> int:
        """Peers that answered, one way or the other."""
        if not self.failures:
            return len(self.votes)
        return len(self.votes) + sum(peer not in self.votes for peer in self.failures)

    @property
    def final(self) -> bool:
        """Whether nothing changes it any more."""
        return self.state in ("settled", "failed")

    def vote(self, peer: PeerId, attempt: int) -> Vote | None:
        """What a peer revealed in an attempt."""
        for vote in self.votes.get(peer, ()):
            if vote.attempt == attempt:
                return vote
        return None

    def counting(self, peer: PeerId) -> bool:
        """Whether the peer's answer still counts: it was not withdrawn, and its commitment held
        those bytes as far as is known here."""
        votes = self.votes.get(peer, [])
        return any(
            (peer, vote.attempt) not in self.withdrawn
            and self.opened.get((peer, vote.attempt)) is not False
            for vote in votes
            if vote.digest == votes[0].digest
        )

    def last_vote(self, peer: PeerId) -> Vote | None:
        """What a peer revealed last."""
        votes = self.votes.get(peer)
        return votes[-1] if votes else None

    def waiting(self, peer: PeerId) -> Committed | None:
        """The last commitment of a peer that it has not revealed yet."""
        return self.unrevealed.get(peer)

    def revealing(self, peer: PeerId) -> None:
        """Commitments or votes of a peer have changed: see whether it still has to reveal one."""
        commits = self.commits.get(peer)
        if commits and self.vote(peer, commits[-1].attempt) is None:
            self.unrevealed[peer] = commits[-1]
        else:
            self.unrevealed.pop(peer, None)

    def holders(self, digest: Digest) -> list[tuple[PeerId, int]]:
        """Who revealed a digest, and of what length; sorted."""
        return sorted(
            (peer, vote.length)
            for peer, votes in self.votes.items()
            for vote in votes[:1]
            if vote.digest == digest
        )
