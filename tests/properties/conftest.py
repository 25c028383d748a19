"""The properties speak in the samples of the core's tests."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

# The same examples at every run, and no time limit an example: other work shares the machine.
settings.register_profile("p2pfleet", deadline=None, derandomize=True, database=None)
settings.load_profile("p2pfleet")
