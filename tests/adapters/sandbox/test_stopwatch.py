"""The wall limit counts the seconds in which the child may run, and no others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from p2pfleet.adapters.sandbox.stopwatch import Stopwatch


def at_once(test: Callable[[], Awaitable[None]]) -> None:
    """Run with a clock that jumps to whatever happens next."""
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_limit_cancels_after_so_many_seconds() -> None:
    async def main() -> None:
        watch = Stopwatch()
        begin = trio.current_time()
        watch.start(10)
        with watch.scope:
            await trio.sleep_forever()
        assert watch.scope.cancelled_caught
        assert trio.current_time() == begin + 10

    at_once(main)


def test_what_is_done_in_time_is_not_cancelled_and_measured() -> None:
    async def main() -> None:
        watch = Stopwatch()
        watch.start(100)
        watch.start(5)
        with watch.scope:
            await trio.sleep(3)
        assert not watch.scope.cancelled_caught
        assert watch.elapsed() == 3

    at_once(main)


def test_pauses_do_not_count_however_often_and_long() -> None:
    async def main() -> None:
        watch = Stopwatch()
        watch.start(10)
        begin = trio.current_time()

        async def pausing() -> None:
            for _ in range(3):
                await trio.sleep(2)
                watch.pause()
                watch.pause()
                await trio.sleep(100)
                watch.resume()
                watch.resume()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pausing)
            with watch.scope:
                await trio.sleep_forever()
        assert watch.scope.cancelled_caught
        assert trio.current_time() == begin + 310
        assert watch.elapsed() == 10

    at_once(main)


def test_what_starts_paused_waits_for_the_end_of_the_pause() -> None:
    async def main() -> None:
        watch = Stopwatch()
        watch.pause()
        watch.start(10)
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def resuming() -> None:
                await trio.sleep(50)
                watch.resume()

            nursery.start_soon(resuming)
            with watch.scope:
                await trio.sleep_forever()
        assert trio.current_time() == begin + 60

    at_once(main)
