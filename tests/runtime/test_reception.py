"""Bytes of peers become events of the core, or a verdict on who sent them."""

from __future__ import annotations

import msgspec
import pytest

from p2pfleet.core.errors import ACCEPT, Ignore, Malformed, Reject
from p2pfleet.core.events import ProofReceived, SnapshotReceived
from p2pfleet.core.model.ids import Digest, JobId, sha256
from p2pfleet.core.model.job import Trust
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Commit, CommitItem, Deliver, Proof, Sealed
from p2pfleet.core.wire.names import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from p2pfleet.ports import Announced, Received
from p2pfleet.runtime.reception import announcement_validator, interpret
from p2pfleet.runtime.signing import open_sealed
from tests.runtime.signed_bodies import (
    BOB,
    CAROL,
    NETWORK,
    NETWORK_FILE,
    PAULA,
    WALL_MS,
    closure,
    frame,
    manifest,
    snapshot,
)

JOB = JobId(manifest().hash)


class StoppedClock:
    def monotonic_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return WALL_MS


def received(message: object) -> object:
    return interpret(Received(CAROL.peer, encode(message)), NETWORK)


def refused(result: object) -> str:
    """Why; the verdict is against the sender."""
    assert isinstance(result, tuple)
    peer, verdict = result
    assert peer == CAROL.peer
    assert isinstance(verdict, Reject)
    return verdict.reason


def forged(sealed: Sealed) -> Sealed:
    return msgspec.structs.replace(sealed, signature=bytes(64))


def test_a_trust_snapshot_is_named_by_the_hash_of_its_body() -> None:
    sealed = snapshot()

    event = received(Deliver(sealed))

    assert isinstance(event, SnapshotReceived)
    assert event.source == CAROL.peer
    assert event.snapshot == open_sealed(sealed)
    assert event.snapshot.hash == Digest(sha256(sealed.body))
    assert event.snapshot.snapshot.records[0].checks == 12


def test_a_trust_snapshot_that_its_publisher_did_not_sign_is_refused() -> None:
    body = open_sealed(snapshot())
    assert isinstance(body, VerifiedSnapshot)
    in_her_name = BOB.seal(body.snapshot)

    with pytest.raises(Malformed, match="somebody else signed it"):
        open_sealed(in_her_name)

    assert "somebody else" in refused(received(Deliver(in_her_name)))
    assert "signature" in refused(received(Deliver(forged(snapshot()))))


def test_what_a_node_signs_itself_is_opened_like_what_it_hears() -> None:
    opened = open_sealed(snapshot())
    assert isinstance(opened, VerifiedSnapshot)

    assert PAULA.signed(opened.snapshot) == opened


def test_a_proof_is_two_frames_both_opened() -> None:
    first, second = frame(JOB, 0), frame(JOB, 1)

    event = received(Proof(first, second))

    assert isinstance(event, ProofReceived)
    assert event.source == CAROL.peer
    assert (event.first.sealed, event.second.sealed) == (first, second)
    assert event.first.hash == first.hash
    assert isinstance(open_sealed(first), VerifiedFrame)


def test_a_proof_of_two_frames_as_large_as_can_be_is_heard() -> None:
    def item(unit: int) -> CommitItem:
        return CommitItem(unit, 0, bytes(32))

    entries = [Commit(bytes(32), tuple(map(item, range(500, 756)))) for _ in range(3)]
    verified = open_sealed(frame(JOB))
    assert isinstance(verified, VerifiedFrame)
    large = BOB.seal(msgspec.structs.replace(verified.frame, entries=tuple(entries)))
    assert MAX_FRAME_BYTES * 9 // 10 < len(large.body) <= MAX_FRAME_BYTES

    # However large two frames are, they and what is around them fit into one message.
    around = len(encode(Proof(large, large))) - 2 * len(large.body)
    assert around + 2 * MAX_FRAME_BYTES <= MAX_MESSAGE_BYTES
    assert isinstance(received(Proof(large, large)), ProofReceived)


@pytest.mark.parametrize("other", [manifest(), closure(JOB), snapshot()])
def test_a_proof_whose_halves_are_not_frames_is_refused(other: Sealed) -> None:
    good = frame(JOB)

    for proof in (Proof(good, other), Proof(other, good), Proof(other, other)):
        assert "not made of two frames" in refused(received(proof))


def test_a_proof_with_a_forged_half_is_refused() -> None:
    good = frame(JOB)
    verified = open_sealed(good)
    assert isinstance(verified, VerifiedFrame)
    in_his_name = CAROL.seal(verified.frame)

    for bad in (forged(good), in_his_name):
        for proof in (Proof(good, bad), Proof(bad, good)):
            assert "malformed message" in refused(received(proof))


def test_half_a_proof_is_malformed() -> None:
    whole = encode(Proof(frame(JOB), frame(JOB, 1)))

    assert refused(interpret(Received(CAROL.peer, whole[:-100]), NETWORK))
    assert refused(interpret(Received(CAROL.peer, whole + b"\x00"), NETWORK))


def test_announcements_stay_manifests_and_closures() -> None:
    validate = announcement_validator(NETWORK_FILE.terms, StoppedClock())

    assert validate(CAROL.peer, encode(manifest())) == ACCEPT
    assert validate(CAROL.peer, encode(manifest(trust=Trust(audit_ppm=1)))) == ACCEPT
    assert validate(CAROL.peer, encode(closure(JOB))) == ACCEPT
    for sealed in (snapshot(), frame(JOB)):
        verdict = validate(CAROL.peer, encode(sealed))
        assert verdict == Reject("neither a manifest nor a closure")
    proof = encode(Proof(frame(JOB), frame(JOB, 1)))
    assert isinstance(validate(CAROL.peer, proof), Reject)
    late = manifest(issued_ms=1, expires_ms=2)
    assert isinstance(validate(CAROL.peer, encode(late)), Ignore)
    assert isinstance(interpret(Announced(CAROL.peer, proof), NETWORK), tuple)
