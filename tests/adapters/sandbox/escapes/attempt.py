"""What an escape attempt is, and the register of them all."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import NamedTuple

from .means import World

Run = Callable[[World], str]


class Attempt(NamedTuple):
    """One way to get at something that a child must not have."""

    name: str
    """``module.function``."""

    run: Run
    """Returns what it got; raises OSError or ``means.Refused`` when it was stopped."""

    needs: tuple[str, ...] = ()
    """Capabilities without which not even an unlocked process can do it."""

    optional: tuple[int | str, ...] = ()
    """Error numbers, or signals, of a kernel or a machine that does not have the thing at all."""

    furthest: int | str | None = None
    """The error number or the signal that shows an unlocked process past every check, where to
    succeed is impossible or would do harm."""

    everywhere: bool = False
    """``furthest`` is not due to a lock but to the thing itself (a seal), and good enough."""

    because: str = ""
    """Why ``furthest`` is as far as it goes, or why the thing may be missing."""

    dies_of: tuple[str, ...] = ()
    """Signals, other than that of the call filter, that show that it was stopped."""


ATTEMPTS: dict[str, Attempt] = {}


def attempt(
    *,
    needs: tuple[str, ...] = (),
    optional: tuple[int | str, ...] = (),
    furthest: int | str | None = None,
    everywhere: bool = False,
    because: str = "",
    dies_of: tuple[str, ...] = (),
    machine: str = "",
) -> Callable[[Run], Run]:
    """Put a function on the register; ``machine``: the only architecture where it has a meaning."""

    def register(run: Run) -> Run:
        assert bool(optional or furthest) == bool(because), run
        name = f"{run.__module__.rpartition('.')[2]}.{run.__name__}"
        if machine in ("", platform.machine()):
            ATTEMPTS[name] = Attempt(
                name, run, needs, optional, furthest, everywhere, because, dies_of
            )
        return run

    return register
