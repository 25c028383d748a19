"""What a sandbox shows of itself becomes its grade, also where the machine allows only a part."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.sandbox.grading import Denial, grade
from p2pfleet.adapters.sandbox.inside import boot
from p2pfleet.adapters.sandbox.probe import Findings, Looked, Tried
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from . import models, ordinary_user
from .guarded import guarded

LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=10_000, output_bytes=8 * 2**20)
REPORTING = str(Path(__file__).parent / "reporting.py")
PREVENTED = (
    "files", "network", "processes", "descriptors", "memory", "kernel", "privileges",
)  # fmt: skip
SHOWN = {*PREVENTED, "second lock"}

BEST = Findings(
    machine="x86_64",
    seccomp=True,
    landlock=7,
    mdwe=True,
    denied=(),
    isolation=(Looked("empty root", True, "sees nothing in /"),),
    escapes=tuple(Tried(f"an attempt on {name}", name, True, "blocked") for name in PREVENTED),
    second_lock=(Tried("reading a folder", "second lock", True, "Permission denied"),),
    numeric_class=bytes(range(32)),
    onnxruntime="1.32.0",
)
UNSHARED = ("unshare", "Operation not permitted")
OPEN_FILES = (Tried("reading a folder", "second lock", False, "it was possible"),)


def changed(**fields: Any) -> Findings:
    return msgspec.structs.replace(BEST, **fields)


def report(
    *circumstances: str, user: bool = False, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What ``reporting.py`` says, as this user or as an ordinary one."""
    arguments = [REPORTING, json.dumps(config or {}), *circumstances]
    command = ordinary_user.command(*arguments) if user else [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def held(said: dict[str, Any]) -> set[str]:
    return {name for name, (is_held, _) in said["properties"].items() if is_held}


# ---- judging -------------------------------------------------------------------------------------


def test_everything_shown_is_grade_a_and_needs_no_advice() -> None:
    told = grade(BEST, Denial())

    assert told.capability.grade == "A"
    assert told.capability.numeric_class == BEST.numeric_class
    assert told.capability.onnxruntime == "1.32.0"
    assert (told.reason, told.advice) == ("", "")
    assert all(shown.held for shown in told.properties)


def test_the_newest_extras_change_nothing_about_the_grade() -> None:
    assert grade(changed(mdwe=False, landlock=1), Denial()).capability.grade == "A"
    assert grade(changed(landlock=0), Denial()).capability.grade == "A"
    assert grade(changed(denied=UNSHARED, mdwe=False), Denial()).capability.grade == "B"


@pytest.mark.parametrize("prevented", PREVENTED)
def test_one_open_way_out_is_no_grade_at_all(prevented: str) -> None:
    open_way = Tried("a way nobody thought of", prevented, False, "it was possible")
    told = grade(changed(escapes=(*BEST.escapes, open_way)), Denial())

    assert told.capability.grade == "none"
    assert "a way nobody thought of: it was possible" in told.reason
    assert {shown.name for shown in told.properties if not shown.held} == {prevented}


@pytest.mark.parametrize("prevented", PREVENTED)
def test_what_was_not_tried_is_not_shown(prevented: str) -> None:
    rest = tuple(tried for tried in BEST.escapes if tried.prevents != prevented)
    told = grade(changed(escapes=rest), Denial())

    assert told.capability.grade == "none"
    assert f"nothing was tried against: {prevented}" in told.reason


def test_namespaces_that_do_not_isolate_are_worse_than_none() -> None:
    leaky = Looked("no network", False, "reaches the loopback network")
    told = grade(changed(isolation=(*BEST.isolation, leaky)), Denial())

    assert told.capability.grade == "none"
    assert "reaches the loopback network" in told.reason
    assert grade(changed(isolation=()), Denial()).capability.grade == "none"


def test_a_single_lock_on_the_files_is_too_weak_for_strangers() -> None:
    single = changed(denied=UNSHARED, landlock=0, second_lock=OPEN_FILES)
    told = grade(single, Denial())

    assert told.capability.grade == "C"
    assert "Landlock" in told.reason
    assert "Landlock" in told.advice


def test_without_a_filter_nothing_is_run_and_the_machine_is_named() -> None:
    missing = changed(seccomp=False, escapes=())
    assert grade(missing, Denial()).capability.grade == "none"
    assert "CONFIG_SECCOMP_FILTER" in grade(missing, Denial()).advice

    foreign = grade(msgspec.structs.replace(missing, machine="riscv64"), Denial())
    assert foreign.capability.grade == "none"
    assert "riscv64" in foreign.reason
    assert "aarch64" in foreign.advice


@pytest.mark.parametrize(
    ("denial", "reason", "advice"),
    [
        (Denial(wanted=False), "configuration", "Switch"),
        (Denial(apparmor=True), "AppArmor", "apparmor_restrict_unprivileged_userns=0"),
        (Denial(sysctl="user.max_user_namespaces=10000"), "forbids", "sudo sysctl user.max_user"),
        (Denial(container=True), "container", "seccomp profile"),
        (Denial(), "denies", "Allow unprivileged"),
    ],
)
def test_the_owner_hears_why_there_are_no_namespaces_and_what_to_do(
    denial: Denial, reason: str, advice: str
) -> None:
    told = grade(changed(denied=("setgroups", "Permission denied")), denial)

    assert told.capability.grade == "B"
    assert reason in told.reason
    assert advice in told.advice
    assert denial.wanted == ("setgroups: Permission denied" in told.reason)
    for sentence in (told.reason, told.advice):
        assert sentence.endswith(".")


# ---- real machines -------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [False, True], ids=["as this user", "as an ordinary user"])
def test_on_this_machine_everything_is_shown(user: bool) -> None:
    said = report(user=user)

    assert said["grade"] == "A", said
    assert SHOWN | {"namespaces", "numeric class"} <= held(said)
    assert said["outcome"] == said["again"] == "right"
    if user:
        assert said["uid"] != 0


@pytest.mark.parametrize("user", [False, True], ids=["as this user", "as an ordinary user"])
def test_without_namespaces_everything_else_is_shown(user: bool) -> None:
    said = report(user=user, config={"user_namespaces": False})

    assert said["grade"] == "B"
    assert held(said) >= SHOWN
    assert "namespaces" not in held(said)
    assert said["outcome"] == said["again"] == "right"
    assert "configuration" in said["reason"]


PARTIAL: dict[str, tuple[list[str], str, str]] = {
    "unshare": (["deny:unshare=EPERM"], "B", "unshare: Operation not permitted"),
    "mount": (["deny:mount=EACCES"], "B", "mount: Permission denied"),
    "pivot_root": (["deny:pivot_root=EINVAL"], "B", "pivot_root: Invalid argument"),
    "sethostname": (["deny:sethostname=EPERM"], "A", ""),
    "setgroups": (["nested", "read-only-proc"], "B", "setgroups: Read-only file system"),
    "too many": (["nested", "no-namespaces-left"], "B", "unshare: No space left on device"),
    "nested": (["nested"], "A", ""),
    "no landlock": (["deny:landlock_create_ruleset=ENOSYS"], "A", ""),
    "one lock": (["deny:landlock_create_ruleset=ENOSYS", "deny:unshare=EPERM"], "C", "Landlock"),
    "no filter": (["seccomp"], "none", "seccomp"),
}


@pytest.mark.parametrize("case", PARTIAL)
def test_a_machine_that_allows_only_a_part_is_graded_by_what_is_left(case: str) -> None:
    circumstances, expected, word = PARTIAL[case]
    said = report(*circumstances, user=case in ("mount", "one lock"))

    assert said["grade"] == expected, said
    assert word in said["reason"]
    if expected == "none":
        assert said["outcome"].startswith("crash: nothing is run here: ")
        assert said["server"] is None
    else:
        assert said["outcome"] == said["again"] == "right"
    if case == "too many":
        assert "sudo sysctl user.max_user_namespaces" in said["advice"]


# ---- a sandbox with a hole -----------------------------------------------------------------------

HOLES: dict[str, tuple[str, str, str, str]] = {
    "a call too many": ("seccomp.py", '"munmap", "brk",', '"munmap", "brk", "keyctl",', "keyrings"),
    "no filter": ("lockdown.py", "        _filter()\n", "", "it was possible"),
    "no lock-down": (
        "lockdown.py", "        _filter()\n", '        raise OSError(1, "no")\n', "not locked down",
    ),
    "a child that dies": (
        "lockdown.py", "        _filter()\n", "        os.abort()\n", "ended by SIGABRT",
    ),
}  # fmt: skip


def altered(folder: Path, file: str, old: str, new: str) -> str:
    """A copy of what runs inside, with one change; returns its ``boot.py``."""
    copy = folder / "inside"
    shutil.copytree(Path(boot.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text()
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new))
    return str(copy / "boot.py")


@pytest.mark.parametrize("hole", HOLES)
@guarded()
async def test_a_sandbox_with_a_hole_finds_it_and_runs_nothing(
    hole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, old, new, word = HOLES[hole]
    monkeypatch.setattr(boot, "__file__", altered(tmp_path, file, old, new))
    async with open_sandbox(SandboxConfig(idle=False)) as sandbox:
        told = sandbox.report
        with pytest.raises(ExecutionFault, match=r"^crash: nothing is run here"):
            await sandbox.start(models.doubling(), LIMITS)

    assert told.capability.grade == "none"
    assert word in told.reason
    assert "report this" in told.advice


@guarded()
async def test_a_child_that_cannot_be_locked_down_does_not_touch_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_for_models = "        if terms.model_bytes:\n            raise OSError(1, 'no')\n"
    monkeypatch.setattr(
        boot,
        "__file__",
        altered(
            tmp_path, "lockdown.py", "        _filter()\n", only_for_models + "        _filter()\n"
        ),
    )
    async with open_sandbox(SandboxConfig(idle=False)) as sandbox:
        assert sandbox.report.capability.grade == "A"
        with pytest.raises(ExecutionFault, match=r"^crash: .*could not be locked down"):
            await sandbox.load(models.crashing(), LIMITS)


@guarded()
async def test_a_server_that_dies_in_its_namespaces_is_started_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_earnest = "    if denied is None:\n"
    monkeypatch.setattr(
        boot, "__file__", altered(tmp_path, "server.py", in_earnest, in_earnest + "        1 / 0\n")
    )
    async with open_sandbox(SandboxConfig(idle=False)) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        done = await job.execute(models.bundle(x=np.ones(1, np.float32)))

        assert done.outputs == models.bundle(y=np.full(1, 2, np.float32))
        assert sandbox.report.capability.grade == "B"
        assert "division by zero" in sandbox.report.reason


# ---- the attempts themselves ---------------------------------------------------------------------


@pytest.mark.parametrize("user", [False, True], ids=["as this user", "as an ordinary user"])
def test_what_the_self_test_tries_works_for_everybody_else(user: bool) -> None:
    arguments = ["-c", _UNCONFINED]
    command = ordinary_user.command(*arguments) if user else [sys.executable, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)

    assert len(results) > 20
    assert {name: how for name, how in results if how != "possible"} == {}


_UNCONFINED = """
import json, os, socket
from p2pfleet.adapters.sandbox.inside import escapes
results = []
for attempt in escapes.ATTEMPTS + escapes.SECOND_LOCK:
    if attempt.denied_anyway:
        continue
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.dup2(theirs.fileno(), 0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(1, 3)
        try:
            attempt.run()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 1000).decode()
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    results.append((attempt.name, said or ("possible" if status == 0 else f"status {status}")))
print(json.dumps(results))
"""
