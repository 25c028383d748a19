"""When a unit is certified, and how anybody can check it (``protocol/certificates.md``).

Fixed quorum: a digest is certified when it has at least ``quorum`` votes and more than any other
digest. Two digests that both reach the quorum contest the unit; each vote that the runner-up gains
from there raises the votes that the winner needs, and the number of those raises is the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.model.job import FixedQuorum
from p2pfleet.core.wire.messages import Certificate, Manifest, Reveal, VoteRef
from p2pfleet.core.wire.verified import VerifiedFrame


class Decision(msgspec.Struct, frozen=True):
    """What the counted votes on one unit amount to.

    ``state``: ``open`` (``wanted`` more replicas could decide it), ``contested`` (the same, but two
    digests reached the quorum), ``certified`` (``digest`` won, in ``attempt``), ``failed``
    (``reason``).
    """

    state: str
    wanted: int = 0
    attempt: int = 0
    digest: Digest | None = None
    reason: str = ""


def decide(
    stop: FixedQuorum, votes: Mapping[PeerId, Digest], failures: Mapping[PeerId, str]
) -> Decision:
    """Apply the stop rule to the votes and failures that count, one a peer."""
    tally: dict[Digest, int] = {}
    for peer in sorted(votes):
        tally[votes[peer]] = tally.get(votes[peer], 0) + 1
    ranking = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    first = ranking[0][1] if ranking else 0
    second = ranking[1][1] if len(ranking) > 1 else 0
    attempt = max(0, second - stop.quorum + 1)
    needed = stop.quorum + attempt
    if first >= needed:
        return Decision("certified", attempt=attempt, digest=ranking[0][0])
    replicas = len(votes) + len(failures)
    if len(failures) >= stop.quorum and not votes:
        return Decision("failed", reason=_commonest(failures))
    if replicas >= stop.replicas_max:
        if failures and len(failures) >= first:
            return Decision("failed", reason=_commonest(failures))
        return Decision("failed", reason=f"{replicas} replicas gave {len(tally)} different answers")
    state = "contested" if attempt else "open"
    wanted = min(needed - first, stop.replicas_max - replicas)
    return Decision(state, wanted=wanted, attempt=attempt)


def _commonest(failures: Mapping[PeerId, str]) -> str:
    reasons = [failures[peer] for peer in sorted(failures)]
    return max(sorted(set(reasons)), key=reasons.count)


def certificate(
    job: JobId,
    unit: int,
    decision: Decision,
    stop: FixedQuorum,
    votes: Mapping[PeerId, tuple[Digest, VoteRef]],
) -> Certificate:
    """The certificate of a ``certified`` decision: as many votes as it needs, by author's key."""
    assert decision.digest is not None
    refs = [votes[peer][1] for peer in sorted(votes) if votes[peer][0] == decision.digest]
    return Certificate(
        job=job,
        unit=unit,
        attempt=decision.attempt,
        digest=decision.digest,
        votes=tuple(refs[: stop.quorum + decision.attempt]),
    )


def check_certificate(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    frames: Mapping[FrameHash, VerifiedFrame],
) -> str | None:
    """Why ``certificate`` does not hold, or ``None`` if it does.

    ``frames`` maps frame hashes to frames whose signatures have been verified. Nothing else is
    needed: no network, no clock, no private view.
    """
    if certificate.job != job:
        return "it belongs to another job"
    if certificate.attempt < 0 or any(vote.index < 0 for vote in certificate.votes):
        return "a number in it is negative"
    if not 0 <= certificate.unit < manifest.units:
        return f"the job has no unit {certificate.unit}"
    voters: set[PeerId] = set()
    for vote in certificate.votes:
        frame = frames.get(vote.frame)
        if frame is None:
            return f"frame {vote.frame.hex()[:16]} is missing"
        if frame.frame.job != job or frame.frame.network != manifest.network:
            return f"frame {vote.frame.hex()[:16]} belongs to another job or network"
        if vote.index >= len(frame.frame.entries):
            return f"frame {vote.frame.hex()[:16]} has no entry {vote.index}"
        entry = frame.frame.entries[vote.index]
        if not isinstance(entry, Reveal):
            return f"entry {vote.index} of frame {vote.frame.hex()[:16]} is no vote"
        if entry.unit != certificate.unit or entry.digest != certificate.digest:
            return f"entry {vote.index} of frame {vote.frame.hex()[:16]} votes for something else"
        if frame.author == manifest.publisher:
            return "the publisher's own vote does not count"
        voters.add(frame.author)
    needed = manifest.stop.quorum + certificate.attempt
    if len(voters) < needed:
        return f"{len(voters)} voters where {needed} are needed"
    return None
