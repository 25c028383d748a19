"""What blobs cost on their way: the bulk channel and the libp2p stream beside raw TCP.

    python tests/bench/bench_bulk.py [--megabytes 256] [--runs 3] [--folder DIR] [--json FILE]

Two processes on loopback: one serves a blob from its packs, this one fetches it into its own,
verified by hash (and synced to the disk, if ``--folder`` is on one; the default is in memory, so
that the network is measured). Raw TCP moves as many bytes between the same processes, unhashed.
Every figure is the median of the runs, MB/s of wall time; processor time is both processes'.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import trio

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters" / "network"))
from network_harness import QUICK, node, ref_of, until

from p2pfleet.adapters.store import FilePacks

TARGETS = {"bulk channel": 300.0, "libp2p stream": 60.0, "raw TCP": None}
MEGABYTE = 10**6


def memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def serve_raw(listening: socket.socket, data: bytes) -> None:
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(data)


async def serve(folder: Path, megabytes: int) -> None:
    data = os.urandom(megabytes * MEGABYTE)
    packs = FilePacks(folder, 2**40, 0)
    packs.add(data)
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve_raw, args=(listening, data), daemon=True).start()
    ref = ref_of(data)
    async with node(1, blobs=packs) as network:
        port = listening.getsockname()[1]
        print(network.addresses[0], port, ref.sha256.hex(), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def raw(port: int, length: int) -> None:
    buffer = bytearray(2**20)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while length:
            length -= connection.recv_into(buffer)


async def measure(
    arguments: argparse.Namespace, folder: Path, child: subprocess.Popen[str]
) -> dict[str, Any]:
    from p2pfleet.core.model.ids import cid_from_sha256
    from p2pfleet.core.model.job import BlobRef

    length = arguments.megabytes * MEGABYTE
    assert child.stdout is not None
    assert child.stdin is not None
    both = [psutil.Process(), psutil.Process(child.pid)]

    def cpu_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in both)

    wall: dict[str, list[float]] = {name: [] for name in TARGETS}
    cpu: dict[str, list[float]] = {name: [] for name in TARGETS}
    try:
        address, port, digest = child.stdout.readline().split()
        sha256 = bytes.fromhex(digest)
        ref = BlobRef(cid_from_sha256(sha256), 0, length, sha256)
        for run in range(arguments.runs):
            for name in TARGETS:
                packs = FilePacks(folder / f"{run}-{name.replace(' ', '-')}", 2**40, 0)
                config = msgspec.structs.replace(QUICK, bulk=name == "bulk channel")
                async with node(2, (address,), config=config, blobs=packs) as network:
                    await until(lambda network=network: bool(network.peers()))
                    (peer,) = network.peers()
                    began, used = time.monotonic(), cpu_s()
                    if name == "raw TCP":
                        await trio.to_thread.run_sync(raw, int(port), length)
                    else:
                        await network.bulk.fetch(packs.partial(ref), [peer.peer])
                    wall[name].append(length / MEGABYTE / (time.monotonic() - began))
                    cpu[name].append((cpu_s() - used) / length * MEGABYTE * 1000)
                located = packs.locate(ref.cid)
                if located is not None:
                    located[0].unlink()
                packs.close()
    finally:
        child.stdin.close()
        child.wait(30)
    return {
        name: {
            "mb_per_s": round(statistics.median(wall[name]), 1),
            "runs": [round(one, 1) for one in wall[name]],
            "cpu_ms_per_mb": round(statistics.median(cpu[name]), 2),
            "target_mb_per_s": TARGETS[name],
        }
        for name in TARGETS
    }


def main(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="p2pfleet-bulk-", dir=arguments.folder) as folder:
        child = subprocess.Popen(
            [sys.executable, __file__, "--serve", f"{folder}/source", "--megabytes",
             str(arguments.megabytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        found = trio.run(measure, arguments, Path(folder), child)
    limit = found["raw TCP"]["mb_per_s"]
    print(f"{arguments.megabytes} MB from one peer, median of {arguments.runs}")
    for name, one in found.items():
        target = one["target_mb_per_s"]
        print(
            f"{name:<14} {one['mb_per_s']:8.1f} MB/s   target {target or '-'!s:>6}"
            f"   limit (raw TCP) {limit:.0f}   {one['cpu_ms_per_mb']:.2f} ms CPU a MB"
            f"   runs {one['runs']}"
        )
    if arguments.json:
        document = {
            "what": f"{arguments.megabytes} MB from one peer over loopback",
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "load_before": os.getloadavg()[0],
            "results": found,
        }
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", default=memory_folder())
    parser.add_argument("--json")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        trio.run(serve, given.serve, given.megabytes)
        sys.exit(0)
    sys.exit(main(given))
