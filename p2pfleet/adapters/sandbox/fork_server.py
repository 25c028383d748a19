"""The node's end of the fork server: start it, order children from it, end it."""

from __future__ import annotations

import array
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio

from p2pfleet.adapters.sandbox.arena import memory_file
from p2pfleet.adapters.sandbox.inside import boot
from p2pfleet.adapters.sandbox.inside.terms import Terms
from p2pfleet.adapters.sandbox.interpreter import ENVIRONMENT, library_folders
from p2pfleet.adapters.sandbox.probe import Findings

logger = logging.getLogger(__name__)

_ORDER_SECONDS = 10
_END_SECONDS = 3
_MAX_ANSWER_BYTES = 32 * 1024


class ServerGone(Exception):
    """The fork server does not run (any more); the reason says what is known."""


class ForkFailed(Exception):
    """The kernel gave no child; the reason is its own."""


Namespaces = Literal["yes", "no", "probe"]
"""Whether a server uses namespaces of its own; ``probe``: if this machine allows it."""


class Start(msgspec.Struct, frozen=True):
    """How to start a server; see ``inside.server.Setting``."""

    namespaces: Namespaces
    self_test: bool
    idle: bool
    wall_ms: int

    def setting(self) -> str:
        """As an argument of ``inside/boot.py``."""
        words = ("no", "yes")
        return f"{self.namespaces},{words[self.self_test]},{words[self.idle]}"


