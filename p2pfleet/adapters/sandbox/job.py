"""One child, seen from the node: the port ``SandboxJob``."""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import trio

from p2pfleet.adapters.sandbox.arena import Arena
from p2pfleet.adapters.sandbox.faults import fault_of_exit
from p2pfleet.adapters.sandbox.inside.terms import INLINE_BYTES, MAX_MESSAGE_BYTES, Terms
from p2pfleet.adapters.sandbox.replies import (
    BadReply,
    Counted,
    Done,
    Fault,
    Ready,
    Reply,
    check_outputs,
    loaded,
    parse_reply,
    shapes_of,
)
from p2pfleet.adapters.sandbox.stopwatch import Stopwatch
from p2pfleet.ports import Execution, ExecutionFault, ModelSignature

_GRACE_SECONDS = 1
_END_SECONDS = 5
_SURVIVED = ("input", "output")

# One for all children: it is read out before anything else can happen.
_message = memoryview(bytearray(MAX_MESSAGE_BYTES))

ExitOf = Callable[[], Awaitable[tuple[int, int] | None]]


class ChildJob:
    """One child process with one model. Owns its channel, its pidfd and its arena."""

    def __init__(
        self,
        channel: socket.socket,
        pidfd: int,
        arena: Arena,
        terms: Terms,
        wall_ms: int,
        load_wall_ms: int,
        exit_of: ExitOf,
        forget: Callable[[ChildJob], None],
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._pidfd = pidfd
        self._arena = arena
        self._terms = terms
        self._wall_ms = wall_ms
        self._load_wall_ms = load_wall_ms
        self._exit_of = exit_of
        self._forget = forget
        self._signature = ModelSignature((), ())
        self._stopwatch = Stopwatch()
        self._request = 0
        self._ran = False
        self._busy = False
        self._killed = False
        self._released = False

    @property
    def signature(self) -> ModelSignature:
        """The model's inputs and outputs, as the child read them."""
        return self._signature

    async def load(self) -> None:
        """Wait until the child has loaded its model. Raises :class:`ExecutionFault`."""
        with self._occupied():
            try:
                reply = await self._answer(self._load_wall_ms, self._terms.load_cpu_ms)
                try:
                    self._signature = loaded(reply)
                except BadReply as error:
                    raise await self._misbehaved(str(error)) from error
            except BaseException:
                await self._end()
                raise

    async def count(self, inputs: bytes) -> int:
        """How many operations a unit takes; see the port."""
        assert not self._ran, "the child has forgotten the model's bytes"
        with self._occupied():
            try:
                self._request += 1
                await self._send(
                    msgspec.msgpack.encode([self._request, shapes_of(inputs), "count"])
                )
                reply = await self._answer(self._load_wall_ms, self._terms.load_cpu_ms)
                if not isinstance(reply, Counted):
                    raise await self._misbehaved("an answer to something else")
                return reply.work
            except BaseException:
                await self._end()
                raise

    async def execute(self, inputs: bytes) -> Execution:
        """Run one unit; see the port."""
        with self._occupied():
            try:
                return await self._execute(inputs)
            except ExecutionFault as fault:
                if fault.kind not in _SURVIVED:
                    await self._end()
                raise
            except BaseException:
                await self._end()
                raise

    def freeze(self) -> None:
        """Stop the child at once; its wall limit stands still as well."""
        if not self._released:
            self._signal(signal.SIGSTOP)
            self._stopwatch.pause()

    def thaw(self) -> None:
        """Let it go on."""
        if not self._released:
            self._stopwatch.resume()
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the child at once; a unit that is running raises ``killed``. Idempotent."""
        if self._released:
            return
        self._killed = True
        self._signal(signal.SIGKILL)
        # A task that waits for the child sees it end, and releases what it may be using.
        if not self._busy:
            self._release()

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        """The job belongs to one call; nobody else may have it, and it must not be over."""
        assert not self._busy, "a SandboxJob serves one task at a time"
        if self._released:
            raise ExecutionFault("killed", "the child of this job has ended already")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._killed:
                self._release()

    async def _execute(self, inputs: bytes) -> Execution:
        if len(inputs) > self._terms.input_capacity:
            raise ExecutionFault(
                "memory",
                f"the input of {len(inputs)} bytes is larger than the memory limit of "
                f"{self._terms.memory_bytes}",
            )
        self._ran = True
        self._request += 1
        payload: bytes | int = inputs
        if len(inputs) > INLINE_BYTES:
            payload = len(inputs)
            try:
                await self._arena.write(inputs)
            except OSError as error:
                raise ExecutionFault(
                    "crash", f"this machine has no memory for the input: {error}"
                ) from error
        await self._send(msgspec.msgpack.encode([self._request, payload]))
        reply = await self._answer(self._wall_ms, self._terms.cpu_ms)
        wall_ms = math.ceil(self._stopwatch.elapsed() * 1000)
        if not isinstance(reply, Done):
            raise await self._misbehaved("an answer to something else")
        outputs = await self._outputs(reply.payload)
        return Execution(outputs, min(reply.cpu_ms, wall_ms), wall_ms)

    async def _answer(self, wall_ms: int, cpu_ms: int) -> Ready | Done | Counted:
        """The child's next message, within its limits; a fault it reports is raised."""
        self._stopwatch.start(wall_ms / 1000)
        with self._stopwatch.scope as scope:
            data, flags = await self._receive()
        if scope.cancelled_caught:
            await self._end()
            raise ExecutionFault("wall", f"it took longer than {wall_ms} ms on this machine")
        if not data:
            raise await self._death(cpu_ms)
        if flags & socket.MSG_TRUNC:
            raise await self._misbehaved("a message that is too long")
        try:
            reply: Reply = parse_reply(data, self._request)
        except BadReply as error:
            raise await self._misbehaved(str(error)) from error
        if isinstance(reply, Fault):
            raise reply.to_execution_fault()
        return reply

    async def _send(self, request: bytes) -> None:
        """A child that is gone shows when the answer is awaited, with the reason."""
        with suppress(OSError):
            try:
                # Nearly always there is room; trio's own socket would go through its loop first.
                self._channel.send(request)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._channel)
                self._channel.send(request)

    async def _receive(self) -> tuple[bytes, int]:
        """The child's next message and its flags; nothing if it hung up."""
        try:
            await trio.lowlevel.wait_readable(self._channel)
            size, _, flags, _ = self._channel.recvmsg_into([_message])
        except OSError:
            return b"", 0
        return bytes(_message[:size]), flags

    async def _outputs(self, payload: bytes | int) -> bytes:
        limit = self._terms.output_bytes
        if isinstance(payload, int):
            limit = min(limit, self._terms.output_capacity)
        size = payload if isinstance(payload, int) else len(payload)
        if size > limit:
            raise await self._misbehaved(f"an output of {size} bytes where {limit} are allowed")
        # A copy first: the child could change the arena between a check and its use.
        bundle = await self._arena.read(size) if isinstance(payload, int) else payload
        try:
            check_outputs(bundle, self._signature)
        except BadReply as error:
            raise await self._misbehaved(str(error)) from error
        return bundle

    async def _death(self, cpu_ms: int) -> ExecutionFault:
        """The child hung up: the fault that tells why."""
        exit_ = await self._end(_GRACE_SECONDS)
        if self._killed:
            return ExecutionFault("killed", "the child was ended on this node's own order")
        return fault_of_exit(exit_, cpu_ms, self._terms.memory_bytes)

    async def _misbehaved(self, reason: str) -> ExecutionFault:
        await self._end()
        return ExecutionFault("crash", f"the child broke the rules of its channel: {reason}")

    async def _end(self, grace: float = 0) -> tuple[int, int] | None:
        """End the child, unless it does so by itself within ``grace`` seconds; release everything.

        Returns how it ended, if that is known.
        """
        if self._released:
            return None
        exit_ = None
        with trio.CancelScope(shield=True):
            with trio.move_on_after(grace):
                await trio.lowlevel.wait_readable(self._pidfd)
            self._signal(signal.SIGKILL)
            with trio.move_on_after(_END_SECONDS):
                await trio.lowlevel.wait_readable(self._pidfd)
                exit_ = await self._exit_of()
        self._release()
        return exit_

    def _release(self) -> None:
        if self._released:
            return
        self._released = True
        self._channel.close()
        self._arena.close()
        os.close(self._pidfd)
        self._forget(self)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
