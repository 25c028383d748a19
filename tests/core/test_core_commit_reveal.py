"""Commit, then reveal: nobody says which answer it has before the others have said that they have
one, and nothing that was said is lost or taken back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from core_bench import (
    Bench,
    commits,
    entries,
    execute,
    executed_units,
    only,
    reveals,
    states,
    working,
)
from core_samples import ALICE, BAD, BOB, CAROL, DAVE, GOOD, OUTPUT_BYTES, Poll, peer

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.machines.settlement import DEBT_WINDOWS
from p2pfleet.core.model.ids import Digest, FrameHash, PeerId
from p2pfleet.core.model.job import Trust
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.verified import VerifiedManifest

WINDOW_MS = Trust().window_ms
FLUSH_MS = 60


def committed(units: int = 1, **how: Any) -> tuple[Bench, VerifiedManifest, ms.Commit]:
    """Alice has run unit 0 and committed to her answer."""
    bench, job = working(units=units, **how)
    execute(bench, job, 0)
    (entry,) = [e for e in entries(bench.wait(FLUSH_MS)) if isinstance(e, ms.Commit)]
    return bench, job, entry


def before(who: PeerId) -> PeerId:
    """A peer whose key is lower: of two votes that do not count together, its own comes first."""
    return next(one for one in (peer(str(number)) for number in range(100)) if one < who)


# ---- in good order ---------------------------------------------------------------------------


def test_an_answer_is_committed_to_before_anybody_hears_which_it_is() -> None:
    bench, _, entry = committed()
    assert [(item.unit, item.attempt) for item in entry.items] == [(0, 0)]
    assert reveals(bench.effects) == []
    assert all(bytes(GOOD) not in bytes(encode(each)) for each in entries(bench.effects))


def test_the_seed_is_saved_before_the_frame_is_and_that_before_it_is_sent() -> None:
    bench, _, entry = committed()
    places = {
        kind: [number for number, told in enumerate(bench.effects) if isinstance(told, kind)]
        for kind in (ef.MakeCommitments, ef.SaveSeed, ef.SaveFrame)
    }
    sent = [
        number
        for number, told in enumerate(bench.effects)
        if isinstance(told, ef.Send) and isinstance(told.message, ms.Deliver)
    ]
    (asked,), (seed,) = places[ef.MakeCommitments], places[ef.SaveSeed]
    assert asked < seed < places[ef.SaveFrame][-1] < sent[-1]
    (saved,) = only(ef.SaveSeed, bench.effects)
    assert saved.seed.seed_hash == entry.seed_hash
    assert [(item.unit, item.digest) for item in saved.seed.items] == [(0, GOOD)]


def test_nothing_is_said_of_an_answer_until_its_commitment_is_made() -> None:
    bench, job = working(units=1)
    bench.prompt = False
    (make,) = only(ef.MakeCommitments, execute(bench, job, 0))
    assert make.items == (ms.RevealItem(0, 0, GOOD, OUTPUT_BYTES),)
    assert commits(bench.wait(10_000)) == []
    bench.tell(bench.committed(make))
    assert commits(bench.wait(FLUSH_MS)) == [(0, 0)]


def test_nobody_reveals_before_enough_others_have_committed() -> None:
    bench, job, _ = committed(quorum=3, replicas_max=8)
    poll = Poll(job.job)
    bench.hear(poll[BOB].commits({0: GOOD}))
    assert reveals(bench.wait(WINDOW_MS - 2 * FLUSH_MS)) == []
    bench.hear(poll[CAROL].commits({0: BAD}))
    assert reveals(bench.wait(FLUSH_MS)) == [(0, 0, GOOD)]


def test_a_reveal_names_every_commitment_that_its_author_has_seen() -> None:
    bench, job, _ = committed(quorum=3)
    poll = Poll(job.job)
    theirs = [poll[who].commits({0: GOOD}) for who in (BOB, CAROL)]
    told = [*bench.hear(*theirs), *bench.wait(FLUSH_MS)]
    (reveal,) = [entry for entry in entries(told) if isinstance(entry, ms.Reveal)]
    assert set(reveal.seen) == {reveal.commit, *(each.hash for each in theirs)}
    (saved,) = only(ef.SaveSeed, bench.effects)
    assert (reveal.seed, reveal.items) == (saved.seed.seed, saved.seed.items)


def test_who_waits_in_vain_for_others_reveals_when_the_window_ends() -> None:
    bench, _, _ = committed()
    assert reveals(bench.wait(WINDOW_MS - FLUSH_MS)) == []
    assert reveals(bench.wait(2 * FLUSH_MS)) == [(0, 0, GOOD)]


def test_what_is_executed_while_a_commitment_is_made_is_in_the_next_one_together() -> None:
    bench, job = working(units=3)
    bench.prompt = False
    for unit in range(3):
        execute(bench, job, unit)
    (first,) = only(ef.MakeCommitments, bench.effects)
    (second,) = only(ef.MakeCommitments, bench.tell(bench.committed(first)))
    assert [item.unit for item in first.items] == [0]
    assert [item.unit for item in second.items] == [1, 2]
    bench.tell(bench.committed(second))
    assert commits(bench.wait(FLUSH_MS)) == [(0, 0), (1, 0), (2, 0)]
    told = entries(bench.wait(WINDOW_MS + FLUSH_MS))
    one, two = [entry for entry in told if isinstance(entry, ms.Reveal)]
    assert [len(one.items), len(two.items)] == [1, 2]
    assert one.seed != two.seed


def test_a_batch_is_held_back_until_the_last_of_its_units_has_enough_commitments() -> None:
    bench, job = working(units=3)
    bench.prompt = False
    for unit in range(3):
        execute(bench, job, unit)
    first, *_ = only(ef.MakeCommitments, bench.effects)
    (second,) = only(ef.MakeCommitments, bench.tell(bench.committed(first)))
    assert [item.unit for item in second.items] == [1, 2]
    bench.tell(bench.committed(second))
    bench.wait(FLUSH_MS)
    bob = Poll(job.job)[BOB]
    bench.hear(bob.commits({1: GOOD}))
    assert reveals(bench.wait(FLUSH_MS)) == []
    bench.hear(bob.commits({2: GOOD}))
    assert reveals(bench.wait(FLUSH_MS)) == [(1, 0, GOOD), (2, 0, GOOD)]


def test_a_paused_volunteer_still_reveals_what_it_has_committed_to() -> None:
    bench, _, _ = committed()
    bench.tell(ev.PauseRequested(None))
    assert reveals(bench.wait(WINDOW_MS + FLUSH_MS)) == [(0, 0, GOOD)]


# ---- too late for an attempt -----------------------------------------------------------------


def test_a_commitment_made_after_a_reveal_belongs_to_the_next_attempt_and_joins() -> None:
    bench, job = working(units=1)
    bob = Poll(job.job)[BOB]
    mine = bob.commits({0: GOOD})
    bench.hear(mine, bob.reveals(mine))
    told = [*execute(bench, job, 0), *bench.wait(FLUSH_MS)]
    assert commits(told) == [(0, 1)]
    told = bench.wait(FLUSH_MS)
    assert reveals(told) == [(0, 1, GOOD)], "with hers there are enough"
    assert states(told) == [(0, "certified")]
    certificate = bench.unit(0).certificate
    assert certificate is not None
    assert len(certificate.votes) == 2


def test_an_answer_that_was_executed_before_a_reveal_and_committed_after_it_is_late_too() -> None:
    bench, job = working(units=2)
    bench.prompt = False
    execute(bench, job, 0)
    execute(bench, job, 1)
    (make,) = only(ef.MakeCommitments, bench.effects)
    bob = Poll(job.job)[BOB]
    mine = bob.commits({1: GOOD})
    bench.hear(mine, bob.reveals(mine))
    (late,) = only(ef.MakeCommitments, bench.tell(bench.committed(make)))
    assert [(item.unit, item.attempt) for item in late.items] == [(1, 1)]


def test_votes_that_do_not_count_together_are_committed_to_again_and_then_certify() -> None:
    bench, job, _ = committed()
    other = before(ALICE)
    poll = Poll(job.job)
    bench.wait(WINDOW_MS + FLUSH_MS)
    mine = poll[other].commits({0: GOOD})
    told = bench.hear(mine, poll[other].reveals(mine), source=BOB)
    assert states(told) == [], "neither had seen the other's commitment"
    told += bench.wait(FLUSH_MS)
    assert commits(told) == [(0, 1)]
    told += bench.wait(FLUSH_MS)
    assert reveals(told) == [(0, 1, GOOD)]
    assert states(told) == [(0, "certified")]


def test_the_one_who_comes_first_by_its_key_leaves_it_to_the_other_to_commit_again() -> None:
    bench, job, _ = committed()
    late = next(one for one in (peer(str(number)) for number in range(100)) if one > ALICE)
    poll = Poll(job.job)
    bench.wait(WINDOW_MS + FLUSH_MS)
    mine = poll[late].commits({0: GOOD})
    told = [*bench.hear(mine, poll[late].reveals(mine), source=BOB), *bench.wait(WINDOW_MS)]
    assert commits(told) == []
    again = poll[late].commits({0: GOOD}, attempt=1)
    told = bench.hear(again, poll[late].reveals(again), source=BOB)
    assert states(told) == [(0, "certified")]


def test_a_vote_is_committed_to_again_once_however_often_its_unit_is_looked_at() -> None:
    bench, job, _ = committed()
    poll = Poll(job.job)
    bench.wait(WINDOW_MS + FLUSH_MS)
    bench.prompt = False
    other = before(ALICE)
    mine = poll[other].commits({0: GOOD})
    told = bench.hear(mine, poll[other].reveals(mine), source=BOB)
    for check in only(ef.CheckCommitments, list(told)):
        told += bench.tell(bench.checked(check))
    for who in (CAROL, DAVE):
        late = poll[who].commits({0: BAD}, attempt=1)
        told += bench.hear(late, source=BOB)
    for make in only(ef.MakeCommitments, list(told)):
        told += bench.tell(bench.committed(make))
    late = poll[peer("erin")].commits({0: BAD}, attempt=1)
    told += bench.hear(late, source=BOB)
    told += bench.wait(FLUSH_MS)
    assert len(only(ef.MakeCommitments, told)) == 1
    assert commits(told) == [(0, 1)]


# ---- out of order ----------------------------------------------------------------------------


def test_a_reveal_that_comes_before_its_commitment_waits_for_it() -> None:
    bench, job = working(units=1)
    bob = Poll(job.job)[BOB]
    mine = bob.commits({0: GOOD})
    bench.hear(bob.reveals(mine))
    assert bench.unit(0).votes == {}
    bench.hear(mine)
    assert [vote.digest for vote in bench.unit(0).votes[BOB]] == [GOOD]


def test_nobody_drives_a_waiting_reveal_out_by_naming_the_same_commitment() -> None:
    bench, job = working(units=1)
    poll = Poll(job.job)
    mine = poll[BOB].commits({0: GOOD})
    bench.hear(poll[BOB].reveals(mine))
    poll[CAROL].made[mine.hash] = poll[BOB].made[mine.hash]
    bench.hear(poll[CAROL].reveals(mine))
    bench.hear(mine)
    assert list(bench.unit(0).votes) == [BOB]


def test_nobody_fills_the_room_in_which_reveals_of_others_wait() -> None:
    bench, job = working(units=1000)
    poll = Poll(job.job)
    for number in range(4_200):
        lost = ms.Reveal(
            FrameHash(number.to_bytes(32, "big")), 0, bytes(32),
            (ms.RevealItem(0, 0, BAD, 1),), (),
        )  # fmt: skip
        bench.hear(poll[CAROL].says(lost))
    mine = poll[BOB].commits({0: GOOD})
    bench.hear(poll[BOB].reveals(mine), mine)
    assert list(bench.unit(0).votes) == [BOB]


def test_a_reveal_that_somebody_else_signed_opens_nothing() -> None:
    bench, job = working(units=1)
    poll = Poll(job.job)
    mine = poll[BOB].commits({0: GOOD})
    poll[CAROL].made[mine.hash] = poll[BOB].made[mine.hash]
    told = bench.hear(mine, poll[CAROL].reveals(mine))
    assert bench.unit(0).votes == {}
    assert only(ef.Prove, told) == []
    assert only(ef.Report, told) == []


# ---- debts -----------------------------------------------------------------------------------


def test_an_unrevealed_commitment_holds_nobody_up_for_ever() -> None:
    bench, job = working(units=2)
    unit = min(bench.volunteer().held)
    poll = Poll(job.job)
    bench.hear(*(poll[who].commits({unit: GOOD}) for who in (BOB, CAROL)))
    assert unit not in bench.volunteer().held, "enough others have run it"
    assert unit not in executed_units(bench.wait(DEBT_WINDOWS * WINDOW_MS - FLUSH_MS))
    assert unit in executed_units(bench.wait(1_000))


def test_who_owes_a_reveal_pays_with_it_at_any_later_time() -> None:
    bench, job = working(units=1)
    poll = Poll(job.job)
    theirs = [poll[who].commits({0: GOOD}) for who in (BOB, CAROL)]
    bench.hear(*theirs)
    bench.wait(2 * DEBT_WINDOWS * WINDOW_MS)
    told = bench.hear(*(poll[mine.author].reveals(mine, theirs) for mine in theirs))
    assert states(told) == [(0, "certified")]


# ---- the bytes -------------------------------------------------------------------------------


def test_who_holds_the_same_bytes_opens_the_commitments_of_the_others() -> None:
    bench, job, _ = committed(quorum=3)
    poll = Poll(job.job)
    told = bench.hear(*poll.closed({BOB: {0: GOOD}, CAROL: {0: BAD}}))
    (check,) = only(ef.CheckCommitments, told)
    assert check.digest == GOOD
    assert [(item.unit, item.attempt, item.peer) for item in check.items] == [(0, 0, BOB)]
    assert only(ef.CheckCommitments, bench.wait(60_000)) == [], "once"


def test_a_vote_for_bytes_that_were_not_committed_to_does_not_count() -> None:
    bench, job, _ = committed()
    poll = Poll(job.job)
    copied = poll[BOB].commits({0: GOOD}, held=Digest(bytes(32)))
    bench.hear(copied)
    mine = bench.wait(FLUSH_MS)
    assert reveals(mine) == [(0, 0, GOOD)]
    own = bench.unit(0).commits[ALICE][0].frame
    opening = poll[BOB].opening(copied)
    seen = tuple(sorted((own, copied.hash)))
    told = bench.hear(poll[BOB].says(msgspec.structs.replace(opening, seen=seen)))
    assert states(told) == [(0, "certified"), (0, "open")]
    assert bench.unit(0).opened[BOB, 0] is False


@pytest.mark.parametrize("first", [GOOD, BAD])
def test_of_two_commitments_in_one_attempt_the_first_one_stays(first: Digest) -> None:
    bench, job = working(units=1)
    bob = Poll(job.job)[BOB]
    one, two = bob.commits({0: first}), bob.commits({0: BAD if first == GOOD else GOOD})
    told = bench.hear(one, two, bob.reveals(two))
    assert bench.unit(0).votes == {}
    assert only(ef.Prove, told) == [], "two commitments alone are nobody's fault"
    bench.hear(bob.reveals(one))
    assert [vote.digest for vote in bench.unit(0).votes[BOB]] == [first]
