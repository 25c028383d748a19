"""The certificate rule a second time, written from its chapter and naive on purpose.

It enumerates: every subset of votes instead of a walk through them, every world in which one result
or none is right instead of a formula. And worlds to try both rules on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from random import Random
from typing import Any

import msgspec
from core_samples import NETWORK, PAULA, WALL_MS, manifest, peer, seal
from hypothesis import strategies as st

from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, PeerId, sha256
from p2pfleet.core.model.job import Confidence, Exact, FixedQuorum, StopRule, Trust
from p2pfleet.core.rules.certificate import Ballot
from p2pfleet.core.rules.commitment import commitment, seed_hash
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from tests.votes import Booth

PEERS = [peer(f"peer {number}") for number in range(6)]
OUTPUTS = [b"one", b"two", b"three"]
DIGESTS = [Digest(sha256(output)) for output in OUTPUTS]
UNIT = 3

# ---- naive: which votes count together -------------------------------------------------------


def naive_together(ballots: Sequence[Ballot]) -> bool:
    """One a peer, and everybody of one attempt has seen the commitments of all the others."""
    for one, two in combinations(ballots, 2):
        if one.peer == two.peer:
            return False
        if one.attempt == two.attempt and not (one.commit in two.seen and two.commit in one.seen):
            return False
    return True


def naive_closed(ballots: Sequence[Ballot]) -> list[Ballot]:
    """Of all subsets that count together the one that takes the first in order that it can, then
    the second, and so on: earlier attempts, more checks, lower keys."""
    order = sorted(ballots, key=lambda each: (each.attempt, -each.checks, each.peer))
    best: tuple[bool, ...] = ()
    for size in range(len(order) + 1):
        for chosen in combinations(range(len(order)), size):
            if naive_together([order[at] for at in chosen]):
                taken = tuple(at in chosen for at in range(len(order)))
                best = max(best, taken)
    return [ballot for ballot, taken in zip(order, best, strict=True) if taken]


# ---- naive: whether votes are enough ---------------------------------------------------------


def naive_holds(
    stop: StopRule, votes: Sequence[int], against: Sequence[Sequence[int]], snapshot: bool
) -> bool:
    """The two stop rules, by enumeration."""
    groups = [list(group) for group in against if group]
    if isinstance(stop, FixedQuorum):
        second = max(map(len, groups), default=0)
        return len(votes) >= max(stop.quorum, second + 1)
    known = [checks for checks in votes if checks]
    newcomers = [checks for checks in votes if not checks]
    mine = known + (newcomers[: len(known)] if snapshot else newcomers)
    if not mine or len(mine) + sum(map(len, groups)) > 64:
        return False
    f = Fraction(stop.faulty_ppm, 10**6)
    accepted = Fraction(stop.error_ppb, 10**9)
    independent, common = _worlds([mine, *groups], f), _alike([mine, *groups], f)
    return independent >= 1 - accepted / 2 and common >= 1 - accepted


def _worlds(groups: Sequence[Sequence[int]], f: Fraction) -> Fraction:
    """How likely the first result is right, if all voters err independently."""
    worlds = []
    for truth in range(len(groups) + 1):  # the last: none of them
        chance = Fraction(1)
        for number, group in enumerate(groups):
            for checks in group:
                wrong = f / max(1, checks)
                chance *= 1 - wrong if number == truth else wrong
        worlds.append(chance)
    return worlds[0] / sum(worlds)


def _alike(groups: Sequence[Sequence[int]], f: Fraction) -> Fraction:
    """The same, if the faulty ones lie on the same units."""
    weights = []
    for group in groups:
        passed = max(
            size * min(some)
            for size in range(1, len(group) + 1)
            for some in combinations(group, size)
        )
        least = min(passed, 64)
        lucky = Fraction(least**least, (least + 1) ** least) / (passed + 1)
        weights.append(((1 - f) / f) ** len(group) / lucky)
    return weights[0] / (1 + sum(weights))


# ---- naive: whether a certificate holds ------------------------------------------------------


class Cast:
    """What one vote says, as the chapter reads it; ``None`` where it is none."""

    def __init__(self, world: World, unit: int, ref: ms.VoteRef) -> None:
        self.valid = self.endorses = False
        frame = world.frames.get(ref.frame)
        if frame is None or frame.frame.job != world.job or frame.author == PAULA:
            return
        if ref.index >= len(frame.frame.entries):
            return
        entry = frame.frame.entries[ref.index]
        self.peer = frame.author
        if isinstance(entry, ms.Endorse):
            if world.exact or entry.unit != unit or ref.item:
                return
            own = world.frames.get(entry.own.frame)
            if own is None or own.author != self.peer or entry.own == ref:
                return
            inner = Cast(world, unit, entry.own)
            if not inner.valid or inner.endorses:
                return
            self.__dict__.update(inner.__dict__)
            self.digest, self.endorses = entry.digest, True
            return
        if not isinstance(entry, ms.Reveal) or ref.item >= len(entry.items):
            return
        item = entry.items[ref.item]
        commits = world.frames.get(entry.commit)
        if item.unit != unit or commits is None or commits.author != self.peer:
            return
        if entry.index >= len(commits.frame.entries):
            return
        named = commits.frame.entries[entry.index]
        if not isinstance(named, ms.Commit) or named.seed_hash != seed_hash(entry.seed):
            return
        if [(each.unit, each.attempt) for each in named.items] != [
            (each.unit, each.attempt) for each in entry.items
        ]:
            return
        self.valid = True
        self.digest, self.attempt = item.digest, item.attempt
        self.commit, self.seen = entry.commit, entry.seen
        self.committed, self.seed = named.items[ref.item].commitment, entry.seed


def naive_check(world: World, made: ms.Certificate, output: bytes | None) -> bool:
    if made.job != world.job or not 0 <= made.unit < world.manifest.units:
        return False
    records: Mapping[PeerId, int] = {}
    if made.snapshot is None:
        if world.manifest.trust.snapshot is not None:
            return False
    elif made.snapshot in world.snapshots:
        records = {
            each.peer: each.checks for each in world.snapshots[made.snapshot].snapshot.records
        }
    else:
        return False
    votes = [Cast(world, made.unit, ref) for ref in made.votes]
    against = [Cast(world, made.unit, ref) for ref in made.against]
    if not all(each.valid for each in votes + against):
        return False
    if len({each.peer for each in votes + against}) < len(votes) + len(against):
        return False
    if any(each.digest != made.digest for each in votes):
        return False
    if any(each.digest == made.digest for each in against):
        return False
    for one, two in combinations(votes, 2):
        if one.attempt == two.attempt and not (one.commit in two.seen and two.commit in one.seen):
            return False
    for each in votes:
        if output is not None and not each.endorses:
            opened = commitment(
                NETWORK, world.job, made.unit, each.attempt, each.peer, each.seed, output
            )
            if opened != each.committed:
                return False
    if made.audit is not None:
        frame = world.frames.get(made.audit.frame)
        if frame is None or frame.author != PAULA or made.audit.item:
            return False
        entry = dict(enumerate(frame.frame.entries)).get(made.audit.index)
        return entry == ms.Audit(made.unit, made.digest)
    groups: dict[Digest, list[int]] = {}
    for each in against:
        groups.setdefault(each.digest, []).append(records.get(each.peer, 0))
    mine = [records.get(each.peer, 0) for each in votes]
    return bool(mine) and naive_holds(
        world.manifest.stop, mine, list(groups.values()), made.snapshot is not None
    )


# ---- worlds ----------------------------------------------------------------------------------


class World:
    """A job and everything that was written about it."""

    def __init__(self, stop: StopRule, known: Mapping[PeerId, int] | None, exact: bool) -> None:
        self.exact = exact
        self.snapshots: dict[Digest, VerifiedSnapshot] = {}
        self.snapshot: Digest | None = None
        if known is not None:
            records = tuple(ms.PeerChecks(who, known[who]) for who in sorted(known) if known[who])
            body = ms.Snapshot(NETWORK, PAULA, "any", 1, WALL_MS, records)
            sealed = seal(body)
            self.snapshot = Digest(sealed.hash)
            self.snapshots[self.snapshot] = VerifiedSnapshot(sealed, self.snapshot, body)
        self.manifest = msgspec.structs.replace(
            manifest(),
            stop=stop,
            comparison=Exact() if exact else Tolerance(),
            trust=Trust(snapshot=self.snapshot),
        )
        self.job = JobId(seal(self.manifest).hash)
        self.booth = Booth(NETWORK, self.job, _sealed)
        self.frames = self.booth.frames
        self.refs: list[ms.VoteRef] = []


def _sealed(frame: ms.Frame) -> VerifiedFrame:
    sealed = seal(frame)
    return VerifiedFrame(sealed, FrameHash(sealed.hash), frame)


STOPS = st.one_of(
    st.builds(FixedQuorum, quorum=st.integers(1, 4), replicas_max=st.integers(1, 16)),
    st.builds(
        Confidence,
        error_ppb=st.sampled_from([10**8, 10**7, 10**6, 10**5]),
        faulty_ppm=st.sampled_from([50_000, 200_000, 350_000, 500_000]),
        replicas_max=st.just(16),
    ),
)
CHECKS = st.sampled_from([0, 0, 1, 2, 5, 20, 100, 400])
# Chances have to be what they say here, or next to nothing would ever be certified.
CHANCE = st.randoms(use_true_random=True)


def a_world(stop: StopRule, chance: Random) -> World:
    """Some peers vote on a unit: most of them honestly, most of them alike."""
    known = None
    if chance.random() < 0.6:
        known = {who: chance.choice([0, 0, 1, 5, 20, 100, 400]) for who in PEERS}
    world = World(stop, known, exact=chance.random() < 0.5)
    voters = chance.sample(PEERS, chance.randint(1, len(PEERS)))
    if chance.random() < 0.05:
        voters.append(PAULA)
    turns = [(who, attempt) for who in voters for attempt in chance.choice([[0], [0], [1], [0, 1]])]
    answers = [chance.choices(range(3), [8, 1, 1])[0] for _ in turns]
    commits = [
        world.booth.commit(who, UNIT, b"?" if chance.random() < 0.05 else OUTPUTS[answer], attempt)
        for (who, attempt), answer in zip(turns, answers, strict=True)
    ]
    for number, ((who, attempt), answer) in enumerate(zip(turns, answers, strict=True)):
        overlooked = chance.randrange(len(turns)) if chance.random() < 0.1 else number
        seen = [each for at, each in enumerate(commits) if at == number or at != overlooked]
        ref = world.booth.reveal(commits[number], DIGESTS[answer], seen)
        if chance.random() < 0.05:
            lie = chance.choice(["seed", "items", "index", "commit"])
            ref = _lying(world, ref, lie, commits[0].hash)
        world.refs.append(ref)
        if answer and chance.random() < 0.6:
            world.refs.append(world.booth.endorse(who, UNIT, ref, DIGESTS[0], attempt))
    if chance.random() < 0.3:
        word = world.booth.write(PAULA, ms.Audit(UNIT, chance.choice(DIGESTS[:2])))
        world.refs.append(ms.VoteRef(word.hash, 0))
    return world


WORLDS = st.builds(a_world, STOPS, CHANCE)


def _lying(world: World, ref: ms.VoteRef, lie: str, another: FrameHash) -> ms.VoteRef:
    """The same reveal with something wrong in it, which its author signs as well."""
    frame = world.frames[ref.frame]
    entry = frame.frame.entries[0]
    assert isinstance(entry, ms.Reveal)
    (item,) = entry.items
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": bytes(32)},
        "items": {"items": (msgspec.structs.replace(item, attempt=item.attempt + 2),)},
        "index": {"index": 1},
        "commit": {"commit": another},
    }
    changed = msgspec.structs.replace(entry, **changes[lie])
    return ms.VoteRef(world.booth.write(frame.author, changed).hash, 0)


def a_certificate(world: World, chance: Random) -> ms.Certificate:
    """Mostly what an honest node might make of a world, sometimes with a part exchanged."""
    said = [ref for ref in world.refs if vote_of(world, ref) is not None]
    words = [ref for ref in world.refs if vote_of(world, ref) is None]
    digest = DIGESTS[0] if chance.random() < 0.8 else chance.choice(DIGESTS)
    chosen: dict[PeerId, ms.VoteRef] = {}
    against: dict[PeerId, ms.VoteRef] = {}
    for ref in said:
        if vote_of(world, ref) == digest:
            chosen.setdefault(world.frames[ref.frame].author, ref)
    for ref in said:
        if world.frames[ref.frame].author not in chosen:
            against[world.frames[ref.frame].author] = ref
    made = ms.Certificate(
        world.job,
        UNIT,
        digest,
        world.snapshot,
        tuple(ref for ref in chosen.values() if chance.random() < 0.9),
        tuple(ref for ref in against.values() if chance.random() < 0.8),
        chance.choice(words) if words and chance.random() < 0.4 else None,
    )
    if chance.random() < 0.6:
        return made
    stray = ms.VoteRef(
        chance.choice([*sorted(world.frames), FrameHash(bytes(32))]),
        chance.choice([0, 0, 0, 1]),
        chance.choice([0, 0, 0, 1]),
    )
    changes: list[dict[str, Any]] = [
        {"votes": (*made.votes, stray)},
        {"votes": (stray, *made.votes[1:])},
        {"against": (*made.against, stray)},
        {"audit": stray},
        {"snapshot": chance.choice([None, DIGESTS[0]])},
        {"unit": chance.choice([0, 9, 10, 10**6])},
        {"digest": chance.choice(DIGESTS)},
        {"job": JobId(bytes(32))},
    ]
    return msgspec.structs.replace(made, **chance.choice(changes))


def vote_of(world: World, ref: ms.VoteRef) -> Digest | None:
    entry = world.frames[ref.frame].frame.entries[ref.index]
    if isinstance(entry, ms.Reveal):
        return entry.items[ref.item].digest
    return entry.digest if isinstance(entry, ms.Endorse) else None
