"""Processors that round differently: their answers are compared, and one of them is endorsed."""

from __future__ import annotations

from typing import Any

import pytest
from cluster import Cluster
from core_bench import Bench, entries, execute, frames, only, publishing, states, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    Poll,
    digest,
    output_of,
    peer,
)
from test_core_cluster import check_ledger, check_records, records

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import Reject
from p2pfleet.core.machines.answers import COMPARE_RETRY_MS
from p2pfleet.core.machines.settlement import ENDORSED_BY_MS, IN_VAIN_MS
from p2pfleet.core.machines.units import ATTEMPTS_A_PEER
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, PeerId
from p2pfleet.core.model.job import Confidence, FixedQuorum, Trust
from p2pfleet.core.rules.certificate import check_certificate
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest

WINDOW_MS = Trust().window_ms


def outvoted(**how: Any) -> tuple[Bench, VerifiedManifest, ef.Compare, Poll]:
    """Alice answered GOOD; Bob and Carol, who lead, BAD; three are wanted."""
    bench, job = working(units=1, quorum=3, **{"comparison": Tolerance(), **how})
    bench.meet(CAROL)
    poll = Poll(job.job)
    execute(bench, job, 0)
    told = bench.wait(60)
    theirs = [poll[who].commits({0: BAD}) for who in (BOB, CAROL)]
    told += bench.hear(*theirs)
    told += bench.wait(60)
    seen = [*frames(bench, ALICE).values(), *theirs]
    told += bench.hear(*(poll[each.author].reveals(each, seen) for each in theirs))
    (compare,) = only(ef.Compare, told)
    return bench, job, compare, poll


def everybody(who: PeerId) -> bool:
    return True


def revealed_by(
    bench: Bench, poll: Poll, answers: dict[PeerId, Digest]
) -> dict[PeerId, VerifiedFrame]:
    """Everybody answers unit 0, having seen all the others commit; their reveals, by author."""
    made = {who: poll[who].commits({0: answer}) for who, answer in answers.items()}
    shown = {who: poll[who].reveals(made[who], list(made.values())) for who in made}
    bench.hear(*made.values(), *shown.values())
    return shown


def apart(bench: Bench, poll: Poll) -> None:
    """Two agree, but each revealed before it saw the other commit; two lies use the replicas up."""
    for who, answer in (
        (ALICE, GOOD),
        (BOB, GOOD),
        (CAROL, digest("a lie")),
        (DAVE, digest("another")),
    ):
        made = poll[who].commits({0: answer})
        bench.hear(made, poll[who].reveals(made))


def compared(bench: Bench, compare: ef.Compare, verdict: str) -> list[Any]:
    candidate = Digest(compare.candidate.sha256)
    told = bench.tell(ev.Compared(compare.job, compare.unit, candidate, compare.own, verdict))
    return [*told, *bench.wait(60)]


def test_who_is_outvoted_compares_its_answer_with_the_leading_one() -> None:
    _, _, compare, _ = outvoted()
    assert (compare.candidate.sha256, compare.own) == (BAD, GOOD)
    assert sorted(compare.sources) == sorted((BOB, CAROL))


def test_endorsements_certify_across_numeric_classes() -> None:
    bench, job, compare, _ = outvoted()
    told = compared(bench, compare, "same")
    (endorsed,) = [entry for entry in entries(told) if isinstance(entry, ms.Endorse)]
    assert (endorsed.unit, endorsed.digest) == (0, BAD)
    assert states(told) == [(0, "certified")]
    certificate = bench.unit(0).certificate
    assert certificate is not None
    assert (certificate.digest, len(certificate.votes), certificate.against) == (BAD, 3, ())
    output = output_of(BAD)
    assert check_certificate(job.manifest, job.job, certificate, frames(bench), {}, output) is None


@pytest.mark.parametrize("verdict", ["near", "different"])
def test_what_is_not_the_same_is_not_endorsed_and_not_compared_again(verdict: str) -> None:
    bench, _, compare, _ = outvoted()
    told = compared(bench, compare, verdict) + bench.wait(60_000)
    assert [entry for entry in entries(told) if isinstance(entry, ms.Endorse)] == []
    assert only(ef.Compare, told) == []


