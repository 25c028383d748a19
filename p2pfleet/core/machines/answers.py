"""Own answers to units: committed to together, revealed together by one seed, held against others'.

An answer is an output that is durably here. Where another's output leads that may be the same
answer, the two are compared, and the other one is endorsed if it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from p2pfleet.core.effects import (
    CheckCommitments,
    Compare,
    Effect,
    MakeCommitments,
    OpenedCommitment,
    OwnSeed,
    SaveSeed,
)
from p2pfleet.core.machines.settlement import ATTEMPT_MAX, Settlement
from p2pfleet.core.machines.units import ATTEMPTS_A_PEER
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, Millis, PeerId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules.commitment import seed_hash
from p2pfleet.core.wire.messages import (
    COMMIT_ITEMS_MAX,
    SEEN_MAX,
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Reveal,
    RevealItem,
)

COMPARE_RETRY_MS = 3_000

Counts = Callable[[PeerId], bool]


class Batch(msgspec.Struct):
    """Answers committed to with one seed; ``frame`` and ``index`` say where, once it is written.

    ``looked`` is true once it was seen whether others committed to them all, too.
    """

    own: OwnSeed
    frame: FrameHash | None = None
    index: int = 0
    reveal_by: Millis = Millis(0)
    revealed: bool = False
    looked: bool = False
    units: frozenset[int] = frozenset()

    @classmethod
    def of(cls, own: OwnSeed) -> Batch:
        """Answers that are not written down in a frame yet."""
        return cls(own, units=frozenset([item.unit for item in own.items]))


class Answers(msgspec.Struct):
    """Answers on their way from an execution to their reveal, and what is known of others'.

    ``known`` are own outputs by unit: (digest, length), ``outputs`` units by digest. ``ready``
    waits to be committed to, while ``making`` is under way. ``unwritten`` are seeds of before a
    restart, by their hashes, of which no frame was found; ``hearsay`` answers that are known only
    by own frames which others gave back. ``opened`` says of (unit, attempt, peer) whether it is
    known by now if that commitment held the bytes. ``compared`` says of (unit, digest) whether
    another's answer is ours too; ``compare_at`` is when a unit is looked at again, to compare or to
    commit; ``endorsing`` in which attempt another's answer was endorsed last.
    """

    me: PeerId
    known: dict[int, tuple[Digest, int]] = {}
    outputs: dict[Digest, list[int]] = {}
    hearsay: dict[int, bool] = {}
    ready: list[RevealItem] = []
    making: tuple[RevealItem, ...] = ()
    batches: list[Batch] = []
    unwritten: dict[bytes, OwnSeed] = {}
    opened: dict[tuple[int, int, PeerId], bool] = {}
    compared: dict[tuple[int, Digest], str] = {}
    endorsing: dict[int, int] = {}
    compare_at: dict[int, Millis] = {}

    def restore(self, seeds: tuple[OwnSeed, ...]) -> None:
        """What was committed to before a restart; :meth:`written` finds the frames again."""
        for own in seeds:
            self.batches.append(Batch.of(own))
            for item in own.items:
                self._answer(item.unit, item.digest, item.length)

    def restored(self) -> None:
        """Every frame is here again: what was never written is run again."""
        for batch in self.batches:
            if batch.frame is None:
                self.unwritten[batch.own.seed_hash] = batch.own
                for item in batch.own.items:
                    self.known.pop(item.unit, None)
        self.batches = [batch for batch in self.batches if batch.frame is not None]

    def add(self, number: int, digest: Digest, length: int) -> None:
        """The unit was run, and its output is durably here: it will be committed to."""
        self._answer(number, digest, length)
        self.ready.append(RevealItem(number, 0, digest, length))

    def _answer(self, number: int, digest: Digest, length: int) -> None:
        self.known[number] = (digest, length)
        self.outputs.setdefault(digest, []).append(number)

    def heard(self, item: RevealItem) -> None:
        """An own frame that was lost here says that this is revealed."""
        if item.unit not in self.known:
            self._answer(item.unit, item.digest, item.length)
            self.hearsay[item.unit] = True
        # To commit to it once more would say nothing new.
        self.ready = [each for each in self.ready if each.unit != item.unit]

    def lost(self, number: int) -> None:
        """The output of a unit is gone, if there was one."""
        self.known.pop(number, None)
        if any(item.unit == number for item in self.making):
            self.making = ()

    def wanted(self, settlement: Settlement, numbers: Sequence[int]) -> None:
        """The publisher wants more of these units, and so has not got the outputs of those that are
        certified: what was only said here, in a life of which the outputs are lost, is run again.
        """
        for number in numbers:
            unit = settlement.units.get(number)
            if number in self.hearsay and unit is not None and unit.state == "certified":
                del self.hearsay[number]
                self.known.pop(number, None)

    def owing(self) -> list[int]:
        """Units whose answers are not revealed yet."""
        numbers = [item.unit for item in (*self.ready, *self.making)]
        for batch in self.batches:
            numbers += [item.unit for item in batch.own.items]
        return numbers

    # ---- commit and reveal -------------------------------------------------------------------

    def commit(self, settlement: Settlement) -> list[Effect]:
        """Have commitments made to what is ready, unless some are being made."""
        if self.making or not self.ready:
            return []
        items = self.ready[:COMMIT_ITEMS_MAX]
        if settlement.manifest.shards > 1:  # a frame holds commitments of one shard
            first = settlement.shard(items[0].unit)
            items = [item for item in items if settlement.shard(item.unit) == first]
        taken = {id(item) for item in items}
        self.ready = [item for item in self.ready if id(item) not in taken]
        # Attempts as of now: somebody may have revealed since the unit was run.
        self.making = tuple(
            msgspec.structs.replace(item, attempt=self._attempt(settlement, item.unit))
            for item in items
        )
        return [MakeCommitments(settlement.job, self.making)]

    def committed(
        self,
        settlement: Settlement,
        seed: bytes,
        items: tuple[RevealItem, ...],
        commitments: tuple[bytes, ...],
    ) -> tuple[list[Entry], list[Effect]]:
        """The commitments are made: keep the seed, tell the others."""
        if not set(items) <= set(self.making):
            return [], []  # asked for before the job was left; it is asked for again
        self.making = ()
        if not items:
            return [], []
        own = OwnSeed(seed_hash(seed), seed, items)
        self.batches.append(Batch.of(own))
        entry = Commit(
            own.seed_hash,
            tuple(
                CommitItem(item.unit, item.attempt, commitment)
                for item, commitment in zip(items, commitments, strict=True)
            ),
        )
        return [entry], [SaveSeed(settlement.job, own)]

    def written(
        self, settlement: Settlement, frame: FrameHash, entries: tuple[Entry, ...], now: Millis
    ) -> None:
        """A frame of our own is signed: where our commitments stand, and what is revealed."""
        for index, entry in enumerate(entries):
            if isinstance(entry, Commit):
                lost = self.unwritten.pop(entry.seed_hash, None)
                if lost is not None:  # it had been written, before a backup was put back
                    self.batches.append(Batch.of(lost))
                    for item in lost.items:
                        if item.unit not in self.known:
                            self._answer(item.unit, item.digest, item.length)
                for batch in self.batches:
                    if batch.own.seed_hash == entry.seed_hash:
                        batch.frame, batch.index = frame, index
                        batch.reveal_by = Millis(now + settlement.manifest.trust.window_ms)
            elif isinstance(entry, Reveal):
                self.batches = [b for b in self.batches if b.own.seed != entry.seed]

    def _attempt(self, settlement: Settlement, number: int) -> int:
        """Which attempt a commitment belongs to now: the first from the current one on which has
        none of ours, of which the others would count the first alone, and in which nobody has
        revealed anything (an attempt whose authors all lost their seeds stays current for ever)."""
        unit = settlement.unit(number)
        taken = [each.attempt for each in unit.commits.get(self.me, ())]
        attempt = unit.attempt
        while attempt < ATTEMPT_MAX and (attempt in taken or attempt in unit.revealed):
            attempt += 1
        return attempt

    def reveal(self, settlement: Settlement, now: Millis, counts: Counts) -> list[Entry]:
        """Reveal what enough others have committed to, or what waited long enough for them."""
        entries: list[Entry] = []
        for batch in self.batches:
            if batch.frame is None or batch.revealed:
                continue
            waits = batch.reveal_by > now
            known = batch.looked and not settlement.stirred_all
            if waits and known and batch.units.isdisjoint(settlement.stirred):
                continue
            batch.looked = True
            if waits and not all(
                item.attempt in settlement.unit(item.unit).revealed
                or settlement.enough(item.unit, item.attempt, counts)
                for item in batch.own.items
            ):
                continue
            batch.revealed = True
            seen: dict[FrameHash, int] = {}
            for item in batch.own.items:
                for peer, commits in settlement.unit(item.unit).commits.items():
                    for each in commits:
                        if each.attempt == item.attempt and counts(peer):
                            seen[each.frame] = settlement.checks(peer)
            # Where there are too many of them, those that weigh most.
            best = sorted(seen, key=lambda frame: (-seen[frame], frame))[:SEEN_MAX]
            entries.append(
                Reveal(
                    batch.frame,
                    batch.index,
                    batch.own.seed,
                    batch.own.items,
                    tuple(sorted(best)),
                )
            )
        return entries

    def leave(self, settlement: Settlement) -> list[Entry]:
        """Reveal what is committed to, whoever waits for it; the rest has to be begun again."""
        self.ready = [*self.making, *self.ready]
        self.making = ()
        written = [batch for batch in self.batches if batch.frame is not None]
        for batch in written:
            batch.reveal_by = Millis(0)
        return self.reveal(settlement, Millis(0), lambda peer: True)

    def reveals(self) -> list[Millis]:
        """When what is committed to is revealed at the latest."""
        return [
            batch.reveal_by
            for batch in self.batches
            if batch.frame is not None and not batch.revealed
        ]

    # ---- what others revealed ----------------------------------------------------------------

    def due(self, now: Millis) -> list[int]:
        """Units with which a comparison is to be tried again."""
        if not self.compare_at:
            return []
        ready = [number for number, at in self.compare_at.items() if at <= now]
        for number in ready:
            del self.compare_at[number]
        return ready

    def examine(
        self,
        settlement: Settlement,
        numbers: list[int],
        now: Millis,
        counts: Counts,
        present: Callable[[PeerId], bool],
    ) -> list[Effect]:
        """Look at units where something changed: open commitments to the same bytes, compare
        others' answers with ours, and commit again where our vote came too late to count."""
        effects: list[Effect] = []
        by_digest: dict[Digest, list[OpenedCommitment]] = {}
        for number in numbers:
            answer = self.known.get(number)
            unit = settlement.units.get(number)
            if answer is None or unit is None:
                continue
            for peer in sorted(unit.votes):
                for vote in unit.votes[peer]:
                    key = (number, vote.attempt, peer)
                    if vote.digest == answer[0] and peer != self.me and key not in self.opened:
                        self.opened[key] = False
                        by_digest.setdefault(vote.digest, []).append(
                            OpenedCommitment(number, vote.attempt, peer, vote.seed, vote.commitment)
                        )
            # What is certified here need not be for the publisher, who counts fewer peers.
            if unit.state not in ("open", "contested") and unit.asked <= unit.replicas:
                continue
            mine = unit.last_vote(self.me)
            if mine is None:
                self._say_anew(settlement, number, now)
                continue
            if self._left_out(settlement, number, now, counts):
                self.ready.append(RevealItem(number, unit.attempt, *answer))
            effects.extend(self._compare(settlement, number, now, present))
        for digest, items in by_digest.items():
            effects.append(CheckCommitments(settlement.job, digest, tuple(items)))
        return effects

    def _say_anew(self, settlement: Settlement, number: int, now: Millis) -> None:
        """Commit once more to an answer that is here, where our last commitment is one whose seed
        is lost; not before the rest of what we have forgotten may be here, its reveal above all.
        """
        unit = settlement.units[number]
        owed = unit.waiting(self.me)
        if owed is None or len(unit.commits[self.me]) >= ATTEMPTS_A_PEER:
            return
        if self._committing(number) or any(batch.frame == owed.frame for batch in self.batches):
            return
        at = Millis(owed.seen + settlement.manifest.trust.window_ms)
        if at > now:
            self.compare_at.setdefault(number, at)
        else:
            self.ready.append(RevealItem(number, unit.attempt, *self.known[number]))

    def _left_out(self, settlement: Settlement, number: int, now: Millis, counts: Counts) -> bool:
        """Whether our vote does not count together with those of the others who agree."""
        unit = settlement.units[number]
        mine = unit.votes[self.me]
        if self._attempt(settlement, number) in unit.revealed:  # there is none left
            return False
        if unit.waiting(self.me) is not None:
            return False
        if len(unit.commits[self.me]) >= ATTEMPTS_A_PEER or self._committing(number):
            return False
        supported = []
        # Who had not the bytes leaves nobody out.
        if not any(
            peer != self.me
            and vote.digest == mine[-1].digest
            and not self.opened.get((number, vote.attempt, peer), False)
            for peer, votes in unit.votes.items()
            for vote in votes
        ):
            supported.append(mine[-1].digest)
        supported.extend(
            each.digest for each in unit.endorsed.get(self.me, ()) if each.own == mine[-1].ref
        )
        return any(
            settlement.supporters(number, digest, now, counts) != [self.me]
            and not settlement.counts_for(number, self.me, digest, now, counts)
            # What most agree on may not lead, just because they could not count together yet.
            and (unit.leading == digest or settlement.would_hold(number, digest, now, counts))
            for digest in supported
        )

    def _committing(self, number: int) -> bool:
        """Whether a commitment to our answer is on its way to the others."""
        unwritten = [batch.own.items for batch in self.batches if batch.frame is None]
        on_their_way = (self.ready, self.making, *unwritten)
        return any(item.unit == number for items in on_their_way if items for item in items)

    def _compare(
        self,
        settlement: Settlement,
        number: int,
        now: Millis,
        present: Callable[[PeerId], bool],
    ) -> list[Effect]:
        unit = settlement.units[number]
        digest, mine = unit.leading, self.known[number][0]
        soft = isinstance(settlement.manifest.comparison, Tolerance)
        if not soft or digest is None or digest == mine:
            return []
        earlier = unit.endorsed.get(self.me, ())
        if len(earlier) >= ATTEMPTS_A_PEER or any(e.attempt >= unit.attempt for e in earlier):
            return []
        # Who committed again because its vote was left out endorses again, with the new one.
        latest = unit.last_vote(self.me)
        theirs = [each for each in earlier if each.digest == digest]
        if any(latest is not None and each.own == latest.ref for each in theirs):
            return []
        known = self.compared.get((number, digest))
        again = theirs and known == "same"
        if (known is not None and not again) or number in self.compare_at:
            return []
        holders = unit.holders(digest)
        sources = tuple(peer for peer, _ in holders if present(peer))
        if not sources:
            self.compare_at[number] = Millis(now + COMPARE_RETRY_MS)
            return []
        self.compared[number, digest] = "under way"
        ref = BlobRef(cid_from_sha256(digest), 0, holders[0][1], bytes(digest))
        return [Compare(settlement.job, number, ref, mine, sources)]

    def compared_with(
        self, settlement: Settlement, number: int, digest: Digest, verdict: str, now: Millis
    ) -> list[Entry]:
        """Another's answer was compared with ours: endorse it if it is the same."""
        if verdict == "unavailable":
            self.compared.pop((number, digest), None)
            self.compare_at[number] = Millis(now + COMPARE_RETRY_MS)
            return []
        self.compared[number, digest] = verdict
        unit = settlement.unit(number)
        mine = unit.last_vote(self.me)
        attempt = unit.attempt
        if verdict != "same" or mine is None or mine.digest == digest:
            return []
        if any(each.attempt >= attempt for each in unit.endorsed.get(self.me, ())):
            return []
        # Two endorsements in one attempt would prove a fault; the first may not be signed yet.
        if self.endorsing.get(number, -1) >= attempt:
            return []
        self.endorsing[number] = attempt
        return [Endorse(number, attempt, mine.ref, digest)]
