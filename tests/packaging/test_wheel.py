"""What the wheel carries: the package and its data, and nothing else."""

from __future__ import annotations

import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import p2pfleet

pytestmark = pytest.mark.packaging

CHECKOUT = Path(__file__).parents[2]
METADATA = f"p2pfleet-{p2pfleet.__version__}.dist-info"


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _sources(folder: str) -> set[str]:
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_nothing_but_p2pfleet_is_installed(names: set[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"p2pfleet", METADATA}
    for name in names:
        assert "tests" not in name.split("/"), name
        assert "__pycache__" not in name, name
        assert not name.endswith((".pyc", ".so", ".pyd")), name


def test_the_whole_package_is_there(names: set[str]) -> None:
    package = {name for name in names if name.startswith("p2pfleet/")}

    assert {name for name in package if not name.startswith("p2pfleet/_data/")} == {
        name for name in _sources("p2pfleet") if not name.startswith("p2pfleet/_data/")
    }


@pytest.mark.parametrize("folder", ["nodes", "testnet"])
def test_profiles_scenarios_and_jobs_travel_inside(names: set[str], folder: str) -> None:
    carried = {name for name in names if name.startswith(f"p2pfleet/_data/{folder}/")}

    assert carried == {f"p2pfleet/_data/{name}" for name in _sources(folder)}
    assert carried


def test_the_metadata_names_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{METADATA}/METADATA").decode())
        licence = archive.read(f"{METADATA}/licenses/LICENSE")
        commands = archive.read(f"{METADATA}/entry_points.txt").decode()

    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert licence == (CHECKOUT / "LICENSE").read_bytes()
    assert "p2pfleet = p2pfleet.cli.main:main" in commands
