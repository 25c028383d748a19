"""Trust snapshots: which votes weigh how much, who signs that, and what a record never does."""

from __future__ import annotations

from typing import Any

import pytest
from core_bench import Bench, arrive, entries, only, publishing, restarted, states, working
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    PAULA,
    Poll,
    peer,
    received,
    snapshot,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.effects import Move, RecordRow
from p2pfleet.core.errors import Reject
from p2pfleet.core.machines.handlers.trust import SNAPSHOT_EVERY_MS
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import JobId, NetworkId, PeerId
from p2pfleet.core.model.job import Confidence, Trust
from p2pfleet.core.model.record import MILLI, Record
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedManifest

NINE_TENTHS = Confidence(error_ppb=100_000_000, faulty_ppm=100_000, replicas_max=8)
"""One vote of a peer that passed a few checks is enough, or two of newcomers."""
SURER = Confidence(error_ppb=10_000_000, faulty_ppm=100_000, replicas_max=8)
"""Three votes of newcomers are enough."""


def trusting(records: dict[PeerId, int], **how: Any) -> tuple[Bench, VerifiedManifest]:
    """A volunteer that knows how many checks its publisher has seen others pass."""
    how.setdefault("stop", NINE_TENTHS)
    bench, job = working(**how)
    bench.tell(received(PAULA, snapshot(records).sealed))
    return bench, job


# ---- what a snapshot does --------------------------------------------------------------------


def test_the_trust_snapshot_weighs_votes() -> None:
    for records, expected in (({BOB: 50}, "certified"), ({CAROL: 50}, "open")):
        bench, job = trusting(records)
        bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
        assert bench.state(0) == expected
    bench, job = working(stop=NINE_TENTHS)
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    assert bench.state(0) == "open"


def test_a_certificate_names_the_snapshot_that_weighed_it() -> None:
    bench, job = trusting({BOB: 50})
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    certificate = bench.unit(0).certificate
    assert certificate is not None
    assert certificate.snapshot == snapshot({BOB: 50}).hash


def test_a_newer_snapshot_reopens_nothing_that_is_certified() -> None:
    bench, job = trusting({BOB: 50})
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    before = bench.unit(0).certificate
    told = bench.tell(received(PAULA, snapshot({CAROL: 50}, number=2).sealed))
    assert states(told) == []
    assert (bench.state(0), bench.unit(0).certificate) == ("certified", before)


def test_nor_does_a_restart_after_it() -> None:
    bench, job = trusting({BOB: 50})
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    bench.tell(received(PAULA, snapshot({CAROL: 50}, number=2).sealed))
    again = restarted(bench)
    assert again.settlement().snapshot_number == 2
    assert states(again.effects) == []
    assert again.state(0) == "certified"
    assert again.unit(0).certificate == bench.unit(0).certificate


def test_a_newer_snapshot_certifies_what_is_open_if_its_voters_are_known_now() -> None:
    bench, job = trusting({CAROL: 50})
    bench.hear(*Poll(job.job).closed({BOB: {0: GOOD}}))
    told = bench.tell(received(PAULA, snapshot({BOB: 50}, number=2).sealed))
    assert states(told) == [(0, "certified")]


def test_a_snapshot_that_is_older_or_somebody_elses_or_of_another_class_weighs_nothing() -> None:
    bench, _ = trusting({BOB: 50})
    for other in (
        snapshot({CAROL: 50}, number=0),
        snapshot({CAROL: 50}, number=1),
        snapshot({CAROL: 50}, number=9, publisher=MALLORY),
        snapshot({CAROL: 50}, number=9, model_class="other"),
    ):
        assert bench.tell(received(BOB, other.sealed)) == []
    assert bench.settlement().weights == {BOB: 50}


def test_a_snapshot_of_another_network_is_held_against_who_brings_it() -> None:
    bench, _ = trusting({BOB: 50})
    foreign = snapshot({CAROL: 50}, number=9, network=NetworkId(bytes(32)))
    (report,) = bench.tell(received(BOB, foreign.sealed))
    assert (report.peer, type(report.verdict)) == (BOB, Reject)


