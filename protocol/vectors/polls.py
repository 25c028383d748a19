"""Vectors of ``certificates.md``: certificates that hold, and every way in which one does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from canonical import hashed
from samples import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    ERIN,
    ID,
    ISSUED_MS,
    JOB,
    MALLORY,
    MANIFEST,
    OTHER_NETWORK,
    PUBLISHER,
)

from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId, sha256
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.model.network import network_id
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules.commitment import commitment, seed_hash
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Audit,
    Certificate,
    Claim,
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Frame,
    Manifest,
    PeerChecks,
    Reveal,
    RevealItem,
    Sealed,
    Snapshot,
    VoteRef,
    job_id,
)
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from p2pfleet.runtime.signing import Signer

Case = dict[str, Any]
SURE = Confidence(1_000_000, 200_000, 16)
GOOD, BAD, CLOSE = b"good", b"bad", b"close"
UNIT = 3


class Poll:
    """One job and what was written about its unit 3."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.sealed = PUBLISHER.seal(manifest)
        self.job = job_id(self.sealed)
        self.frames: dict[FrameHash, VerifiedFrame] = {}
        self.cases: list[tuple[str, str, Certificate, bytes | None]] = []

    def write(self, signer: Signer, *entries: Entry, **changes: Any) -> VerifiedFrame:
        sequence = sum(one.author == signer.peer for one in self.frames.values())
        body = Frame(ID, self.job, signer.peer, ISSUED_MS + 5, sequence, entries)
        body = msgspec.structs.replace(body, **changes)
        sealed = signer.seal(body)
        made = VerifiedFrame(sealed, FrameHash(sealed.hash), body)
        self.frames[made.hash] = made
        return made

    @staticmethod
    def seed(signer: Signer, attempt: int) -> bytes:
        return sha256(b"p2pfleet vectors: seed" + signer.peer + bytes([attempt]))

    def commit(
        self, signer: Signer, output: bytes, attempt: int = 0, units: tuple[int, ...] = (UNIT,)
    ) -> VerifiedFrame:
        seed = self.seed(signer, attempt)
        items = tuple(
            CommitItem(
                unit, attempt, commitment(ID, self.job, unit, attempt, signer.peer, seed, output)
            )
            for unit in units
        )
        return self.write(signer, Claim(units), Commit(seed_hash(seed), items))

    def reveal(
        self, signer: Signer, committed: VerifiedFrame, output: bytes,
        seen: Sequence[VerifiedFrame], **changes: Any,
    ) -> VoteRef:  # fmt: skip
        entry = committed.frame.entries[1]
        assert isinstance(entry, Commit)
        digest = Digest(sha256(output))
        items = tuple(RevealItem(one.unit, one.attempt, digest, len(output)) for one in entry.items)
        names = tuple(sorted({one.hash for one in seen}))
        seed = self.seed(signer, entry.items[0].attempt)
        made = msgspec.structs.replace(Reveal(committed.hash, 1, seed, items, names), **changes)
        return VoteRef(self.write(signer, made).hash, 0, 0)

    def vote(
        self, signers: Sequence[Signer], output: bytes = GOOD, attempt: int = 0
    ) -> list[VoteRef]:
        commits = [self.commit(one, output, attempt) for one in signers]
        return [
            self.reveal(one, made, output, commits)
            for one, made in zip(signers, commits, strict=True)
        ]

    def certificate(
        self, votes: Sequence[VoteRef], against: Sequence[VoteRef] = (),
        audit: VoteRef | None = None, **changes: Any,
    ) -> Certificate:  # fmt: skip
        made = Certificate(
            self.job, UNIT, Digest(sha256(GOOD)), self.manifest.trust.snapshot, tuple(votes),
            tuple(against), audit,
        )  # fmt: skip
        return msgspec.structs.replace(made, **changes)

    def case(
        self, about: str, verdict: str, made: Certificate, output: bytes | None = None
    ) -> None:
        self.cases.append((about, verdict, made, output))

    def told(self, about: str, snapshots: Sequence[Sealed] = ()) -> Case:
        """The whole poll as a case, checked by p2pfleet's own rule."""
        known = {}
        for one in snapshots:
            body = msgspec.msgpack.decode(one.body, type=Snapshot)
            known[Digest(one.hash)] = VerifiedSnapshot(one, Digest(one.hash), body)
        for name, verdict, made, output in self.cases:
            why = rule.check_certificate(self.manifest, self.job, made, self.frames, known, output)
            assert (why is None) == (verdict == "holds"), (name, why)
        return {
            "about": about,
            "manifest": encode(self.sealed).hex(),
            "job": self.job.hex(),
            "frames": [encode(one.sealed).hex() for one in self.frames.values()],
            "hashes": sorted(one.hex() for one in self.frames),
            "snapshots": [encode(one).hex() for one in snapshots],
            "snapshot_hashes": sorted(one.hex() for one in known),
            "certificates": [
                {
                    "about": name,
                    "verdict": verdict,
                    **hashed(encode(made)),
                    **({} if output is None else {"output": output.hex()}),
                }
                for name, verdict, made, output in self.cases
            ],
        }


