"""yamux with bounds: on what a peer may make us buffer, and on how long it may be silent.

The library counts the receive window but does not enforce it (a peer can fill the memory), blocks
for ever when it closes a connection whose peer has stopped reading, and measures round trips
without drawing a conclusion. The multiplexer's own 12-byte pings here replace the library's
health monitor, which opens and negotiates a stream for each (2.5 % of a core for eight peers).

They are the heartbeat as well. Whatever arrives is a sign of life, so that a connection in use
carries no pings; a peer that is watched is asked after ``beat_s`` of silence and is gone after
``silence_s``, any other is asked after ``ping_every_s``.
"""

from __future__ import annotations

import logging
import random
import struct
from typing import Any

import trio
from libp2p.stream_muxer.yamux import yamux

from p2pfleet.adapters.network.config import NetworkConfig
from p2pfleet.adapters.network.containment import describe, refused, shielded
from p2pfleet.adapters.network.guard.holding import Holding
from p2pfleet.adapters.network.guard.limits import TokenBucket

logger = logging.getLogger(__name__)

PROTOCOL = yamux.PROTOCOL_ID
MAX_WINDOW_BYTES = 2 * 2**20
MAX_DATA_FRAME_BYTES = 2**20
_CLOSE_S = 5.0
_ANSWERS_PER_S = 500.0
_LATE_S = 1.0
_ACKNOWLEDGEMENT = yamux.FLAG_ACK.to_bytes(2, "big")


class OverBudget(trio.TooSlowError):
    """A peer sent more than it may. Derived from what the library's reader takes as the end."""


def bounded_yamux(config: NetworkConfig, holding: Holding) -> Any:
    """A yamux class with the bounds of ``config``; what it buffers is on the account."""
    # Windows grow up to this module constant; 2 MiB keep 100 MB/s flowing at 20 ms.
    yamux.MAX_WINDOW_SIZE = MAX_WINDOW_BYTES

    class BoundedYamux(yamux.Yamux):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._answered = TokenBucket(_ANSWERS_PER_S, _ANSWERS_PER_S * 5)
            self.heard = trio.current_time()
            self.watched = False
            self._waiting: trio.CancelScope | None = None
            self._read = self.secured_conn.read
            self.secured_conn.read = self._hear

        async def _hear(self, *args: Any) -> bytes:
            data: bytes = await self._read(*args)
            self.heard = trio.current_time()
            return data

        async def start(self) -> None:
            key = self.peer_id.to_bytes()
            holding.watch(key, self, self._buffered)
            try:
                await super().start()
            except Exception as error:
                refused(self.peer_id, f"connection: {describe(error)}")
            finally:
                holding.forget(key, self)
                if not self.event_closed.is_set():
                    await self._cleanup_on_error()

        def _buffered(self) -> int:
            return sum(map(len, self.stream_buffers.values()))

        async def _write_frame(self, data: bytes) -> None:
            # Only frames of the peer (pings, new streams) are acknowledged, by the task that reads
            # from it: sleeping here slows down a peer that sends nothing else.
            if data[2:4] == _ACKNOWLEDGEMENT:
                pause = self._answered.owe(1)
                if pause > 0:
                    await trio.sleep(pause)
            await super()._write_frame(data)

        async def _read_data_body(self, length: int) -> bytes:
            if length > MAX_DATA_FRAME_BYTES:
                refused(self.peer_id, f"data frame of {length} bytes")
                raise OverBudget
            if not holding.admits(self.peer_id.to_bytes(), length):
                refused(self.peer_id, f"{self._buffered()} bytes sent ahead of what was read")
                raise OverBudget
            return bytes(await super()._read_data_body(length))

        def watch(self, closely: bool) -> None:
            """Whether the peer's silence is to be noticed within ``silence_s``."""
            hurry = closely and not self.watched
            self.watched = closely
            if hurry and self._waiting is not None:
                within = trio.current_time() + config.silence_s - config.beat_s
                self._waiting.deadline = min(self._waiting.deadline, within)

        @property
        def _every_s(self) -> float:
            return config.beat_s if self.watched else config.ping_every_s

        async def _measure_rtt_loop(self) -> None:
            while not self.event_shutting_down.is_set():
                rest = self._every_s * random.uniform(0.9, 1.1)  # noqa: S311
                with trio.move_on_at(max(self.heard + rest, trio.current_time())) as self._waiting:
                    await self.event_shutting_down.wait()
                if trio.current_time() - self.heard >= 0.8 * self._every_s:
                    await self.probe()

        async def _answers(self, within_s: float | None) -> bool:
            asked = trio.current_time()
            patience = config.ping_timeout_s if within_s is None else within_s
            if self.watched and within_s is None:
                patience = max(1.0, self.heard + config.silence_s - asked)
            try:
                with trio.move_on_after(patience) as self._waiting:
                    await self._ping()
                    return True
                # Late itself (this machine slept, or the process stood still): once more.
                if trio.current_time() - self._waiting.deadline > _LATE_S:
                    await trio.sleep(_LATE_S)
            except Exception as error:
                logger.debug("ping failed: %s", describe(error))
                return False
            return bool(self.heard > asked)

        async def _ping(self) -> None:
            self._ping_id: int = (self._ping_id + 1) % 2**32
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            await self._write_frame(
                struct.pack(
                    yamux.YAMUX_HEADER_FORMAT,
                    0,
                    yamux.TYPE_PING,
                    yamux.FLAG_SYN,
                    0,
                    self._ping_id,
                )
            )
            await self._ping_event.wait()

        async def _cleanup_on_error(self) -> None:
            # Closing the socket ends the reader, which cancels every task of the connection: also
            # one that is just closing it.
            with shielded(_CLOSE_S):
                await super()._cleanup_on_error()

        async def probe(self, within_s: float | None = None) -> None:
            """Close the connection unless the peer answers now."""
            if not self.event_shutting_down.is_set() and not await self._answers(within_s):
                logger.debug("closing a connection whose peer is silent")
                await self._cleanup_on_error()

        async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
            if not self.event_shutting_down.is_set():
                farewell = struct.pack(
                    yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_GO_AWAY, 0, 0, error_code
                )
                with trio.move_on_after(0.2):
                    try:
                        await self._write_frame(farewell)
                    except Exception as error:
                        logger.debug("no farewell: %s", describe(error))
            if not self.event_closed.is_set():
                await self._cleanup_on_error()

    return BoundedYamux


def use_own_muxer(swarm: Any) -> None:
    """Make the swarm use the yamux class it was given; for yamux it takes the library's own."""
    muxers = swarm.upgrader.muxer_multistream

    async def new_conn(secured: Any, peer_id: Any) -> Any:
        protocol, kind = await muxers._selector.select(
            secured, secured.is_initiator, muxers.negotiate_timeout
        )
        return muxers._annotate_connection(kind(secured, peer_id), secured, protocol)

    muxers.new_conn = new_conn
