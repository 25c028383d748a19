"""Which frames of a shard are here, so that two peers can tell each other what is missing."""

from __future__ import annotations

import msgspec

from p2pfleet.core.effects import SendFrames
from p2pfleet.core.model.ids import JobId, PeerId
from p2pfleet.core.rules.admission import weight
from p2pfleet.core.wire.messages import AuthorPosition
from p2pfleet.core.wire.verified import VerifiedFrame

AHEAD_MAX = 1024
RENEWALS_MAX = 1_000_000
AUTHORS_MAX = 1024
REPLY_FRAMES_MAX = 128
LEASE_ENTRIES_MAX = 128
MARK_BYTES = 8


class FrameLog(msgspec.Struct):
    """Positions by (author, incarnation): all below ``next`` is here, and some ahead of it.

    ``marks`` are the first bytes of the frames' hashes, by number.
    """

    job: JobId
    shard: int = 0
    next: dict[tuple[PeerId, int], int] = {}
    ahead: dict[tuple[PeerId, int], list[int]] = {}
    entries: dict[PeerId, int] = {}
    marks: dict[tuple[PeerId, int], dict[int, bytes]] = {}

    def differs(self, frame: VerifiedFrame) -> bool:
        """Whether another frame of the same number is here already."""
        body = frame.frame
        mark = self.marks.get((body.author, body.incarnation), {}).get(body.sequence)
        return mark is not None and mark != frame.hash[:MARK_BYTES]

    def admit(
        self, verified: VerifiedFrame, units: int, leases: int = 0, bounded: bool = True
    ) -> str | None:
        """Why a frame is not taken, or ``None``: then it is counted as here.

        What one author can make a node keep is bounded: a claim, a release, commitments, votes
        and endorsements in some attempts a unit, and renewals of claims for the ``leases`` that the
        job has lasted so far; blobs that it keeps come out of the same.
        Not ``bounded`` are the node's own frames, and those that it took before a restart.
        """
        frame = verified.frame
        key = (frame.author, frame.incarnation)
        known = self.next.get(key)
        position = known or 0
        ahead = self.ahead.get(key) or []
        if frame.sequence < position or frame.sequence in ahead:
            return "a frame of this number is here already"
        if frame.sequence - position > AHEAD_MAX or len(ahead) >= AHEAD_MAX:
            return "too far ahead of what is here"
        if known is None and len(self.next) >= AUTHORS_MAX:
            return "too many authors"
        count = self.entries.get(frame.author, 0) + sum(map(weight, frame.entries))
        allowed = 256 + 24 * units + min(LEASE_ENTRIES_MAX * leases, RENEWALS_MAX)
        if bounded and count > allowed:
            return "its author has written more than this job can need"
        self.entries[frame.author] = count
        self.marks.setdefault(key, {})[frame.sequence] = verified.hash[:MARK_BYTES]
        if frame.sequence == position:
            position += 1
            while position in ahead:
                ahead.remove(position)
                position += 1
        else:
            ahead.append(frame.sequence)
        self.next[key] = position
        if ahead:
            self.ahead[key] = ahead
        elif self.ahead:
            self.ahead.pop(key, None)
        return None

    def positions(self) -> tuple[AuthorPosition, ...]:
        """What is here, for a summary; sorted."""
        return tuple(
            AuthorPosition(author, incarnation, position)
            for (author, incarnation), position in sorted(self.next.items())
        )

    def missing(
        self, peer: PeerId, theirs: tuple[AuthorPosition, ...], only: PeerId | None = None
    ) -> list[SendFrames]:
        """What ``peer`` lacks of what is here (of ``only`` one author), at most REPLY_FRAMES_MAX
        frames at a time.

        Its own frames not excepted: whose store was put back from a backup has lost some of them.
        """
        have = {(item.author, item.incarnation): item.next_sequence for item in theirs}
        replies: list[SendFrames] = []
        room = REPLY_FRAMES_MAX
        for (author, incarnation), position in sorted(self.next.items()):
            if only is not None and author != only:
                continue
            first = have.get((author, incarnation), 0)
            end = min(position, first + room)
            if first >= end:
                continue
            room -= end - first
            found = SendFrames(peer, self.job, author, incarnation, first, end, self.shard)
            replies.append(found)
            if room <= 0:
                break
        return replies
