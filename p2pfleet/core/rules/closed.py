"""Who belongs to a closed network (``protocol/closed-networks.md``).

The owner's list says it key by key. Beside it count the peers that an invitation named, as long as
it was not used up before them, which members witness with the time at which they saw it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import PeerId, sha256
from p2pfleet.core.model.network import CLOCK_SKEW_MS, NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.wire.messages import Invitation, MemberEntry, Members
from p2pfleet.core.wire.verified import VerifiedAcceptance, VerifiedAdmission

ACCEPTANCES_MAX = 4096
INVITATION_LIFE_MS = 30 * 24 * 3600 * 1000
NO_ACCEPTANCES = bytes(32)


def page_of(key: PeerId) -> int:
    """The page of the list on which a key stands: its highest four bits."""
    return key[0] >> 4


def judge_members(members: Members, terms: NetworkTerms, known: int | None) -> Verdict:
    """Accept a page of the list, or why not.

    ``known`` is the sequence of the same page that applies so far, if there is one.
    """
    if members.network != terms.id:
        return Reject("the list of members belongs to another network")
    if not terms.closed or members.owner != terms.owner:
        return Reject("the list of members is not by the owner of a closed network")
    if any(page_of(entry.peer) != members.page for entry in members.entries):
        return Reject("the list of members has a key on the wrong page")
    if known is not None and members.sequence <= known:
        return Ignore("the page of members is not newer than the one that applies")
    return ACCEPT


def invitation_fault(invitation: Invitation, terms: NetworkTerms) -> str:
    """What is wrong with an invitation by itself; empty if nothing is."""
    if invitation.network != terms.id:
        return "the invitation is to another network"
    if not terms.closed or invitation.owner != terms.owner:
        return "the invitation is not by the owner of a closed network"
    if invitation.expires_ms <= invitation.issued_ms:
        return "the invitation expires before it was issued"
    if invitation.expires_ms - invitation.issued_ms > INVITATION_LIFE_MS:
        return "the invitation lasts longer than 30 days"
    return ""


def judge_admission(shown: VerifiedAdmission, terms: NetworkTerms, wall_ms: int) -> Verdict:
    """Accept what somebody shows who was invited, as far as it does not depend on others."""
    fault = invitation_fault(shown.invitation, terms)
    if fault:
        return Reject(fault)
    if not fits(terms, shown.admission.peer):
        return Reject("the invited peer's key does not fit the network")
    if wall_ms > shown.invitation.expires_ms:
        return Ignore("the invitation has expired")
    if wall_ms < shown.invitation.issued_ms - CLOCK_SKEW_MS:
        return Ignore("the invitation was issued in the future by this clock")
    return ACCEPT


def judge_acceptance(heard: VerifiedAcceptance, terms: NetworkTerms, wall_ms: int) -> Verdict:
    """Accept a member's word on somebody invited, as far as it does not depend on others."""
    fault = invitation_fault(heard.invitation, terms)
    if fault:
        return Reject(fault)
    if not fits(terms, heard.peer):
        return Reject("the invited peer's key does not fit the network")
    at = heard.acceptance.accepted_ms
    if not heard.invitation.issued_ms - CLOCK_SKEW_MS <= at <= heard.invitation.expires_ms:
        return Reject("the invitation did not hold when it was accepted")
    if at - CLOCK_SKEW_MS > wall_ms:
        return Ignore("the invitation was accepted in the future by this clock")
    return ACCEPT


def acceptance_order(one: VerifiedAcceptance) -> tuple[int, PeerId, PeerId]:
    """Of two acceptances the lower one comes first."""
    return one.acceptance.accepted_ms, one.peer, one.acceptance.member


def invited(
    acceptances: Iterable[VerifiedAcceptance],
    entries: Mapping[PeerId, MemberEntry],
    owner: PeerId | None,
) -> dict[PeerId, VerifiedAcceptance]:
    """Whom invitations named, each by the acceptance that counts.

    In ascending order, an acceptance counts if a witness signed it (the owner, whoever the list
    names, removed or not, and those whom an earlier acceptance named) and its invitation is not
    used up by others. That a key was removed or withdrawn is not looked at here, so that those whom
    it witnessed stay.
    """
    used: Counter[PeerId] = Counter()
    found: dict[PeerId, VerifiedAcceptance] = {}
    for one in sorted(acceptances, key=acceptance_order):
        witness, key = one.acceptance.member, one.admission.key
        if witness != owner and witness not in entries and witness not in found:
            continue
        if one.peer in found or used[key] >= one.invitation.uses:
            continue
        used[key] += 1
        found[one.peer] = one
    return found


def belongs(
    peer: PeerId,
    entries: Mapping[PeerId, MemberEntry],
    named: Mapping[PeerId, VerifiedAcceptance],
    owner: PeerId | None,
) -> bool:
    """Whether a peer is a member by this list and these invitations."""
    if peer == owner:
        return True
    listed = entries.get(peer)
    if listed is not None:
        return listed.admitted
    by = named.get(peer)
    if by is None:
        return False
    withdrawn = entries.get(by.admission.key)
    return withdrawn is None or withdrawn.admitted


def acceptances_hash(names: Iterable[bytes]) -> bytes:
    """What a summary tells of the acceptances of one page: the SHA-256 over their bodies' hashes in
    ascending order; 32 zero bytes if there are none."""
    ordered = sorted(names)
    return sha256(b"".join(ordered)) if ordered else NO_ACCEPTANCES
