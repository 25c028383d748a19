"""Models that attack the machine which runs them, by class of attack, and how each may end.

``HOSTILE`` is the catalogue; ``from_folder`` reads further ones from a folder of ``.onnx`` files.
Built anew each time from the ``onnx`` package or byte by byte; no binary file is kept.
"""

from __future__ import annotations

from .bombs import BOMBS
from .catalogue import LIMITS, REFUSED, RUNS, Hostile, from_folder
from .malformed import MALFORMED
from .overflowing import OVERFLOWING
from .readers import READERS

HOSTILE: tuple[Hostile, ...] = (*READERS, *BOMBS, *MALFORMED, *OVERFLOWING)
HARMLESS_SAMPLES = frozenset({"55_denormal_slowdown"})
"""Of the folders met so far: what computes something odd, but no more than it may."""

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(entry.family for entry in HOSTILE))

__all__ = [
    "FAMILIES", "HARMLESS_SAMPLES", "HOSTILE", "LIMITS", "REFUSED", "RUNS", "Hostile",
    "from_folder",
]  # fmt: skip
