"""Who belongs to a closed network: the owner's list, and whom members let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfleet.core import events as ev
from p2pfleet.core.effects import (
    DropAcceptance,
    Effect,
    Reconsider,
    Report,
    SaveAcceptance,
    SaveMembers,
    Send,
    Sign,
)
from p2pfleet.core.errors import Accept
from p2pfleet.core.machines.handlers import Table
from p2pfleet.core.machines.handlers.consent import look_again
from p2pfleet.core.machines.handlers.peers import gone
from p2pfleet.core.model.ids import Millis, PeerId
from p2pfleet.core.wire.messages import Deliver, Sealed

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node


def _members(node: Node, event: ev.MembersReceived, now: Millis) -> list[Effect]:
    """A newer page of the owner's list: keep it, hand it on, part from whom it removes."""
    page = event.members
    verdict = node.roster.take_page(page)
    if not isinstance(verdict, Accept):
        return [] if event.source == node.me else [Report(event.source, verdict)]
    effects: list[Effect] = [SaveMembers(page.members.page, page.sealed)]
    return effects + _belonging(node, event.source, page.sealed, now)


def _shown(node: Node, event: ev.AdmissionShown, now: Millis) -> list[Effect]:
    """Somebody was invited: witness it, unless it is no news or comes too late."""
    if node.roster.member(event.peer):
        return []
    wall_ms = node.wall_ms(now)
    verdict = node.roster.judge_shown(event.admission, node.me, wall_ms)
    if event.admission.admission.peer != event.peer or not isinstance(verdict, Accept):
        return [Reconsider()]
    return [Sign(node.roster.witness(event.admission, node.me, wall_ms))]


def _acceptance(node: Node, event: ev.AcceptanceReceived, now: Millis) -> list[Effect]:
    """A member's word on somebody invited, or this node's own."""
    heard = event.acceptance
    before = dict(node.roster.acceptances)
    verdict = node.roster.take_acceptance(heard, node.wall_ms(now))
    if not isinstance(verdict, Accept):
        # Who came with it was let in before it was judged in full.
        own = event.source in (node.me, heard.peer)
        return [Reconsider()] if own else [Report(event.source, verdict)]
    effects: list[Effect] = [
        DropAcceptance(*key) for key in sorted(before) if key not in node.roster.acceptances
    ]
    effects.append(SaveAcceptance(heard.admission.key, heard.peer, heard.sealed))
    return effects + _belonging(node, event.source, heard.sealed, now)


def _roster_summary(node: Node, event: ev.RosterSummaryReceived, now: Millis) -> list[Effect]:
    if not node.membership.here(event.peer):
        return []
    lacking = node.roster.missing(event.peer, event.summary, now)
    return [Send((event.peer,), Deliver(sealed)) for sealed in lacking]


def _belonging(node: Node, source: PeerId, sealed: Sealed, now: Millis) -> list[Effect]:
    """Who belongs to the network has changed by this body of ``source``."""
    effects: list[Effect] = []
    if source != node.me:
        effects.append(Report(source, Accept()))
    others = tuple(peer for peer in node.membership.present() if peer != source)
    if others:  # also those who are removed by it: they learn why nobody talks to them
        effects.append(Send(others, Deliver(sealed)))
    effects.append(Reconsider())
    for peer in [one for one in node.membership.connected if not node.roster.knows(one)]:
        gone(node, peer, now)
    return effects + look_again(node, now)


HANDLERS: Table = {
    ev.AcceptanceReceived: _acceptance,
    ev.AdmissionShown: _shown,
    ev.MembersReceived: _members,
    ev.RosterSummaryReceived: _roster_summary,
}
