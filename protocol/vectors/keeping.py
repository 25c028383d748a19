"""Vectors of ``custody.md``: who is meant to keep a blob and when, and which jobs records hold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
from canonical import untagged, verdict_text
from samples import (
    BASE,
    BLOBS,
    BOB,
    ISSUED_MS,
    JOB,
    JOBS_RECORD,
    NETWORK,
    OTHER_NETWORK,
    PUBLISHER,
    PUZZLE_NETWORK,
)

from p2pfleet.core.model.network import network_id, network_terms
from p2pfleet.core.rules import custody as rule
from p2pfleet.core.rules.jobs_record import jobs_key, judge_jobs_record, newest
from p2pfleet.core.wire.codec import encode

Case = dict[str, Any]
DAY_MS = 24 * 3600 * 1000


def custody() -> Iterable[Case]:
    peers = [signer.peer for signer in BASE.values()]
    for number, digest in enumerate(BLOBS[:3]):
        yield {
            "about": f"the order of keepers, blob {number}",
            "judged": "order",
            "job": JOB.hex(),
            "digest": digest.hex(),
            "ranks": [
                [peer.hex(), rule.rank(JOB, digest, peer).hex()]
                for peer in sorted(peers, key=partial(rule.rank, JOB, digest))
            ],
        }
    for about, place, missing, length in (
        ("first of three that are missing", 0, 3, 1000),
        ("third of three", 2, 3, 1000),
        ("fourth of three", 3, 3, 1000),
        ("second of one", 1, 1, 255),
        ("and of a blob of 256 bytes", 1, 1, 256),
        ("tenth of two, a large blob", 9, 2, 2**30),
    ):
        yield {
            "about": about, "judged": "wait", "place": place, "missing": missing,
            "length": length, "wait_ms": rule.wait_ms(place, missing, length),
        }  # fmt: skip
    for about, missing, short_ms, length in (
        ("none is missing", 0, 60_000, 100),
        ("one, at once", 1, 0, 100),
        ("one, a millisecond before the step", 1, 9_999, 100),
        ("one, after a step", 1, 10_000, 100),
        ("two, after a minute", 2, 60_000, 2**20),
    ):
        yield {
            "about": about, "judged": "meant", "missing": missing, "short_ms": short_ms,
            "length": length, "meant": rule.meant(missing, short_ms, length),
        }  # fmt: skip
    yield from _records()


def _records() -> Iterable[Case]:
    replace = msgspec.structs.replace
    issued, expires = JOBS_RECORD.issued_ms, JOBS_RECORD.expires_ms
    assert issued == ISSUED_MS
    longest = replace(JOBS_RECORD, expires_ms=issued + 30 * DAY_MS)
    longer = replace(longest, expires_ms=longest.expires_ms + 1)
    puzzling = replace(JOBS_RECORD, network=network_id(PUZZLE_NETWORK))
    bobs = replace(puzzling, publisher=BOB.peer)
    for about, check, record, network, wall_ms in (
        ("in time", "", JOBS_RECORD, NETWORK, issued),
        ("another network", "network", JOBS_RECORD, OTHER_NETWORK, issued),
        ("a key that fits", "", puzzling, PUZZLE_NETWORK, issued),
        ("a key that does not fit", "puzzle", bobs, PUZZLE_NETWORK, issued),
        ("expires when issued", "order", replace(JOBS_RECORD, expires_ms=issued), NETWORK, issued),
        ("thirty days", "", longest, NETWORK, issued),
        ("a millisecond more", "life", longer, NETWORK, issued),
        ("expired by two minutes", "", JOBS_RECORD, NETWORK, expires + 120_000),
        ("expired by more", "expired", JOBS_RECORD, NETWORK, expires + 120_001),
        ("two minutes early", "", JOBS_RECORD, NETWORK, issued - 120_000),
        ("earlier", "future", JOBS_RECORD, NETWORK, issued - 120_001),
    ):
        sealed = (BOB if record.publisher == BOB.peer else PUBLISHER).seal(record)
        yield {
            "about": f"jobs record: {about}",
            "judged": "record",
            "record": encode(sealed).hex(),
            "hash": sealed.hash.hex(),
            "key": jobs_key(record.publisher),
            "network": untagged(network),
            "wall_ms": wall_ms,
            "verdict": verdict_text(
                judge_jobs_record(record, network_terms(network), wall_ms), check
            ),
        }
    for sequences in ([3], [3, 4], [4, 3], [4, 4], [1, 9, 5]):
        records = [replace(JOBS_RECORD, sequence=sequence) for sequence in sequences]
        yield {
            "about": f"which of several stays: {sequences}",
            "judged": "newest",
            "sequences": sequences,
            "newest": newest(records),
        }
