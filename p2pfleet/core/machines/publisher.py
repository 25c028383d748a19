"""The publisher's side of one job: fetch what is certified, so that its judge can settle it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import msgspec

from p2pfleet.core.effects import Effect, Fetch
from p2pfleet.core.machines.judge import Judge
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model.ids import Digest, Millis, PeerId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef

RETRY_MS = 2_000
RETRY_MAX_MS = 30_000
FETCHES_MAX = 64
FAILURES_LOST = 2
WANTED_MAX = 1024
REACH_MS = 180_000
REACH_AGAIN_MS = 5_000
UNREACHED_A_LOOK = 1_024
WAITS_MS = 3_000


class Publisher(msgspec.Struct):
    """Outputs wanted, to be looked at now (``ready``), under way, and to be tried again, by digest
    (equal outputs move once). None is to be tried again before ``look_at``.

    ``unreached`` is since when nobody who has an output was connected: in a large network that says
    nothing for ``reach_ms``, it takes the publisher a while to get round.
    """

    judge: Judge
    reach_ms: int = 0
    wanted: dict[Digest, list[int]] = {}
    ready: dict[Digest, bool] = {}
    fetching: dict[Digest, bool] = {}
    retry_at: dict[Digest, Millis] = {}
    failures: dict[Digest, int] = {}
    unreached: dict[Digest, Millis] = {}
    closing: bool = False
    look_at: Millis = Millis(0)

    def certified(self, settlement: Settlement, numbers: list[int]) -> None:
        """Note which of these units are certified, whose outputs are therefore wanted."""
        for number in numbers:
            unit = settlement.units[number]
            if unit.state != "certified" or unit.certificate is None:
                continue
            digest = unit.certificate.digest
            if digest in self.judge.here:
                continue
            units = self.wanted.setdefault(digest, [])
            self.ready[digest] = True
            self.retry_at.pop(digest, None)  # there may be a new voter who has it
            if number not in units:
                units.append(number)

    def advance(
        self,
        settlement: Settlement,
        now: Millis,
        here: Callable[[PeerId], bool],
        keepers: Callable[[Digest, Callable[[PeerId], bool]], list[PeerId]] = lambda *_: [],
    ) -> list[Effect]:
        """Fetch what is wanted and not under way, a bounded number at a time: from those who voted
        for it, then from its ``keepers``."""
        effects: list[Effect] = []
        if self.retry_at and self.look_at <= now:
            self._again([digest for digest, at in self.retry_at.items() if at <= now])
            self.look_at = min(self.retry_at.values(), default=now)
        for digest in list(self.ready):
            if len(self.fetching) >= FETCHES_MAX:
                break
            del self.ready[digest]
            if digest in self.fetching or digest not in self.wanted:
                continue
            voters, length = self._voters(settlement, digest)
            if not voters:  # the unit turned to another answer since
                del self.wanted[digest]
                self.failures.pop(digest, None)
                self.unreached.pop(digest, None)
                continue
            sources = tuple(peer for peer in voters if here(peer))
            sources += tuple(peer for peer in keepers(digest, here) if peer not in sources)
            if not sources:
                since = self.unreached.setdefault(digest, now)
                if now - since >= self.reach_ms:
                    self._later(digest, now)
                else:
                    self._retry(digest, Millis(now + REACH_AGAIN_MS))
                continue
            self.fetching[digest] = True
            ref = BlobRef(cid_from_sha256(digest), 0, length, bytes(digest))
            effects.append(Fetch(settlement.job, ref, sources))
        return effects

    def _again(self, digests: Iterable[Digest]) -> None:
        """Try these again now."""
        for digest in list(digests):
            del self.retry_at[digest]
            self.ready[digest] = True

    def _retry(self, digest: Digest, at: Millis) -> None:
        self.ready.pop(digest, None)
        self.look_at = min(self.look_at, at) if self.retry_at else at
        self.retry_at[digest] = at

    def _voters(self, settlement: Settlement, digest: Digest) -> tuple[list[PeerId], int]:
        for number in self.wanted[digest]:
            unit = settlement.units[number]
            if unit.certificate is not None and unit.certificate.digest == digest:
                holders = unit.holders(digest)
                if not holders:
                    continue
                lengths = [length for _, length in holders]
                # Voters for one digest can only disagree on the length if one of them lies about
                # it; the commonest length comes first, and after a failure the next one.
                ranking = sorted(set(lengths), key=lambda length: (-lengths.count(length), length))
                length = ranking[self.failures.get(digest, 0) % len(ranking)]
                voters = [peer for peer, theirs in holders if theirs == length]
                turn = number % len(voters)
                return voters[turn:] + voters[:turn], length
        return [], 0

    def _later(self, digest: Digest, now: Millis) -> None:
        count = self.failures[digest] = self.failures.get(digest, 0) + 1
        delay = min(RETRY_MAX_MS, RETRY_MS * 2 ** min(count - 1, 8))
        self._retry(digest, Millis(now + delay))

    def arrived(self, ref: BlobRef) -> list[int]:
        """An output is durably here; returns the units that wait for it."""
        digest = Digest(ref.sha256)
        self.fetching.pop(digest, None)
        self.failures.pop(digest, None)
        self.unreached.pop(digest, None)
        self.judge.here[digest] = True
        return self.wanted.pop(digest, [])

    def lost(self, digest: Digest, numbers: list[int], now: Millis) -> None:
        """An output of these units is gone: get it again, but not at once, for it may be the disk's
        fault."""
        units = self.wanted.setdefault(digest, [])
        units.extend(number for number in numbers if number not in units)
        self._later(digest, now)

    def failed(self, ref: BlobRef, now: Millis) -> None:
        """Nobody delivered it: try again later."""
        digest = Digest(ref.sha256)
        if self.fetching.pop(digest, None) is not None:
            self._later(digest, now)

    def lacking(
        self, settlement: Settlement, here: Callable[[PeerId], bool]
    ) -> dict[int, list[PeerId]]:
        """By shard, who has outputs that are wanted and of which nobody is connected, those first
        that have most of them."""
        found: dict[int, Counter[PeerId]] = {}
        for digest in islice(self.unreached, UNREACHED_A_LOOK):
            if digest not in self.wanted or digest in self.fetching:
                continue
            voters, _ = self._voters(settlement, digest)
            if not any(map(here, voters)):
                shard = settlement.shard(self.wanted[digest][0])
                found.setdefault(shard, Counter()).update(voters)
        return {
            shard: sorted(counted, key=lambda peer: (-counted[peer], peer))
            for shard, counted in found.items()
        }

    def wants(
        self, settlement: Settlement, turn: int, now: Millis, counts: Callable[[PeerId], bool]
    ) -> tuple[int, ...]:
        """Units that volunteers may think done and that are not; of many, some at each ``turn``.

        Those whose output could not be had from anybody who voted for it, and those that got
        answers and wait for more: the publisher may have withdrawn votes that others still count.
        Where the replicas are used up, it is endorsements and further attempts that are missing.
        """
        waiting = [
            number
            for number in settlement.begun
            if (unit := settlement.units.get(number)) is not None
            and unit.votes
            and now - unit.latest_vote > WAITS_MS
            and (
                unit.replicas >= settlement.manifest.stop.replicas_max
                or settlement.missing(number, settlement.flying(number, now, counts), now)
            )
        ]
        units = sorted({*self.lost_units(), *waiting})
        start = turn * WANTED_MAX % max(1, len(units))
        return tuple(sorted((units[start:] + units[:start])[:WANTED_MAX]))

    def lost_units(self) -> list[int]:
        """Units whose output could not be had from anybody who may have it."""
        if not self.failures:
            return []
        return [
            number
            for digest, numbers in self.wanted.items()
            if self.failures.get(digest, 0) >= FAILURES_LOST
            for number in numbers
        ]

    def peer_came(self, has: Callable[[Digest, Sequence[int]], bool]) -> None:
        """Somebody is here who ``has`` (by the digest and its units) some of what is missing: do
        not wait any longer for that."""
        self._again(digest for digest in self.retry_at if has(digest, self.wanted.get(digest, [])))

    def complete(self, settlement: Settlement) -> bool:
        """Whether every unit is settled or failed, and nothing more will be learnt of a peer."""
        if self.judge.busy or self.judge.checking:
            return False
        return settlement.count("settled") + settlement.count("failed") == settlement.manifest.units

    def deadline(self) -> Millis | None:
        if len(self.fetching) >= FETCHES_MAX:
            return None  # room is made by an arrival or a failure, not by time
        return self.look_at if self.retry_at else None