def certificates() -> Iterable[Case]:
    yield _by_quorum()
    yield _by_confidence()
    yield _without_snapshot()
    yield _by_endorsement()
    yield _by_the_publishers_word()


def _by_quorum() -> Case:
    poll = Poll(MANIFEST)
    alice, bob, carol = poll.vote([ALICE, BOB, CAROL])
    dave, erin = poll.vote([DAVE, ERIN], BAD)
    (later,) = poll.vote([MALLORY], attempt=1)
    (again,) = poll.vote([ALICE], attempt=1)
    own = poll.vote([PUBLISHER])[0]
    (elsewhere,) = [
        poll.reveal(MALLORY, made, GOOD, [made])
        for made in [poll.commit(MALLORY, GOOD, 2, (4,))]
    ]  # fmt: skip
    stray = poll.write(MALLORY, Claim((UNIT,)), job=JobId(sha256(b"another job")))
    foreign = poll.write(MALLORY, Claim((UNIT,)), network=network_id(OTHER_NETWORK))
    made = poll.certificate
    poll.case("two voters", "holds", made([alice, bob]), GOOD)
    poll.case("in any order, without the output", "holds", made([bob, alice]))
    poll.case("a third vote does no harm", "holds", made([alice, bob, carol]), GOOD)
    poll.case("one vote against", "holds", made([alice, bob], [dave]))
    poll.case("two votes against take a third one", "votes", made([alice, bob], [dave, erin]))
    poll.case("three are more than two", "holds", made([alice, bob, carol], [dave, erin]))
    poll.case("a later attempt joins", "holds", made([alice, later]), GOOD)
    poll.case("one vote", "votes", made([alice]))
    poll.case("no vote", "votes", made([]))
    poll.case("one vote twice", "twice", made([alice, alice]))
    poll.case("one voter in two attempts", "twice", made([alice, again]))
    poll.case("a voter for and against", "twice", made([alice, bob], [again]))
    poll.case("the publisher's vote", "publisher", made([alice, own]))
    poll.case("a vote for another digest", "other vote", made([alice, dave]))
    poll.case("a vote for it listed against it", "against", made([alice, bob], [carol]))
    poll.case("another job", "job", made([alice, bob], job=JobId(bytes(32))))
    poll.case("a unit that is not there", "unit", made([alice, bob], unit=MANIFEST.units))
    poll.case("another unit", "other unit", made([alice, bob], unit=4))
    poll.case("a vote on another unit", "other unit", made([alice, elsewhere]))
    poll.case("a trust snapshot that is not there", "snapshot",
              made([alice, bob], snapshot=Digest(bytes(32))))  # fmt: skip
    lost = VoteRef(FrameHash(bytes(32)), 0)
    poll.case("a frame is missing", "frame", made([alice, lost]))
    poll.case("a frame of another job", "elsewhere", made([alice, VoteRef(stray.hash, 0)]))
    poll.case("a frame of another network", "elsewhere", made([alice, VoteRef(foreign.hash, 0)]))
    poll.case("an entry that is not there", "index", made([alice, VoteRef(bob.frame, 1)]))
    poll.case("an item that is not there", "item", made([alice, VoteRef(bob.frame, 0, 1)]))
    claim = next(iter(poll.frames))
    poll.case("a claim is no vote", "no vote", made([bob, VoteRef(claim, 0)]))
    poll.case("a commitment is no vote", "no vote", made([bob, VoteRef(claim, 1)]))
    _broken_reveals(poll, bob)
    return poll.told("a quorum of two, bytes equal")


