"""What commitments, votes and endorsements on each unit of one job amount to.

Every node that takes part runs this over the frames it has; the publisher's is the one whose
outcomes become the ledger. States: open -> certified -> settled; certified -> contested or open
again when it holds no more; failed when the replicas are used up. Settled and failed are final.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from p2pfleet.core.effects import UnitRow
from p2pfleet.core.machines.leases import HOLD_LEASES, Leases
from p2pfleet.core.machines.units import (
    ATTEMPTS_A_PEER,
    Committed,
    Endorsement,
    Place,
    Unit,
    Vote,
)
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, Millis, PeerId
from p2pfleet.core.model.job import FixedQuorum
from p2pfleet.core.rules import certificate as rule
from p2pfleet.core.rules import shards, sortition
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Audit,
    Certificate,
    Claim,
    Commit,
    Endorse,
    Failure,
    Manifest,
    Release,
    Reveal,
    VoteRef,
)
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot

PENDING_A_PEER = 256
ENDORSE_MS = 3_000
DEBT_WINDOWS = 4
ENDORSED_BY_MS = 30_000
IN_VAIN_MS = 60_000
ATTEMPT_MAX = 255
FINAL = ("settled", "failed")
DECIDED = ("certified", "settled", "failed")

Counts = Callable[[PeerId], bool]
Corner = Callable[[PeerId, Sequence[PeerId]], bool]


class Known(msgspec.Struct, frozen=True, array_like=True):
    """An entry of commitments: its author, where it stands, and what it says."""

    author: PeerId
    place: Place
    entry: Commit


class Heard(msgspec.Struct, frozen=True, array_like=True):
    """A frame that is here: its author, and where it stands."""

    author: PeerId
    place: Place


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """The frame just taken in and this earlier one of the same author may prove a fault."""

    author: PeerId
    place: Place


class Outcome(msgspec.Struct):
    """What a frame changed: ledger rows, units touched, and what may prove a fault."""

    rows: list[UnitRow] = []
    touched: list[int] = []
    faults: list[Fault] = []


class Settlement(msgspec.Struct):
    """The units of one job, by number; a unit nobody touched yet has no entry.

    ``since`` is the first sight of the job on the monotonic clock (of the past, after a restart).
    ``judge`` is true at the publisher, whose word is final. ``begun`` are undecided units that
    somebody claimed or answered, ``answered`` all by who voted on them, ``touched`` those
    that changed since the node last looked; ``stirred`` those on which somebody may have become
    too many since the volunteer last looked (``stirred_all``: any of them). ``typical`` are the
    checks of a middling peer in the snapshot: of who may answer next. ``heard`` are all frames
    that are here, ``pending`` by author the reveals of commitments in frames that are not.
    ``owed`` are by author the commitments, by unit and attempt, that are not revealed yet, the
    oldest first, and when each of them becomes a debt. ``at_first`` is how many replicas a unit
    wants that nobody has answered yet, ``of_newcomers`` the same without a snapshot. ``trusting``
    says whether there is a trust snapshot that weighs votes, so that newcomers count less: by a
    fixed quorum all count alike, whatever the manifest names; volunteers of such a job do not even
    have the snapshot, and have to come to what its publisher does. ``decided`` counts by shard the
    units that are certified, settled or failed, ``finals`` those that are settled or failed;
    ``latest`` is by author and shard.
    """

    job: JobId
    manifest: Manifest
    leases: Leases
    since: Millis = Millis(0)
    judge: bool = False
    units: dict[int, Unit] = {}
    tally: dict[str, int] = {}
    decided: dict[int, int] = {}
    finals: dict[int, int] = {}
    latest: dict[tuple[PeerId, int], Place] = {}
    commits: dict[tuple[FrameHash, int], Known] = {}
    heard: dict[FrameHash, Heard] = {}
    pending: dict[PeerId, dict[tuple[FrameHash, int], tuple[Place, FrameHash, int, Reveal]]] = {}
    owed: dict[PeerId, dict[tuple[int, int], Millis]] = {}
    later: dict[int, Millis] = {}
    later_at: Millis | None = None
    weights: dict[PeerId, int] = {}
    snapshot: Digest | None = None
    snapshot_number: int = -1
    votes: int = 0
    stuck: dict[int, bool] = {}
    begun: dict[int, bool] = {}
    answered: dict[PeerId, dict[int, bool]] = {}
    touched: dict[int, bool] = {}
    stirred: dict[int, bool] = {}
    stirred_all: bool = True
    typical: int = 0
    trusting: bool = False
    at_first: int = 0
    of_newcomers: int = 0

    @classmethod
    def create(cls, job: JobId, manifest: Manifest, since: Millis, judge: bool) -> Settlement:
        """Of a job that nobody has worked on yet."""
        hold_ms = max(HOLD_LEASES * manifest.lease_ms, 2 * manifest.limits.cpu_ms)
        made = cls(job, manifest, Leases(manifest.lease_ms, hold_ms), since, judge)
        stop = manifest.stop
        of_newcomers = rule.missing(stop, (), (), 0, False)
        made.of_newcomers = stop.quorum if isinstance(stop, FixedQuorum) else of_newcomers
        made.at_first = of_newcomers
        return made

    # ---- questions ---------------------------------------------------------------------------

    @property
    def debt_ms(self) -> int:
        """How long others wait for a commitment to be revealed; it is a debt from then on."""
        return self.manifest.trust.window_ms * DEBT_WINDOWS

    def unit(self, number: int) -> Unit:
        """The unit of this number, from now on with an entry."""
        unit = self.units.get(number)
        if unit is None:
            unit = self.units[number] = Unit()
        return unit

    def count(self, state: str) -> int:
        """How many units are in ``state`` now."""
        if state == "open":
            return self.manifest.units - sum(self.tally.values())
        return self.tally.get(state, 0)

    def shard(self, number: int) -> int:
        """Which shard a unit belongs to."""
        terms = self.manifest
        return shards.shard_of(terms.salt, terms.units, terms.shards, number)

    def undecided(self, shard: int) -> int:
        """How many units of a shard wait for a certificate."""
        terms = self.manifest
        size = shards.size_of(terms.units, terms.shards, shard)
        return size - self.decided.get(shard, 0)

    def all_final(self, shard: int) -> bool:
        """Whether nothing of a shard changes any more."""
        terms = self.manifest
        return self.finals.get(shard, 0) == shards.size_of(terms.units, terms.shards, shard)

    def checks(self, peer: PeerId) -> int:
        """What the trust snapshot says of a peer; 0: a newcomer."""
        return self.weights.get(peer, 0)

    @property
    def _soft(self) -> bool:
        """Whether answers are compared within a tolerance, so that one may endorse another."""
        return isinstance(self.manifest.comparison, Tolerance)

    def in_debt(self, peer: PeerId, now: Millis) -> bool:
        """Whether a peer has left a commitment unrevealed for so long that nobody waits for it."""
        owed = self.owed.get(peer)
        return owed is not None and next(iter(owed.values()), now + 1) <= now

    def eligible_at(self, number: int, peer: PeerId, now: Millis) -> Millis:
        """From when on a peer may take a unit, by this node's clock.

        Newcomers come last, and so does who is in debt, until it reveals.
        """
        trust = self.manifest.trust
        known = (not self.trusting or peer in self.weights) and not self.in_debt(peer, now)
        return Millis(
            self.since
            + sortition.eligible_after_ms(
                self.manifest.salt,
                number,
                peer,
                crowd=-(-trust.crowd // self.manifest.shards),
                wanted=self.of_newcomers,
                step_ms=trust.step_ms,
                known=known,
            )
        )

    def flying(self, number: int, now: Millis, counts: Counts) -> list[PeerId]:
        """Peers whose answer to the unit may come soon: a claim runs, or a commitment is not
        revealed yet; sorted. Newcomers beyond their share are none of them."""
        found: list[PeerId] = []
        claims = self.leases.units.get(number)
        if claims:
            found = [peer for peer, lease in claims.items() if lease.until > now and counts(peer)]
        unit = self.units.get(number)
        if found and self.leases.gone:
            here = self.leases.claimants(number, now)
            found = [peer for peer in found if peer in here]
        if unit is not None and unit.unrevealed:
            oldest = now - self.debt_ms
            for peer, owed in unit.unrevealed.items():
                lately = owed.attempt >= unit.attempt - 1 and owed.seen > oldest
                if lately and peer not in found and counts(peer):
                    found.append(peer)
        found.sort()
        return found

    def missing(self, number: int, flying: Sequence[PeerId], now: Millis) -> int:
        """How many more replicas the unit wants beside those of ``flying``."""
        unit = self.units.get(number)
        checks = [self.weights.get(peer, 0) for peer in flying]
        if unit is None:
            return rule.missing(self.manifest.stop, checks, (), self.typical, self.trusting)
        asked = max(0, unit.asked - unit.replicas - len(flying))
        room = self.manifest.stop.replicas_max - unit.replicas - len(flying)
        if unit.state == "certified":
            return asked
        if unit.final or number in self.stuck or room <= 0:
            return 0
        votes, against = unit.votes_for, unit.votes_against
        if self._soft and against and now - unit.latest_vote < ENDORSE_MS:
            votes, against = (*votes, *(k for group in against for k in group)), ()
        wanted = rule.missing(
            self.manifest.stop, (*votes, *checks), against, self.typical, self.trusting
        )
        return max(asked, min(room, wanted))

    def enough(self, number: int, attempt: int, counts: Counts) -> bool:
        """Whether the commitments of an attempt would certify the unit if all agreed."""
        unit = self.unit(number)
        if unit.state not in ("open", "contested"):
            return True
        joining = [
            self.checks(peer)
            for peer in sorted(unit.commits)
            if peer not in unit.voters_for
            and counts(peer)
            and any(each.attempt == attempt for each in unit.commits[peer])
        ]
        return rule.holds(
            self.manifest.stop, (*unit.votes_for, *joining), unit.votes_against, self.trusting
        )

    def running(self, now: Millis) -> int:
        """Replicas under a running claim, over all units."""
        return self.leases.running(now)

    def ask(self, numbers: Sequence[int]) -> None:
        """The publisher wants one more replica of each of these."""
        for number in numbers:
            if number < self.manifest.units:
                unit = self.unit(number)
                unit.asked = unit.replicas + 1
                self.touched[number] = True

    def ballots(self, number: int, now: Millis, counts: Counts) -> list[rule.Ballot]:
        """Every vote on the unit that counts now."""
        unit = self.units[number]
        found: list[rule.Ballot] = []
        all_counted = not unit.withdrawn and not unit.opened
        endorsed, opened, withdrawn = unit.endorsed, unit.opened, unit.withdrawn
        for peer in sorted(unit.votes):
            if not counts(peer):
                continue
            votes = unit.votes[peer]
            checks = self.weights.get(peer, 0)
            answer = votes[0].digest
            for vote in votes:
                if vote.digest != answer:
                    continue  # who learnt the right one later does not get another voice
                if not all_counted:
                    key = (peer, vote.attempt)
                    if key in withdrawn or opened.get(key) is False:
                        continue
                if vote.counts_from > now:
                    self._look_again(number, vote.counts_from)
                    continue
                ballot = rule.Ballot(
                    peer, vote.digest, checks, vote.attempt, vote.commit, vote.seen, vote.ref
                )
                found.append(ballot)
                if endorsed:
                    # Whoever holds two answers for the same as its own supports both.
                    found.extend(
                        msgspec.structs.replace(ballot, digest=each.digest, ref=each.ref)
                        for each in endorsed.get(peer, ())
                        if each.own == vote.ref
                    )
        return found

    def _look_again(self, number: int, at: Millis) -> None:
        earlier = self.later.get(number)
        if earlier is None or at < earlier:
            self.later[number] = at
            self.later_at = at if self.later_at is None else min(at, self.later_at)

    def counts_for(
        self, number: int, peer: PeerId, digest: Digest, now: Millis, counts: Counts
    ) -> bool:
        """Whether a peer's vote for a digest counts together with those of the others."""
        votes = rule.candidate(digest, self.ballots(number, now, counts)).votes
        return any(ballot.peer == peer for ballot in votes)

    def supporters(self, number: int, digest: Digest, now: Millis, counts: Counts) -> list[PeerId]:
        """Who revealed or endorsed a digest, whether or not it counts with the others; sorted."""
        ballots = self.ballots(number, now, counts)
        return sorted({ballot.peer for ballot in ballots if ballot.digest == digest})

    def would_hold(self, number: int, digest: Digest, now: Millis, counts: Counts) -> bool:
        """Whether a digest would be certified if all who support it counted together."""
        others = rule.candidate(digest, self.ballots(number, now, counts)).others
        checks = [self.checks(peer) for peer in self.supporters(number, digest, now, counts)]
        return rule.holds(self.manifest.stop, checks, others, self.trusting)

    # ---- what frames do ----------------------------------------------------------------------

    def apply(
        self,
        frame: VerifiedFrame,
        now: Millis,
        counts: Counts,
        decide: bool = True,
        corner: Corner | None = None,
        own: bool = False,
        past: bool = False,
    ) -> Outcome:
        """Take a frame's entries in; a claim runs from ``now``, its first sight.

        Claims in a frame that a later one of its author overtook do not run at all. Without
        ``decide`` (while frames are restored) nothing follows yet. ``corner`` says whether too many
        of a unit's other claimants are of one subnet; what it refuses is ignored. ``own`` are
        frames of this node; those that it had lost and that others gave back are ``past``.
        """
        outcome = Outcome()
        author = frame.author
        shard = frame.frame.shard
        place = Place(frame.frame.incarnation, frame.frame.sequence, shard)
        last = self.latest.get((author, shard))
        overtaken = last is not None and (place.incarnation, place.sequence) < (
            last.incarnation,
            last.sequence,
        )
        if not overtaken:
            self.latest[author, shard] = place
        changed: dict[int, bool] = {}
        self.heard[frame.hash] = Heard(author, place)
        for index, entry in enumerate(frame.frame.entries):
            # Not by patterns, see rules.admission.
            if type(entry) is Claim:
                if not overtaken and not past:  # else its release may have been here already
                    self._claimed(author, entry.units, now, corner)
            elif type(entry) is Commit:
                if own:
                    self._heard_first(author, place, entry)
                self._committed(author, place, frame.hash, index, entry, now, changed, corner)
                if author in self.pending:
                    waiting = self.pending[author].pop((frame.hash, index), None)
                    if waiting is not None:
                        self._revealed(author, *waiting, outcome, now, changed)
            elif type(entry) is Reveal:
                self._revealed(author, place, frame.hash, index, entry, outcome, now, changed)
            elif type(entry) is Release:
                for number in entry.units:
                    self.leases.release(author, number)
            elif type(entry) is Endorse:
                ref = VoteRef(frame.hash, index)
                self._endorsed(author, place, ref, entry, outcome, changed)
            elif type(entry) is Failure:
                self._failed(author, entry, now, changed)
            elif type(entry) is Audit:
                unit = self.unit(entry.unit)
                if unit.audit is None:
                    unit.audit = (entry.digest, VoteRef(frame.hash, index))
                    changed[entry.unit] = True
        if self.pending:
            self._no_commitment(frame.hash, author, outcome)
        for number, voted in changed.items():
            if decide and voted:
                self.decide(number, now, counts, outcome)
            else:
                self.touched[number] = self.stirred[number] = True
        return outcome

    def _full(self, number: int, author: PeerId, now: Millis, corner: Corner | None) -> bool:
        """Whether the unit has as many answers from the author's subnet as may count."""
        if corner is None:
            return False
        unit = self.units.get(number)
        others = {*self.leases.claimants(number, now), *(unit.commits if unit is not None else ())}
        return author not in others and corner(author, sorted(others))

    def _claimed(
        self, author: PeerId, units: tuple[int, ...], now: Millis, corner: Corner | None
    ) -> None:
        debtor = self.in_debt(author, now)
        for number in units:
            unit = self.units.get(number)
            if unit is not None and (
                unit.final or author in unit.failures or author in unit.commits
            ):
                continue
            if self.eligible_at(number, author, now) > now:
                continue
            if self._full(number, author, now, corner):
                continue
            if self.leases.claim(author, number, now, debtor):
                self.begun[number] = True
                self.stirred[number] = True

    def _committed(
        self,
        author: PeerId,
        place: Place,
        frame: FrameHash,
        index: int,
        entry: Commit,
        now: Millis,
        changed: dict[int, bool],
        corner: Corner | None,
    ) -> None:
        self.commits[frame, index] = Known(author, place, entry)
        for number, item in enumerate(entry.items):
            unit = self.unit(item.unit)
            failed = unit.failures.pop(author, None) is not None
            self.leases.committed(author, item.unit, now)
            if self._full(item.unit, author, now, corner):
                continue
            mine = unit.commits.setdefault(author, [])
            # A second commitment in one attempt is nobody's fault (a crash may do that), and the
            # first one stays.
            if not mine or (
                len(mine) < ATTEMPTS_A_PEER and all(c.attempt != item.attempt for c in mine)
            ):
                counts_from = Millis(max(now, self.eligible_at(item.unit, author, now)))
                if counts_from == now:
                    counts_from = Millis(0)
                mine.append(
                    Committed(item.attempt, frame, index, number, item.commitment, now, counts_from)
                )
                owed = self.owed.setdefault(author, {})
                owed[item.unit, item.attempt] = Millis(now + self.debt_ms)
                mine.sort(key=lambda each: each.attempt)
                unit.revealing(author)
                # A commitment alone decides nothing.
                changed[item.unit] = failed or changed.get(item.unit, False)
                if unit.state in ("open", "contested"):
                    self.begun[item.unit] = True

    def _heard_first(self, author: PeerId, place: Place, entry: Commit) -> None:
        """Of this node's own commitments in one attempt the others count the one that they heard
        first: the earlier one, also if this node had lost it and has made another since."""
        for item in entry.items:
            unit = self.unit(item.unit)
            mine = unit.commits.get(author, [])
            for other in [each for each in mine if each.attempt == item.attempt]:
                later = self.commits[other.frame, other.index].place
                if (later.incarnation, later.sequence) <= (place.incarnation, place.sequence):
                    continue
                mine.remove(other)
                self.owed.get(author, {}).pop((item.unit, item.attempt), None)
                vote = unit.vote(author, item.attempt)
                if vote is not None and vote.commit == other.frame:
                    self.votes -= 1
                    unit.votes[author].remove(vote)
                    if not unit.votes[author]:
                        del unit.votes[author]
                        del self.answered[author][item.unit]
                unit.revealing(author)

    def _revealed(
        self,
        author: PeerId,
        place: Place,
        frame: FrameHash,
        index: int,
        entry: Reveal,
        outcome: Outcome,
        now: Millis,
        changed: dict[int, bool],
    ) -> None:
        known = self.commits.get((entry.commit, entry.index))
        if known is None:
            named = self.heard.get(entry.commit)
            if named is not None:  # what it names there is no commitment
                if named.author == author:
                    outcome.faults.append(Fault(author, named.place))
                return
            waiting = self.pending.setdefault(author, {})
            if len(waiting) < PENDING_A_PEER:
                waiting.setdefault((entry.commit, entry.index), (place, frame, index, entry))
            return
        if known.author != author:
            return
        if rule.matches(known.entry, entry):
            outcome.faults.append(Fault(author, known.place))
            return
        for number, item in enumerate(entry.items):
            unit = self.unit(item.unit)
            changed[item.unit] = True
            committed: Committed | None = None
            for each in unit.commits.get(author, ()):
                if each.attempt == item.attempt:
                    committed = each
                    break
            earlier = unit.vote(author, item.attempt)
            if earlier is not None:
                same_life = earlier.place.incarnation == place.incarnation
                if earlier.digest != item.digest and same_life:
                    outcome.faults.append(Fault(author, earlier.place))
                continue
            if committed is None or committed.frame != entry.commit:
                continue
            vote = Vote(
                item.attempt,
                item.digest,
                item.length,
                VoteRef(frame, index, number),
                entry.commit,
                entry.seen,
                entry.seed,
                committed.commitment,
                committed.counts_from,
                place,
            )
            unit.votes.setdefault(author, []).append(vote)
            self.owed.get(author, {}).pop((item.unit, item.attempt), None)
            # Only what counts as a vote ends an attempt: else one peer alone could use all of them.
            unit.revealed[item.attempt] = True
            while unit.attempt in unit.revealed and unit.attempt < ATTEMPT_MAX:
                unit.attempt += 1
            self.answered.setdefault(author, {})[item.unit] = True
            if len(unit.votes[author]) > 1:
                unit.votes[author].sort(key=lambda each: each.attempt)
            unit.revealing(author)
            unit.failures.pop(author, None)
            unit.latest_vote = now
            self.votes += 1

    def _no_commitment(self, frame: FrameHash, author: PeerId, outcome: Outcome) -> None:
        """A frame is here: whoever still waits for a commitment in it waits in vain."""
        for who in list(self.pending):
            waiting = self.pending[who]
            for key in [key for key in waiting if key[0] == frame]:
                place = waiting.pop(key)[0]
                if who == author:
                    outcome.faults.append(Fault(author, place))
            if not waiting:
                del self.pending[who]

    def _endorsed(
        self,
        author: PeerId,
        place: Place,
        ref: VoteRef,
        entry: Endorse,
        outcome: Outcome,
        changed: dict[int, bool],
    ) -> None:
        unit = self.unit(entry.unit)
        mine = unit.endorsed.setdefault(author, [])
        earlier = next((each for each in mine if each.attempt == entry.attempt), None)
        if earlier is not None:
            same_life = earlier.place.incarnation == place.incarnation
            if earlier.digest != entry.digest and same_life:
                outcome.faults.append(Fault(author, earlier.place))
        elif len(mine) < ATTEMPTS_A_PEER:
            mine.append(Endorsement(entry.attempt, entry.digest, entry.own, ref, place))
            mine.sort(key=lambda each: each.attempt)
            changed[entry.unit] = True

    def _failed(
        self, author: PeerId, entry: Failure, now: Millis, changed: dict[int, bool]
    ) -> None:
        unit = self.unit(entry.unit)
        self.leases.release(author, entry.unit)
        if author not in unit.commits and author not in unit.failures:
            if self.eligible_at(entry.unit, author, now) > now:
                return
            unit.failures[author] = entry.reason
            changed[entry.unit] = True

    # ---- what they amount to -----------------------------------------------------------------

    def decide(
        self, number: int, now: Millis, counts: Counts, outcome: Outcome, keep: bool = False
    ) -> None:
        """Apply the stop rule to the votes that count now; ``keep`` what is certified by it."""
        unit = self.unit(number)
        outcome.touched.append(number)
        self.touched[number] = self.stirred[number] = True
        if unit.final:
            return
        if unit.state == "open" and not (unit.votes or unit.failures or unit.audit):
            return
        ranking = rule.ranking(
            self.ballots(number, now, counts), self.manifest.stop, self.manifest.salt, number
        )
        stop, trusting = self.manifest.stop, self.trusting
        first = ranking[0] if ranking else None
        unit.leading = None if first is None else first.digest
        unit.voters_for = () if first is None else tuple([b.peer for b in first.votes])
        unit.votes_for = () if first is None else first.checks
        unit.votes_against = () if first is None else tuple(map(tuple, first.others))
        self.stuck.pop(number, None)
        if unit.audit is not None:
            self._audited(number, ranking, outcome)
            return
        if keep and unit.state == "certified":
            return
        winner = next((each for each in ranking if each.holds(stop, trusting)), None)
        if winner is not None:
            if (
                unit.state == "certified"
                and unit.certificate is not None
                and (unit.certificate.digest == winner.digest)
                and set(unit.certificate.votes) <= {ballot.ref for ballot in winner.votes}
                and set(unit.certificate.against) == {ballot.ref for ballot in winner.against}
            ):
                return  # more votes for the same answer say nothing new
            self._enter(number, "certified", self._certificate(number, winner), "", outcome)
            return
        reason = self._hopeless(unit, ranking, counts)
        until = Millis(unit.latest_vote + ENDORSED_BY_MS)
        if reason and unit.votes and self._soft and now < until:
            self._look_again(number, until)  # endorsements come after the votes
            reason = ""
        if reason and not (self.judge and unit.votes and not isinstance(stop, FixedQuorum)):
            self._enter(number, "failed", None, reason, outcome)
            return
        if reason:
            self.stuck[number] = True  # the publisher executes it itself
        split = len(ranking) > 1 and (
            unit.certificate is not None
            or (isinstance(stop, FixedQuorum) and len(ranking[1].votes) >= stop.quorum)
        )
        self._enter(number, "contested" if split else "open", None, "", outcome)

    def _hopeless(self, unit: Unit, ranking: list[rule.Candidate], counts: Counts) -> str:
        """Why the unit cannot be certified any more; empty if it still may."""
        stop = self.manifest.stop
        if not unit.failures and len(unit.votes) < stop.replicas_max:
            return ""
        failures = {peer: why for peer, why in unit.failures.items() if counts(peer)}
        answered = [peer for peer in unit.votes if counts(peer)]
        voters = sorted(peer for peer in answered if unit.counting(peer))
        checks = [self.checks(peer) for peer in sorted(failures)]
        if failures and not voters and rule.holds(stop, checks, (), self.trusting):
            return _commonest(failures)
        peers = {*answered, *failures}  # what counts no more was a replica all the same
        newcomers = sum(not self.checks(peer) for peer in peers)
        known = len(peers) - newcomers
        replicas = known + (min(newcomers, max(1, known)) if self.trusting else newcomers)
        if replicas < stop.replicas_max:
            return ""
        for each in ranking:
            # Votes that do not count together yet are committed to again in the next attempt.
            left = {ballot.peer for ballot in each.against}
            agreeing = [self.checks(peer) for peer in voters if peer not in left]
            if rule.holds(stop, agreeing, each.others, self.trusting):
                return ""
        best = max((len(each.votes) for each in ranking), default=0)
        if failures and len(failures) >= best:
            return _commonest(failures)
        return f"{replicas} replicas gave {len(ranking)} different answers"

    def _certificate(
        self, number: int, winner: rule.Candidate, audit: VoteRef | None = None
    ) -> Certificate:
        return Certificate(
            job=self.job,
            unit=number,
            digest=winner.digest,
            snapshot=self.snapshot,
            votes=tuple(ballot.ref for ballot in winner.votes),
            against=tuple(ballot.ref for ballot in winner.against),
            audit=audit,
        )

    def _audited(self, number: int, ranking: list[rule.Candidate], outcome: Outcome) -> None:
        unit = self.units[number]
        assert unit.audit is not None
        digest, ref = unit.audit
        mine = next((each for each in ranking if each.digest == digest), None)
        against = tuple(b for each in ranking for b in each.votes)[: rule.VOTES_MAX]
        mine = mine or rule.Candidate(digest, (), rule.candidate(digest, against).against)
        self._enter(number, "certified", self._certificate(number, mine, ref), "", outcome)
        if not self.judge:
            outcome.rows.append(self.settle(number))

    def _enter(
        self,
        number: int,
        state: str,
        certificate: Certificate | None,
        reason: str,
        outcome: Outcome,
    ) -> None:
        unit = self.units[number]
        if state == unit.state and certificate == unit.certificate:
            return
        self._move(number, state)
        unit.certificate = certificate
        unit.reason = reason
        if state == "failed":
            self.leases.clear(number)
        outcome.rows.append(self.row(number))

    def _move(self, number: int, state: str) -> None:
        unit = self.units[number]
        if state in ("open", "contested"):
            self.begun[number] = True
        else:
            self.begun.pop(number, None)
        if (unit.state in DECIDED) != (state in DECIDED):
            shard = self.shard(number)
            self.decided[shard] = self.decided.get(shard, 0) + (1 if state in DECIDED else -1)
        if state in FINAL and unit.state not in FINAL:
            shard = self.shard(number)
            self.finals[shard] = self.finals.get(shard, 0) + 1
        if unit.state != "open":
            self.tally[unit.state] -= 1
        if state != "open":
            self.tally[state] = self.tally.get(state, 0) + 1
        unit.state = state

    def again(self, numbers: Sequence[int], now: Millis, counts: Counts) -> Outcome:
        """Decide these units again: a vote was withdrawn, opened, or has become due."""
        outcome = Outcome()
        for number in numbers:
            if number in self.units:
                self.decide(number, now, counts, outcome)
        return outcome

    def due(self, now: Millis, counts: Counts) -> Outcome:
        """Decide again where a vote counts by now that came too early."""
        if self.later_at is None or now < self.later_at:
            return Outcome()
        ready = sorted(number for number, at in self.later.items() if at <= now)
        for number in ready:
            del self.later[number]
        self.later_at = min(self.later.values(), default=None)
        return self.again(ready, now, counts)

    def give_up(self, now: Millis, counts: Counts) -> Outcome:
        """By a fixed quorum: units fail whose replicas are used up, and which have waited long for
        voters who will not make their votes count together any more: they left, or do not care."""
        outcome = Outcome()
        for number in sorted(self.begun):
            unit = self.units.get(number)
            if (
                unit is not None
                and unit.votes
                and unit.replicas >= self.manifest.stop.replicas_max
                and now - unit.latest_vote >= IN_VAIN_MS
                and not self.flying(number, now, counts)
            ):
                reason = f"{unit.replicas} replicas gave no answers that count together"
                self._enter(number, "failed", None, reason, outcome)
        return outcome

    def restored(self, now: Millis, counts: Counts) -> Outcome:
        """Every frame that was stored is here again: see what they amount to.

        What is certified was decided with all that was known, maybe under an earlier snapshot.
        """
        outcome = Outcome()
        for number in sorted(self.touched):
            self.decide(number, now, counts, outcome, keep=True)
        return outcome

    def weigh(self, snapshot: VerifiedSnapshot) -> None:
        """Let a trust snapshot weigh votes from now on."""
        self.snapshot = snapshot.hash
        self.snapshot_number = snapshot.snapshot.number
        self.weights = {each.peer: each.checks for each in snapshot.snapshot.records}
        checks = sorted(self.weights.values())
        self.typical = checks[len(checks) // 2] if checks else 0
        stop = self.manifest.stop
        self.trusting = not isinstance(stop, FixedQuorum)
        self.at_first = rule.missing(stop, (), (), self.typical, self.trusting)
        self.stirred_all = True

    def weighed(self, now: Millis, counts: Counts) -> Outcome:
        """Decide again what was not certified under the trust snapshot before."""
        return self.again(
            sorted(n for n in self.begun if n in self.units and self.units[n].votes), now, counts
        )

    # ---- the ledger --------------------------------------------------------------------------

    def row(self, number: int) -> UnitRow:
        """The ledger line of a unit."""
        unit = self.units[number]
        detail = unit.reason.encode() if unit.certificate is None else encode(unit.certificate)
        return UnitRow(number, unit.state, detail)

    def settle(self, number: int) -> UnitRow:
        """The unit is final."""
        unit = self.units[number]
        assert unit.state == "certified"
        self._move(number, "settled")
        self.leases.clear(number)
        return self.row(number)

    def restore(self, number: int, state: str, certificate: Certificate | None, why: str) -> None:
        """Put a ledger line back, before the frames are taken in again."""
        unit = self.unit(number)
        self._move(number, state)
        self.touched[number] = self.stirred[number] = True
        unit.certificate = certificate
        unit.reason = why


def _commonest(failures: dict[PeerId, str]) -> str:
    reasons = [failures[peer] for peer in sorted(failures)]
    return max(sorted(set(reasons)), key=reasons.count)
