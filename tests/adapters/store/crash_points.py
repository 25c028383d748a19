"""Runs the same few steps again and again, each time killed one system call later than before.

``crash_points.py FOLDER``: for the n-th run the packs lie in ``FOLDER/n/packs`` and
``FOLDER/n/promised`` names the steps that had returned. Ends after the run that was not killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stored_values import content, wanted

from p2pfleet.adapters.store import FilePacks
from p2pfleet.adapters.store.pack_index import PackIndex
from p2pfleet.core.model.ids import cid_of

QUOTA_BYTES = 10_000
LOOSE, PINNED, LAST = content(1, 3000), content(2, 2000), content(3, 4000)
MEMBERS = [content(4, 500), content(5, 700)]
ARRIVING = content(6, 2500)
OWNER = b"job"


class Countdown:
    """Kills this process after the n-th of the calls that change the disk."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def step(self) -> None:
        if self._calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._calls -= 1

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            self.step()
            return result

        return counted

    def in_halves(self, write: Callable[..., int]) -> Callable[..., int]:
        def counted(descriptor: int, data: memoryview, offset: int) -> int:
            part = data if len(data) < 300 else data[: len(data) // 2]
            written = write(descriptor, part, offset)
            self.step()
            return written

        return counted


def steps(packs: FilePacks) -> dict[str, Callable[[], object]]:
    """What is done, in order. LAST has room only when LOOSE is evicted."""

    def arrive() -> None:
        if packs.has(cid_of(ARRIVING)):
            return
        partial = packs.partial(wanted(ARRIVING))
        while partial.present < len(ARRIVING):
            partial.write(ARRIVING[partial.present : partial.present + 1000])
        assert partial.finish()

    wants = [cid_of(data) for data in (PINNED, MEMBERS[1], ARRIVING, LAST)]
    return {
        "pin": lambda: packs.pin(OWNER, wants),
        "loose": lambda: packs.add(LOOSE),
        "pinned": lambda: packs.add(PINNED),
        "pack": lambda: packs.add_pack(MEMBERS),
        "arriving": arrive,
        "last": lambda: packs.add(LAST),
    }


def run(folder: Path, calls: int) -> None:
    folder.mkdir()
    promised = os.open(folder / "promised", os.O_WRONLY | os.O_CREAT)
    countdown = Countdown(calls)
    os.pwrite = countdown.in_halves(os.pwrite)
    os.fsync = countdown.after(os.fsync)
    Path.rename = countdown.after(Path.rename)  # type: ignore[method-assign]
    Path.unlink = countdown.after(Path.unlink)  # type: ignore[method-assign]
    PackIndex.add = countdown.after(PackIndex.add)  # type: ignore[method-assign]
    PackIndex.remove = countdown.after(PackIndex.remove)  # type: ignore[method-assign]
    PackIndex.pin = countdown.after(PackIndex.pin)  # type: ignore[method-assign]
    packs = FilePacks(folder / "packs", QUOTA_BYTES, 0)
    for name, act in steps(packs).items():
        act()
        os.write(promised, f"{name}\n".encode())


if __name__ == "__main__":
    for calls in itertools.count():
        child = os.fork()
        if child == 0:
            run(Path(sys.argv[1]) / str(calls), calls)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        assert os.WTERMSIG(status) == signal.SIGKILL
