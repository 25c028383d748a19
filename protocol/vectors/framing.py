"""Vectors of ``frames.md``: which frames of a job are taken, and how they are counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from canonical import untagged, verdict_text
from samples import (
    ALICE,
    BLOBS,
    JOB,
    MANIFEST,
    NETWORK,
    OTHER_NETWORK,
    PUBLISHER,
    REF,
    REVEAL,
    RINGERS,
    frame,
)

from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import (
    Digest,
    FrameHash,
    PeerId,
    sha256,
)
from p2pfleet.core.model.job import Trust
from p2pfleet.core.model.network import network_id, network_terms
from p2pfleet.core.rules import admission
from p2pfleet.core.rules.shards import units_of
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Audit,
    AuthorPosition,
    Claim,
    Commit,
    CommitItem,
    Drop,
    Endorse,
    Entry,
    Failure,
    Frame,
    Keep,
    Manifest,
    OpenRingers,
    Release,
    Reveal,
    RevealItem,
    Sealed,
    job_id,
)
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.runtime.signing import Signer

Case = dict[str, Any]


def job_frames() -> Iterable[Case]:
    """Frames of a job with ringers and a tolerance, and of one that asks for equal bytes."""
    replace = msgspec.structs.replace
    last, most = MANIFEST.units - 1, MANIFEST.limits.output_bytes
    ringers = Digest(admission.ringers_hash(RINGERS))
    exact = replace(MANIFEST, trust=Trust(ringers=ringers))
    soft = replace(exact, comparison=Tolerance())
    stray = OpenRingers(RINGERS.secret, RINGERS.ringers[::-1])
    digest = RINGERS.ringers[0].digest

    def reveal(*units: int, length: int = 1, attempts: tuple[int, ...] = (0,)) -> Reveal:
        items = tuple(
            RevealItem(unit, attempt, digest, length) for unit in units for attempt in attempts
        )
        return Reveal(REVEAL.commit, 0, REVEAL.seed, items, ())

    def commit(*units: int, attempts: tuple[int, ...] = (0,)) -> Commit:
        items = tuple(
            CommitItem(unit, attempt, bytes(32)) for unit in units for attempt in attempts
        )
        return Commit(bytes(32), items)

    for about, verdict, manifest, signer, entries in (
        ("the last unit", "accept", exact, ALICE, [Claim((0, last))]),
        ("commitments and reveals", "accept", exact, ALICE, [commit(0, last), reveal(last, 0)]),
        ("one unit in two attempts", "accept", exact, ALICE,
         [commit(3, attempts=(0, 1)), reveal(3, attempts=(0, 1))]),
        ("an endorsement", "accept", soft, ALICE, [Endorse(3, 0, REF, digest)]),
        ("the publisher's word", "accept", exact, PUBLISHER, [Audit(last, digest), RINGERS]),
        ("blobs kept and dropped", "accept", exact, ALICE, [Keep(BLOBS[:2]), Drop(BLOBS[:1])]),
        ("a blob kept by the publisher", "reject publisher", exact, PUBLISHER, [Keep(BLOBS[:1])]),
        ("by the publisher", "reject publisher", exact, PUBLISHER, [Claim((0,))]),
        ("a vote of the publisher", "reject publisher", exact, PUBLISHER, [reveal(0)]),
        ("an audit by somebody else", "reject publisher", exact, ALICE, [Audit(3, digest)]),
        ("ringers opened by somebody else", "reject publisher", exact, ALICE, [RINGERS]),
        ("claims a unit that is not there", "reject unit", exact, ALICE, [Claim((0, last + 1))]),
        ("releases one", "reject unit", exact, ALICE, [Release((last + 1,))]),
        ("commits to one", "reject unit", exact, ALICE, [Claim((0,)), commit(0, last + 1)]),
        ("reveals one", "reject unit", exact, ALICE, [Claim((0,)), reveal(0, last + 1)]),
        ("endorses one", "reject unit", soft, ALICE, [Endorse(last + 1, 0, REF, digest)]),
        ("fails one", "reject unit", exact, ALICE, [Failure(last + 1, 0, "model: no")]),
        ("audits one", "reject unit", exact, PUBLISHER, [Audit(last + 1, digest)]),
        ("an output of the largest size", "accept", exact, ALICE, [reveal(0, length=most)]),
        ("an output of a byte more", "reject length", exact, ALICE, [reveal(0, length=most + 1)]),
        ("one unit twice in an attempt", "reject twice", exact, ALICE, [reveal(3, 4, 3)]),
        ("commits to it twice", "reject twice", exact, ALICE, [commit(3, 3)]),
        ("an endorsement where bytes count", "reject endorsement", exact, ALICE,
         [Endorse(3, 0, REF, digest)]),
        ("other ringers", "reject ringers", exact, PUBLISHER, [stray]),
        ("ringers of a job without any", "reject ringers", MANIFEST, PUBLISHER, [RINGERS]),
    ):  # fmt: skip
        yield _frame(f"frame: {about}", verdict, manifest, signer, entries)
    parted = replace(exact, shards=3)
    first, second = (
        units_of(parted.salt, parted.units, 3, shard)[0] for shard in (0, 1)
    )  # fmt: skip
    for about, verdict, shard, signer, entries in (
        ("units of its shard", "accept", 1, ALICE, [Claim((second,)), commit(second)]),
        ("a unit of another", "reject astray", 1, ALICE, [Claim((second, first))]),
        ("a commitment to one", "reject astray", 0, ALICE, [Claim((first,)), commit(second)]),
        ("a word on one", "reject astray", 0, PUBLISHER, [Audit(second, digest)]),
        ("ringers wherever they are", "accept", 2, PUBLISHER, [RINGERS]),
        ("blobs kept", "accept", 2, ALICE, [Keep(BLOBS[:1])]),
        ("a shard that is not there", "reject shard", 3, ALICE, [Claim((first,))]),
        ("another unit and another shard", "reject shard", 4_095, ALICE, [Claim((last + 1,))]),
    ):  # fmt: skip
        changed = {"shard": shard}
        yield _frame(f"frame of a shard: {about}", verdict, parted, signer, entries, changed)
    elsewhere = {"network": network_id(OTHER_NETWORK)}
    yield _frame("frame: another network", "reject network", exact, ALICE, [Claim((0,))], elsewhere)


def _frame(
    about: str,
    verdict: str,
    manifest: Manifest,
    signer: Signer,
    entries: list[Entry],
    changes: Case | None = None,
) -> Case:
    own = PUBLISHER.seal(manifest)
    written = msgspec.structs.replace(frame(signer, entries), job=job_id(own), **(changes or {}))
    found = admission.judge_frame(written, manifest, network_terms(NETWORK))
    assert verdict_text(found, verdict.partition(" ")[2]) == verdict, about
    sealed = signer.seal(written)
    return {
        "about": about,
        "judged": "frame",
        "manifest": encode(own).hex(),
        "job": job_id(own).hex(),
        "network": untagged(NETWORK),
        "sealed": encode(sealed).hex(),
        "hash": sealed.hash.hex(),
        "verdict": verdict,
    }


def frames() -> Iterable[Case]:
    """Arrivals are [author, incarnation, first sequence, how many, entries each, verdict]."""
    yield _log("in order", 8, [["A", 1, 0, 3, 1, "accept"]], [["B", []], ["A", []]])
    yield _log(
        "a gap, filled later",
        8,
        [
            ["A", 1, 2, 1, 1, "accept"],
            ["A", 1, 2, 1, 1, "ignore known"],
            ["A", 1, 0, 1, 1, "accept"],
            ["A", 1, 0, 1, 1, "ignore known"],
            ["A", 1, 1, 1, 1, "accept"],
            ["A", 1, 2, 1, 1, "ignore known"],
        ],
        [["B", [["A", 1, 1]]], ["B", [["A", 1, 3]]], ["B", [["A", 1, 9]]]],
    )
    yield _log(
        "what lies ahead is not offered",
        8,
        [["A", 1, 0, 1, 1, "accept"], ["A", 1, 5, 1, 1, "accept"]],
        [["B", []], ["B", [["A", 1, 1]]]],
    )
    yield _log(
        "1024 ahead, and one more",
        8,
        [["A", 1, 1024, 1, 1, "accept"], ["A", 1, 1025, 1, 1, "ignore ahead"]],
        [],
    )
    yield _log(
        "incarnations count for themselves",
        8,
        [["A", 1, 0, 2, 1, "accept"], ["A", 2, 0, 1, 1, "accept"], ["B", 1, 0, 1, 1, "accept"]],
        [["C", [["A", 1, 2]]], ["B", []]],
    )
    yield _log(
        "an author's budget: 256 and 24 a unit, over all incarnations",
        2,
        [
            ["A", 1, 0, 1, 200, "accept"],
            ["A", 2, 0, 1, 105, "ignore budget"],
            ["A", 2, 0, 1, 104, "accept"],
            ["A", 2, 1, 1, 1, "ignore budget"],
            ["B", 1, 0, 1, 1, "accept"],
        ],
        [],
    )
    yield _log(
        "and 128 for every lease time that the job has lasted",
        1,
        [["A", 1, 0, 1, 536, "accept"], ["A", 1, 1, 1, 1, "ignore budget"]],
        [],
        leases=2,
    )
    yield _log(
        "but a million for lease times at most",
        1,
        [["A", 1, 0, 1, 1_000_280, "accept"], ["A", 1, 1, 1, 1, "ignore budget"]],
        [],
        leases=7_813,
    )
    yield _log(
        "1024 authors and their incarnations, and one more",
        8,
        [
            *(["A", one, 0, 1, 1, "accept"] for one in range(1000)),
            *(["B", one, 0, 1, 1, "accept"] for one in range(24)),
            ["C", 1, 0, 1, 1, "ignore authors"],
            ["A", 1000, 0, 1, 1, "ignore authors"],
            ["B", 0, 1, 1, 1, "accept"],
        ],
        [],
        leases=10,
    )
    yield _log(
        "at most 128 frames an answer, authors in order",
        100,
        [["A", 1, 0, 100, 1, "accept"], ["B", 1, 0, 100, 1, "accept"]],
        [["C", []], ["C", [["A", 1, 100]]], ["C", [["A", 1, 50], ["B", 1, 99]]]],
    )


def _log(about: str, units: int, arrivals: list[Any], asked: list[Any], leases: int = 0) -> Case:
    log = FrameLog(JOB)
    reasons = {
        "a frame of this number is here already": "ignore known",
        "too far ahead of what is here": "ignore ahead",
        "too many authors": "ignore authors",
        "its author has written more than this job can need": "ignore budget",
        None: "accept",
    }
    for author, incarnation, first, times, entries, verdict in arrivals:
        for sequence in range(first, first + times):
            body = Frame(
                MANIFEST.network, JOB, _label(author), incarnation, sequence,
                (Claim((0,) * entries),),
            )  # fmt: skip
            name = FrameHash(sha256(f"{author} {incarnation} {sequence}".encode()))
            given = VerifiedFrame(Sealed(b"-", body.author, bytes(64)), name, body)
            assert reasons[log.admit(given, units, leases)] == verdict, (about, author, sequence)
    summaries = []
    for peer, theirs in asked:
        given = tuple(AuthorPosition(_label(author), one, at) for author, one, at in theirs)
        replies = [
            [_unlabel(one.author), one.incarnation, one.first, one.end]
            for one in log.missing(_label(peer), given)
        ]
        summaries.append([peer, theirs, replies])
    return {
        "about": about,
        "units": units,
        "leases": leases,
        "arrivals": arrivals,
        "positions": [
            [_unlabel(one.author), one.incarnation, one.next_sequence] for one in log.positions()
        ],
        "summaries": summaries,
    }


def _label(author: str) -> PeerId:
    return PeerId(author.encode() * 32)


def _unlabel(peer: PeerId) -> str:
    return peer[:1].decode()
