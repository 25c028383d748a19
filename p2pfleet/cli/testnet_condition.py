"""What the run of a scenario shows, one condition at a time."""

from __future__ import annotations

import msgspec


class Condition(msgspec.Struct, frozen=True):
    """Something that must hold, whether it did, and what was seen."""

    what: str
    held: bool
    seen: str
