"""The volunteer's side of one job: choose units, have them run, vote.

What it holds under a claim is handed to the runtime at once (which fetches inputs while others
compute) and comes back as one event a unit. A unit that gets decided meanwhile, or on which others
with a better rank have claims enough, is released.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p2pfleet.core.effects import Effect, Execute, OpenJob, Withdraw
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model.ids import Digest, Millis, PeerId
from p2pfleet.core.rules import claims as rule
from p2pfleet.core.wire.messages import Claim, Entry, Failure, Release, Reveal

OPEN_RETRY_MS = 2_000
OPEN_RETRY_MAX_MS = 60_000
RESCAN_MS = 500
SCAN_UNITS = 4_096
YOUNG_CLAIM_MS = 1_000
SLOW_UNIT_MS = 2_000
RELEASED_FAULTS = ("wall", "killed", "crash")
MISHAPS_MAX = 3

Counts = Callable[[PeerId], bool]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A claim of our own: since when, until when, and when to renew it if the unit still runs."""

    since: Millis
    until: Millis
    renew_at: Millis


class Volunteer(msgspec.Struct):
    """Claims of our own, the order in which we look for more, and how long units take here.

    ``answered`` are the units whose vote or failure is written, be it out already or not, and those
    that this machine is too slow for; ``mishaps`` counts executions that failed for our own sake.
    """

    me: PeerId
    slots: int
    open: bool = False
    opening: bool = False
    open_at: Millis | None = None
    open_failures: int = 0
    order: list[int] = []
    cursor: int = 0
    held: dict[int, Held] = {}
    answered: dict[int, bool] = {}
    mishaps: dict[int, int] = {}
    rescan_at: Millis | None = None
    mean_ms: float | None = None

    # ---- the job itself ----------------------------------------------------------------------

    def opened(
        self, settlement: Settlement, now: Millis, sources: tuple[PeerId, ...]
    ) -> list[Effect]:
        """Model and table are here. Claims of ours from before a restart are taken up again."""
        manifest = settlement.manifest
        self.open = True
        self.opening = False
        self.order = rule.preference(manifest.salt, manifest.units, self.me)
        effects: list[Effect] = []
        for number in sorted(settlement.units):
            until = settlement.units[number].claims.get(self.me)
            if until is not None and until > now and number not in self.held:
                self.held[number] = self._hold(now, until)
                effects.append(Execute(settlement.job, number, sources))
        return effects

    @staticmethod
    def _hold(now: Millis, until: Millis) -> Held:
        return Held(now, until, Millis(until - (until - now) // 3))

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
        sources: tuple[PeerId, ...],
        volunteers: int,
        paused: bool,
    ) -> tuple[list[Entry], list[Effect]]:
        """Give up what is not needed; unless the owner paused the node, take on what is.

        ``sources`` may have the inputs; ``volunteers`` share the work, this one among them.
        """
        entries, effects = self._give_up(settlement, now, counts)
        if paused:
            return entries, effects
        entries.extend(self._renew(settlement, now))
        remaining = settlement.count("open") * settlement.manifest.stop.quorum
        target = rule.lease_units(self.mean_ms, self.slots, remaining, volunteers)
        if self.rescan_at is not None and self.rescan_at <= now:
            self.rescan_at = None
        if self.open and len(self.held) <= target // 2 and self.rescan_at is None:
            picked = self._pick(settlement, now, counts, target - len(self.held))
            self.rescan_at = None if picked else Millis(now + RESCAN_MS)
            if picked:
                until = Millis(now + settlement.manifest.lease_ms)
                entries.append(Claim(tuple(sorted(picked))))
                for number in picked:
                    self.held[number] = self._hold(now, until)
                    effects.append(Execute(settlement.job, number, sources))
        return entries, effects

    def _renew(self, settlement: Settlement, now: Millis) -> list[Entry]:
        due = sorted(number for number, held in self.held.items() if held.renew_at <= now)
        if not due:
            return []
        until = Millis(now + settlement.manifest.lease_ms)
        for number in due:
            renewed = self._hold(now, until)
            self.held[number] = Held(self.held[number].since, until, renewed.renew_at)
        return [Claim(tuple(due))]

    def _give_up(
        self, settlement: Settlement, now: Millis, counts: Counts
    ) -> tuple[list[Entry], list[Effect]]:
        released: list[int] = []
        lapsed: list[int] = []
        stop_now: list[int] = []
        for number, held in self.held.items():
            wanted = settlement.wanted(number)
            others = [p for p in settlement.claimants(number, now, counts) if p != self.me]
            if held.until <= now:
                lapsed.append(number)
            elif wanted <= len(others) and rule.gives_way(
                settlement.manifest.salt, number, self.me, others, wanted
            ):
                released.append(number)
                young = now - held.since < YOUNG_CLAIM_MS
                if young and (self.mean_ms is None or self.mean_ms > SLOW_UNIT_MS):
                    stop_now.append(number)
        for number in released + lapsed:
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

    def _pick(self, settlement: Settlement, now: Millis, counts: Counts, room: int) -> list[int]:
        picked: list[int] = []
        total = len(self.order)
        for _ in range(min(total, SCAN_UNITS)):
            if len(picked) >= room:
                break
            number = self.order[self.cursor]
            self.cursor = (self.cursor + 1) % total
            if number in self.held or number in self.answered:
                continue
            unit = settlement.units.get(number)
            if unit is not None and (self.me in unit.votes or self.me in unit.failures):
                continue
            others = [p for p in settlement.claimants(number, now, counts) if p != self.me]
            if settlement.wanted(number) > len(others):
                picked.append(number)
        return picked

    def release_all(self) -> list[Entry]:
        """Give every claim back (the owner stops the node)."""
        numbers = tuple(sorted(self.held))
        self.held.clear()
        return [Release(numbers)] if numbers else []

    def executed_unit(
        self, settlement: Settlement, number: int, digest: Digest, length: int, wall_ms: int
    ) -> list[Entry]:
        """The output is durably here: vote for it, late or not."""
        self.held.pop(number, None)
        before = float(wall_ms) if self.mean_ms is None else self.mean_ms
        self.mean_ms = 0.8 * before + 0.2 * wall_ms
        unit = settlement.unit(number)
        if self.me in unit.votes or number in self.answered:
            return []
        self.answered[number] = True
        return [Reveal(number, unit.attempt, digest, length)]

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
                self.answered[number] = True
            self.rescan_at = Millis(now + OPEN_RETRY_MS)  # others first: they may do better
            return [Release((number,))] if held is not None else []
        unit = settlement.unit(number)
        if self.me in unit.votes or self.me in unit.failures or number in self.answered:
            return []
        self.answered[number] = True
        return [Failure(number, unit.attempt, f"{kind}: {reason}"[:200])]

    def unavailable_unit(self, number: int, now: Millis) -> list[Entry]:
        """The input could not be had: leave the unit to others, look again a little later."""
        held = self.held.pop(number, None)
        self.rescan_at = Millis(now + OPEN_RETRY_MS)
        return [Release((number,))] if held is not None else []

    def deadline(self, paused: bool) -> Millis | None:
        times: list[Millis | None] = []
        if not paused:
            times.extend((self.open_at, self.rescan_at if self.open else None))
        times.extend(held.until if paused else held.renew_at for held in self.held.values())
        return min((at for at in times if at is not None), default=None)
