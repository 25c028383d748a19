"""What stands in the place of the child's model: one that has been taken over by its author."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable
from typing import Any

from . import means
from .attempt import ATTEMPTS

__all__ = ["ATTEMPTS", "taken_over"]

MODULES = (
    "channel", "execution", "files", "kernel", "limits", "memory", "mounts", "network",
    "privileges", "processes",
)  # fmt: skip
ESCAPED, REFUSED, BROKEN = "ESCAPED", "REFUSED", "BROKEN"

_package = __name__.rpartition(".")[0]
_means: dict[str, Any] = {"World": means.World, "means": means} | {
    name: importlib.import_module(f"{_package}.{name}") for name in MODULES
}


def taken_over(fault: type[Exception]) -> type:
    """A class in the place of ``inside.model.Model`` whose "model" is Python, executed at once.

    What it leaves in ``got`` is told as a fault of the model; without, the child is ready, and
    waits.
    """

    class TakenOver:
        inputs: tuple[Any, ...] = ()
        outputs: tuple[Any, ...] = ()

        def __init__(self, read: Callable[[], bytes], **_: Any) -> None:
            namespace: dict[str, Any] = dict(_means)
            source = read().decode()
            try:
                exec(compile(source, "model", "exec"), namespace)
                said = f"{ESCAPED} {namespace['got']}" if "got" in namespace else ""
            except OSError as error:
                name = errno.errorcode.get(error.errno or 0, str(error.errno))
                said = f"{REFUSED} {name} {error.strerror or error}"
            except means.Refused as error:
                said = f"{REFUSED} - {error}"
            except (MemoryError, fault):
                raise
            except BaseException as error:
                said = f"{BROKEN} {type(error).__name__}: {error}"
            if said:
                raise fault("model", said)

    return TakenOver
