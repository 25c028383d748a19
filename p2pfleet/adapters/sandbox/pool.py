"""All children of a node, and the fork server they come from: the port ``Sandbox``."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from p2pfleet.adapters.sandbox.arena import Arena, sealed_model
from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.fork_server import (
    ForkFailed,
    ForkServer,
    Namespaces,
    ServerGone,
    Start,
)
from p2pfleet.adapters.sandbox.grading import Denial, grade
from p2pfleet.adapters.sandbox.inside.terms import Terms
from p2pfleet.adapters.sandbox.job import ChildJob
from p2pfleet.adapters.sandbox.probe import Findings
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault, SandboxReport

logger = logging.getLogger(__name__)

_STARTS = 5
_STARTS_WITHIN_SECONDS = 60
_FORK_ATTEMPTS = 2


@asynccontextmanager
async def open_sandbox(config: SandboxConfig | None = None) -> AsyncIterator[SandboxPool]:
    """A sandbox whose fork server is warm; on leaving, every child and the server are gone.

    It has tried to break out of itself, and tells in its ``report`` how strong it is; if it does
    not hold (grade none) it is open all the same, but starts no child. Raises
    :class:`P2pfleetError` if there can be no sandbox on this machine.
    """
    if not sys.platform.startswith("linux"):
        raise P2pfleetError(
            "Strangers' models can only be run on Linux.",
            "Run this node as a publisher, or volunteer from a Linux machine.",
        )
    pool = SandboxPool(config or SandboxConfig())
    try:
        try:
            await pool.open()
        except ServerGone as error:
            raise P2pfleetError(
                f"The sandbox does not start: {error}.",
                "Check that numpy, msgpack and onnxruntime are installed beside p2pfleet.",
            ) from error
        yield pool
    finally:
        await pool.aclose()


class SandboxPool:
    """Starts children and keeps count of them. Use it through :func:`open_sandbox`."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._server: ForkServer | None = None
        self._starting = trio.Lock()
        self._starts: deque[float] = deque(maxlen=_STARTS)
        self._jobs: set[ChildJob] = set()
        self._closed = False
        self._namespaces: Namespaces = "probe" if config.user_namespaces else "no"
        self._report: SandboxReport | None = None

    @property
    def report(self) -> SandboxReport:
        """What it showed of itself when it was opened; see the port."""
        assert self._report is not None, "open_sandbox opens it first"
        return self._report

    @property
    def server_pid(self) -> int | None:
        """The process id of the fork server, while it runs."""
        return self._server.pid if self._server is not None and self._server.alive else None

    @property
    def children(self) -> int:
        """How many children are alive, as far as is known."""
        return len(self._jobs)

    async def load(self, model: bytes, limits: Limits) -> ChildJob:
        """Start a child and load the model there; see the port."""
        job = await self.start(model, limits)
        await job.load()
        return job

    async def start(self, model: bytes, limits: Limits) -> ChildJob:
        """A child that holds the model, unread; see the port."""
        if self.report.capability.grade == "none":
            raise ExecutionFault("crash", f"nothing is run here: {self.report.reason}")
        terms = self._config.terms(limits, len(model))
        try:
            model_fd = await sealed_model(model)
        except OSError as error:
            raise ExecutionFault("crash", f"this machine has no room for it: {error}") from error
        try:
            return await self._start(terms, model_fd)
        finally:
            os.close(model_fd)

    async def open(self) -> None:
        """Start the first server, which finds out what holds. Raises :class:`ServerGone`.

        Later ones are locked down in the same way without asking again.
        """
        findings = await self._first_findings()
        self._namespaces = "yes" if findings.namespaces else "no"
        self._report = grade(findings, Denial.on_this_machine(self._config.user_namespaces))
        capability = self._report.capability
        if capability.grade == "none":
            logger.error("the sandbox does not hold: %s", self._report.reason)
            await self.aclose()
        else:
            logger.info("the sandbox holds: grade %s. %s", capability.grade, self._report.reason)

    async def _first_findings(self) -> Findings:
        try:
            return (await self.warm()).findings
        except ServerGone as error:
            if self._namespaces == "no":
                raise
            # Allowed in the throw-away fork, perhaps, and yet the server did not survive it.
            logger.warning("the sandbox does not start in namespaces (%s); without them", error)
            self._namespaces = "no"
            findings = (await self.warm()).findings
            return msgspec.structs.replace(findings, denied=("start", str(error)[:300]))

    async def warm(self) -> ForkServer:
        """The running fork server, started anew if there is none. Raises :class:`ServerGone`."""
        async with self._starting:
            if self._closed:
                raise ServerGone("the sandbox is closed")
            if self._server is not None:
                if self._server.alive:
                    return self._server
                logger.warning("the sandbox's server has ended; starting another")
                await self._server.aclose()
                self._server = None
            now = trio.current_time()
            if len(self._starts) == _STARTS and now - self._starts[0] < _STARTS_WITHIN_SECONDS:
                raise ServerGone(
                    f"it ended {_STARTS} times within {_STARTS_WITHIN_SECONDS} seconds; "
                    "the next attempt has to wait"
                )
            self._starts.append(now)
            self._server = await ForkServer.start(
                Start(
                    namespaces=self._namespaces,
                    self_test=self._report is None,
                    idle=self._config.idle,
                    wall_ms=self._config.start_wall_ms,
                )
            )
            return self._server

    async def aclose(self) -> None:
        """End every child and the server; returns when they are gone. Idempotent."""
        self._closed = True
        for job in list(self._jobs):
            job.kill()
        with trio.CancelScope(shield=True):
            async with self._starting:
                if self._server is not None:
                    await self._server.aclose()
                    self._server = None

    async def _start(self, terms: Terms, model_fd: int) -> ChildJob:
        reason = ""
        for _ in range(_FORK_ATTEMPTS):
            try:
                server = await self.warm()
            except ServerGone as error:
                reason = str(error)
                break
            try:
                return await self._fork(server, terms, model_fd)
            except ServerGone as error:
                # It may be about to end: only once it is gone can another take its place.
                await server.aclose()
                reason = str(error)
            except (ForkFailed, OSError) as error:
                raise ExecutionFault("crash", f"this machine gives no child: {error}") from error
        raise ExecutionFault("crash", f"the sandbox does not start: {reason}")

    async def _fork(self, server: ForkServer, terms: Terms, model_fd: int) -> ChildJob:
        arena = Arena(terms.output_capacity)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                fds = [theirs.fileno(), model_fd, *arena.for_child()]
                number, pidfd = await server.fork(terms, fds)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        except BaseException:
            arena.close()
            raise
        job = ChildJob(
            channel=ours,
            pidfd=pidfd,
            arena=arena,
            terms=terms,
            wall_ms=self._config.wall_ms(terms.cpu_ms),
            load_wall_ms=self._config.load_wall_ms,
            exit_of=lambda: server.exit_of(number),
            forget=self._jobs.discard,
        )
        self._jobs.add(job)
        return job
