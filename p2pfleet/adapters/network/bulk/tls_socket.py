"""One TLS connection, worked by threads with blocking calls, stopped from the event loop.

A thread that decrypts into one buffer, hashes and writes moves several times as many bytes as a
TLS stream in the event loop, and does not hold the loop up. Every call that blocks runs under
:meth:`TlsSocket.run`: cancelled, or out of time, it shuts the connection down beneath the thread,
which ends at once.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import TypeVar

import trio

from p2pfleet.adapters.network.streams import PREFIX_BYTES, StreamFailed, TooLong
from p2pfleet.core.wire.names import BLOB_CHUNK_BYTES

T = TypeVar("T")

SLOWEST_S = 60.0
SLOWEST_BYTES_PER_S = 16 * 1024
_SEND_BYTES = 4 * BLOB_CHUNK_BYTES
_BUFFER_BYTES = 1024 * 1024

Sink = Callable[[memoryview], None]
"""Takes the next bytes of a transfer, in a worker thread; they are overwritten afterwards."""


class TlsSocket:
    """Raises :class:`StreamFailed` for whatever goes wrong with the connection."""

    def __init__(
        self, plain: socket.socket, context: ssl.SSLContext, server: bool, stall_s: float
    ) -> None:
        """Take over a connected socket. ``stall_s``: how long a single read or write may wait."""
        try:
            plain.setblocking(True)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tls = context.wrap_socket(
                plain, server_side=server, do_handshake_on_connect=False
            )
            self._tls.settimeout(stall_s)
        except (OSError, ValueError) as error:
            plain.close()
            raise StreamFailed(f"the connection ended: {error}") from error
        self._buffer: bytearray | None = None
        self._working = False
        self._over = False

    # ---- from the event loop -----------------------------------------------------------------

    async def run(
        self, limiter: trio.CapacityLimiter, seconds: float, work: Callable[..., T], *args: object
    ) -> T:
        """``work(*args)`` in a thread. Cancelled or late, it ends with the connection.

        Raises what ``work`` raises, and :class:`StreamFailed` when it is late.
        """
        result: list[T] = []
        failure: list[Exception] = []

        def guarded() -> None:
            try:
                result.append(work(*args))
            except Exception as error:
                failure.append(error)

        async def watch() -> None:
            try:
                await trio.sleep_forever()
            finally:
                if not (result or failure):
                    self.abort()

        with trio.move_on_after(seconds) as time_left:
            async with limiter, trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                self._working = True
                try:
                    await trio.to_thread.run_sync(guarded, limiter=trio.CapacityLimiter(1))
                finally:
                    self._working = False
                    if self._over:
                        self._tls.close()
                nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]
        if result:
            return result[0]
        assert time_left.cancelled_caught
        raise StreamFailed(f"took longer than {seconds:.0f} s")

    async def readable(self) -> None:
        """Wait until there is something to read, or the end."""
        if not self._over and not self._tls.pending():
            await trio.lowlevel.wait_readable(self._tls)

    def quiet(self) -> bool:
        """Whether it stands, and nothing more has come than was read."""
        if self._over or self._tls.pending():
            return False
        return not select.select([self._tls], [], [], 0)[0]

    def abort(self) -> None:
        """End the connection now, whatever a thread does with it. Idempotent."""
        if self._over:
            return
        self._over = True
        if self._working:
            # The plain shutdown: that of ssl would let the thread go on without encryption. The
            # descriptor is closed by who runs the thread.
            try:
                socket.socket.shutdown(self._tls, socket.SHUT_RDWR)
            except OSError:
                return
        else:
            trio.lowlevel.notify_closing(self._tls)
            self._tls.close()

    @property
    def over(self) -> bool:
        """Whether it was ended from here."""
        return self._over

    # ---- in a thread -------------------------------------------------------------------------

    def handshake(self) -> bytes | None:
        """Shake hands; the other side's certificate (DER)."""
        try:
            self._tls.do_handshake()
            return self._tls.getpeercert(binary_form=True)
        except (OSError, ValueError) as error:
            raise StreamFailed(f"no TLS: {_said(error)}") from error

    def send(self, data: bytes | memoryview) -> None:
        """Write all of ``data``."""
        try:
            self._tls.sendall(data)
        except (OSError, ValueError) as error:
            raise StreamFailed(f"write failed: {_said(error)}") from error

    def _fill(self, view: memoryview) -> None:
        at = 0
        try:
            while at < len(view):
                count = self._tls.recv_into(view[at:])
                if not count:
                    raise StreamFailed(
                        "stopped sending" if at else "ended the stream instead of answering"
                    )
                at += count
        except (OSError, ValueError) as error:
            raise StreamFailed(f"read failed: {_said(error)}") from error

    def receive_exactly(self, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        data = bytearray(length)
        self._fill(memoryview(data))
        return bytes(data)

    def receive_message(self, limit: int) -> bytes:
        """One message with its length in front. Raises :class:`TooLong` as well."""
        length = int.from_bytes(self.receive_exactly(PREFIX_BYTES), "big")
        if not 0 < length <= limit:
            raise TooLong(f"a message of {length} bytes where at most {limit} are allowed")
        return self.receive_exactly(length)

    def receive_blocks(self, length: int, block: int, sink: Sink) -> None:
        """``length`` bytes in blocks of ``block`` (the last one shorter), each given to ``sink``.

        Gives up on who sends slower than the slowest rate. What came of a broken block is given to
        ``sink`` as well.
        """
        if self._buffer is None or len(self._buffer) < block:
            self._buffer = bytearray(max(block, _BUFFER_BYTES))
        view = memoryview(self._buffer)
        until = time.monotonic() + SLOWEST_S + length / SLOWEST_BYTES_PER_S
        receive = self._tls.recv_into
        while length:
            size = min(block, length)
            at = 0
            try:
                while at < size:
                    count = receive(view[at:size])
                    if not count:
                        raise StreamFailed("stopped sending")
                    at += count
                if time.monotonic() > until:
                    raise StreamFailed("sends too slowly")
            except (OSError, ValueError) as error:
                sink(view[:at])
                raise StreamFailed(f"read failed: {_said(error)}") from error
            except StreamFailed:
                sink(view[:at])
                raise
            sink(view[:size])
            length -= size

    def send_file(self, head: bytes, descriptor: int, position: int, length: int) -> None:
        """``head``, then ``length`` bytes of a file from ``position``."""
        if self._buffer is None:
            self._buffer = bytearray(_SEND_BYTES)
        view = memoryview(self._buffer)[:_SEND_BYTES]
        until = time.monotonic() + SLOWEST_S + length / SLOWEST_BYTES_PER_S
        self.send(head)
        while length:
            size = min(len(view), length)
            if os.preadv(descriptor, [view[:size]], position) != size:
                raise StreamFailed("the file is shorter than it was")
            self.send(view[:size])
            if time.monotonic() > until:
                raise StreamFailed("took a blob too slowly")
            position += size
            length -= size


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing moved for too long"
    return f"{type(error).__name__}: {error}"[:120]
