"""The pins: complete, hashed, free of hosts, and within what pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import p2pfleet

CHECKOUT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
FILES = ("release", "build", "dev")
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Pin:
    """One entry of a requirements file: what is pinned, and how many hashes stand below it."""

    requirement: Requirement
    hashes: int

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        (specifier,) = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version

    def applies(self, python: str) -> bool:
        return _applies(self.requirement, python)


def _applies(requirement: Requirement, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _pins(name: str) -> list[Pin]:
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()
    text = re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    pins = []
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = line.split("--hash=")
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", item) for item in hashes), line
        pins.append(Pin(Requirement(requirement.strip()), len(hashes)))
    assert pins
    return pins


def _group(name: str) -> list[str]:
    found: list[str] = []
    for item in PYPROJECT["dependency-groups"][name]:
        found += _group(item["include-group"]) if isinstance(item, dict) else [item]
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_pin_is_one_version_with_its_hashes(name: str) -> None:
    for pin in _pins(name):
        assert pin.version, pin
        assert pin.hashes > 0, f"{pin.name} has no hash"
        assert pin.requirement.url is None, f"{pin.name} names an address"


@pytest.mark.parametrize("name", FILES)
def test_no_requirements_file_names_a_host_or_an_index(name: str) -> None:
    text = (CHECKOUT / "requirements" / f"{name}.txt").read_text()

    assert "://" not in text
    assert "index" not in text
    assert "find-links" not in text
    assert "trusted-host" not in text


@pytest.mark.parametrize("name", FILES)
def test_every_python_and_system_gets_the_same_version_of_a_package(name: str) -> None:
    names = [pin.name for pin in _pins(name)]

    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("release", PYPROJECT["project"]["dependencies"]),
        ("build", _group("build") + PYPROJECT["build-system"]["requires"]),
        ("dev", PYPROJECT["project"]["dependencies"] + _group("dev")),
        ("release", PYPROJECT["tool"]["uv"]["override-dependencies"]),
    ],
    ids=["release", "build", "dev", "override"],
)
def test_the_pins_are_what_pyproject_allows(name: str, wanted: list[str], python: str) -> None:
    pinned = {pin.name: pin.version for pin in _pins(name) if pin.applies(python)}

    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned: run `make lock`"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement.name} is pinned to {version}, not {requirement.specifier}: "
            "run `make lock`"
        )


@pytest.mark.parametrize("name", ["release", "build"])
def test_developers_run_what_a_release_ships(name: str) -> None:
    for python in PYTHONS:
        developed = {pin.name: pin.version for pin in _pins("dev") if pin.applies(python)}
        for pin in _pins(name):
            if pin.applies(python):
                assert developed.get(pin.name) == pin.version, pin.name


def test_the_package_and_its_metadata_agree_on_the_version() -> None:
    assert PYPROJECT["project"]["version"] == p2pfleet.__version__
