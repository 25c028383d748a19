"""How pieces are spread: what was given least first, and what was given only to who waited."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfleet.adapters.network.bulk.answers import packed, unpacked
from p2pfleet.adapters.network.bulk.rations import PATIENCE_MS, Rations
from p2pfleet.core.model.ids import PeerId, cid_of

BLOB = (cid_of(b"model"), 0, 8)
PEERS = [PeerId(bytes([number]) * 32) for number in range(12)]


def test_those_who_ask_together_get_different_pieces_and_all_of_them_are_given_once() -> None:
    rations = Rations(now=lambda: 0.0)
    held, none = bytearray(b"\1" * 50), bytearray(50)
    given_out = [p for i in range(10) for p in rations.grant(BLOB, PEERS[i], held, none, 5, 0)[0]]
    assert sorted(given_out) == list(range(50))
    assert rations.grant(BLOB, PEERS[11], held, none, 5, 0) == ((), PATIENCE_MS)
    assert len(rations.grant(BLOB, PEERS[11], held, none, 5, PATIENCE_MS)[0]) == 5


def test_after_a_minute_of_rest_everything_is_given_anew() -> None:
    now = [0.0]
    rations = Rations(now=lambda: now[0])
    held, none = bytearray(b"\1\1"), bytearray(2)
    assert rations.grant(BLOB, PEERS[0], held, none, 2, 0)[0] == (0, 1)
    now[0] = 59.0
    assert rations.grant(BLOB, PEERS[1], held, none, 2, 0)[0] == ()
    now[0] = 61.0
    assert rations.grant(BLOB, PEERS[1], held, none, 2, 0)[0] == (0, 1)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 255), st.integers(0, 255),
                          st.integers(1, 16), st.integers(0, 9000)), max_size=40))  # fmt: skip
def test_only_what_is_here_and_lacking_is_given_and_never_too_much(
    asks: list[tuple[int, int, int, int, int]],
) -> None:
    rations = Rations(now=lambda: 0.0)
    for who, here, there, most, waited_ms in asks:
        held, asker = unpacked(bytes([here]), 8), unpacked(bytes([there]), 8)
        take, wait_ms = rations.grant(BLOB, PEERS[who], held, asker, most, waited_ms)
        assert len(take) <= most
        assert list(take) == sorted(set(take))
        assert all(held[piece] and not asker[piece] for piece in take)
        if any(h and not a for h, a in zip(held, asker, strict=True)):
            assert bool(take) != bool(wait_ms)
        else:
            assert (take, wait_ms) == ((), 0)


@given(st.lists(st.booleans(), max_size=300), st.binary(max_size=40))
def test_a_map_says_what_is_here_and_nothing_of_pieces_beyond(
    flags: list[bool], noise: bytes
) -> None:
    held = bytearray(flags)
    assert unpacked(packed(held), len(held)) == held
    assert len(packed(held)) == max(1, -(-len(held) // 8))
    assert len(unpacked(noise, len(held))) == len(held)
