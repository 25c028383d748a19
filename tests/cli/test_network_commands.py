"""``network``: files are made, shown and signed, and nothing is believed that the owner did not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.config.network_file import load_network, save_network
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import peer_text
from p2pfleet.core.model.network import NetworkFile, NetworkParameters
from p2pfleet.core.model.puzzle import DEFAULT_BITS
from p2pfleet.runtime.requirements import opened_requirement
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import PEER

HOME = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"


@pytest.fixture
def owned(invoke: Invoke, tmp_path: Path) -> Path:
    """The file of a network whose owner's key lies in the folder ``owner``."""
    created = invoke(
        "network", "create", "lab.toml", "--name", "lab", "--puzzle-bits", 0, "--owned",
        "--data-dir", "owner",
    )  # fmt: skip
    assert created.exit_code == 0, created.output
    return tmp_path / "lab.toml"


def test_addresses_to_start_from_are_added_in_front_of_those_that_are_there(
    invoke: Invoke, tmp_path: Path
) -> None:
    other = f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}"
    invoke("network", "create", "n.toml", "--name", "orchard", "--testnet", "--bootstrap", HOME)
    before = load_network(tmp_path / "n.toml")
    for _ in range(2):
        shown = document(invoke("network", "add-bootstrap", "n.toml", other, "--json"))
        assert shown["bootstrap"] == [other, HOME]
    assert load_network(tmp_path / "n.toml").id == before.id
    wrong = invoke("network", "add-bootstrap", "n.toml", "/ip4/1.2.3.4/udp/1", "--json")
    assert "is no node's address" in refused(wrong, ExitCode.USAGE)


def require(invoke: Invoke, file: Path, version: str, folder: str = "owner") -> Any:
    return invoke(
        "network", "require", file, "--onnxruntime", version, "--data-dir", folder, "--json"
    )


def refused(result: Any, code: ExitCode) -> str:
    assert result.exit_code == code, result.output
    error = document(result)["error"]
    assert error["advice"]
    return str(error["message"])


def test_a_network_of_nobodys_is_made_and_shown(invoke: Invoke, home: Path, tmp_path: Path) -> None:
    made = document(
        invoke(
            "network", "create", "n.toml", "--name", "orchard", "--testnet", "--bootstrap", HOME,
            "--json",
        )
    )  # fmt: skip
    parameters = NetworkParameters("orchard", testnet=True)
    assert load_network(tmp_path / "n.toml") == NetworkFile(parameters, (HOME,))
    assert made == document(invoke("network", "show", "n.toml", "--json"))
    assert (made["owner"], made["requirement"], made["bootstrap"]) == (None, None, [HOME])
    assert made["id"] == load_network(tmp_path / "n.toml").id.hex()
    assert not home.exists(), "nobody asked for an identity"
    shown = invoke("network", "show", "n.toml").stdout
    assert "owner     nobody" in shown
    assert "requires  nothing" in shown


def test_an_owned_network_names_the_key_of_the_owners_folder(invoke: Invoke, owned: Path) -> None:
    shown = document(invoke("network", "show", owned, "--json"))
    identity = (owned.parent / "owner" / "identity.key").read_text()
    assert shown["owner"] in identity
    assert peer_text(load_network(owned).parameters.owner) == shown["owner"]  # type: ignore[arg-type]
    again = invoke(
        "network", "create", "2.toml", "--name", "lab", "--puzzle-bits", 0, "--owned",
        "--data-dir", "owner",
    )  # fmt: skip
    assert again.exit_code == 0
    assert load_network(owned.parent / "2.toml").id == load_network(owned).id


def test_work_is_asked_for_unless_it_is_a_testnet_or_somebody_says_otherwise(
    invoke: Invoke, tmp_path: Path
) -> None:
    found = {}
    for number, arguments in enumerate(
        ((), ("--testnet",), ("--puzzle-bits", 3), ("--testnet", "--puzzle-bits", 2))
    ):
        made = document(
            invoke("network", "create", f"{number}.toml", "--name", "n", *arguments, "--json")
        )
        assert (
            load_network(tmp_path / f"{number}.toml").parameters.puzzle_bits
            == (made["puzzle_bits"])
        )
        found[made["id"]] = made["puzzle_bits"]
    assert list(found.values()) == [DEFAULT_BITS, 0, 3, 2], "four networks, each with its own id"
    assert "18 bits: 262,144 tries" in invoke("network", "show", "0.toml").stdout
    assert "puzzle    none" in invoke("network", "show", "1.toml").stdout
    for bits in (-1, 41, "many"):
        refused = invoke("network", "create", "x.toml", "--name", "n", "--puzzle-bits", bits)
        assert refused.exit_code == ExitCode.USAGE
    assert not (tmp_path / "x.toml").exists()


def test_an_owner_signs_with_a_key_that_does_not_fit(invoke: Invoke, tmp_path: Path) -> None:
    made = invoke(
        "network", "create", "n.toml", "--name", "n", "--puzzle-bits", 40, "--owned",
        "--data-dir", "owner",
    )  # fmt: skip
    assert made.exit_code == 0
    assert "needs another --data-dir" in made.stderr
    assert require(invoke, tmp_path / "n.toml", "1.30").exit_code == 0
    joined = invoke("init", "--network", "n.toml", "--data-dir", "owner", "--json")
    assert "does not fit" in refused(joined, ExitCode.USAGE)
    left = sorted(path.name for path in (tmp_path / "owner").iterdir())
    assert left == ["identity.key"], "it did not join"


