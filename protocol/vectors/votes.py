"""Vectors of ``certificates.md``: when votes are enough, and which count together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from canonical import described

from p2pfleet.core.model.ids import Digest, FrameHash, PeerId, sha256
from p2pfleet.core.model.job import Confidence, FixedQuorum, StopRule
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.wire.messages import (
    VoteRef,
)

Case = dict[str, Any]
SURE = Confidence(1_000_000, 200_000, 16)
UNIT = 3


def decisions() -> Iterable[Case]:
    """``more``: how many further votes, each of a peer with ``checks``, would be enough."""
    two, five = FixedQuorum(2, 5), FixedQuorum(32, 64)
    cautious = Confidence(10_000, 350_000, 24)
    for stop, votes, against, snapshot, checks in (
        (two, [], [], False, 0), (two, [0], [], False, 0), (two, [0, 0], [], False, 0),
        (two, [0, 0], [[0]], False, 0), (two, [0, 0], [[0, 0]], False, 0),
        (two, [0, 0, 0], [[0, 0]], False, 0), (two, [0, 0, 0], [[0, 0, 0]], False, 0),
        (two, [0, 0], [[0], [0], [0]], True, 0), (FixedQuorum(1, 1), [0], [[0]], False, 0),
        (FixedQuorum(1, 3), [0, 0], [[0]], True, 9), (five, [0] * 31, [], False, 0),
        (five, [0] * 32, [], False, 0), (FixedQuorum(3, 5), [0], [[0, 0, 0], [0]], False, 0),
        (SURE, [], [], False, 0), (SURE, [0] * 5, [], False, 0), (SURE, [0] * 6, [], False, 0),
        (SURE, [0] * 6, [[0]], False, 0), (SURE, [0] * 8, [[0]], False, 0),
        (SURE, [0] * 6, [], True, 0), (SURE, [1] * 6, [], True, 1), (SURE, [20], [], True, 20),
        (SURE, [20, 20], [], True, 20), (SURE, [400], [], True, 400),
        (SURE, [400, 400], [], True, 0), (SURE, [400, 0], [], True, 0),
        (SURE, [20, 20, 0, 0, 0, 0], [], True, 0),
        (SURE, [20, 0, 0], [[0, 0]], True, 20), (SURE, [300] * 4, [[300]], True, 300),
        (SURE, [1_000_000], [], True, 1_000_000), (SURE, [0] * 64, [], False, 0),
        (SURE, [0] * 63, [[0]], False, 0), (SURE, [0] * 64, [[0]], False, 0),
        (cautious, [64, 65], [], True, 65), (cautious, [64] * 3, [[1], [1]], True, 64),
        (cautious, [0] * 14, [], False, 0), (cautious, [0] * 18, [], False, 0),
        (Confidence(10_000_000, 50_000, 8), [20], [], True, 20),
        (Confidence(10_000_000, 50_000, 8), [], [[20]], True, 20),
        (Confidence(500_000_000, 500_000, 8), [1], [], False, 0),
    ):  # fmt: skip
        yield {
            "about": f"{_told(stop)}: {votes[:8]}{'...' * (len(votes) > 8)} against {against}, "
            f"{'a' if snapshot else 'no'} snapshot",
            "stop": described(stop),
            "votes": votes,
            "against": against,
            "snapshot": snapshot,
            "holds": rule.holds(stop, votes, against, snapshot),
            "checks": checks,
            "more": rule.missing(stop, votes, against, checks, snapshot),
        }


def _told(stop: StopRule) -> str:
    if isinstance(stop, FixedQuorum):
        return f"quorum {stop.quorum}"
    return f"error {stop.error_ppb} ppb, {stop.faulty_ppm} ppm faulty"


# ---- which votes count together --------------------------------------------------------------


def rankings() -> Iterable[Case]:
    """Ballots are [peer, digest, checks, attempt, commitment's frame, frames seen], by letters."""
    everything = "abcde"
    for about, stop, ballots in (
        ("nobody", SURE, []),
        ("all have seen all", SURE, [["A", "g", 0, 0, "a", "abc"], ["B", "g", 0, 0, "b", "abc"],
                                     ["C", "x", 0, 0, "c", "abc"]]),
        ("one did not see another", SURE,
         [["A", "g", 0, 0, "a", "a"], ["B", "g", 0, 0, "b", "ab"]]),
        ("who has passed more checks comes first", SURE,
         [["A", "g", 0, 0, "a", "a"], ["B", "g", 7, 0, "b", "ab"]]),
        ("two groups that have not seen each other", SURE,
         [["A", "g", 9, 0, "a", "ab"], ["B", "g", 1, 0, "b", "ab"],
          ["C", "g", 5, 0, "c", "cd"], ["D", "g", 5, 0, "d", "cd"]]),
        ("a later attempt joins", SURE,
         [["A", "g", 0, 0, "a", "a"], ["B", "g", 0, 1, "b", "bc"], ["C", "g", 0, 1, "c", "bc"]]),
        ("one peer in two attempts counts once", SURE,
         [["A", "g", 0, 0, "a", "a"], ["A", "g", 0, 1, "e", "e"], ["B", "g", 0, 1, "b", "be"]]),
        ("who answered both ways speaks for it", SURE,
         [["A", "x", 0, 0, "a", everything], ["A", "g", 0, 1, "e", everything],
          ["B", "x", 0, 0, "b", everything]]),
        ("the last of several other answers speaks against it", SURE,
         [["A", "g", 0, 0, "a", everything], ["B", "x", 0, 0, "b", everything],
          ["B", "y", 0, 1, "e", everything]]),
        ("records outweigh heads", SURE,
         [["A", "g", 50, 0, "a", everything], ["B", "x", 0, 0, "b", everything],
          ["C", "x", 0, 0, "c", everything]]),
        ("by a quorum only heads count", FixedQuorum(2, 5),
         [["A", "g", 50, 0, "a", everything], ["B", "x", 0, 0, "b", everything],
          ["C", "x", 0, 0, "c", everything]]),
        ("a tie goes to the lowest hash", FixedQuorum(2, 5),
         [[who, digest, 0, 0, who.lower(), everything] for who, digest in zip("ABCDE", "vwxyz",
                                                                              strict=True)]),
        ("enough of one kind", FixedQuorum(2, 5),
         [[who, "g" if who < "D" else "x", 0, 0, who.lower(), everything] for who in "ABCDE"]),
    ):  # fmt: skip
        given = [_ballot(*one) for one in ballots]
        found = rule.ranking(given, stop, bytes(16), UNIT)
        yield {
            "about": about,
            "stop": described(stop),
            "unit": UNIT,
            "ballots": ballots,
            "ranking": [
                [
                    _letter(each.digest),
                    [_letter(one.peer) for one in each.votes],
                    [_letter(one.peer) + _letter(one.digest) for one in each.against],
                ]
                for each in found
            ],
        }


def _ballot(
    peer: str, digest: str, checks: int, attempt: int, commit: str, seen: str
) -> rule.Ballot:
    names = tuple(FrameHash(one.encode() * 32) for one in seen)
    mine = FrameHash(commit.encode() * 32)
    ref = VoteRef(FrameHash(sha256(f"{peer} {attempt}".encode())), 0)
    return rule.Ballot(
        PeerId(peer.encode() * 32), Digest(digest.encode() * 32), checks, attempt, mine, names, ref
    )


def _letter(value: bytes) -> str:
    return value[:1].decode()
