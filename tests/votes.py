"""Votes for tests: commitments, reveals and endorsements of one job, as honest peers write them.

Who seals the frames is the caller's affair: with real keys, or with a fake signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pfleet.core.model.ids import Digest, FrameHash, JobId, NetworkId, PeerId, sha256
from p2pfleet.core.rules.commitment import commitment, seed_hash
from p2pfleet.core.wire.messages import (
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Frame,
    Reveal,
    RevealItem,
    VoteRef,
)
from p2pfleet.core.wire.verified import VerifiedFrame

Sealing = Callable[[Frame], VerifiedFrame]


class Booth:
    """Frames of one job, by hash, in the order in which they were written."""

    def __init__(self, network: NetworkId, job: JobId, seal: Sealing) -> None:
        self.network = network
        self.job = job
        self.seal = seal
        self.frames: dict[FrameHash, VerifiedFrame] = {}
        self._sequences: dict[PeerId, int] = {}

    def write(self, author: PeerId, *entries: Entry) -> VerifiedFrame:
        """The author's next frame."""
        sequence = self._sequences.get(author, -1) + 1
        self._sequences[author] = sequence
        made = self.seal(Frame(self.network, self.job, author, 1, sequence, entries))
        self.frames[made.hash] = made
        return made

    def seed(self, author: PeerId, attempt: int = 0) -> bytes:
        """What the nonces of an author's commitments in an attempt come from."""
        return sha256(b"seed" + author + bytes([attempt]))

    def commit(self, author: PeerId, unit: int, output: bytes, attempt: int = 0) -> VerifiedFrame:
        """Commit to the output of one unit."""
        seed = self.seed(author, attempt)
        made = commitment(self.network, self.job, unit, attempt, author, seed, output)
        return self.write(author, Commit(seed_hash(seed), (CommitItem(unit, attempt, made),)))

    def reveal(
        self,
        committed: VerifiedFrame,
        digest: Digest,
        seen: Sequence[VerifiedFrame],
        length: int = 1,
    ) -> VoteRef:
        """Reveal the commitment that is the first entry of a frame; where the vote stands."""
        entry = committed.frame.entries[0]
        assert isinstance(entry, Commit)
        items = tuple(RevealItem(item.unit, item.attempt, digest, length) for item in entry.items)
        seed = self.seed(committed.author, entry.items[0].attempt)
        names = tuple(sorted({each.hash for each in seen}))
        made = self.write(committed.author, Reveal(committed.hash, 0, seed, items, names))
        return VoteRef(made.hash, 0, 0)

    def vote(
        self, authors: Sequence[PeerId], unit: int, output: bytes, attempt: int = 0
    ) -> tuple[VoteRef, ...]:
        """Closed votes: all commit, then all reveal, each having seen every commitment."""
        commits = [self.commit(author, unit, output, attempt) for author in authors]
        digest = Digest(sha256(output))
        return tuple(self.reveal(each, digest, commits, len(output)) for each in commits)

    def endorse(
        self, author: PeerId, unit: int, own: VoteRef, digest: Digest, attempt: int = 0
    ) -> VoteRef:
        """Vote for another's digest; where the endorsement stands."""
        made = self.write(author, Endorse(unit, attempt, own, digest))
        return VoteRef(made.hash, 0)
