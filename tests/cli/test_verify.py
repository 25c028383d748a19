"""``verify``: whose job it was decides between 0 and 3, and any problem means 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from p2pfleet.config.network_file import save_network
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.results import SealedText
from p2pfleet.verify import UsedSnapshot, Verification
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import JOB, OTHER, PEER
from tests.spec.folders import ALICE, sealed_snapshot

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

    def found(folder: Path, trust: Any) -> Verification:
        state["trust"] = trust
        return cast("Verification", state["found"])

    monkeypatch.setattr("p2pfleet.verify.verify_results", found)
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


@pytest.mark.parametrize("place", [".", "networks/orchard-01234567"])
def test_a_publisher_that_the_own_configuration_trusts_makes_it_verified(
    invoke: Invoke, home: Path, results: dict[str, Any], place: str
) -> None:
    folder = home / place
    folder.mkdir(parents=True)
    save_network(folder / "network.toml", NetworkFile(NetworkParameters("orchard", True)))
    (folder / "node.toml").write_text(f'trusted_publishers = ["{PEER}"]\n')
    result = invoke("verify", "results", "--json")
    assert result.exit_code == 0
    assert document(result)["trust_root"] == "trusted in node.toml"
    (folder / "node.toml").write_text(f'trusted_publishers = ["{OTHER}"]\n')
    assert invoke("verify", "results").exit_code == ExitCode.UNTRUSTED
    (folder / "node.toml").write_text("trusted_publishers = [\n")
    assert invoke("verify", "results").exit_code == ExitCode.UNTRUSTED


def test_what_the_units_rest_on_is_told(invoke: Invoke, results: dict[str, Any]) -> None:
    result = invoke("verify", "results")
    assert "by a fixed quorum every voter counts alike" in result.stdout
    weighed = msgspec.structs.replace(
        GOOD, rule="99.9 % sure", weighs=True, audited=2, single=1, newcomers=7, ringers=3
    )
    results["found"] = weighed
    result = invoke("verify", "results")
    assert "asked for   99.9 % sure" in result.stdout
    assert "no trust snapshot: every voter was a newcomer" in result.stdout
    assert (
        "the publisher's own word: 2; the vote of one peer: 1; votes of newcomers alone: 7"
        in result.stdout
    )
    assert "ringers     3 opened" in result.stdout
    used = UsedSnapshot("ab" * 32, GOOD.publisher, 4, 30, 9)
    results["found"] = msgspec.structs.replace(weighed, snapshots=(used,), ringers=0)
    result = invoke("verify", "results")
    assert f"(number 4) by {PEER}: 30 peers, for 9 units" in result.stdout
    assert "not opened: the job had not ended" in result.stdout
    found = document(invoke("verify", "results", "--json"))
    assert found["snapshots"][0]["signer"] == PEER
    assert (found["by_publishers_word"], found["by_single_vote"]) == (2, 1)


def test_a_snapshot_of_ones_own_is_handed_on_and_changes_no_exit_code(
    invoke: Invoke, tmp_path: Path, results: dict[str, Any]
) -> None:
    sealed = sealed_snapshot({ALICE: 3})
    (tmp_path / "trust.json").write_bytes(msgspec.json.encode(SealedText.of(sealed)))
    results["found"] = msgspec.structs.replace(GOOD, weighed_by=ALICE)
    result = invoke("verify", "results", "--trust", "trust.json")
    assert result.exit_code == ExitCode.UNTRUSTED
    assert results["trust"].sealed == sealed
    assert "weighed     again" in result.stdout
    wrong = invoke("verify", "results", "--trust", "missing.json", "--json")
    assert wrong.exit_code == ExitCode.USAGE
    assert "missing.json" in document(wrong)["error"]["message"]


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
