"""Every message that trust is made of has one encoding, and comes back from it."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_certificate import STOPS

from p2pfleet.core.errors import Malformed
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.job import StopRule, Trust
from p2pfleet.core.wire import messages as ms
from p2pfleet.core.wire.codec import decode, encode

HASH = st.binary(min_size=32, max_size=32)
U32 = st.integers(0, 2**32)
UNITS = st.integers(0, 999_999)
ATTEMPTS = st.integers(0, 255)
COMMITTED = st.builds(ms.CommitItem, UNITS, ATTEMPTS, HASH)
REFS = st.builds(ms.VoteRef, HASH, st.integers(0, 1023), st.integers(0, 255))
ASCENDING = st.sets(HASH, max_size=5).map(lambda found: tuple(sorted(found)))
ENTRIES = st.one_of(
    st.builds(
        ms.Commit,
        HASH,
        st.lists(st.builds(ms.CommitItem, UNITS, ATTEMPTS, HASH), min_size=1, max_size=4).map(
            tuple
        ),
    ),
    st.builds(
        ms.Reveal,
        HASH,
        st.integers(0, 1023),
        HASH,
        st.lists(
            st.builds(ms.RevealItem, UNITS, ATTEMPTS, HASH, st.integers(0, 16 * 2**30)),
            min_size=1,
            max_size=4,
        ).map(tuple),
        ASCENDING,
    ),
    st.builds(ms.Endorse, UNITS, ATTEMPTS, REFS, HASH),
    st.builds(ms.Audit, UNITS, HASH),
    st.builds(
        ms.OpenRingers,
        HASH,
        st.lists(st.builds(ms.Ringer, UNITS, HASH), min_size=1, max_size=4).map(tuple),
    ),
)
FRAMES = st.builds(
    ms.Frame, HASH, HASH, HASH, U32, U32, st.lists(ENTRIES, min_size=1, max_size=3).map(tuple)
)
SNAPSHOTS = st.builds(
    ms.Snapshot,
    HASH,
    HASH,
    st.text("abc", min_size=1, max_size=64),
    U32,
    U32,
    st.dictionaries(HASH, st.integers(1, 10**6), max_size=5).map(
        lambda found: tuple(ms.PeerChecks(PeerId(key), found[key]) for key in sorted(found))
    ),
)
TRUST = st.builds(
    Trust,
    st.text("abc", min_size=1, max_size=64),
    st.none() | HASH,
    st.none() | HASH,
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.integers(100, 3_600_000),
    st.integers(100, 3_600_000),
)
SEALED = FRAMES.map(lambda body: ms.Sealed(encode(body), body.author, bytes(64)))
CERTIFICATES = st.builds(
    ms.Certificate,
    HASH,
    UNITS,
    HASH,
    st.none() | HASH,
    st.lists(REFS, max_size=3).map(tuple),
    st.lists(REFS, max_size=3).map(tuple),
    st.none() | REFS,
)
TOLERANCES = st.dictionaries(
    st.text("abc", min_size=1, max_size=9),
    st.tuples(st.integers(0, 10**9), st.integers(0, 10**7)),
    max_size=4,
).map(lambda found: Tolerance(tuple(OutputTolerance(key, *found[key]) for key in sorted(found))))
MESSAGES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "entries": (ms.Entry, ENTRIES),
    "frames": (ms.SignedBody, FRAMES),
    "snapshots": (ms.SignedBody, SNAPSHOTS),
    "trust": (Trust, TRUST),
    "certificates": (ms.Certificate, CERTIFICATES),
    "proofs": (ms.Message, st.builds(ms.Proof, SEALED, SEALED)),
    "tolerances": (Tolerance, TOLERANCES),
    "stop rules": (StopRule, STOPS),
}


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=100)
@given(data=st.data())
def test_every_message_comes_back_from_its_one_encoding(name: str, data: st.DataObject) -> None:
    kind, strategy = MESSAGES[name]
    message = data.draw(strategy)
    packed = encode(message)
    assert decode(packed, kind, 2**20) == message
    assert msgpack.packb(msgpack.unpackb(packed)) == packed


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=100)
@given(data=st.data())
def test_a_changed_byte_makes_another_message_or_none(name: str, data: st.DataObject) -> None:
    kind, strategy = MESSAGES[name]
    message = data.draw(strategy)
    packed = bytearray(encode(message))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = decode(bytes(packed), kind, 2**20)
    except Malformed:
        return
    assert encode(other) == bytes(packed)
    assert other != message
