"""Commitments: to say that one has a result before anybody can say which (commit, then reveal).

A commitment binds the *bytes* of an output, not their digest, to the volunteer, the unit and the
attempt: who knows only a digest that others revealed cannot make one. The nonces of all units that
are committed together come from one seed, whose hash travels with the commitments; so one seed
reveals them together, and none of them can be opened in two ways.
"""

from __future__ import annotations

import hashlib

from p2pfleet.core.model.ids import JobId, NetworkId, PeerId

SEED_BYTES = 32

_SEED = b"p2pfleet-seed-1:"
_NONCE = b"p2pfleet-nonce-1:"
_COMMITMENT = b"p2pfleet-commitment-1:"


def seed_hash(seed: bytes) -> bytes:
    """What is told of a seed before it is revealed: 32 bytes."""
    assert len(seed) == SEED_BYTES
    return hashlib.sha256(_SEED + seed).digest()


def nonce(seed: bytes, job: JobId, unit: int, attempt: int) -> bytes:
    """The nonce of one unit, which tells nothing of the seed or of other units' nonces: 32 bytes.

    Without it a small output could be guessed from its commitment.
    """
    assert len(seed) == SEED_BYTES
    return hashlib.sha256(
        _NONCE + seed + job + unit.to_bytes(8, "big") + attempt.to_bytes(1, "big")
    ).digest()


def commitment(
    network: NetworkId,
    job: JobId,
    unit: int,
    attempt: int,
    peer: PeerId,
    seed: bytes,
    output: bytes | memoryview,
) -> bytes:
    """The commitment of ``peer`` to the canonical output bundle ``output``: 32 bytes.

    SHA-256 over the domain, network, job, unit (8 bytes, big-endian), attempt (1 byte), peer, nonce
    and output. All parts but the last are of fixed length, so that no two inputs run together.
    """
    hasher = hashlib.sha256(
        _COMMITMENT
        + network
        + job
        + unit.to_bytes(8, "big")
        + attempt.to_bytes(1, "big")
        + peer
        + nonce(seed, job, unit, attempt)
    )
    hasher.update(output)
    return hasher.digest()