def _broken_reveals(poll: Poll, other: VoteRef) -> None:
    """Reveals that open nothing, or not what was committed to, in further attempts of Mallory's."""
    made = poll.certificate
    first = poll.commit(MALLORY, GOOD, 3)
    theirs = poll.commit(ERIN, GOOD, 3)
    reveal = poll.frames[other.frame].frame.entries[0]
    assert isinstance(reveal, Reveal)
    for about, changes in (
        ("another seed than committed to", {"seed": bytes(32)}),
        ("another's commitment", {"commit": theirs.hash}),
        ("a claim as commitment", {"index": 0}),
    ):
        vote = poll.reveal(MALLORY, first, GOOD, [first], **changes)
        poll.case(about, "commitment", made([other, vote]))
    items = (RevealItem(UNIT, 4, Digest(sha256(GOOD)), len(GOOD)),)
    vote = poll.reveal(MALLORY, first, GOOD, [first], items=items)
    poll.case("other units than committed to", "commitment", made([other, vote]))
    vote = poll.reveal(MALLORY, first, GOOD, [first], index=9)
    poll.case("a commitment that is not there", "index", made([other, vote]))
    vote = poll.reveal(MALLORY, first, GOOD, [first], commit=FrameHash(bytes(32)))
    poll.case("a commitment whose frame is missing", "frame", made([other, vote]))
    guessed = poll.commit(MALLORY, b"guessed", 5)
    vote = poll.reveal(MALLORY, guessed, GOOD, [guessed])
    poll.case("committed to other bytes, without the output", "holds", made([other, vote]))
    poll.case("committed to other bytes", "opened", made([other, vote]), GOOD)
    early = poll.commit(CAROL, GOOD, 6)
    late = poll.commit(DAVE, GOOD, 6)
    seen = poll.reveal(CAROL, early, GOOD, [early])
    copied = poll.reveal(DAVE, late, GOOD, [early, late])
    poll.case("revealed before another was made", "closed", made([seen, copied]))
    poll.case("each alone may join others", "holds", made([other, copied]), GOOD)


def _snapshot(known: dict[PeerId, int], signer: Signer = PUBLISHER, **changes: Any) -> Sealed:
    records = tuple(PeerChecks(peer, known[peer]) for peer in sorted(known))
    body = Snapshot(ID, signer.peer, "any", 1, ISSUED_MS, records)
    return signer.seal(msgspec.structs.replace(body, **changes))


def _by_confidence() -> Case:
    first = _snapshot({ALICE.peer: 20, BOB.peer: 20, CAROL.peer: 300})
    later = _snapshot({ALICE.peer: 300, BOB.peer: 300}, number=2)
    stolen = _snapshot({ALICE.peer: 300, BOB.peer: 300}, MALLORY)
    strange = _snapshot({ALICE.peer: 300, BOB.peer: 300}, model_class="vision")
    other = _snapshot({ALICE.peer: 300, BOB.peer: 300}, network=network_id(OTHER_NETWORK))
    trust = Trust(snapshot=Digest(first.hash))
    poll = Poll(msgspec.structs.replace(MANIFEST, stop=SURE, trust=trust))
    alice, bob, carol, dave, erin = poll.vote([ALICE, BOB, CAROL, DAVE, ERIN])
    (mallory,) = poll.vote([MALLORY], BAD)
    made = poll.certificate
    poll.case("two peers with a record", "holds", made([alice, bob]), GOOD)
    poll.case("one of them", "votes", made([alice]))
    poll.case("one of them and a newcomer", "votes", made([alice, dave]))
    poll.case("a longer record and a newcomer", "holds", made([carol, dave]))
    poll.case("newcomers alone", "votes", made([dave, erin]))
    poll.case("newcomers as often as known peers", "holds", made([alice, bob, dave, erin]))
    poll.case("a newcomer against it", "votes", made([alice, bob], [mallory]))
    poll.case("a newcomer against three", "holds", made([alice, bob, carol], [mallory]))
    poll.case("a newcomer against a thin one", "votes", made([carol, dave], [mallory]))
    poll.case("weighed by a later snapshot", "holds",
              made([alice, dave], snapshot=Digest(later.hash)))  # fmt: skip
    poll.case("without the job's snapshot", "snapshot", made([alice, bob], snapshot=None))
    for about, wrong in (
        ("somebody else's snapshot", stolen), ("a snapshot of another class", strange),
        ("a snapshot of another network", other),
    ):  # fmt: skip
        changed = made([alice, bob], snapshot=Digest(wrong.hash))
        poll.case(about, "snapshot", changed)
    snapshots = (first, later, stolen, strange, other)
    return poll.told("theta .999, a fifth faulty, with a trust snapshot", snapshots)


