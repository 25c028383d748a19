"""What a child has given up before it sees a model, as the kernel tells it; and who dies with whom.

What arbitrary code in a child can no longer do is shown by ``test_escapes``.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.sandbox.faults import fault_of_exit
from p2pfleet.adapters.sandbox.inside import landlock
from p2pfleet.adapters.sandbox.inside.terms import EXIT_UNLOCKED
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from . import models
from .guarded import children_of, ended, guarded, until
from .models import bundle

LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=10_000, output_bytes=8 * 2**20)
EAGER = SandboxConfig(idle=False)
ONE = bundle(x=np.ones(1, np.float32))
TWO = bundle(y=np.full(1, 2, np.float32))
NAMESPACES = ("user", "net", "pid", "mnt", "ipc", "uts", "cgroup")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespaces_of(pid: int) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def mounts_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/mountinfo").read_text().splitlines()


# ---- what is given up ----------------------------------------------------------------------------


@pytest.mark.parametrize("namespaces", [True, False])
@guarded()
async def test_a_child_has_no_privilege_one_filter_and_the_lowest_priority(
    namespaces: bool,
) -> None:
    async with open_sandbox(SandboxConfig(user_namespaces=namespaces)) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        status = status_of(child.pid)

        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        if namespaces or os.geteuid() == 0:
            assert int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Threads"] == "1"
        assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
        assert child.nice() == 19
        assert (await job.execute(ONE)).outputs == TWO


@guarded()
async def test_the_server_is_without_privileges_as_well() -> None:
    async with open_sandbox(EAGER) as sandbox:
        server = sandbox.server_pid
        assert server is not None
        status = status_of(server)
        outer = psutil.Process(server).parent()
        assert outer is not None

        for held in (status, status_of(outer.pid)):
            assert {int(held[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert os.sched_getscheduler(server) == os.SCHED_OTHER


@guarded()
async def test_server_and_children_live_in_namespaces_of_their_own_with_an_empty_root() -> None:
    async with open_sandbox(EAGER) as sandbox:
        await sandbox.load(models.doubling(), LIMITS)
        await sandbox.load(models.doubling(), LIMITS)
        server = sandbox.server_pid
        assert server is not None
        pids = [server]
        if os.geteuid() == 0:  # nobody else may look at the children, so little do they show
            pids += [child.pid for child in children_of(server)]
        ours = namespaces_of(os.getpid())
        theirs = [namespaces_of(pid) for pid in pids]
        roots = [os.listdir(f"/proc/{pid}/root") for pid in pids]
        mounts = mounts_of(server)

    assert all(found == theirs[0] for found in theirs)
    assert all(theirs[0][name] != ours[name] for name in NAMESPACES)
    assert all(found == [] for found in roots)
    assert len(mounts) == 1
    assert " - tmpfs " in mounts[0]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounts[0].split()[5].split(","))


@guarded()
async def test_without_namespaces_the_server_is_the_process_that_was_started() -> None:
    async with open_sandbox(SandboxConfig(idle=False, user_namespaces=False)) as sandbox:
        await sandbox.load(models.doubling(), LIMITS)

        assert [child.pid for child in psutil.Process().children()] == [sandbox.server_pid]
        assert len(children_of(sandbox.server_pid)) == 1


def test_landlock_asks_for_all_that_each_version_knows_and_no_more() -> None:
    sizes = [len(landlock.ruleset(version)) for version in range(1, 9)]
    rights = [int.from_bytes(landlock.ruleset(version)[:8], "little") for version in range(1, 9)]

    assert sizes == [8, 8, 8, 16, 16, 24, 24, 24]
    assert [value.bit_length() for value in rights] == [13, 14, 15, 15, 16, 16, 16, 16]
    assert all(value + 1 == 1 << value.bit_length() for value in rights)
    assert int.from_bytes(landlock.ruleset(6)[8:16], "little") == 0b11
    assert int.from_bytes(landlock.ruleset(6)[16:24], "little") == 0b11


# ---- who dies with whom --------------------------------------------------------------------------


def all_below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("victim", ["outer", "server"])
@guarded()
async def test_whichever_of_the_two_server_processes_is_killed_the_other_goes_with_it(
    victim: str,
) -> None:
    async with open_sandbox(EAGER) as sandbox:
        await sandbox.load(models.doubling(), LIMITS)
        everything = all_below()
        server = psutil.Process(sandbox.server_pid)
        outer = server.parent()
        assert outer is not None
        assert len(everything) == 3
        (outer if victim == "outer" else server).kill()
        killed = time.monotonic()
        await until(lambda: all(ended(process) for process in everything))
        assert time.monotonic() - killed < 2

        job = await sandbox.load(models.doubling(), LIMITS)
        assert (await job.execute(ONE)).outputs == TWO
        assert sandbox.report.capability.grade == "A"
        restarted = psutil.Process(sandbox.server_pid).cmdline()
        assert "yes,no,no" in restarted, "in namespaces, without another self-test"


def test_when_the_node_is_killed_while_the_sandbox_tests_itself_nothing_is_left() -> None:
    node = subprocess.Popen([sys.executable, "-c", _STARTING], stdout=subprocess.PIPE)
    pidfds = {}
    try:
        deadline = time.monotonic() + 20
        while len(pidfds) < 3 and time.monotonic() < deadline:
            for process in psutil.Process(node.pid).children(recursive=True):
                with suppress(ProcessLookupError):
                    if process.pid not in pidfds:
                        pidfds[process.pid] = os.pidfd_open(process.pid)
        assert len(pidfds) >= 3, "the processes of the self-test did not come up"
        node.kill()
        deadline = time.monotonic() + 2
        alive = [
            pid
            for pid, pidfd in pidfds.items()
            if not select.select([pidfd], [], [], max(0, deadline - time.monotonic()))[0]
        ]
        assert alive == []
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()


_STARTING = """
import trio
from p2pfleet.adapters.sandbox import open_sandbox

