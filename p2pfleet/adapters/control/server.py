"""The node's side of the control socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfleet.adapters.control.place import MAX_LINE_BYTES, SOCKET_NAME, socket_path
from p2pfleet.core.errors import ExitCode, P2pfleetError

log = logging.getLogger(__name__)

Method = Callable[[Mapping[str, Any]], Awaitable[Any]]
CLIENTS_MAX = 32


@asynccontextmanager
async def serve_control(data_dir: Path, methods: Mapping[str, Method]) -> AsyncIterator[None]:
    """Answer on the socket in ``data_dir`` while the block runs; the caller holds its lock."""
    place = data_dir / SOCKET_NAME
    with suppress(FileNotFoundError):
        place.unlink()
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        with socket_path(data_dir) as path:
            before = os.umask(0o177)
            try:
                await listener.bind(path)
            finally:
                os.umask(before)
        listener.listen(16)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_accept, listener, methods, nursery)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with suppress(FileNotFoundError):
                place.unlink()


async def _accept(
    listener: trio.socket.SocketType, methods: Mapping[str, Method], nursery: trio.Nursery
) -> None:
    limiter = trio.CapacityLimiter(CLIENTS_MAX)
    while True:
        connection, _ = await listener.accept()
        nursery.start_soon(_serve, trio.SocketStream(connection), methods, limiter)


async def _serve(
    stream: trio.SocketStream, methods: Mapping[str, Method], limiter: trio.CapacityLimiter
) -> None:
    buffer = bytearray()
    async with stream, limiter:
        try:
            while True:
                data = await stream.receive_some(65536)
                if not data:
                    return
                buffer += data
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end])
                    del buffer[: end + 1]
                    await stream.send_all(await _answer(line, methods) + b"\n")
                if len(buffer) > MAX_LINE_BYTES:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def _answer(line: bytes, methods: Mapping[str, Method]) -> bytes:
    try:
        request = msgspec.json.decode(line)
        method = methods.get(request["method"])
        params = request.get("params", {})
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return _error(P2pfleetError("That is not a request.", "See protocol/README.md."))
    if method is None or not isinstance(params, dict):
        return _error(
            P2pfleetError(
                "The node does not know this request.",
                "Command line and node may be of different versions: restart the node.",
                ExitCode.USAGE,
            )
        )
    try:
        return msgspec.json.encode({"result": await method(params)})
    except P2pfleetError as error:
        return _error(error)
    except Exception:
        log.exception("the request %s failed", request["method"])
        return _error(
            P2pfleetError("The node made a mistake.", "Its log has the details; please report it.")
        )


def _error(error: P2pfleetError) -> bytes:
    return msgspec.json.encode(
        {"error": {"message": error.message, "advice": error.advice, "code": int(error.code)}}
    )
