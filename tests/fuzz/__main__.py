"""Mutated models through the sandbox until the time is up.

    python -m tests.fuzz [--seed SEED] [--seconds S] [--output FILE.json]
    python -m tests.fuzz --seed SEED --only INDEX [--save FOLDER]

Exits with 1 when the node suffered: a server that ended, an honest model that was not served, a
process, a descriptor or shared memory left behind, or an error that is no answer. Children that
die are counted and told with their index; --only runs one of them again (on the same versions of
onnx and numpy), --save writes its model and its inputs to a folder.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import trio

from tests.fuzz.campaign import LIMITS, Result, run_campaign
from tests.fuzz.mutants import mutant


def main(arguments: argparse.Namespace) -> int:
    """Run, print, write; returns the exit status."""
    if arguments.only is not None:
        describe(arguments.seed, arguments.only, arguments.save)
    began = time.monotonic()
    result = trio.run(lambda: run_campaign(arguments.seed, arguments.seconds, only=arguments.only))
    report = summarize(arguments.seed, result, time.monotonic() - began)
    print_table(report)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["ok"] else 1


def describe(seed: str, index: int, folder: Path | None) -> None:
    """Print what a mutant is, and write it down if there is a folder to write to."""
    one = mutant(seed, index)
    print(f"index {index}: {one.base}, {', '.join(one.mutations)}; {len(one.model)} bytes")
    print(f"operators: {', '.join(one.op_types)}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.onnx").write_bytes(one.model)
        tensors = {name: v for name, v in one.feeds.items() if isinstance(v, np.ndarray)}
        np.savez(folder / f"{index}.npz", **tensors)  # type: ignore[arg-type]
        print(f"written to {folder}")


def summarize(seed: str, result: Result, seconds: float) -> dict[str, Any]:
    """The result as it is written down."""
    return {
        "what": "models mutated from the node tests of the onnx package, through the sandbox",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "onnx": onnx.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "seed": seed,
        "limits": {"memory_bytes": LIMITS.memory_bytes, "cpu_ms": LIMITS.cpu_ms},
        "models": result.models,
        "honest_jobs": result.rounds + 1,
        "endings": dict(sorted(result.endings.items())),
        "crashes_by_operators": dict(
            Counter(
                ", ".join(death.op_types[:4]) for death in result.deaths if death.kind == "crash"
            ).most_common()
        ),
        "deaths": [death._asdict() for death in sorted(result.deaths)],
        "mistakes": result.mistakes,
        "ok": not result.mistakes,
    }


def print_table(report: dict[str, Any]) -> None:
    """For people."""
    print(
        f"{report['models']} models in {report['seconds']} s, seed {report['seed']}; "
        f"{report['honest_jobs']} honest jobs in between"
    )
    for ending, count in report["endings"].items():
        print(f"{count:8}  {ending}")
    for death in report["deaths"]:
        if death["kind"] == "crash":
            print(
                f"crash at {death['phase']}, index {death['number']}: {death['reason']}; "
                f"{', '.join(death['op_types'][:4])} ({', '.join(death['mutations'])})"
            )
    for mistake in report["mistakes"]:
        print(f"WRONG  {mistake}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seed", default="0")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", type=int, metavar="INDEX", help="run this mutant alone")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="with --only: write it there")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    sys.exit(main(parser.parse_args()))
