"""What an attack costs honest nodes: CPU seconds a settled unit, against a silent control.

    python -m tests.bench.attack [--nodes 4] [--units 24] [--layers 400] [--pairs 2]
                                 [--output FILE.json]

Real processes on loopback: volunteers, a publisher, and three hostile peers
(``tests/e2e/hostile_peer.py``: a spammer, a forger, a clinger) that attack every one of them. Of
every pair of runs one is an attack by peers with fresh keys, and one a control in which the same
processes burn, silently, the CPU that the attackers used. Measured is the CPU time of all processes
of the honest nodes, their sandboxes included, from the moment before the attackers start to the
job's end, and their memory; loopback is spared every budget of addresses, so what is seen here is
what keys alone cost. Most of an attack's cost comes before the bans, once: so the factor depends on
how long the job is, which ``seconds`` and ``cpu_s`` of each run tell. ``--layers`` sets how long a
unit computes (400: about a tenth of a second).
Exits with 1 unless the medians differ by at most 20 %, every node stayed below 300 MB and banned
all three attackers, and every unit settled.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from p2pfleet.adapters.control.client import ControlClient
from tests.e2e.local import (
    NodeProcess,
    Testnet,
    affine_model,
    finished,
    inputs,
    publisher,
    running_testnet,
    wait_until,
)

KINDS = ("spammer", "forger", "clinger")
MOST_RATIO = 1.2
MOST_MB = 300.0
SUBMIT_S = 600.0
LEAD_S = 3.0
"""How long an attack goes on before the job is published."""


class Honest:
    """The honest nodes' processes: what they use."""

    def __init__(self, net: Testnet, count: int, owner: NodeProcess) -> None:
        self.clients = [net.client(number) for number in range(count)] + [owner.client]
        self.processes = [psutil.Process(one.call("ping")["pid"]) for one in self.clients]
        self.most_mb = 0.0

    def cpu_s(self) -> float:
        """CPU seconds of every node with all its children, those that ended included."""
        total = 0.0
        for node in self.processes:
            for process in (node, *node.children(recursive=True)):
                try:
                    total += sum(process.cpu_times()[:4])
                except psutil.NoSuchProcess:
                    continue  # its time is its parent's from now on
        return total

    def watch_memory(self) -> None:
        """Keep the largest resident size of a node."""
        sizes = [one.memory_info().rss / 2**20 for one in self.processes]
        self.most_mb = max(self.most_mb, *sizes)

    def bans(self) -> list[set[str]]:
        """Whom each node refuses."""
        return [{ban["peer"] for ban in one.call("bans")} for one in self.clients]


class Hostiles:
    """Three processes of one run."""

    def __init__(self, folder: Path, plan: dict[str, Any], percents: list[float] | None) -> None:
        folder.mkdir()
        self._outputs = [folder / f"{kind}.json" for kind in KINDS]
        self._began = time.monotonic()
        self._processes = []
        for number, kind in enumerate(KINDS):
            file = folder / f"{kind}.plan"
            mine = {**plan, "kind": kind, "seed": f"{folder}-{kind}"}
            mine["output"] = str(self._outputs[number])
            if percents is not None:
                mine |= {"kind": "burner", "percent": percents[number]}
            file.write_text(json.dumps(mine))
            command = [sys.executable, "-m", "tests.e2e.hostile_peer", str(file)]
            self._processes.append(subprocess.Popen(command))

    def told(self) -> list[dict[str, Any]]:
        """What each of them used and sent until now; empty before its first word."""
        return [json.loads(one.read_text()) if one.exists() else {} for one in self._outputs]

    def percents(self) -> list[float]:
        """How much of a core each of them used."""
        passed = time.monotonic() - self._began
        return [100 * one.get("cpu_s", 0.0) / passed for one in self.told()]

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10)


