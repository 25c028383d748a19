"""What an attack costs honest nodes: CPU seconds a settled unit, against a silent control.

    python -m tests.bench.attack [--nodes 4] [--units 24] [--rows 4] [--pairs 2]
                                 [--output FILE.json]

Real processes on loopback: volunteers, a publisher, and three hostile peers
(``tests/e2e/hostile_peer.py``: a spammer, a forger, a clinger) that attack every one of them. Of
every pair of runs one is an attack by peers with fresh keys, and one a control in which the same
processes burn, silently, the CPU that the attackers used. Measured is the CPU time of all processes
of the honest nodes, their sandboxes included, from the publication of the job, with which the
attack begins, to the job's end, and their memory; loopback is spared every budget of addresses, so
what is seen here is what keys alone cost. Most of an attack's cost comes before the bans, once: so
the factor depends on how long the job is, which ``seconds`` and ``cpu_s`` of each run tell.
``--rows`` sets how long a unit computes (4: about a tenth of a second, 64: about half a second).
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
from collections.abc import Sequence
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
BANS_S = 30.0
"""How long a short job's end is waited beyond for the last ban."""


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
    """Three processes of one run. They are ready when this is made, and begin at :meth:`begin`."""

    def __init__(
        self, folder: Path, plan: dict[str, Any], percents: list[float] | None, kinds: Sequence[str]
    ) -> None:
        folder.mkdir()
        self._outputs = [folder / f"{kind}.json" for kind in kinds]
        self._go = folder / "go"
        self._processes = []
        for number, kind in enumerate(kinds):
            file = folder / f"{kind}.plan"
            mine = {**plan, "kind": kind, "seed": f"{folder}-{kind}", "go": str(self._go)}
            mine["output"] = str(self._outputs[number])
            if percents is not None:
                mine |= {"kind": "burner", "percent": percents[number]}
            file.write_text(json.dumps(mine))
            command = [sys.executable, "-m", "tests.e2e.hostile_peer", str(file)]
            self._processes.append(subprocess.Popen(command))
        try:
            wait_until("the hostile processes run", lambda: all(self.told()))
        except BaseException:
            self.end()
            raise

    def begin(self) -> None:
        """Let them."""
        self._before = [one["cpu_s"] for one in self.told()]
        self._began = time.monotonic()
        self._go.touch()

    def told(self) -> list[dict[str, Any]]:
        """What each of them used and sent until now; empty before its first word."""
        return [json.loads(one.read_text()) if one.exists() else {} for one in self._outputs]

    def percents(self) -> list[float]:
        """How much of a core each of them used since they began."""
        passed = time.monotonic() - self._began
        used = zip(self.told(), self._before, strict=True)
        return [100 * max(0.0, one["cpu_s"] - before) / passed for one, before in used]

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10)


def peer_ids(folder: Path, kinds: Sequence[str] = KINDS) -> set[str]:
    """The attackers of a run, by the seeds that they were given."""
    import hashlib

    from p2pfleet.core.model.ids import peer_text
    from p2pfleet.runtime.signing import Signer

    seeds = [hashlib.sha256(f"{folder}-{kind}".encode()).digest() for kind in kinds]
    return {peer_text(Signer(seed).peer) for seed in seeds}


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def banned_everywhere(honest: Honest, attackers: set[str]) -> bool:
    """Whether every honest node bans all of them, now or within a while."""
    deadline = time.monotonic() + BANS_S
    while not all(attackers <= one for one in honest.bans()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def run(
    honest: Honest, owner: NodeProcess, folder: Path, percents: list[float] | None, units: int
) -> dict[str, Any]:
    """One job under attack, or beside the control if ``percents`` says how much to burn."""
    status = [one.call("status") for one in honest.clients]
    plan = {
        "victims": [one["addresses"][0] for one in status],
        "network": status[0]["network"]["id"],
    }
    hostiles = Hostiles(folder, plan, percents, KINDS)
    try:
        # A publisher tries its units out before: that takes as long as they do.
        job = ControlClient(owner.data_dir, timeout_s=SUBMIT_S).call(
            "submit",
            model=str(folder.parent / "model.onnx"),
            inputs=[str(one) for one in sorted((folder.parent / "in").iterdir())][:units],
            name=folder.name,
            quorum=2,
        )["job"]
        say(f"{folder.name}: published {job[:8]}")
        before, began = honest.cpu_s(), time.monotonic()
        hostiles.begin()
        while (view := owner.client.call("job", job=job))["state"] == "active":
            honest.watch_memory()
            time.sleep(0.25)
        used, lasted = honest.cpu_s() - before, time.monotonic() - began
        say(f"{folder.name}: {used:.2f} CPU seconds in {lasted:.0f} s, {view['settled']} units")
        found = {
            "settled": view["settled"],
            "cpu_s": round(used, 2),
            "cpu_s_per_unit": round(used / max(view["settled"], 1), 4),
            "seconds": round(lasted, 1),
            "hostile_percent": [round(one, 1) for one in hostiles.percents()],
        }
        if percents is None:
            found["banned"] = banned_everywhere(honest, peer_ids(folder))
        found["sent"] = [one.get("sent", {}) for one in hostiles.told()]
        honest.watch_memory()
        return found
    finally:
        hostiles.end()


def measure(directory: Path, nodes: int, units: int, pairs: int, rows: int = 4) -> dict[str, Any]:
    """The whole comparison; ``rows`` sets how long a unit computes."""
    model = affine_model(directory / "model.onnx", layers=400, width=512)
    inputs(directory / "in", units, rows=rows, width=512)
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
            banned &= attacks[-1]["banned"]
            percents = attacks[-1]["hostile_percent"]
            controls.append(run(honest, owner, directory / f"control-{number}", percents, units))
    attack, control = (
        statistics.median(one["cpu_s_per_unit"] for one in runs) for runs in (attacks, controls)
    )
    settled = all(one["settled"] == units for one in attacks + controls)
    ratio = round(attack / control, 3)
    return {
        "what": f"{nodes} volunteers and a publisher on loopback, 3 hostile peers, {units} units"
        f" of {rows} rows",
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
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2pfleet-attack-") as folder:
        report = measure(Path(folder), options.nodes, options.units, options.pairs, options.rows)
    for kind in ("attacks", "controls"):
        for one in report[kind]:
            print(kind, one)
    print({key: report[key] for key in ("cpu_s_per_unit", "most_memory_mb", "banned_everywhere")})
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
