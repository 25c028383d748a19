"""What one hostile model is, and how it may end."""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .building import ONE, Array

LIMITS = ("memory", "cpu", "wall")
"""Killed at a limit, whichever is reached first: that depends on the machine."""

REFUSED = "refused"
"""Among ``ends``: any admission rule may refuse it."""

RUNS = "runs"
"""Among ``ends``: it may run to its end, because it harms nobody within the limits."""


@dataclass(frozen=True)
class Hostile:
    """One attack.

    ``ends``: how it may end under a memory limit of 512 MB, 4 s of CPU time (a unit, and loading)
    and 64 MB of output: the names of the admission rules that may refuse it, the kinds of
    ``ExecutionFault`` that it may lead to (``model`` alone: refused by onnxruntime), or ``runs``.
    """

    name: str
    family: str
    what: str
    model: Callable[[], bytes]
    ends: tuple[str, ...]
    feeds: dict[str, Array] = field(default_factory=lambda: dict(ONE))

    def ended_well(self, kind: str, reason: str) -> bool:
        """Whether a fault (or ``("runs", "")``) is among the ways in which it may end."""
        rule = reason.partition('the rule "')[2].partition('"')[0]
        if rule:
            return rule in self.ends or REFUSED in self.ends
        return kind in self.ends


def from_folder(folder: Path, harmless: Container[str] = ()) -> list[Hostile]:
    """The ``.onnx`` files of a folder, fed as its ``feeds.json`` says, sorted by name.

    ``feeds.json`` maps each file's stem to ``{input: [numpy dtype, shape, fill value]}``. Nobody
    said how these end: any refusal and any limit will do, but they must not run to their end,
    apart from the ``harmless`` ones.
    """
    feeds = json.loads((folder / "feeds.json").read_text())
    return [
        Hostile(
            path.stem,
            "folder",
            path.name,
            path.read_bytes,
            (
                REFUSED,
                "model",
                "output",
                "crash",
                *LIMITS,
                *([RUNS] if path.stem in harmless else []),
            ),
            {
                name: np.full(shape, fill, np.dtype(dtype))
                for name, (dtype, shape, fill) in feeds.get(path.stem, {}).items()
            },
        )
        for path in sorted(folder.glob("*.onnx"))
    ]
