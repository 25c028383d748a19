"""A control socket that answers as a node does, from a thread; for commands that talk to one."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pfleet.adapters.control.place import socket_path
from p2pfleet.core.model.network import NetworkFile, NetworkParameters

NETWORK = NetworkFile(NetworkParameters("testnet-fake", testnet=True))
PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
OTHER = "12D3KooWL4ai7V77V2z6h8S3bAD41ZSL6oLXFuEHweryEvTcn4pw"
JOB = "ab" * 32
Answer = Callable[[dict[str, Any]], Any]


class Refusal(Exception):
    """What the node answers instead of a result."""

    def __init__(self, message: str, advice: str, code: int) -> None:
        super().__init__(message)
        self.error = {"message": message, "advice": advice, "code": code}


CUSTODY: dict[str, Any] = {
    "copies": 3, "blobs": 4, "kept": 1, "signed": 5, "outputs": 0, "outputs_kept": 0, "keepers": 2,
    "mine": 0, "recorded": False,
}  # fmt: skip
KEPT: dict[str, Any] = {**CUSTODY, "kept": 4, "signed": 12, "keepers": 5, "recorded": True}


def job(**changes: Any) -> dict[str, Any]:
    """A job as the node shows it."""
    return {
        "id": JOB, "name": "digits", "state": "active", "own": True, "publisher": PEER,
        "units": 10, "open": 10, "certified": 0, "settled": 0, "contested": 0, "failed": 0,
        "running": 0, "votes": 0, "volunteers": 3, "quorum": 2, "replicas_max": 7,
        "seconds": 1.5, "reason": "", "failures": [], "custody": CUSTODY, **changes,
    }  # fmt: skip


SANDBOX: dict[str, Any] = {
    "grade": "A", "reason": "", "advice": "", "numeric_class": "c1" * 32, "onnxruntime": "1.32.0",
    "properties": [{"name": "files", "held": True, "detail": "nothing could be opened"}],
}  # fmt: skip
DONE = job(state="completed", open=0, settled=10)


class FakeNode:
    """Answers of each method, and the requests that came."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer] = {
            "ping": lambda _: {"peer": PEER, "pid": 1},
            "status": lambda _: self.status(),
            "peers": lambda _: [
                {
                    "peer": OTHER, "address": "/ip4/127.0.0.1/tcp/1", "roles": ["volunteer"],
                    "slots": 1, "software": "p2pfleet/0.1.0", "agreed": 5, "contradicted": 0,
                    "score": 0.9, "grade": "B", "numeric_class": "5e" * 32,
                    "onnxruntime": "1.30.0",
                }
            ],
            "bans": lambda _: [
                {
                    "peer": OTHER, "address": None, "reason": "malformed message: too long",
                    "since_ms": 1_700_000_000_000, "until_ms": 1_700_000_600_000, "times": 1,
                },
                {
                    "peer": None, "address": "2606:4700:1:2::/64", "reason": "3 peers there",
                    "since_ms": 1_700_000_000_000, "until_ms": 1_700_003_600_000, "times": 2,
                },
            ],
            "unban": lambda _: {},
            "jobs": lambda _: [job(), job(id="cd" * 32, own=False)],
            "job": lambda _: job(),
            "pause": lambda _: {},
            "resume": lambda _: {},
            "cancel": lambda _: {},
            "submit": lambda _: {"job": JOB},
            "results": lambda _: {},
            "reputation": lambda _: [
                {"peer": OTHER, "agreed": 5, "contradicted": 1, "score": 0.8, "vote": True,
                 "checks": {"any": 3}, "fault": None, "events": [
                     {"job": "ab" * 32, "unit": 7, "event": "audited", "meaning": "it was right"}]}
            ],
        }  # fmt: skip

    def status(self) -> dict[str, Any]:
        return {
            "peer": PEER, "network": {"name": "testnet-fake", "id": NETWORK.id.hex()},
            "version": "0.1.0", "addresses": [f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}"],
            "roles": ["volunteer"], "slots": 1, "paused": False, "reason": "", "resumes_ms": None,
            "peers": 4, "jobs": {"active": 1}, "executed": 7, "sandbox": SANDBOX,
            "limits": {
                "threads": 1, "cpu_percent": 100, "memory_mb": 2048, "unit_cpu_s": 3600,
                "disk_mb": 10240,
            },
            "uptime_s": 61.0, "memory_mb": 90.0,
            "data_dir": str(self.data_dir), "pid": 1,
        }  # fmt: skip

    def of(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every request for ``method``."""
        return [params for name, params in self.requests if name == method]

    def answer(self, line: bytes) -> bytes:
        request = json.loads(line)
        self.requests.append((request["method"], request["params"]))
        try:
            answer = {"result": self.answers[request["method"]](request["params"])}
        except Refusal as refusal:
            answer = {"error": refusal.error}
        return json.dumps(answer).encode() + b"\n"


@contextmanager
def serving(data_dir: Path) -> Iterator[FakeNode]:
    """A node that answers in ``data_dir`` while the block runs."""
    data_dir.mkdir(parents=True, exist_ok=True)
    node = FakeNode(data_dir)
    (data_dir / "control.sock").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with socket_path(data_dir) as path:
        listener.bind(path)
    listener.listen(8)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                connection.settimeout(10)
                for line in stream:
                    connection.sendall(node.answer(line))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield node
    finally:
        # Closing alone does not wake a thread that waits in accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def main() -> None:
    """A process that takes the options of ``testnet node`` and does nothing but answer.

    The environment makes it fail: FAKE_NODE_DIES is the number of a node that ends at its start,
    FAKE_NODE_STUBBORN of one that ignores SIGTERM.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("command", nargs=2)
    parser.add_argument("--data-dir", type=Path)
    for option in ("--network", "--listen", "--slots", "--role"):
        parser.add_argument(option, action="append")
    for flag in ("--liar", "--while-stdin"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    folder: Path = options.data_dir
    number = folder.name.removeprefix("node-")
    if os.environ.get("FAKE_NODE_DIES") == number:
        sys.exit("the disk is full of stones")
    stop = threading.Event()
    if os.environ.get("FAKE_NODE_STUBBORN") == number:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    (folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
    with serving(folder):
        # In steps, since only Python code between two of them sees a signal.
        while not stop.wait(0.05):
            pass


if __name__ == "__main__":
    main()
