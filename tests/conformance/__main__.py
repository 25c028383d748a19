"""ONNX's own node tests through the sandbox, held against plain onnxruntime.

    python -m tests.conformance [--sample N --seed SEED] [--only NAME ...] [--output FILE.json]

Every case runs once in a process with plain onnxruntime (with the options of the sandbox) and once
through the sandbox on the same machine; the outputs are compared byte for byte. Exits with 1 when
one differs, when a child dies of a model that plain onnxruntime runs, and, if all cases ran, when
fewer than 1,480 are identical or the rules refuse other operators than expected.py says.
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

import onnx
import psutil

from tests.conformance.cases import Case, all_cases, sample
from tests.conformance.comparison import MEANINGS, MISTAKES, Outcome, compare
from tests.conformance.expected import REFUSED, refused_operators, surprises

TARGET = 1480


def main(arguments: argparse.Namespace) -> int:
    """Run, print, write; returns the exit status."""
    cases = chosen(arguments)
    whole = len(cases) == len(all_cases())
    began = time.monotonic()
    outcomes = compare(cases)
    report = summarize(outcomes, time.monotonic() - began)
    print_table(report, outcomes)
    complaints = surprises([(one.case, one.rule) for one in outcomes if one.rule])
    if whole:
        never = sorted(REFUSED.keys() - report["refused"].keys())
        complaints += [
            f"{name} is not refused any more: take it out of expected.py" for name in never
        ]
        if report["cases"]["identical"] < TARGET:
            complaints.append(f"{report['cases']['identical']} identical, the target is {TARGET}")
    complaints += [
        f"{one.case.name} ({', '.join(one.case.op_types)}): {one.category}: {one.reason}"
        for one in outcomes
        if one.category in MISTAKES
    ]
    for complaint in complaints:
        print(f"WRONG  {complaint}")
    report["ok"] = not complaints
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if complaints else 0


def chosen(arguments: argparse.Namespace) -> tuple[Case, ...]:
    """The cases that the command line asks for."""
    cases = all_cases()
    if arguments.only:
        unknown = set(arguments.only) - {case.name for case in cases}
        if unknown:
            raise SystemExit(f"No such test: {', '.join(sorted(unknown))}.")
        return tuple(case for case in cases if case.name in arguments.only)
    if arguments.sample:
        print(f"{arguments.sample} of {len(cases)} cases, --seed {arguments.seed}")
        return sample(cases, arguments.seed, min(arguments.sample, len(cases)))
    return cases


def summarize(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """The result as it is written down."""
    counts = Counter(one.category for one in outcomes)
    return {
        "what": "the node tests of the onnx package: plain onnxruntime against the sandbox",
        "machine": f"{psutil.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "onnx": onnx.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "total": len(outcomes),
        "target_identical": TARGET,
        "cases": {category: counts[category] for category in MEANINGS},
        "identical_outputs": sum(one.outputs for one in outcomes),
        "refused": refused_operators([(one.case, one.rule) for one in outcomes if one.rule]),
        "plain_fails_too": sorted(
            one.case.name for one in outcomes if one.category == "plain fails too"
        ),
        "mistakes": {
            one.case.name: f"{one.category}: {one.reason}"
            for one in outcomes
            if one.category in MISTAKES
        },
    }


def print_table(report: dict[str, Any], outcomes: list[Outcome]) -> None:
    """For people."""
    print(f"{report['total']} cases in {report['seconds']} s, onnxruntime {report['onnxruntime']}")
    for category, meaning in MEANINGS.items():
        print(f"{report['cases'][category]:6}  {category:<18} {meaning}")
    print(f"{report['identical_outputs']:6}  outputs were compared and are identical")
    cases = Counter((one.rule, operator) for one in outcomes for operator in _blamed(one))
    for (rule, operator), count in sorted(cases.items()):
        print(f"        refused: {operator:<34} {rule:<24} {count} cases")


def _blamed(outcome: Outcome) -> list[str]:
    return list(refused_operators([(outcome.case, outcome.rule)])) if outcome.rule else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--sample", type=int, metavar="N", help="only so many of the cases")
    parser.add_argument("--seed", default="0", help="which ones")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these cases")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    sys.exit(main(parser.parse_args()))
