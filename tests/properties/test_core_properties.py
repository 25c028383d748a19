"""What holds for every message, every set of votes, every order of frames."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from core_samples import (
    NETWORK,
    PAULA,
    SAMPLE,
    digest,
    frame,
    manifest,
    peer,
    vote,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p2pfleet.core.errors import Malformed
from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.machines.settlement import Settlement
from p2pfleet.core.machines.standing import Standing
from p2pfleet.core.model.ids import Digest, FrameHash, JobId, Millis, PeerId
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits, UnitInput, UnitTable
from p2pfleet.core.model.network import NetworkParameters
from p2pfleet.core.rules.certificate import certificate, check_certificate, decide
from p2pfleet.core.rules.claims import gives_way, preference
from p2pfleet.core.rules.reputation import Record
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, decode_bundle, encode_bundle
from p2pfleet.core.wire.verified import VerifiedFrame

NOW = Millis(1_000)
PEERS = [peer(f"peer {number}") for number in range(12)]
DIGESTS = [digest(f"answer {number}") for number in range(3)]

# ---- every message ---------------------------------------------------------------------------


def values(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    """Valid values of a type of the wire, from the bounds that stand on it."""
    match info:
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.IntType(ge=low, le=high, lt=below):
            return st.integers(low, high if below is None else below - 1)
        case msgspec.inspect.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high or 64, (low or 0) + 64))
        case msgspec.inspect.StrType(min_length=low, max_length=high, pattern=None):
            return st.text(min_size=low or 0, max_size=high).filter(_encodable)
        case msgspec.inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern)
        case msgspec.inspect.LiteralType(values=choices):
            return st.sampled_from(choices)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.VarTupleType(item_type=item, min_length=low):
            return st.lists(values(item), min_size=low or 0, max_size=4).map(tuple)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case msgspec.inspect.StructType(cls=kind, fields=fields):
            return st.builds(kind, **{field.name: values(field.type) for field in fields})
    raise AssertionError(info)


def _encodable(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


MESSAGES: tuple[Any, ...] = (
    ms.Manifest,
    ms.Closure,
    ms.PeerRecord,
    ms.Requirement,
    ms.Frame,
    ms.Sealed,
    ms.Certificate,
    ms.Hello,
    ms.Deliver,
    ms.JobsSummary,
    ms.FramesSummary,
    ms.Wanted,
    ms.BlobRequest,
    ms.BlobHeader,
    NetworkParameters,
    UnitTable,
    UnitInput,
    Limits,
    Exact,
    FixedQuorum,
)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_every_message_comes_back_from_its_one_encoding(kind: Any, data: st.DataObject) -> None:
    message = data.draw(values(msgspec.inspect.type_info(kind)))
    packed = encode(message)
    assert decode(packed, kind, 2**20) == message
    assert msgpack.packb(msgpack.unpackb(packed)) == packed


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_malformed_and_nothing_else(data: bytes) -> None:
    try:
        message = decode(data, ms.Message, 1000)
    except Malformed:
        return
    assert encode(message) == data


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_makes_another_message_or_none(data: st.DataObject) -> None:
    packed = encode(frame(PEERS[0], ms.Claim((1, 300)), vote(1, DIGESTS[0])).frame)
    position = data.draw(st.integers(0, len(packed) - 1))
    changed = bytearray(packed)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        message = decode(bytes(changed), ms.SignedBody, 1000)
    except Malformed:
        return
    assert encode(message) == bytes(changed) != packed


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            lambda name, dtype, shape: (name, dtype, tuple(shape)),
            st.text(min_size=1, max_size=20).filter(_encodable),
            st.sampled_from(sorted(ITEM_BYTES)),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        max_size=5,
        unique_by=lambda spec: spec[0],
    )
)
def test_every_bundle_comes_back(specs: list[tuple[str, Any, tuple[int, ...]]]) -> None:
    bundle = []
    for name, dtype, shape in specs:
        size = ITEM_BYTES[dtype]
        for length in shape:
            size *= length
        bundle.append(Tensor(name, dtype, shape, bytes(number % 2 for number in range(size))))
    assert decode_bundle(encode_bundle(tuple(bundle)), 2**20) == tuple(bundle)


# ---- decisions -------------------------------------------------------------------------------

ballots = st.dictionaries(st.sampled_from(PEERS), st.sampled_from(DIGESTS))
faults = st.dictionaries(st.sampled_from(PEERS), st.sampled_from(["memory: x", "cpu: y"]))
stops = st.builds(FixedQuorum, st.integers(1, 4), st.integers(4, 12))


@settings(max_examples=300)
@given(stops, ballots, faults, st.randoms(use_true_random=False))
def test_a_decision_does_not_depend_on_order(
    stop: FixedQuorum, votes: dict[PeerId, Digest], failures: dict[PeerId, str], random: Any
) -> None:
    failures = {who: why for who, why in failures.items() if who not in votes}
    shuffled_votes, shuffled_failures = list(votes.items()), list(failures.items())
    random.shuffle(shuffled_votes)
    random.shuffle(shuffled_failures)
    decision = decide(stop, votes, failures)
    assert decide(stop, dict(shuffled_votes), dict(shuffled_failures)) == decision
    assert (decision.wanted > 0) == (decision.state in ("open", "contested"))
    assert (decision.digest is not None) == (decision.state == "certified")
    assert bool(decision.reason) == (decision.state == "failed")
    assert len(votes) + len(failures) + decision.wanted <= max(
        stop.replicas_max, len(votes) + len(failures)
    )


@settings(max_examples=300)
@given(stops, ballots)
def test_as_many_agreeing_votes_as_are_wanted_decide_a_unit_unless_replicas_run_out(
    stop: FixedQuorum, votes: dict[PeerId, Digest]
) -> None:
    decision = decide(stop, votes, {})
    assume(decision.wanted > 0)
    tally = {answer: list(votes.values()).count(answer) for answer in DIGESTS}
    best = max(DIGESTS, key=lambda answer: tally[answer])
    more = {peer(f"more {number}"): best for number in range(decision.wanted)}
    after = decide(stop, {**votes, **more}, {})
    assert after.state == "certified" or len(votes) + len(more) >= stop.replicas_max


@settings(max_examples=200)
@given(
    st.permutations(PEERS[:6]),
    st.integers(1, 4),
    st.sets(st.sampled_from(PEERS[:6]), max_size=3),
    st.booleans(),
)
def test_unanimous_votes_certify_the_same_digest_in_every_order(
    order: list[PeerId], quorum: int, muted: set[PeerId], by_unit: bool
) -> None:
    settlement = Settlement(SAMPLE.job, manifest(quorum=quorum, replicas_max=8))
    for author in order:
        units = range(3)
        entries = [vote(unit, DIGESTS[unit]) for unit in units]
        batches = [[entry] for entry in entries] if by_unit else [entries]
        for sequence, batch in enumerate(batches):
            settlement.apply(
                frame(author, *batch, sequence=sequence), NOW, lambda who: who not in muted
            )
    for unit in range(3):
        state = settlement.units[unit]
        assert (state.state == "certified") == (6 - len(muted) >= quorum)
        assert state.certificate is None or state.certificate.digest == DIGESTS[unit]
        assert state.certificate is None or len(state.certificate.votes) == quorum


# ---- certificates ----------------------------------------------------------------------------


def settled(
    quorum: int, votes: dict[PeerId, Digest]
) -> tuple[ms.Certificate | None, dict[FrameHash, VerifiedFrame]]:
    """The certificate that these votes on unit 1 amount to, if they do, and all frames."""
    stop = FixedQuorum(quorum, 64)
    frames = {
        author: frame(author, ms.Claim((1,)), vote(1, answer), vote(2, answer))
        for author, answer in votes.items()
    }
    decision = decide(stop, votes, {})
    by_hash = {item.hash: item for item in frames.values()}
    if decision.state != "certified":
        return None, by_hash
    refs = {who: (votes[who], ms.VoteRef(frames[who].hash, 1)) for who in votes}
    return certificate(SAMPLE.job, 1, decision, stop, refs), by_hash


@settings(max_examples=300)
@given(st.integers(1, 4), ballots)
def test_every_certificate_that_is_made_holds(quorum: int, votes: dict[PeerId, Digest]) -> None:
    made, frames = settled(quorum, votes)
    assume(made is not None)
    assert made is not None
    body = manifest(quorum=quorum)
    assert check_certificate(body, SAMPLE.job, made, frames) is None
    assert decode(encode(made), ms.Certificate, 10_000) == made


def holds(body: ms.Manifest, made: ms.Certificate, frames: dict[FrameHash, VerifiedFrame]) -> bool:
    """The definition of a valid certificate, written down a second time."""
    voters = set()
    for ref in made.votes:
        if ref.frame not in frames or ref.index >= len(frames[ref.frame].frame.entries):
            return False
        entry = frames[ref.frame].frame.entries[ref.index]
        if not isinstance(entry, ms.Reveal) or entry.unit != made.unit:
            return False
        if entry.digest != made.digest or frames[ref.frame].author == body.publisher:
            return False
        voters.add(frames[ref.frame].author)
    enough = len(voters) >= body.stop.quorum + made.attempt
    return made.job == SAMPLE.job and made.unit < body.units and enough


@settings(max_examples=500)
@given(st.integers(1, 3), ballots, st.data())
def test_a_changed_certificate_holds_only_if_it_is_one_itself(
    quorum: int, votes: dict[PeerId, Digest], data: st.DataObject
) -> None:
    made, frames = settled(quorum, votes)
    assume(made is not None)
    assert made is not None
    own = frame(PAULA, ms.Claim((1,)), vote(1, made.digest))
    frames[own.hash] = own
    refs = st.builds(
        ms.VoteRef,
        st.sampled_from([*sorted(frames), FrameHash(bytes(32))]),
        st.integers(0, 4),
    )
    position = data.draw(st.integers(0, len(made.votes) - 1))
    ref = data.draw(refs)
    changes: dict[str, Any] = {
        "job": data.draw(st.sampled_from([JobId(bytes(32)), JobId(DIGESTS[0])])),
        "unit": data.draw(st.sampled_from([0, 2, 9, 10, 999_999])),
        "attempt": data.draw(st.integers(0, 255)),
        "digest": data.draw(st.sampled_from([*DIGESTS, Digest(bytes(32))])),
        "votes": data.draw(
            st.sampled_from(
                [
                    (*made.votes[:position], ref, *made.votes[position + 1 :]),
                    (*made.votes[:position], *made.votes[position + 1 :]),
                    (*made.votes, ref),
                    (made.votes[position],) * len(made.votes),
                ]
            )
        ),
    }
    field = data.draw(st.sampled_from(sorted(changes)))
    changed = msgspec.structs.replace(made, **{field: changes[field]})
    body = manifest(quorum=quorum)
    reason = check_certificate(body, SAMPLE.job, changed, frames)
    assert (reason is None) == holds(body, changed, frames)


@settings(max_examples=100)
@given(st.integers(1, 3), ballots, st.data())
def test_a_certificate_without_one_of_its_frames_does_not_hold(
    quorum: int, votes: dict[PeerId, Digest], data: st.DataObject
) -> None:
    made, frames = settled(quorum, votes)
    assume(made is not None)
    assert made is not None
    del frames[data.draw(st.sampled_from(made.votes)).frame]
    assert check_certificate(manifest(quorum=quorum), SAMPLE.job, made, frames) is not None


# ---- settlement, standing, logs, claims ------------------------------------------------------

casts = st.lists(
    st.tuples(st.sampled_from(PEERS[:8]), st.integers(0, 3), st.sampled_from(DIGESTS)), max_size=60
)


@settings(max_examples=200)
@given(casts, st.sampled_from([2, 3]), st.booleans())
def test_records_count_every_judged_vote_exactly_once_however_units_turn(
    votes: list[tuple[PeerId, int, Digest]], quorum: int, restart: bool
) -> None:
    body = manifest(quorum=quorum, replicas_max=8)
    settlement, standing = Settlement(SAMPLE.job, body), Standing()
    ledger: dict[int, tuple[str, Any]] = {}
    for sequence, (author, unit, answer) in enumerate(votes):
        item = frame(author, vote(unit, answer), sequence=sequence)
        outcomes = [settlement.apply(item, NOW, standing.counts)]
        while outcomes:
            outcome = outcomes.pop()
            for row in outcome.rows:
                ledger[row.unit] = (row.state, row.detail)
            if turned := standing.move(outcome.judgements, outcome.reversed):
                outcomes.append(settlement.reconsider(turned, standing.counts))
        if restart and sequence == len(votes) // 2:
            data = msgspec.msgpack.encode(settlement)
            settlement = msgspec.msgpack.decode(data, type=Settlement)
    totals: dict[PeerId, Record] = {}
    for (_, who), agreed in settlement.judged.items():
        old = totals.get(who, Record())
        totals[who] = Record(old.agreed + agreed, old.contradicted + (not agreed))
    moved = {who: record for who, record in standing.records.items() if record != Record()}
    assert moved == totals
    for number, decided in settlement.units.items():
        made = decided.certificate
        if made is not None:
            assert decided.state == "certified"
            assert ledger[number] == ("certified", encode(made))
            for who, cast in decided.votes.items():
                assert settlement.judged[number, who] == (cast.digest == made.digest)
    states = [decided.state for decided in settlement.units.values()]
    for state in ("certified", "contested", "failed"):
        assert settlement.count(state) == states.count(state)
    assert settlement.count("open") == body.units - len(states) + states.count("open")


@settings(max_examples=100)
@given(st.permutations(list(range(12))), st.sets(st.integers(0, 11), max_size=6))
def test_a_log_that_lost_frames_is_repaired_by_its_summary(
    order: list[int], lost: set[int]
) -> None:
    frames = {n: frame(PEERS[n % 2], vote(0, DIGESTS[0]), sequence=n // 2).frame for n in range(12)}
    here, there = FrameLog(SAMPLE.job), FrameLog(SAMPLE.job)
    for number in order:
        assert here.admit(frames[number], 10) is None
        if number not in lost:
            assert there.admit(frames[number], 10) is None
    again = 0
    for reply in here.missing(PEERS[5], there.positions()):
        for sequence in range(reply.first, reply.end):
            number = 2 * sequence + PEERS.index(reply.author)
            again += there.admit(frames[number], 10) is None
    assert again == len(lost)
    assert there.positions() == here.positions()
    assert there.ahead == {}


@settings(max_examples=100)
@given(st.binary(min_size=16, max_size=16), st.sets(st.sampled_from(PEERS)), st.integers(0, 12))
def test_as_many_claims_stay_as_are_wanted(salt: bytes, claiming: set[PeerId], wanted: int) -> None:
    stay = [who for who in claiming if not gives_way(salt, 7, who, claiming - {who}, wanted)]
    assert len(stay) == min(wanted, len(claiming))
    assert sorted(preference(salt, 50, PEERS[0])) == list(range(50))
    assert SAMPLE.manifest.network == NETWORK
