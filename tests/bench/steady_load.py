"""Nodes under continuous small jobs: is anything lost, does anything grow?

    python tests/bench/steady_load.py [--minutes 10] [--nodes 5] [--output FILE.json]

Real processes on loopback. Every few seconds a job of a few small units is published; every
certified output is compared with plain onnxruntime's. Once in ten seconds each node's memory,
tasks, file descriptors and connections are read from its control socket, its threads from the
system; at the end a straight line is laid through the second half of each series (in the first,
caches and the memory of ended jobs fill), and its slope an hour is printed. "Flat" means: in a day
the slope would add less than a fifth of what is there, or it is less than what the scatter of the
series can make.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
from onnx import TensorProto, helper

from p2pfleet.adapters.control.client import ControlClient
from p2pfleet.core.errors import P2pfleetError

SERIES = ("memory_mb", "tasks", "open_files", "threads", "peers")
SAMPLE_S = 10.0
UNITS = 4


def make_model(path: Path) -> None:
    """A MatMul of 32 x 32 with a constant, and its row sums."""
    weights = np.random.default_rng(7).standard_normal((32, 32)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("ReduceSum", ["y", "axes"], ["sums"], keepdims=0),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32]),
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n"]),
        ],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def p2pfleet(*args: str) -> Any:
    """Run a command of the project and return its JSON document."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pfleet.cli.main", *args, "--json"],
        check=True,
        stdout=subprocess.PIPE,
        timeout=180,
    )
    return json.loads(done.stdout)


def start_publisher(base: Path) -> tuple[subprocess.Popen[bytes], ControlClient]:
    folder = base / "publisher"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "p2pfleet.cli.main", "run",
            "--network", str(base / "net" / "network.toml"),
            "--data-dir", str(folder), "--listen", "/ip4/127.0.0.1/tcp/0", "--profile", "publisher",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(base / "publisher.log").open("wb"),
    )  # fmt: skip
    client = ControlClient(folder)
    deadline = time.monotonic() + 60
    while not client.alive():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit((base / "publisher.log").read_text()[-2000:])
        time.sleep(0.2)
    return process, client


def slope_per_hour(times: list[float], values: list[float]) -> float:
    """Least squares over the second half of the series."""
    start = len(times) // 2
    return float(np.polyfit(times[start:], values[start:], 1)[0]) * 3600


def run(minutes: float, nodes: int, output: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="p2pfleet-steady-") as folder:
        return _run(Path(folder), minutes, nodes, output)


def _run(base: Path, minutes: float, nodes: int, output: Path | None) -> int:
    net = base / "net"
    p2pfleet("testnet", "up", "--nodes", str(nodes), "--dir", str(net))
    process: subprocess.Popen[bytes] | None = None
    try:
        process, publisher = start_publisher(base)
        clients = {path.name: ControlClient(path) for path in sorted(net.glob("node-*"))}
        clients["publisher"] = publisher
        model = base / "small.onnx"
        make_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options)
        series: dict[str, dict[str, list[float]]] = {
            name: {key: [] for key in (*SERIES, "cpu_s")} for name in clients
        }
        processes = {
            name: psutil.Process(client.call("status")["pid"]) for name, client in clients.items()
        }
        times: list[float] = []
        jobs = units = settled = wrong = 0
        latencies: list[float] = []
        random = np.random.default_rng(1)
        began = time.monotonic()
        next_sample = 0.0
        while (elapsed := time.monotonic() - began) < minutes * 60:
            if elapsed >= next_sample:
                next_sample += SAMPLE_S
                times.append(elapsed)
                for name, client in clients.items():
                    status = client.call("status")
                    status["threads"] = processes[name].num_threads()
                    for key in SERIES:
                        series[name][key].append(float(status[key]))
                    cpu = processes[name].cpu_times()
                    series[name]["cpu_s"].append(cpu.user + cpu.system)
                print(
                    f"{elapsed:6.0f} s  {jobs} jobs, {settled}/{units} settled, {wrong} wrong",
                    file=sys.stderr,
                )
            inputs = []
            for number in range(UNITS):
                path = base / f"input-{number}.npz"
                np.savez(path, x=random.standard_normal((8, 32)).astype(np.float32))
                inputs.append(str(path))
            start = time.monotonic()
            job = publisher.call(
                "submit",
                model=str(model),
                inputs=inputs,
                name=f"steady {jobs}",
                lease_s=20,
                expires_h=0.05,
            )["job"]
            jobs += 1
            units += UNITS
            view = wait_for(publisher, job)
            latencies.append(time.monotonic() - start)
            settled += view["settled"]
            results = base / "results"
            publisher.call("results", job=job, output=str(results))
            for number, path in enumerate(inputs):
                expected = session.run(["y", "sums"], {"x": np.load(path)["x"]})
                with np.load(results / "outputs" / f"{number:06d}.npz") as found:
                    for name, value in zip(("y", "sums"), expected, strict=True):
                        if not np.array_equal(found[name], value):
                            wrong += 1
                            difference = float(np.abs(found[name] - value).max())
                            print(f"job {job} unit {number} {name}: {difference}", file=sys.stderr)
        seconds = time.monotonic() - began
        report = summarize(series, times, seconds, jobs, units, settled, wrong, latencies)
        print_table(report)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n")
        return 0 if report["ok"] else 1
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        p2pfleet("testnet", "down", "--dir", str(net))


