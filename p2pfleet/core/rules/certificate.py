"""When a unit is certified, and how anybody can check it (``protocol/certificates.md``).

A result is certified when the votes for it fulfil the job's stop rule. Votes for a result count
together only if they are *closed*: within one attempt, everyone who revealed had seen the
commitments of all the others, so that nobody answered after hearing the answer. Against a result
every vote counts.

Fixed quorum: at least ``quorum`` votes, and one more for each vote by which another result reaches
beyond ``quorum - 1``. Confidence: the joint credibility of ``credibility.reaches``; voters unknown
to the trust snapshot count for a result at most as often as known ones.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

import msgspec

from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId
from p2pfleet.core.model.job import Confidence, Exact, FixedQuorum, StopRule
from p2pfleet.core.rules import commitment, credibility
from p2pfleet.core.wire.messages import (
    Audit,
    Certificate,
    Commit,
    CommitItem,
    Endorse,
    Frame,
    Manifest,
    Reveal,
    Snapshot,
    VoteRef,
)
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot

VOTES_MAX = 64


class Ballot(msgspec.Struct, frozen=True, array_like=True):
    """One revealed vote, and what it is counted for.

    ``digest`` is what its author revealed, or what it endorsed instead; ``checks`` what the trust
    snapshot says of the author; ``commit`` the frame that its commitment stands in, ``seen`` those
    that it had seen; ``ref`` the entry that votes for ``digest``.
    """

    peer: PeerId
    digest: Digest
    checks: int
    attempt: int
    commit: FrameHash
    seen: tuple[FrameHash, ...]
    ref: VoteRef


def together(one: Ballot, two: Ballot) -> bool:
    """Whether two votes may count together: of different attempts, or each has seen the other."""
    return one.attempt != two.attempt or (one.commit in two.seen and two.commit in one.seen)


def closed(ballots: Sequence[Ballot]) -> list[Ballot]:
    """The votes of ``ballots`` that count together; one a peer.

    Earlier attempts first, then those who have passed more checks, then by key. A unit's votes are
    few, and who is left out commits again in the next attempt.
    """
    if len(ballots) < 2:
        return list(ballots)
    chosen: dict[PeerId, Ballot] = {}
    for ballot in sorted(ballots, key=lambda each: (each.attempt, -each.checks, each.peer)):
        if ballot.peer in chosen:
            continue
        for other in chosen.values():
            if other.attempt == ballot.attempt and not together(ballot, other):
                break
        else:
            chosen[ballot.peer] = ballot
    return list(chosen.values())[:VOTES_MAX]


def counted(votes: Sequence[int], snapshot: bool) -> list[int]:
    """The checks of those voters for a result that count: newcomers as often as known peers."""
    known = sorted((checks for checks in votes if checks), reverse=True)
    newcomers = len(votes) - len(known)
    return known + [0] * credibility.countable_newcomers(len(known), newcomers, snapshot=snapshot)


@lru_cache(maxsize=4_096)
def _fulfilled(
    stop: StopRule, votes: tuple[int, ...], against: tuple[tuple[int, ...], ...]
) -> bool:
    if isinstance(stop, FixedQuorum):
        second = max((len(group) for group in against), default=0)
        return len(votes) >= stop.quorum + max(0, second - stop.quorum + 1)
    groups: dict[int, tuple[int, ...]] = dict(enumerate(against, 1))
    if not votes or sum(map(len, against)) + len(votes) > credibility.VOTERS_MAX:
        return False
    groups[0] = votes
    return credibility.reaches(groups, 0, stop.faulty_ppm, stop.error_ppb)


def holds(
    stop: StopRule, votes: Sequence[int], against: Sequence[Sequence[int]], snapshot: bool
) -> bool:
    """Whether votes for one result fulfil the stop rule.

    ``votes`` are the checks of its voters, ``against`` those of the voters for each other result;
    ``snapshot`` whether the job has a trust snapshot, which limits newcomers.
    """
    return _holds(stop, tuple(votes), tuple(map(tuple, against)), snapshot)


@lru_cache(maxsize=4_096)
def _holds(
    stop: StopRule, votes: Sequence[int], against: tuple[tuple[int, ...], ...], snapshot: bool
) -> bool:
    if isinstance(stop, Confidence):
        votes = counted(votes, snapshot)
    return _fulfilled(
        stop, tuple(sorted(votes)), tuple(sorted(tuple(sorted(group)) for group in against))
    )


@lru_cache(maxsize=4_096)
def _missing(
    stop: StopRule,
    votes: tuple[int, ...],
    against: tuple[tuple[int, ...], ...],
    checks: int,
    snapshot: bool,
) -> int:
    for more in range(stop.replicas_max + 1):
        if holds(stop, (*votes, *[checks] * more), against, snapshot):
            return more
    return stop.replicas_max


def missing(
    stop: StopRule,
    votes: Sequence[int],
    against: Sequence[Sequence[int]],
    checks: int,
    snapshot: bool,
) -> int:
    """How many more votes for a result would certify it, each of a peer with ``checks``."""
    return _missing(stop, tuple(votes), tuple(map(tuple, against)), checks, snapshot)


def tie_break(salt: bytes, unit: int, digest: Digest) -> bytes:
    """Which of two results of equal weight represents the unit: the lower hash."""
    return hashlib.sha256(salt + unit.to_bytes(8, "big") + digest).digest()


class Candidate(msgspec.Struct, frozen=True):
    """One result of a unit: the votes that count for it together, and those against it."""

    digest: Digest
    votes: tuple[Ballot, ...]
    against: tuple[Ballot, ...]

    @property
    def checks(self) -> tuple[int, ...]:
        """What its voters have passed."""
        return tuple([ballot.checks for ballot in self.votes])

    @property
    def others(self) -> list[list[int]]:
        """The same of the voters for each other result."""
        if not self.against:
            return []
        groups: dict[Digest, list[int]] = {}
        for ballot in self.against:
            groups.setdefault(ballot.digest, []).append(ballot.checks)
        return [groups[digest] for digest in sorted(groups)]

    def holds(self, stop: StopRule, snapshot: bool) -> bool:
        """Whether it is certified by these votes."""
        return holds(stop, self.checks, self.others, snapshot)


def candidate(digest: Digest, ballots: Sequence[Ballot]) -> Candidate:
    """What the ballots on a unit, all of them, mean for one result.

    A peer with several ballots (in several attempts, or a reveal and an endorsement) supports
    ``digest`` if one of them does; else the last of them speaks against it.
    """
    mine = [ballot for ballot in ballots if ballot.digest == digest]
    votes = closed(mine)
    if len(mine) == len(ballots):
        return Candidate(digest, tuple(votes), ())
    support = {ballot.peer for ballot in mine}
    against: dict[PeerId, Ballot] = {}
    for ballot in ballots:
        earlier = against.get(ballot.peer)
        if ballot.peer not in support and (earlier is None or earlier.attempt <= ballot.attempt):
            against[ballot.peer] = ballot
    ranked = sorted(against.values(), key=lambda each: (-each.checks, each.peer))[:VOTES_MAX]
    return Candidate(digest, tuple(votes), tuple(ranked))


def weight(stop: StopRule, votes: Sequence[int]) -> Fraction:
    """How much the votes for one result weigh: their number, or the product of their odds."""
    if isinstance(stop, FixedQuorum) or not votes:
        return Fraction(len(votes))
    return _product(tuple(votes), stop.faulty_ppm)


@lru_cache(maxsize=4_096)
def _product(votes: tuple[int, ...], faulty_ppm: int) -> Fraction:
    return math.prod((credibility.odds(k, faulty_ppm) for k in votes), start=Fraction(1))


def ranking(ballots: Sequence[Ballot], stop: StopRule, salt: bytes, unit: int) -> list[Candidate]:
    """All results of a unit, the weightiest first, ties by the lowest hash.

    The first one represents the unit where results are compared within a tolerance.
    """
    digests = {ballot.digest: True for ballot in ballots}
    if len(digests) < 2:  # by far the most frequent
        return [Candidate(digest, tuple(closed(ballots)), ()) for digest in digests]
    candidates = [candidate(digest, ballots) for digest in digests]
    return sorted(
        candidates,
        key=lambda each: (-weight(stop, each.checks), tie_break(salt, unit, each.digest)),
    )


# ---- by anybody, later ---------------------------------------------------------------------------


class _Invalid(Exception):
    """Why a certificate does not hold."""


def check_certificate(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    frames: Mapping[FrameHash, VerifiedFrame],
    snapshots: Mapping[Digest, VerifiedSnapshot],
    output: bytes | None = None,
    trust: Snapshot | None = None,
) -> str | None:
    """Why ``certificate`` does not hold, or ``None`` if it does.

    ``frames`` and ``snapshots`` are those whose signatures have been verified, by name. With the
    ``output`` itself, every commitment of a voter who revealed its digest is opened as well. The
    records of ``trust``, of a verifier's own choice, weigh the votes instead of those of the
    snapshot that the certificate names. Nothing else is needed: no network, no clock, no private
    view.
    """
    try:
        _check(manifest, job, certificate, frames, snapshots, output, trust)
    except _Invalid as error:
        return str(error)
    return None


def _check(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    frames: Mapping[FrameHash, VerifiedFrame],
    snapshots: Mapping[Digest, VerifiedSnapshot],
    output: bytes | None,
    trust: Snapshot | None,
) -> None:
    if certificate.job != job:
        raise _Invalid("it belongs to another job")
    if not 0 <= certificate.unit < manifest.units:
        raise _Invalid(f"the job has no unit {certificate.unit}")
    snapshot = _snapshot(manifest, certificate, snapshots) if trust is None else trust
    votes = [
        _ballot(manifest, job, certificate, ref, frames, snapshot) for ref in certificate.votes
    ]
    against = [
        _ballot(manifest, job, certificate, ref, frames, snapshot) for ref in certificate.against
    ]
    if len({ballot.peer for ballot in votes + against}) != len(votes) + len(against):
        raise _Invalid("somebody votes twice")
    if any(ballot.digest != certificate.digest for ballot in votes):
        raise _Invalid("a vote is for something else")
    if any(ballot.digest == certificate.digest for ballot in against):
        raise _Invalid("what is listed against it is for it")
    for number, ballot in enumerate(votes):
        for other in votes[:number]:
            if not together(ballot, other):
                raise _Invalid("its votes are not closed: one was revealed before another was made")
    if output is not None:
        for ref in certificate.votes:
            _open(manifest, job, certificate, ref, frames, output)
    if certificate.audit is not None:
        _check_audit(manifest, job, certificate, certificate.audit, frames)
        return
    mine = Candidate(certificate.digest, tuple(votes), tuple(against))
    if not votes or not mine.holds(manifest.stop, snapshot is not None):
        raise _Invalid(f"{len(votes)} votes are not enough beside {len(against)} for other answers")


def passed(snapshot: Snapshot | None, peer: PeerId) -> int:
    """How many checks a peer has passed by a trust snapshot; 0: a newcomer."""
    records = () if snapshot is None else snapshot.records
    place = bisect_left(records, peer, key=lambda each: each.peer)
    if place < len(records) and records[place].peer == peer:
        return records[place].checks
    return 0


def _snapshot(
    manifest: Manifest,
    certificate: Certificate,
    snapshots: Mapping[Digest, VerifiedSnapshot],
) -> Snapshot | None:
    if certificate.snapshot is None:
        if manifest.trust.snapshot is not None:
            raise _Invalid("it leaves the job's trust snapshot out")
        return None
    found = snapshots.get(certificate.snapshot)
    if found is None:
        raise _Invalid(f"trust snapshot {certificate.snapshot.hex()[:16]} is missing")
    snapshot = found.snapshot
    if (snapshot.network, snapshot.publisher) != (manifest.network, manifest.publisher):
        raise _Invalid("its trust snapshot is somebody else's")
    if snapshot.model_class != manifest.trust.model_class:
        raise _Invalid("its trust snapshot is for another class of models")
    return snapshot


def _frame(
    manifest: Manifest, job: JobId, name: FrameHash, frames: Mapping[FrameHash, VerifiedFrame]
) -> Frame:
    found = frames.get(name)
    if found is None:
        raise _Invalid(f"frame {name.hex()[:16]} is missing")
    if found.frame.job != job or found.frame.network != manifest.network:
        raise _Invalid(f"frame {name.hex()[:16]} belongs to another job or network")
    return found.frame


def _ballot(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    ref: VoteRef,
    frames: Mapping[FrameHash, VerifiedFrame],
    snapshot: Snapshot | None,
) -> Ballot:
    where = f"entry {ref.index} of frame {ref.frame.hex()[:16]}"
    frame = _frame(manifest, job, ref.frame, frames)
    if frame.author == manifest.publisher:
        raise _Invalid("the publisher's own vote does not count")
    if ref.index >= len(frame.entries):
        raise _Invalid(f"{where} is not there")
    entry = frame.entries[ref.index]
    checks = passed(snapshot, frame.author)
    if isinstance(entry, Endorse):
        if isinstance(manifest.comparison, Exact):
            raise _Invalid(f"{where} endorses where results are compared byte for byte")
        if entry.unit != certificate.unit or entry.own == ref:
            raise _Invalid(f"{where} is about another unit")
        if ref.item:
            raise _Invalid(f"{where} has no item {ref.item}")
        own = _frame(manifest, job, entry.own.frame, frames)
        again = own.entries[entry.own.index] if entry.own.index < len(own.entries) else None
        if own.author != frame.author or not isinstance(again, Reveal):
            raise _Invalid(f"{where} endorses without an own result")
        mine = _ballot(manifest, job, certificate, entry.own, frames, snapshot)
        return msgspec.structs.replace(mine, digest=entry.digest, ref=ref)
    if not isinstance(entry, Reveal):
        raise _Invalid(f"{where} is no vote")
    if ref.item >= len(entry.items):
        raise _Invalid(f"{where} has no item {ref.item}")
    item = entry.items[ref.item]
    if item.unit != certificate.unit:
        raise _Invalid(f"{where} votes on another unit")
    _committed(manifest, job, entry, ref.item, frame.author, frames)
    return Ballot(frame.author, item.digest, checks, item.attempt, entry.commit, entry.seen, ref)


def matches(commit: Commit, reveal: Reveal) -> str:
    """Why a reveal does not open the commitments that it names; empty if it may.

    Whether the bytes are those that were committed to, only who has them can say.
    """
    if commitment.seed_hash(reveal.seed) != commit.seed_hash:
        return "the seed is not the one that was committed to"
    asked = [(item.unit, item.attempt) for item in commit.items]
    if [(item.unit, item.attempt) for item in reveal.items] != asked:
        return "other units are revealed than were committed to"
    return ""


def _committed(
    manifest: Manifest,
    job: JobId,
    reveal: Reveal,
    number: int,
    author: PeerId,
    frames: Mapping[FrameHash, VerifiedFrame],
) -> CommitItem:
    frame = _frame(manifest, job, reveal.commit, frames)
    if frame.author != author:
        raise _Invalid("somebody reveals another's commitment")
    entry = frame.entries[reveal.index] if reveal.index < len(frame.entries) else None
    if not isinstance(entry, Commit):
        raise _Invalid("a reveal without the commitment that it names")
    fault = matches(entry, reveal)
    if fault:
        raise _Invalid(f"a reveal contradicts its commitment: {fault}")
    return entry.items[number]


def _open(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    ref: VoteRef,
    frames: Mapping[FrameHash, VerifiedFrame],
    output: bytes,
) -> None:
    frame = frames[ref.frame].frame
    entry = frame.entries[ref.index]
    if not isinstance(entry, Reveal):
        return  # an endorser committed to its own output, which is another
    item = entry.items[ref.item]
    wanted = _committed(manifest, job, entry, ref.item, frame.author, frames).commitment
    made = commitment.commitment(
        manifest.network, job, item.unit, item.attempt, frame.author, entry.seed, output
    )
    if made != wanted:
        raise _Invalid("a vote for it was committed to without its bytes")


def _check_audit(
    manifest: Manifest,
    job: JobId,
    certificate: Certificate,
    ref: VoteRef,
    frames: Mapping[FrameHash, VerifiedFrame],
) -> None:
    frame = _frame(manifest, job, ref.frame, frames)
    entry = frame.entries[ref.index] if ref.index < len(frame.entries) else None
    if frame.author != manifest.publisher or not isinstance(entry, Audit) or ref.item:
        raise _Invalid("what it names as the publisher's word is none")
    if (entry.unit, entry.digest) != (certificate.unit, certificate.digest):
        raise _Invalid("the publisher's word is about something else")
