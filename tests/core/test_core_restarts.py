"""A volunteer that comes back keeps its word: what it had committed to, and nothing else."""

from __future__ import annotations

from core_bench import (
    commits,
    entries,
    execute,
    executed_units,
    only,
    restarted,
    reveals,
    states,
    working,
)
from core_samples import BAD, BOB, GOOD, PAULA, Poll, peer
from test_core_commit_reveal import FLUSH_MS, WINDOW_MS, committed

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.model.job import Trust
from p2pfleet.core.wire import messages as ms


def test_a_restarted_volunteer_reveals_what_it_had_committed_to() -> None:
    bench, job, entry = committed()
    (saved,) = only(ef.SaveSeed, bench.effects)
    again = restarted(bench)
    again.meet(PAULA, BOB)
    again.tell(ev.JobOpened(job.job))
    told = again.wait(WINDOW_MS + FLUSH_MS)
    (reveal,) = [each for each in entries(told) if isinstance(each, ms.Reveal)]
    assert (reveal.seed, reveal.items) == (saved.seed.seed, saved.seed.items)
    assert entry.seed_hash == saved.seed.seed_hash


def test_a_restarted_volunteer_that_finds_nobody_reveals_all_the_same_and_does_not_spin() -> None:
    bench, _, _ = committed()
    again = restarted(bench)
    assert reveals(again.wait(10 * WINDOW_MS)) == [(0, 0, GOOD)]


def test_a_restarted_volunteer_that_waits_for_a_votes_time_does_not_spin_meanwhile() -> None:
    trust = Trust(crowd=10_000, step_ms=10_000)
    bench, job = working(units=1, trust=trust)
    others = [peer(str(number)) for number in range(10)]
    bench.hear(*Poll(job.job).closed({who: {0: GOOD} for who in others}), source=BOB)
    assert bench.settlement().later
    again = restarted(bench)
    again.wait(300_000)
    assert states(again.effects) == [], "it is not open here"


def test_a_restarted_volunteer_never_commits_anew_to_another_digest() -> None:
    bench, job, _ = committed()
    again = restarted(bench)
    again.meet(PAULA, BOB)
    again.tell(ev.JobOpened(job.job))
    told = execute(again, job, 0, answer=BAD)  # a run from before the restart, or a wild one
    told += again.wait(60_000)
    assert executed_units(again.effects) == []
    assert commits(told) == []
    assert reveals(told) == [(0, 0, GOOD)]


def test_what_was_revealed_before_a_restart_is_not_revealed_again() -> None:
    bench, job, _ = committed()
    bench.wait(WINDOW_MS + FLUSH_MS)
    assert reveals(bench.effects) == [(0, 0, GOOD)]
    again = restarted(bench)
    again.meet(PAULA, BOB)
    again.tell(ev.JobOpened(job.job))
    told = again.wait(60_000)
    assert entries(told) == []
    assert executed_units(again.effects) == []


def test_a_commitment_that_was_never_written_is_made_anew() -> None:
    bench, job = working(units=1)
    execute(bench, job, 0)  # the seed is saved, and the power goes before the frame is
    again = restarted(bench)
    again.meet(PAULA, BOB)
    assert executed_units(again.tell(ev.JobOpened(job.job))) == [0]
    execute(again, job, 0)
    assert commits(again.wait(FLUSH_MS)) == [(0, 0)]
    seeds = [effect.seed.seed for effect in only(ef.SaveSeed, [*bench.effects, *again.effects])]
    assert len(set(seeds)) == 2


def test_a_restarted_volunteer_takes_its_claims_up_again_and_votes_for_nothing_twice() -> None:
    bench, job = working(units=3)
    bench.wait(FLUSH_MS)
    first, second = executed_units(bench.effects)[:2]
    execute(bench, job, first)
    bench.wait(FLUSH_MS)
    again = restarted(bench)
    again.meet(PAULA)
    told = again.tell(ev.JobOpened(job.job))
    assert first not in executed_units(told)
    assert second in executed_units(told)


def test_an_output_that_is_gone_when_it_is_to_be_committed_to_is_made_again() -> None:
    bench, job = working(units=1)
    bench.prompt = False
    (make,) = only(ef.MakeCommitments, execute(bench, job, 0))
    bench.tell(ev.CommitmentsMade(job.job, make.items[0].digest, (), ()))
    bench.tell(ev.UnitUnavailable(job.job, 0, "the output is gone"))
    assert executed_units(bench.wait(10_000)) == [0]
    assert only(ef.SaveSeed, bench.effects) == []
