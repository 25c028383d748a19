"""The second implementation of ``custody.md``, beside ``independent.py`` and under its rules."""

from __future__ import annotations

import hashlib
from typing import Any

from independent import fits, judge_times, peer_text

DAY_MS = 24 * 3600 * 1000


def rank(job: str, digest: str, peer: str) -> str:
    named = bytes.fromhex(job + digest + peer)
    return hashlib.sha256(b"p2pfleet-custody-1:" + named).hexdigest()


def step_ms(length: int) -> int:
    return 10_000 + length // 256


def wait_ms(place: int, missing: int, length: int) -> int:
    return step_ms(length) * (place + 1 - missing) if place >= missing else 0


def meant(missing: int, short_ms: int, length: int) -> int:
    return 0 if missing < 1 else missing + short_ms // step_ms(length)


def jobs_key(publisher: str) -> str:
    return "/p2pfleet/jobs/" + peer_text(bytes.fromhex(publisher))


def judge_record(record: dict[str, Any], network: str, bits: int, wall_ms: int) -> str:
    if record["network"] != network:
        return "reject network"
    if not fits(network, record["publisher"], bits):
        return "reject puzzle"
    times = record["issued_ms"], record["expires_ms"]
    wrong, late = judge_times(*times, 30 * DAY_MS, wall_ms)
    return [*wrong, *late, "accept"][0]
