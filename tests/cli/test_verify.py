"""``verify``: whose job it was decides between 0 and 3, and any problem means 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer
from p2pfleet.verify import Verification
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import JOB, OTHER, PEER

GOOD = Verification(
    job=JOB,
    publisher=PeerId(parse_peer(PEER)),
    units=10,
    settled=9,
    certified=10,
    failed=0,
    open=0,
    outputs=9,
    voters=3,
    problems=(),
)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What verification finds; change ``found`` to have it find something else."""
    state: dict[str, Any] = {"found": GOOD}
    (tmp_path / "results").mkdir()
    monkeypatch.setattr("p2pfleet.verify.verify_results", lambda _: state["found"])
    return state


def test_a_folder_of_an_unknown_publisher_is_consistent_and_no_more(
    invoke: Invoke, results: dict[str, Any]
) -> None:
    result = invoke("verify", "results", "--json")
    assert result.exit_code == ExitCode.UNTRUSTED
    found = document(result)
    assert (found["consistent"], found["verified"], found["trust_root"]) == (True, False, None)
    assert "trust root not checked" in result.stderr


def test_a_publisher_who_is_named_makes_it_verified(
    invoke: Invoke, results: dict[str, Any]
) -> None:
    result = invoke("verify", "results", "--publisher", PEER)
    assert result.exit_code == 0
    assert "10 certified, 9 of them settled" in result.stdout
    wrong = invoke("verify", "results", "--publisher", OTHER, "--json")
    assert wrong.exit_code == ExitCode.FAILED
    assert "not from the publisher named" in document(wrong)["problems"][0]
    assert invoke("verify", "results", "--publisher", "me").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("place", [".", "networks/orchard-01234567"])
def test_an_own_job_is_trusted_in_whichever_folder_the_identity_lies(
    invoke: Invoke, home: Path, results: dict[str, Any], place: str
) -> None:
    from p2pfleet.adapters.store import load_or_create_identity, peer_of

    own = peer_of(load_or_create_identity(home / place / "identity.key"))
    results["found"] = msgspec.structs.replace(GOOD, publisher=own)
    result = invoke("verify", "results", "--json")
    assert result.exit_code == 0
    assert document(result)["trust_root"] == "own identity"


def test_looking_for_the_own_identity_makes_none(
    invoke: Invoke, home: Path, results: dict[str, Any]
) -> None:
    invoke("verify", "results")
    invoke("verify", "results", "--data-dir", home / "x")
    assert not home.exists()


def test_a_problem_outweighs_every_trust(invoke: Invoke, results: dict[str, Any]) -> None:
    results["found"] = msgspec.structs.replace(GOOD, problems=("unit 3: a vote is missing",))
    for arguments in (("--publisher", PEER), ()):
        result = invoke("verify", "results", *arguments)
        assert result.exit_code == ExitCode.FAILED
        assert "unit 3: a vote is missing" in result.stdout


def test_a_folder_that_holds_no_results_is_refused(
    invoke: Invoke, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "missing"):
        result = invoke("verify", folder, "--json")
        assert result.exit_code == ExitCode.USAGE
        assert folder in document(result)["error"]["message"]
    assert P2pfleetError("a", "b").code is ExitCode.FAILED
