"""What CI runs, and the Makefile on machines that lack something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


def _run(
    folder: Path, *command: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A test suite of our layout with a test that skips itself, which runs as ours does."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(CHECKOUT / "tests" / "conftest.py", tmp_path / "tests")
    for folder in ("e2e", "packaging", "bench", "adapters", "core"):
        (tmp_path / "tests" / folder).mkdir()
        source = f"def test_{folder}():\n    assert True\n"
        (tmp_path / "tests" / folder / f"test_in_{folder}.py").write_text(source)
    source = 'import pytest\n\ndef test_wants():\n    pytest.skip("no mosquitto")\n'
    (tmp_path / "tests" / "core" / "test_skips.py").write_text(source)
    return tmp_path


def test_quick_folders_run_first_and_no_folder_is_left_out(suite: Path) -> None:
    done = _run(
        suite, sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"
    )

    order = [line.split("/")[1] for line in done.stdout.splitlines() if "::" in line]
    assert order == ["core", "core", "adapters", "bench", "packaging", "e2e"]


def test_a_skip_passes_at_a_desk_and_fails_in_ci(suite: Path) -> None:
    desk = _run(suite, sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
    ci = _run(suite, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--forbid-skips")

    assert desk.returncode == 0, desk.stdout
    assert ci.returncode == 1, ci.stdout
    assert "skipped tests are forbidden here" in ci.stdout
    assert "no mosquitto" in ci.stdout


def test_ci_runs_make_test_and_forbids_skips(tmp_path: Path) -> None:
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    shutil.copy(CHECKOUT / ".ci" / "run", script)
    make = tmp_path / "bin" / "make"
    make.parent.mkdir()
    make.write_text('#!/bin/sh\necho "make in $PWD: $*"\nexit 7\n')
    make.chmod(0o755)
    path = f"{make.parent}:{os.environ['PATH']}"

    ci = _run(tmp_path / "bin", "bash", script, CI="true", PATH=path)
    desk = _run(tmp_path / "bin", "bash", script, CI="", PATH=path)

    assert os.access(CHECKOUT / ".ci" / "run", os.X_OK)
    assert ci.stdout.splitlines()[-1] == f"make in {tmp_path}: test ARGS=--forbid-skips"
    assert desk.stdout == f"make in {tmp_path}: test\n"
    assert (ci.returncode, desk.returncode) == (7, 7)


def test_a_machine_without_a_fitting_python_is_told_what_to_install(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    shutil.copy(CHECKOUT / "requirements" / "build.txt", tmp_path / "requirements")

    done = _run(tmp_path, "make", "PYTHON=no-such-python", "setup")

    assert done.returncode != 0
    assert "No Python 3.11, 3.12 or 3.13 with venv was found" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()
