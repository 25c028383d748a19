"""The child: one model, one channel, one unit after the other, and nothing else."""

from __future__ import annotations

import io
import os
import time
from typing import Any, NamedTuple

import msgpack

from .kernel import SharedMapping
from .lockdown import CpuBudget, Locks, lock_down
from .model import Fault, Model
from .terms import INLINE_BYTES, MAX_MESSAGE_BYTES, MAX_REASON_CHARS, OWN_FD, Terms
from .work import count_for

CHANNEL = 0


class Origin(NamedTuple):
    """What a child is told of the server it comes from."""

    server: int
    """Its process id, as the child sees it."""

    null_fd: int
    memory: tuple[int, int]
    """What the server had mapped before the fork (``lockdown.Memory``)."""

    locks: Locks


def keep_only(channel_fd: int, null_fd: int) -> None:
    """The channel and two ends of nothing are all the descriptors that a child has."""
    os.dup2(channel_fd, CHANNEL)
    os.dup2(null_fd, 1)
    os.dup2(null_fd, 2)
    os.closerange(OWN_FD, os.sysconf("SC_OPEN_MAX"))


def live(terms: Terms, origin: Origin, fds: tuple[int, int, int, int]) -> None:
    """The whole life of a child; returns when the node hangs up.

    ``fds``: the channel, the model, the input half and the output half of the arena. Raises
    :class:`LockDownFailed` before the model was touched.
    """
    channel_fd, model_fd, input_fd, output_fd = fds
    model_bytes = SharedMapping(model_fd, terms.model_bytes)
    inputs = SharedMapping(input_fd, terms.input_capacity)
    outputs = SharedMapping(output_fd, terms.output_capacity, writable=True)
    keep_only(channel_fd, origin.null_fd)
    channel = io.FileIO(CHANNEL, closefd=False)
    lock_down(terms, origin.server, origin.memory, origin.locks)

    budget = CpuBudget()
    budget.start(terms.load_cpu_ms)
    try:
        model = Model(lambda: bytes(model_bytes.view), contrib_ops=terms.contrib_ops)
        budget.stop()
        _send(["ready", 0, model.inputs, model.outputs])
    except Fault as fault:
        _send_fault(0, fault)
        return

    message = memoryview(bytearray(MAX_MESSAGE_BYTES + 1))
    while size := channel.readinto(message):
        number, payload, *asked = msgpack.unpackb(message[:size])
        if asked:
            # How much work a unit is: before the first one, while the model's bytes are there.
            budget.start(terms.load_cpu_ms)
            try:
                _send(["counted", number, count_for(model_bytes.view, payload)])
            except Fault as fault:
                _send_fault(number, fault)
                return
            budget.stop()
            continue
        model_bytes.unmap()
        started = time.process_time()
        budget.start(terms.cpu_ms)
        bundle = inputs.view[:payload] if isinstance(payload, int) else memoryview(payload)
        try:
            answer = _answer(model, bundle, outputs.view, terms)
        except Fault as fault:
            _send_fault(number, fault)
        else:
            budget.stop()
            cpu_ms = round((time.process_time() - started) * 1000)
            _send(["done", number, answer, cpu_ms])
        budget.stop()


def _answer(model: Model, bundle: memoryview, arena: memoryview, terms: Terms) -> bytes | int:
    """The output bundle itself, or, if it is large, its size in the arena."""
    result = model.run(bundle, terms.output_bytes)
    if result.size <= INLINE_BYTES:
        small = bytearray(result.size)
        result.write(memoryview(small))
        return bytes(small)
    if result.size > len(arena):
        raise Fault("output", f"the outputs take {result.size} bytes, {len(arena)} fit the arena")
    result.write(arena)
    return result.size


def _send(message: list[Any]) -> None:
    data: bytes = msgpack.packb(message)
    if len(data) > MAX_MESSAGE_BYTES:
        raise Fault("model", "the names of its inputs and outputs are too long to tell")
    os.write(CHANNEL, data)


def _send_fault(number: int, fault: Fault) -> None:
    reason = "".join(char if char.isprintable() else " " for char in fault.reason)
    reason = reason.encode("utf-8", "replace").decode()[:MAX_REASON_CHARS]
    _send(["fault", number, fault.kind, reason])
