"""Nodes whose CPUs round differently give one answer under tolerance, and not byte for byte."""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from p2pfleet.core.model.comparison import MAX_ABSOLUTE, MAX_RELATIVE, OutputTolerance, Tolerance
from p2pfleet.core.model.job import Exact
from p2pfleet.core.wire.tensors import decode_bundle
from p2pfleet.runtime.comparison import distance, same_answer
from tests.masked_cpus.handler import CODE, table
from tests.masked_cpus.levels import LEVELS
from tests.masked_cpus.package import UD1, build, cpuid_sites
from tests.masked_cpus.workloads import CHECKOUT, RECORDED, SATURATING, load

Bundles = dict[str, bytes]
DEFAULTS = Tolerance()
PATIENCE_S = 60
# Where the copy can be built; elsewhere the recordings stand for it.
here = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="imitates x86-64 CPUs on Linux on x86-64 only",
)
INTEGERS = ("digits",)
SUITE_SATURATING = "int8 products|u8s8_plain"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Bundles]:
    return {level: load(RECORDED / f"{level}.npz")[1] for level in LEVELS}


def _disagreements(levels: dict[str, Bundles], rule: Exact | Tolerance) -> dict[str, set[str]]:
    """For each pair of levels in both orders, the workloads on which it does not agree."""
    return {
        f"{one} {two}": {
            name
            for name in levels[one]
            if name not in (SATURATING, SUITE_SATURATING)
            and not same_answer(levels[one][name], levels[two][name], rule)
        }
        for one, two in itertools.permutations(levels, 2)
    }


# ---- recorded --------------------------------------------------------------------------------


def test_the_recordings_say_where_they_come_from_and_are_small() -> None:
    classes = set()
    for level in LEVELS:
        provenance, bundles = load(RECORDED / f"{level}.npz")
        assert provenance["level"] == level
        assert provenance["onnxruntime"]
        assert len(bundles) >= 12
        classes.add(provenance["numeric_class"])
    assert len(classes) == len(LEVELS) == 5, "five CPUs, five numeric classes"
    assert sum(path.stat().st_size for path in RECORDED.iterdir()) < 200_000


def test_all_recorded_cpus_agree_on_every_workload_within_the_defaults(
    recorded: dict[str, Bundles],
) -> None:
    found = _disagreements(recorded, DEFAULTS)
    assert len(found) == 20
    assert not any(found.values()), found


def test_exact_comparison_tells_recorded_cpus_apart(recorded: dict[str, Bundles]) -> None:
    found = _disagreements(recorded, Exact())
    assert found["avx512 avx2"] == {"softmax", "attention"}
    assert found["avx sse"] == {"matvec", "depthwise"}
    assert found["avx2 avx"] >= {"matmul", "conv", "softmax", "lstm", "attention", "deep"}
    assert not found["native avx512"], "they differ only where weights of bytes are computed"
    for names in found.values():
        assert not names & set(INTEGERS), "labels are the same to the bit"


def test_the_defaults_leave_room_and_are_no_wider_than_needed(
    recorded: dict[str, Bundles],
) -> None:
    """The worst pair stands at 1.2e-6 of the largest element, where 1e-4 are allowed."""
    worst = 0.0
    for one, two in itertools.permutations(recorded.values(), 2):
        for name in one:
            for a, b in zip(
                decode_bundle(one[name], 2**20), decode_bundle(two[name], 2**20), strict=True
            ):
                if a.dtype == "float32":
                    found = distance(a, b)
                    assert found is not None
                    worst = max(worst, found.diff / found.ref)
    assert 1e-7 < worst < 1e-5


def test_no_tolerance_saves_products_of_bytes_that_overflow(recorded: dict[str, Bundles]) -> None:
    """The one kind of model on which honest CPUs part: it has to be refused, not compared."""
    widest = Tolerance((OutputTolerance("y", MAX_ABSOLUTE, MAX_RELATIVE),))
    answers = {level: bundles[SATURATING] for level, bundles in recorded.items()}
    assert not same_answer(answers["native"], answers["avx2"], widest)
    assert not same_answer(answers["avx2"], answers["sse"], widest)
    assert same_answer(answers["avx512"], answers["avx2"], Exact())
    assert same_answer(answers["native"], answers["sse"], Exact())


# ---- live ------------------------------------------------------------------------------------


