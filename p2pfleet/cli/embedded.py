"""A node inside this process: opened, used, and closed again whatever happens.

Signals are handled here and not by trio, because the last word must not depend on the event loop: a
node that does not close in time is left behind with the process. What matters of it is on disk.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from p2pfleet.config.node_file import NodeConfig

if TYPE_CHECKING:
    from p2pfleet.app import RunningNode

Result = TypeVar("Result")

# What is left of event loops that were given up. As long as they are held, nothing of them is torn
# down; that would only print tracebacks.
wrecks: list[BaseException] = []

CLOSE_PATIENCE_S = 20.0
HURRY_PATIENCE_S = 3.0


class Ended(Generic[Result]):
    """How the time of a node ended.

    With the body's ``result``; or ``interrupted`` by a signal; or, if neither, because somebody
    told the node over its control socket to stop. ``torn``: it did not close in time.
    """

    def __init__(self) -> None:
        self.result: Result | None = None
        self.error: Exception | None = None
        self.interrupted = False
        self.torn = False


class _GaveUp(BaseException):
    """The node does not close; raised by a signal handler, straight through the event loop."""


class _Stopper:
    """Ends the node: politely, then quickly, then without it."""

    def __init__(self, stop_note: Callable[[], None] | None) -> None:
        self._note = stop_note
        self._token: trio.lowlevel.TrioToken | None = None
        self._everything: trio.CancelScope | None = None
        self._ours = threading.current_thread() is threading.main_thread()
        self._count = 0
        self.opened = False
        self.working = trio.CancelScope()

    @property
    def interrupted(self) -> bool:
        return self._count > 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the block runs, SIGINT, SIGTERM and the alarm are ours."""
        if not self._ours:
            yield
            return
        handlers = {
            signal.SIGINT: self._signalled,
            signal.SIGTERM: self._signalled,
            signal.SIGALRM: self._give_up,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            self.patience(0.0)
            for number, old in before.items():
                signal.signal(number, old)

    def begin(self, everything: trio.CancelScope) -> None:
        """The event loop runs; ``everything`` is what the second signal cancels."""
        self._token = trio.lowlevel.current_trio_token()
        self._everything = everything
        if self._count:
            everything.cancel()

    def patience(self, seconds: float) -> None:
        """Give up so many seconds from now; 0: never."""
        if self._ours:
            # Again and again, since the first one may hit where its exception is swallowed.
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0 if seconds else 0.0)

    def stop(self) -> None:
        """Begin to end the node; called in the event loop."""
        assert self._everything is not None
        if self.opened:
            self.working.cancel()
        else:
            self._everything.cancel()
        if self._note is not None:
            self._note()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._token is None or self._everything is None:
            raise KeyboardInterrupt
        if self._count == 1:
            self.patience(CLOSE_PATIENCE_S)
            self._token.run_sync_soon(self.stop)
        elif self._count == 2:
            self.patience(HURRY_PATIENCE_S)
            self._token.run_sync_soon(self._everything.cancel)
        else:
            raise _GaveUp

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        raise _GaveUp


def with_node(
    config: NodeConfig,
    body: Callable[[RunningNode], Awaitable[Result]],
    *,
    liar: bool = False,
    stop_note: Callable[[], None] | None = None,
    until: Callable[[], Awaitable[None]] | None = None,
) -> Ended[Result]:
    """Open a node, run ``body`` with it, close it.

    The first SIGINT or SIGTERM (or the end of ``until``) cancels ``body`` and lets the node close
    in order, the second hurries it, the third goes on without it; so does a node that takes longer
    than ``CLOSE_PATIENCE_S``.
    """
    ended: Ended[Result] = Ended()
    stopper = _Stopper(stop_note)
    try:
        with stopper.installed():
            trio.run(_with_node, config, body, liar, until, ended, stopper)
    except (_GaveUp, trio.TrioInternalError) as error:
        if not _gave_up(error):
            raise
        wrecks.append(error)
        if ended.error is not None:
            raise ended.error from None  # why it was closing at all
        ended.torn = True
    ended.interrupted = stopper.interrupted
    return ended


def _gave_up(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, _GaveUp):
        if isinstance(error, BaseExceptionGroup):
            return any(_gave_up(inner) for inner in error.exceptions)
        error = error.__cause__ or error.__context__
    return error is not None


async def _with_node(
    config: NodeConfig,
    body: Callable[[RunningNode], Awaitable[Result]],
    liar: bool,
    until: Callable[[], Awaitable[None]] | None,
    ended: Ended[Result],
    stopper: _Stopper,
) -> None:
    from p2pfleet.app import open_node

    async with trio.open_nursery() as nursery:
        stopper.begin(nursery.cancel_scope)
        if until is not None:
            nursery.start_soon(_stop_after, until, stopper)
        async with open_node(config, liar=liar) as node:
            stopper.opened = True
            with stopper.working:
                try:
                    ended.result = await body(node)
                except Exception as error:
                    ended.error = error
                    raise
                finally:
                    stopper.patience(CLOSE_PATIENCE_S)
        nursery.cancel_scope.cancel()


async def _stop_after(until: Callable[[], Awaitable[None]], stopper: _Stopper) -> None:
    await until()
    stopper.patience(CLOSE_PATIENCE_S)
    stopper.stop()
