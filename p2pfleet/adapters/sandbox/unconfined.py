"""The executor for systems without the Linux sandbox: ordinary child processes, not confined.

For a publisher's own models, and nothing else: what runs here can read this user's files and reach
the network, should a model break out of onnxruntime. What it does keep: one process a job, so that
a crash hits no other; the same admission rules and session options; a wall limit everywhere, a CPU
limit on any Unix, a memory limit on Linux; replies are taken for hostile until they fit.

Made of what every system has (pipes, processes). Tested on Linux only: on macOS and Windows it has
never run.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import IO, Annotated, Any

import msgspec
import trio
from msgspec import Meta

from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.inside.terms import (
    EXIT_MEMORY,
    Terms,
)
from p2pfleet.adapters.sandbox.piped_child import PipedChild, start_child
from p2pfleet.adapters.sandbox.replies import (
    BadReply,
    Counted,
    Done,
    Fault,
    Ready,
    check_outputs,
    loaded,
    parse_reply,
    shapes_of,
)
from p2pfleet.adapters.sandbox.stopwatch import Stopwatch
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.capability import Capability, Grade, RuntimeVersion
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import (
    Execution,
    ExecutionFault,
    ModelSignature,
    SandboxProperty,
    SandboxReport,
)

_GRACE_SECONDS = 1
_SURVIVED = ("input", "output")
_LINUX = sys.platform.startswith("linux")


class Probed(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="probed"
):
    """What a child found out about this machine."""

    request: Annotated[int, Meta(ge=0, le=0)]
    numeric_class: Annotated[bytes, Meta(min_length=32, max_length=32)]
    onnxruntime: RuntimeVersion


@asynccontextmanager
async def open_unconfined(
    config: SandboxConfig | None = None,
) -> AsyncIterator[UnconfinedSandbox]:
    """An executor that confines nothing; on leaving, every child is gone.

    Raises :class:`P2pfleetError` if onnxruntime cannot be run in a process of its own.
    """
    config = config or SandboxConfig()
    probed = await _probe(config.start_wall_ms)
    sandbox = UnconfinedSandbox(config, _report(probed))
    try:
        yield sandbox
    finally:
        await sandbox.aclose()


class UnconfinedSandbox:
    """Starts children and keeps count of them. Use it through :func:`open_unconfined`."""

    def __init__(self, config: SandboxConfig, report: SandboxReport) -> None:
        self._config = config
        self._report = report
        self._jobs: set[UnconfinedJob] = set()
        self._closing = trio.Event()

    @property
    def report(self) -> SandboxReport:
        """What it is worth: see the port."""
        return self._report

    @property
    def children(self) -> int:
        """How many children are alive, as far as is known."""
        return len(self._jobs)

    async def load(self, model: bytes, limits: Limits) -> UnconfinedJob:
        """Start a child and load the model there; see the port."""
        job = await self.start(model, limits)
        await job.load()
        return job

    async def start(self, model: bytes, limits: Limits) -> UnconfinedJob:
        """A child that will be given the model; see the port."""
        terms = self._config.terms(limits, len(model))
        if self._closing.is_set():
            raise ExecutionFault("killed", "the executor is closed")
        try:
            child = await start_child()
        except OSError as error:
            raise ExecutionFault("crash", f"this machine gives no child: {error}") from error
        job = UnconfinedJob(
            child, model, terms, self._config.wall_ms(terms.cpu_ms),
            self._config.load_wall_ms,
        )  # fmt: skip
        self._jobs.add(job)
        # A system task, because children are collected also while nobody waits for them.
        trio.lowlevel.spawn_system_task(self._collect, job)
        if self._closing.is_set():
            job.kill()
        return job

    async def aclose(self) -> None:
        """End every child; returns when they are gone. Idempotent."""
        self._closing.set()
        with trio.CancelScope(shield=True):
            for job in list(self._jobs):
                job.kill()
                await job.end()

    async def _collect(self, job: UnconfinedJob) -> None:
        await job.collected()
        self._jobs.discard(job)


class UnconfinedJob:
    """One child process with one model: the port ``SandboxJob``."""

    def __init__(
        self, child: PipedChild, model: bytes, terms: Terms, wall_ms: int, load_wall_ms: int
    ) -> None:
        self._child = child
        self._model = model
        self._terms = terms
        self._wall_ms = wall_ms
        self._load_wall_ms = load_wall_ms
        self._signature = ModelSignature((), ())
        self._stopwatch = Stopwatch()
        self._request = 0
        self._ran = False
        self._turn = trio.Lock()
        self._killed = False

    @property
    def signature(self) -> ModelSignature:
        """The model's inputs and outputs, as the child read them."""
        return self._signature

    async def load(self) -> None:
        """Hand the model over and wait until it is loaded. Raises :class:`ExecutionFault`."""
        with self._occupied():
            model, self._model = self._model, b""
            try:
                reply, _ = await self._ask(
                    ["job", list(self._terms), len(model)], model, self._load_wall_ms,
                    self._terms.load_cpu_ms,
                )  # fmt: skip
                try:
                    self._signature = loaded(reply)
                except BadReply as error:
                    raise _misbehaved(str(error)) from error
            except BaseException:
                await self._child.end()
                raise

    async def count(self, inputs: bytes) -> int:
        """How many operations a unit takes; see the port."""
        assert not self._ran, "the child has forgotten the model's bytes"
        shapes = msgspec.msgpack.encode(shapes_of(inputs))
        with self._occupied():
            try:
                self._request += 1
                reply, _ = await self._ask(
                    [self._request, "count", len(shapes)], shapes, self._load_wall_ms,
                    self._terms.load_cpu_ms,
                )  # fmt: skip
                if not isinstance(reply, Counted):
                    raise _misbehaved("an answer to something else")
                return reply.work
            except BaseException:
                await self._child.end()
                raise

    async def execute(self, inputs: bytes) -> Execution:
        """Run one unit; see the port."""
        with self._occupied():
            try:
                return await self._execute(inputs)
            except ExecutionFault as fault:
                if fault.kind not in _SURVIVED:
                    await self._child.end()
                raise
            except BaseException:
                await self._child.end()
                raise

    def freeze(self) -> None:
        """Stop the child at once; its wall limit stands still as well."""
        self._child.suspend()
        self._stopwatch.pause()

    def thaw(self) -> None:
        """Let it go on."""
        self._stopwatch.resume()
        self._child.resume()

    def kill(self) -> None:
        """End the child at once; a unit that is running raises ``killed``. Idempotent."""
        self._killed = True
        self._child.kill()

    async def collected(self) -> None:
        """Wait for the child's end, and until its last words are read; close its pipes."""
        await self._child.wait()
        async with self._turn:
            await self._child.close()

    async def end(self) -> None:
        """End the child and close its pipes, whoever may be reading."""
        await self._child.end()

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        if self._killed or self._child.ended:
            raise ExecutionFault("killed", "the child of this job has ended already")
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            raise AssertionError("a SandboxJob serves one task at a time") from None
        try:
            yield
        finally:
            self._turn.release()

    async def _execute(self, inputs: bytes) -> Execution:
        if len(inputs) > self._terms.input_capacity:
            raise ExecutionFault(
                "memory",
                f"the input of {len(inputs)} bytes is larger than the memory limit of "
                f"{self._terms.memory_bytes}",
            )
        self._ran = True
        self._request += 1
        reply, outputs = await self._ask(
            [self._request, len(inputs)], inputs, self._wall_ms, self._terms.cpu_ms
        )
        wall_ms = math.ceil(self._stopwatch.elapsed() * 1000)
        if not isinstance(reply, Done):
            raise _misbehaved("an answer to something else")
        # Where the system has no timer of CPU time, the unit is held to its limit afterwards.
        if reply.cpu_ms > self._terms.cpu_ms:
            raise _too_slow(self._terms.cpu_ms)
        try:
            check_outputs(outputs, self._signature)
        except BadReply as error:
            raise _misbehaved(str(error)) from error
        return Execution(outputs, min(reply.cpu_ms, wall_ms), wall_ms)

    async def _ask(
        self, request: list[Any], payload: bytes, wall_ms: int, cpu_ms: int
    ) -> tuple[Ready | Done | Counted, bytes]:
        """The child's answer within its limits, and its output; a fault it reports is raised."""
        self._stopwatch.start(wall_ms / 1000)
        with self._stopwatch.scope:
            try:
                await self._child.send(request, payload)
                reply = parse_reply(await self._child.receive(), self._request)
                if isinstance(reply, Fault):
                    raise reply.to_execution_fault()
                return reply, await self._outputs(reply)
            except EOFError:
                raise await self._death(cpu_ms) from None
            except BadReply as error:
                raise _misbehaved(str(error)) from error
        raise ExecutionFault("wall", f"it took longer than {wall_ms} ms on this machine")

    async def _outputs(self, reply: Ready | Done | Counted) -> bytes:
        if not isinstance(reply, Done):
            return b""
        payload = reply.payload
        size = payload if isinstance(payload, int) else len(payload)
        if size > self._terms.output_bytes:
            raise _misbehaved(
                f"an output of {size} bytes where {self._terms.output_bytes} are allowed"
            )
        return await self._child.receive_exactly(size) if isinstance(payload, int) else payload

    async def _death(self, cpu_ms: int) -> ExecutionFault:
        """The child hung up: the fault that tells why."""
        status = await self._child.end(_GRACE_SECONDS)
        if self._killed:
            return ExecutionFault("killed", "the child was ended on this node's own order")
        if status == EXIT_MEMORY:
            return ExecutionFault(
                "memory", f"it needs more than {self._terms.memory_bytes} bytes of memory"
            )
        if status < 0 and _signal_name(-status) in ("SIGXCPU", "SIGPROF"):
            return _too_slow(cpu_ms)
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended ({status})"
        return ExecutionFault("crash", f"the child {how}")