async def main():
    while True:
        async with open_sandbox():
            pass

trio.run(main)
"""


# ---- how it ends under the filter ----------------------------------------------------------------


@guarded()
async def test_a_child_ended_by_the_filter_says_so() -> None:
    async with open_sandbox(EAGER) as sandbox:
        job = await sandbox.load(models.doubling(), LIMITS)
        (child,) = children_of(sandbox.server_pid)
        child.send_signal(signal.SIGSYS)
        with pytest.raises(ExecutionFault, match=r"^crash: .*forbidden system call.*seccomp"):
            await job.execute(ONE)


def test_a_child_that_was_never_locked_down_is_told_apart() -> None:
    fault = fault_of_exit((os.CLD_EXITED, EXIT_UNLOCKED), cpu_ms=1, memory_bytes=1)

    assert fault.kind == "crash"
    assert "could not be locked down" in fault.reason


ENDINGS: dict[str, tuple[str, int]] = {
    "nothing": ("pass", 0),
    "abort": ("os.abort()", -signal.SIGABRT),
    "a wild address": ("ctypes.string_at(16, 1)", -signal.SIGSEGV),
    "no memory": ("bytes(2**30)", 86),
    "much memory in use": ("assert len(bytes(2**27)) == 2**27", 0),
    "a buffer that grows": (
        "buffer = bytearray()\nfor _ in range(200): buffer += bytes(2**19)", 0,
    ),
    "a refused thread": ("threading.Thread(target=print).start()", 87),
    "a refused file": ("open('/etc/passwd')", 88),
    "a module that is not there": ("import turtle", 89),
    "a refused process": ("os.fork()", 88),
    "writing to nowhere": ("print('x', file=sys.stderr, flush=True)", 0),
    "the clocks": ("time.time(), time.monotonic(), time.process_time(), time.thread_time()", 0),
    "cpu time": (
        "budget = lockdown.CpuBudget(); budget.start(50)\nwhile True: pass", -signal.SIGPROF,
    ),
    "a wider cpu budget": (
        "budget = lockdown.CpuBudget(); budget.start(50); budget.start(5000); budget.stop()", 0,
    ),
    "more of a resource": ("resource.setrlimit(resource.RLIMIT_DATA, (0, 0))", 88),
    "a signal to itself": ("os.kill(os.getpid(), 0)", -signal.SIGSYS),
    "a system call too many": ("os.getppid()", -signal.SIGSYS),
    "randomness": ("os.getrandom(8)", 88),
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
def test_libraries_can_cope_with_the_filter_and_the_limits_still_end_a_child(ending: str) -> None:
    code, expected = ENDINGS[ending]
    done = subprocess.run(
        [sys.executable, "-c", _LOCKED, code], capture_output=True, text=True, timeout=20,
        cwd=Path(__file__).parents[3], check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == expected


_LOCKED = """
import ctypes, os, resource, sys, threading, time
from p2pfleet.adapters.sandbox.inside import lockdown
from p2pfleet.adapters.sandbox.inside.terms import Terms

terms = Terms(2**28, 1000, 1000, 0, 0, 0, 0, nice=0, idle=False)
memory = lockdown.Memory().measure()
locks = lockdown.offered()
server = os.getpid()
null = os.open(os.devnull, os.O_RDWR)
pid = os.fork()
if pid == 0:
    status = 99
    try:
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, 1024)
        lockdown.drop_root()
        lockdown.lock_down(terms, server, memory, locks)
        exec(sys.argv[1])
        status = 0
    except MemoryError:
        status = 86
    except RuntimeError:
        status = 87
    except ImportError:
        status = 89
    except (OSError, ValueError):
        status = 88
    finally:
        os._exit(status)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@guarded()
async def test_the_report_tells_every_property_in_a_sentence() -> None:
    async with open_sandbox(EAGER) as sandbox:
        shown = {told.name: told for told in sandbox.report.properties}

    assert re.fullmatch(r"\d+\.\d+\.\d+.*", sandbox.report.capability.onnxruntime)
    assert len(sandbox.report.capability.numeric_class) == 32
    assert shown["processes"].held
    assert re.search(r"\d+ attempts blocked", shown["processes"].detail)
    assert "sees nothing in /" in shown["namespaces"].detail
