"""A child that was taken over says what it likes; the node believes nothing that does not fit.

Here the test itself is the child: the node's end is the real one, the process behind it only a
process to kill.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio

from p2pfleet.adapters.sandbox.arena import Arena
from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.faults import fault_of_exit
from p2pfleet.adapters.sandbox.inside.terms import INLINE_BYTES, MAX_MESSAGE_BYTES
from p2pfleet.adapters.sandbox.job import ChildJob
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from .guarded import guarded
from .models import bundle

encode = msgspec.msgpack.encode
LIMITS = Limits(memory_bytes=2**26, cpu_ms=5_000, output_bytes=2**20)
READY = ["ready", 0, [["x", "float32", [None]]], [["y", "float32", [None]]]]
GOOD = bundle(y=np.ones(3, np.float32))


class ScriptedChild:
    """The far end of a job's channel, played by the test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end = trio.socket.from_stdlib_socket(theirs)
        config = SandboxConfig()
        self.arena = Arena(LIMITS.output_bytes)
        self.inputs_fd, self.outputs_fd = self.arena.for_child()
        self.forgotten: list[ChildJob] = []
        self.job = ChildJob(
            channel=ours,
            pidfd=os.pidfd_open(self.process.pid),
            arena=self.arena,
            terms=config.terms(LIMITS, 0),
            wall_ms=5_000,
            load_wall_ms=1_000,
            exit_of=self.exit_of,
            forget=self.forgotten.append,
        )

    async def exit_of(self) -> tuple[int, int] | None:
        return (os.CLD_KILLED, -self.process.wait())

    async def say(self, message: Any) -> None:
        await self.end.send(message if isinstance(message, bytes) else encode(message))

    async def loaded(self) -> ChildJob:
        await self.say(READY)
        await self.job.load()
        return self.job


@contextmanager
def scripted_child() -> Iterator[ScriptedChild]:
    child = ScriptedChild()
    try:
        yield child
    finally:
        child.job.kill()
        child.end.close()
        child.process.wait()


READY_LIES: dict[str, Any] = {
    "garbage": b"\xc1",
    "a map": {"ready": 0},
    "done instead": ["done", 0, GOOD, 1],
    "another request": ["ready", 1, [], []],
    "a field too many": [*READY, 1],
    "a field too few": READY[:3],
    "an unknown dtype": ["ready", 0, [["x", "complex64", [1]]], []],
    "no name": ["ready", 0, [["", "float32", [1]]], []],
    "a long name": ["ready", 0, [["x" * 257, "float32", [1]]], []],
    "one name twice": ["ready", 0, [["x", "float32", [1]], ["x", "float32", [1]]], []],
    "a negative axis": ["ready", 0, [["x", "float32", [-1]]], []],
    "seventeen axes": ["ready", 0, [["x", "float32", [1] * 17]], []],
    "65 inputs": ["ready", 0, [[f"x{i}", "float32", [1]] for i in range(65)], []],
    "deep nesting": b"\x91" * 5000,
    "a huge list": b"\xdd\xff\xff\xff\xff",
    "too long a message": bytes(MAX_MESSAGE_BYTES + 1),
}


@pytest.mark.parametrize("lie", READY_LIES)
@guarded()
async def test_a_lie_about_the_model_is_a_crash(lie: str) -> None:
    with scripted_child() as child:
        await child.say(READY_LIES[lie])
        with pytest.raises(ExecutionFault, match=r"^crash: the child broke the rules") as caught:
            await child.job.load()

        assert len(caught.value.reason) < 400
        assert child.forgotten == [child.job]
        assert child.process.wait() == -signal.SIGKILL


DONE_LIES: dict[str, Callable[[int], Any]] = {
    "another request": lambda n: ["done", n + 1, GOOD, 1],
    "an earlier request": lambda n: ["done", n - 1, GOOD, 1],
    "ready again": lambda n: ["ready", n, [], []],
    "text for bytes": lambda n: ["done", n, "y", 1],
    "a small size": lambda n: ["done", n, 5, 1],
    "a negative size": lambda n: ["done", n, -5, 1],
    "more than the arena": lambda n: ["done", n, LIMITS.output_bytes + 1, 1],
    "an absurd size": lambda n: ["done", n, 2**63, 1],
    "negative cpu": lambda n: ["done", n, GOOD, -1],
    "not a bundle": lambda n: ["done", n, b"\xff", 1],
    "a trailing byte": lambda n: ["done", n, GOOD + b"\0", 1],
    "another name": lambda n: ["done", n, bundle(z=np.ones(3, np.float32)), 1],
    "another dtype": lambda n: ["done", n, bundle(y=np.ones(3, np.float64)), 1],
    "no output": lambda n: ["done", n, bundle(), 1],
    "zeros in the arena": lambda n: ["done", n, INLINE_BYTES + 1, 1],
    "a fault of another kind": lambda n: ["fault", n, "killed", "it was you"],
    "an endless reason": lambda n: ["fault", n, "model", "x" * 301],
}


