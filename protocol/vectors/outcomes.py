"""Vectors of claims, certificates, reputation, and of the versions in ``volunteers.md``."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec
from canonical import hashed
from samples import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    ERIN,
    JOB,
    MALLORY,
    MANIFEST,
    OTHER_NETWORK,
    PUBLISHER,
    SALT,
    frame,
)

from p2pfleet.core.model.ids import (
    Digest,
    JobId,
    PeerId,
    sha256,
)
from p2pfleet.core.model.job import FixedQuorum
from p2pfleet.core.model.network import network_id
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules import claims
from p2pfleet.core.rules.consent import version_at_least
from p2pfleet.core.rules.reputation import Record, has_vote
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Certificate,
    Claim,
    Reveal,
    VoteRef,
    frame_hash,
)

Case = dict[str, Any]


def claiming() -> Iterable[Case]:
    for signer, units in ((ALICE, 12), (BOB, 12), (CAROL, 40)):
        yield {
            "about": f"the order of {units} units for one peer",
            "salt": SALT.hex(),
            "units": units,
            "peer": signer.peer.hex(),
            "order": claims.preference(SALT, units, signer.peer),
        }
    peers = [one.peer for one in (ALICE, BOB, CAROL, DAVE, ERIN, MALLORY)]
    for unit in (0, 7, 999_999):
        meetings = []
        for numbers, wanted in (([0, 1, 2], 2), ([0, 1, 2, 3, 4, 5], 1), ([5, 3], 2), ([4], 0)):
            claiming = [peers[number] for number in numbers]
            staying = [
                not claims.gives_way(
                    SALT, unit, peer, [one for one in claiming if one != peer], wanted
                )
                for peer in claiming
            ]
            meetings.append([numbers, wanted, staying])
        yield {
            "about": f"ranks for unit {unit}, and who stays where claims meet",
            "salt": SALT.hex(),
            "unit": unit,
            "ranks": {peer.hex(): claims.rank(SALT, unit, peer).hex() for peer in peers},
            "meetings": meetings,
        }
    yield from leases()


def leases() -> Iterable[Case]:
    """How many units a volunteer holds at once, in ``claims.json``."""
    for about, mean_ms, slots, remaining, volunteers in (
        ("nothing known yet", None, 1, 1000, 3),
        ("nothing known yet, four slots", None, 4, 1000, 3),
        ("two seconds of work", 100, 1, 1000, 3),
        ("two seconds of work for each slot", 500, 4, 1000, 3),
        ("never more than 64", 1, 1, 1000, 3),
        ("but a unit for each slot", 1, 100, 100_000, 3),
        ("slow units", 60_000, 2, 1000, 3),
        ("half a fair share", 10, 1, 100, 5),
        ("half a fair share, rounded up", 10, 1, 101, 5),
        ("alone", 10, 1, 10, 1),
        ("nothing remains", 10, 2, 0, 5),
    ):
        yield {
            "about": f"units held: {about}",
            "mean_ms": mean_ms,
            "slots": slots,
            "remaining": remaining,
            "volunteers": volunteers,
            "held": claims.lease_units(mean_ms, slots, remaining, volunteers),
        }


def decisions() -> Iterable[Case]:
    for quorum, replicas_max, votes, failures in (
        (2, 5, "", []), (2, 5, "A", []), (2, 5, "AA", []), (2, 5, "AB", []), (2, 5, "ABA", []),
        (2, 5, "AABB", []), (2, 5, "AABBA", []), (2, 5, "AABBC", []), (2, 5, "ABCDE", []),
        (2, 3, "AB", []), (2, 3, "ABC", []), (1, 1, "A", []), (1, 3, "AB", []), (1, 3, "ABA", []),
        (1, 3, "ABC", []), (3, 9, "AAABBB", []), (3, 9, "AAAABBB", []), (3, 9, "AAAABBBB", []),
        (3, 9, "AAAAABBBB", []), (3, 7, "AABB", []), (3, 7, "AABBCC", []), (4, 6, "AABB", []),
        (2, 5, "", ["x"]), (2, 5, "", ["x", "y"]), (2, 5, "", ["y", "x", "y"]),
        (2, 5, "A", ["x", "x"]), (2, 5, "AA", ["x", "x", "x"]), (2, 5, "AB", ["x", "y", "y"]),
        (2, 5, "A", ["x", "x", "y", "y"]), (2, 4, "ABC", ["x"]), (2, 5, "ABCD", ["x"]),
        (2, 4, "AABB", []), (32, 64, "A" * 31, []), (32, 64, "A" * 32, []),
    ):  # fmt: skip
        digests = {_voter(at): Digest(one.encode() * 32) for at, one in enumerate(votes)}
        failed = {_voter(at + len(votes)): one for at, one in enumerate(failures)}
        decision = rule.decide(FixedQuorum(quorum, replicas_max), digests, failed)
        yield {
            "about": f"quorum {quorum} of at most {replicas_max}: {votes or 'no votes'}"
            + (f", failures {' '.join(failures)}" if failures else ""),
            "quorum": quorum,
            "replicas_max": replicas_max,
            "votes": list(votes),
            "failures": failures,
            "state": decision.state,
            "wanted": decision.wanted,
            "attempt": decision.attempt,
            "digest": decision.digest[:1].decode() if decision.digest else None,
            "reason": decision.reason if decision.reason in failures else None,
        }


def _voter(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


def certificates() -> Iterable[Case]:
    own = PUBLISHER.seal(MANIFEST)
    digest, other = Digest(sha256(b"answer")), Digest(sha256(b"another"))

    def vote(unit: int = 3, of: Digest = digest, attempt: int = 0) -> Reveal:
        return Reveal(unit, attempt, of, 40)

    written = {
        "alice": ALICE.seal(frame(ALICE, [Claim((3, 4)), vote()])),
        "bob": BOB.seal(frame(BOB, [vote(4), vote(), vote(3, other)])),
        "carol": CAROL.seal(frame(CAROL, [vote(3, other), vote(5)])),
        "dave": DAVE.seal(frame(DAVE, [vote(3, other, 1)])),
        "alice again": ALICE.seal(frame(ALICE, [vote()], sequence=1)),
        "publisher": PUBLISHER.seal(frame(PUBLISHER, [vote()])),
        "other job": ERIN.seal(
            msgspec.structs.replace(frame(ERIN, [vote()]), job=JobId(sha256(b"other")))
        ),
        "other network": ERIN.seal(
            msgspec.structs.replace(frame(ERIN, [vote()]), network=network_id(OTHER_NETWORK))
        ),
    }
    names = {name: frame_hash(one) for name, one in written.items()}
    lost = frame_hash(ERIN.seal(frame(ERIN, [vote()])))

    def made(*votes: tuple[str, int], of: Digest = digest, unit: int = 3, attempt: int = 0,
             job: JobId = JOB) -> Certificate:  # fmt: skip
        refs = tuple(VoteRef(names.get(name, lost), index) for name, index in votes)
        return Certificate(job, unit, attempt, of, refs)

    good = (("alice", 1), ("bob", 1))
    cases = [
        ("two voters", "holds", made(*good)),
        ("in any order", "holds", made(*good[::-1])),
        ("the other answer has two voters as well", "holds",
         made(("carol", 0), ("dave", 0), of=other)),
        ("a third vote does no harm", "holds", made(*good, ("alice again", 0))),
        ("a contested unit needs one more", "voters", made(*good, attempt=1)),
        ("three voters in attempt 1", "holds",
         made(("carol", 0), ("dave", 0), ("bob", 2), of=other, attempt=1)),
        ("one voter twice", "voters", made(("alice", 1), ("alice again", 0))),
        ("one vote twice", "voters", made(("alice", 1), ("alice", 1))),
        ("one vote", "voters", made(("alice", 1))),
        ("another job", "job", made(*good, job=JobId(bytes(32)))),
        ("a unit that is not there", "unit", made(*good, unit=MANIFEST.units)),
        ("a frame is missing", "frame", made(("alice", 1), ("lost", 0))),
        ("a frame of another job", "elsewhere", made(("alice", 1), ("other job", 0))),
        ("a frame of another network", "elsewhere", made(("alice", 1), ("other network", 0))),
        ("an entry that is not there", "index", made(("alice", 2), ("bob", 1))),
        ("a claim is no vote", "no vote", made(("alice", 0), ("bob", 1))),
        ("a vote on another unit", "other vote", made(("alice", 1), ("bob", 0))),
        ("a vote for another digest", "other vote", made(("alice", 1), ("carol", 0))),
        ("the publisher's vote", "publisher", made(("alice", 1), ("publisher", 0))),
    ]  # fmt: skip
    yield {
        "about": "one job, its frames, and certificates that hold or do not",
        "manifest": encode(own).hex(),
        "job": JOB.hex(),
        "frames": [encode(one).hex() for one in written.values()],
        "hashes": sorted(one.hex() for one in names.values()),
        "certificates": [
            {"about": about, "verdict": verdict, **hashed(encode(one))}
            for about, verdict, one in cases
        ],
    }


def reputation() -> Iterable[Case]:
    for agreed, contradicted in (
        (0, 0), (1, 0), (0, 1), (0, 2), (1, 3), (1, 4), (2, 6), (2, 5), (5, 12), (100, 0), (29, 68),
        (29, 69), (299_999, 699_998), (299_999, 699_999),
    ):  # fmt: skip
        value = Fraction(agreed + 1, agreed + contradicted + 2)
        yield {
            "about": f"{agreed} agreed, {contradicted} contradicted",
            "agreed": agreed,
            "contradicted": contradicted,
            "score": [value.numerator, value.denominator],
            "votes": has_vote(Record(agreed, contradicted)),
        }


def versions() -> Iterable[Case]:
    for version, minimum in (
        ("1.32.0", "1.32.0"), ("1.32.0", "1.32.1"), ("1.32.1", "1.32.0"), ("1.32", "1.32.0"),
        ("1.32.0", "1.32"), ("1.32.0", "1"), ("1.9.0", "1.10.0"), ("1.10.0", "1.9.0"),
        ("2.0", "1.999999.999999.999999"), ("1.32.0.1", "1.32.0"), ("1.32.0", "1.32.0.1"),
        ("1.32.0.0.9", "1.32.0.1"), ("1.32.0rc1", "1.32.0"), ("1.32.0.dev20260101", "1.32.0"),
        ("1.32.0.dev20260101", "1.32.0.1"), ("1.32.0+cpu", "1.32"), ("1.32rc1", "1.32.0"),
        ("1.1234567890123", "1.999999"), ("01.032.0", "1.32"), ("1..5", "1.1"), ("1.", "1"),
        ("v1.32.0", "0"), (" 1.32.0", "0"), ("", "0"), ("unknown", "0.0"), ("0", "0.0"),
        ("\u0661.32", "0"),
    ):  # fmt: skip
        fits = version_at_least(version, minimum)
        yield {
            "about": f"{version!a}, asked for {minimum}",
            "version": version,
            "minimum": minimum,
            "fits": fits,
        }
