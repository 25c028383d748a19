"""node.toml and network.toml: every mistake at once, and nothing but what is right gets through."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from p2pfleet.config.network_file import load_network, save_network
from p2pfleet.config.node_file import NodeConfig, default_data_dir, load_config
from p2pfleet.config.toml_file import ConfigError
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import parse_peer
from p2pfleet.core.model.network import NetworkFile, NetworkParameters, SignedRequirement
from p2pfleet.resources import resource_path

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
HOME = f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}"
AWAY = f"/dns4/boot.example.org/tcp/4741/p2p/{PEER}"
NETWORK = NetworkFile(NetworkParameters("orchard"), (AWAY,))
OWNED = NetworkParameters("orchard", owner=parse_peer(PEER))
REQUIREMENT = SignedRequirement("1.32.0", 2**53 - 1, 1_700_000_000_000, bytes(range(64)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_network(tmp_path / "network.toml", NETWORK)
    return tmp_path


def configured(folder: Path, text: str) -> NodeConfig:
    (folder / "node.toml").write_text(text, encoding="utf-8")
    return load_config(None, data_dir=folder)


def mistakes(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        configured(folder, text)
    assert caught.value.code is ExitCode.USAGE
    return caught.value.mistakes


def test_a_folder_without_a_configuration_is_a_volunteers(folder: Path) -> None:
    assert load_config(None, data_dir=folder) == NodeConfig(
        data_dir=folder,
        network=NETWORK,
        listen=("/ip4/0.0.0.0/tcp/0",),
        bootstrap=(AWAY,),
        roles=("volunteer",),
        slots=1,
    )


def test_what_the_file_says_replaces_the_defaults(folder: Path) -> None:
    config = configured(
        folder,
        f"""
        roles = ["publisher", "volunteer"]
        slots = 3
        memory_mb = 512
        disk_mb = 1000
        unit_cpu_s = 60
        listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
        bootstrap = ["{HOME}", "{AWAY}"]
        log_level = "debug"
        recording = true
        announce = ["/ip4/203.0.113.9/tcp/4741"]
        mdns = false
        relay = "on"
        cpu_percent = 40
        contrib_ops = true
        trusted_publishers = ["{PEER}"]
        """,
    )
    assert config.roles == ("publisher", "volunteer")
    assert (config.slots, config.memory_mb, config.disk_mb, config.unit_cpu_s) == (3, 512, 1000, 60)
    assert config.listen == ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")
    assert config.bootstrap == (AWAY, HOME), "the network's first, and each only once"
    assert (config.log_level, config.recording) == ("debug", True)
    assert config.announce == ("/ip4/203.0.113.9/tcp/4741",)
    assert (config.mdns, config.relay) == (False, "on")
    assert (config.cpu_percent, config.contrib_ops) == (40, True)
    assert config.trusted_publishers == (parse_peer(PEER),)


def test_the_command_line_replaces_the_file_and_adds_bootstrap_addresses(folder: Path) -> None:
    (folder / "node.toml").write_text('listen = ["/ip4/0.0.0.0/tcp/9"]\nslots = 2\n')
    config = load_config(
        None, data_dir=folder, listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=(HOME,), slots=4
    )
    assert config.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert config.bootstrap == (AWAY, HOME)
    assert config.slots == 4


def test_a_command_that_publishes_only_runs_nothing_whatever_the_file_says(folder: Path) -> None:
    (folder / "node.toml").write_text('roles = ["volunteer"]\nslots = 2\n')
    config = load_config(None, data_dir=folder, roles=("publisher",))
    assert (config.roles, config.slots) == (("publisher",), 0)


def test_every_mistake_is_reported_at_once_with_its_line_and_key(folder: Path) -> None:
    found = mistakes(
        folder,
        'slot = 3\nslots = "two"\nroles = ["miner"]\n\nmemory_mb = 1\nlisten = ["localhost:80"]\n'
        'bootstrap = ["/ip4/127.0.0.1/tcp/1"]\nlog_level = "loud"\nunit_cpu_s = 1.5\n',
    )
    places = [mistake.partition(": ")[0] for mistake in found]
    assert places == [
        "line 1, slot", "line 2, slots", "line 3, roles", "line 5, memory_mb", "line 8, log_level",
        "line 9, unit_cpu_s", "line 6, listen", "line 7, bootstrap",
    ]  # fmt: skip
    assert "there is no such key" in found[0]
    assert "a whole number" in found[1]
    assert "miner" in found[2]
    assert "/ip4/0.0.0.0/tcp/4001" in found[6]


def test_a_mistake_on_the_command_line_is_reported_with_those_of_the_file(folder: Path) -> None:
    (folder / "node.toml").write_text("slots = -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(None, data_dir=folder, bootstrap=("nonsense",))
    assert len(caught.value.mistakes) == 2
    assert "nonsense" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('roles = ["publisher"]\nslots = 1\n', "no volunteer"),
        ("slots = 0\n", "at least 1"),
        ("slots = true\n", "whole number"),
        ("cpu_percent = 0\n", "cpu_percent"),
        ("cpu_percent = 101\n", "cpu_percent"),
        ("contrib_ops = 1\n", "true or false"),
        ('trusted_publishers = "all"\n', "a list"),
        (f'trusted_publishers = ["{PEER}x"]\n', "no peer id"),
        (f'trusted_publishers = ["{"1" * 81}"]\n', "trusted_publishers"),
        ("roles = []\n", "length"),
        ("memory_mb = 99999999999999999999999\n", "memory_mb"),
        ('network = "elsewhere.toml"\n', "no file"),
        ("slots = \n", "at line 1"),
        ("[slots]\n", "whole number"),
        ("a = " + "[" * 5000 + "]" * 5000, "mistake"),
    ],
)
def test_what_is_wrong_is_refused_with_a_reason(folder: Path, text: str, word: str) -> None:
    (folder / "node.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(None, data_dir=folder)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/ip4/0.0.0.0",
        "/ip4/300.0.0.1/tcp/1",
        "/ip4/0.0.0.0/tcp/70000",
        "/ip4/0.0.0.0/udp/1",
        "/ip6/::g/tcp/1",
        "/dns4/example.org/tcp/1",
        f"/ip4/0.0.0.0/tcp/1/p2p/{PEER}",
        "/ip4/0.0.0.0/tcp/1\n",
        "/ip4/0.0.0.0/tcp/١",
        "/ip4/" + "1" * 5000,
    ],
)
def test_only_addresses_of_this_machine_can_be_listened_on(folder: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="no address to listen on"):
        load_config(None, data_dir=folder, listen=(address,))


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/4001",
        f"/ip4/127.0.0.1/tcp/0/p2p/{PEER}",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooW",
        f"/dns4/-bad-/tcp/1/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit",
    ],
)
def test_a_bootstrap_address_names_a_reachable_peer(folder: Path, address: str) -> None:
    with pytest.raises(ConfigError):
        load_config(None, data_dir=folder, bootstrap=(address,))


def test_a_folder_of_no_network_says_how_to_join_one(tmp_path: Path) -> None:
    with pytest.raises(P2pfleetError) as caught:
        load_config(None, data_dir=tmp_path)
    assert caught.value.code is ExitCode.USAGE
    assert "p2pfleet init" in caught.value.advice


def test_a_network_named_in_the_file_is_found_beside_it(tmp_path: Path) -> None:
    save_network(tmp_path / "mine.toml", NETWORK)
    (tmp_path / "node.toml").write_text('network = "mine.toml"\n')
    found = load_config(tmp_path / "node.toml", data_dir=tmp_path / "data")
    assert found.network == NETWORK


def test_the_profiles_hold_no_mistake(folder: Path) -> None:
    roles = {}
    for profile in ("vehicle", "volunteer", "publisher", "bootstrap"):
        config = load_config(resource_path("nodes", profile, "node.toml"), data_dir=folder)
        roles[profile] = (config.roles, config.slots)
    assert roles == {
        "vehicle": (("volunteer",), 1),
        "volunteer": (("volunteer",), 1),
        "publisher": (("publisher",), 0),
        "bootstrap": (("bootstrap",), 0),
    }


def test_a_commented_default_in_a_profile_is_the_default(folder: Path) -> None:
    """The profiles promise that a line with '#' shows the default."""
    plain = load_config(None, data_dir=folder)
    for profile in ("vehicle", "volunteer", "publisher", "bootstrap"):
        text = resource_path("nodes", profile, "node.toml").read_text(encoding="utf-8")
        shown = [
            line.removeprefix("# ")
            for line in text.splitlines()
            if line.startswith("# ") and " = " in line and "bootstrap =" not in line
        ]
        assert shown
        config = configured(folder, "\n".join(shown))
        assert config == plain, profile


def test_a_network_file_survives_being_written_and_read(tmp_path: Path) -> None:
    for network in (
        NETWORK,
        NetworkFile(NetworkParameters("testnet-1.a", testnet=True)),
        NetworkFile(NetworkParameters("x"), (HOME, AWAY)),
        NetworkFile(OWNED, (HOME,)),
        NetworkFile(NetworkParameters("x", puzzle_bits=18)),
        NetworkFile(OWNED, (HOME,), REQUIREMENT),
    ):
        save_network(tmp_path / "network.toml", network)
        assert load_network(tmp_path / "network.toml") == network
    assert [path.name for path in tmp_path.iterdir()] == ["network.toml"]


def test_every_mistake_of_a_network_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    path.write_text('name = "Bad Name"\nowner = 1\nbootstrap = ["x"]\n[parameters]\ntestnet = 1\n')
    with pytest.raises(ConfigError) as caught:
        load_network(path)
    text = str(caught.value)
    assert len(caught.value.mistakes) == 4
    for place in ("line 1, name", "line 2, owner", "line 3, bootstrap", "line 5, parameters.test"):
        assert place in text


def requiring(owner: str | None = f'"{PEER}"', **changes: str | None) -> str:
    """A network file with a requirement in which these values are others, or left out."""
    values = {
        "onnxruntime": '"1.32.0"', "sequence": "5", "issued_ms": "6",
        "signature": f'"{"0a" * 64}"', **changes,
    }  # fmt: skip
    lines = [f"{key} = {value}" for key, value in values.items() if value is not None]
    owned = [] if owner is None else [f"owner = {owner}"]
    return "\n".join(['name = "orchard"', "[parameters]", *owned, "[requirement]", *lines, ""])


def test_what_a_networks_owner_asks_for_is_read_but_not_yet_believed(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text(requiring())
    found = load_network(tmp_path / "network.toml")
    assert found.parameters == OWNED
    assert found.requirement == SignedRequirement("1.32.0", 5, 6, b"\n" * 64)
    without = msgspec.structs.replace(found, requirement=None)
    assert found.id == without.id != NETWORK.id, "the owner is part of the network, his wish is not"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (requiring(owner=None), "no owner"),
        (requiring(owner='"somebody"'), "parameters.owner: 'somebody' is no peer id"),
        (requiring(owner="7"), "parameters.owner"),
        (requiring(owner=f'"{PEER}\\n"'), "no peer id"),
        (requiring(onnxruntime='"latest"'), "like 1.32.0"),
        (requiring(onnxruntime='"1.2.3.4.5"'), "like 1.32.0"),
        (requiring(onnxruntime='"1.32.0\\n"'), "like 1.32.0"),
        (requiring(onnxruntime="1.32"), "text"),
        (requiring(sequence="-1"), "requirement.sequence"),
        (requiring(sequence=str(2**53)), "requirement.sequence"),
        (requiring(issued_ms="1.5"), "whole number"),
        (requiring(signature='"0A"'), "128 hexadecimal digits"),
        (requiring(signature=f'"{"0a" * 63}0\\n"'), "128 hexadecimal digits"),
        (requiring(signature=f'"{"0A" * 64}"'), "128 hexadecimal digits"),
        (requiring(signature=None), "lacks signature"),
        (requiring(sequence=None, issued_ms=None), "lacks sequence, issued_ms"),
        (requiring(more="1"), "no such key"),
    ],
)
def test_a_requirement_that_cannot_be_one_is_one_mistake(
    tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "network.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_network(tmp_path / "network.toml")
    assert word in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_a_network_needs_a_name_without_a_line_break(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    path.write_text("bootstrap = []\n")
    with pytest.raises(ConfigError, match="is missing"):
        load_network(path)
    path.write_text('name = "orchard\\n"\n')
    with pytest.raises(ConfigError, match="name"):
        load_network(path)


def test_a_file_that_is_none_is_refused_and_does_not_hold_us_up(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * (2**20 + 1))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (pipe, huge, binary, tmp_path, tmp_path / "missing"):
        with pytest.raises(P2pfleetError) as caught:
            load_network(path)
        assert caught.value.code is ExitCode.USAGE
        assert str(path) in str(caught.value)


def test_a_testnet_on_this_machine_listens_on_this_machine_only(tmp_path: Path) -> None:
    local = NetworkFile(NetworkParameters("testnet-x", testnet=True), (HOME,))
    save_network(tmp_path / "network.toml", local)
    assert load_config(None, data_dir=tmp_path).listen == ("/ip4/127.0.0.1/tcp/0",)


def test_the_environment_names_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PFLEET_DATA_DIR", str(tmp_path / "there"))
    assert default_data_dir() == tmp_path / "there"