def _run(folder: Path | None, *arguments: str | Path) -> str:
    paths = [str(CHECKOUT)] if folder is None else [str(folder), str(CHECKOUT)]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder for PYTHONPATH for each level."""
    folder = tmp_path_factory.mktemp("cpus")
    first = build("native", folder / "native")
    yield {
        level: first if level == "native" else build(level, folder / level, like=first)
        for level in LEVELS
    }
    # It is too large to lie about until pytest clears its old folders.
    for library in folder.glob("*/onnxruntime/capi/*.so"):
        library.unlink()


def _live(packages: dict[str, Path], folder: Path) -> dict[str, tuple[dict[str, Any], Bundles]]:
    def record(level: str) -> tuple[dict[str, Any], Bundles]:
        target = folder / f"{level}.npz"
        _run(packages[level], "-m", "tests.masked_cpus.workloads", "suite", level, target)
        return load(target)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(packages, pool.map(record, packages), strict=True))


@here
def test_processes_on_masked_cpus_agree_with_each_other_and_with_the_recordings(
    packages: dict[str, Path], tmp_path: Path, recorded: dict[str, Bundles]
) -> None:
    live = _live(packages, tmp_path)
    bundles = {level: found for level, (_, found) in live.items()}
    assert len(bundles["native"]) > 60, "the workloads and the probe suite"

    assert not any(_disagreements(bundles, DEFAULTS).values()), _disagreements(bundles, DEFAULTS)
    # Whatever this machine lacks is the same on all levels above it; these two always differ.
    assert len(_disagreements(bundles, Exact())["avx2 avx"]) > 10
    assert len({provenance["numeric_class"] for provenance, _ in live.values()}) >= 3
    for level, one in recorded.items():
        for name, answer in one.items():
            if name != SATURATING:
                assert same_answer(bundles[level][name], answer, DEFAULTS), (level, name)


@here
def test_an_unmasked_copy_computes_the_bytes_of_the_installed_package(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    answers = []
    for name, folder in (("copy", packages["native"]), ("installed", None)):
        target = tmp_path / f"{name}.npz"
        _run(folder, "-m", "tests.masked_cpus.workloads", "suite", "native", target)
        answers.append(load(target)[1])
    assert answers[0] == answers[1]


@here
def test_a_node_on_a_masked_cpu_shows_another_numeric_class_from_inside_its_sandbox(
    packages: dict[str, Path],
) -> None:
    found = {}
    for level in ("native", "avx2", "avx", "sse"):
        said = _run(packages[level], "-P", "-m", "p2pfleet.cli.main", "doctor", "--json")
        found[level] = json.loads(said)["sandbox"]
    assert {one["grade"] for one in found.values()} == {found["native"]["grade"]}
    assert all(one["numeric_class"] for one in found.values())
    assert len({found[level]["numeric_class"] for level in ("avx2", "avx", "sse")}) == 3


@here
def test_a_real_illegal_instruction_still_ends_the_process(packages: dict[str, Path]) -> None:
    crash = "import onnxruntime, os, signal; os.kill(os.getpid(), signal.SIGILL); print('survived')"
    done = subprocess.run(
        [sys.executable, "-c", crash],
        env=os.environ | {"PYTHONPATH": str(packages["avx"])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode < 0
    assert not done.stdout


# ---- the tool --------------------------------------------------------------------------------


def test_only_real_instructions_are_taken_out() -> None:
    cpuid = b"\x0f\xa2"
    real = b"\xb8\x07\x00\x00\x00" + cpuid + b"\x89\xc1\x90\x90"
    call, load_address = (
        b"\xe8" + cpuid + b"\x00\x00\x90",
        b"\x48\x8d\x05\x3e" + cpuid + b"\xff\x90",
    )
    code = real + call + load_address + real
    assert cpuid_sites(code, 0, len(code)) == [5, len(code) - 6]
    assert cpuid_sites(code, len(real), len(code) - len(real)) == []


def test_the_handler_finds_its_table_right_behind_itself() -> None:
    lea = CODE.index(b"\x4c\x8d\x1d")
    assert lea + 7 + int.from_bytes(CODE[lea + 3 : lea + 7], "little") == len(CODE)
    assert b"\x66\x81\x38" + UD1 in CODE
    rows = table(LEVELS["avx2"])
    assert len(rows) % 24 == 0
    assert rows[-24:] == b"\xff" * 24
    assert table(()) == b"\xff" * 24
