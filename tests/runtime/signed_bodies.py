"""Bodies signed with real keys, for tests of what is made of bytes."""

from __future__ import annotations

from typing import Any

from p2pfleet.core.model.ids import JobId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits, Trust
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.core.wire.messages import (
    Claim,
    Closure,
    Frame,
    Manifest,
    PeerChecks,
    Sealed,
    Snapshot,
)
from p2pfleet.runtime.signing import Signer

NETWORK_FILE = NetworkFile(NetworkParameters("signed-bodies", testnet=True))
NETWORK = NETWORK_FILE.id
PAULA, BOB, CAROL = (Signer(sha256(name)) for name in (b"paula", b"bob", b"carol"))
WALL_MS = 1_700_000_000_000


def manifest(number: int = 0, publisher: Signer = PAULA, **changes: Any) -> Sealed:
    fields: dict[str, Any] = {
        "network": NETWORK,
        "publisher": publisher.peer,
        "name": f"job {number}",
        "model": cid_of(b"model"),
        "model_bytes": 5,
        "table": cid_of(b"table"),
        "table_bytes": 5,
        "units": 1000,
        "total_bytes": 1000,
        "limits": Limits(memory_bytes=2**20, cpu_ms=1000, output_bytes=1000),
        "comparison": Exact(),
        "stop": FixedQuorum(quorum=2, replicas_max=4),
        "shards": 1,
        "lease_ms": 60_000,
        "issued_ms": WALL_MS,
        "expires_ms": WALL_MS + 1000,
        "salt": bytes(16),
        "trust": Trust(),
    }
    return publisher.seal(Manifest(**fields | changes))


def closure(job: JobId) -> Sealed:
    return PAULA.seal(Closure(NETWORK, job, PAULA.peer, True, WALL_MS))


def frame(job: JobId, sequence: int = 0, author: Signer = BOB) -> Sealed:
    return author.seal(Frame(NETWORK, job, author.peer, 7, sequence, (Claim((1, 2, 3)),)))


def snapshot(number: int = 1, publisher: Signer = PAULA) -> Sealed:
    records = (PeerChecks(BOB.peer, 12),)
    return publisher.seal(Snapshot(NETWORK, publisher.peer, "any", number, WALL_MS, records))
