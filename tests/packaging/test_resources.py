"""resource_path: where the data lies, and that a name from the command line leads nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfleet import resources
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.resources import resource_path

CHECKOUT = Path(__file__).parents[2]


def test_a_checkout_reads_its_own_folders() -> None:
    assert resource_path("nodes") == CHECKOUT / "nodes"
    assert resource_path("testnet", "jobs") == CHECKOUT / "testnet" / "jobs"


def test_an_installed_wheel_reads_what_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "_data" / "nodes" / "vehicle" / "node.toml"
    profile.parent.mkdir(parents=True)
    profile.touch()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)

    assert resource_path("nodes", "vehicle", "node.toml") == profile


def test_what_is_missing_is_named_together_with_what_is_there() -> None:
    with pytest.raises(P2pfleetError) as caught:
        resource_path("testnet", "jobs", "no-such-job")

    assert "testnet/jobs/no-such-job" in caught.value.message
    assert "digits" in caught.value.advice


def test_an_installation_without_data_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "p2pfleet")

    with pytest.raises(P2pfleetError) as caught:
        resource_path("nodes")

    assert "missing" in caught.value.message
    assert "Install p2pfleet again" in caught.value.advice


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("",),
        ("p2pfleet",),
        ("pyproject.toml",),
        ("testnet", ".."),
        ("testnet", "..", "p2pfleet"),
        ("testnet", "../p2pfleet"),
        ("testnet", "/etc/passwd"),
        ("testnet", "a\\..\\b"),
        ("testnet", "c:"),
        ("testnet", "x\0y"),
        ("testnet", "."),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(P2pfleetError, match="does not name data of p2pfleet"):
        resource_path(*parts)
