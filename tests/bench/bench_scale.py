"""What a certified unit costs on each of 8, 16, 24 and 40 real processes.

    python tests/bench/bench_scale.py [--sizes 8,16,24,40] [--quick] [--output FILE.json]

Real processes on loopback, one job each size, units and shards proportional to the nodes: so what
one node spends on a unit of a shard should not grow. Messages and bytes are the nodes' own counters
(``status``), processor time is that of the node's process from /proc; its sandbox children, which
do the work itself, are told apart. What the nodes spend when nothing is to be done is measured
first, for as long as the job lasts about, and told as well; it is not taken off.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from steady_load import make_model, p2pfleet, start_publisher

from p2pfleet.adapters.control.client import ControlClient

RESULTS = Path(__file__).parent / "results" / "scale_real.json"
A_SHARD = 8
IDLE_S = 20.0
CONNECT_S = 180.0
JOB_S = 1_800.0


class Sample:
    """The counters of all nodes at one moment."""

    def __init__(self, clients: dict[str, ControlClient]) -> None:
        self.at = time.monotonic()
        self.nodes: dict[str, dict[str, float]] = {}
        for name, client in clients.items():
            status = client.call("status")
            process = psutil.Process(status["pid"])
            cpu = process.cpu_times()
            children = [child.cpu_times() for child in process.children(recursive=True)]
            self.nodes[name] = {
                "messages": status["traffic"]["sent"] + status["traffic"]["received"],
                "kib": (status["traffic"]["sent_bytes"] + status["traffic"]["received_bytes"])
                / 1024,
                "cpu_s": cpu.user + cpu.system,
                "sandbox_s": sum(
                    one.user + one.system + one.children_user + one.children_system
                    for one in children
                ),
                "peers": status["peers"],
            }

    def since(self, before: Sample, key: str) -> dict[str, float]:
        """What each node added."""
        return {name: self.nodes[name][key] - before.nodes[name][key] for name in self.nodes}


def spread(values: dict[str, float], by: float) -> dict[str, float]:
    """The volunteer in the middle, the worst one, and the publisher."""
    mine = [value for name, value in values.items() if name != "publisher"]
    return {
        "median": round(statistics.median(mine) / by, 4),
        "worst": round(max(mine) / by, 4),
        "publisher": round(values["publisher"] / by, 4),
    }


def wait_for_peers(clients: dict[str, ControlClient], count: int) -> None:
    deadline = time.monotonic() + CONNECT_S
    while True:
        peers = {name: client.call("status")["peers"] for name, client in clients.items()}
        if min(peers.values()) >= count:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"the nodes did not find each other in {CONNECT_S:.0f} s: {peers}")
        time.sleep(1.0)


def measure(nodes: int, units_a_node: int, idle_s: float) -> dict[str, Any]:
    """One size, in a network of its own."""
    with tempfile.TemporaryDirectory(prefix="p2pfleet-scale-") as folder:
        base = Path(folder)
        net = base / "net"
        p2pfleet("testnet", "up", "--nodes", str(nodes), "--dir", str(net))
        process = None
        try:
            process, publisher = start_publisher(base)
            clients = {path.name: ControlClient(path) for path in sorted(net.glob("node-*"))}
            clients["publisher"] = publisher
            return _measured(base, clients, nodes, units_a_node, idle_s)
        finally:
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait(30)
            p2pfleet("testnet", "down", "--dir", str(net))


def _measured(
    base: Path, clients: dict[str, ControlClient], nodes: int, units_a_node: int, idle_s: float
) -> dict[str, Any]:
    wait_for_peers(clients, min(nodes, 12))
    units, shards = nodes * units_a_node, max(1, nodes // A_SHARD)
    model, inputs = base / "small.onnx", base / "inputs.npz"
    make_model(model)
    random = np.random.default_rng(1)
    np.savez(inputs, x=random.standard_normal((8 * units, 32)).astype(np.float32))
    time.sleep(idle_s / 2)  # discovery comes to rest
    start = Sample(clients)
    time.sleep(idle_s)
    before = Sample(clients)
    publisher = clients["publisher"]
    job = publisher.call(
        "submit", name="scale", model=str(model), inputs=[str(inputs)], split="0:8",
        shards=shards, quorum=2, lease_s=30, expires_h=1.0,
    )["job"]  # fmt: skip
    view: dict[str, Any] = publisher.call("job", job=job)
    most = 0
    while view["state"] == "active" and time.monotonic() - before.at < JOB_S:
        time.sleep(1.0)
        view = publisher.call("job", job=job)
        most = max(most, *(client.call("status")["peers"] for client in clients.values()))
    after = Sample(clients)
    own, seconds = units / shards, after.at - before.at
    return {
        "nodes": nodes,
        "shards": shards,
        "units": units,
        "settled": view["settled"],
        "seconds": round(seconds, 1),
        "messages_a_unit": round(sum(after.since(before, "messages").values()) / 2 / units, 1),
        "a_node_and_unit_of_its_shard": {
            key: spread(after.since(before, key), own)
            for key in ("messages", "kib", "cpu_s", "sandbox_s")
        },
        "idle_a_second": {
            key: spread(before.since(start, key), before.at - start.at)
            for key in ("messages", "kib", "cpu_s")
        },
        "peers_max": most,
    }


def show(row: dict[str, Any]) -> None:
    """A few lines for people."""
    print(
        f"{row['nodes']} nodes, {row['shards']} shards: {row['settled']} of {row['units']} units "
        f"settled in {row['seconds']:.0f} s, {row['messages_a_unit']} messages a unit in the whole "
        f"network, {row['peers_max']} peers at most"
    )
    for name, part in (
        ("a unit of the shard", row["a_node_and_unit_of_its_shard"]),
        ("idle, a second", row["idle_a_second"]),
    ):
        for key, values in part.items():
            print(
                f"  {name:<20}{key:<10} median {values['median']:9.3f}  worst "
                f"{values['worst']:9.3f}  publisher {values['publisher']:9.3f}"
            )
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="8,16,24,40")
    parser.add_argument("--units", type=int, default=32, help="units a node")
    parser.add_argument("--quick", action="store_true", help="8 and 16 nodes, a few units")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    sizes = [8, 16] if arguments.quick else [int(size) for size in arguments.sizes.split(",")]
    units_a_node = 8 if arguments.quick else arguments.units
    rows = []
    for nodes in sizes:
        rows.append(measure(nodes, units_a_node, IDLE_S / 2 if arguments.quick else IDLE_S))
        show(rows[-1])
    report = {
        "what": f"one job, {units_a_node} units a node, {A_SHARD} volunteers a shard, on loopback",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "sizes": rows,
    }
    output = arguments.output or (None if arguments.quick else RESULTS)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["settled"] == row["units"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