async def _probe(wall_ms: int) -> Probed:
    """Run the numeric probe suite in a child."""
    with tempfile.TemporaryFile() as log:
        try:
            child = await start_child(log.fileno())
        except OSError as error:
            raise _does_not_start(str(error)) from error
        reason = f"it was not ready within {wall_ms} ms"
        try:
            with trio.move_on_after(wall_ms / 1000):
                await child.send(["probe", 0], b"")
                return msgspec.msgpack.decode(await child.receive(), type=Probed)
        except (EOFError, BadReply, msgspec.MsgspecError):
            reason = _last_words(log)
        finally:
            await child.end()
    raise _does_not_start(reason)


def _does_not_start(reason: str) -> P2pfleetError:
    return P2pfleetError(
        f"onnxruntime does not run on this machine: {reason}.",
        "Check that numpy, msgpack and onnxruntime are installed beside p2pfleet.",
    )


def _last_words(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - 2000))
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "it ended without a word")


def _report(probed: Probed) -> SandboxReport:
    grade: Grade = "none" if _LINUX else "C"
    return SandboxReport(
        capability=Capability(grade, probed.numeric_class, probed.onnxruntime),
        properties=(
            SandboxProperty("processes", True, "one process a job; a crash hits no other"),
            SandboxProperty("wall limit", True, "kept by the node"),
            SandboxProperty(
                "CPU limit", sys.platform != "win32",
                "a timer of the process" if sys.platform != "win32" else "only told afterwards",
            ),
            SandboxProperty(
                "memory limit", _LINUX, "RLIMIT_DATA" if _LINUX else "this system keeps none"
            ),
            SandboxProperty("no files", False, "a model that breaks out has the user's files"),
            SandboxProperty("no network", False, "a model that breaks out has the network"),
        ),
        reason="Models run in ordinary processes here: nothing but onnxruntime itself keeps them "
        "from this user's files and from the network.",
        advice="Run only your own models; to compute for others, use the sandbox on Linux.",
    )  # fmt: skip


def _misbehaved(reason: str) -> ExecutionFault:
    return ExecutionFault("crash", f"the child broke the rules of its channel: {reason}")


def _too_slow(cpu_ms: int) -> ExecutionFault:
    return ExecutionFault("cpu", f"it needs more than {cpu_ms} ms of CPU time")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