def test_a_file_that_is_there_is_not_made_again(invoke: Invoke, owned: Path) -> None:
    before = owned.read_bytes()
    said = refused(invoke("network", "create", owned, "--name", "x", "--json"), ExitCode.USAGE)
    assert "exists already" in said
    assert owned.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--name", "Bad Name"),
        ("--name", ""),
        ("--name", "x" * 65),
        ("--name", "x", "--bootstrap", "somewhere"),
    ],
)
def test_a_network_that_cannot_be_leaves_no_file(
    invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refused(invoke("network", "create", "n.toml", *arguments, "--json"), ExitCode.USAGE)
    assert list(tmp_path.iterdir()) == []


def test_what_the_owner_asks_for_is_signed_and_each_time_newer(invoke: Invoke, owned: Path) -> None:
    before = load_network(owned)
    first = document(require(invoke, owned, "1.30.1"))["requirement"]
    second = document(require(invoke, owned, "1.20"))["requirement"]
    assert (first["onnxruntime"], second["onnxruntime"]) == ("1.30.1", "1.20")
    assert second["sequence"] > first["sequence"]
    after = load_network(owned)
    assert (after.id, after.bootstrap) == (before.id, before.bootstrap)
    assert opened_requirement(after).requirement.onnxruntime == "1.20"
    assert "onnxruntime 1.20 or newer" in invoke("network", "show", owned).stdout


@pytest.mark.parametrize(
    "version",
    ["", "latest", "1.", "1.2.3.4.5", "1.32.0rc1", "1.32.0\n", "v1", "1" * 7, "١", "\udcff"],
)
def test_a_version_that_is_none_is_not_asked_for(invoke: Invoke, owned: Path, version: str) -> None:
    before = owned.read_bytes()
    assert "no version" in refused(require(invoke, owned, version), ExitCode.USAGE)
    assert owned.read_bytes() == before


def test_nobody_but_the_owner_asks_for_anything(
    invoke: Invoke, owned: Path, tmp_path: Path
) -> None:
    before = owned.read_bytes()
    assert invoke("init", "--data-dir", "other").exit_code == 0
    assert "belongs to 12D3KooW" in refused(require(invoke, owned, "1", "other"), ExitCode.USAGE)
    assert "no identity" in refused(require(invoke, owned, "1", "new"), ExitCode.USAGE)
    assert not (tmp_path / "new").exists()
    assert owned.read_bytes() == before
    save_network(tmp_path / "free.toml", NetworkFile(NetworkParameters("free")))
    said = refused(require(invoke, tmp_path / "free.toml", "1"), ExitCode.USAGE)
    assert "has no owner" in said


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        ('onnxruntime = "1.30"', 'onnxruntime = "1.31"'),
        (r"sequence = [0-9]+", f"sequence = {2**53 - 1}"),
        (r"issued_ms = [0-9]+", "issued_ms = 0"),
        ('signature = "..', 'signature = "00'),
        ('name = "lab"', 'name = "lob"'),
        ("testnet = false", "testnet = true"),
        (r'owner = "[^"]+"', f'owner = "{PEER}"'),
    ],
)
def test_a_file_that_was_changed_by_hand_is_damaged_wherever_it_is_used(
    invoke: Invoke, owned: Path, home: Path, pattern: str, new: str
) -> None:
    assert require(invoke, owned, "1.30").exit_code == 0
    assert invoke("init", "--network", owned).exit_code == 0
    good = (home / "network.toml").read_bytes()
    text, count = re.subn(pattern, new, owned.read_text())
    assert count == 1
    owned.write_text(text)
    with pytest.raises(P2pfleetError):
        opened_requirement(load_network(owned))
    commands = [("network", "show", owned), ("init", "--network", owned, "--data-dir", "fresh")]
    if "owner" not in pattern:  # else the key is no longer the owner's, which is said first
        commands.append(("network", "require", owned, "--onnxruntime", "1", "--data-dir", "owner"))
    for command in commands:
        said = refused(invoke(*command, "--json"), ExitCode.DAMAGED)
        assert "not signed by its owner" in said
        assert "Traceback" not in said
    assert not (home.parent / "fresh" / "network.toml").exists()
    (home / "network.toml").write_text(text)
    for command in (("config", "check"), ("run", "--listen", "/ip4/127.0.0.1/tcp/0")):
        refused(invoke(*command, "--json"), ExitCode.DAMAGED)
    (home / "network.toml").write_bytes(good)
    assert invoke("config", "check").exit_code == 0


def test_config_check_shows_the_owner_and_what_he_asks_for(
    invoke: Invoke, owned: Path, home: Path
) -> None:
    require(invoke, owned, "1.30")
    invoke("init", "--network", owned)
    (home / "node.toml").write_text(f'trusted_publishers = ["{PEER}"]\ncpu_percent = 50\n')
    found = document(invoke("config", "check", "--json"))["config"]
    assert found["network"]["owner"].startswith("12D3KooW")
    assert found["network"]["onnxruntime_min"] == "1.30"
    assert found["trusted_publishers"] == [PEER]
    assert found["cpu_percent"] == 50
    assert PEER in invoke("config", "check").stdout


def test_a_folder_takes_a_newer_requirement_of_its_network(
    invoke: Invoke, owned: Path, home: Path
) -> None:
    assert invoke("init", "--network", owned).exit_code == 0
    assert load_network(home / "network.toml").requirement is None
    require(invoke, owned, "1.30")
    (home / "node.toml").unlink()
    assert invoke("init", "--network", owned).exit_code == 0
    assert load_network(home / "network.toml") == load_network(owned)
