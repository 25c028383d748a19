"""What the sandbox costs: each figure beside its target and beside plain onnxruntime.

    python tests/bench/sandbox.py [--quick] [--normal-priority] [--output FILE.json]

Plain onnxruntime runs in a process of its own with the session options, the scheduling policy and
the niceness of the sandbox's children; its time is taken inside that process, from the bytes of an
input bundle to the bytes of an output bundle, which is what a child does as well ("bare": the
session's run alone). Sandbox and plain onnxruntime take turns, so that whatever else the machine
does hits both; the figures are medians over the rounds. Exits with 1 when a target is missed.

Children run at the lowest priority. On a busy machine every call then waits for its turn, before
plain onnxruntime's clock starts and after the sandbox's did: only figures of a quiet machine say
what the sandbox costs. With --normal-priority neither waits for anybody.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import psutil
import trio
from onnx import TensorProto, helper, numpy_helper

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, open_sandbox
from p2pfleet.adapters.sandbox.inside.model import Model, open_session
from p2pfleet.core.model.job import Limits
from p2pfleet.core.wire.tensors import Tensor, decode_bundle, encode_bundle

LIMITS = Limits(memory_bytes=2**30, cpu_ms=60_000, output_bytes=2**28)
TUNED_MS = 14.0
QUIET_LOAD = 0.5
MEMORY = {
    "resident": ("Rss",),
    "shared divided": ("Pss",),
    "own": ("Private_Clean", "Private_Dirty", "Private_Hugetlb"),
}
POLICIES = {
    getattr(os, name): name
    for name in ("SCHED_OTHER", "SCHED_IDLE", "SCHED_BATCH")
    if hasattr(os, name)
}


class Call(NamedTuple):
    """One kind of call to measure; ``limit`` is in ms, or a ratio to plain onnxruntime."""

    name: str
    model: bytes
    bundle: bytes
    rounds: int
    limit_ms: float | None = None
    limit_ratio: float | None = None


class Figure(NamedTuple):
    """One line of the table; ``target`` for people, ``ok`` is ``None`` where there is none."""

    name: str
    unit: str
    measured: float
    plain: float | None
    bare: float | None
    ratio: float | None
    target: str
    ok: bool | None
    rounds: int
    quartiles: tuple[float, float] | None


# ---- models ----------------------------------------------------------------------------------


def doubling() -> bytes:
    """y = x + x, a list of any length."""
    return _model([helper.make_node("Add", ["x", "x"], ["y"])], ["n"], ["n"], {})


def convolutions(layers: int) -> bytes:
    """A small classifier of pictures of 112 x 112 points with so many inner convolutions."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> Any:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {"stem": weights(32, 3, 3, 3), "classes": weights(10, 32)}
    nodes = [helper.make_node("Conv", ["x", "stem"], ["r"], strides=[2, 2], pads=[1, 1, 1, 1])]
    value = "r"
    for i in range(layers):
        constants[f"w{i}"] = weights(32, 32, 3, 3)
        nodes += [
            helper.make_node("Conv", [value, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        value = f"r{i}"
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "classes"], ["y"], transB=1),
    ]
    return _model(nodes, [1, 3, 112, 112], [1, 10], constants)


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def bundle(*shape: int) -> bytes:
    """Random numbers for the input ``x``."""
    x = np.random.default_rng(5).standard_normal(shape, np.float32)
    return encode_bundle((Tensor("x", "float32", x.shape, x.tobytes()),))


# ---- plain onnxruntime, in its own process -----------------------------------------------------


def plain_process(connection: Connection, policy: int, nice: int) -> None:
    """Answer orders with the time they took, in seconds, until the other end hangs up."""
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    os.sched_setscheduler(0, policy, os.sched_param(0))
    data, model, session, target = b"", None, None, bytearray()
    with suppress(EOFError):
        while True:
            order, *rest = connection.recv()
            began = time.perf_counter()
            if order == "open":
                open_session(rest[0])
            elif order == "load":
                content, data = rest
                model, session = Model(content.__bytes__), open_session(content)
                result = model.run(memoryview(data), LIMITS.output_bytes)
                target = bytearray(result.size)
                feeds = _feeds(data)
            elif order == "call":
                assert model is not None
                model.run(memoryview(data), LIMITS.output_bytes).write(memoryview(target))
            elif order == "bare":
                assert session is not None
                session.run(["y"], feeds)
            else:
                raise AssertionError(order)
            connection.send(time.perf_counter() - began)


