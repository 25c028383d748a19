"""The vectors of custody.md against p2pfleet's own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.core.model.ids import Digest, JobId, NetworkId, PeerId
from p2pfleet.core.model.network import NetworkParameters, network_terms
from p2pfleet.core.rules import custody as rule
from p2pfleet.core.rules.jobs_record import jobs_key, judge_jobs_record, newest
from p2pfleet.core.wire.messages import JobsRecord
from p2pfleet.core.wire.verified import VerifiedJobsRecord
from p2pfleet.runtime.signing import open_bytes

Case = dict[str, Any]
FILE = Path(__file__).parents[2] / "protocol" / "vectors" / "custody.json"
CASES: list[Case] = json.loads(FILE.read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["about"])
def test_custody_is_as_the_chapter_says(case: Case) -> None:
    match case["judged"]:
        case "order":
            job, blob = JobId(bytes.fromhex(case["job"])), Digest(bytes.fromhex(case["digest"]))
            peers = [PeerId(bytes.fromhex(peer)) for peer, _ in case["ranks"]]
            assert [rule.place(job, blob, p, sorted(peers)) for p in peers] == [*range(len(peers))]
            assert [rule.rank(job, blob, peer).hex() for peer in peers] == [
                rank for _, rank in case["ranks"]
            ]
        case "wait":
            numbers = (case["place"], case["missing"], case["length"])
            assert rule.wait_ms(*numbers) == case["wait_ms"]
        case "meant":
            numbers = (case["missing"], case["short_ms"], case["length"])
            assert rule.meant(*numbers) == case["meant"]
        case "record":
            opened = open_bytes(bytes.fromhex(case["record"]))
            assert isinstance(opened, VerifiedJobsRecord)
            assert opened.sealed.hash.hex() == case["hash"]
            assert jobs_key(opened.record.publisher) == case["key"]
            given = case["network"]
            owner = None if given["owner"] is None else PeerId(bytes.fromhex(given["owner"]))
            terms = network_terms(NetworkParameters(**{**given, "owner": owner}))
            verdict = judge_jobs_record(opened.record, terms, case["wall_ms"])
            assert type(verdict).__name__.lower() == case["verdict"].split()[0]
        case "newest":
            records = [
                JobsRecord(NetworkId(bytes(32)), PeerId(bytes(32)), sequence, 0, 1, ())
                for sequence in case["sequences"]
            ]
            assert newest(records) == case["newest"]
        case other:
            raise AssertionError(other)
