"""Closed networks in the core: who belongs, what strangers say, and how the word spreads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from core_samples import (
    ALICE,
    BOB,
    CAROL,
    CONSENT,
    DAVE,
    MALLORY,
    OWNER,
    WALL_MS,
    frame,
    manifest,
    peer,
    received,
    record,
    seal,
    unseal,
)  # fmt: skip

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Accept, Ignore, Reject
from p2pfleet.core.machines.node import Node
from p2pfleet.core.machines.roster import Roster
from p2pfleet.core.model.ids import Millis, NetworkId, PeerId, sha256
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.rules.closed import page_of
from p2pfleet.core.wire import messages as ms

NETWORK = NetworkId(sha256(b"a closed network of tests"))
TERMS = NetworkTerms(NETWORK, closed=True, owner=OWNER)
NOW = Millis(1000)
KEY = peer("an invitation's key")
HOUR_MS = 3_600_000


def page(*entries: tuple[PeerId, bool], sequence: int = 1) -> list[Any]:
    """Events' bodies: the pages that say this, all of one sequence."""
    found = []
    for number in sorted({page_of(key) for key, _ in entries}):
        rows = sorted(
            (ms.MemberEntry(key, "", admitted) for key, admitted in entries
             if page_of(key) == number),
            key=lambda one: one.peer,
        )  # fmt: skip
        body = ms.Members(NETWORK, OWNER, number, sequence, WALL_MS, tuple(rows))
        found.append(unseal(seal(body)))
    return found


def admission(who: PeerId, uses: int = 1, key: PeerId = KEY, life_ms: int = HOUR_MS) -> Any:
    body = ms.Invitation(NETWORK, OWNER, key, "guest", uses, WALL_MS, WALL_MS + life_ms)
    return unseal(seal(ms.Admission(NETWORK, key, who, seal(body))))


def acceptance(by: PeerId, who: PeerId, at: int, uses: int = 1) -> Any:
    return unseal(seal(ms.Acceptance(NETWORK, by, WALL_MS + at, admission(who, uses).sealed)))


def closed_node(*members: PeerId, me: PeerId = ALICE, vouched: tuple[PeerId, ...] = ()) -> Node:
    node = Node.create(me, NETWORK, 0, ("publisher",), CONSENT, TERMS, vouched)
    node.handle(ev.Started(1, WALL_MS, "", ()), NOW)
    for one in page(*((member, True) for member in (me, *members))):
        node.handle(ev.MembersReceived(me, one), NOW)
    node.handle(ev.RestoreFinished(), NOW)
    return node


def meets(node: Node, other: PeerId) -> list[ef.Effect]:
    node.handle(ev.PeerConnected(other, ""), NOW)
    hello = record(other, network=NETWORK)
    return node.handle(ev.HelloReceived(other, hello), NOW)


