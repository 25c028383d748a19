"""The data folder: one node at a time, for its owner only, of a layout that we know."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfleet.adapters.store import lock_data_dir
from p2pfleet.core.errors import ExitCode, P2pfleetError

CHILD = Path(__file__).with_name("lock_child.py")


def holder(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), *words], stdout=subprocess.PIPE, text=True
    )


def test_the_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "data"

    with lock_data_dir(folder) as held:
        assert held == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "VERSION").read_text() == "p2pfleet data folder 1\n"

    with lock_data_dir(folder):
        assert {file.name for file in folder.iterdir()} == {"lock", "VERSION"}


def test_a_second_node_is_refused_until_the_first_one_ends(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "held\n"
            with (
                pytest.raises(P2pfleetError, match=rf"another node \(pid {first.pid}\)") as caught,
                lock_data_dir(tmp_path),
            ):
                pass
            assert "--data-dir" in caught.value.advice
        finally:
            first.kill()
        first.wait()
        with lock_data_dir(tmp_path) as held:
            assert held == tmp_path


def test_a_second_node_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path):
        with (
            pytest.raises(P2pfleetError, match=rf"another node \(pid {os.getpid()}\)"),
            lock_data_dir(tmp_path),
        ):
            pass
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_two_folders_are_two_nodes(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path / "a") as one, lock_data_dir(tmp_path / "b") as two:
        assert one != two


def test_a_failure_inside_lets_go_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="node failed"), lock_data_dir(tmp_path):
        raise RuntimeError("node failed")

    with lock_data_dir(tmp_path) as held:
        assert held == tmp_path


def test_a_process_that_a_node_left_behind_is_named_as_such(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as first:
        assert first.stdout is not None
        left_behind = int(first.stdout.readline())
        try:
            first.kill()
            first.wait()
            with (
                pytest.raises(P2pfleetError, match=rf"earlier node \(pid {first.pid}, ended\)"),
                lock_data_dir(tmp_path),
            ):
                pass
        finally:
            os.kill(left_behind, signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("p2pfleet data folder 2\n", "written by a newer p2pfleet"),
        ("p2pfleet data folder 0\n", "can no longer read"),
        ("p2pfleet data folder \n", "does not say"),
        ("p2pfleet data folder -1\n", "does not say"),
        ("", "does not say"),
        ("\u00ff" * 500, "does not say"),
        ("1", "does not say"),
    ],
)
def test_a_folder_of_another_layout_is_refused_and_left_as_it_is(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "VERSION").write_text(text)

    with pytest.raises(P2pfleetError, match=sentence) as caught, lock_data_dir(tmp_path):
        pass

    assert caught.value.code == ExitCode.DAMAGED
    assert caught.value.advice
    assert (tmp_path / "VERSION").read_text() == text


def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")

    with pytest.raises(P2pfleetError) as caught, lock_data_dir(tmp_path / "data"):
        pass

    assert "--data-dir" in caught.value.advice