def _without_snapshot() -> Case:
    poll = Poll(msgspec.structs.replace(MANIFEST, stop=Confidence(10_000_000, 200_000, 16)))
    votes = poll.vote([ALICE, BOB, CAROL, DAVE, ERIN])
    (mallory,) = poll.vote([MALLORY], BAD)
    made = poll.certificate
    poll.case("four newcomers", "holds", made(votes[:4]), GOOD)
    poll.case("three newcomers", "votes", made(votes[:3]))
    poll.case("four against one", "votes", made(votes[:4], [mallory]))
    poll.case("five against one", "holds", made(votes, [mallory]))
    return poll.told("a first job: theta .99, a fifth faulty, no trust snapshot")


def _by_endorsement() -> Case:
    poll = Poll(msgspec.structs.replace(MANIFEST, comparison=Tolerance()))
    signers, outputs = (ALICE, BOB, CAROL), (GOOD, CLOSE, BAD)
    commits = [poll.commit(*each) for each in zip(signers, outputs, strict=True)]
    alice, bob, carol = (
        poll.reveal(signer, commit, output, commits)
        for signer, commit, output in zip(signers, commits, outputs, strict=True)
    )
    elsewhere = poll.commit(DAVE, CLOSE, 0, (4,))
    dave = poll.reveal(DAVE, elsewhere, CLOSE, [elsewhere])
    digest = Digest(sha256(GOOD))

    def endorse(signer: Signer, own: VoteRef, unit: int = UNIT) -> VoteRef:
        return VoteRef(poll.write(signer, Endorse(unit, 0, own, digest)).hash, 0)

    good = endorse(BOB, bob)
    made = poll.certificate
    poll.case("a vote and an endorsement", "holds", made([alice, good]), GOOD)
    poll.case("and one against it", "holds", made([alice, good], [carol]), GOOD)
    poll.case("a close answer without endorsement", "other vote", made([alice, bob]))
    poll.case("an endorser against what it endorses", "twice", made([alice, good], [bob]))
    poll.case("an endorsement of another unit", "other unit",
              made([alice, endorse(BOB, bob, 4)]))  # fmt: skip
    poll.case("an endorsement without an own result on the unit", "other unit",
              made([alice, endorse(DAVE, dave)]))  # fmt: skip
    poll.case("an endorsement with another's result", "endorsement",
              made([alice, endorse(DAVE, bob)]))  # fmt: skip
    poll.case("an endorsement with a commitment for a result", "endorsement",
              made([alice, endorse(BOB, VoteRef(commits[1].hash, 1))]))  # fmt: skip
    poll.case("an endorsement with an endorsement for a result", "endorsement",
              made([alice, endorse(BOB, good)]))  # fmt: skip
    poll.case("an endorsement with an item", "item",
              made([alice, VoteRef(good.frame, 0, 1)]))  # fmt: skip
    return poll.told("a quorum of two, within a tolerance")


def _by_the_publishers_word() -> Case:
    poll = Poll(MANIFEST)
    digest = Digest(sha256(GOOD))
    words = poll.write(
        PUBLISHER, Audit(UNIT, digest), Audit(4, digest), Audit(UNIT, Digest(sha256(BAD)))
    )
    others = poll.write(MALLORY, Audit(UNIT, digest))
    (alice,) = poll.vote([ALICE])
    (bob,) = poll.vote([BOB], BAD)
    word = VoteRef(words.hash, 0)
    made = poll.certificate
    poll.case("without any vote", "holds", made([], (), word), GOOD)
    poll.case("beside a vote, against another", "holds", made([alice], [bob], word), GOOD)
    poll.case("on another unit", "audit", made([], (), VoteRef(words.hash, 1)))
    poll.case("for another digest", "audit", made([], (), VoteRef(words.hash, 2)))
    poll.case("somebody else's word", "audit", made([], (), VoteRef(others.hash, 0)))
    poll.case("a vote for a word", "audit", made([], (), alice))
    poll.case("an item of it", "audit", made([], (), VoteRef(words.hash, 0, 1)))
    poll.case("an entry that is not there", "index", made([], (), VoteRef(words.hash, 3)))
    poll.case("a frame that is missing", "frame", made([], (), VoteRef(FrameHash(bytes(32)), 0)))
    poll.case("a vote that is none", "other vote", made([bob], (), word))
    assert poll.job == JOB
    return poll.told("the publisher's own word")
