"""How much of the time children compute: the owner's share of the processor, and the pause.

All children that serve a unit run and stand still together, so that between two stretches of work
the machine is the owner's alone. The share is kept with an allowance of computing time: it shrinks
by ``1 - share`` of every second in which a child runs, and grows by ``share`` of every second in
which none does, up to one period's worth. When it is used up the children are frozen until it is
full. Units that are shorter than a period therefore gain nothing, and a wake-up that came late is
made good by a longer rest.

A period is half a second: with one percent there are still five milliseconds in which to compute,
more than a tick of any usual kernel, while two signals a child and two wake-ups a second of the
node cost nothing that can be measured, and no rest is long enough to be taken for a lost child.
"""

from __future__ import annotations

import math
from typing import Any

import trio

from p2pfleet.ports import SandboxJob

PERIOD_S = 0.5
_DEBT_MAX_S = 5.0
_CLOCK_ERROR_S = 1e-6


class Governor:
    """Freezes and thaws the children that were put under it; :meth:`run` must be running."""

    def __init__(self, percent: int = 100) -> None:
        self._children: dict[int, SandboxJob] = {}
        self._share = _share_of(percent)
        self._paused = False
        self._resting = False
        self._standing = False  # what the children were told last
        self._allowance = self._full
        self._settled_at: float | None = None
        self._changed = trio.Event()

    @property
    def percent(self) -> int:
        """The share of the time in which children may compute."""
        return round(self._share * 100)

    @property
    def paused(self) -> bool:
        """Whether everything stands still on the owner's order."""
        return self._paused

    def set_share(self, percent: int) -> None:
        """From now on, children compute ``percent`` (1 to 100) of the time; acts at once."""
        share = _share_of(percent)
        self._settle()
        self._share = share
        self._allowance = min(self._allowance, self._full)
        self._govern()

    def set_paused(self, paused: bool) -> None:
        """Freeze every child until further notice, or go on as the share allows; acts at once."""
        self._settle()
        self._paused = paused
        self._govern()

    def take(self, child: SandboxJob) -> None:
        """Govern ``child``, which may be frozen or not, from now on."""
        self._settle()
        self._children[id(child)] = child
        self._tell(child)
        self._govern()

    def drop(self, child: SandboxJob) -> None:
        """Leave ``child`` alone, as it is; idempotent."""
        self._settle()
        self._children.pop(id(child), None)
        self._govern()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the share until cancelled; asleep while no child serves or the share is all."""
        task_status.started()
        while True:
            changed = self._changed
            with trio.move_on_after(self._seconds_left()):
                await changed.wait()
            self._settle()
            self._govern()

    # ---- the allowance -----------------------------------------------------------------------

    @property
    def _full(self) -> float:
        """What the working part of a period takes, and the rest of it gives back."""
        return PERIOD_S * self._share * (1 - self._share)

    def _settle(self) -> None:
        """Bring the allowance up to date, before anything changes."""
        now = trio.current_time()
        elapsed = 0.0 if self._settled_at is None else now - self._settled_at
        self._settled_at = now
        if self._children and not self._standing:
            self._allowance = max(-_DEBT_MAX_S, self._allowance - (1 - self._share) * elapsed)
        else:
            self._allowance = min(self._full, self._allowance + self._share * elapsed)

    def _govern(self) -> None:
        """Decide whether the children stand still; tell them and :meth:`run` if that is new."""
        if self._share == 1.0 or self._allowance >= self._full - _CLOCK_ERROR_S:
            self._resting = False
        elif self._allowance <= _CLOCK_ERROR_S:
            self._resting = True
        standing = self._paused or self._resting
        if standing != self._standing:
            self._standing = standing
            for child in self._children.values():
                self._tell(child)
        self._changed.set()
        self._changed = trio.Event()

    def _tell(self, child: SandboxJob) -> None:
        if self._standing:
            child.freeze()
        else:
            child.thaw()

    def _seconds_left(self) -> float:
        """Until the children's state has to change by itself."""
        if self._share == 1.0 or self._paused or not self._children:
            return math.inf
        if self._resting:
            return (self._full - self._allowance) / self._share
        return self._allowance / (1 - self._share)


def _share_of(percent: int) -> float:
    if not 1 <= percent <= 100:
        raise ValueError(f"a share of {percent} percent; it has to be 1 to 100")
    return percent / 100