def kinds(effects: list[ef.Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def told(effects: list[ef.Effect], other: PeerId) -> list[ms.Sealed]:
    return [
        effect.message.sealed
        for effect in effects
        if isinstance(effect, ef.Send)
        and other in effect.peers
        and isinstance(effect.message, ms.Deliver)
    ]


def test_everybody_belongs_to_an_open_network() -> None:
    roster = Roster(NetworkTerms(NETWORK))
    assert roster.member(MALLORY)
    assert roster.knows(MALLORY)
    assert isinstance(roster.take_page(page((ALICE, True))[0]), Reject)


def test_a_rolled_back_page_is_ignored_and_a_newer_one_replaces_it() -> None:
    roster = Roster(TERMS)
    new, old, newest = (page((BOB, True), sequence=5), page((BOB, False), sequence=4),
                        page((BOB, False), sequence=6))  # fmt: skip
    assert isinstance(roster.take_page(new[0]), Accept)
    assert isinstance(roster.take_page(old[0]), Ignore)
    assert roster.member(BOB)
    assert isinstance(roster.take_page(newest[0]), Accept)
    assert not roster.member(BOB)
    assert "removed" in roster.outside(BOB)
    assert "no member has let" in roster.outside(MALLORY)


def test_a_removed_member_is_parted_from_at_once_and_others_are_told() -> None:
    node = closed_node(BOB, CAROL)
    meets(node, BOB)
    meets(node, CAROL)
    (removing,) = page((BOB, False), sequence=9)
    effects = node.handle(ev.MembersReceived(CAROL, removing), NOW)
    assert kinds(effects)[:1] == ["SaveMembers"]
    assert "Reconsider" in kinds(effects)
    assert told(effects, BOB) == [removing.sealed]
    assert not node.membership.here(BOB)
    assert node.membership.here(CAROL)
    again = node.handle(ev.MembersReceived(CAROL, removing), NOW)
    assert [type(one.verdict) for one in again if isinstance(one, ef.Report)] == [Ignore]


def test_who_does_not_belong_is_not_greeted_and_says_nothing_that_counts() -> None:
    node = closed_node(BOB)
    (report,) = meets(node, MALLORY)
    assert isinstance(report, ef.Report)
    assert not node.membership.here(MALLORY)
    job = unseal(seal(manifest(network=NETWORK, publisher=MALLORY)))
    (own,) = node.handle(ev.ManifestReceived(MALLORY, job), NOW)
    assert own == ef.Report(MALLORY, own.verdict)  # type: ignore[union-attr]
    assert isinstance(own.verdict, Reject)  # type: ignore[union-attr]
    meets(node, BOB)
    (passed_on,) = node.handle(ev.ManifestReceived(BOB, job), NOW)
    assert isinstance(passed_on, ef.Report)
    assert isinstance(passed_on.verdict, Ignore)
    assert node.jobs == {}


def test_a_frame_of_somebody_who_was_removed_counts_for_nothing() -> None:
    node = closed_node(BOB, CAROL)
    meets(node, BOB)
    meets(node, CAROL)
    job = unseal(seal(manifest(network=NETWORK, publisher=ALICE)))
    node.handle(ev.ManifestReceived(ALICE, job), NOW)
    for one in page((BOB, False), sequence=2):
        node.handle(ev.MembersReceived(ALICE, one), NOW)
    late = frame(BOB, ms.Claim((0,)), job=job.job, network=NETWORK)
    (report,) = node.handle(ev.FrameReceived(CAROL, late), NOW)
    assert isinstance(report, ef.Report)
    assert isinstance(report.verdict, Ignore)


def test_a_job_is_left_when_its_publisher_is_removed() -> None:
    node = Node.create(ALICE, NETWORK, 2, ("volunteer",), CONSENT, TERMS)
    node.handle(ev.Started(1, WALL_MS, "", ()), NOW)
    for one in page((ALICE, True), (BOB, True)):
        node.handle(ev.MembersReceived(ALICE, one), NOW)
    node.handle(ev.RestoreFinished(), NOW)
    meets(node, BOB)
    job = unseal(seal(manifest(network=NETWORK, publisher=BOB)))
    node.handle(ev.ManifestReceived(BOB, job), NOW)
    assert node.jobs[job.job].volunteer is not None
    for one in page((BOB, False), sequence=2):
        effects = node.handle(ev.MembersReceived(ALICE, one), NOW)
    assert "ShutJob" in kinds(effects)
    assert "closed network" in node.jobs[job.job].reason


def test_an_invited_peer_is_witnessed_kept_and_told_to_everybody() -> None:
    node = closed_node(BOB)
    meets(node, BOB)
    (sign,) = node.handle(ev.AdmissionShown(DAVE, admission(DAVE)), NOW)
    assert isinstance(sign, ef.Sign)
    assert isinstance(sign.body, ms.Acceptance)
    assert sign.body.accepted_ms == WALL_MS
    effects = node.handle(received(ALICE, seal(sign.body)), NOW)
    assert kinds(effects)[0] == "SaveAcceptance"
    assert len(told(effects, BOB)) == 1
    assert node.roster.member(DAVE)
    assert node.roster.name(DAVE) == "guest"
    # It hears its own acceptance, to show it elsewhere.
    assert told(meets(node, DAVE), DAVE) == [seal(sign.body)]
    (late,) = node.handle(ev.AdmissionShown(MALLORY, admission(MALLORY)), NOW)
    assert isinstance(late, ef.Reconsider)


@pytest.mark.parametrize(
    "shown",
    [
        admission(DAVE, life_ms=-1),
        admission(DAVE, life_ms=31 * 24 * HOUR_MS),
        unseal(seal(ms.Admission(NETWORK, KEY, DAVE, seal(ms.Invitation(
            NETWORK, MALLORY, KEY, "", 1, WALL_MS, WALL_MS + 1))))),
    ],
)  # fmt: skip
def test_a_bad_invitation_lets_nobody_in(shown: Any) -> None:
    node = closed_node()
    assert kinds(node.handle(ev.AdmissionShown(DAVE, shown), NOW)) == ["Reconsider"]
    assert not node.roster.member(DAVE)


def test_an_invitation_for_one_peer_admits_no_other_that_shows_it() -> None:
    node = closed_node()
    assert kinds(node.handle(ev.AdmissionShown(MALLORY, admission(DAVE)), NOW)) == ["Reconsider"]


def test_a_node_that_is_no_member_lets_nobody_in() -> None:
    node = Node.create(ALICE, NETWORK, 0, (), CONSENT, TERMS)
    node.handle(ev.Started(1, WALL_MS, "", ()), NOW)
    assert kinds(node.handle(ev.AdmissionShown(DAVE, admission(DAVE)), NOW)) == ["Reconsider"]


def test_whom_one_invitation_named_is_the_same_everywhere_in_whatever_order_it_was_heard() -> None:
    words = [
        acceptance(ALICE, BOB, 5), acceptance(ALICE, CAROL, 7), acceptance(ALICE, DAVE, 3),
        acceptance(ALICE, BOB, 9),
    ]  # fmt: skip
    for order in itertools.permutations(words):
        roster = Roster(TERMS)
        roster.take_page(page((ALICE, True))[0])
        for one in order:
            roster.take_acceptance(one, WALL_MS + 10)
        assert sorted(roster.named) == [DAVE]


def test_a_stolen_invitation_does_not_displace_whom_it_had_admitted() -> None:
    roster = Roster(TERMS)
    roster.take_page(page((ALICE, True))[0])
    assert isinstance(roster.take_acceptance(acceptance(ALICE, BOB, 5), WALL_MS), Accept)
    assert isinstance(roster.take_acceptance(acceptance(ALICE, MALLORY, 6), WALL_MS), Ignore)
    # Nor can the thief witness for itself.
    assert isinstance(roster.take_acceptance(acceptance(MALLORY, MALLORY, 0), WALL_MS), Ignore)
    assert (roster.member(BOB), roster.member(MALLORY)) == (True, False)


def test_who_was_let_in_lets_others_in_and_never_before_its_own_time() -> None:
    roster = Roster(TERMS)
    roster.take_page(page((ALICE, True))[0])
    roster.take_acceptance(acceptance(ALICE, BOB, 60_000, uses=2), WALL_MS)
    body = roster.witness(admission(CAROL, uses=2), BOB, WALL_MS)
    assert body.accepted_ms == WALL_MS + 60_001
    assert isinstance(roster.take_acceptance(unseal(seal(body)), WALL_MS), Accept)
    assert roster.member(CAROL)


def test_a_withdrawn_invitation_takes_back_whom_it_had_admitted() -> None:
    node = closed_node()
    node.handle(ev.AcceptanceReceived(ALICE, acceptance(ALICE, BOB, 1)), NOW)
    assert node.roster.member(BOB)
    for one in page((KEY, False), sequence=2):
        node.handle(ev.MembersReceived(ALICE, one), NOW)
    assert not node.roster.member(BOB)


def test_two_members_pull_what_each_lacks() -> None:
    one, two = closed_node(BOB), closed_node(ALICE, me=BOB)
    one.handle(ev.AcceptanceReceived(ALICE, acceptance(ALICE, CAROL, 1)), NOW)
    for body in page((DAVE, True), sequence=8):
        two.handle(ev.MembersReceived(BOB, body), NOW)
    meets(one, BOB)
    meets(two, ALICE)
    for asker, me, other, answerer in ((one, ALICE, BOB, two), (two, BOB, ALICE, one)):
        summary = asker.roster.summary()
        effects = answerer.handle(ev.RosterSummaryReceived(me, summary), NOW)
        for sealed in told(effects, me):
            asker.handle(received(other, sealed), NOW)
    for node in (one, two):
        assert node.roster.member(CAROL)
        assert node.roster.member(DAVE)
    assert one.roster.summary() == two.roster.summary()
    later = Millis(NOW + 1000)
    assert one.handle(ev.RosterSummaryReceived(BOB, two.roster.summary()), later) == []


def test_a_newcomer_greets_whom_its_configuration_names_and_believes_only_members() -> None:
    node = Node.create(DAVE, NETWORK, 0, (), CONSENT, TERMS, (BOB,))
    node.handle(ev.Started(1, WALL_MS, "", ()), NOW)
    node.handle(ev.RestoreFinished(), NOW)
    meets(node, BOB)
    assert node.membership.here(BOB)
    job = unseal(seal(manifest(network=NETWORK, publisher=BOB)))
    (report,) = node.handle(ev.ManifestReceived(BOB, job), NOW)
    assert isinstance(report, ef.Report)
    assert isinstance(report.verdict, Ignore)
    for one in page((BOB, True)):
        node.handle(ev.MembersReceived(BOB, one), NOW)
    assert "SaveJob" in kinds(node.handle(ev.ManifestReceived(BOB, job), NOW))
    for one in page((BOB, False), sequence=2):
        node.handle(ev.MembersReceived(BOB, one), NOW)
    assert not node.roster.knows(BOB)


def test_an_acceptance_that_was_overtaken_is_dropped_from_the_disk() -> None:
    node = closed_node()
    node.handle(ev.AcceptanceReceived(ALICE, acceptance(ALICE, BOB, 5)), NOW)
    effects = node.handle(ev.AcceptanceReceived(ALICE, acceptance(ALICE, CAROL, 4)), NOW)
    assert ef.DropAcceptance(KEY, BOB) in effects
    assert (node.roster.member(BOB), node.roster.member(CAROL)) == (False, True)