def peer_ids(folder: Path) -> set[str]:
    """The attackers of a run, by the seeds that they were given."""
    import hashlib

    from p2pfleet.core.model.ids import peer_text
    from p2pfleet.runtime.signing import Signer

    seeds = [hashlib.sha256(f"{folder}-{kind}".encode()).digest() for kind in KINDS]
    return {peer_text(Signer(seed).peer) for seed in seeds}


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(
    honest: Honest, owner: NodeProcess, folder: Path, percents: list[float] | None, units: int
) -> dict[str, Any]:
    """One job under attack, or beside the control if ``percents`` says how much to burn."""
    status = [one.call("status") for one in honest.clients]
    plan = {
        "victims": [one["addresses"][0] for one in status],
        "network": status[0]["network"]["id"],
    }
    before = honest.cpu_s()
    hostiles = Hostiles(folder, plan, percents)
    try:
        wait_until("the hostile processes run", lambda: all(hostiles.told()))
        time.sleep(LEAD_S)
        say(f"{folder.name}: {[one.get('sent', {}) for one in hostiles.told()]}")
        began = time.monotonic()
        # A publisher tries its units out before: that takes as long as they do.
        job = ControlClient(owner.data_dir, timeout_s=SUBMIT_S).call(
            "submit",
            model=str(folder.parent / "model.onnx"),
            inputs=[str(one) for one in sorted((folder.parent / "in").iterdir())][:units],
            name=folder.name,
            quorum=2,
        )["job"]
        say(f"{folder.name}: published {job[:8]}")
        while (view := owner.client.call("job", job=job))["state"] == "active":
            honest.watch_memory()
            time.sleep(0.25)
        used, lasted = honest.cpu_s() - before, time.monotonic() - began
        honest.watch_memory()
        say(f"{folder.name}: {used:.2f} CPU seconds for {view['settled']} units")
        return {
            "settled": view["settled"],
            "cpu_s": round(used, 2),
            "cpu_s_per_unit": round(used / max(view["settled"], 1), 4),
            "seconds": round(lasted, 1),
            "hostile_percent": [round(one, 1) for one in hostiles.percents()],
            "sent": [one.get("sent", {}) for one in hostiles.told()],
        }
    finally:
        hostiles.end()


def measure(
    directory: Path, nodes: int, units: int, pairs: int, layers: int = 400
) -> dict[str, Any]:
    """The whole comparison; ``layers`` sets how long a unit computes."""
    model = affine_model(directory / "model.onnx", layers=layers, width=512)
    inputs(directory / "in", units, rows=4, width=512)
    attacks: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    banned = True
    with ExitStack() as stack:
        net = stack.enter_context(running_testnet(directory / "NET", nodes))
        owner = stack.enter_context(publisher(directory / "publisher", net.network))
        say("the nodes run")
        wait_until("they met", lambda: owner.client.call("status")["peers"] >= nodes)
        honest = Honest(net, nodes, owner)
        warm = ControlClient(owner.data_dir, timeout_s=SUBMIT_S).call(
            "submit", model=str(model), inputs=[str(directory / "in" / "input-000.npz")], name="w"
        )["job"]
        finished(owner.client, warm)
        say("one job is done")
        for number in range(pairs):
            folder = directory / f"attack-{number}"
            attacks.append(run(honest, owner, folder, None, units))
            wanted = peer_ids(folder)
            banned &= all(wanted <= one for one in honest.bans())
            percents = attacks[-1]["hostile_percent"]
            controls.append(run(honest, owner, directory / f"control-{number}", percents, units))
    attack, control = (
        statistics.median(one["cpu_s_per_unit"] for one in runs) for runs in (attacks, controls)
    )
    settled = all(one["settled"] == units for one in attacks + controls)
    ratio = round(attack / control, 3)
    return {
        "what": f"{nodes} volunteers and a publisher on loopback, 3 hostile peers, {units} units"
        f" of {layers} layers",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "cpu_s_per_unit": {"attack": attack, "control": control, "ratio": ratio},
        "most_memory_mb": round(honest.most_mb, 1),
        "banned_everywhere": banned,
        "all_settled": settled,
        "ok": ratio <= MOST_RATIO and honest.most_mb < MOST_MB and banned and settled,
        "attacks": attacks,
        "controls": controls,
    }


def main() -> int:
    """Measure, print, and keep what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--layers", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2pfleet-attack-") as folder:
        report = measure(Path(folder), options.nodes, options.units, options.pairs, options.layers)
    for kind in ("attacks", "controls"):
        for one in report[kind]:
            print(kind, one)
    print({key: report[key] for key in ("cpu_s_per_unit", "most_memory_mb", "banned_everywhere")})
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
