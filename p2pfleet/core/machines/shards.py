"""Which shards of one job this node serves, who else does, and what is heard of the others.

A volunteer is at home in the first shard of its preference that is not done and has room for it,
and helps one that starves beside it. Others' words on shards are hearsay: they decide where it
looks, and what it finds there decides the rest, so that a liar costs it a detour at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from p2pfleet.core.effects import Want
from p2pfleet.core.model.ids import JobId, Millis, PeerId
from p2pfleet.core.rules import shards as rule
from p2pfleet.core.wire.messages import SHARD_ROWS_MAX, Manifest, ShardRow, ShardsSummary

LOOK_MS = 5_000
DWELL_MS = 30_000
HESITATE_MS = 10_000
STEP_MS = 10_000
UNHEARD_MS = 60_000
STALE_MS = 300_000
TELL_MS = 600_000
RECALLED_MS = 30_000
DOUBT_MS = 60_000
MEMBERS_MAX = 256
HELD_MAX = 64
AGE_MAX_S = 3_600
VISIT_MS = 5_000
VISITS = 16
VISITED = 2
KEPT_KNOWN = 8
CALL_MORE_MS = 60_000
UNIT_MS = 10_000
HANDS_STALE_MS = 30_000
ANSWER_MS = 5_000
SETTLE_IN_MS = 10_000
CAUGHT_UP_MS = 1_000


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """How many volunteers serve a shard, how many of its units are undecided, and when."""

    members: int
    open: int
    at: Millis


class Around(msgspec.Struct, frozen=True):
    """What a look around needs to know of this node's own work.

    ``need`` is how many volunteers a unit wants at first; ``undecided`` how many units of a shard
    are open by the frames that are here; ``free`` whether nothing of a shard is claimed or owed any
    more; ``idle`` whether there was nothing to do when this node last looked for units;
    ``unit_ms`` how long it takes for one.
    """

    need: int
    undecided: Callable[[int], int]
    free: Callable[[int], bool]
    idle: bool = True
    unit_ms: int = UNIT_MS


class Shards(msgspec.Struct):
    """``home`` and ``helped`` are the shards that this node serves, ``since`` is when it began to,
    and ``met`` when it had found somebody there;
    ``known`` are those of which it has frames. In the home that it is ``leaving``, because that is
    too full, it begins nothing any more.

    ``members`` and ``holders`` are by shard who of those that are here serves it, or keeps its
    frames; ``heard`` is what others tell. ``starving`` says since when a shard has too few members,
    ``spare_since`` since when there is nothing left to do at home, ``recalled`` when the publisher
    last wanted something of one that was done.
    """

    me: PeerId
    salt: bytes
    count: int
    crowd: int
    began: Millis
    dwell_ms: int
    home: int | None = None
    helped: int | None = None
    leaving: int | None = None
    since: dict[int, Millis] = {}
    met: dict[int, Millis] = {}
    known: dict[int, bool] = {}
    members: dict[int, dict[PeerId, bool]] = {}
    holders: dict[int, dict[PeerId, bool]] = {}
    serves: dict[PeerId, list[int]] = {}
    holds: dict[PeerId, list[int]] = {}
    heard: dict[int, Heard] = {}
    starving: dict[int, Millis] = {}
    recalled: dict[int, Millis] = {}
    order: list[int] = []
    look_at: Millis | None = None
    doubt_at: Millis | None = None
    spare_since: Millis | None = None
    visited: list[int] = []
    visit_at: Millis = Millis(0)
    visits: int = 0
    turn: int = 0
    told_at: dict[PeerId, Millis] = {}

    @classmethod
    def create(cls, me: PeerId, manifest: Manifest, now: Millis) -> Shards:
        """Of a job that this node has just heard of."""
        dwell_ms = max(DWELL_MS, manifest.lease_ms)
        return cls(me, manifest.salt, manifest.shards, manifest.trust.crowd, now, dwell_ms)

    # ---- who serves what ---------------------------------------------------------------------

    @property
    def served(self) -> tuple[int, ...]:
        """The shards that this node serves, its home first."""
        if self.count == 1:
            return (0,)
        home, helped = self.home, self.helped
        if home is None:
            return () if helped is None else (helped,)
        return (home,) if helped is None else (home, helped)

    def joined(self, peer: PeerId, shard: int) -> bool:
        """``peer`` serves a shard; whether that is news."""
        mates = self.members.setdefault(shard, {})
        if peer in mates or len(mates) >= MEMBERS_MAX:
            return False
        mates[peer] = True
        self._drop(self.holders, self.holds, peer, shard)
        self._note(self.members, self.serves, peer, shard, rule.SERVED_MAX)
        return True

    def left(self, peer: PeerId, shard: int) -> bool:
        """``peer`` serves a shard no more, but keeps its frames; whether that is news."""
        self._drop(self.members, self.serves, peer, shard)
        keepers = self.holders.setdefault(shard, {})
        if peer in keepers or len(keepers) >= MEMBERS_MAX:
            return False
        keepers[peer] = True
        self._note(self.holders, self.holds, peer, shard, HELD_MAX)
        return True

    def gone(self, peer: PeerId) -> None:
        """``peer`` is not here any more."""
        self.told_at.pop(peer, None)
        for groups, of in ((self.members, self.serves), (self.holders, self.holds)):
            for shard in list(of.get(peer, ())):
                self._drop(groups, of, peer, shard)

    def _note(
        self,
        groups: dict[int, dict[PeerId, bool]],
        of: dict[PeerId, list[int]],
        peer: PeerId,
        shard: int,
        most: int,
    ) -> None:
        mine = of.setdefault(peer, [])
        mine.append(shard)
        while len(mine) > most:
            self._drop(groups, of, peer, mine[0])

    @staticmethod
    def _drop(
        groups: dict[int, dict[PeerId, bool]],
        of: dict[PeerId, list[int]],
        peer: PeerId,
        shard: int,
    ) -> None:
        group = groups.get(shard)
        if group is None or group.pop(peer, None) is None:
            return
        if not group:
            del groups[shard]
        of[peer].remove(shard)
        if not of[peer]:
            del of[peer]

    def having(self, shard: int) -> dict[PeerId, bool]:
        """Who of those that are here has frames of a shard."""
        return {**self.members.get(shard, {}), **self.holders.get(shard, {})}

    def speaks(self, shard: int) -> bool:
        """Whether this node is one of those that tell others of a shard."""
        return self.me in rule.keepers(self.salt, shard, [self.me, *self.having(shard)])

    # ---- hearsay -----------------------------------------------------------------------------

    def hear(self, rows: tuple[ShardRow, ...], now: Millis) -> None:
        """Somebody tells of shards: the latest word on each stays."""
        for row in rows:
            if row.shard >= self.count or row.shard in self.served:
                continue
            at = Millis(now - 1_000 * row.age_s)
            earlier = self.heard.get(row.shard)
            if earlier is None or earlier.at < at:
                self.heard[row.shard] = Heard(row.members, row.open, at)

    def tell(
        self, job: JobId, undecided: Callable[[int], int], need: int, now: Millis
    ) -> ShardsSummary | None:
        """What to tell the next peer: of own shards, of starving ones, of the others in turn."""
        for shard in self.known:
            if shard in self.served:  # who has just come does not know yet who else is there
                knows = now - self.since.get(shard, now) >= SETTLE_IN_MS
            else:
                knows = undecided(shard) == 0
            if knows and self.speaks(shard):
                self._speak(shard, undecided(shard), now)
        fresh = [
            shard
            for shard, heard in self.heard.items()
            if not heard.open or now - heard.at < TELL_MS
        ]
        if not fresh:
            return None
        first = [shard for shard in self.served if shard in self.heard]
        starve = [shard for shard in fresh if self.heard[shard].members < need]
        starve = [shard for shard in starve if self.heard[shard].open][: SHARD_ROWS_MAX // 2]
        rest = sorted({*fresh} - {*first, *starve})
        room = SHARD_ROWS_MAX - len(first) - len(starve)
        start = self.turn % max(1, len(rest))
        self.turn += room
        picked = sorted({*first, *starve, *(rest[start:] + rest[:start])[:room]})
        rows = []
        for shard in picked:
            heard = self.heard[shard]
            age_s = min(AGE_MAX_S, max(0, now - heard.at) // 1_000)
            rows.append(ShardRow(shard, min(heard.members, 65_535), heard.open, age_s))
        return ShardsSummary(job, tuple(rows))

    def _speak(self, shard: int, undecided: int, now: Millis) -> None:
        mates = len(self.members.get(shard, ())) + (shard in self.served)
        self.heard[shard] = Heard(mates, undecided, now)

    # ---- whom to be connected with -----------------------------------------------------------

    def wants(self, job: JobId, undecided: Callable[[int], int], publisher: PeerId) -> list[Want]:
        """As a volunteer: mates in the shards that it serves, and to be found for those that are
        done and of which it is a record keeper; and a place for the publisher when it comes."""
        found = [
            Want(rule.meeting_key(job, shard), rule.MATES_MAX, True, self._here(shard))
            for shard in self.served
        ]
        done = [shard for shard in self.known if shard not in self.served and not undecided(shard)]
        kept = [shard for shard in done if self.speaks(shard)]
        found.extend(
            Want(rule.meeting_key(job, shard), 0, provide=True) for shard in kept[-KEPT_KNOWN:]
        )
        return [*found, Want(rule.meeting_key(job, 0), 0, False, (publisher,))]

    def visit(
        self,
        job: JobId,
        final: Callable[[int], bool],
        now: Millis,
        lacking: Mapping[int, Sequence[PeerId]],
    ) -> list[Want]:
        """As the publisher: a few members of a few shards that are not final, in turn, and first
        of those of which nobody is here; and a few of those that have what it is ``lacking``."""
        if now >= self.visit_at:
            self.visit_at = Millis(now + VISIT_MS)
            turn = [(self.visits + step) % self.count for step in range(self.count)]
            left = [shard for shard in turn if not final(shard)]
            alone = [shard for shard in left if shard not in self.members]
            rest = [shard for shard in left if shard in self.members]
            self.visited = sorted((alone + rest)[:VISITS])
            if left:
                self.visits = left[min(VISITS, len(left)) - 1] + 1
        return [
            Want(
                rule.meeting_key(job, shard),
                VISITED,
                False,
                self._here(shard)[:VISITED],
                tuple(lacking.get(shard, ())[:VISITED]),
            )
            for shard in self.visited
        ]

    def _here(self, shard: int) -> tuple[PeerId, ...]:
        return tuple(sorted(self.having(shard))[: rule.MATES_MAX])

    # ---- where to work -----------------------------------------------------------------------

    def recall(self, shard: int, now: Millis) -> None:
        """The publisher wants something of a shard, done or not."""
        self.recalled[shard] = now
        self.look_at = now

    def look(self, around: Around, now: Millis) -> tuple[list[int], list[int]]:
        """Look where this node is needed; returns the shards that it serves now and did not
        before, and those that it leaves."""
        self.look_at = Millis(now + LOOK_MS)
        if not self.order:
            self.order = rule.preference(self.salt, self.count, self.me)
        before = self.served
        self.leaving = None
        over = self.home is not None and self._over(self.home, around, now)
        self.spare_since = (self.spare_since or now) if over else None
        if self.home is None or over or self._crowded(now):
            found = self._next(around, now)
            if found is not None and self.home is not None and not around.free(self.home):
                self.leaving = self.home
            elif found is not None:
                if found == self.helped:
                    self.helped = None
                self.home = found
        self._help(around, now)
        joined = [shard for shard in self.served if shard not in before]
        left = [shard for shard in before if shard not in self.served]
        for shard in left:
            self.since.pop(shard, None)
            self.met.pop(shard, None)
        for shard in joined:
            self.since[shard] = now
            self.known[shard] = True
        if any(not self.settled_in(shard, now) for shard in self.served):
            self.look_at = Millis(now + CAUGHT_UP_MS)
        return joined, left

    def settled_in(self, shard: int, now: Millis) -> bool:
        """Whether this node has been in a shard for long enough to know what others do there: who
        begins at once does what has been done already."""
        if self.count == 1 or now - self.since.get(shard, now) >= SETTLE_IN_MS:
            return True
        if not self.members.get(shard):
            return False
        return now - self.met.setdefault(shard, now) >= CAUGHT_UP_MS

    def _over(self, shard: int, around: Around, now: Millis) -> bool:
        """Whether there is nothing left to do in a shard."""
        return around.idle and around.free(shard) and self._done(shard, around, now)

    def _crowded(self, now: Millis) -> bool:
        """Whether there has been no room at home for a while."""
        if self.home is None or now - self.since.get(self.home, now) < self.dwell_ms:
            return False
        mates = list(self.members.get(self.home, ()))
        return rule.crowded_out(self.salt, self.home, self.me, mates)

    def _done(self, shard: int, around: Around, now: Millis) -> bool:
        recalled = self.recalled.get(shard)
        if recalled is not None and now - recalled < RECALLED_MS:
            return False
        if shard in self.known and not around.undecided(shard):
            return True
        heard = None if shard in self.served else self.heard.get(shard)
        return heard is not None and not heard.open

    def _lacks_hands(self, shard: int, around: Around, now: Millis) -> bool:
        """Whether those who serve a shard have work for more than a minute. Who was at home
        elsewhere has to get all its frames; it looks at unknown ones now and then only."""
        if self.home is None or shard in self.recalled or not self._done(self.home, around, now):
            return True
        heard = self.heard.get(shard)
        if heard is None or now - heard.at > HANDS_STALE_MS:
            return False
        lacking = rule.lacking(heard.open, around.need, around.unit_ms, heard.members)
        if not lacking or self.spare_since is None:
            return False
        steps = (now - self.spare_since) // CALL_MORE_MS  # not all who are done at once
        return rule.called(self.salt, shard, self.me, lacking, self._everybody(), steps)

    def _everybody(self) -> int:
        """How many volunteers the job has, as far as is known."""
        return max(self.crowd, sum(heard.members for heard in self.heard.values()))

    def _next(self, around: Around, now: Millis) -> int | None:
        full: int | None = None
        doubtful: int | None = None
        for shard in self.order:
            if shard == self.home:
                continue
            if self._done(shard, around, now) or not self._lacks_hands(shard, around, now):
                if doubtful is None and shard not in self.known:
                    doubtful = shard
                continue
            heard = self.heard.get(shard)
            if heard is None or heard.members < rule.MATES_MAX or now - heard.at > STALE_MS:
                return shard
            if full is None:
                full = shard
        if self.home is None:
            return full if full is not None else self.order[0] if doubtful is None else doubtful
        # That all are done is what others say: see for yourself, now and then, and not all at once.
        if doubtful is None or not self._done(self.home, around, now):
            return None
        if self.doubt_at is None:
            chance = int.from_bytes(rule.rank(self.salt, self.home, self.me)[-4:], "big")
            self.doubt_at = Millis(now + DOUBT_MS + chance % DOUBT_MS)
        if self.doubt_at > now:
            return None
        self.doubt_at = None
        return doubtful

    def _members(self, shard: int, now: Millis) -> int | None:
        """How many volunteers serve a shard, as far as is known."""
        if shard in self.served:
            return 1 + len(self.members.get(shard, ()))
        heard = self.heard.get(shard)
        if heard is not None and now - heard.at < STALE_MS:
            return max(heard.members, len(self.members.get(shard, ())))
        if self.members.get(shard):
            return None  # whom one knows by chance are not all; a few who are all will say so
        return 0 if now - self.began >= UNHEARD_MS else None

    def _starving(self, around: Around, now: Millis) -> dict[int, int]:
        """Shards that have starved for a while and to which this node is called: how many members
        each has, this node not counted."""
        found: dict[int, int] = {}
        everybody = self._everybody()
        for shard in range(self.count):
            members = None if shard == self.home else self._members(shard, now)
            if members is not None and shard == self.helped:
                members -= 1
            if members is None or members >= around.need or self._done(shard, around, now):
                self.starving.pop(shard, None)
                continue
            for_ms = now - self.starving.setdefault(shard, now) - HESITATE_MS
            if for_ms < 0:
                continue
            lacking = around.need - members
            steps = for_ms // STEP_MS
            if rule.called(self.salt, shard, self.me, lacking, everybody, steps):
                found[shard] = members
        return found

    def _dispensable(self, shard: int, need: int) -> bool:
        """Whether a shard has enough members without this node: those of the lowest ranks stay, so
        that not all of its helpers leave at once."""
        mine = rule.rank(self.salt, shard, self.me)
        mates = self.members.get(shard, ())
        return sum(rule.rank(self.salt, shard, mate) < mine for mate in mates) >= need

    def _help(self, around: Around, now: Millis) -> None:
        held = self.helped
        if held is not None and not around.free(held):
            return
        starving = self._starving(around, now)
        order = rule.most_starving(self.salt, starving)
        if held is None:
            self.helped = order[0] if order else None
            return
        over = self._over(held, around, now)
        dwelt = now - self.since.get(held, now) >= self.dwell_ms
        if dwelt and held not in starving and self._dispensable(held, around.need):
            self.helped = order[0] if order else None
            return
        if over or (dwelt and held in starving):
            others = order if over else order[: order.index(held)]
            others = [shard for shard in others if shard != held]
            if others:
                self.helped = others[0]
