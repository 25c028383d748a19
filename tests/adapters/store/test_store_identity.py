"""The identity file: made once, read by its owner alone, and never taken for another."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from p2pfleet.adapters.store import load_or_create_identity, peer_of
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import NetworkId, parse_peer, peer_text
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.model.puzzle import fits

HOME = NetworkTerms(NetworkId(bytes(32)), 6)
HARD = NetworkTerms(NetworkId(bytes(32)), 40)
CHILD = Path(__file__).with_name("identity_child.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "identity"


def test_the_identity_stays_the_same(path: Path) -> None:
    seed = load_or_create_identity(path)

    assert len(seed) == 32
    assert load_or_create_identity(path) == seed
    assert [file.name for file in path.parent.iterdir()] == ["identity"]


def test_every_folder_gets_its_own_identity(tmp_path: Path) -> None:
    assert load_or_create_identity(tmp_path / "a") != load_or_create_identity(tmp_path / "b")


def test_the_file_is_for_its_owner_only_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_identity(path)
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_file_names_the_peer_that_the_seed_signs_for(path: Path) -> None:
    seed = load_or_create_identity(path)

    label, encoded, peer = path.read_text().splitlines()

    assert label.startswith("# p2pfleet identity 1")
    assert base64.b64decode(encoded) == seed
    assert parse_peer(peer) == peer_of(seed)
    signed = SigningKey(seed).sign(b"message")
    assert SigningKey(seed).verify_key.verify(signed) == b"message"
    assert peer_of(seed) == bytes(SigningKey(seed).verify_key)


def test_processes_that_race_get_the_same_identity(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for number in range(30):
            path = tmp_path / f"identity{number}"
            for child in children:
                assert child.stdin is not None
                child.stdin.write(f"{path}\n")
                child.stdin.flush()
            seeds = {child.stdout.readline().strip() for child in children if child.stdout}
            assert seeds == {load_or_create_identity(path).hex()}
    finally:
        for child in children:
            child.communicate()
    assert len(list(tmp_path.iterdir())) == 30


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_command_to_run(
    path: Path, mode: int
) -> None:
    seed = load_or_create_identity(path)
    path.chmod(mode)

    with pytest.raises(P2pfleetError, match="others may read or change") as caught:
        load_or_create_identity(path)

    assert f"chmod 600 {path}" in caught.value.advice
    path.chmod(0o600)
    assert load_or_create_identity(path) == seed


def lines_changed(change: Callable[[list[str]], list[str]]) -> Callable[[bytes], bytes]:
    return lambda data: "\n".join(change(data.decode().splitlines())).encode()


OTHER_PEER = peer_text(peer_of(bytes(32)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:60],
        lambda data: data[:-10],
        lambda data: data * 100,
        lambda data: os.urandom(200),
        lambda data: bytes(len(data)),
        lines_changed(lambda lines: lines[1:]),
        lines_changed(lambda lines: [lines[0], lines[1][4:], lines[2]]),
        lines_changed(lambda lines: [lines[0], "!" + lines[1][1:], lines[2]]),
        lines_changed(lambda lines: [lines[0], lines[1], OTHER_PEER]),
        lines_changed(lambda lines: [lines[0], base64.b64encode(bytes(32)).decode(), lines[2]]),
        lines_changed(lambda lines: ["-----BEGIN PRIVATE KEY-----", *lines[1:]]),
    ],
)
def test_a_damaged_file_is_refused_and_not_replaced(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    load_or_create_identity(path)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    with pytest.raises(P2pfleetError, match="damaged") as caught:
        load_or_create_identity(path)

    assert caught.value.code == ExitCode.DAMAGED
    assert "backup" in caught.value.advice
    assert path.read_bytes() == damaged


def test_the_secret_stands_in_no_error(path: Path) -> None:
    load_or_create_identity(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], OTHER_PEER]))

    with pytest.raises(P2pfleetError) as caught:
        load_or_create_identity(path)

    assert lines[1] not in str(caught.value)


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    load_or_create_identity(path)
    path.write_text(path.read_text().replace("identity 1", "identity 2"))

    with pytest.raises(P2pfleetError, match="version '2'") as caught:
        load_or_create_identity(path)

    assert "upgrade" in caught.value.advice


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    path.parent.mkdir()
    make(path)

    with pytest.raises(P2pfleetError) as caught:
        load_or_create_identity(path)

    assert caught.value.advice
    assert not path.is_file()


def test_a_new_identity_fits_the_network_it_is_made_for(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}"
        seed = load_or_create_identity(path, HOME)
        assert fits(HOME, peer_of(seed))
        assert load_or_create_identity(path, HOME) == seed
        assert load_or_create_identity(path) == seed, "who asks for no network gets any identity"


def test_an_identity_that_does_not_fit_is_refused_and_stays(path: Path) -> None:
    seed = load_or_create_identity(path)

    with pytest.raises(P2pfleetError, match="does not fit the network") as caught:
        load_or_create_identity(path, HARD)

    assert caught.value.code == ExitCode.USAGE
    assert "--data-dir" in caught.value.advice
    assert load_or_create_identity(path) == seed


class Enough(BaseException):
    """Like a KeyboardInterrupt, or the cancellation of a node that starts."""


def test_a_search_tells_how_far_it_is_and_leaves_nothing_if_it_is_ended(path: Path) -> None:
    told: list[tuple[int, float]] = []

    def progress(drawn: int, seconds: float) -> None:
        told.append((drawn, seconds))
        if len(told) == 3:
            raise Enough

    with pytest.raises(Enough):
        load_or_create_identity(path, HARD, progress)

    assert [drawn for drawn, _ in told] == [1000, 2000, 3000]
    assert 0 < told[0][1] < told[1][1] < told[2][1]
    assert list(path.parent.iterdir()) == []
    assert load_or_create_identity(path, HOME) == load_or_create_identity(path)
