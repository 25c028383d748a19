"""Every test of the sandbox also shows that it left nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    fds = set(os.listdir("/proc/self/fd"))
    yield
    left = psutil.Process().children(recursive=True)
    assert left == [], f"processes left behind: {left}"
    opened = {
        fd for fd in set(os.listdir("/proc/self/fd")) - fds if os.path.exists(f"/proc/self/fd/{fd}")
    }
    names = sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in opened)
    assert names == [], f"descriptors left open: {names}"
