"""The volunteer's side of one job: choose units, have them run, commit, reveal, endorse.

What it holds under a claim is handed to the runtime at once (which fetches inputs while others
compute) and comes back as one event a unit. A unit that gets decided meanwhile, or on which others
with a better rank have claims enough, is released. Answers are committed to together and revealed
together, by one seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from p2pfleet.core.effects import (
    CheckCommitments,
    Compare,
    Effect,
    Execute,
    MakeCommitments,
    OpenedCommitment,
    OpenJob,
    OwnSeed,
    SaveSeed,
    Withdraw,
)
from p2pfleet.core.machines.settlement import ATTEMPT_MAX, Settlement
from p2pfleet.core.machines.units import ATTEMPTS_A_PEER
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, Millis, PeerId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules import claims as rule
from p2pfleet.core.rules import shards
from p2pfleet.core.rules.commitment import seed_hash
from p2pfleet.core.wire.messages import (
    COMMIT_ITEMS_MAX,
    SEEN_MAX,
    Claim,
    Commit,
    CommitItem,
    Endorse,
    Entry,
    Failure,
    Release,
    Reveal,
    RevealItem,
)

OPEN_RETRY_MS = 2_000
OPEN_RETRY_MAX_MS = 60_000
RESCAN_MS = 500
SCAN_UNITS = 4_096
YOUNG_CLAIM_MS = 1_000
SLOW_UNIT_MS = 2_000
COMPARE_RETRY_MS = 3_000
BARRED_MS = 60_000
RELEASED_FAULTS = ("wall", "killed", "crash")
MISHAPS_MAX = 3
MILLION = 1_000_000

Counts = Callable[[PeerId], bool]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A claim of our own: since when, until when, and when to renew it if the unit still runs."""

    since: Millis
    until: Millis
    renew_at: Millis


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


