"""A child process that is reached through two pipes, as every system has them.

Messages as ``inside/alone.py`` describes them; a payload follows its message raw.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import trio

from p2pfleet.adapters.sandbox.inside import alone
from p2pfleet.adapters.sandbox.inside.terms import MAX_MESSAGE_BYTES
from p2pfleet.adapters.sandbox.interpreter import ENVIRONMENT, library_folders
from p2pfleet.adapters.sandbox.replies import BadReply

_CHUNK_BYTES = 2**20


class PipedChild:
    """One process that runs ``inside/alone.py``, and its pipes; :func:`start_child` makes it."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._replies = process.stdout
        self._buffer = bytearray()
        self._handle: psutil.Process | None = None
        # Knows when the process was made, so that a number used again is not mistaken for it.
        with suppress(psutil.Error):
            self._handle = psutil.Process(process.pid)

    @property
    def ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process.returncode is not None

    async def send(self, request: list[Any], payload: bytes) -> None:
        """A child that is gone shows when its answer is awaited, with the reason."""
        data = msgspec.msgpack.encode(request)
        head = len(data).to_bytes(alone.HEAD_BYTES, "big") + data
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._requests.send_all(head)
            if payload:
                await self._requests.send_all(payload)

    async def receive(self) -> bytes:
        """The next message. Raises EOFError, :class:`BadReply`."""
        size = int.from_bytes(await self.receive_exactly(alone.HEAD_BYTES), "big")
        if size > MAX_MESSAGE_BYTES:
            raise BadReply("a message that is too long")
        return await self.receive_exactly(size)

    async def receive_exactly(self, size: int) -> bytes:
        """The next ``size`` bytes. Raises EOFError."""
        while len(self._buffer) < size:
            try:
                data = await self._replies.receive_some(_CHUNK_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise EOFError
            self._buffer += data
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def suspend(self) -> None:
        """Stop it at once."""
        if self._handle is not None:
            with suppress(psutil.Error):
                self._handle.suspend()

    def resume(self) -> None:
        """Let it go on."""
        if self._handle is not None:
            with suppress(psutil.Error):
                self._handle.resume()

    def kill(self) -> None:
        """End it at once; idempotent."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait for its end; how it ended, as Popen tells."""
        return await self._process.wait()

    async def end(self, grace: float = 0) -> int:
        """End it, unless it does so by itself within ``grace`` seconds, and close the pipes."""
        with trio.CancelScope(shield=True):
            with trio.move_on_after(grace):
                await self.wait()
            self.kill()
            status = await self.wait()
            await self.close()
        return status

    async def close(self) -> None:
        """Close the pipes; what it said last and nobody read is lost."""
        await trio.aclose_forcefully(self._requests)
        await trio.aclose_forcefully(self._replies)


async def start_child(log: int = subprocess.DEVNULL) -> PipedChild:
    """A child that waits for its first message; ``log``: where its errors go. Raises OSError."""
    # In a group of its own, since Ctrl-C is the node's business.
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    command = [sys.executable, "-I", "-S", "-B", alone.__file__, *library_folders()]
    with trio.CancelScope(shield=True):  # a child that nobody knows of could not be ended
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            cwd=Path(alone.__file__).parent,
            **options,
        )
    return PipedChild(process)


def _environment() -> dict[str, str]:
    kept = ("SYSTEMROOT", "TEMP", "TMP") if sys.platform == "win32" else ()
    return {name: os.environ[name] for name in kept if name in os.environ} | ENVIRONMENT
