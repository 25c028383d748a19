"""Who belongs to this closed network: the owner's list, and those whom its invitations let in."""

from __future__ import annotations

import msgspec

from p2pfleet.core import events as ev
from p2pfleet.core.errors import ACCEPT, Accept, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.model.network import MEMBER_PAGES, NetworkTerms
from p2pfleet.core.rules.closed import (
    ACCEPTANCES_MAX,
    acceptance_order,
    acceptances_hash,
    belongs,
    invited,
    judge_acceptance,
    judge_admission,
    judge_members,
    page_of,
)
from p2pfleet.core.wire.messages import (
    Acceptance,
    MemberEntry,
    RosterSummary,
    Sealed,
)
from p2pfleet.core.wire.verified import VerifiedAcceptance, VerifiedAdmission, VerifiedMembers

ANSWER_EVERY_MS = 500

_STRANGER = Reject("the sender does not belong to this closed network")
_UNKNOWN = Ignore("who signed it is not known to belong to this closed network")

Named = tuple[PeerId, PeerId]
"""An invitation's key, and the peer that it names."""


class Roster(msgspec.Struct):
    """Of an open network it says that everybody belongs to it.

    ``vouched`` are the peers that the node's own configuration names: it greets them, so that one
    who is new hears from them who belongs; nothing else of theirs counts before. ``entries`` and
    ``named`` follow from ``pages`` and ``acceptances``.
    """

    terms: NetworkTerms
    vouched: tuple[PeerId, ...] = ()
    pages: dict[int, VerifiedMembers] = {}
    acceptances: dict[Named, VerifiedAcceptance] = {}
    entries: dict[PeerId, MemberEntry] = {}
    named: dict[PeerId, VerifiedAcceptance] = {}
    answered: dict[PeerId, Millis] = {}

    @property
    def closed(self) -> bool:
        """Whether the network is closed at all."""
        return self.terms.closed

    def member(self, peer: PeerId) -> bool:
        """Whether ``peer`` belongs to the network."""
        if not self.closed:
            return True
        return belongs(peer, self.entries, self.named, self.terms.owner)

    def outside(self, peer: PeerId) -> str:
        """Why nobody of a closed network talks to ``peer``, and what to do; empty for a member."""
        if self.member(peer):
            return ""
        if peer in self.entries:
            return "the network's owner removed this node: ask the owner whether it may come back"
        return (
            "no member has let this node in yet: ask the network's owner to add its peer id or for "
            "an invitation ('p2pfleet network join')"
        )

    def knows(self, peer: PeerId) -> bool:
        """Whether this node talks to ``peer`` at all."""
        if self.member(peer):
            return True
        return peer in self.vouched and peer not in self.entries

    def name(self, peer: PeerId) -> str:
        """What the owner calls a peer, for people; empty if it said nothing."""
        entry, by = self.entries.get(peer), self.named.get(peer)
        if entry is not None and entry.name:
            return entry.name
        return "" if by is None else by.invitation.name

    # ---- taking in ---------------------------------------------------------------------------

    def take_page(self, page: VerifiedMembers) -> Verdict:
        """Let a page apply from now on, unless it is refused."""
        known = self.pages.get(page.members.page)
        sequence = None if known is None else known.members.sequence
        verdict = judge_members(page.members, self.terms, sequence)
        if isinstance(verdict, Accept):
            self.pages[page.members.page] = page
            self.entries = {
                entry.peer: entry
                for _, one in sorted(self.pages.items())
                for entry in one.members.entries
            }
            self._settle()
        return verdict

    def take_acceptance(self, heard: VerifiedAcceptance, wall_ms: int) -> Verdict:
        """Let an acceptance count, unless it is refused or others came before it."""
        verdict = judge_acceptance(heard, self.terms, wall_ms)
        if not isinstance(verdict, Accept):
            return verdict
        key: Named = (heard.admission.key, heard.peer)
        known = self.acceptances.get(key)
        if known is not None and acceptance_order(known) <= acceptance_order(heard):
            return Ignore("an acceptance that is known, or a later one")
        if known is None and len(self.acceptances) >= ACCEPTANCES_MAX:
            return Ignore("too many invited peers are known already")
        candidates = {**self.acceptances, key: heard}
        if invited(candidates.values(), self.entries, self.terms.owner).get(heard.peer) != heard:
            return Ignore("the invitation is used up, or no member is known to have accepted it")
        self.acceptances = candidates
        self._settle()
        return ACCEPT

    def _settle(self) -> None:
        """Draw the conclusions; acceptances that were overtaken are kept no longer."""
        self.named = invited(self.acceptances.values(), self.entries, self.terms.owner)
        self.acceptances = {
            key: one for key, one in self.acceptances.items() if self.named.get(key[1]) == one
        }

    # ---- letting in --------------------------------------------------------------------------

    def judge_shown(self, shown: VerifiedAdmission, me: PeerId, wall_ms: int) -> Verdict:
        """Whether this node may let in who shows this; does not let it in yet."""
        verdict = judge_admission(shown, self.terms, wall_ms)
        if not isinstance(verdict, Accept):
            return verdict
        if not self.member(me):
            return Ignore("this node is no member itself and lets nobody in")
        key, peer = shown.admission.key, shown.admission.peer
        if any(one in self.entries and not self.entries[one].admitted for one in (key, peer)):
            return Ignore("the owner withdrew the invitation, or removed the peer")
        used = sum(one.admission.key == key for one in self.named.values())
        if peer not in self.named and used >= shown.invitation.uses:
            return Ignore("the invitation is used up")
        return ACCEPT

    def would_admit(self, heard: VerifiedAcceptance, wall_ms: int) -> bool:
        """Whether the peer that an acceptance names would be a member with it."""
        trial = Roster(self.terms, (), self.pages, dict(self.acceptances), self.entries, self.named)
        trial.take_acceptance(heard, wall_ms)
        return trial.member(heard.peer)

    def witness(self, shown: VerifiedAdmission, me: PeerId, wall_ms: int) -> Acceptance:
        """The word to sign on somebody who is let in: always later than one's own admission."""
        mine = self.named.get(me)
        own = -1 if mine is None else mine.acceptance.accepted_ms
        at = max(wall_ms, own + 1)
        return Acceptance(self.terms.id, me, at, shown.sealed)

    # ---- pulling -----------------------------------------------------------------------------

    def _accepted(self, page: int) -> list[VerifiedAcceptance]:
        found = [one for one in self.named.values() if page_of(one.peer) == page]
        return sorted(found, key=acceptance_order)

    def _accepted_hash(self, page: int) -> bytes:
        return acceptances_hash(one.sealed.hash for one in self._accepted(page))

    def summary(self) -> RosterSummary:
        """What this node holds."""
        news = [
            0 if page not in self.pages else min(self.pages[page].members.sequence + 1, 2**53 - 1)
            for page in range(MEMBER_PAGES)
        ]
        hashes = [self._accepted_hash(page) for page in range(MEMBER_PAGES)]
        return RosterSummary(tuple(news), tuple(hashes))

    def missing(self, peer: PeerId, theirs: RosterSummary, now: Millis) -> list[Sealed]:
        """What a peer with this summary lacks, in the order in which it can be taken in."""
        last = self.answered.get(peer)
        if last is not None and now - last < ANSWER_EVERY_MS:
            return []
        self.answered[peer] = now
        found = [
            one.sealed
            for page, one in sorted(self.pages.items())
            if one.members.sequence >= theirs.pages[page]
        ]
        lacking = [
            one
            for page in range(MEMBER_PAGES)
            if self._accepted_hash(page) != theirs.accepted[page]
            for one in self._accepted(page)
        ]
        return found + [one.sealed for one in sorted(lacking, key=acceptance_order)]

    def forget(self, peer: PeerId) -> None:
        """The peer is gone."""
        self.answered.pop(peer, None)