class Volunteer(msgspec.Struct):
    """Claims of our own, answers on their way, and how long units take here.

    ``answers`` are own outputs by unit: (digest, length), ``outputs`` units by digest; ``refused``
    units that this machine leaves to others or has called a failure; ``mishaps`` counts executions
    that failed for our own sake. ``ready`` waits to be committed to, while ``making`` is under way.
    ``unwritten`` are seeds of before a restart, by their hashes, of which no frame was found;
    ``hearsay`` answers that are known only by own frames which others gave back.
    ``opened`` says of (unit, attempt, peer) whether it is known by now if that commitment held the
    bytes. ``compared`` says of (unit, digest) whether another's answer is ours too;
    ``compare_at`` is when a unit is looked at again, to compare or to commit; ``endorsing`` in
    which attempt another's answer was endorsed last. ``order`` are all units as this
    volunteer prefers them, ``places`` where each stands in it; ``drawn`` says whether the coin fell
    on an audit of a unit, and ``eligible_at`` from when on this volunteer may take it, by the trust
    snapshot of a number and as a debtor or not: ``eligible_by``. Before ``quiet_until`` no claim
    has to be renewed or lapses.
    """

    me: PeerId
    slots: int
    coin: bytes = bytes(32)
    open: bool = False
    opening: bool = False
    open_at: Millis | None = None
    open_failures: int = 0
    order: list[int] = []
    places: dict[int, int] = {}
    cursor: int = 0
    served: dict[int, bool] = {}
    held: dict[int, Held] = {}
    quiet_until: Millis = Millis(0)
    answers: dict[int, tuple[Digest, int]] = {}
    outputs: dict[Digest, list[int]] = {}
    hearsay: dict[int, bool] = {}
    refused: dict[int, bool] = {}
    mishaps: dict[int, int] = {}
    ready: list[RevealItem] = []
    making: tuple[RevealItem, ...] = ()
    batches: list[Batch] = []
    unwritten: dict[bytes, OwnSeed] = {}
    opened: dict[tuple[int, int, PeerId], bool] = {}
    compared: dict[tuple[int, Digest], str] = {}
    endorsing: dict[int, int] = {}
    compare_at: dict[int, Millis] = {}
    audits: dict[int, bool] = {}
    drawn: dict[int, bool] = {}
    eligible_at: dict[int, Millis] = {}
    eligible_by: tuple[int, bool] = (-1, False)
    rescan_at: Millis | None = None
    mean_ms: float | None = None

    # ---- the job itself ----------------------------------------------------------------------

    def opened_job(
        self, settlement: Settlement, now: Millis, sources: tuple[PeerId, ...]
    ) -> list[Effect]:
        """Model and table are here. Claims of ours from before a restart are taken up again."""
        manifest = settlement.manifest
        self.open = True
        self.opening = False
        if manifest.shards == 1:
            self._prefer(rule.preference(manifest.salt, manifest.units, self.me))
        effects: list[Effect] = []
        for number in sorted(settlement.leases.holding.get(self.me, {})):
            until = settlement.leases.until(self.me, number)
            if until is not None and until > now and number not in self.held:
                self._hold(number, now, until)
                settlement.stirred[number] = True
                effects.append(Execute(settlement.job, number, sources))
        return effects

    def _prefer(self, order: list[int]) -> None:
        self.order = order
        self.places = {number: place for place, number in enumerate(order)}
        self.cursor = 0

    def serve(self, settlement: Settlement, served: tuple[int, ...]) -> None:
        """From now on units of these shards are worked on, and of no others."""
        terms = settlement.manifest
        self.served = dict.fromkeys(served, True)
        numbers: list[int] = []
        for shard in served:
            numbers.extend(shards.units_of(terms.salt, terms.units, terms.shards, shard))
        self._prefer(rule.preferred(terms.salt, numbers, self.me))
        self.rescan_at = None
        settlement.stirred_all = True
        for number in [n for n in settlement.begun if settlement.shard(n) not in self.served]:
            del settlement.begun[number]

    def owing(self, settlement: Settlement) -> dict[int, bool]:
        """Shards in which something is not finished: under a claim, or not revealed."""
        numbers = list(self.held)
        numbers += [item.unit for item in (*self.ready, *self.making)]
        for batch in self.batches:
            numbers += [item.unit for item in batch.own.items]
        return {settlement.shard(number): True for number in numbers}

    def _hold(self, number: int, now: Millis, until: Millis, since: Millis | None = None) -> None:
        renew_at = Millis(until - (until - now) // 3)
        self.held[number] = Held(now if since is None else since, until, renew_at)
        self.quiet_until = min(self.quiet_until, renew_at)

    def start_opening(self, settlement: Settlement, sources: tuple[PeerId, ...]) -> list[Effect]:
        """Ask for model and table, unless that is under way."""
        if self.open or self.opening:
            return []
        if not sources:
            self.open_at = None  # the next peer that says hello brings it about
            return []
        self.opening = True
        self.open_at = None
        return [OpenJob(settlement.job, settlement.manifest, sources)]

    def not_opened(self, now: Millis) -> None:
        """Try again later, more and more rarely."""
        self.opening = False
        self.open_failures += 1
        delay = min(OPEN_RETRY_MAX_MS, OPEN_RETRY_MS * 2 ** min(self.open_failures - 1, 8))
        self.open_at = Millis(now + delay)

    def restore(self, seeds: tuple[OwnSeed, ...]) -> None:
        """What was committed to before a restart; :meth:`written` finds the frames again."""
        for own in seeds:
            self.batches.append(Batch.of(own))
            for item in own.items:
                self._answer(item.unit, item.digest, item.length)

    def _answer(self, number: int, digest: Digest, length: int) -> None:
        self.answers[number] = (digest, length)
        self.outputs.setdefault(digest, []).append(number)

    def restored(self) -> None:
        """Every frame is here again: what was never written is run again."""
        for batch in self.batches:
            if batch.frame is None:
                self.unwritten[batch.own.seed_hash] = batch.own
                for item in batch.own.items:
                    self.answers.pop(item.unit, None)
        self.batches = [batch for batch in self.batches if batch.frame is not None]

    # ---- units -------------------------------------------------------------------------------

    def advance(
        self,
        settlement: Settlement,
        now: Millis,
        counts: Counts,
        sources: Callable[[], tuple[PeerId, ...]],
        volunteers: Callable[[], int],
        paused: bool,
        alone: bool,
        barred: Callable[[int], bool] = lambda number: False,
    ) -> tuple[list[Entry], list[Effect]]:
        """Give up what is not needed; unless the owner paused the node, take on what is.

        ``sources`` may have the inputs; ``volunteers`` share the work, this one among them;
        ``alone`` says that the publisher is away, so that volunteers have to audit each other;
        ``barred`` of which units another's output is here, which are others' affair for a while.
        """
        entries: list[Entry] = []
        effects: list[Effect] = []
        if self.held:
            entries, effects = self._give_up(settlement, now, counts)
        if self.batches:
            entries.extend(self.reveal(settlement, now, counts))
        settlement.stirred.clear()
        settlement.stirred_all = False
        if self.ready:
            effects.extend(self._commit(settlement))
        if paused:
            return entries, effects
        if self.held:
            entries.extend(self._renew(settlement, now))
        if self.rescan_at is not None and self.rescan_at <= now:
            self.rescan_at = None
        if not self.open or self.rescan_at is not None:
            return entries, effects
        if len(self.held) > rule.lease_units_most(self.mean_ms, self.slots) // 2:
            return entries, effects
        remaining = self._left(settlement) * settlement.at_first
        target = rule.lease_units(self.mean_ms, self.slots, remaining, volunteers())
        if len(self.held) <= target // 2:
            debtor = settlement.in_debt(self.me, now)
            room = min(target - len(self.held), settlement.leases.room(self.me, now, debtor))
            picked = self._pick(settlement, now, counts, room, alone, barred)
            self.rescan_at = None if picked else Millis(now + RESCAN_MS)
            if picked:
                until = Millis(now + settlement.manifest.lease_ms)
                entries.append(Claim(tuple(sorted(picked))))
                near = sources()
                for number in picked:
                    settlement.leases.claim(self.me, number, now, debtor)
                    self._hold(number, now, until)
                    effects.append(Execute(settlement.job, number, near))
        return entries, effects

    def _left(self, settlement: Settlement) -> int:
        """How many units are left of the shards that are served."""
        if settlement.manifest.shards == 1:
            return settlement.count("open")
        return sum(settlement.undecided(shard) for shard in self.served)

    def _renew(self, settlement: Settlement, now: Millis) -> list[Entry]:
        if now < self.quiet_until:
            return []
        due = sorted([number for number, held in self.held.items() if held.renew_at <= now])
        for number in due:
            until = Millis(now + settlement.manifest.lease_ms)
            self._hold(number, now, until, since=self.held[number].since)
        self.quiet_until = min([held.renew_at for held in self.held.values()])
        return [Claim(tuple(due))] if due else []

    def _give_up(
        self, settlement: Settlement, now: Millis, counts: Counts
    ) -> tuple[list[Entry], list[Effect]]:
        released: list[int] = []
        lapsed: list[int] = []
        stop_now: list[int] = []
        stirred, stirred_all = settlement.stirred, settlement.stirred_all
        if now < self.quiet_until and not stirred_all and self.held.keys().isdisjoint(stirred):
            return [], []
        for number, held in self.held.items():
            if held.until <= now:
                lapsed.append(number)
                continue
            # A claim that was worth keeping stays so, unless something happens to its unit.
            if not (stirred_all or number in stirred) or number in self.audits:
                continue
            others = [p for p in settlement.flying(number, now, counts) if p != self.me]
            if settlement.missing(number, others, now) > 0:
                continue
            unit = settlement.unit(number)
            claims = [peer for peer in others if unit.waiting(peer) is None]
            wanted = settlement.missing(number, (), now) - (len(others) - len(claims))
            if rule.gives_way(settlement.manifest.salt, number, self.me, claims, max(0, wanted)):
                released.append(number)
                young = now - held.since < YOUNG_CLAIM_MS
                if young and (self.mean_ms is None or self.mean_ms > SLOW_UNIT_MS):
                    stop_now.append(number)
        if not released and not lapsed:
            return [], []
        for number in released:
            del self.held[number]
            settlement.leases.release(self.me, number)
        for number in lapsed:  # counted as such, as everybody else does
            del self.held[number]
        entries: list[Entry] = [Release(tuple(sorted(released)))] if released else []
        effects: list[Effect] = []
        kill = sorted(lapsed + stop_now)
        if kill:
            effects.append(Withdraw(settlement.job, tuple(kill), kill=True))
        keep = sorted(set(released) - set(stop_now))
        if keep:
            effects.append(Withdraw(settlement.job, tuple(keep), kill=False))
        return entries, effects

    def _pick(
        self,
        settlement: Settlement,
        now: Millis,
        counts: Counts,
        room: int,
        alone: bool,
        barred: Callable[[int], bool],
    ) -> list[int]:
        """Units to claim: first those that others have begun, so that answers meet."""
        picked: list[int] = []
        by = (settlement.snapshot_number, settlement.in_debt(self.me, now))
        if self.eligible_by != by:
            self.eligible_at.clear()
            self.eligible_by = by
        begun = [number for number in settlement.begun if self._free(number)]
        for number in sorted(begun, key=self.places.__getitem__):
            if len(picked) >= room:
                return picked
            if self._wants(settlement, number, now, counts, alone, barred):
                picked.append(number)
        total = len(self.order)
        for _ in range(min(total, SCAN_UNITS)):
            if len(picked) >= room:
                break
            number = self.order[self.cursor]
            self.cursor = (self.cursor + 1) % total
            if (
                number not in settlement.begun
                and self._free(number)
                and self._wants(settlement, number, now, counts, alone, barred)
            ):
                picked.append(number)
        return picked

    def _free(self, number: int) -> bool:
        """Whether nothing of ours stands against a claim on a unit."""
        if number in self.held or number in self.answers or number in self.refused:
            return False
        return number in self.places

    def _wants(
        self,
        settlement: Settlement,
        number: int,
        now: Millis,
        counts: Counts,
        alone: bool,
        barred: Callable[[int], bool],
    ) -> bool:
        # Asked of every undecided unit again and again (a quarter of a volunteer's time): what
        # costs little is asked first.
        unit = settlement.units.get(number)
        if unit is not None and unit.final:
            return False
        at = self.eligible_at.get(number)
        if at is None:
            at = self.eligible_at[number] = settlement.eligible_at(number, self.me, now)
        owed = None if unit is None else unit.waiting(self.me)
        if owed is not None and now - owed.seen < settlement.debt_ms:
            return False  # what we cannot reveal we run once more only if nobody else does
        if unit is not None and unit.state == "certified" and unit.asked <= unit.replicas:
            if not (alone and self._audits(settlement, number)):
                return False
            if any(peer != self.me for peer in settlement.flying(number, now, counts)):
                return False
            self.audits[number] = True
            if at > now:
                return False
        else:
            if at > now:
                return False
            others = [p for p in settlement.flying(number, now, counts) if p != self.me]
            if owed is not None and others:
                return False
            if not settlement.missing(number, others, now):
                return False
        # Who could copy the answer stands back, as long as there may be somebody who could not.
        stands_back = barred(number)
        return not stands_back or (
            not alone and now - settlement.units[number].latest_vote > BARRED_MS
        )

    def _audits(self, settlement: Settlement, number: int) -> bool:
        """Whether to run a certified unit once more, while its publisher is away.

        Drawn by a private coin, so that nobody knows beforehand; and whatever rests on a single
        vote once there is nothing else to do.
        """
        unit = settlement.units.get(number)
        if unit is None or unit.state != "certified" or unit.certificate is None:
            return False
        if len(unit.certificate.votes) == 1 and not self._left(settlement):
            return unit.replicas == 1
        drawn = self.drawn.get(number)
        if drawn is None:
            hashed = hashlib.sha256(self.coin + settlement.job + number.to_bytes(8, "big")).digest()
            threshold = settlement.manifest.trust.audit_ppm * 2**64
            drawn = self.drawn[number] = int.from_bytes(hashed[:8], "big") * MILLION < threshold
        return drawn

    def release_all(self) -> list[Entry]:
        """Give every claim back (the owner stops the node)."""
        numbers = tuple(sorted(self.held))
        self.held.clear()
        return [Release(numbers)] if numbers else []

    def leave(self, settlement: Settlement) -> list[Entry]:
        """The node leaves the job for now: reveal what is committed to, whoever waits for it."""
        self.open = self.opening = False
        self.open_at = self.rescan_at = None
        self.ready = [*self.making, *self.ready]
        self.making = ()
        written = [batch for batch in self.batches if batch.frame is not None]
        for batch in written:
            batch.reveal_by = Millis(0)
        return self.reveal(settlement, Millis(0), lambda peer: True)

    # ---- commit and reveal -------------------------------------------------------------------

    def _commit(self, settlement: Settlement) -> list[Effect]:
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
                if self.rescan_at is not None and self.rescan_at <= now + RESCAN_MS:
                    self.rescan_at = None  # there is room for more claims now
                lost = self.unwritten.pop(entry.seed_hash, None)
                if lost is not None:  # it had been written, before a backup was put back
                    self.batches.append(Batch.of(lost))
                    for item in lost.items:
                        if item.unit not in self.answers:
                            self._answer(item.unit, item.digest, item.length)
                for batch in self.batches:
                    if batch.own.seed_hash == entry.seed_hash:
                        batch.frame, batch.index = frame, index
                        batch.reveal_by = Millis(now + settlement.manifest.trust.window_ms)
            elif isinstance(entry, Reveal):
                self.batches = [b for b in self.batches if b.own.seed != entry.seed]

    def taken_back(
        self, settlement: Settlement, entries: tuple[Entry, ...]
    ) -> tuple[list[Entry], list[Effect]]:
        """A frame of our own that was lost here and that others still had: what it says is done.

        What it commits to without a seed here stays a debt, and the unit goes on without it.
        """
        done: dict[int, bool] = {}
        for entry in entries:
            match entry:
                case Commit(items=items):
                    done.update((item.unit, True) for item in items)
                case Reveal(items=items):
                    for item in items:
                        done[item.unit] = True
                        if item.unit not in self.answers:
                            self._answer(item.unit, item.digest, item.length)
                            self.hearsay[item.unit] = True
                        # To commit to it once more would say nothing new.
                        self.ready = [each for each in self.ready if each.unit != item.unit]
                case Failure(unit=unit):
                    done[unit] = self.refused[unit] = True
                case _:
                    pass
        given = tuple(sorted(done.keys() & self.held.keys()))
        if not given:
            return [], []
        for number in given:
            del self.held[number]
            settlement.leases.release(self.me, number)
        return [Release(given)], [Withdraw(settlement.job, given, kill=True)]

    def wanted(self, settlement: Settlement, numbers: Sequence[int]) -> None:
        """The publisher wants more of these units, and so has not got the outputs of those that are
        certified: what was only said here, in a life of which the outputs are lost, is run again.
        """
        self.rescan_at = None
        for number in numbers:
            unit = settlement.units.get(number)
            if number in self.hearsay and unit is not None and unit.state == "certified":
                del self.hearsay[number]
                self.answers.pop(number, None)

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
            self.ready.append(RevealItem(number, unit.attempt, *self.answers[number]))

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

    def due(self, now: Millis) -> list[int]:
        """Units with which a comparison is to be tried again."""
        if not self.compare_at:
            return []
        ready = [number for number, at in self.compare_at.items() if at <= now]
        for number in ready:
            del self.compare_at[number]
        return ready

    # ---- what others revealed ----------------------------------------------------------------

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
            answer = self.answers.get(number)
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
        digest, mine = unit.leading, self.answers[number][0]
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

    def compared_unit(
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

    # ---- what came of an execution -----------------------------------------------------------

    def executed_unit(
        self, settlement: Settlement, number: int, digest: Digest, length: int, wall_ms: int
    ) -> None:
        """The output is durably here: it will be committed to, late or not."""
        self.held.pop(number, None)
        before = float(wall_ms) if self.mean_ms is None else self.mean_ms
        self.mean_ms = 0.8 * before + 0.2 * wall_ms
        if number in self.answers or settlement.unit(number).final:
            return
        self._answer(number, digest, length)
        self.ready.append(RevealItem(number, 0, digest, length))

    def faulted_unit(
        self, settlement: Settlement, number: int, kind: str, reason: str, now: Millis
    ) -> list[Entry]:
        """The unit cannot be run: the job's fault is told; our own bad luck is a release.

        A unit that was too slow for this machine three times is left to others; one that crashed
        its child three times is the job's fault after all.
        """
        held = self.held.pop(number, None)
        if kind in ("wall", "crash"):
            self.mishaps[number] = self.mishaps.get(number, 0) + 1
        often = self.mishaps.get(number, 0) >= MISHAPS_MAX
        if kind in RELEASED_FAULTS and not (often and kind == "crash"):
            if often:
                self.refused[number] = True
            self.rescan_at = Millis(now + OPEN_RETRY_MS)  # others first: they may do better
            return [Release((number,))] if held is not None else []
        unit = settlement.unit(number)
        if self.me in unit.failures or number in self.answers or number in self.refused:
            return []
        self.refused[number] = True
        return [Failure(number, unit.attempt, f"{kind}: {reason}"[:200])]

    def unavailable_unit(self, number: int, now: Millis) -> list[Entry]:
        """The input could not be had (or the output is gone): leave the unit to others for now."""
        held = self.held.pop(number, None)
        self.answers.pop(number, None)
        if any(item.unit == number for item in self.making):
            self.making = ()
        self.rescan_at = Millis(now + OPEN_RETRY_MS)
        return [Release((number,))] if held is not None else []

    def deadlines(self, paused: bool) -> list[Millis]:
        """When this side wants to be ticked: at the first of these."""
        times = list(self.compare_at.values()) if self.open and self.compare_at else []
        if paused:
            times += [held.until for held in self.held.values()]
        else:
            if self.held:
                times += [held.renew_at for held in self.held.values()]
            if self.open_at is not None:
                times.append(self.open_at)
            if self.open and self.rescan_at is not None:
                times.append(self.rescan_at)
        for batch in self.batches:
            if batch.frame is not None and not batch.revealed:
                times.append(batch.reveal_by)
        return times
