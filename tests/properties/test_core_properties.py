"""What holds for every message, every log of frames, every set of claims."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack
import msgspec
import pytest
from core_samples import NETWORK, SAMPLE, digest, frame, peer, vote
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfleet.core.errors import Malformed
from p2pfleet.core.machines.frames import FrameLog
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.job import (
    Confidence,
    Exact,
    FixedQuorum,
    Limits,
    Trust,
    UnitInput,
    UnitTable,
)
from p2pfleet.core.model.network import NetworkParameters
from p2pfleet.core.rules.claims import gives_way, preference
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode
from p2pfleet.core.wire.tensors import ITEM_BYTES, Tensor, decode_bundle, encode_bundle

PEERS = [peer(f"peer {number}") for number in range(12)]
DIGESTS = [digest(f"answer {number}") for number in range(3)]

# ---- every message ---------------------------------------------------------------------------


ASCENDING: dict[type[Any], dict[str, Callable[[Any], Any]]] = {
    ms.Reveal: {"seen": lambda name: name},
    ms.Snapshot: {"records": lambda each: each.peer},
    ms.Members: {"entries": lambda each: each.peer},
    Tolerance: {"outputs": lambda each: each.name},
    ms.Keep: {"digests": lambda each: each},
    ms.Drop: {"digests": lambda each: each},
    ms.ShardsSummary: {"rows": lambda each: each.shard},
}
"""Fields whose items stand in ascending order of a key, each key once."""


def _from_old_to_new(fields: dict[str, Any]) -> dict[str, Any]:
    oldest, newest = sorted((fields["oldest"], fields["newest"]))
    return {**fields, "oldest": oldest, "newest": newest}


def _closed_if_owned(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "closed": fields["closed"] and fields["owner"] is not None}


TOGETHER: dict[type[Any], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ms.Hello: _from_old_to_new,
    ms.Goodbye: _from_old_to_new,
    NetworkParameters: _closed_if_owned,
}
"""Fields that have to fit each other, made so."""


def _ascending(key: Callable[[Any], Any], items: tuple[Any, ...]) -> tuple[Any, ...]:
    found = {key(item): item for item in items}
    return tuple(found[each] for each in sorted(found))


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
        case msgspec.inspect.StrType(max_length=high, pattern=str(pattern)):
            return st.from_regex(pattern).filter(
                lambda text: _encodable(text) and (high is None or len(text) <= high)
            )
        case msgspec.inspect.LiteralType(values=choices):
            return st.sampled_from(choices)
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.VarTupleType(item_type=item, min_length=low):
            return st.lists(values(item), min_size=low or 0, max_size=max(4, low or 0)).map(tuple)
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case msgspec.inspect.StructType(cls=kind, fields=fields):
            parts = {field.name: values(field.type) for field in fields}
            for name, key in ASCENDING.get(kind, {}).items():
                parts[name] = parts[name].map(partial(_ascending, key))
            fit = TOGETHER.get(kind, lambda fields: fields)
            return st.fixed_dictionaries(parts).map(lambda fields: kind(**fit(fields)))
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
    ms.Goodbye,
    ms.Members,
    ms.Invitation,
    ms.Admission,
    ms.Acceptance,
    ms.RosterSummary,
    ms.Deliver,
    ms.JobsSummary,
    ms.FramesSummary,
    ms.ShardsSummary,
    ms.Wanted,
    ms.Proof,
    ms.Snapshot,
    ms.BlobRequest,
    ms.BlobHeader,
    NetworkParameters,
    UnitTable,
    UnitInput,
    Limits,
    Exact,
    FixedQuorum,
    Confidence,
    Tolerance,
    Trust,
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


# ---- logs and claims ---------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.permutations(list(range(12))), st.sets(st.integers(0, 11), max_size=6))
def test_a_log_that_lost_frames_is_repaired_by_its_summary(
    order: list[int], lost: set[int]
) -> None:
    frames = {n: frame(PEERS[n % 2], vote(0, DIGESTS[0]), sequence=n // 2) for n in range(12)}
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
