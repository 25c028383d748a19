"""p2pfleet: a volunteer computer without a server.

Parked cars and idle machines find each other over libp2p, run researchers' ONNX work units in
sandboxed children, and certify the results by quorum signatures.
"""

import os as _os

# Both have to stand in the environment before the libraries that read them are imported: recent
# onnxruntime wheels send telemetry (and start threads) by default, and yamux's default window
# handling costs a third of the throughput.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")

__version__ = "0.1.0"
