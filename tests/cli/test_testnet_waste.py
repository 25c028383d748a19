"""How executions of a job are counted by its frames."""

from __future__ import annotations

from p2pfleet.cli.testnet_waste import waste
from p2pfleet.core.model.ids import JobId, NetworkId, PeerId
from p2pfleet.core.wire.messages import Claim, Commit, CommitItem, Entry, Failure, Frame, Release

ALICE, BOB = PeerId(b"\1" * 32), PeerId(b"\2" * 32)


def said(author: PeerId, sequence: int, *entries: Entry, life: int = 1) -> Frame:
    return Frame(NetworkId(bytes(32)), JobId(bytes(32)), author, life, sequence, entries)


def commit(*units: int) -> Commit:
    return Commit(bytes(32), tuple(CommitItem(unit, 0, bytes(32)) for unit in units))


def test_what_a_quorum_needs_is_not_wasted_and_each_answer_counts_once() -> None:
    frames = [
        said(BOB, 0, Claim((0, 1)), commit(0)),
        said(ALICE, 1, commit(0), commit(1)),
        said(ALICE, 0, Claim((0, 1))),
        said(BOB, 1, Release((1,))),
        said(ALICE, 2, commit(1)),  # once more, in another attempt
    ]
    found = waste(frames, needed=3, slots=1)
    assert (found.finished, found.cut_off, found.share) == (3, 0, 0.0)


def test_who_is_killed_was_at_one_unit_for_each_slot_and_a_failure_was_executed() -> None:
    frames = [
        said(ALICE, 0, Claim((0, 1, 2))),
        said(ALICE, 0, commit(1), life=2),  # it took its claims up again
        said(ALICE, 1, commit(2), life=2),
        said(BOB, 0, Claim((0, 3)), Failure(3, 0, "model: no")),
    ]
    found = waste(frames, needed=4, slots=1)
    # Alice's first life and both last ones ended in the middle of a unit.
    assert (found.finished, found.cut_off) == (3, 3)
    assert found.share == 2 / 6
    assert waste(frames, needed=4, slots=2).cut_off == 4
    assert waste([], needed=4, slots=1).share == 0.0
