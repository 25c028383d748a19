"""Async tests without a plugin: each runs in trio, under a timeout."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import trio


def guarded(seconds: float = 20) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make a plain test of an async one; it fails after ``seconds``."""

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            async def main() -> None:
                with trio.fail_after(seconds):
                    await test(**fixtures)

            trio.run(main)

        return run

    return decorate


async def until(condition: Callable[[], object]) -> None:
    """Wait for what only the process table can tell; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.005)


def children_of(pid: int | None) -> list[psutil.Process]:
    """The processes a fork server has started, oldest first."""
    assert pid is not None
    return sorted(psutil.Process(pid).children(), key=lambda process: process.pid)


def ended(process: psutil.Process) -> bool:
    """Whether a process has ended, be it that nobody has collected it yet."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
