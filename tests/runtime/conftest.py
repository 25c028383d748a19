"""What the runtime's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfleet.adapters.store import FilePacks


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[FilePacks]:
    """Empty packs in a folder of their own."""
    found = FilePacks(tmp_path / "packs", 2**26)
    yield found
    found.close()
