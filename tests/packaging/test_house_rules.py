"""The rules of the house catch who breaks them: each is broken in a copy, and each complains."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package with the settings of its tools."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "p2pfleet", tmp_path / "p2pfleet", ignore=ignore)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def _complaints(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


# Where a module is planted, what it does there, and the contract that forbids it. Some imports
# stand inside a function: a lazy import is an import.
PLANTED = {
    "runtime/planted.py": ("import p2pfleet.adapters.store", "The house"),
    "ports_planted.py": ("", "The house"),
    "core/wire/planted.py": ("import p2pfleet.core.machines", "The core: machines"),
    "core/rules/planted.py": ("import p2pfleet.core.rules.planted_too", "Rules stand alone"),
    "core/rules/planted_too.py": ("", None),
    "adapters/planted.py": ("import p2pfleet.adapters.store", "Adapters do not know each other"),
    "adapters/network/planted.py": (
        "def f() -> None:\n    import p2pfleet.resources",
        "Adapters are told what to do",
    ),
    "core/model/planted.py": ("def f() -> None:\n    import time", "The core is pure"),
    "core/machines/planted.py": ("import random", "The core is pure"),
    "adapters/sandbox/planted.py": ("import nacl.signing", "The sandbox knows neither"),
    "adapters/sandbox/inside/planted.py": ("import p2pfleet.core.model", "What runs inside"),
}


def test_an_import_that_runs_the_wrong_way_breaks_its_contract(copy: Path) -> None:
    for name, (source, _) in PLANTED.items():
        (copy / "p2pfleet" / name).write_text(f'"""Planted."""\n\n{source}\n')

    said = _complaints(copy, "lint-imports", "--no-cache")
    summary, _, details = said.partition("Broken contracts")

    for name, (_, contract) in PLANTED.items():
        if contract is None:
            continue
        module = name.removesuffix(".py").replace("/", ".").removeprefix("core.")
        assert re.search(rf"^{contract}.* BROKEN( \(.*\))?$", summary, re.MULTILINE), contract
        start = details.index(f"\n{contract}")
        assert module in details[start:].split("\n\n\n\n")[0], f"{contract} does not name {name}"


def test_the_core_may_not_open_print_or_ask_for_the_time(copy: Path) -> None:
    source = (
        '"""Planted."""\n\nimport datetime\n\n\ndef broken() -> None:\n'
        '    with open("x") as file:\n'
        "        print(file.read())\n"
        "    datetime.datetime.now(tz=datetime.UTC)\n"
    )
    (copy / "p2pfleet" / "core" / "rules" / "planted.py").write_text(source)
    (copy / "p2pfleet" / "runtime" / "planted.py").write_text(source)
    said = _complaints(
        copy, "ruff", "check", "--no-cache", "--output-format", "concise", "p2pfleet"
    )

    found = set(
        re.findall(r"^p2pfleet/(\w+)/(?:\w+/)?planted\.py:(\d+):\d+: (\w+)", said, re.MULTILINE)
    )

    assert {("core", "7", "PTH123"), ("core", "8", "T201"), ("core", "9", "TID251")} <= found
    assert {rule for layer, _, rule in found if layer == "runtime"} == {"T201"}
