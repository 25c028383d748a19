"""``init`` and ``config check``: a folder to start from, and every mistake in it."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from p2pfleet.cli.output import Output
from p2pfleet.config.network_file import save_network
from p2pfleet.config.node_file import load_config
from p2pfleet.core.errors import ExitCode
from p2pfleet.core.model.ids import parse_peer
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.core.model.puzzle import fits
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import NETWORK

ORCHARD = NetworkFile(NetworkParameters("orchard"))


@pytest.mark.parametrize("profile", ["vehicle", "volunteer", "publisher", "bootstrap"])
def test_init_makes_a_folder_that_config_check_accepts(
    invoke: Invoke, home: Path, profile: str
) -> None:
    result = invoke("init", "--profile", profile, "--json")
    assert result.exit_code == 0, result.output
    made = document(result)
    assert made["peer"].startswith("12D3KooW")
    assert made["profile"] == profile
    assert made["next"].startswith("p2pfleet ")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "identity.key").stat().st_mode) == 0o600
    checked = invoke("config", "check", "--json")
    assert checked.exit_code == 0
    assert document(checked)["config"]["network"]["name"] == "p2pfleet"


def test_init_joins_the_network_that_it_is_given(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    save_network(tmp_path / "fake.toml", NETWORK)
    made = document(invoke("init", "--network", tmp_path / "fake.toml", "--json"))
    assert made["network"]["id"] == NETWORK.id.hex()
    assert made["data_dir"] == str(home)
    assert load_config(None, data_dir=home).network == NETWORK


def test_init_never_touches_a_folder_that_is_set_up(invoke: Invoke, home: Path) -> None:
    invoke("init")
    before = {path: path.read_bytes() for path in home.iterdir()}
    result = invoke("init", "--profile", "publisher", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert "set up already" in document(result)["error"]["message"]
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_init_that_was_cut_off_is_begun_again_with_the_same_identity(
    invoke: Invoke, home: Path
) -> None:
    first = document(invoke("init", "--json"))
    (home / "node.toml").unlink()
    assert document(invoke("init", "--json"))["peer"] == first["peer"]


def test_an_identity_fits_the_network_and_the_person_who_waits_is_told(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    asking = NetworkFile(NetworkParameters("asking", testnet=True, puzzle_bits=12))
    save_network(tmp_path / "asking.toml", asking)
    told = ""
    for number in range(20):  # one may be found before there is anything to tell
        result = invoke("init", "--network", "asking.toml", "--data-dir", number, "--json")
        assert result.exit_code == 0, result.output
        assert fits(asking.terms, parse_peer(document(result)["peer"]))
        told += result.stderr
        if "making an identity" in told:
            break
    assert "making an identity that fits the network asking: about 1 s" in told


def test_an_interrupted_search_leaves_nothing_half_and_is_begun_again(
    invoke: Invoke, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = NetworkFile(NetworkParameters("hard", testnet=True, puzzle_bits=40))
    save_network(tmp_path / "hard.toml", hard)

    def interrupt(output: Output, text: str) -> None:
        assert "about" in text
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Output, "note", interrupt)
        result = invoke("init", "--network", "hard.toml")
    assert result.exit_code != 0
    assert [path.name for path in home.iterdir()] == ["network.toml"]
    easy = invoke("init", "--data-dir", "other")
    assert easy.exit_code == 0
    shutil.copy(tmp_path / "other" / "identity.key", home)
    refused = invoke("init", "--network", "hard.toml", "--json")
    assert refused.exit_code == ExitCode.USAGE
    assert "does not fit the network" in document(refused)["error"]["message"]
    assert "--data-dir" in document(refused)["error"]["advice"]
    assert not (home / "node.toml").exists()


def test_an_identity_of_another_network_is_not_taken_along(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    save_network(
        tmp_path / "hard.toml", NetworkFile(NetworkParameters("hard", testnet=True, puzzle_bits=40))
    )
    assert invoke("init").exit_code == 0
    (home / "network.toml").unlink()
    before = {path: path.read_bytes() for path in home.iterdir()}
    run = invoke("run", "--network", "hard.toml", "--data-dir", home)
    assert run.exit_code == ExitCode.USAGE
    assert "does not fit the network" in run.stderr
    assert {path: path.read_bytes() for path in home.iterdir()} == before


def test_config_check_shows_the_puzzle(invoke: Invoke) -> None:
    invoke("init")
    assert document(invoke("config", "check", "--json"))["config"]["network"]["puzzle_bits"] == 4
    assert "puzzle_bits         4" in invoke("config", "check").stdout


def test_a_folder_stays_with_its_network(invoke: Invoke, home: Path, tmp_path: Path) -> None:
    invoke("init")
    save_network(tmp_path / "fake.toml", NETWORK)
    (home / "node.toml").unlink()
    result = invoke("init", "--network", tmp_path / "fake.toml")
    assert result.exit_code == ExitCode.USAGE
    assert "belongs to the network 'p2pfleet'" in result.stderr
    run = invoke("run", "--network", tmp_path / "fake.toml", "--data-dir", home)
    assert run.exit_code == ExitCode.USAGE


def test_a_folder_that_cannot_be_made_is_explained(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("init", "--data-dir", tmp_path / "file" / "below")
    assert result.exit_code == ExitCode.FAILED
    assert "cannot be made" in result.stderr


def test_config_check_reports_every_mistake_at_once(invoke: Invoke, home: Path) -> None:
    invoke("init")
    (home / "node.toml").write_text('slots = 0\nrolls = ["volunteer"]\nlisten = ["here"]\n')
    result = invoke("config", "check", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert len(document(result)["error"]["mistakes"]) == 3
    for place in ("line 1, slots", "line 2, rolls", "line 3, listen"):
        assert place in result.stderr


def test_config_check_looks_at_a_profile_by_name_or_by_file(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    invoke("init")
    found = document(invoke("config", "check", "--profile", "publisher", "--json"))
    assert found["config"]["roles"] == ["publisher"]
    (tmp_path / "own.toml").write_text("slots = 5\n")
    found = document(invoke("config", "check", "--profile", "own.toml", "--json"))
    assert found["config"]["slots"] == 5
    assert invoke("config", "check", "--profile", "missing.toml").exit_code == ExitCode.USAGE


@pytest.mark.parametrize("command", ["run", "submit"])
def test_nothing_runs_in_a_folder_of_no_network(
    invoke: Invoke, home: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    arguments = ["m.onnx", "m.onnx"] if command == "submit" else []
    result = invoke(command, *arguments, "--json")
    assert result.exit_code == ExitCode.USAGE
    assert "p2pfleet init" in document(result)["error"]["advice"]
    assert not home.exists()


def test_a_wrong_address_stops_run_before_anything_is_started(invoke: Invoke, home: Path) -> None:
    invoke("init")
    result = invoke("run", "--listen", "nowhere", "--bootstrap", "/ip4/1.2.3.4/tcp/1", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert len(document(result)["error"]["mistakes"]) == 2
    assert not (home / "lock").exists()
