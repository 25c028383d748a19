"""The vectors and their independent checker: it agrees, and it would notice if it did not."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROTOCOL = Path(__file__).parents[2] / "protocol"
VECTORS = PROTOCOL / "vectors"
NAMES = sorted(path.stem for path in VECTORS.glob("*.json"))
# Their cases are numbers and letters; test_every_changed_verdict_is_noticed changes those.
WITHOUT_BYTES = {"decisions", "frames", "rankings", "reputation", "versions"}
TIMEOUT_S = 120

Check = Callable[[str, dict[str, Any]], list[str]]
Place = tuple[str | int, ...]


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return document


@pytest.fixture
def check_file(monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.syspath_prepend(str(PROTOCOL))
    import check_vectors  # type: ignore[import-not-found]

    check: Check = check_vectors.check_file
    return check


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_checker_agrees_with_every_vector() -> None:
    result = run(PROTOCOL / "check_vectors.py")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"checked \d+ vectors in \d+ files: all agree\n", result.stdout)


def test_the_checker_imports_nothing_of_p2pfleet() -> None:
    """Nor msgspec, whose faults it is there to find."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import check_vectors; "
        "sys.exit(any(name.split('.')[0] in ('p2pfleet', 'msgspec') for name in sys.modules))"
    )
    command = [sys.executable, "-c", script, str(PROTOCOL)]
    assert subprocess.run(command, timeout=TIMEOUT_S, check=False).returncode == 0


def test_the_checker_reads_every_file_of_vectors(check_file: Check) -> None:
    import check_vectors

    assert sorted(check_vectors.FILES) == NAMES


def test_a_disagreement_is_told_and_fails(tmp_path: Path) -> None:
    for name in NAMES:
        document = load(name)
        if name == "claims":
            document["cases"][0]["order"].reverse()
        (tmp_path / f"{name}.json").write_text(json.dumps(document), "utf-8")
    result = run(PROTOCOL / "check_vectors.py", str(tmp_path))
    assert result.returncode == 1
    assert "claims: the order of 12 units" in result.stderr
    assert result.stdout.endswith("1 disagreements\n")


def test_missing_vectors_are_told(tmp_path: Path) -> None:
    result = run(PROTOCOL / "check_vectors.py", str(tmp_path))
    assert result.returncode == 2
    assert "cannot be read" in result.stderr


def test_the_vectors_are_what_the_code_gives_today(tmp_path: Path) -> None:
    result = run(VECTORS / "generate.py", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert sorted(path.stem for path in tmp_path.iterdir()) == NAMES
    for name in NAMES:
        fresh = (tmp_path / f"{name}.json").read_bytes()
        assert fresh == (VECTORS / f"{name}.json").read_bytes(), f"{name}.json is out of date"


@pytest.mark.parametrize("name", sorted(set(NAMES) - WITHOUT_BYTES))
def test_every_changed_value_is_noticed(name: str, check_file: Check) -> None:
    document = load(name)
    assert check_file(name, document) == []
    count = 0
    for at, case in enumerate(document["cases"]):
        for place, value in leaves(case):
            changed = mutated(value, count)
            if changed is None or place[0] in ("about", "kind"):
                continue
            count += 1
            broken = copy.deepcopy(case)
            put(broken, place, changed)
            told = check_file(name, {"cases": [broken]})
            assert told, f"{name}, case {at} ({case['about']}): {place} was changed unnoticed"
    # A text that is refused has no bytes to change.
    assert count >= sum("refused" not in case for case in document["cases"])


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*place, key))
    elif isinstance(value, list):
        for index, one in enumerate(value[:64]):
            yield from leaves(one, (*place, index))
    else:
        yield place, value


def mutated(value: Any, turn: int) -> Any:
    """The value with one bit of a hexadecimal byte flipped; ``None`` for anything else."""
    if not isinstance(value, str) or re.fullmatch("([0-9a-f]{2})+", value) is None:
        return None
    data = bytearray.fromhex(value)
    data[(turn * 7919) % len(data)] ^= 1 << turn % 8
    return data.hex()


def put(case: Any, place: Place, value: Any) -> None:
    for step in place[:-1]:
        case = case[step]
    case[place[-1]] = value


@pytest.mark.parametrize(
    ("name", "field", "change"),
    [
        ("decisions", "more", lambda value: value + 1),
        ("decisions", "holds", lambda value: not value),
        ("rankings", "ranking", lambda value: [*value, ["z", [], []]]),
        ("snapshots", "weighs", lambda value: not value),
        ("snapshots", "verdict", lambda value: value + "!"),
        ("sortition", "doublings", lambda value: value + 1),
        ("sortition", "allowance", lambda value: value + 1),
        ("evidence", "fault", lambda value: "" if value else "answers"),
        ("reputation", "served", lambda value: not value),
        ("reputation", "record", lambda value: [value[0] + 1, *value[1:]]),
        ("reputation", "checks", lambda value: value + 1),
        ("jobs", "verdict", lambda value: value + "!"),
        ("records", "verdict", lambda value: value + "!"),
        ("requirements", "verdict", lambda value: value + "!"),
        ("versions", "fits", lambda value: not value),
        ("closed", "verdict", lambda value: value + "!"),
        ("closed", "members", lambda value: value[1:]),
        ("closed", "page", lambda value: value + 1),
        ("swarm_keys", "sent", lambda value: [*value[::-1], "00"]),
        ("claims", "held", lambda value: value + 1),
        ("refused", "rule", lambda value: value + "!"),
        ("frames", "arrivals", lambda value: [*value, ["Z", 9, 0, 1, 1, "ignore known"]]),
        ("identities", "peer_id", lambda value: value[::-1]),
        ("networks", "topic", lambda value: value + "/"),
        ("puzzles", "zero_bits", lambda value: value + 1),
        ("puzzles", "fits", lambda value: not value),
    ],
)
def test_every_changed_verdict_is_noticed(
    name: str, field: str, change: Callable[[Any], Any], check_file: Check
) -> None:
    changed = 0
    for case in load(name)["cases"]:
        if field in case:
            changed += 1
            assert check_file(name, {"cases": [case | {field: change(case[field])}]}), case["about"]
    assert changed
