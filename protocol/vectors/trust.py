"""Vectors of commitments, sortition, trust snapshots, evidence and reputation."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec
from canonical import untagged
from samples import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    ERIN,
    ID,
    JOB,
    MALLORY,
    MANIFEST,
    NETWORK,
    OTHER_NETWORK,
    PUBLISHER,
    PUZZLE_NETWORK,
    SALT,
    SNAPSHOT,
    frame,
)

from p2pfleet.core.errors import Accept
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, sha256
from p2pfleet.core.model.network import network_id, network_terms
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules import commitment as committing
from p2pfleet.core.rules import evidence, sortition
from p2pfleet.core.rules.admission import judge_snapshot
from p2pfleet.core.rules.reputation import moved, served
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Claim,
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Reveal,
    RevealItem,
    VoteRef,
)
from p2pfleet.core.wire.verified import VerifiedFrame
from p2pfleet.runtime.signing import Signer

Case = dict[str, Any]
SEED = sha256(b"p2pfleet vectors: a seed")
ONE, TWO = Digest(sha256(b"one")), Digest(sha256(b"two"))


def commitments() -> Iterable[Case]:
    for about, unit, attempt, who, seed, output in (
        ("an output", 3, 0, ALICE, SEED, b"an output"),
        ("the same of another peer", 3, 0, BOB, SEED, b"an output"),
        ("the same for another unit", 4, 0, ALICE, SEED, b"an output"),
        ("the same in another attempt", 3, 1, ALICE, SEED, b"an output"),
        ("the same with another seed", 3, 0, ALICE, bytes(32), b"an output"),
        ("another output", 3, 0, ALICE, SEED, b"an outpuT"),
        ("the last unit there can be, in the last attempt", 999_999, 255, ALICE, SEED, b"x"),
        ("nothing", 0, 0, ALICE, SEED, b""),
    ):
        yield {
            "about": about,
            "network": ID.hex(),
            "job": JOB.hex(),
            "unit": unit,
            "attempt": attempt,
            "peer": who.peer.hex(),
            "seed": seed.hex(),
            "output": output.hex(),
            "seed_hash": committing.seed_hash(seed).hex(),
            "nonce": committing.nonce(seed, JOB, unit, attempt).hex(),
            "commitment": committing.commitment(
                ID, JOB, unit, attempt, who.peer, seed, output
            ).hex(),
        }


def drawing() -> Iterable[Case]:
    peers = [one.peer for one in (ALICE, BOB, CAROL, DAVE, ERIN, MALLORY)]
    for crowd, wanted, step_ms in (
        (1, 1, 2_000), (4, 1, 2_000), (5, 1, 2_000), (30, 2, 2_000), (1_000, 3, 500),
        (1_000_000, 1, 100), (3, 64, 3_600_000), (1_000_000, 64, 2_000),
    ):  # fmt: skip
        unit = crowd % 1_000
        terms = {"crowd": crowd, "wanted": wanted, "step_ms": step_ms}
        yield {
            "about": f"a crowd of {crowd}, {wanted} wanted, doubling every {step_ms} ms",
            "salt": SALT.hex(),
            "unit": unit,
            **terms,
            "doublings": sortition.doublings(crowd, wanted),
            "peers": [
                [
                    peer.hex(),
                    str(sortition.ticket(SALT, unit, peer)),
                    sortition.eligible_after_ms(SALT, unit, peer, **terms, known=True),
                    sortition.eligible_after_ms(SALT, unit, peer, **terms, known=False),
                ]
                for peer in peers
            ],
        }
    for committed, lapsed in (
        (0, 0), (1, 0), (10, 0), (2_046, 0), (2_047, 0), (100_000, 0), (0, 1), (0, 2), (0, 3),
        (10, 1), (10, 3), (2_046, 12), (2_046, 13), (2_046, 1_000),
    ):  # fmt: skip
        yield {
            "about": f"{committed} committed, {lapsed} lapsed",
            "committed": committed,
            "lapsed": lapsed,
            "allowance": sortition.allowance(committed, lapsed),
        }


def snapshots() -> Iterable[Case]:
    """``known``: the number of the snapshot that weighed votes before, -1 without one."""
    replace = msgspec.structs.replace
    here = network_id(PUZZLE_NETWORK)
    elsewhere = replace(SNAPSHOT, network=network_id(OTHER_NETWORK))
    puzzling = replace(SNAPSHOT, network=here)
    bobs = replace(puzzling, publisher=BOB.peer)
    for about, verdict, weighs, signer, body, network, known in (
        ("the first", "accept", True, PUBLISHER, SNAPSHOT, NETWORK, -1),
        ("a newer one", "accept", True, PUBLISHER, SNAPSHOT, NETWORK, 6),
        ("the same again", "accept", False, PUBLISHER, SNAPSHOT, NETWORK, 7),
        ("an older one", "accept", False, PUBLISHER, SNAPSHOT, NETWORK, 8),
        ("number 0, the first", "accept", True, PUBLISHER, replace(SNAPSHOT, number=0), NETWORK,
         -1),
        ("of another class of models", "accept", False, PUBLISHER,
         replace(SNAPSHOT, model_class="vision"), NETWORK, -1),
        ("of another publisher", "accept", False, BOB, replace(SNAPSHOT, publisher=BOB.peer),
         NETWORK, -1),
        ("that knows nobody", "accept", True, PUBLISHER, replace(SNAPSHOT, records=()), NETWORK,
         -1),
        ("of another network", "reject network", True, PUBLISHER, elsewhere, NETWORK, -1),
        ("by a key that fits", "accept", True, PUBLISHER, puzzling, PUZZLE_NETWORK, -1),
        ("by a key that does not fit", "reject puzzle", False, BOB, bobs, PUZZLE_NETWORK, -1),
    ):  # fmt: skip
        found = judge_snapshot(body, network_terms(network))
        assert isinstance(found, Accept) == (verdict == "accept"), about
        sealed = signer.seal(body)
        yield {
            "about": about,
            "manifest": encode(PUBLISHER.seal(MANIFEST)).hex(),
            "job": JOB.hex(),
            "snapshot": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "network": untagged(network),
            "known": known,
            "verdict": verdict,
            "weighs": weighs,
        }


# ---- evidence --------------------------------------------------------------------------------


def _written(signer: Signer, *entries: Entry, **changes: Any) -> VerifiedFrame:
    body = msgspec.structs.replace(frame(signer, entries), **changes)
    sealed = signer.seal(body)
    return VerifiedFrame(sealed, FrameHash(sealed.hash), body)


def _reveal(digest: Digest, unit: int = 3, attempt: int = 0) -> Reveal:
    item = RevealItem(unit, attempt, digest, 1)
    return Reveal(FrameHash(bytes(32)), 0, SEED, (item,), ())


def proofs() -> Iterable[Case]:
    ref = VoteRef(FrameHash(bytes(32)), 0)
    first = _written(ALICE, _reveal(ONE))
    endorsed = _written(ALICE, Endorse(3, 1, ref, ONE))
    twice = _written(ALICE, _reveal(ONE), _reveal(TWO))
    items = (CommitItem(3, 0, bytes(32)), CommitItem(4, 0, bytes(32)))
    commits = _written(ALICE, Claim((3,)), Commit(committing.seed_hash(SEED), items))
    again = _written(ALICE, Commit(committing.seed_hash(bytes(32)), items), sequence=1)

    def opening(*units: int, index: int = 1, seed: bytes = SEED, signer: Signer = ALICE,
                **changes: Any) -> VerifiedFrame:  # fmt: skip
        opened = tuple(RevealItem(unit, 0, ONE, 1) for unit in units)
        reveal = Reveal(commits.hash, index, seed, opened, ())
        return _written(signer, reveal, **{"sequence": 1, **changes})

    for about, fault, one, two in (
        ("two digests for one unit", "answers", first, _written(ALICE, _reveal(TWO), sequence=1)),
        ("two frames of one number", "answers", first, _written(ALICE, _reveal(TWO))),
        ("two endorsements in one attempt", "answers", endorsed,
         _written(ALICE, Endorse(3, 1, ref, TWO), sequence=1)),
        ("two digests in one frame", "answers", twice, twice),
        ("the same digest twice", "", first, _written(ALICE, _reveal(ONE), sequence=1)),
        ("one frame twice", "", first, first),
        ("another unit", "", first, _written(ALICE, _reveal(TWO, 4), sequence=1)),
        ("another attempt", "", first, _written(ALICE, _reveal(TWO, 3, 1), sequence=1)),
        ("another incarnation", "", first, _written(ALICE, _reveal(TWO), incarnation=9)),
        ("another author", "", first, _written(BOB, _reveal(TWO), sequence=1)),
        ("another job", "", first, _written(ALICE, _reveal(TWO), job=JobId(bytes(32)))),
        ("another network", "", first, _written(ALICE, _reveal(TWO), network=bytes(32))),
        ("an endorsement of another digest", "", first,
         _written(ALICE, Endorse(3, 0, ref, TWO), sequence=1)),
        ("a reveal of a claim in a later life, the reveal first", "no commitment",
         opening(3, 4, index=0, incarnation=2**53 - 1, sequence=0), commits),
        ("two commitments alone", "", commits, again),
        ("a reveal of what was committed to", "", commits, opening(3, 4)),
        ("a reveal with another seed", "seed", commits, opening(3, 4, seed=bytes(32))),
        ("a reveal with another seed in a later life", "seed", commits,
         opening(3, 4, seed=bytes(32), incarnation=2**53 - 1, sequence=0)),
        ("a reveal of fewer units", "units", commits, opening(3)),
        ("a reveal of other units", "units", commits, opening(3, 5)),
        ("a reveal in another order", "units", commits, opening(4, 3)),
        ("a reveal of a claim", "no commitment", commits, opening(3, 4, index=0)),
        ("a reveal of an entry that is not there", "no commitment", commits,
         opening(3, 4, index=2)),
        ("a reveal of another's commitment", "", commits, opening(3, signer=BOB)),
        ("the reveal first", "seed", opening(3, 4, seed=bytes(32)), commits),
    ):  # fmt: skip
        assert bool(evidence.fault(one, two)) == bool(fault), about
        yield {
            "about": about,
            "first": encode(one.sealed).hex(),
            "second": encode(two.sealed).hex(),
            "hashes": [one.hash.hex(), two.hash.hex()],
            "fault": fault,
        }


# ---- reputation ------------------------------------------------------------------------------


def records() -> Iterable[Case]:
    for about, moves in (
        ("a newcomer", []),
        ("needed for the certificate", ["matched"]),
        ("not needed", ["confirmed"]),
        ("audited", ["audited"]),
        ("a ringer", ["ringer"]),
        ("contradicted once", ["contradicted"]),
        ("contradicted twice", ["contradicted", "contradicted"]),
        ("back again", ["contradicted", "failed audit", "matched"]),
        ("twenty checks", ["confirmed"] * 20),
        ("caught after fifty", ["ringer"] * 50 + ["failed ringer"]),
        ("caught, and on from nothing", ["audited"] * 9 + ["false commitment"] + ["audited"] * 3),
        ("a thousand checks", ["confirmed"] * 1_000),
        ("matched a thousand times", ["matched"] * 1_000),
        ("wrong in seven of ten", ["contradicted"] * 7 + ["matched"] * 2),
        ("wrong in more", ["contradicted"] * 8 + ["matched"] * 2),
    ):
        record = Record()
        for move in moves:
            record = moved(record, move)
        value = Fraction(record.agreed + 1, record.agreed + record.contradicted + 2)
        yield {
            "about": about,
            "moves": _runs(moves),
            "record": [record.agreed, record.contradicted, record.milli],
            "checks": record.checks,
            "score": [value.numerator, value.denominator],
            "served": served(record),
        }


def _runs(moves: list[str]) -> list[list[Any]]:
    """The same moves as [kind, how often]."""
    found: list[list[Any]] = []
    for move in moves:
        if found and found[-1][0] == move:
            found[-1][1] += 1
        else:
            found.append([move, 1])
    return found