def test_an_answer_that_cannot_be_had_is_compared_later() -> None:
    bench, _, compare, _ = outvoted()
    assert only(ef.Compare, compared(bench, compare, "unavailable")) == []
    told = bench.wait(COMPARE_RETRY_MS)
    assert only(ef.Compare, told) == [compare]


def test_where_bytes_are_compared_nobody_endorses() -> None:
    bench, job = working(units=1, quorum=3)
    bench.meet(CAROL)
    execute(bench, job, 0)
    bench.wait(WINDOW_MS + 120)
    told = bench.hear(*Poll(job.job).closed({who: {0: BAD} for who in (BOB, CAROL)}, attempt=1))
    assert bench.unit(0).leading == BAD
    assert only(ef.Compare, [*told, *bench.wait(60_000)]) == []


def test_an_endorsement_without_an_own_answer_counts_for_nothing() -> None:
    bench, job = working(units=1, comparison=Tolerance())
    poll = Poll(job.job)
    made = poll[BOB].commits({0: GOOD})
    reveal = poll[BOB].reveals(made)
    stolen = ms.Endorse(0, 0, ms.VoteRef(reveal.hash, 0), GOOD)
    nothing = ms.Endorse(0, 0, ms.VoteRef(made.hash, 0), GOOD)
    bench.hear(made, reveal, poll[CAROL].says(stolen), poll[DAVE].says(nothing), source=BOB)
    assert bench.state(0) == "open"
    assert bench.settlement().missing(0, (), bench.now) == 1


def test_the_publisher_counts_an_endorser_for_what_it_endorsed() -> None:
    stop = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=8)
    bench, job, poll = publishing(votes=(), comparison=Tolerance(), stop=stop)
    made = {ALICE: poll[ALICE].commits({0: GOOD}), BOB: poll[BOB].commits({0: BAD})}
    seen = list(made.values())
    shown = {who: poll[who].reveals(made[who], seen) for who in made}
    bench.hear(*seen, *shown.values())
    assert bench.state(0) == "open"
    leading = bench.unit(0).leading
    assert leading is not None
    other = ALICE if leading == BAD else BOB
    endorsed = ms.Endorse(0, 1, ms.VoteRef(shown[other].hash, 0), leading)
    assert states(bench.hear(poll[other].says(endorsed))) == [(0, "certified")]
    assert job in bench.node.jobs


def test_who_endorses_another_answer_later_supports_the_first_one_still() -> None:
    bench, job, poll = publishing(votes=(), units=1, quorum=2, comparison=Tolerance())
    shown = revealed_by(bench, poll, {ALICE: GOOD, BOB: BAD, CAROL: digest("a third")})
    mine = ms.VoteRef(shown[CAROL].hash, 0)
    bench.hear(poll[CAROL].says(ms.Endorse(0, 1, mine, GOOD)))
    first = bench.unit(0).certificate
    assert first is not None
    assert first.digest == GOOD
    bench.hear(poll[CAROL].says(ms.Endorse(0, 2, mine, BAD)))
    assert bench.unit(0).certificate == first
    assert {each.peer for each in bench.settlement().ballots(0, bench.now, everybody)} == {
        ALICE,
        BOB,
        CAROL,
    }
    assert only(ef.Prove, bench.effects) == []
    assert job in bench.node.jobs


def test_a_peer_endorses_a_unit_at_most_as_often_as_it_may_commit_to_it() -> None:
    bench, _, poll = publishing(votes=(), units=1, quorum=3, comparison=Tolerance())
    shown = revealed_by(bench, poll, {BOB: BAD})
    mine = ms.VoteRef(shown[BOB].hash, 0)
    for attempt in range(2 * ATTEMPTS_A_PEER):
        told = digest(f"answer {attempt}")
        bench.hear(poll[BOB].says(ms.Endorse(0, attempt, mine, told)))
    assert [each.attempt for each in bench.unit(0).endorsed[BOB]] == list(range(ATTEMPTS_A_PEER))


