"""Who may have an output: who answered the unit itself, and its publisher, until it is final."""

from __future__ import annotations

import msgspec
from core_bench import Bench, arrive, execute, publishing, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAPABILITY,
    CAROL,
    GOOD,
    MALLORY,
    NETWORK,
    OWNER,
    PAULA,
    Poll,
    received,
    requirement,
    seal,
)

from p2pfleet.core.machines.consent import Consent
from p2pfleet.core.machines.node import Node
from p2pfleet.core.model.ids import Cid, Digest, cid_from_sha256, cid_of
from p2pfleet.core.model.job import Trust
from p2pfleet.core.wire import messages as ms

WINDOW_MS = Trust().window_ms


def may(bench: Bench, answer: Digest = GOOD) -> set[bytes]:
    """Who of all others may have an output from the node now."""
    everybody = (PAULA, BOB, CAROL, MALLORY)
    return {who for who in everybody if bench.node.may_fetch(who, cid_from_sha256(answer))}


def test_an_output_is_given_to_the_publisher_and_to_those_who_revealed_an_answer_of_their_own() -> (
    None
):
    bench, job = working(units=2, quorum=3)
    poll = Poll(job.job)
    execute(bench, job, 0)
    assert may(bench) == {PAULA}
    bobs, carols = poll[BOB].commits({0: BAD}), poll[CAROL].commits({1: GOOD})
    bench.hear(bobs, carols, poll[CAROL].reveals(carols))
    assert may(bench) == {PAULA}, "to have committed to anything at all is not enough"
    bench.hear(poll[BOB].reveals(bobs))
    assert may(bench) == {PAULA, BOB}, "whatever it is"
    bench.wait(WINDOW_MS + 120)
    assert may(bench) == {PAULA, BOB}, "that ours is revealed changes nothing"


def test_when_a_unit_is_certified_its_output_is_still_held_back() -> None:
    bench, job = working(units=1)
    execute(bench, job, 0)
    bench.wait(WINDOW_MS + 120)
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}, CAROL: {0: GOOD}}, attempt=1))
    assert bench.state(0) == "certified"
    assert MALLORY not in may(bench)


def test_when_a_unit_is_final_anybody_may_have_its_output() -> None:
    bench, job = working(units=1)
    execute(bench, job, 0)
    bench.wait(WINDOW_MS + 120)
    bench.hear(Poll(job.job)[PAULA].says(ms.Audit(0, GOOD)))
    assert bench.state(0) == "settled"
    assert MALLORY in may(bench)


def test_when_a_job_has_ended_anybody_may_have_its_outputs() -> None:
    bench, job = working(units=1)
    execute(bench, job, 0)
    bench.tell(
        received(PAULA, seal(ms.Closure(NETWORK, job.job, PAULA, True, job.manifest.issued_ms)))
    )
    assert MALLORY in may(bench)


def test_a_publisher_gives_nobody_what_it_fetched_while_its_job_runs() -> None:
    bench, job, _ = publishing()
    assert may(bench) == set(), "not even what it is about to fetch"
    arrive(bench, job)
    assert may(bench) == set()


def test_models_tables_and_inputs_are_given_to_everybody() -> None:
    for bench in (working()[0], publishing()[0]):
        (job,) = bench.node.jobs.values()
        for cid in (job.manifest.model, job.manifest.table, cid_of(b"an input")):
            assert bench.node.may_fetch(MALLORY, cid)
        assert bench.node.may_fetch(MALLORY, Cid(b"no name of anything"))


def test_a_node_that_has_not_read_its_store_yet_gives_nothing() -> None:
    node = Node.create(
        ALICE, NETWORK, 1, ("volunteer",), msgspec.structs.replace(Consent(CAPABILITY))
    )
    assert not node.may_fetch(PAULA, cid_of(b"anything"))


def test_a_volunteer_that_leaves_a_job_goes_on_holding_its_outputs_back() -> None:
    bench, job = working(units=2, consent=Consent(CAPABILITY, owner=OWNER))
    execute(bench, job, 0)
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    bench.tell(received(BOB, requirement("99.0", 1).sealed))
    assert bench.node.jobs[job.job].volunteer is None
    assert may(bench) == {PAULA, BOB}
