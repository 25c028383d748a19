"""Whose jobs are opened when: nobody makes a node ask for blobs without end that are nowhere."""

from __future__ import annotations

from typing import Any

from core_bench import Bench, only
from core_samples import BOB, MALLORY, PAULA, manifest, peer, record, seal, unseal

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.openings import AT_ONCE, PAUSE_MAX_MS, PUBLISHERS_MAX, Openings
from p2pfleet.core.model.ids import JobId, Millis, PeerId


def job(publisher: PeerId, number: int) -> Any:
    return unseal(seal(manifest(publisher=publisher, name=f"job {number}")))


def crowd(bench: Bench, publisher: PeerId, count: int) -> list[JobId]:
    """The jobs that are begun when ``publisher`` has so many; in the order of the beginning."""
    told: list[Any] = []
    for number in range(count):
        told += bench.tell(ev.ManifestReceived(publisher, job(publisher, number)))
    return begun(told)


def begun(effects: list[Any]) -> list[JobId]:
    return [effect.job for effect in only(ef.OpenJob, effects)]


def test_of_one_publisher_few_jobs_are_opened_at_once_and_then_the_next() -> None:
    bench = Bench()
    bench.meet(BOB)
    first = crowd(bench, PAULA, 10)
    assert len(first) == AT_ONCE
    opened = list(first)
    while len(opened) < 10:
        (following,) = begun(bench.tell(ev.JobOpened(opened[len(opened) - AT_ONCE])))
        opened.append(following)
    assert set(opened) == set(bench.node.jobs)


def test_jobs_of_others_do_not_wait_for_those_of_one_publisher() -> None:
    bench = Bench()
    bench.meet(BOB)
    for one in crowd(bench, MALLORY, 20):
        bench.tell(ev.JobUnavailable(one, "nobody has it", final=False))
    assert len(crowd(bench, PAULA, 2)) == 2


def test_jobs_that_nobody_has_are_tried_ever_more_slowly_but_each_of_them_is() -> None:
    bench = Bench()
    bench.meet(BOB)
    tried = crowd(bench, MALLORY, 40)
    for one in tried:
        bench.tell(ev.JobUnavailable(one, "nobody has it", final=False))
    for _ in range(60):
        told = begun(bench.wait(10_000))
        assert len(told) <= AT_ONCE
        tried += told
        for one in told:
            bench.tell(ev.JobUnavailable(one, "nobody has it", final=False))
    assert set(tried) == set(bench.node.jobs)
    assert len(tried) <= AT_ONCE * (60 * 10_000 // PAUSE_MAX_MS + 8)


def test_when_the_publisher_is_here_again_or_one_job_opens_the_waiting_is_over() -> None:
    bench = Bench()
    bench.meet(BOB)
    for one in crowd(bench, PAULA, 10):
        bench.tell(ev.JobUnavailable(one, "nobody has it", final=False))
    assert begun(bench.wait(500)) == []
    bench.tell(ev.PeerConnected(PAULA))
    assert len(begun(bench.tell(ev.HelloReceived(PAULA, record(PAULA))))) == AT_ONCE


def test_a_job_that_ends_while_it_is_opened_gives_its_place_to_another() -> None:
    bench = Bench()
    bench.meet(BOB)
    first = crowd(bench, PAULA, 6)
    bench.tell(ev.JobUnavailable(first[0], "it is not what it says", final=True))
    assert first[0] not in bench.node.jobs
    assert len(begun(bench.wait(11_000))) == 1


def test_of_publishers_that_failed_few_are_remembered() -> None:
    openings = Openings()
    for number in range(PUBLISHERS_MAX + 50):
        openings.fail(peer(f"publisher {number}"), Millis(1_000))
    assert len(openings.failures) == len(openings.until) == PUBLISHERS_MAX
    openings.passed(Millis(60_000))
    assert openings.deadlines() == []