def _feeds(data: bytes) -> dict[str, Any]:
    return {
        one.name: np.frombuffer(one.data, one.dtype).reshape(one.shape).copy()
        for one in decode_bundle(data, len(data))
    }


class Plain:
    """The near end of :func:`plain_process`."""

    def __init__(self, policy: int, nice: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=plain_process, args=(theirs, policy, nice))
        self._process.start()
        theirs.close()

    def ms(self, *order: Any) -> float:
        """Carry out an order; how long it took over there."""
        self._ours.send(order)
        seconds: float = self._ours.recv()
        return seconds * 1000

    def close(self) -> None:
        self._ours.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


# ---- measuring ---------------------------------------------------------------------------------


async def measure_cold_start(config: SandboxConfig, rounds: int) -> Figure:
    """From nothing to a server that takes orders; plain: an interpreter that can open a session."""
    measured, plain = [], []
    program = (
        "import p2pfleet\nfrom p2pfleet.adapters.sandbox.inside.warm import warm_up\nwarm_up()\n"
    )
    for _ in range(rounds):
        began = time.perf_counter()
        async with open_sandbox(config):
            measured.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        await trio.run_process([sys.executable, "-c", program])
        plain.append((time.perf_counter() - began) * 1000)
    return _figure("cold start of the server", measured, plain, None, None, None)


async def measure_new_job(sandbox: SandboxPool, plain: Plain, rounds: int) -> Figure:
    """Start a child, lock it down, load a tiny model; plain: open a session."""
    model = doubling()
    measured, reference = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        job = await sandbox.load(model, LIMITS)
        measured.append((time.perf_counter() - began) * 1000)
        job.kill()
        reference.append(plain.ms("open", model))
    return _figure("new job, tiny model", measured, reference, None, 15.0, None)


async def measure_call(sandbox: SandboxPool, plain: Plain, call: Call) -> Figure:
    """One unit, from its input bundle to its output bundle."""
    job = await sandbox.load(call.model, LIMITS)
    try:
        plain.ms("load", call.model, call.bundle)
        measured, reference, bare = [], [], []
        for number in range(call.rounds + 3):
            began = time.perf_counter()
            await job.execute(call.bundle)
            taken = (time.perf_counter() - began) * 1000
            times = taken, plain.ms("call"), plain.ms("bare")
            if number >= 3:  # the first ones grow heaps and arenas
                measured.append(times[0])
                reference.append(times[1])
                bare.append(times[2])
    finally:
        job.kill()
    return _figure(call.name, measured, reference, bare, call.limit_ms, call.limit_ratio)


async def measure_memory(sandbox: SandboxPool, model: bytes, data: bytes) -> list[Figure]:
    """What a child holds after it has run a unit of ``model``; empty where nobody may look."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    job = await sandbox.load(model, LIMITS)
    try:
        await job.execute(data)
        pids = {one.pid for one in psutil.Process().children(recursive=True)} - before
        return [
            Figure(f"memory of a child, {name}", "MiB", size, None, None, None, "-", None, 1, None)
            for name, keys in MEMORY.items()
            if (size := round(sum(_rollup(pid, keys) for pid in pids), 1))
        ]
    finally:
        job.kill()


def _rollup(pid: int, keys: tuple[str, ...]) -> float:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(one.split()[1]) for one in lines if one.partition(":")[0] in keys) / 1024
    return 0.0


async def priority_of_children(sandbox: SandboxPool) -> tuple[int, int]:
    """The scheduling policy and the niceness that a child computes with."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    job = await sandbox.load(doubling(), LIMITS)
    try:
        await job.execute(bundle(4))
        (pid,) = {one.pid for one in psutil.Process().children(recursive=True)} - before
        return os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid)
    finally:
        job.kill()


def tuned(plain: Plain) -> tuple[bytes, bytes]:
    """A model that takes 10 to 20 ms on this machine, and an input for it."""
    data, layers = bundle(1, 3, 112, 112), 12
    for _ in range(5):
        plain.ms("load", convolutions(layers), data)
        taken = statistics.median(plain.ms("bare") for _ in range(25))
        if 11 <= taken <= 18:
            break
        layers = max(1, round(layers * TUNED_MS / taken))
    return convolutions(layers), data


