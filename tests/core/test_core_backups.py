"""A volunteer whose folder was put back to an earlier day gets its own words back from the others:
nothing is run or counted twice for it, no unit waits for what it forgot, and nothing is proved."""

from __future__ import annotations

import pytest
from core_bench import (
    Bench,
    commits,
    entries,
    execute,
    executed_units,
    frames,
    only,
    restarted,
    reveals,
    working,
)
from core_samples import ALICE, BAD, BOB, CAROL, GOOD, PAULA, Poll, Voter, digest
from test_core_commit_reveal import FLUSH_MS, WINDOW_MS, committed

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.settlement import DEBT_WINDOWS
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest

DEBT_MS = DEBT_WINDOWS * WINDOW_MS
BACKUP = (ef.SaveSeed, ef.SaveFrame)


def place(one: VerifiedFrame) -> tuple[int, int]:
    """Where a frame stands in its author's sequence."""
    return one.frame.incarnation, one.frame.sequence


def said(bench: Bench) -> list[VerifiedFrame]:
    """The frames of Alice that the others have, in order."""
    mine = frames(bench, ALICE).values()
    return sorted(mine, key=place)


def back(bench: Bench, job: VerifiedManifest, lost: tuple[type, ...] = BACKUP) -> Bench:
    """Alice with the folder of before, in a new life, and her job open."""
    again = restarted(bench, lost=lost)
    kept = [e for e in only(ef.Write, bench.effects) if not isinstance(e, lost)]
    again.effects = [*kept, *again.effects]  # what it may be restarted from once more
    again.meet(PAULA, BOB)
    again.tell(ev.JobOpened(job.job))
    return again


def test_what_it_had_committed_to_is_run_no_more_and_given_back_to_the_others() -> None:
    bench, job, _ = committed()
    again = back(bench, job)
    assert executed_units(again.effects) == [0], "it knows of nothing"
    told = again.hear(*said(bench), source=BOB)
    assert [each.frame for each in only(ef.SaveFrame, told)] == [f.sealed for f in said(bench)]
    assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (0,), kill=True)]
    told += again.wait(DEBT_MS - FLUSH_MS)
    assert ms.Release((0,)) in entries(told)
    assert executed_units(told) == []
    assert commits(told) == reveals(told) == []
    assert again.node.standing.proved == {}


def test_a_debt_that_nobody_else_works_off_is_run_once_more_and_counts_in_the_next_attempt() -> (
    None
):
    bench, job, _ = committed(quorum=1)
    again = back(bench, job)
    again.hear(*said(bench), source=BOB)
    told = again.wait(DEBT_MS + 1_000)
    assert executed_units(told) == [0]
    told = execute(again, job, 0) + again.wait(WINDOW_MS + FLUSH_MS)
    assert commits(told) == [(0, 1)], "of two in one attempt the others would count the first"
    assert reveals(told) == [(0, 1, GOOD)]
    assert again.state(0) == "certified"


