"""What frames and moves amount to does not depend on the order in which they come."""

from __future__ import annotations

from typing import Any

import msgspec
from core_samples import PAULA, SAMPLE, Poll, digest, manifest, peer, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.effects import Move
from p2pfleet.core.machines.leases import Leases
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Digest, JobId, Millis, PeerId
from p2pfleet.core.model.job import Confidence, FixedQuorum, StopRule
from p2pfleet.core.model.record import Record
from p2pfleet.core.rules.reputation import CAUGHT, PASSED, moved
from p2pfleet.core.rules.sortition import ALLOWANCE_MAX
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode
from p2pfleet.core.wire.verified import VerifiedFrame

NOW = Millis(1_000)
PEERS = [peer(f"peer {number}") for number in range(6)]
DIGESTS = [digest(f"answer {number}") for number in range(3)]
UNITS = range(3)
FAILING = peer("who cannot run it")

STOPS: tuple[StopRule, ...] = (
    FixedQuorum(2, 64),
    FixedQuorum(3, 64),
    Confidence(100_000_000, 100_000, 64),
    Confidence(1_000_000, 200_000, 64),
)


def everybody(who: PeerId) -> bool:
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[VerifiedFrame]:
    """What peers that keep to the protocol may write: they answer once an attempt, see some of the
    others' commitments or none, leave before they reveal, try again; the publisher may have the
    last word."""
    poll = Poll(SAMPLE.job)
    frames: list[VerifiedFrame] = []
    answers = draw(
        st.dictionaries(
            st.sampled_from(PEERS),
            st.dictionaries(st.sampled_from(UNITS), st.sampled_from(DIGESTS), min_size=1),
            min_size=1,
        )
    )
    for attempt in range(draw(st.integers(1, 3))):
        trying = sorted(draw(st.sets(st.sampled_from(sorted(answers)))) if attempt else answers)
        made = {who: poll[who].commits(answers[who], attempt) for who in trying}
        for who in trying:
            frames.append(made[who])
            if draw(st.booleans()) or draw(st.booleans()):
                seen = draw(st.sets(st.sampled_from(trying))) if draw(st.booleans()) else trying
                frames.append(poll[who].reveals(made[who], [made[other] for other in seen]))
    if draw(st.booleans()):
        # Of a peer whose word alone ends no unit: that would be final, and so a matter of order.
        frames.append(poll[FAILING].says(ms.Failure(0, 0, "cpu: too long")))
    if draw(st.integers(0, 3)) == 0:
        frames.append(poll[PAULA].says(ms.Audit(1, draw(st.sampled_from(DIGESTS)))))
    return frames


def settlement(stop: StopRule, known: dict[PeerId, int] | None) -> Settlement:
    found = Settlement.create(SAMPLE.job, manifest(stop=stop), NOW, judge=False)
    if known:
        found.weigh(snapshot(known))
    return found


def amounts(found: Settlement) -> list[Any]:
    """What every unit has come to. That two answers fought meanwhile (contested) is history."""
    outcome = []
    for number in UNITS:
        unit = found.unit(number)
        certificate = unit.certificate
        votes = [(who, vote) for who in sorted(unit.votes) for vote in unit.votes[who]]
        outcome.append(
            (
                unit.state if certificate is not None else "undecided",
                None if certificate is None else certificate.digest,
                None if unit.final else (unit.leading, unit.voters_for, unit.votes_against),
                unit.attempt,
                [(who, vote.attempt, vote.digest, vote.ref) for who, vote in votes],
                sorted((who, len(unit.commits[who])) for who in unit.commits),
                unit.failures,
            )
        )
    return outcome


KNOWN = st.none() | st.dictionaries(st.sampled_from(PEERS), st.integers(1, 60), min_size=1)


@settings(max_examples=200)
@given(histories(), st.sampled_from(STOPS), KNOWN, st.randoms(use_true_random=False))
def test_no_order_of_the_same_frames_changes_what_they_amount_to(
    frames: list[VerifiedFrame], stop: StopRule, known: dict[PeerId, int] | None, random: Any
) -> None:
    shuffled = list(frames)
    random.shuffle(shuffled)
    results = []
    for order in (frames, list(reversed(frames)), shuffled):
        found = settlement(stop, known)
        rows: dict[int, Any] = {}
        for item in order:
            for row in found.apply(item, NOW, everybody).rows:
                rows[row.unit] = row
        for number, row in rows.items():
            unit = found.units[number]
            assert row.state == unit.state
            made = decode(row.detail, ms.Certificate, 2**16) if unit.certificate else None
            assert made == unit.certificate
        results.append(amounts(found))
    assert results[0] == results[1] == results[2]


