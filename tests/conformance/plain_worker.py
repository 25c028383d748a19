"""Plain onnxruntime with the sandbox's options, one model after the other, until it crashes.

A process of its own, because some of the models bring onnxruntime down. On stdin come pickles of
``(model, feeds)``, each behind its length; pickles of a reply go to stdout in the same way:
``("ran", {name: value})`` or ``("failed", reason)``. Both ends are this test suite's.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

import p2pfleet  # noqa: F401  (the environment that onnxruntime reads)
from p2pfleet.adapters.sandbox.inside.model import open_session


def reply_to(model: bytes, feeds: dict[str, Any]) -> tuple[str, Any]:
    """Load and run it once."""
    try:
        session = open_session(model)
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, feeds)
        return "ran", dict(zip(names, values, strict=True))
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def main() -> None:
    """Serve until stdin ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else would be printed must not land among the replies
    while head := sys.stdin.buffer.read(8):
        request = sys.stdin.buffer.read(int.from_bytes(head, "big"))
        reply = pickle.dumps(reply_to(*pickle.loads(request)))
        replies.write(len(reply).to_bytes(8, "big") + reply)
        replies.flush()


if __name__ == "__main__":
    main()