def test_who_sees_a_unit_certified_endorses_once_its_publisher_wants_more() -> None:
    bench, job, compare, poll = outvoted()
    third = poll[DAVE].commits({0: BAD}, attempt=1)
    bench.hear(third, poll[DAVE].reveals(third))
    assert bench.state(0) == "certified"
    told = compared(bench, compare, "unavailable") + bench.wait(COMPARE_RETRY_MS)
    assert only(ef.Compare, told) == [], "it is decided, as far as this node knows"
    told = bench.tell(ev.WantedReceived(job.manifest.publisher, job.job, (0,)))
    assert only(ef.Compare, told) != []


def test_a_publisher_asks_for_endorsements_where_the_replicas_are_used_up() -> None:
    stop = FixedQuorum(quorum=2, replicas_max=4)
    bench, _, poll = publishing(votes=(), units=1, stop=stop, comparison=Tolerance())
    apart(bench, poll)
    told = bench.wait(10_000)
    wanted = [each.message for each in only(ef.Send, told) if isinstance(each.message, ms.Wanted)]
    assert {units for each in wanted for units in each.units} == {0}


def test_a_unit_does_not_fail_before_its_answers_could_be_endorsed() -> None:
    stop = FixedQuorum(quorum=2, replicas_max=3)
    answers = {ALICE: GOOD, BOB: BAD, CAROL: digest("a third")}
    bench, _, poll = publishing(votes=(), units=1, stop=stop, comparison=Tolerance())
    shown = revealed_by(bench, poll, answers)
    told = bench.wait(ENDORSED_BY_MS - 1_000)
    assert states(told) == []
    leading = bench.unit(0).leading
    assert leading is not None
    other = next(who for who, answer in answers.items() if answer != leading)
    mine = ms.VoteRef(shown[other].hash, 0)
    told = bench.hear(poll[other].says(ms.Endorse(0, 1, mine, leading)))
    assert states(told) == [(0, "certified")]


def test_a_unit_fails_once_nobody_has_endorsed_any_of_its_answers() -> None:
    stop = FixedQuorum(quorum=2, replicas_max=3)
    bench, job, poll = publishing(votes=(), units=1, stop=stop, comparison=Tolerance())
    revealed_by(bench, poll, {ALICE: GOOD, BOB: BAD, CAROL: digest("a third")})
    told = bench.wait(ENDORSED_BY_MS)
    assert states(told) == [(0, "failed")]
    assert bench.node.ended[job].counts == {"failed": 1}


def test_what_waits_in_vain_for_votes_that_count_together_fails_at_last() -> None:
    stop = FixedQuorum(quorum=2, replicas_max=4)
    bench, job, poll = publishing(votes=(), units=1, stop=stop, comparison=Tolerance())
    apart(bench, poll)
    told = bench.wait(IN_VAIN_MS - 5_000)
    assert "failed" not in [state for _, state in states(told)]
    told += bench.wait(20_000)
    assert states(told)[-1] == (0, "failed")
    assert bench.node.ended[job].counts == {"failed": 1}


def test_an_endorsement_is_rejected_where_bytes_are_compared() -> None:
    bench, job = working()
    bob = Poll(job.job)[BOB]
    told = bench.hear(bob.says(ms.Endorse(0, 0, ms.VoteRef(bob.says(ms.Claim((0,))).hash, 0), BAD)))
    (report,) = only(ef.Report, told)
    assert (report.peer, type(report.verdict)) == (BOB, Reject)


@pytest.mark.parametrize("seed", range(3))
def test_a_job_settles_among_four_kinds_of_processors_and_no_honest_one_is_blamed(
    seed: int,
) -> None:
    cluster = Cluster(seed, loss=0.1 * seed)
    cluster.add("paula", slots=0)
    for kind in ("", "avx", "wide", "old"):
        for number in range(2):
            cluster.add(f"{kind or 'plain'} {number}", kind=kind)
    cluster.add("mallory", lies="a lie")
    job = cluster.publish("paula", units=25, quorum=3, replicas_max=16, comparison=Tolerance())
    cluster.run(lambda: cluster.closed(job), 600_000)
    check_ledger(cluster, job)
    check_records(cluster)
    known = records(cluster)
    for machine in cluster.machines.values():
        if machine.name not in ("paula", "mallory"):
            assert known[machine.me].contradicted == 0
    assert known[peer("mallory")].agreed == 0
    assert peer("mallory") == MALLORY
