"""The executor: strangers' models in child processes, behind the ports ``Sandbox``, ``SandboxJob``.

    node --- control channel ---> fork server (warm onnxruntime, one thread)
      |                             | forks
      +--- channel, arena --------> child: one job's model

Where the machine allows it, the server lives in namespaces of its own: no network, no file, no
other process. Every child locks itself down for good before it reads its model; what of that was
seen to hold when the sandbox was opened makes its grade (``grading``).

The node never parses a model: it hands the bytes over in a sealed memfd, and only the child looks
at them. Small bundles travel in messages, large ones through a sealed shared-memory arena. Kills go
through pidfds. ``inside`` holds what runs on the other side of the wall.

Other systems have no such sandbox: there, and where it does not hold, one's own models are tried in
ordinary processes (``unconfined``); ``open_executors`` chooses.
"""

from p2pfleet.adapters.sandbox.config import SandboxConfig
from p2pfleet.adapters.sandbox.executors import Executors, open_executors
from p2pfleet.adapters.sandbox.pool import SandboxPool, open_sandbox

__all__ = ["Executors", "SandboxConfig", "SandboxPool", "open_executors", "open_sandbox"]
