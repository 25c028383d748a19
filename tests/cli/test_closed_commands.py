"""``p2pfleet network`` for closed networks: lists, invitations, what is refused and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.config.network_file import load_network
from p2pfleet.config.toml_file import ConfigError
from p2pfleet.core.model.ids import PeerId, parse_peer, peer_text, sha256
from p2pfleet.core.model.swarm_key import swarm_key_text
from p2pfleet.runtime.closed import listed, read_admission, read_invitation
from tests.cli.conftest import Invoke

BOB = peer_text(PeerId(sha256(b"bob")))
CAROL = peer_text(PeerId(sha256(b"carol")))
Run = Callable[..., Any]


@pytest.fixture
def run(invoke: Invoke) -> Run:
    return lambda *arguments: invoke("network", *arguments)


@pytest.fixture
def done(run: Run) -> Run:
    """The JSON document of a command that has to succeed."""

    def call(*arguments: Any) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture
def refused(run: Run) -> Run:
    """What a command says that has to be refused."""

    def call(*arguments: Any) -> str:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        return " ".join(result.stderr.split())

    return call


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    return tmp_path / "owner"


@pytest.fixture
def file(done: Run, tmp_path: Path, owner: Path) -> Path:
    path = tmp_path / "network.toml"
    done("create", path, "--name", "lab", "--closed", "--data-dir", owner)
    return path


def test_a_closed_network_has_an_owner_a_swarm_key_and_another_id(
    run: Run, done: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    shown = done("show", file)
    assert (shown["closed"], shown["swarm_key"], shown["members"]) == (True, True, 0)
    assert shown["owner"] is not None
    assert load_network(file).swarm_key is not None
    opened = done("create", tmp_path / "open.toml", "--name", "lab", "--owned", "--puzzle-bits", 0,
                  "--votes-a-subnet", 0, "--data-dir", owner)  # fmt: skip
    assert (opened["closed"], opened["owner"]) == (False, shown["owner"])
    assert opened["id"] != shown["id"]
    key = load_network(file).swarm_key
    assert key is not None
    assert key.hex() not in run("show", file).output


def test_a_swarm_key_of_another_program_is_taken_over(
    done: Run, refused: Run, tmp_path: Path, owner: Path
) -> None:
    key, wrong = tmp_path / "swarm.key", tmp_path / "wrong.key"
    key.write_text(swarm_key_text(bytes(range(32))))
    wrong.write_text("/key/swarm/psk/1.0.0/\n/base64/\nAAAA\n")
    path = tmp_path / "network.toml"
    create = ("create", path, "--name", "lab", "--data-dir", owner, "--swarm-key")
    assert "no swarm key" in refused(*create, wrong, "--closed")
    assert "Add --closed" in refused(*create, key)
    done(*create, key, "--closed")
    assert load_network(path).swarm_key == bytes(range(32))


def test_a_network_file_that_others_may_read_is_refused_if_it_holds_the_key(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_network(file)


def test_members_are_added_named_listed_and_removed(done: Run, file: Path, owner: Path) -> None:
    network = load_network(file).id
    done("members", "add", file, BOB, "--name", "Müller's PC", "--data-dir", owner)
    done("members", "add", file, CAROL, "--data-dir", owner)
    rows = {row["peer"]: row for row in done("members", "list", file)["members"]}
    assert rows[BOB] == {"peer": BOB, "name": "Müller's PC", "admitted": True, "how": "listed"}
    assert rows[CAROL]["admitted"]
    assert "owner" in {row["how"] for row in rows.values()}
    done("members", "remove", file, "Müller's PC", "--data-dir", owner)
    entries = listed(load_network(file))
    assert not entries[parse_peer(BOB)].admitted
    assert entries[parse_peer(CAROL)].admitted
    assert load_network(file).id == network
    done("members", "add", file, BOB, "--data-dir", owner)
    assert listed(load_network(file))[parse_peer(BOB)].admitted


def test_only_the_owner_changes_the_list_and_the_list_is_not_changed_by_hand(
    run: Run, done: Run, refused: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    done("create", tmp_path / "mine.toml", "--name", "mine", "--closed",
         "--data-dir", tmp_path / "mallory")  # fmt: skip
    before = file.read_bytes()
    for command in (("members", "add", file, BOB), ("invite", file)):
        assert "belongs to" in refused(*command, "--data-dir", tmp_path / "mallory")
    assert file.read_bytes() == before
    assert "no identity" in refused("members", "add", file, BOB, "--data-dir", tmp_path / "none")
    done("members", "add", file, BOB, "--data-dir", owner)
    file.write_text(file.read_text().replace(BOB, CAROL))
    result = run("members", "list", file)
    assert result.exit_code == 6
    assert "is not signed" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("members", "add", "FILE", "nobody"), "cannot be listed"),
        (("members", "add", "FILE", BOB, "--name", "n" * 41), "cannot be listed"),
        (("members", "add", "FILE", BOB, "--name", "a\nb"), "cannot be listed"),
        (("members", "add", "FILE", BOB, CAROL, "--name", "two"), "One name"),
        (("members", "remove", "FILE", "nobody"), "cannot be listed"),
        (("invite", "FILE", "--uses", "0"), "uses"),
        (("invite", "FILE", "--hours", "721"), "hours"),
        (("invite", "FILE", "--name", "n" * 41), "is no name"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    refused: Run, file: Path, owner: Path, arguments: tuple[str, ...], reason: str
) -> None:
    before = file.read_bytes()
    given = [file if one == "FILE" else one for one in arguments]
    assert reason in refused(*given, "--data-dir", owner)
    assert file.read_bytes() == before


def test_the_owner_cannot_be_removed(done: Run, refused: Run, file: Path, owner: Path) -> None:
    me = done("show", file)["owner"]
    assert "always belongs" in refused("members", "remove", file, me, "--data-dir", owner)


def test_an_open_network_has_no_members_and_no_invitations(
    done: Run, refused: Run, tmp_path: Path, owner: Path
) -> None:
    path = tmp_path / "open.toml"
    done("create", path, "--name", "lab", "--owned", "--puzzle-bits", 0, "--data-dir", owner)
    for command in (("members", "add", path, BOB), ("invite", path)):
        assert "is open" in refused(*command, "--data-dir", owner)


def test_an_invitation_sets_up_a_new_folder_and_leaves_no_secret_of_it_there(
    done: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    done("members", "add", file, BOB, "--data-dir", owner)
    paper = tmp_path / "invitation"
    made = done("invite", file, "--name", "LAB-PC-7", "--output", paper, "--data-dir", owner)
    assert made["invitation"] is None
    assert paper.stat().st_mode & 0o777 == 0o600
    folder = tmp_path / "new"
    joined = done("join", paper, "--data-dir", folder)
    assert load_network(folder / "network.toml") == load_network(file)
    shown = read_admission((folder / "admission").read_bytes())
    assert peer_text(shown.admission.peer) == joined["peer"]
    assert peer_text(shown.admission.key) == made["key"]
    seed = read_invitation(paper.read_text()).seed
    for kept in folder.iterdir():
        assert seed not in kept.read_bytes()
        assert seed.hex().encode() not in kept.read_bytes()
    done("join", paper.read_text(), "--data-dir", folder)  # again, with the text itself


def test_what_is_no_invitation_is_refused(
    done: Run, refused: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    text = done("invite", file, "--data-dir", owner)["invitation"]
    other = done("create", tmp_path / "other.toml", "--name", "x", "--closed",
                 "--data-dir", tmp_path / "mallory")  # fmt: skip
    assert other["closed"]
    folder = tmp_path / "new"
    changed = text[:200] + ("A" if text[200] != "A" else "B") + text[201:]
    for wrong in (
        text[:-8],
        changed,
        "p2pfleet-invitation-1:",
        "p2pfleet-invitation-1:" + "A" * 99,
    ):
        assert "no invitation" in refused("join", wrong, "--data-dir", folder)
    assert "neither" in refused("join", tmp_path / "missing", "--data-dir", folder)
    assert not folder.exists()


def test_a_folder_of_another_network_does_not_join(
    done: Run, refused: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    text = done("invite", file, "--data-dir", owner)["invitation"]
    mine = tmp_path / "mine.toml"
    done("create", mine, "--name", "mine", "--closed", "--data-dir", tmp_path / "mallory")
    folder = tmp_path / "busy"
    done("join", done("invite", mine, "--data-dir", tmp_path / "mallory")["invitation"],
         "--data-dir", folder)  # fmt: skip
    assert "belongs to the network" in refused("join", text, "--data-dir", folder)


def test_an_older_copy_of_the_file_does_not_undo_what_the_owners_folder_knows(
    done: Run, tmp_path: Path, file: Path, owner: Path
) -> None:
    (owner / "network.toml").write_bytes(file.read_bytes())
    (owner / "network.toml").chmod(0o600)
    old = tmp_path / "old.toml"
    old.write_bytes(file.read_bytes())
    old.chmod(0o600)
    done("members", "add", file, BOB, "--data-dir", owner)
    done("members", "add", old, CAROL, "--data-dir", owner)
    assert set(listed(load_network(old))) == {parse_peer(BOB), parse_peer(CAROL)}
