"""The executor: strangers' models in child processes, behind the ports ``Sandbox``, ``SandboxJob``.

    node --- control channel ---> fork server (warm onnxruntime, one thread)
      |                             | forks
      +--- channel, arena --------> child: one job's model

The node never parses a model: it hands the bytes over in a sealed memfd, and only the child looks
at them. Small bundles travel in messages, large ones through a sealed shared-memory arena. Kills go
through pidfds. ``inside`` holds what runs on the other side of the wall.
"""

from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.pool import SandboxPool, open_sandbox

__all__ = ["SandboxConfig", "SandboxPool", "open_sandbox"]
