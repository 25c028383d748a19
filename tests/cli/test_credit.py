"""``credit``: what is shown, exported, and checked offline."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.adapters.store import SqliteStore
from p2pfleet.core.effects import SaveJob, SaveReceipt
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import JobId, NetworkId, peer_text, sha256
from p2pfleet.core.wire.messages import Receipt, Sealed
from p2pfleet.credit import check_receipts, credit_view, export_receipts
from p2pfleet.results import SealedText
from p2pfleet.runtime.signing import Signer
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import OTHER, PEER, FakeNode, Refusal
from tests.runtime.signed_bodies import BOB, CAROL, NETWORK, PAULA, WALL_MS, closure, manifest

JOB, OTHERS = JobId(manifest(1).hash), JobId(manifest(2, publisher=CAROL).hash)
LINE: dict[str, Any] = {
    "job": "ab" * 32, "name": "=digits\x1b[2J", "units": 3, "work": 30, "credit": 45,
    "receipts": 1, "issued_ms": 7,
}  # fmt: skip
TOTAL = {"units": 3, "work": 30, "credit": 45, "receipts": 1}
FOUND = {
    "peer": PEER,
    "publishers": [
        {"publisher": OTHER, "own": False, **TOTAL, "jobs": [LINE]},
        {"publisher": PEER, "own": True, **TOTAL, "jobs": [LINE]},
    ],
}


def receipt(
    peer: Signer = BOB, job: JobId = JOB, publisher: Signer = PAULA, **changes: Any
) -> Sealed:
    body = Receipt(NETWORK, job, publisher.peer, peer.peer, 4, 3, 30, 45, WALL_MS)
    return publisher.seal(msgspec.structs.replace(body, **changes))


def write(file: Path, *sealed: Sealed) -> Path:
    lines = [msgspec.json.encode(SealedText.of(each)) + b"\n" for each in sealed]
    file.write_bytes(b"".join(lines))
    return file


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = SqliteStore.open(tmp_path / "node.sqlite")
    opened.apply(
        [
            SaveJob(JOB, manifest(1), own=True),
            SaveJob(OTHERS, manifest(2, publisher=CAROL), own=False),
            SaveReceipt(JOB, receipt()),
            SaveReceipt(JOB, receipt(CAROL, units=1, work=10, credit=10)),
            SaveReceipt(OTHERS, receipt(PAULA, OTHERS, CAROL)),
        ]
    )
    yield opened
    opened.close()


# ---- what the command shows ----------------------------------------------------------------------


def test_credit_is_shown_by_publisher_and_never_added_up_across(
    invoke: Invoke, node: FakeNode
) -> None:
    node.answers["credit"] = lambda _: FOUND
    shown = invoke("credit")
    assert shown.exit_code == 0
    assert f"earned from {OTHER}:" in shown.stdout
    assert f"owed to the volunteers of {PEER}:" in shown.stdout
    assert "not added up" in shown.stdout
    assert "90" not in shown.stdout
    assert "\x1b" not in shown.stdout
    assert document(invoke("credit", "--json")) == FOUND
    assert node.of("credit")[0] == {"publishers": []}


def test_a_node_without_receipts_says_so(invoke: Invoke, node: FakeNode) -> None:
    node.answers["credit"] = lambda _: {"peer": PEER, "publishers": []}
    assert "no receipts yet" in invoke("credit").stdout
    assert invoke("credit", "--csv").stdout.count("\n") == 1


def test_a_spreadsheet_gets_a_line_a_job_and_no_strangers_texts(
    invoke: Invoke, node: FakeNode
) -> None:
    node.answers["credit"] = lambda _: FOUND
    rows = list(csv.DictReader(io.StringIO(invoke("credit", "--csv").stdout)))
    assert [(row["publisher"], row["kind"]) for row in rows] == [(OTHER, "earned"), (PEER, "owed")]
    assert [row["credit"] for row in rows] == ["45", "45"]
    assert "digits" not in invoke("credit", "--csv").stdout


def test_one_publisher_may_be_asked_for(invoke: Invoke, node: FakeNode) -> None:
    node.answers["credit"] = lambda _: FOUND
    invoke("credit", "--publisher", OTHER, "--publisher", PEER)
    assert node.of("credit") == [{"publishers": [OTHER, PEER]}]
    assert invoke("credit", "--publisher", "me").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "arguments",
    [("--csv", "--json"), ("--csv", "--export", "x"), ("--export", "x", "--verify", "x")],
)
def test_what_does_not_go_together_is_refused(
    invoke: Invoke, node: FakeNode, arguments: tuple[str, ...]
) -> None:
    assert invoke("credit", *arguments).exit_code == ExitCode.USAGE
    assert node.requests == []


def test_receipts_are_exported_by_the_node_to_a_new_file(
    invoke: Invoke, node: FakeNode, tmp_path: Path
) -> None:
    node.answers["credit"] = lambda params: {"exported": 2}
    result = invoke("credit", "--export", "receipts.jsonl", "--publisher", OTHER)
    file = str(tmp_path / "receipts.jsonl")
    assert node.of("credit") == [{"publishers": [OTHER], "export": file}]
    assert f"2 receipts written to {file}" in result.stdout
    Path(file).write_text("mine")
    refused = invoke("credit", "--export", file, "--json")
    assert refused.exit_code == ExitCode.USAGE
    assert "exists already" in document(refused)["error"]["message"]
    assert Path(file).read_text() == "mine"


def test_without_a_node_the_command_says_how_to_start_one(invoke: Invoke, home: Path) -> None:
    assert invoke("credit").exit_code == ExitCode.NO_NODE
    assert invoke("credit", "--export", "x").exit_code == ExitCode.NO_NODE


def test_what_the_node_refuses_is_passed_on(invoke: Invoke, node: FakeNode) -> None:
    def refuse(_: dict[str, Any]) -> Any:
        raise Refusal("There are no receipts to export.", "Wait.", 1)

    node.answers["credit"] = refuse
    result = invoke("credit", "--export", "x")
    assert result.exit_code == ExitCode.FAILED
    assert "no receipts to export" in result.stderr


# ---- what a node answers -------------------------------------------------------------------------


def test_a_node_sums_by_publisher_and_job(store: SqliteStore) -> None:
    found = credit_view(store, PAULA.peer)

    by_publisher = {each["publisher"]: each for each in found["publishers"]}
    own, earned = by_publisher[peer_text(PAULA.peer)], by_publisher[peer_text(CAROL.peer)]
    assert (own["own"], own["units"], own["work"], own["credit"], own["receipts"]) == (
        True, 4, 40, 55, 2,
    )  # fmt: skip
    assert (earned["own"], earned["credit"], earned["receipts"]) == (False, 45, 1)
    assert [(job["job"], job["name"]) for job in own["jobs"]] == [(JOB.hex(), "job 1")]
    assert own["jobs"][0]["issued_ms"] == WALL_MS
    only = credit_view(store, PAULA.peer, [CAROL.peer])
    assert [each["publisher"] for each in only["publishers"]] == [peer_text(CAROL.peer)]


def test_what_is_exported_holds(store: SqliteStore, tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "out.jsonl"
    assert export_receipts(store, file) == 3
    assert check_receipts(file).problems == ()
    assert export_receipts(store, tmp_path / "one.jsonl", [CAROL.peer]) == 1
    with pytest.raises(P2pfleetError, match="no receipts"):
        export_receipts(store, tmp_path / "none.jsonl", [BOB.peer])
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(P2pfleetError, match="cannot be written"):
        export_receipts(store, tmp_path / "missing" / "out.jsonl")
    names = ("--publisher", peer_text(PAULA.peer), "--publisher", peer_text(CAROL.peer))
    result = invoke("credit", "--verify", file, *names, "--json")
    assert result.exit_code == 0
    shown = {each["publisher"]: each for each in document(result)["publishers"]}
    assert shown[peer_text(PAULA.peer)]["credit"] == 55


# ---- what is checked offline ---------------------------------------------------------------------


def test_receipts_of_unknown_publishers_are_consistent_and_no_more(
    invoke: Invoke, tmp_path: Path
) -> None:
    write(tmp_path / "r", receipt())
    result = invoke("credit", "--verify", "r", "--json")
    assert result.exit_code == ExitCode.UNTRUSTED
    found = document(result)
    assert (found["consistent"], found["verified"], found["receipts"]) == (True, False, 1)
    assert "fresh keys" in result.stderr
    named = invoke("credit", "--verify", "r", "--publisher", peer_text(PAULA.peer))
    assert named.exit_code == 0
    assert "45 credit for 3 units" in named.stdout
    wrong = invoke("credit", "--verify", "r", "--publisher", peer_text(CAROL.peer))
    assert wrong.exit_code == ExitCode.FAILED
    assert "not named" in wrong.stdout


def test_receipts_that_one_signed_oneself_are_trusted(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    from p2pfleet.adapters.store import load_or_create_identity

    own = Signer(load_or_create_identity(home / "identity.key"))
    write(tmp_path / "r", receipt(publisher=own))
    assert invoke("credit", "--verify", "r").exit_code == 0


def altered(sealed: Sealed, **changes: Any) -> Sealed:
    return msgspec.structs.replace(sealed, **changes)


ELSEWHERE = NetworkId(sha256(b"elsewhere"))


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (receipt(), "stands there twice"),
        (receipt(credit=46), "stands there twice"),
        (receipt(number=5), "only the last one counts"),
        (receipt(number=3), "only the last one counts"),
        (receipt(CAROL, publisher=CAROL), "its own job"),
        (receipt(CAROL, publisher=BOB), "another publisher"),
        (receipt(CAROL, network=ELSEWHERE), "another network"),
        (receipt(CAROL, work=31), "no multiple"),
        (receipt(CAROL, credit=29), "what its work can earn"),
        (receipt(CAROL, credit=61), "what its work can earn"),
        (receipt(CAROL, work=33, credit=33), "worth something else"),
        (altered(receipt(CAROL), signature=bytes(64)), "signature"),
        (altered(receipt(CAROL), body=receipt(CAROL, credit=46).body), "signature"),
        (BOB.seal(Receipt(NETWORK, JOB, PAULA.peer, CAROL.peer, 1, 3, 30, 45, 0)), "somebody else"),
        (closure(JOB), "no receipt"),
    ],
)
def test_what_does_not_hold_is_named_by_its_line(
    invoke: Invoke, tmp_path: Path, second: Sealed, why: str
) -> None:
    write(tmp_path / "r", receipt(), second)
    result = invoke("credit", "--verify", "r", "--publisher", peer_text(PAULA.peer), "--json")
    assert result.exit_code == ExitCode.FAILED
    (problem,) = document(result)["problems"]
    assert problem.startswith("line 2: ")
    assert why in problem


def test_of_two_receipts_of_a_job_only_the_last_is_counted(tmp_path: Path) -> None:
    later = receipt(number=5, units=4, work=40, credit=60)
    for order in ((receipt(), later), (later, receipt())):
        checked = check_receipts(write(tmp_path / "r", *order))
        assert checked.sums[PAULA.peer][JOB].credit == 60
        assert len(checked.problems) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\n",
        b"{}\n",
        b"[]\n",
        b"nonsense",
        b"\n",
        b'{"body": "", "signer": "", "signature": ""}\n',
        b'{"body": "AA==", "signer": "12D3KooW", "signature": "AA=="}\n',
        b"[" * 8_000 + b"\n",
        json.dumps({"body": "A" * 9_000, "signer": PEER, "signature": ""}).encode() + b"\n",
        b"x" * 1_000_000,
    ],
)
def test_bytes_that_are_no_receipts_are_a_problem_and_not_a_crash(
    invoke: Invoke, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "r").write_bytes(text)
    result = invoke("credit", "--verify", "r", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert len(document(result)["problems"]) == 1


def test_a_file_of_wrong_lines_tells_of_the_first_hundred(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"{}\n" * 1_000)
    assert len(check_receipts(tmp_path / "r").problems) == 100


@pytest.mark.parametrize("name", ["missing", "empty", "."])
def test_a_file_that_cannot_be_read_or_is_empty_is_a_mistake_of_use(
    invoke: Invoke, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    result = invoke("credit", "--verify", name)
    assert result.exit_code == ExitCode.USAGE
    assert "Traceback" not in result.stderr