def wait_for(publisher: ControlClient, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        view: dict[str, Any] = publisher.call("job", job=job)
        if view["state"] != "active":
            return view
        time.sleep(0.1)
    raise P2pfleetError(f"The job {job} was not done in two minutes: {view}.")


def summarize(
    series: dict[str, dict[str, list[float]]],
    times: list[float],
    seconds: float,
    jobs: int,
    units: int,
    settled: int,
    wrong: int,
    latencies: list[float],
) -> dict[str, Any]:
    nodes = {}
    ok = settled == units and wrong == 0
    for name, values in series.items():
        rows = {}
        for key in SERIES:
            slope = slope_per_hour(times, values[key])
            level = float(np.median(values[key]))
            flat = abs(slope) * 24 < max(level, 1) * 0.2 or abs(slope) < noise(values[key], seconds)
            rows[key] = {
                "first": values[key][0],
                "median": level,
                "last": values[key][-1],
                "slope_per_hour": round(slope, 3),
                "flat": flat,
            }
        rows["memory_mb"]["series"] = [round(value, 1) for value in values["memory_mb"]]
        cpu = values["cpu_s"]
        rows["cpu_share"] = {"mean": round((cpu[-1] - cpu[0]) / max(times[-1] - times[0], 1), 4)}
        nodes[name] = rows
    return {
        "what": f"{len(series) - 1} volunteers, a publisher, endless jobs of {UNITS} small units",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "jobs": jobs,
        "units": units,
        "settled": settled,
        "wrong": wrong,
        "job_seconds": {
            "median": round(float(np.median(latencies)), 3),
            "p99": round(float(np.percentile(latencies, 99)), 3),
            "max": round(max(latencies), 3),
        },
        "ok": ok,
        "nodes": nodes,
    }


def noise(values: list[float], seconds: float) -> float:
    """The slope an hour that the scatter of the series alone can make: one range over the run."""
    tail = values[len(values) // 2 :]
    return float(np.percentile(tail, 90) - np.percentile(tail, 10)) / (seconds / 2) * 3600


def print_table(report: dict[str, Any]) -> None:
    print(
        f"{report['seconds']:.0f} s, {report['jobs']} jobs, {report['settled']} of "
        f"{report['units']} units settled, {report['wrong']} wrong; a job takes "
        f"{report['job_seconds']['median']} s (median), {report['job_seconds']['max']} s at most"
    )
    print(f"{'node':<12}{'figure':<12}{'first':>9}{'median':>9}{'last':>9}{'slope/h':>10}  flat")
    for name, rows in report["nodes"].items():
        for key in SERIES:
            row = rows[key]
            print(
                f"{name:<12}{key:<12}{row['first']:>9.1f}{row['median']:>9.1f}{row['last']:>9.1f}"
                f"{row['slope_per_hour']:>10.2f}  {'yes' if row['flat'] else 'NO'}"
            )
        print(f"{name:<12}{'cpu':<12}{rows['cpu_share']['mean']:>9.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sys.exit(run(arguments.minutes, arguments.nodes, arguments.output))
