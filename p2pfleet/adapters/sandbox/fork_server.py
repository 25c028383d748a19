"""The node's end of the fork server: start it, order children from it, end it."""

from __future__ import annotations

import array
import errno
import importlib.util
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
from typing import Any

import msgspec
import trio

from p2pfleet.adapters.sandbox.arena import memory_file
from p2pfleet.adapters.sandbox.inside import boot
from p2pfleet.adapters.sandbox.inside.terms import Terms

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Recent onnxruntime wheels start threads and send telemetry unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
}
_LIBRARIES = ("numpy", "msgpack", "onnxruntime")
_ORDER_SECONDS = 10
_END_SECONDS = 3
_MAX_ANSWER_BYTES = 4096


class ServerGone(Exception):
    """The fork server does not run (any more); the reason says what is known."""


class ForkFailed(Exception):
    """The kernel gave no child; the reason is its own."""


class ForkServer:
    """One warm process. Make it with :meth:`start`; end it with :meth:`aclose`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, log: int) -> None:
        self._process = process
        self._control = trio.socket.from_stdlib_socket(control)
        self._log = log
        self._pidfd = os.pidfd_open(process.pid)
        self._turn = trio.Lock()
        self._last_order = 0
        self._last_child = 0
        self._closed = False

    @classmethod
    async def start(cls, wall_ms: int) -> ForkServer:
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
                    str(theirs.fileno()), *_library_folders(),
                ],
                cwd=home,
                env=_ENVIRONMENT,
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
            with trio.move_on_after(wall_ms / 1000):
                hello, _ = await server._receive()
                if hello == [0, "ready"]:
                    return server
            raise ServerGone(f"it was not ready within {wall_ms} ms")
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
        """For tests and diagnosis; signals go through the pidfd."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        if self._closed:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
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
                await trio.lowlevel.wait_readable(self._pidfd)
            if waiting.cancelled_caught:
                logger.warning("the sandbox's server does not end by itself; killing it")
                self._kill()
                await trio.lowlevel.wait_readable(self._pidfd)
        self._process.wait()  # it is a zombie already: this only collects it
        os.close(self._pidfd)
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

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

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


def _library_folders() -> list[str]:
    """Where the server finds its libraries, without importing them here."""
    folders = []
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise OSError(errno.ENOENT, f"{name} is not installed")
        folder = str(Path(spec.origin).parent.parent)
        if folder not in folders:
            folders.append(folder)
    return folders
