"""A node inside this process: opened, used, and closed again whatever happens."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from p2pfleet.config import NodeConfig
from p2pfleet.core.errors import ExitCode

if TYPE_CHECKING:
    import trio

    from p2pfleet.app import RunningNode

Result = TypeVar("Result")


class Ended(Generic[Result]):
    """How the time of a node ended: with the body's ``result``, by a signal, or because somebody
    told the node over its control socket to stop (neither of the two)."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.interrupted = False


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
    in order; the second one hurries it, the third ends the process at once: what matters is on disk
    anyway.
    """
    import trio

    return trio.run(_with_node, config, body, liar, stop_note, until)


async def _with_node(
    config: NodeConfig,
    body: Callable[[RunningNode], Awaitable[Result]],
    liar: bool,
    stop_note: Callable[[], None] | None,
    until: Callable[[], Awaitable[None]] | None,
) -> Ended[Result]:
    import trio

    from p2pfleet.app import open_node

    ended: Ended[Result] = Ended()
    working = trio.CancelScope()
    opened = False

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            def stop() -> None:
                ended.interrupted = True
                if opened:
                    working.cancel()
                else:
                    nursery.cancel_scope.cancel()
                if stop_note is not None:
                    stop_note()

            async def wait_until() -> None:
                assert until is not None
                await until()
                stop()

            nursery.start_soon(_watch, signals, stop, nursery.cancel_scope)
            if until is not None:
                nursery.start_soon(wait_until)
            async with open_node(config, liar=liar) as node:
                opened = True
                with working:
                    ended.result = await body(node)
            nursery.cancel_scope.cancel()
    return ended


async def _watch(
    signals: AsyncIterator[int], stop: Callable[[], None], hurry: trio.CancelScope
) -> None:
    count = 0
    async for _ in signals:
        count += 1
        if count == 1:
            stop()
        elif count == 2:
            hurry.cancel()
        else:
            os._exit(ExitCode.INTERRUPTED)
