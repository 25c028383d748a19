"""Faults that travel: what becomes a proof, who hears of it, and what it costs; and what never
becomes one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from core_bench import (
    Bench,
    entries,
    execute,
    frames,
    only,
    publishing,
    restarted,
    states,
    working,
)
from core_samples import (
    ALICE,
    BAD,
    BOB,
    CAROL,
    DAVE,
    GOOD,
    MALLORY,
    PAULA,
    SAMPLE,
    UGLY,
    Poll,
    Voter,
    peer,
    record,
)

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ACCEPT, Proven, Reject
from p2pfleet.core.machines.handlers.peers import PROOFS_TOLD
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, NetworkId, PeerId
from p2pfleet.core.model.job import Trust
from p2pfleet.core.rules.evidence import fault
from p2pfleet.core.rules.reputation import score
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.verified import VerifiedFrame

WINDOW_MS = Trust().window_ms


def two_answers(voter: Voter) -> tuple[VerifiedFrame, VerifiedFrame, VerifiedFrame]:
    """A commitment to unit 0, and two reveals of it that say different things."""
    made = voter.commits({0: GOOD})
    return made, voter.reveals(made), voter.reveals(made, digest=BAD)


def sent_proofs(effects: list[Any]) -> list[tuple[PeerId, ...]]:
    """To whom proofs were sent, once for each message."""
    return [
        effect.peers for effect in only(ef.Send, effects) if isinstance(effect.message, ms.Proof)
    ]


# ---- what becomes a proof --------------------------------------------------------------------


def naming(named: VerifiedFrame, index: int = 0) -> ms.Reveal:
    """A reveal that names an entry of a frame, whatever that is."""
    item = ms.RevealItem(0, 0, GOOD, 1)
    return ms.Reveal(named.hash, index, bytes(32), (item,), ())


@pytest.mark.parametrize("index", [0, 1, 1023])
@pytest.mark.parametrize("reveal_first", [True, False])
def test_a_reveal_of_what_is_no_commitment_becomes_a_proof_in_either_order(
    reveal_first: bool, index: int
) -> None:
    bench, job = working()
    bench.meet(MALLORY)
    voter = Poll(job.job)[MALLORY]
    claims = voter.says(ms.Claim((0,)), ms.Release((0,)))
    opens = voter.says(naming(claims, index))
    order = (opens, claims) if reveal_first else (claims, opens)
    told = bench.hear(*order)
    assert only(ef.SaveProof, told) == [ef.SaveProof(MALLORY, order[0].sealed, order[1].sealed)]
    assert "no commitment" in bench.node.standing.proved[MALLORY]
    assert bench.settlement().pending == {}
    assert bench.unit(0).votes == {}


@pytest.mark.parametrize("reveal_first", [True, False])
def test_a_reveal_of_what_somebody_else_wrote_waits_for_nothing_and_proves_nothing(
    reveal_first: bool,
) -> None:
    bench, job = working()
    bench.meet(MALLORY)
    poll = Poll(job.job)
    claims = poll[BOB].says(ms.Claim((0,)))
    opens = poll[MALLORY].says(naming(claims))
    told = bench.hear(*((opens, claims) if reveal_first else (claims, opens)))
    assert only(ef.Prove, told) == []
    assert bench.settlement().pending == {}


def test_two_answers_in_one_life_become_a_proof_that_is_saved_and_then_spread() -> None:
    bench, job = working()
    bench.meet(CAROL, MALLORY)
    made, one, two = two_answers(Poll(job.job)[MALLORY])
    bench.hear(made, one)
    told = bench.hear(two, source=BOB)
    (prove,) = only(ef.Prove, told)
    assert (prove.author, prove.sequence, prove.other) == (MALLORY, 1, two.sealed)
    assert only(ef.SaveProof, told) == [ef.SaveProof(MALLORY, one.sealed, two.sealed)]
    assert sent_proofs(told) == [tuple(sorted((PAULA, BOB, CAROL)))]
    saved = next(n for n, effect in enumerate(told) if isinstance(effect, ef.SaveProof))
    spread = next(
        number
        for number, effect in enumerate(told)
        if isinstance(effect, ef.Send) and isinstance(effect.message, ms.Proof)
    )
    assert saved < spread


def test_two_answers_within_one_frame_become_a_proof() -> None:
    bench, job = working()
    mallory = Poll(job.job)[MALLORY]
    made = mallory.commits({0: GOOD})
    both = mallory.says(mallory.opening(made), mallory.opening(made, digest=BAD))
    told = bench.hear(made, both, source=BOB)
    assert len(only(ef.SaveProof, told)) == 1


def test_two_frames_of_one_number_that_answer_differently_become_a_proof() -> None:
    bench, job = working()
    mallory = Poll(job.job)[MALLORY]
    made = mallory.commits({0: GOOD})
    one = mallory.reveals(made)
    mallory.sequence -= 1
    two = mallory.reveals(made, digest=BAD)
    told = bench.hear(made, one, two, source=BOB)
    assert only(ef.SaveProof, told) == [ef.SaveProof(MALLORY, one.sealed, two.sealed)]


def test_a_reveal_that_contradicts_its_commitment_becomes_a_proof() -> None:
    bench, job = working()
    mallory = Poll(job.job)[MALLORY]
    made = mallory.commits({0: GOOD})
    other = msgspec.structs.replace(mallory.opening(made), seed=bytes(32))
    told = bench.hear(made, mallory.says(other), source=BOB)
    (saved,) = only(ef.SaveProof, told)
    assert (saved.peer, saved.first) == (MALLORY, made.sealed)
    assert bench.unit(0).votes == {}


def test_two_endorsements_in_one_attempt_become_a_proof() -> None:
    bench, job = working(comparison=Tolerance())
    mallory = Poll(job.job)[MALLORY]
    made = mallory.commits({0: GOOD})
    reveal = mallory.reveals(made)
    own = ms.VoteRef(reveal.hash, 0)
    one, two = (mallory.says(ms.Endorse(0, 1, own, answer)) for answer in (BAD, UGLY))
    told = bench.hear(made, reveal, one, two, source=BOB)
    assert only(ef.SaveProof, told) == [ef.SaveProof(MALLORY, one.sealed, two.sealed)]


def test_a_proof_costs_everything_here_and_wherever_it_arrives() -> None:
    made, one, two = two_answers(Voter(MALLORY, SAMPLE.job))
    assert made.author == MALLORY
    for bench in (publishing(votes=(ALICE, MALLORY))[0], working()[0], Bench()):
        bench.meet(BOB)
        told = bench.tell(ev.ProofReceived(BOB, one, two))
        assert ef.Report(BOB, ACCEPT) in told
        known = bench.node.standing.record(MALLORY)
        assert (known.faults, known.checks, score(known)) == (1, 0, 0.0)
        assert not bench.node.standing.served(MALLORY, "any")
        assert not bench.node.standing.honest(MALLORY)


def test_a_proof_bans_its_author_whoever_brings_it_and_only_once() -> None:
    _, one, two = two_answers(Voter(MALLORY, SAMPLE.job))
    bench = working()[0]
    bench.meet(MALLORY)
    told = bench.tell(ev.ProofReceived(BOB, one, two))
    bans = [each for each in only(ef.Report, told) if isinstance(each.verdict, Proven)]
    assert [each.peer for each in bans] == [MALLORY]
    again = bench.tell(ev.ProofReceived(PAULA, one, two))
    assert not any(isinstance(each.verdict, Proven) for each in only(ef.Report, again))


def test_frames_that_contradict_each_other_ban_their_author_not_who_hands_them_on() -> None:
    bench, job = working()
    made, one, two = two_answers(Poll(job.job)[MALLORY])
    bench.hear(made, one)
    told = bench.hear(two, source=BOB)
    reports = [each for each in only(ef.Report, told) if isinstance(each.verdict, Reject)]
    assert [(each.peer, type(each.verdict)) for each in reports] == [(MALLORY, Proven)]


def test_who_is_proved_guilty_by_its_own_mistake_does_not_ban_itself() -> None:
    bench = Bench()
    _, one, two = two_answers(Voter(bench.node.me, SAMPLE.job))
    bench.meet(BOB)
    told = bench.tell(ev.ProofReceived(BOB, one, two))
    assert not any(isinstance(each.verdict, Proven) for each in only(ef.Report, told))


def test_a_proof_takes_the_votes_of_its_author_back_where_nothing_is_final() -> None:
    bench, job, poll = publishing(votes=(ALICE, MALLORY))
    made, one, two = two_answers(Voter(MALLORY, SAMPLE.job))
    assert bench.state(0) == "certified"
    told = bench.tell(ev.ProofReceived(BOB, one, two))
    assert states(told) == [(0, "open")]
    assert states(bench.hear(*poll.closed({BOB: {0: GOOD}}, attempt=1))) == [(0, "certified")]
    assert job in bench.node.jobs
    assert bench.hear(made) == [], "of a job that is not known here"


def test_who_broke_the_protocol_stands_in_no_trust_snapshot() -> None:
    bench, job, _ = publishing(votes=(ALICE, BOB, MALLORY), units=1)
    bench.meet(MALLORY)
    _, one, two = two_answers(Voter(MALLORY, SAMPLE.job))
    bench.tell(ev.ProofReceived(BOB, one, two))
    (fetch,) = only(ef.Fetch, bench.effects)
    bench.tell(ev.BlobArrived(job, fetch.ref))
    assert job in bench.node.ended
    known = bench.node.snapshot_for("any")
    assert known is None or MALLORY not in [each.peer for each in known.snapshot.records]


# ---- who hears of it -------------------------------------------------------------------------


def test_a_proof_is_checked_and_handed_on_once_but_not_to_where_it_came_from() -> None:
    bench = Bench()
    bench.meet(BOB, CAROL, DAVE, MALLORY)
    _, one, two = two_answers(Voter(MALLORY, SAMPLE.job))
    told = bench.tell(ev.ProofReceived(BOB, one, two))
    assert sent_proofs(told) == [tuple(sorted((CAROL, DAVE)))]
    assert bench.tell(ev.ProofReceived(CAROL, one, two)) == []
    assert bench.tell(ev.ProofReceived(CAROL, two, one)) == []


def test_what_proves_nothing_is_held_against_who_brings_it() -> None:
    bench = Bench()
    bench.meet(BOB)
    voter = Voter(MALLORY, SAMPLE.job)
    made, one, _ = two_answers(voter)
    again = voter.reveals(made)
    elsewhere = [
        VerifiedFrame(each.sealed, each.hash, msgspec.structs.replace(each.frame, network=other))
        for each in two_answers(Voter(MALLORY, SAMPLE.job))[1:]
        for other in (NetworkId(bytes(32)),)
    ]
    for first, second in ((made, one), (one, again), (one, one), tuple(elsewhere)):
        (report,) = bench.tell(ev.ProofReceived(BOB, first, second))
        assert (report.peer, type(report.verdict)) == (BOB, Reject)
    assert bench.node.standing.proved == {}
    assert bench.tell(ev.ProofReceived(bench.node.me, made, one)) == [], (
        "our own frames were not two"
    )


def test_a_newcomer_is_told_of_the_last_faults() -> None:
    bench = Bench()
    for number in range(PROOFS_TOLD + 3):
        _, one, two = two_answers(Voter(peer(f"cheat {number}"), SAMPLE.job))
        bench.tell(ev.ProofReceived(bench.node.me, one, two))
    bench.tell(ev.PeerConnected(BOB))
    told = bench.tell(ev.HelloReceived(BOB, record(BOB)))
    assert sent_proofs(told) == [(BOB,)] * PROOFS_TOLD


def test_a_proof_that_was_lost_on_the_way_comes_again_in_turn() -> None:
    bench = Bench()
    bench.meet(BOB, PAULA)
    for number in range(3):
        _, one, two = two_answers(Voter(peer(f"cheat {number}"), SAMPLE.job))
        bench.tell(ev.ProofReceived(bench.node.me, one, two))
    told = bench.wait(6 * 10_000 + 500)
    for other in (BOB, PAULA):
        again = {
            send.message
            for send in only(ef.Send, told)
            if isinstance(send.message, ms.Proof) and send.peers == (other,)
        }
        assert len(again) == 3


def test_a_proof_outlasts_the_process_and_weighs_what_is_read_back() -> None:
    bench, _, poll = publishing(votes=(ALICE,))
    made, one, two = two_answers(poll[MALLORY])
    bench.hear(made, one, two)
    bench.hear(*poll.closed({MALLORY: {1: GOOD}, BOB: {1: GOOD}}, attempt=1))
    again = restarted(bench)
    assert list(again.node.standing.proved) == [MALLORY]
    assert [again.state(unit) for unit in (0, 1)] == ["open", "open"]
    told = again.meet(CAROL)
    assert (CAROL,) in sent_proofs(told)


# ---- what never becomes one ------------------------------------------------------------------


def test_two_commitments_alone_prove_nothing() -> None:
    bench, job = working()
    bob = Poll(job.job)[BOB]
    one, two = (bob.commits({0: answer}) for answer in (GOOD, BAD))
    told = bench.hear(one, two)
    assert only(ef.Prove, told) == []
    (report,) = bench.tell(ev.ProofReceived(CAROL, one, two))
    assert isinstance(report.verdict, Reject)


def test_the_same_answer_twice_proves_nothing() -> None:
    bench, job = working()
    bob = Poll(job.job)[BOB]
    made = bob.commits({0: GOOD})
    told = bench.hear(made, bob.reveals(made), bob.reveals(made))
    again = bob.commits({0: GOOD}, attempt=1)
    told += bench.hear(again, bob.reveals(again))
    assert only(ef.Prove, told) == []


def test_a_peer_that_leaves_after_its_commitment_has_done_nothing() -> None:
    bench, job = working()
    bench.hear(Poll(job.job)[BOB].commits({0: GOOD}))
    bench.tell(ev.PeerDisconnected(BOB))
    told = bench.wait(120_000)
    assert only(ef.Prove, told) == []
    assert bench.node.standing.honest(BOB)


LOSSES: dict[str, tuple[type[Any], ...]] = {
    "a crash": (),
    "the seed alone": (ef.SaveSeed,),
    "a backup from before the answers": (ef.SaveSeed, ef.SaveFrame),
}


@pytest.mark.parametrize("lost", LOSSES)
@pytest.mark.parametrize("revealed", [False, True])
def test_no_crash_and_no_restored_backup_makes_a_proof(lost: str, revealed: bool) -> None:
    bench, job = working(units=1)
    execute(bench, job, 0)
    bench.wait(WINDOW_MS + 120 if revealed else 60)
    again = restarted(bench, lost=LOSSES[lost])
    again.meet(PAULA, BOB)
    again.tell(ev.JobOpened(job.job))
    execute(again, job, 0, answer=BAD)  # what a model gives that does not compute the same twice
    again.wait(4 * WINDOW_MS)
    said = [*frames(bench, ALICE).values(), *frames(again, ALICE).values()]
    assert len(said) >= 2
    assert all(fault(one, two) == "" for one in said for two in said)
    other, _ = working(units=1)
    other.hear(*said, source=BOB)
    assert only(ef.SaveProof, other.effects) == []
    assert other.node.standing.honest(ALICE)


def test_an_honest_volunteer_endorses_one_answer_in_an_attempt_however_they_come() -> None:
    bench, job = working(units=1, quorum=6, comparison=Tolerance(), replicas_max=20)
    poll = Poll(job.job)
    execute(bench, job, 0)
    bench.wait(WINDOW_MS + 120)
    asked: list[ef.Compare] = []
    for answer, count in ((BAD, 2), (UGLY, 3)):  # each of them leads for a while
        voters = {peer(f"{count} {number}"): {0: answer} for number in range(count)}
        bench.meet(*voters)
        asked += only(ef.Compare, bench.hear(*poll.closed(voters, attempt=1)))
    assert [each.candidate.sha256 for each in asked] == [BAD, UGLY]
    for each in asked:
        candidate = Digest(each.candidate.sha256)
        bench.tell(ev.Compared(job.job, 0, candidate, each.own, "same"))
    made = [entry for entry in entries(bench.wait(60)) if isinstance(entry, ms.Endorse)]
    assert [entry.digest for entry in made] == [BAD]
    said = frames(bench, ALICE).values()
    assert all(fault(one, two) == "" for one in said for two in said)
