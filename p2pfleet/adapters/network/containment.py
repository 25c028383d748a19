"""Keeps the library's failures where they happen.

An exception in one stream handler or background task of py-libp2p 0.8.1 ends the service that runs
it, and with it the process: fifty bytes from a stranger are enough. Here every handler and every
task that the library starts gets a wall around it. What is refused is logged at DEBUG with the
reason and the peer.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection import swarm_connection
from libp2p.transport.tcp import tcp

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.guard.limits import Buckets, TokenBucket
from p2pfleet.adapters.network.guard.places import PEERS_A_PLACE, Budget, Places
from p2pfleet.adapters.network.identity import peer_of
from p2pfleet.core.errors import Reject, Verdict
from p2pfleet.core.model.ids import PeerId, short_peer

logger = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[None]]


def shielded(seconds: float) -> trio.CancelScope:
    """A scope for cleaning up: outer cancellation waits, but not longer than ``seconds``."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def describe(error: BaseException) -> str:
    """One line for a log: the kind of error, and what it says."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error)[:200]}"


def refused(peer_id: Any, reason: str) -> None:
    """Log that something a peer did was refused."""
    peer = None if peer_id is None else peer_of(peer_id)
    logger.debug("refused %s: %s", "a stranger" if peer is None else short_peer(peer), reason)


def tame_library() -> None:
    """Settings of the library that are global to the process. Idempotent.

    Its loggers write to stderr (one of them through the root logger, which installs a handler),
    at ERROR for what any stranger can cause. Its TCP listener sets SO_REUSEPORT, with which two
    nodes on one port both start and share the connections at random instead of the second
    learning that the port is taken. It does not know where an IPv6 connection comes from.
    """
    if not os.environ.get("LIBP2P_DEBUG"):
        for name in ("libp2p", "libp2p.network.auto_connector", "zeroconf"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        logging.getLogger("multiaddr").setLevel(logging.WARNING)
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")
    tcp._set_reuse_flags = _reuse_address_only
    TrioTCPStream.get_remote_address = _remote_address


def _reuse_address_only(sock: Any) -> None:
    sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)


def _remote_address(stream: Any) -> tuple[str, int] | None:
    if stream._cached_remote_address is None:
        try:
            host, port = stream.stream.socket.getpeername()[:2]
        except OSError:
            return None
        stream._cached_remote_address = (str(host), int(port))
    address: tuple[str, int] = stream._cached_remote_address
    return address


def contain_tasks(manager: Any) -> None:
    """Let a failing task of a running service end alone, not take the service with it."""
    start = manager.run_task

    def run_task(
        task: Callable[..., Awaitable[None]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        if _internal or daemon:
            start(task, *args, daemon=daemon, name=name, _internal=_internal)
            return

        async def contained() -> None:
            try:
                await task(*args)
            except Exception as error:
                logger.debug("task %s failed: %s", name or task, describe(error))

        start(contained, name=name or getattr(task, "__qualname__", str(task)))

    manager.run_task = run_task


class Tasks:
    """Own background tasks: one that fails is logged and forgotten. Ignores what comes too late."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._closed = False

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run ``task(*args)`` in the background."""
        if not self._closed:
            self._nursery.start_soon(self._contained, task, args)

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True

    async def _contained(self, task: Callable[..., Awaitable[None]], args: Any) -> None:
        try:
            await task(*args)
        except trio.ClosedResourceError:
            logger.debug("%s outlived the network", task.__qualname__)
        except Exception as error:
            logger.error("%s failed: %s", task.__qualname__, describe(error), exc_info=True)


async def reset_quietly(stream: Any) -> None:
    """Reset a stream within a second, whatever state it is in."""
    with shielded(1.0):
        try:
            await stream.reset()
        except Exception as error:
            logger.debug("reset failed: %s", describe(error))


class StreamGuard:
    """Stands in front of every inbound stream: counts, limits, contains."""

    def __init__(
        self,
        config: NetworkConfig,
        serve: Handler,
        places: Places,
        report: Callable[[PeerId, Verdict], None],
    ) -> None:
        self._config = config
        self._serve = serve
        self._places = places
        self._report = report
        self._open: Counter[bytes] = Counter()
        self._open_at: Counter[str | None] = Counter()
        self._rates = Budget(places, config.streams_per_s, config.streams_per_s * 5)

    async def __call__(self, stream: Any) -> None:
        """Serve one inbound stream. Never raises an ``Exception``."""
        identity = stream.muxed_conn.peer_id
        key = identity.to_bytes()
        if self._open[key] >= self._config.max_streams_per_peer:
            await self._refuse(
                stream, f"more than {self._config.max_streams_per_peer} streams at once"
            )
            return
        place = self._places.of(key)
        if place and self._open_at[place] >= self._config.max_streams_per_peer * PEERS_A_PLACE:
            refused(identity, f"too many streams at once from {place}")
            await reset_quietly(stream)
            return
        if not self._rates[key].take():
            await self._refuse(stream, "opens streams too quickly")
            return
        self._open[key] += 1
        self._open_at[place] += 1
        try:
            await self._serve(stream)
            if stream.get_protocol() is None:
                refused(identity, "a stream of no protocol that is spoken here")
        except Exception as error:
            refused(identity, f"stream {stream.get_protocol()}: {describe(error)}")
            await reset_quietly(stream)
        finally:
            self._open[key] -= 1
            self._open_at[place] -= 1
            if not self._open[key]:
                del self._open[key]
            if not self._open_at[place]:
                del self._open_at[place]

    async def _refuse(self, stream: Any, reason: str) -> None:
        """Nobody who means well gets here: it counts against the peer."""
        identity = stream.muxed_conn.peer_id
        refused(identity, reason)
        peer = peer_of(identity)
        if peer is not None:
            self._report(peer, Reject(reason))
        await reset_quietly(stream)


_HANDLER_BYTES_PER_S = 16 * 1024
_READ_COST_BYTES = 16


class _Slowed:
    """A stream whose reading is slowed down to the rate of a bucket."""

    def __init__(self, stream: Any, bucket: TokenBucket) -> None:
        self._stream = stream
        self._bucket = bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """What the stream reads, perhaps later."""
        data: bytes = await self._stream.read(n)
        pause = self._bucket.owe(max(len(data), _READ_COST_BYTES))
        if pause > 0:
            await trio.sleep(pause)
        return data


class TimedHandler:
    """A library handler that would serve its peer for ever and at any rate, given limits."""

    def __init__(self, protocol: str, serve: Handler, seconds: float, at_once: int) -> None:
        self._protocol = protocol
        self._serve = serve
        self._seconds = seconds
        self._at_once = at_once
        self._open: Counter[bytes] = Counter()
        self._rates = Buckets(_HANDLER_BYTES_PER_S, _HANDLER_BYTES_PER_S * 8)

    async def __call__(self, stream: Any) -> None:
        """Serve one inbound stream within the limits."""
        identity = stream.muxed_conn.peer_id
        key = identity.to_bytes()
        if self._open[key] >= self._at_once:
            refused(identity, f"more than {self._at_once} streams of {self._protocol} at once")
            await reset_quietly(stream)
            return
        self._open[key] += 1
        try:
            with trio.move_on_after(self._seconds) as scope:
                await self._serve(_Slowed(stream, self._rates[key]))
            if scope.cancelled_caught:
                refused(identity, f"stream {self._protocol} took over {self._seconds:.0f} s")
                await reset_quietly(stream)
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