def stranger(event: ev.Event, roster: Roster, me: PeerId) -> tuple[PeerId, Verdict] | None:
    """The verdict on what comes from, or is signed by, somebody who does not belong here.

    Only for what strangers say themselves they are to blame: lists differ for a while, so who hands
    another's word on may know better than this node.
    """
    match event:
        case ev.HelloReceived(peer=source):
            # Whoever is in the middle of being let in may be quicker than the word of it.
            return None if roster.knows(source) else (source, _UNKNOWN)
        case ev.FrameReceived(source=source, frame=frame):
            signer = frame.author
        case ev.ManifestReceived(source=source, manifest=manifest):
            signer = manifest.manifest.publisher
        case ev.ClosureReceived(source=source, closure=closure):
            signer = closure.closure.publisher
        case ev.SnapshotReceived(source=source, snapshot=snapshot):
            signer = snapshot.snapshot.publisher
        case ev.ReceiptReceived(source=source, receipt=receipt):
            signer = receipt.receipt.publisher
        case ev.JobsRecordReceived(source=source, record=record):
            signer = record.record.publisher
        case ev.RecordReceived(peer=source, record=record):
            signer = record.record.peer
        case ev.ProofReceived(source=source):
            signer = source  # a proof is good whoever made it
        case _:
            return None
    if source == me:
        return None
    if not roster.knows(source):
        return source, _STRANGER
    return None if roster.member(signer) else (source, _UNKNOWN)