def test_newcomers_count_at_most_as_often_as_peers_that_are_known() -> None:
    newcomers = [peer(f"newcomer {number}") for number in range(5)]
    alone = {who: {0: GOOD} for who in newcomers}
    bench, job = trusting({BOB: 1, CAROL: 1}, stop=SURER)
    poll = Poll(job.job)
    bench.hear(*poll.closed(alone), source=BOB)
    assert bench.state(0) == "open", "a thousand keys of one owner certify nothing"
    bench.hear(*poll.closed({BOB: {0: GOOD}}, attempt=1))
    assert bench.state(0) == "open"
    bench.hear(*poll.closed({CAROL: {0: GOOD}}, attempt=2))
    assert bench.state(0) == "certified"
    bench, job = working(stop=SURER)
    bench.hear(*Poll(job.job).closed(alone), source=BOB)
    assert bench.state(0) == "certified", "in a first job everybody is one"


def test_against_an_answer_every_newcomer_counts() -> None:
    bench, job = trusting({BOB: 2})
    poll = Poll(job.job)
    bench.hear(*poll.closed({who: {0: BAD} for who in (MALLORY, DAVE, CAROL)}), source=BOB)
    bench.hear(*poll.closed({BOB: {0: GOOD}}, attempt=1))
    assert bench.state(0) == "open"


def test_newcomers_come_last() -> None:
    trust = Trust(crowd=1_000)
    bench, _ = trusting({BOB: 50, CAROL: 50}, trust=trust, units=50)
    desk = bench.settlement()
    known = [desk.eligible_at(unit, who, bench.now) for unit in range(50) for who in (BOB, CAROL)]
    new = [desk.eligible_at(unit, who, bench.now) for unit in range(50) for who in (MALLORY, DAVE)]
    assert max(known) <= min(new)


# ---- who signs it ----------------------------------------------------------------------------


def known_to(bench: Bench) -> dict[PeerId, int]:
    found = bench.node.snapshot_for("any")
    return {} if found is None else {each.peer: each.checks for each in found.snapshot.records}


def with_history(**how: Any) -> Bench:
    """A publisher on whose earlier jobs Alice and Bob have passed checks."""
    rows = (
        RecordRow("any", ALICE, Record(20, 0, 20 * MILLI)),
        RecordRow("any", BOB, Record(5, 0, 5 * MILLI)),
        RecordRow("other", CAROL, Record(9, 0, 9 * MILLI)),
    )
    return Bench(PAULA, slots=0, restore=[ev.RecordsRestored(rows)], **how)


def test_a_publisher_signs_what_it_knows_when_it_starts_class_by_class() -> None:
    bench = with_history()
    assert known_to(bench) == {ALICE: 20, BOB: 5}
    other = bench.node.snapshot_for("other")
    assert other is not None
    assert [each.peer for each in other.snapshot.records] == [CAROL]


def test_the_snapshot_that_a_manifest_names_weighs_its_votes_from_the_first_moment() -> None:
    bench = with_history()
    bench.meet(ALICE, BOB)
    known = bench.node.snapshot_for("any")
    assert known is not None
    job = bench.publish(stop=NINE_TENTHS, trust=Trust(snapshot=known.hash))
    (saved,) = only(ef.SaveSnapshot, bench.effects)
    assert (saved.job, saved.snapshot) == (job, known.sealed)
    bench.hear(*Poll(job).closed({ALICE: {0: GOOD}}))
    assert bench.state(0) == "certified"


def test_while_a_job_runs_new_records_come_into_force_every_few_seconds_and_are_told() -> None:
    bench, job, poll = publishing(votes=(ALICE, BOB, CAROL), stop=NINE_TENTHS)
    arrive(bench, job)
    told = bench.wait(2 * SNAPSHOT_EVERY_MS + 100)
    bench.hear(*poll.closed({DAVE: {1: BAD}}), source=ALICE)
    told += bench.wait(2 * SNAPSHOT_EVERY_MS + 100)
    (saved,) = only(ef.SaveSnapshot, told)
    (sent,) = [e for e in only(ef.Send, told) if e.message == ms.Deliver(saved.snapshot)]
    assert sent.peers == tuple(sorted((ALICE, BOB, CAROL)))
    assert known_to(bench) == {ALICE: 1, BOB: 1, CAROL: 1}
    assert only(ef.SaveSnapshot, bench.wait(60_000)) == [], "nothing has changed since"


