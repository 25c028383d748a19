"""The blobs of one job under custody: who keeps what, what is short of copies, what to do about it.

Inputs (model, unit table, packs) are kept from the beginning. The output of a certified unit is
held by those who voted for it; only while the publisher is away, and fewer than ``COPIES`` of its
holders are left, others take it into custody as well. Who keeps a blob has said so in a frame, so
that all of this is found again after a restart; whom to believe is each node's own business.
Everything goes by the local monotonic clock, and is looked at once in a while, not at every frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice, takewhile

import msgspec

from p2pfleet.core.effects import Challenge, Effect, Fetch
from p2pfleet.core.events import KnownPacks
from p2pfleet.core.machines.challenges import LOST, Challenges
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.model.ids import Digest, Millis, PeerId, cid_from_sha256, cid_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules.custody import COPIES, meant, place, wait_ms
from p2pfleet.core.wire.messages import CUSTODY_ITEMS_MAX, Drop, Entry, Frame, Keep, Manifest

LOOK_MS = 1_000
SHORT_MS = 4_000
AWAY_MS = 5_000
GRACE_MS = 30_000
PARTED_MS = 600_000
ROUND_MS = 900_000
RETRY_MS = 3_000
RETRY_MAX_MS = 60_000
FETCHES_MAX = 8
OUTPUTS_A_LOOK = 512
INPUTS_A_LOOK = 32
SLACK = 1


class Neighbours(msgspec.Struct, frozen=True):
    """What custody needs to know of the others, now.

    ``volunteers`` take part in the job, are here and run units, sorted; ``present`` tells whether a
    peer is here, ``counts`` whether its word counts; ``room`` whether so many more bytes may be
    kept. ``willing``: this node is a volunteer itself, and may begin something; ``busy``: it is
    going to answer this unit; ``away``: the publisher is; ``shards``: it serves these.
    """

    volunteers: Sequence[PeerId]
    present: Callable[[PeerId], bool]
    counts: Callable[[PeerId], bool]
    room: Callable[[int], bool]
    willing: bool
    busy: Callable[[int], bool] = lambda number: False
    away: bool = False
    shards: tuple[int, ...] = (0,)


class Custody(msgspec.Struct):
    """``inputs`` are the job's model, table and packs with their lengths (``shards`` those of whose
    units a pack holds inputs; ``concerning`` what those who serve these shards look after),
    ``outputs`` the units by the digest that is certified for them.

    ``claimed`` says who keeps what by its frames, ``custodians`` who ever kept something; ``mine``
    what this node keeps, with lengths (``unsure``: since before a restart, and not looked for yet),
    ``used`` their sum with what is being fetched. ``short`` is since when a blob has too few
    copies, ``absent`` since when a peer is away, ``away_at`` since when the publisher is. Who is
    away counts as a keeper for ``grace_ms``, who ``parted`` in good order for ``PARTED_MS``.
    An output may be given for custody to so many of the first by rank as are ``offered`` it, of the
    volunteers that were ``nearby`` at the last look; ``entitled`` are those who were. ``arrived``
    waits to be signed for. ``stirred`` are blobs about which something changed since the last look;
    those that are short are looked at again when they have been ``waiting`` for a while;
    ``around`` is who was there then. Inputs are looked at in ``turn``. ``kept_inputs`` says how
    many inputs each custodian keeps, by which ``ordered`` sources are; it is counted anew when
    ``claims_changed``.
    """

    me: PeerId
    challenges: Challenges
    grace_ms: int = GRACE_MS
    inputs: dict[Digest, int] = {}
    shards: dict[Digest, tuple[int, ...]] = {}
    concerning: tuple[tuple[int, ...], tuple[Digest, ...]] = ((), ())
    known: bool = False
    outputs: dict[Digest, list[int]] = {}
    claimed: dict[Digest, dict[PeerId, bool]] = {}
    custodians: dict[PeerId, bool] = {}
    mine: dict[Digest, int] = {}
    unsure: dict[Digest, bool] = {}
    used: int = 0
    fetching: dict[Digest, int] = {}
    todo: list[Digest] = []
    retry_at: dict[Digest, Millis] = {}
    retries: dict[Digest, int] = {}
    short: dict[Digest, Millis] = {}
    absent: dict[PeerId, Millis] = {}
    parted: dict[PeerId, bool] = {}
    offered: dict[Digest, int] = {}
    entitled: dict[Digest, dict[PeerId, bool]] = {}
    nearby: tuple[PeerId, ...] = ()
    arrived: dict[Digest, bool] = {}
    away_at: Millis | None = None
    look_at: Millis | None = None
    stirred: dict[Digest, bool] = {}
    waiting: dict[Digest, Millis] = {}
    around: tuple[tuple[PeerId, ...], ...] = ()
    kept_inputs: dict[PeerId, int] = {}
    turn: int = 0
    claims_changed: bool = True
    ordered: tuple[tuple[PeerId, ...], tuple[PeerId, ...]] | None = None

    @classmethod
    def create(cls, me: PeerId, coin: bytes, visits: bool = False) -> Custody:
        """Of a job of which nothing is known yet; ``coin`` draws challenges. Who ``visits`` the
        keepers in turn, as the publisher of many shards, believes them until its next round."""
        return cls(me, Challenges(me, coin), ROUND_MS if visits else GRACE_MS)

    # ---- what is known -----------------------------------------------------------------------

    def inputs_known(self, manifest: Manifest, packs: KnownPacks, now: Millis) -> None:
        """The unit table is here: which packs there are, how long each is, and whom it concerns."""
        if self.known:
            return
        self.known = True
        self.inputs[Digest(cid_sha256(manifest.model))] = manifest.model_bytes
        self.inputs[Digest(cid_sha256(manifest.table))] = manifest.table_bytes
        for digest, length, concerned in packs:
            self.inputs[digest] = length
            self.shards[digest] = concerned
        self.claims_changed = True
        self.concerning = ((), ())
        self.look_at = now

    def applied(self, frame: Frame) -> None:
        """A frame of anybody's was taken in."""
        for entry in frame.entries:  # not by patterns, see rules.admission
            if type(entry) is Keep:
                self.claims_changed = True
                self.custodians[frame.author] = True
                for digest in entry.digests:
                    self.claimed.setdefault(digest, {})[frame.author] = True
                    self.stirred[digest] = True
                    if frame.author == self.me and digest not in self.mine:
                        if digest not in self.arrived:  # said before a restart
                            self.unsure[digest] = True
                        self.arrived.pop(digest, None)
                        self.mine[digest] = 0
            elif type(entry) is Drop:
                self.claims_changed = True
                for digest in entry.digests:
                    self.claimed.get(digest, {}).pop(frame.author, None)
                    self.stirred[digest] = True
                    if frame.author == self.me:
                        self.used -= self.mine.pop(digest, 0)
                        self.unsure.pop(digest, None)

    def certified(self, settlement: Settlement, numbers: Iterable[int]) -> None:
        """These units changed: note which digest is certified for each now."""
        for number in numbers:
            unit = settlement.units.get(number)
            if unit is None or unit.certificate is None:
                continue
            units = self.outputs.setdefault(unit.certificate.digest, [])
            self.stirred[unit.certificate.digest] = True
            if number not in units:
                units.append(number)

    def keepers(self, digest: Digest, near: Neighbours, now: Millis) -> list[PeerId]:
        """Who keeps a blob by its own word, is here (or was a moment ago), and is believed; sorted.

        This node is among them if it keeps it.
        """
        return [
            peer
            for peer in sorted(self.claimed.get(digest, ()))
            if peer == self.me or self._counts(digest, peer, near, now)
        ]

    def _counts(self, digest: Digest, peer: PeerId, near: Neighbours, now: Millis) -> bool:
        if self.challenges.caught(digest, peer) or not near.counts(peer):
            return False
        return self._near(peer, near, now)

    def _near(self, peer: PeerId, near: Neighbours, now: Millis) -> bool:
        return near.present(peer) or self._short_of_grace(peer, now)

    def _short_of_grace(self, peer: PeerId, now: Millis) -> bool:
        grace_ms = max(self.grace_ms, PARTED_MS) if peer in self.parted else self.grace_ms
        return now - self.absent.get(peer, now) < grace_ms

    def holders(
        self, settlement: Settlement, digest: Digest, near: Neighbours, now: Millis
    ) -> list[PeerId]:
        """Keepers of a blob, and of an output those who voted for it; sorted."""
        found = set(self.keepers(digest, near, now))
        for peer in self._voters(settlement, digest):
            if peer == self.me or (near.counts(peer) and self._near(peer, near, now)):
                found.add(peer)
        return sorted(found)

    def _voters(self, settlement: Settlement, digest: Digest) -> dict[PeerId, int]:
        """Who voted for an output, and how long it says that it is."""
        return {
            peer: length
            for number in self.outputs.get(digest, ())
            if (unit := settlement.units.get(number)) is not None
            for peer, length in unit.holders(digest)
        }

    def sources(self, digest: Digest, present: Callable[[PeerId], bool]) -> list[PeerId]:
        """Who is here and says that it keeps a blob, those that failed last; sorted."""
        keepers = [peer for peer in self.claimed.get(digest, ()) if present(peer)]
        return sorted(
            (peer for peer in keepers if peer != self.me),
            key=lambda peer: (self.challenges.failed.get((digest, peer), 0), peer),
        )

    def input_sources(self, everybody: Sequence[PeerId], first: PeerId) -> tuple[PeerId, ...]:
        """Those who may have inputs: the publisher, then keepers, then everybody else."""
        if not self.kept_inputs:
            return tuple(everybody)
        if self.ordered is None or self.ordered[0] != everybody:
            many = self.kept_inputs
            ordered = sorted(everybody, key=lambda p: (p != first, -many.get(p, 0), p))
            self.ordered = (tuple(everybody), tuple(ordered))
        return self.ordered[1]

    def is_here(self, digest: Digest) -> bool:
        """Whether a blob is here for custody's sake, or on its way."""
        return digest in self.mine or digest in self.arrived or digest in self.fetching

    def withholds(self, manifest: Manifest, digest: Digest) -> bool:
        """Whether a blob is here for custody's sake that is no input, as far as is known: it is not
        for everybody."""
        named = (cid_sha256(manifest.model), cid_sha256(manifest.table))
        return self.is_here(digest) and digest not in self.inputs and digest not in named

    def may_have(self, settlement: Settlement, peer: PeerId, digest: Digest) -> bool:
        """Whether a peer is meant to take this output into custody."""
        if peer in self.entitled.get(digest, ()):
            return True
        most = self.offered.get(digest, 0)
        voters = self._voters(settlement, digest) if most else {}
        others = {*self.nearby, *self.claimed.get(digest, ())} - {*voters, self.me}
        if peer not in others or place(settlement.job, digest, peer, others) >= most:
            return False
        self.entitled.setdefault(digest, {})[peer] = True  # it may come in pieces
        return True

    def part(self, peer: PeerId, settlement: Settlement) -> None:
        """``peer`` works elsewhere, in good order, and has whatever it held."""
        if peer in self.custodians or peer in settlement.answered:
            self.parted[peer] = True

    # ---- a look around -----------------------------------------------------------------------

    def idle(self, now: Millis) -> bool:
        """Whether :meth:`advance` has nothing to do now."""
        looks = self.look_at is not None and self.look_at <= now
        return not (looks or self.todo or self.arrived)

    def advance(
        self, settlement: Settlement, near: Neighbours, now: Millis
    ) -> tuple[list[Entry], list[Effect]]:
        """Look around if it is time to, fetch what this node is meant to keep, sign for it."""
        effects: list[Effect] = []
        looks = self.look_at is not None and self.look_at <= now
        if looks:
            self.look_at = Millis(now + LOOK_MS)
            self._presence(settlement, near, now)
            self._look(settlement, near, now)
            effects.extend(self._challenge(settlement, near, now))
        while near.willing and self.todo and len(self.fetching) < FETCHES_MAX:
            effects.extend(self._fetch(settlement, self.todo.pop(), near))
        entries: list[Entry] = []
        waits = self.fetching and not looks and len(self.arrived) < CUSTODY_ITEMS_MAX
        if self.arrived and not waits:
            fresh = sorted(digest for digest in self.arrived if digest not in self.mine)
            for start in range(0, len(fresh), CUSTODY_ITEMS_MAX):
                entries.append(Keep(tuple(fresh[start : start + CUSTODY_ITEMS_MAX])))
            for digest in fresh:
                self.mine[digest] = 0
                self._keep(digest, self._length(settlement, digest))
            self.arrived.clear()
        return entries, effects

    def _presence(self, settlement: Settlement, near: Neighbours, now: Millis) -> None:
        for peer in {**self.custodians, **settlement.answered}:
            if near.present(peer):
                self.absent.pop(peer, None)
                self.parted.pop(peer, None)
            else:
                self.absent.setdefault(peer, now)
        if not near.away or settlement.judge:
            self.away_at = None
        elif self.away_at is None:
            self.away_at = now
        self.ordered = None
        if not self.claims_changed:
            return
        self.claims_changed = False
        self.kept_inputs = {}
        for digest in self.inputs:
            for peer in self.claimed.get(digest, ()):
                self.kept_inputs[peer] = self.kept_inputs.get(peer, 0) + 1

    def _away(self, now: Millis) -> bool:
        """Whether the publisher has been gone for more than a moment."""
        return self.away_at is not None and now - self.away_at >= AWAY_MS

    def _look(self, settlement: Settlement, near: Neighbours, now: Millis) -> None:
        if settlement.judge:
            return
        self.todo.clear()
        for digest in self.unsure:
            if digest not in self.fetching:
                self.todo.append(digest)
        inputs = self._concerned(near.shards)
        for digest in islice(cycle(inputs), self.turn, self.turn + min(INPUTS_A_LOOK, len(inputs))):
            self._review(settlement, digest, self.inputs[digest], near, now)
        self.turn = (self.turn + INPUTS_A_LOOK) % max(1, len(inputs))
        if not self._away(now):
            self.around = ()
            self.offered.clear()  # who has begun to fetch may end
            return
        self.nearby = tuple(near.volunteers)
        for digest in self._waited(now):
            del self.waiting[digest]
            self.stirred[digest] = True
        seen = (self.nearby, tuple(self._gone(now)))
        if not self.around:
            self.stirred.update((digest, True) for digest in self.outputs)
        elif self.around != seen:
            for before, after in zip(self.around, seen, strict=True):
                for peer in sorted({*before} ^ {*after}):
                    self._stir(settlement, peer)
        self.around = seen
        for digest in list(self.stirred)[:OUTPUTS_A_LOOK]:
            del self.stirred[digest]
            if self._lasting(settlement, digest):
                length = self._length(settlement, digest)
                self._review(settlement, digest, length, near, now, output=True)
            else:
                self.short.pop(digest, None)
                self.offered.pop(digest, None)
            self.waiting.pop(digest, None)
            if digest in self.short:
                self.waiting[digest] = now

    def _concerned(self, served: tuple[int, ...]) -> tuple[Digest, ...]:
        """The inputs that those who serve some shards look after: else all of a large network would
        keep all of a large job, and each shard three copies."""
        if self.concerning[0] != served or not self.concerning[1]:
            mine = tuple(
                digest
                for digest in self.inputs
                if digest not in self.shards or any(s in served for s in self.shards[digest])
            )
            self.concerning = (served, mine)
        return self.concerning[1]

    def _waited(self, now: Millis) -> list[Digest]:
        """What is short of copies, and was looked at a while ago: who is meant to make one changes
        with time, but not every second."""
        return list(takewhile(lambda digest: self.waiting[digest] <= now - SHORT_MS, self.waiting))

    def _stir(self, settlement: Settlement, peer: PeerId) -> None:
        """A peer came or went: look at the outputs that it holds."""
        for number in settlement.answered.get(peer, ()):
            certificate = settlement.units[number].certificate
            if certificate is not None:
                self.stirred[certificate.digest] = True
        if peer in self.custodians:
            for digest in self.outputs:
                if peer in self.claimed.get(digest, ()):
                    self.stirred[digest] = True

    def _gone(self, now: Millis) -> list[PeerId]:
        return sorted(peer for peer in self.absent if not self._short_of_grace(peer, now))

    @staticmethod
    def _is_certified(settlement: Settlement, number: int, digest: Digest) -> bool:
        unit = settlement.units.get(number)
        certificate = None if unit is None else unit.certificate
        return (
            unit is not None
            and unit.state == "certified"
            and certificate is not None
            and certificate.digest == digest
        )

    def _lasting(self, settlement: Settlement, digest: Digest) -> bool:
        """Whether an output is certified and the publisher may need it yet."""
        return any(self._is_certified(settlement, n, digest) for n in self.outputs.get(digest, ()))

    def _length(self, settlement: Settlement, digest: Digest) -> int:
        """The length of a blob in bytes; where voters disagree, the commonest one."""
        if digest in self.inputs:
            return self.inputs[digest]
        lengths = sorted(self._voters(settlement, digest).values())
        return max(lengths, key=lengths.count, default=0)

    def _review(
        self,
        settlement: Settlement,
        digest: Digest,
        length: int,
        near: Neighbours,
        now: Millis,
        output: bool = False,
    ) -> None:
        """See whether a blob has its copies, and whether this node is meant to make one."""
        holders = self.holders(settlement, digest, near, now)
        missing = COPIES - len(holders)
        if missing <= 0:
            self.short.pop(digest, None)
        since = self.short.setdefault(digest, now) if missing > 0 else now
        if output and self.me in holders:
            voters = self._voters(settlement, digest)
            wanted = max(1, COPIES - sum(peer in voters for peer in holders))
            self.offered[digest] = meant(wanted, now - since, length) + SLACK
        if missing <= 0 or not near.willing or self.me in holders:
            return
        if digest in self.fetching or digest in self.arrived or digest in self.mine:
            return
        if self.retry_at.get(digest, 0) > now or any(map(near.busy, self.outputs.get(digest, ()))):
            return
        others = set(near.volunteers).difference(holders)
        before = place(settlement.job, digest, self.me, others)
        if now - since >= wait_ms(before, missing, length) and near.room(length):
            self.todo.append(digest)

    def _fetch(self, settlement: Settlement, digest: Digest, near: Neighbours) -> list[Effect]:
        if digest in self.fetching or (digest in self.mine and digest not in self.unsure):
            return []
        length = self._length(settlement, digest)
        if digest not in self.unsure and not near.room(length):
            return []
        voters = self._voters(settlement, digest)
        sources = [peer for peer in sorted(voters) if near.present(peer) and peer != self.me]
        sources += [p for p in self.sources(digest, near.present) if p not in sources]
        publisher = settlement.manifest.publisher
        if digest in self.inputs:
            others = [p for p in near.volunteers if p not in sources and p != self.me]
            sources = [*([publisher] if near.present(publisher) else []), *sources, *others]
        self.fetching[digest] = length
        self.used += length
        ref = BlobRef(cid_from_sha256(digest), 0, length, bytes(digest))
        return [Fetch(settlement.job, ref, tuple(sources))]

    # ---- what came of it ---------------------------------------------------------------------

    def fetched(self, digest: Digest) -> None:
        """A blob is durably here."""
        length = self.fetching.pop(digest, None)
        if length is None:
            return
        self.used -= length
        self.retries.pop(digest, None)
        if self.unsure.pop(digest, None):
            self._keep(digest, length)
        else:
            self.arrived[digest] = True

    def _keep(self, digest: Digest, length: int) -> None:
        self.used += length - self.mine.get(digest, 0)
        self.mine[digest] = length

    def not_fetched(self, digest: Digest, now: Millis) -> list[Entry]:
        """Nobody delivered a blob; if this node had said that it keeps it, it says so no more."""
        length = self.fetching.pop(digest, None)
        if length is None:
            return []
        self.used -= length
        count = self.retries[digest] = self.retries.get(digest, 0) + 1
        delay = min(RETRY_MAX_MS, RETRY_MS * 2 ** min(count - 1, 8))
        self.retry_at[digest] = Millis(now + delay)
        if self.unsure.pop(digest, None):
            self.used -= self.mine.pop(digest, 0)
            return [Drop((digest,))]
        return []

    def left(self) -> None:
        """The job's fetches were stopped; what is signed for is kept."""
        for length in self.fetching.values():
            self.used -= length
        self.fetching.clear()
        self.todo.clear()

    def barred(self, number: int, settlement: Settlement) -> bool:
        """Whether this node has (or fetches) another's output for a unit."""
        unit = settlement.units.get(number)
        if unit is None or not self.outputs:
            return False
        digests = {vote.digest for votes in unit.votes.values() for vote in votes}
        return any(map(self.is_here, digests))

    # ---- challenges --------------------------------------------------------------------------

    def _challenge(self, settlement: Settlement, near: Neighbours, now: Millis) -> list[Effect]:
        """Now and then, have one keeper show a piece of one blob that is here as well."""
        if not self.challenges.due(now, near.present, tuple(self.custodians)):
            return []
        blobs: dict[PeerId, list[Digest]] = {}
        for digest in self._comparable(settlement):
            for peer in self.claimed.get(digest, ()):
                caught = self.challenges.caught(digest, peer)
                if peer != self.me and near.present(peer) and not caught:
                    blobs.setdefault(peer, []).append(digest)
        chosen = self.challenges.choose(blobs, now)
        if chosen is None:
            return []
        digest, peer = chosen
        return [Challenge(settlement.job, digest, self._length(settlement, digest), peer)]

    def _comparable(self, settlement: Settlement) -> list[Digest]:
        """Blobs under custody that this node has as well; what it voted for, and what it keeps."""
        if settlement.judge:
            return sorted(self.claimed)
        voted = [
            digest
            for digest, numbers in self.outputs.items()
            if digest in self.claimed
            and any(self.me in settlement.units[number].votes for number in numbers)
            and self.me in self._voters(settlement, digest)
        ]
        return sorted({*(d for d in self.mine if d not in self.unsure), *voted})

    def challenged(self, digest: Digest, peer: PeerId, verdict: str, now: Millis) -> None:
        """A keeper showed its piece, or did not; nobody else hears of it."""
        self.stirred[digest] = True
        if self.challenges.answered(digest, peer, verdict, now):
            self.around = ()  # whatever it keeps is to be looked at again
        if verdict == LOST and digest in self.mine:
            self.unsure[digest] = True  # our own copy is gone: get it again, or drop it

    # ---- for people --------------------------------------------------------------------------

    def kept(self, near: Neighbours, now: Millis) -> dict[Digest, int]:
        """Of the job's inputs, how many keepers each has."""
        return {digest: len(self.keepers(digest, near, now)) for digest in self.inputs}

    def kept_outputs(
        self, settlement: Settlement, near: Neighbours, now: Millis
    ) -> tuple[int, int]:
        """How many outputs are certified, and how many of them have their copies."""
        lasting = [digest for digest in self.outputs if self._lasting(settlement, digest)]
        kept = sum(len(self.holders(settlement, d, near, now)) >= COPIES for d in lasting)
        return len(lasting), kept

    def deadline(self) -> Millis | None:
        """When custody wants to be looked at next."""
        return self.look_at