def test_a_debt_that_others_work_off_is_left_to_them() -> None:
    bench, job, _ = committed()
    again = back(bench, job)
    again.hear(*said(bench), source=BOB)
    bob = Voter(BOB, job.job)
    for _ in range(5):
        again.hear(bob.says(ms.Claim((0,))))
        assert executed_units(again.wait(DEBT_MS // 4)) == []


def test_a_seed_that_the_backup_has_reveals_what_was_committed_to_with_it() -> None:
    bench, job, _ = committed()
    again = back(bench, job, lost=(ef.SaveFrame,))
    again.hear(*said(bench), source=BOB)
    told = again.wait(WINDOW_MS + FLUSH_MS)
    assert reveals(told) == [(0, 0, GOOD)]
    assert executed_units(told) == commits(told) == []
    vote = again.unit(0).last_vote(ALICE)
    assert vote is not None
    assert vote.commit == next(
        one.hash for one in said(bench) if isinstance(one.frame.entries[-1], ms.Commit)
    )


def test_what_it_had_revealed_counts_once_also_if_it_has_committed_anew_meanwhile() -> None:
    bench, job, _ = committed()
    bench.wait(WINDOW_MS + FLUSH_MS)
    again = back(bench, job)
    execute(again, job, 0)
    again.wait(FLUSH_MS)
    again.hear(*said(bench), source=BOB)
    again.wait(2 * DEBT_MS)
    assert [vote.attempt for vote in again.unit(0).votes[ALICE]] == [0]
    assert again.settlement().votes == 1
    assert commits(again.effects) == [(0, 0)], "once, and the others ignore it"


def test_what_it_had_revealed_is_its_vote_again_and_is_neither_run_nor_said_twice() -> None:
    bench, job, _ = committed()
    bench.wait(WINDOW_MS + FLUSH_MS)
    assert reveals(bench.effects) == [(0, 0, GOOD)]
    again = back(bench, job)
    told = again.hear(*said(bench), source=BOB)
    told += execute(again, job, 0)  # it was under way
    told += again.wait(2 * DEBT_MS)
    assert [vote.digest for vote in again.unit(0).votes[ALICE]] == [GOOD]
    assert again.settlement().votes == 1
    assert executed_units(told) == []
    assert reveals(told) == []


def test_what_it_voted_for_and_has_lost_is_run_once_more_when_the_publisher_cannot_get_it() -> None:
    bench, job, _ = committed(quorum=1)
    bench.wait(WINDOW_MS + FLUSH_MS)
    again = back(bench, job)
    told = again.hear(*said(bench), source=BOB) + again.wait(2 * DEBT_MS)
    assert again.state(0) == "certified"
    assert executed_units(told) == [], "nobody has missed the output yet"
    told = again.tell(ev.WantedReceived(PAULA, job.job, (0,)))
    assert executed_units(told) == [0]
    execute(again, job, 0)
    told = again.tell(ev.WantedReceived(PAULA, job.job, (0,))) + again.wait(DEBT_MS)
    assert executed_units(told) == [], "the output is here now"
    assert again.state(0) == "certified"


@pytest.mark.parametrize("revealed", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
def test_who_has_committed_anew_before_it_hears_of_it_does_so_in_another_attempt(
    revealed: bool, restarts: bool
) -> None:
    bench, job, _ = committed()
    again = back(bench, job)
    execute(again, job, 0)
    told = again.wait(FLUSH_MS + (WINDOW_MS if revealed else 0))
    assert commits(told) == [(0, 0)]
    anew = said(again)
    told = again.hear(*said(bench), source=BOB)
    if restarts:
        told += again.wait(FLUSH_MS)
        again = back(again, job, lost=())
        told = again.effects
    told += again.wait(3 * WINDOW_MS + FLUSH_MS)
    assert (0, 1, GOOD) in reveals(told)
    assert [vote.attempt for vote in again.unit(0).votes[ALICE]] == [1]
    assert again.settlement().votes == 1
    # To who heard all of it in order it is one vote, the same one, and no fault.
    heard = {each.hash: each for each in (*said(bench), *anew, *said(again))}
    everything = sorted(heard.values(), key=place)
    for one in everything:
        for other in everything:
            assert fault(one, other) == ""
    poll = Poll(job.job)
    watching = Bench(CAROL)
    watching.meet(PAULA, ALICE)
    watching.tell(ev.ManifestReceived(PAULA, job))
    watching.tell(ev.JobOpened(job.job))
    watching.hear(*everything)
    assert [vote.attempt for vote in watching.unit(0).votes[ALICE]] == [1]
    assert only(ef.Prove, watching.effects) == []
    watching.hear(*poll.closed({BOB: {0: GOOD}}, attempt=2))
    assert watching.state(0) == "certified"


def test_it_never_writes_in_a_life_of_which_others_have_frames() -> None:
    """A clock that was put back with the folder gives a new life the number of an older one."""
    bench, job, _ = committed()
    again = back(bench, job)
    life = again.node.incarnation
    lost = Voter(ALICE, job.job, incarnation=life + 5)
    told = again.hear(lost.commits({0: digest("of a later day")}), source=BOB)
    told += execute(again, job, 0, answer=BAD)
    told += again.wait(DEBT_MS)
    bodies = [each.body for each in only(ef.Sign, told) if isinstance(each.body, ms.Frame)]
    assert bodies
    assert {body.incarnation for body in bodies} == {life + 6}
    assert [body.sequence for body in bodies] == list(range(len(bodies)))
    again.incarnation = life - 1_000  # and once more
    assert back(again, job, lost=()).node.incarnation == life + 7


def test_own_frames_that_come_back_in_the_wrong_order_or_twice_change_nothing() -> None:
    bench, job, _ = committed()
    bench.wait(WINDOW_MS + FLUSH_MS)
    orders = (said(bench), said(bench)[::-1], [*said(bench), *said(bench)])
    seen = []
    for order in orders:
        again = back(bench, job)
        again.hear(*order, source=BOB)
        again.wait(DEBT_MS)
        unit = again.unit(0)
        seen.append((unit.commits, unit.votes, again.settlement().votes, unit.state))
        assert only(ef.Prove, again.effects) == []
    assert [(len(c[ALICE]), len(v[ALICE]), n, s) for c, v, n, s in seen] == [(1, 1, 1, "open")] * 3


def test_a_failure_that_it_had_told_is_not_tried_again() -> None:
    bench, job = working(units=1)
    bench.tell(ev.UnitFaulted(job.job, 0, "memory", "too much"))
    bench.wait(FLUSH_MS)
    again = back(bench, job)
    assert executed_units(again.effects) == [0]
    told = again.hear(*said(bench), source=BOB)
    assert only(ef.Withdraw, told) == [ef.Withdraw(job.job, (0,), kill=True)]
    assert executed_units(again.wait(DEBT_MS)) == []
    assert again.unit(0).failures[ALICE] == "memory: too much"
