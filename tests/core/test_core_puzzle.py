"""The work in a key: counted, bound to the network, and asked for by everybody who judges."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from core_samples import NETWORK, SAMPLE, WALL_MS, frame, manifest, record

from p2pfleet.core.errors import ACCEPT, Reject, Verdict
from p2pfleet.core.model.ids import NetworkId, PeerId, sha256
from p2pfleet.core.model.network import NetworkParameters, NetworkTerms, network_id, network_terms
from p2pfleet.core.model.puzzle import DEFAULT_BITS, fits, work
from p2pfleet.core.rules.admission import judge_frame, judge_manifest, judge_record
from p2pfleet.core.wire.messages import Claim

KEYS = [PeerId(sha256(bytes([number]))) for number in range(256)]


def test_work_is_the_number_of_leading_zero_bits_of_one_hash() -> None:
    for key in KEYS:
        digest = hashlib.sha256(b"p2pfleet-puzzle-1:" + NETWORK + key).digest()
        bits = f"{int.from_bytes(digest, 'big'):0256b}"
        assert work(NETWORK, key) == len(bits) - len(bits.lstrip("0"))


def test_each_further_bit_halves_the_keys_that_fit() -> None:
    fitting = [sum(fits(NetworkTerms(NETWORK, bits), key) for key in KEYS) for bits in range(6)]
    assert fitting[0] == len(KEYS)
    assert fitting == sorted(fitting, reverse=True)
    for bits in (1, 2, 3):
        assert 0.5 < fitting[bits] * 2**bits / len(KEYS) < 1.5


def test_the_work_for_one_network_is_worth_nothing_on_another() -> None:
    other = NetworkId(sha256(b"other"))
    best = max(KEYS, key=lambda key: work(NETWORK, key))
    assert work(NETWORK, best) >= 6
    assert work(other, best) < 6
    longer = network_id(NetworkParameters("n", puzzle_bits=1))
    assert longer != network_id(NetworkParameters("n", puzzle_bits=2)), "not even on a copy of it"


def test_the_bits_are_part_of_the_parameters_and_bounded() -> None:
    assert network_terms(NetworkParameters("n", puzzle_bits=7)).puzzle_bits == 7
    assert NetworkParameters("n").puzzle_bits == 0
    assert 0 < DEFAULT_BITS <= 40
    for bits in (-1, 41):
        raw = msgspec.to_builtins(NetworkParameters("n", puzzle_bits=bits))
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(raw, NetworkParameters)


def judged(key: PeerId, terms: NetworkTerms) -> list[Verdict]:
    """What is said to a greeting, a manifest and a frame that are signed with this key."""
    written = frame(key, Claim((0,))).frame
    return [
        judge_record(record(key).record, terms, WALL_MS),
        judge_manifest(manifest(publisher=key), terms, WALL_MS),
        judge_frame(written, SAMPLE.manifest, terms),
    ]


def test_whatever_a_key_signs_is_its_fault_if_it_does_not_fit() -> None:
    key = next(one for one in KEYS if work(NETWORK, one) == 2)
    for bits in (0, 1, 2):
        assert judged(key, NetworkTerms(NETWORK, bits)) == [ACCEPT] * 3
    for bits in (3, 40):
        verdicts = judged(key, NetworkTerms(NETWORK, bits))
        assert all(isinstance(one, Reject) and "does not fit" in one.reason for one in verdicts)