@settings(max_examples=100)
@given(histories(), st.sampled_from(STOPS), KNOWN, st.randoms(use_true_random=False))
def test_frames_restored_at_once_amount_to_the_same_as_when_they_came_one_by_one(
    frames: list[VerifiedFrame], stop: StopRule, known: dict[PeerId, int] | None, random: Any
) -> None:
    lived, read = settlement(stop, known), settlement(stop, known)
    for item in frames:
        lived.apply(item, NOW, everybody)
    random.shuffle(frames)
    for item in frames:
        assert read.apply(item, NOW, everybody, decide=False).rows == []
    read.restored(NOW, everybody)
    assert amounts(read) == amounts(lived)


@settings(max_examples=100)
@given(histories(), st.sampled_from(STOPS), st.integers(0, 40))
def test_a_settlement_that_was_read_back_goes_on_as_it_was_and_counts_what_it_has(
    frames: list[VerifiedFrame], stop: StopRule, at: int
) -> None:
    plain, read = settlement(stop, None), settlement(stop, None)
    for number, item in enumerate(frames):
        if number == at:
            data = msgspec.msgpack.encode(read)
            read = msgspec.msgpack.decode(data, type=Settlement)
        assert read.apply(item, NOW, everybody) == plain.apply(item, NOW, everybody)
    assert read == plain
    states = [unit.state for unit in plain.units.values()]
    for state in ("certified", "contested", "failed", "settled"):
        assert plain.count(state) == states.count(state)
    assert plain.count("open") == 10 - len(states) + states.count("open")
    assert plain.votes == sum(
        len(votes) for unit in plain.units.values() for votes in unit.votes.values()
    )


# ---- records ---------------------------------------------------------------------------------

JOBS = [JobId(bytes([number]) * 32) for number in range(3)]
KINDS = ("matched", *PASSED, *CAUGHT, "")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("move"),
            st.sampled_from(JOBS),
            st.lists(
                st.builds(
                    Move, st.integers(0, 4), st.sampled_from(PEERS[:2]), st.sampled_from(KINDS)
                ),
                max_size=4,
            ),
        ),
        st.tuples(st.sampled_from(["open", "void", "end"]), st.sampled_from(JOBS)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS)
def test_records_are_the_totals_and_the_moves_of_open_jobs_in_their_order(steps: list[Any]) -> None:
    """So that a restart, which knows nothing else, comes to the same ones."""
    standing = Standing()
    for what, job, *rows in steps:
        if what == "open" and job not in standing.classes:
            standing.open(job, "any" if job != JOBS[2] else "other")
        elif job in standing.classes and what == "move":
            standing.move(job, rows[0])
        elif job in standing.classes and what == "void":
            standing.void(job)
        elif job in standing.classes and what == "end":
            standing.end(job)
    again = Standing()
    again.totals = dict(standing.totals)
    again.current = dict(standing.totals)
    for job, moves in standing.moves.items():
        again.open(job, standing.classes[job])
        for who, kinds in moves.items():
            again.move(job, [Move(unit, who, kind) for unit, kind in kinds.items()])
    for key in {*standing.current, *again.current}:
        assert standing.current.get(key, Record()) == again.current.get(key, Record())


@given(st.lists(st.sampled_from(KINDS[:-1]), max_size=800))
def test_a_record_never_falls_below_nothing_and_never_grows_without_end(kinds: list[str]) -> None:
    record = Record()
    for kind in kinds:
        record = moved(record, kind)
        assert 0 <= record.checks <= 320
        assert kind not in CAUGHT or record.checks == 0
    assert record.agreed + record.contradicted == len(kinds)


# ---- claims ----------------------------------------------------------------------------------

CLAIMS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "release", "commit", "clear", "wait"]),
        st.sampled_from(PEERS[:3]),
        st.integers(0, 30),
    ),
    max_size=120,
)


@settings(max_examples=100)
@given(CLAIMS)
def test_nobody_ever_holds_more_than_its_allowance_and_every_claim_is_counted_once(
    steps: list[tuple[str, PeerId, int]],
) -> None:
    book, now = Leases(1_000, 4_000), NOW
    for what, who, unit in steps:
        if what == "claim":
            room = book.room(who, now)
            before = len(book.holding.get(who, {}))
            book.claim(who, unit, now)
            assert len(book.holding.get(who, {})) <= before + min(room, 1)
        elif what == "release":
            book.release(who, unit)
        elif what == "commit":
            book.committed(who, unit, now)
        elif what == "clear":
            book.clear(unit)
        else:
            now = Millis(now + 40 * unit)
        held = {(other, n) for other, units in book.holding.items() for n in units}
        assert all(other in book.units[n] for other, n in held)
        assert book.running(now) == sum(len(book.claimants(n, now)) for n in book.units)
        assert all(0 <= book.room(other, now) <= ALLOWANCE_MAX for other in PEERS[:3])


def test_the_histories_decide_something() -> None:
    """Else the properties above would prove little."""
    found = settlement(STOPS[0], None)
    for item in Poll(SAMPLE.job).closed({who: {0: DIGESTS[0]} for who in PEERS[:2]}):
        found.apply(item, NOW, everybody)
    assert amounts(found)[0][:2] == ("certified", Digest(DIGESTS[0]))