def test_who_asks_with_an_older_snapshot_is_sent_the_newer_one() -> None:
    bench, job = trusting({BOB: 50})
    mine = snapshot({BOB: 50})
    for number, wanted in ((-1, True), (0, True), (1, False)):
        bench.wait(1_000)
        told = bench.tell(ev.FramesSummaryReceived(BOB, job.job, (), number))
        assert (ef.Send((BOB,), ms.Deliver(mine.sealed)) in told) == wanted
    summaries = [
        effect.message.snapshot
        for effect in only(ef.Send, bench.wait(20_000))
        if isinstance(effect.message, ms.FramesSummary)
    ]
    assert set(summaries) == {1}


# ---- records ---------------------------------------------------------------------------------

JOB, OTHER = JobId(bytes(31) + b"1"), JobId(bytes(31) + b"2")


def standing(*moves: Move, model_class: str = "any") -> Standing:
    found = Standing()
    found.open(JOB, model_class)
    found.move(JOB, list(moves))
    return found


def test_a_check_that_is_passed_counts_and_a_vote_that_only_agreed_does_not() -> None:
    found = standing(Move(0, ALICE, "matched"), Move(1, ALICE, "confirmed"))
    assert found.record(ALICE, "any") == Record(2, 0, MILLI)
    assert found.snapshot("any") == (ms.PeerChecks(ALICE, 1),)


@pytest.mark.parametrize(
    "kind", ["contradicted", "failed audit", "failed ringer", "false commitment"]
)
def test_to_be_caught_once_costs_every_check(kind: str) -> None:
    passed = [Move(unit, ALICE, "audited") for unit in range(50)]
    found = standing(*passed, Move(50, ALICE, kind))
    assert found.record(ALICE, "any") == Record(50, 1, 0)
    assert found.snapshot("any") == ()


def test_a_later_move_of_a_unit_replaces_the_earlier_one_in_its_place() -> None:
    kinds = ("audited", "matched", "audited")
    found = standing(*(Move(unit, ALICE, kind) for unit, kind in enumerate(kinds)))
    found.move(JOB, [Move(1, ALICE, "contradicted")])
    assert found.record(ALICE, "any") == Record(2, 1, MILLI), "what came after it still counts"
    found.move(JOB, [Move(1, ALICE, "")])
    assert found.record(ALICE, "any").contradicted == 0


def test_records_of_one_class_say_nothing_in_another() -> None:
    found = standing(*(Move(unit, ALICE, "contradicted") for unit in range(5)))
    found.open(OTHER, "other")
    assert not found.served(ALICE, "any")
    assert found.served(ALICE, "other")
    found.move(OTHER, [Move(0, ALICE, "audited")])
    assert found.record(ALICE, "other") == Record(1, 0, MILLI)
    assert found.record(ALICE) == Record(1, 5, MILLI), "for people, all together"


def test_a_job_that_ends_leaves_totals_and_a_poisoned_one_nothing() -> None:
    found = standing(Move(0, ALICE, "audited"))
    found.open(OTHER, "any")
    found.move(OTHER, [Move(0, ALICE, "contradicted"), Move(0, BOB, "audited")])
    assert found.void(OTHER) == sorted((ALICE, BOB))
    assert found.end(OTHER) == []
    assert found.end(JOB) == [RecordRow("any", ALICE, Record(1, 0, MILLI))]
    assert found.totals == {("any", ALICE): Record(1, 0, MILLI)}
    assert found.current["any", ALICE] == Record(1, 0, MILLI)


def test_what_a_node_thinks_of_a_peer_counts_in_its_own_jobs_only() -> None:
    rows = (RecordRow("any", BOB, Record(0, 9, 0)),)
    bench, job = working()
    bench.node.standing.restore(rows[0])
    assert not bench.node.standing.served(BOB, "any")
    bench.hear(*Poll(job.job).closed({who: {0: GOOD} for who in (BOB, CAROL)}))
    assert bench.state(0) == "certified", "Paula judges her job"
    judging = Bench(PAULA, slots=0, restore=[ev.RecordsRestored(rows)])
    judging.meet(BOB, CAROL)
    mine = judging.publish()
    judging.hear(*Poll(mine).closed({who: {0: GOOD} for who in (BOB, CAROL)}))
    assert judging.state(0) == "open"
    assert entries(judging.effects) == []
