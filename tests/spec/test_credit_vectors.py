"""p2pfleet's own code against the vectors of credit, and whether their checker would notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.core.model.ids import PeerId, cid_of, parse_peer
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits
from p2pfleet.core.model.network import NetworkParameters, network_terms
from p2pfleet.core.rules import credit as rule
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.core.wire.verified import VerifiedReceipt
from p2pfleet.runtime.signing import open_bytes

PROTOCOL = Path(__file__).parents[2] / "protocol"
CASES: list[dict[str, Any]] = json.loads((PROTOCOL / "vectors" / "credit.json").read_text("utf-8"))[
    "cases"
]
Case = dict[str, Any]
Check = Callable[[str, dict[str, Any]], list[str]]


def judged(kind: str) -> list[Any]:
    found = [pytest.param(one, id=one["about"][:60]) for one in CASES if one["judged"] == kind]
    assert found
    return found


@pytest.mark.parametrize("case", judged("unit"))
def test_a_unit_earns_what_the_chapter_says(case: Case) -> None:
    work, units, lease_ms, elapsed_ms = (
        case[name] for name in ("work", "units", "lease_ms", "elapsed_ms")
    )
    assert rule.base(work, units) == case["base"]
    assert rule.bonus_milli(lease_ms, elapsed_ms) == case["bonus_milli"]
    assert rule.earned(work, units, lease_ms, elapsed_ms) == case["credit"]


@pytest.mark.parametrize("case", judged("earners"))
def test_those_earn_whom_the_chapter_names(case: Case) -> None:
    voters, right, wrong = (
        [PeerId(one.encode()) for one in case[name]] for name in ("voters", "right", "wrong")
    )
    assert [one.decode() for one in rule.earners(voters, right, wrong)] == case["earners"]


@pytest.mark.parametrize("case", judged("receipt"))
def test_a_receipt_is_judged_as_the_chapter_says(case: Case) -> None:
    opened = open_bytes(bytes.fromhex(case["receipt"]))
    assert isinstance(opened, VerifiedReceipt)
    assert opened.sealed.hash.hex() == case["hash"]
    receipt = opened.receipt
    held = None
    if case["held"] is not None:
        number, units, work, credit = case["held"]
        held = msgspec.structs.replace(
            receipt, number=number, units=units, work=work, credit=credit
        )
    terms = network_terms(NetworkParameters(**case["network"]))
    manifest = None if case["job"] is None else manifest_of(case["job"], terms.id)
    verdict = rule.judge_receipt(receipt, parse_peer(case["me"]), manifest, held, terms)
    assert type(verdict).__name__.lower() == case["verdict"].split()[0]


def manifest_of(job: Case, network: Any) -> Manifest:
    cid = cid_of(b"")
    return Manifest(
        network, parse_peer(job["publisher"]), "a job", cid, 0, cid, 0, job["units"], 0,
        Limits(2**20, 1, 1), Exact(), FixedQuorum(2, 5), 1, 60_000, 0, 1, bytes(16),
        work=job["work"],
    )  # fmt: skip


@pytest.fixture
def check_file(monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.syspath_prepend(str(PROTOCOL))
    import check_vectors  # type: ignore[import-not-found]

    check: Check = check_vectors.check_file
    return check


def test_the_independent_checker_agrees(check_file: Check) -> None:
    assert check_file("credit", {"cases": CASES}) == []


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("base", lambda value: value + 1),
        ("bonus_milli", lambda value: value + 1),
        ("credit", lambda value: value - 1),
        ("earners", lambda value: [*value, "Z"]),
        ("verdict", lambda value: value + "!"),
        ("hash", lambda value: value[::-1]),
    ],
)
def test_the_independent_checker_would_notice(
    check_file: Check, field: str, change: Callable[[Any], Any]
) -> None:
    changed = [case | {field: change(case[field])} for case in CASES if field in case]
    assert changed
    for case in changed:
        assert check_file("credit", {"cases": [case]}), case["about"]


def test_the_vectors_are_what_the_code_gives_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROTOCOL / "vectors"))
    import crediting  # type: ignore[import-not-found]

    assert json.loads(json.dumps(list(crediting.crediting()))) == CASES