def _figure(
    name: str,
    measured: list[float],
    plain: list[float],
    bare: list[float] | None,
    limit_ms: float | None,
    limit_ratio: float | None,
) -> Figure:
    value, reference = statistics.median(measured), statistics.median(plain)
    # Neighbours in time share the machine's mood: the median of their ratios, not the ratio of
    # the medians.
    ratio = statistics.median(ours / theirs for ours, theirs in zip(measured, plain, strict=True))
    target, ok = "-", None
    if limit_ms is not None:
        target, ok = f"<= {limit_ms:g} ms", value <= limit_ms
    if limit_ratio is not None:
        target, ok = f"<= {limit_ratio:g}x", ratio <= limit_ratio
    low, _, high = statistics.quantiles(measured, n=4)
    return Figure(
        name,
        "ms",
        round(value, 3),
        round(reference, 3),
        round(statistics.median(bare), 3) if bare else None,
        round(ratio, 3),
        target,
        ok,
        len(measured),
        (round(low, 3), round(high, 3)),
    )


async def measure(config: SandboxConfig, scale: Callable[[int], int]) -> tuple[list[Figure], str]:
    """All figures, and how the children are scheduled."""
    figures = [await measure_cold_start(config, scale(7))]
    async with open_sandbox(config) as sandbox:
        policy, nice = await priority_of_children(sandbox)
        plain = Plain(policy, nice)
        try:
            model, data = tuned(plain)
            figures.append(await measure_new_job(sandbox, plain, scale(100)))
            for call in (
                Call("call, 1 KB in and out", doubling(), bundle(256), scale(500), limit_ms=0.3),
                Call("call, 1 MB in and out", doubling(), bundle(2**18), scale(100)),
                Call(
                    "call, 64 MB in and out", doubling(), bundle(2**24), scale(20), limit_ratio=5.0
                ),
                Call("call, a 10-20 ms model", model, data, scale(120), limit_ratio=1.03),
            ):
                figures.append(await measure_call(sandbox, plain, call))
            figures += await measure_memory(sandbox, model, data)
        finally:
            plain.close()
    return figures, f"{POLICIES.get(policy, policy)}, nice {nice}"


def print_table(figures: list[Figure], priority: str, load: float) -> None:
    print(f"children and plain onnxruntime alike: {priority}; load of the machine {load:.1f}")
    if load > QUIET_LOAD and "SCHED_IDLE" in priority:
        print(
            "others are computing: at this priority calls wait for them; only a quiet machine tells"
        )
    print(
        f"{'':<36}{'sandbox':>10}{'plain':>10}{'bare':>10}{'ratio':>8}  {'target':<10}  "
        f"quartiles (rounds)"
    )
    for one in figures:
        plain, bare, ratio = (
            f"{value:.3f}" if value is not None else "-"
            for value in (one.plain, one.bare, one.ratio)
        )
        met = {True: "met", False: "MISSED", None: ""}[one.ok]
        spread = f"{one.quartiles[0]:.3f} to {one.quartiles[1]:.3f} " if one.quartiles else ""
        print(
            f"{one.name + ', ' + one.unit:<36}{one.measured:>10.3f}{plain:>10}{bare:>10}{ratio:>8}"
            f"  {one.target:<10}  {spread}({one.rounds})  {met}".rstrip()
        )


def main(quick: bool, normal_priority: bool, output: Path | None) -> int:
    load = os.getloadavg()[0]
    config = SandboxConfig(idle=False, nice=0) if normal_priority else SandboxConfig()
    figures, priority = trio.run(
        measure, config, lambda rounds: max(5, rounds // 5) if quick else rounds
    )
    print_table(figures, priority, load)
    report = {
        "what": "the sandbox against plain onnxruntime with the same options, medians",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "onnx": onnx.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(load, 2),
        "priority": priority,
        "figures": [one._asdict() for one in figures],
        "ok": all(one.ok is not False for one in figures),
    }
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--normal-priority", action="store_true", help="children that do not wait")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    sys.exit(main(arguments.quick, arguments.normal_priority, arguments.output))