@pytest.mark.parametrize("lie", DONE_LIES)
@guarded()
async def test_a_lie_about_a_result_is_a_crash(lie: str) -> None:
    with scripted_child() as child:
        job = await child.loaded()
        await child.say(DONE_LIES[lie](1))
        with pytest.raises(ExecutionFault, match=r"^crash: the child broke the rules"):
            await job.execute(bundle(x=np.ones(3, np.float32)))

        assert child.process.wait() == -signal.SIGKILL


@guarded()
async def test_what_a_child_says_of_a_fault_is_quoted_and_printable() -> None:
    with scripted_child() as child:
        job = await child.loaded()
        await child.say(["fault", 1, "input", "red \x1b[31m\n\u202e alert"])
        with pytest.raises(ExecutionFault) as caught:
            await job.execute(b"")

        assert caught.value.kind == "input"
        assert caught.value.reason == 'the child says: "red  [31m   alert"'


@guarded()
async def test_claimed_cpu_time_is_no_more_than_the_time_that_passed() -> None:
    with scripted_child() as child:
        job = await child.loaded()
        await child.say(["done", 1, GOOD, 2**39])
        execution = await job.execute(b"")

        assert execution.outputs == GOOD
        assert execution.cpu_ms <= execution.wall_ms < 5_000


@guarded()
async def test_a_child_that_hangs_up_but_lives_on_is_killed() -> None:
    with scripted_child() as child:
        job = await child.loaded()
        child.end.close()
        with pytest.raises(ExecutionFault, match=r"^crash: .*SIGKILL"):
            await job.execute(b"")


@guarded()
async def test_large_results_are_copied_before_they_are_checked() -> None:
    with scripted_child() as child:
        job = await child.loaded()
        large = bundle(y=np.ones(2**16, np.float32))
        os.pwrite(child.outputs_fd, large, 0)
        await child.say(["done", 1, len(large), 1])
        outputs = (await job.execute(b"")).outputs
        os.pwrite(child.outputs_fd, bytes(len(large)), 0)

        assert outputs == large


@guarded()
async def test_the_arena_can_neither_shrink_nor_be_grown_nor_its_inputs_written_by_a_child() -> (
    None
):
    with scripted_child() as child:
        await child.arena.write(b"input")

        for size in (0, LIMITS.output_bytes - 1, LIMITS.output_bytes + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(child.outputs_fd, size)
        with pytest.raises(OSError, match=r"Invalid argument|Bad file descriptor"):
            os.ftruncate(child.inputs_fd, 100)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(child.inputs_fd, b"x", 0)
        assert os.pread(child.inputs_fd, 100, 0) == b"input"
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{child.outputs_fd}", os.O_RDWR | os.O_TRUNC)


@pytest.mark.parametrize(
    ("exit_", "kind", "word"),
    [
        ((os.CLD_KILLED, signal.SIGXCPU), "cpu", "7 ms"),
        ((os.CLD_KILLED, signal.SIGPROF), "cpu", "7 ms"),
        ((os.CLD_DUMPED, signal.SIGSEGV), "crash", "SIGSEGV"),
        ((os.CLD_KILLED, signal.SIGRTMIN + 1), "crash", "signal"),
        ((os.CLD_EXITED, 86), "memory", "9 bytes"),
        ((os.CLD_EXITED, 0), "crash", "status 0"),
        (None, "crash", "server"),
    ],
)
def test_the_way_a_child_ended_tells_the_fault(
    exit_: tuple[int, int] | None, kind: str, word: str
) -> None:
    fault = fault_of_exit(exit_, cpu_ms=7, memory_bytes=9)

    assert fault.kind == kind
    assert word in fault.reason


def test_nothing_of_the_node_is_imported_inside(tmp_path: Path) -> None:
    inside = Path(__file__).parents[3] / "p2pfleet/adapters/sandbox/inside"
    code = (
        "import runpy, sys, os\n"
        f"sys.path += {[p for p in sys.path if p.endswith('site-packages')]!r}\n"
        "sys.argv = ['boot.py', '999', 'no,no,no']\n"
        "try:\n"
        f"    runpy.run_path({str(inside / 'boot.py')!r}, run_name='__main__')\n"
        "except OSError:\n"
        "    pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code],
        env={"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    loaded = set(process.stdout.split())

    assert {"numpy", "onnxruntime", "msgpack", "p2pfleet_inside"} <= loaded, process.stderr
    assert loaded.isdisjoint({"p2pfleet", "trio", "msgspec", "libp2p", "nacl", "ssl", "onnx"})
