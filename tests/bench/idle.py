"""What a node costs that has nothing to do: processor time, memory, connections.

    python tests/bench/idle.py [--nodes 6] [--seconds 60]

Real processes on loopback, connected with each other, no job on the network. Processor time and
memory are the node's process and its children's (the sandbox's fork server), as the kernel counts
them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from steady_load import p2pfleet

from p2pfleet.adapters.control.client import ControlClient

SETTLE_S = 20.0
TARGET_CPU = 0.003
TARGET_MB = 120.0


def family(pid: int) -> list[psutil.Process]:
    node = psutil.Process(pid)
    return [node, *node.children(recursive=True)]


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main(nodes: int, seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="p2pfleet-idle-") as folder:
        net = Path(folder) / "net"
        p2pfleet("testnet", "up", "--nodes", str(nodes), "--dir", str(net))
        try:
            clients = [ControlClient(path) for path in sorted(net.glob("node-*"))]
            families = [family(client.call("ping")["pid"]) for client in clients]
            time.sleep(SETTLE_S)  # discovery and the mesh come to rest
            before = [cpu_s(processes) for processes in families]
            time.sleep(seconds)
            shares = [
                (cpu_s(processes) - start) / seconds
                for processes, start in zip(families, before, strict=True)
            ]
            memory = [processes[0].memory_info().rss / 2**20 for processes in families]
            servers = [
                sum(process.memory_info().rss for process in processes[1:]) / 2**20
                for processes in families
            ]
            peers = [client.call("status")["peers"] for client in clients]
        finally:
            p2pfleet("testnet", "down", "--dir", str(net))
    print(f"{nodes} idle nodes over {seconds:.0f} s, {statistics.median(peers):.0f} peers each")
    for name, values, target, unit in (
        ("processor", [100 * share for share in shares], 100 * TARGET_CPU, "% of a core"),
        ("memory", memory, TARGET_MB, "MiB, the node alone"),
        ("memory", servers, None, "MiB, its fork server (shared with its children)"),
    ):
        print(
            f"{name:<10} median {statistics.median(values):7.2f}  "
            f"({min(values):.2f} to {max(values):.2f})  "
            f"target {target if target is not None else '-'}  {unit}"
        )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    sys.exit(main(arguments.nodes, arguments.seconds))
