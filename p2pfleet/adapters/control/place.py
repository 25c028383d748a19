"""Where the socket lies, however long the data folder's path is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "control.sock"
MAX_LINE_BYTES = 4 * 2**20
_SUN_PATH_MAX = 100


@contextmanager
def socket_path(data_dir: Path) -> Iterator[str]:
    """A path to bind or connect to.

    The kernel takes at most 107 bytes; a longer path goes through a descriptor of the folder.
    """
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        yield str(path)
        return
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)
