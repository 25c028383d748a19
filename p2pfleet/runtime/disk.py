"""The disk, as far as it keeps the node from working: full, read-only, or failing.

Whoever cannot write reports it here and waits. Until writing works again nothing is executed and
the owner is told why; nothing is given up that another attempt can still make durable.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from p2pfleet.core.errors import DiskTrouble, P2pfleetError
from p2pfleet.core.events import DiskChanged, Event

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 3.0


class DiskWatch:
    """Whether the disk takes what the node writes; ``reason`` says why not, and is else empty.

    While it is ``waited_for``, somebody tries by himself and says when he is through. Else
    ``probe`` writes something small and raises :class:`P2pfleetError` when it cannot; it blocks,
    and is called in a thread.
    """

    def __init__(
        self, probe: Callable[[], None] = lambda: None, every_s: float = LOOK_EVERY_S
    ) -> None:
        self.reason = ""
        self.every_s = every_s
        self.waited_for = False
        self._probe = probe
        self._trouble = trio.Event()
        self._room = trio.Event()

    def report(self, error: DiskTrouble) -> None:
        """Something could not be written."""
        if not self.reason:
            log.warning("paused: %s", error.reason)
        self.reason = error.reason
        self._trouble.set()

    async def room(self) -> None:
        """Return when the disk takes something again; at once if nothing else is known."""
        if self.reason:
            await self._room.wait()

    async def run(
        self,
        tell: Callable[[Event], Awaitable[None]],
        *,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Tell the core of every trouble and of its end, until cancelled."""
        task_status.started()
        while True:
            await self._trouble.wait()
            await tell(DiskChanged(self.reason))
            while True:
                await trio.sleep(self.every_s)
                if self.waited_for:
                    continue
                try:
                    await trio.to_thread.run_sync(self._probe)
                except DiskTrouble as error:
                    self.reason = error.reason
                except P2pfleetError as error:
                    self.reason = str(error)
                else:
                    break
            log.warning("the disk takes writes again: the node goes on")
            self.reason = ""
            self._trouble = trio.Event()
            self._room.set()
            self._room = trio.Event()
            await tell(DiskChanged(""))
