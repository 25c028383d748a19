"""Values to store: jobs, frames, and contents that a number makes."""

from __future__ import annotations

import random

from p2pfleet.core.effects import OwnSeed, SaveFrame, SaveJob, SaveRequirement
from p2pfleet.core.model.ids import (
    Cid,
    Digest,
    FrameHash,
    JobId,
    NetworkId,
    PeerId,
    cid_from_sha256,
    cid_of,
    sha256,
)
from p2pfleet.core.model.job import BlobRef, Exact, FixedQuorum, Limits
from p2pfleet.core.rules import commitment
from p2pfleet.core.wire import codec
from p2pfleet.core.wire.messages import (
    COMMIT_ITEMS_MAX,
    Claim,
    Closure,
    Entry,
    Frame,
    Manifest,
    Requirement,
    Reveal,
    RevealItem,
    Sealed,
    Snapshot,
    job_id,
)

NETWORK = NetworkId(sha256(b"network"))
ALICE = PeerId(sha256(b"alice"))
BOB = PeerId(sha256(b"bob"))
CAROL = PeerId(sha256(b"carol"))


def sealed(body: object, signer: PeerId) -> Sealed:
    """The store never looks at signatures: what reaches it has been verified."""
    return Sealed(body=codec.encode(body), signer=signer, signature=bytes(64))


def manifest(number: int = 0) -> Sealed:
    return sealed(
        Manifest(
            network=NETWORK,
            publisher=ALICE,
            name=f"job {number}",
            model=cid_of(b"model"),
            model_bytes=5,
            table=cid_of(b"table"),
            table_bytes=5,
            units=1000,
            total_bytes=1000,
            limits=Limits(memory_bytes=2**20, cpu_ms=1000, output_bytes=1000),
            comparison=Exact(),
            stop=FixedQuorum(quorum=2, replicas_max=4),
            shards=1,
            lease_ms=60_000,
            issued_ms=1,
            expires_ms=2,
            salt=bytes(16),
        ),
        ALICE,
    )


def save_job(number: int = 0, own: bool = False) -> SaveJob:
    message = manifest(number)
    return SaveJob(job=job_id(message), manifest=message, own=own)


JOB = job_id(manifest())


def closure(job: JobId, completed: bool) -> Sealed:
    body = Closure(network=NETWORK, job=job, publisher=ALICE, completed=completed, issued_ms=3)
    return sealed(body, ALICE)


def frame(
    sequence: int,
    job: JobId = JOB,
    author: PeerId = BOB,
    incarnation: int = 7,
    entries: tuple[Entry, ...] = (Claim(units=(1, 2, 3)),),
) -> Sealed:
    body = Frame(
        network=NETWORK,
        job=job,
        author=author,
        incarnation=incarnation,
        sequence=sequence,
        entries=entries,
    )
    return sealed(body, author)


def save_frame(sequence: int, job: JobId = JOB, author: PeerId = BOB) -> SaveFrame:
    return SaveFrame(job=job, frame=frame(sequence, job, author))


def save_requirement(sequence: int, onnxruntime: str = "1.32.0") -> SaveRequirement:
    body = Requirement(
        network=NETWORK, owner=CAROL, sequence=sequence, issued_ms=3, onnxruntime=onnxruntime
    )
    return SaveRequirement(sealed(body, CAROL))


def answers(first: int, end: int) -> tuple[RevealItem, ...]:
    return tuple(
        RevealItem(unit=unit, attempt=0, digest=Digest(sha256(b"%d" % unit)), length=100)
        for unit in range(first, end)
    )


def reveals(count: int) -> tuple[Reveal, ...]:
    """As many entries as it takes to reveal so many units."""
    return tuple(
        Reveal(
            commit=FrameHash(sha256(b"a frame")),
            index=0,
            seed=sha256(b"a seed"),
            items=answers(first, min(count, first + COMMIT_ITEMS_MAX)),
            seen=(),
        )
        for first in range(0, count, COMMIT_ITEMS_MAX)
    )


def own_seed(number: int, count: int = 3) -> OwnSeed:
    seed = sha256(b"seed %d" % number)
    return OwnSeed(commitment.seed_hash(seed), seed, answers(0, count))


def snapshot(number: int) -> Sealed:
    body = Snapshot(
        network=NETWORK,
        publisher=ALICE,
        model_class="any",
        number=number,
        issued_ms=3,
        records=(),
    )
    return sealed(body, ALICE)


def content(number: int, length: int) -> bytes:
    """Bytes that differ from number to number and do not compress."""
    return random.Random(number).randbytes(length)


def wanted(data: bytes, offset: int = 0, inside: Cid | None = None) -> BlobRef:
    """The reference under which ``data`` is fetched."""
    digest = sha256(data)
    return BlobRef(
        cid=inside or cid_from_sha256(digest), offset=offset, length=len(data), sha256=digest
    )
