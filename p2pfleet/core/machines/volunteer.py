"""The volunteer's side of one job: choose units and have them run.

What it holds under a claim is handed to the runtime at once (which fetches inputs while others
compute) and comes back as one event a unit. A unit that gets decided meanwhile, or on which others
with a better rank have claims enough, is released. What becomes of answers is in ``answers``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from p2pfleet.core.effects import (
    Effect,
    Execute,
    OpenJob,
    Withdraw,
)
from p2pfleet.core.machines.answers import Answers, Counts
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model.ids import Digest, FrameHash, Millis, PeerId
from p2pfleet.core.rules import claims as rule
from p2pfleet.core.rules import shards
from p2pfleet.core.wire.messages import (
    Claim,
    Commit,
    Entry,
    Failure,
    Release,
    Reveal,
)

OPEN_RETRY_MS = 2_000
OPEN_RETRY_MAX_MS = 60_000
RESCAN_MS = 500
SCAN_UNITS = 4_096
YOUNG_CLAIM_MS = 1_000
SLOW_UNIT_MS = 2_000
BARRED_MS = 60_000
RELEASED_FAULTS = ("wall", "killed", "crash")
MISHAPS_MAX = 3
MILLION = 1_000_000


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A claim of our own: since when, until when, and when to renew it if the unit still runs."""

    since: Millis
    until: Millis
    renew_at: Millis


class Volunteer(msgspec.Struct):
    """Claims of our own, and how long units take here; ``answers`` are what came of them.

    ``refused`` are units that this machine leaves to others or has called a failure; ``mishaps``
    counts executions that failed for our own sake. ``order`` are all units as this volunteer
    prefers them, ``places`` where each stands in it; ``drawn`` says whether the coin fell on an
    audit of a unit, and ``eligible_at`` from when on this volunteer may take it, by the trust
    snapshot of a number and as a debtor or not: ``eligible_by``. Before ``quiet_until`` no claim
    has to be renewed or lapses.
    """

    me: PeerId
    slots: int
    answers: Answers
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
    refused: dict[int, bool] = {}
    mishaps: dict[int, int] = {}
    audits: dict[int, bool] = {}
    drawn: dict[int, bool] = {}
    eligible_at: dict[int, Millis] = {}
    eligible_by: tuple[int, bool] = (-1, False)
    rescan_at: Millis | None = None
    mean_ms: float | None = None

    @classmethod
    def create(cls, me: PeerId, slots: int, coin: bytes = bytes(32)) -> Volunteer:
        """A volunteer that has not opened the job yet."""
        return cls(me, slots, Answers(me), coin)

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
        numbers = [*self.held, *self.answers.owing()]
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
        if self.answers.batches:
            entries.extend(self.answers.reveal(settlement, now, counts))
        settlement.stirred.clear()
        settlement.stirred_all = False
        if self.answers.ready:
            effects.extend(self.answers.commit(settlement))
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
        if number in self.held or number in self.answers.known or number in self.refused:
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
        return self.answers.leave(settlement)

    # ---- own frames --------------------------------------------------------------------------

    def written(
        self, settlement: Settlement, frame: FrameHash, entries: tuple[Entry, ...], now: Millis
    ) -> None:
        """A frame of our own is signed: there is room for more claims if it commits to answers."""
        soon = self.rescan_at is not None and self.rescan_at <= now + RESCAN_MS
        if soon and any(isinstance(entry, Commit) for entry in entries):
            self.rescan_at = None
        self.answers.written(settlement, frame, entries, now)

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
                        self.answers.heard(item)
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
        """The publisher wants more of these units."""
        self.rescan_at = None
        self.answers.wanted(settlement, numbers)

    # ---- what came of an execution -----------------------------------------------------------

    def executed_unit(
        self, settlement: Settlement, number: int, digest: Digest, length: int, wall_ms: int
    ) -> None:
        """The output is durably here: it will be committed to, late or not."""
        self.held.pop(number, None)
        before = float(wall_ms) if self.mean_ms is None else self.mean_ms
        self.mean_ms = 0.8 * before + 0.2 * wall_ms
        if number in self.answers.known or settlement.unit(number).final:
            return
        self.answers.add(number, digest, length)

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
        if self.me in unit.failures or number in self.answers.known or number in self.refused:
            return []
        self.refused[number] = True
        return [Failure(number, unit.attempt, f"{kind}: {reason}"[:200])]

    def unavailable_unit(self, number: int, now: Millis) -> list[Entry]:
        """The input could not be had (or the output is gone): leave the unit to others for now."""
        held = self.held.pop(number, None)
        self.answers.lost(number)
        self.rescan_at = Millis(now + OPEN_RETRY_MS)
        return [Release((number,))] if held is not None else []

    def deadlines(self, paused: bool) -> list[Millis]:
        """When this side wants to be ticked: at the first of these."""
        compare_at = self.answers.compare_at
        times = list(compare_at.values()) if self.open and compare_at else []
        if paused:
            times += [held.until for held in self.held.values()]
        else:
            if self.held:
                times += [held.renew_at for held in self.held.values()]
            if self.open_at is not None:
                times.append(self.open_at)
            if self.open and self.rescan_at is not None:
                times.append(self.rescan_at)
        times += self.answers.reveals()
        return times
