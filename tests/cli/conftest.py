"""A home of its own for every test, and a way to call the command line in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from p2pfleet.cli import folders
from p2pfleet.cli.main import cli
from p2pfleet.core.model.network import NetworkFile
from tests.cli.fake_node import FakeNode, serving

Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default data folder; not made yet."""
    folder = tmp_path / "home"
    monkeypatch.setenv("P2PFLEET_DATA_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(autouse=True)
def quick_default_network(monkeypatch: pytest.MonkeyPatch) -> NetworkFile:
    """The network of those who name none, but for the seconds that its puzzle takes."""
    parameters = msgspec.structs.replace(folders.DEFAULT_NETWORK.parameters, puzzle_bits=4)
    quick = NetworkFile(parameters)
    monkeypatch.setattr("p2pfleet.cli.init.DEFAULT_NETWORK", quick)
    return quick


@pytest.fixture
def invoke(home: Path) -> Invoke:
    """Call p2pfleet with these arguments."""

    def call(*args: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args])

    return call


@pytest.fixture
def node(home: Path) -> Iterator[FakeNode]:
    """A (fake) node that runs in the default data folder."""
    with serving(home) as found:
        yield found


def document(result: Result) -> Any:
    """The one JSON document on standard output."""
    return json.loads(result.stdout)
