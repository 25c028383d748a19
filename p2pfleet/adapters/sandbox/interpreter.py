"""How the interpreter of a child is started: with what environment, and with which libraries."""

from __future__ import annotations

import errno
import importlib.util
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Recent onnxruntime wheels start threads and send telemetry unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
}
"""All that it is given of an environment."""

_LIBRARIES = ("numpy", "msgpack", "onnxruntime")


def library_folders() -> list[str]:
    """Where it finds its libraries, without importing them here. Raises OSError."""
    folders: list[str] = []
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise OSError(errno.ENOENT, f"{name} is not installed")
        folder = str(Path(spec.origin).parent.parent)
        if folder not in folders:
            folders.append(folder)
    return folders