class ForkServer:
    """One warm process. Make it with :meth:`start`; end it with :meth:`aclose`.

    With namespaces there are two: the one that was started waits for the server, which is the first
    process of its own namespace. Each of them ends with the other; kills go to the server, because
    the kernel lets it go only when all its children have gone.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: int) -> None:
        self._process = process
        self._control = trio.socket.from_stdlib_socket(control)
        self._log = log
        self._pidfd = os.pidfd_open(process.pid)
        self._server_pidfd: int | None = None
        self._findings: Findings | None = None
        self._turn = trio.Lock()
        self._last_order = 0
        self._last_child = 0
        self._closed = False

    @classmethod
    async def start(cls, how: Start) -> ForkServer:
        """A server that is warm and obeys. Raises :class:`ServerGone` if it does not become so."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = memory_file("p2pfleet-server-log")
        home = tempfile.mkdtemp(prefix="p2pfleet-sandbox-")
        try:
            os.chmod(home, 0o500)
            # In this thread, and quick: the server is to die with the thread that started it, and
            # one of trio's worker threads would not live as long as the node.
            process = subprocess.Popen(  # noqa: ASYNC220
                [
                    sys.executable, "-I", "-S", "-B", boot.__file__,
                    str(theirs.fileno()), how.setting(), *library_folders(),
                ],
                cwd=home,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        except BaseException as error:
            ours.close()
            os.close(log)
            os.rmdir(home)
            if isinstance(error, OSError):
                raise ServerGone(f"{sys.executable} does not start: {error}") from error
            raise
        finally:
            theirs.close()
        server = cls(process, ours, log)
        try:
            with trio.move_on_after(how.wall_ms / 1000):
                server._meet(*await server._receive(), how)
                return server
            raise ServerGone(f"it was not ready within {how.wall_ms} ms")
        except BaseException:
            server._kill()  # still busy with its imports, it would not notice a closed channel
            await server.aclose()
            raise
        finally:
            # The server removes its folder itself; this is for a server that did not get there.
            with suppress(OSError):
                os.rmdir(home)

    @property
    def pid(self) -> int:
        """The process that forks, for tests and diagnosis; signals go through its pidfd."""
        if self._server_pidfd is not None:
            with suppress(OSError):
                for line in Path(f"/proc/self/fdinfo/{self._server_pidfd}").read_text().split("\n"):
                    name, _, value = line.partition(":")
                    if name == "Pid":
                        return int(value)
        return self._process.pid

    @property
    def findings(self) -> Findings:
        """What its self-test showed; only of a server that was started with one."""
        assert self._findings is not None
        return self._findings

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        if self._closed or self._server_pidfd is None:
            return False
        poll = select.poll()
        poll.register(self._server_pidfd, select.POLLIN)
        return not poll.poll(0)

    async def fork(self, terms: Terms, fds: list[int]) -> tuple[int, int]:
        """A new child that holds ``fds``; returns its number and its pidfd.

        Raises :class:`ServerGone`, :class:`ForkFailed`.
        """
        self._last_child += 1
        child = self._last_child
        answer, answer_fds = await self._order(["fork", child, list(terms)], fds)
        match answer:
            case ["forked"] if len(answer_fds) == 1:
                return child, answer_fds[0]
            case ["failed", str(reason)]:
                raise ForkFailed(reason)
        raise ServerGone(f"it answered {answer!r}")

    async def exit_of(self, child: int) -> tuple[int, int] | None:
        """How a child ended, as ``waitid`` puts it (si_code, si_status); ``None`` if unknown."""
        try:
            answer, _ = await self._order(["exit", child], [])
        except ServerGone:
            return None
        match answer:
            case ["exit", int(code), int(status)]:
                return code, status
        return None

    async def aclose(self) -> None:
        """End the server, and with it every child; returns when they are gone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._control.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_END_SECONDS) as waiting:
                await self._ended()
            if waiting.cancelled_caught:
                logger.warning("the sandbox's server does not end by itself; killing it")
                self._kill()
                await self._ended()
        self._process.wait()  # it is a zombie already: this only collects it
        os.close(self._pidfd)
        if self._server_pidfd is not None:
            os.close(self._server_pidfd)
        os.close(self._log)

    async def _order(self, order: list[Any], fds: list[int]) -> tuple[list[Any], list[int]]:
        """Send one order and wait for its answer.

        Never cancelled half-way, because a child whose pidfd got lost could not be killed; the
        server answers within milliseconds or is broken.
        """
        with trio.CancelScope(shield=True):
            async with self._turn:
                if self._closed:
                    raise ServerGone("it was closed")
                self._last_order += 1
                with trio.move_on_after(_ORDER_SECONDS):
                    await self._send([self._last_order, *order], fds)
                    answer, answer_fds = await self._receive()
                    if answer and answer[0] == self._last_order:
                        return answer[1:], answer_fds
                    for fd in answer_fds:
                        os.close(fd)
                if not self._closed:
                    self._kill()
        raise ServerGone("it did not answer, and was killed")

    async def _ended(self) -> None:
        # The server first: should the other have been killed alone, it is the one that lags.
        if self._server_pidfd is not None:
            await trio.lowlevel.wait_readable(self._server_pidfd)
        await trio.lowlevel.wait_readable(self._pidfd)

    def _kill(self) -> None:
        pidfd = self._pidfd if self._server_pidfd is None else self._server_pidfd
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _meet(self, hello: list[Any], fds: list[int], how: Start) -> None:
        """Take the server's word that it is ready, and its pidfd."""
        match hello:
            case [0, "ready", dict(findings)] if len(fds) == 1:
                self._server_pidfd = fds[0]
            case _:
                for fd in fds:
                    os.close(fd)
                raise ServerGone(f"it introduced itself by {hello!r}"[:300])
        if how.self_test:
            try:
                self._findings = msgspec.convert(findings, Findings)
            except msgspec.ValidationError as error:
                raise ServerGone(f"it told of its self-test what makes no sense: {error}") from None

    async def _send(self, message: list[Any], fds: list[int]) -> None:
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        )
        try:
            await self._control.sendmsg([msgspec.msgpack.encode(message)], rights)
        except (OSError, trio.ClosedResourceError) as error:
            raise ServerGone(self._last_words()) from error

    async def _receive(self) -> tuple[list[Any], list[int]]:
        try:
            data, ancillary, _, _ = await self._control.recvmsg(
                _MAX_ANSWER_BYTES, socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (OSError, trio.ClosedResourceError) as error:
            raise ServerGone(self._last_words()) from error
        fds = array.array("i")
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
        if not data:
            raise ServerGone(self._last_words())
        return msgspec.msgpack.decode(data, type=list[Any]), list(fds)

    def _last_words(self) -> str:
        """The last line of what the server wrote to its standard error."""
        with suppress(OSError):
            size = os.fstat(self._log).st_size
            lines = (
                os.pread(self._log, 2000, max(0, size - 2000)).decode(errors="replace").split("\n")
            )
            said = [line.strip() for line in lines if line.strip()]
            if said:
                return said[-1][:300]
        return "it ended without a word"
