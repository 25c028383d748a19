"""Each case through plain onnxruntime and through the sandbox, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import trio

from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.core.model.job import Limits
from p2pfleet.core.wire.tensors import decode_bundle
from p2pfleet.ports import ExecutionFault, Sandbox
from tests.conformance.cases import Case, bundle_of
from tests.conformance.expected import rule_of
from tests.conformance.plain import Plain
from tests.conformance.plain import run_all as run_plainly

LIMITS = Limits(memory_bytes=512 * 2**20, cpu_ms=20_000, output_bytes=64 * 2**20)
# Here nothing is to be stopped by a limit, nor to wait, however busy the machine is.
CONFIG = SandboxConfig(load_wall_ms=600_000, wall_factor=100, idle=False, nice=0)
MAX_OUTPUT_BYTES = 2**30

Category = Literal[
    "identical", "plain fails too", "refused by a rule", "cannot travel",
    "different", "only one runs it", "child killed",
]  # fmt: skip

MEANINGS: dict[Category, str] = {
    "identical": "every output is the same, byte for byte",
    "plain fails too": "onnxruntime itself cannot run it here",
    "refused by a rule": "an admission rule keeps it out",
    "cannot travel": "texts, sequences, optionals, bfloat16, float8, int4 or int2; refused",
    "different": "MISTAKE: the sandbox's outputs differ from plain onnxruntime's",
    "only one runs it": "MISTAKE: the sandbox and plain onnxruntime disagree whether it runs",
    "child killed": "MISTAKE: the child died of a model that does plain onnxruntime no harm",
}
MISTAKES: tuple[Category, ...] = ("different", "only one runs it", "child killed")

SELF_MADE = ("model", "input", "output")
"""The faults that a child reports by itself, alive."""


class Sandboxed(NamedTuple):
    """One run; ``kind`` and ``reason`` of the fault are empty when there are outputs."""

    bundle: bytes
    kind: str
    reason: str


class Outcome(NamedTuple):
    """What became of one case; ``rule`` refused it, ``outputs`` is how many were compared."""

    case: Case
    category: Category
    reason: str = ""
    rule: str = ""
    outputs: int = 0


def compare(cases: Sequence[Case], *, at_once: int = 2) -> list[Outcome]:
    """Run them all, ``at_once`` of them at a time; one outcome a case, in their order."""
    plain = run_plainly(cases, at_once)
    sandboxed = trio.run(_run_all, cases, at_once)
    return [
        judge(case, one, other) for case, one, other in zip(cases, plain, sandboxed, strict=True)
    ]


async def _run_all(cases: Sequence[Case], at_once: int) -> list[Sandboxed]:
    results: dict[int, Sandboxed] = {}
    waiting = iter(enumerate(cases))

    async def work() -> None:
        for index, case in waiting:
            results[index] = await _run(sandbox, case)

    async with open_sandbox(CONFIG) as sandbox, trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)
    return [results[index] for index in range(len(cases))]


async def _run(sandbox: Sandbox, case: Case) -> Sandboxed:
    try:
        job = await sandbox.load(case.model, LIMITS)
        try:
            bundle = bundle_of(case.feeds)
            if bundle is None:
                return Sandboxed(b"", "", "it was loaded, but its inputs cannot travel")
            return Sandboxed((await job.execute(bundle)).outputs, "", "")
        finally:
            job.kill()
    except ExecutionFault as fault:
        return Sandboxed(b"", fault.kind, fault.reason)


def judge(case: Case, plain: Plain, boxed: Sandboxed) -> Outcome:
    """What the two runs of a case come to."""
    rule = rule_of(boxed.reason)
    died = boxed.kind not in ("", *SELF_MADE)
    if died and (plain.ran or not case.travels):
        return Outcome(case, "child killed", f"{boxed.kind}: {boxed.reason}")
    if not case.travels:
        if not boxed.kind:
            return Outcome(case, "only one runs it", "its inputs or outputs are no tensors")
        return Outcome(case, "cannot travel", boxed.reason, rule)
    if not plain.ran:
        if not boxed.kind:
            return Outcome(case, "only one runs it", f"plain onnxruntime: {plain.reason}")
        return Outcome(case, "plain fails too", plain.reason, rule)
    if rule:
        return Outcome(case, "refused by a rule", boxed.reason, rule)
    if boxed.kind:
        return Outcome(case, "only one runs it", f"{boxed.kind}: {boxed.reason}")
    if boxed.bundle != plain.bundle:
        return Outcome(case, "different", _difference(plain.bundle, boxed.bundle))
    return Outcome(case, "identical", outputs=len(decode_bundle(boxed.bundle, MAX_OUTPUT_BYTES)))


def _difference(plain: bytes | None, boxed: bytes) -> str:
    if plain is None:
        return "plain onnxruntime's outputs fit no bundle"
    ours = decode_bundle(boxed, MAX_OUTPUT_BYTES)
    theirs = decode_bundle(plain, MAX_OUTPUT_BYTES)
    for one, other in zip(theirs, ours, strict=True):
        if (one.name, one.dtype, one.shape) != (other.name, other.dtype, other.shape):
            return f"{one.dtype}{list(one.shape)} there, {other.dtype}{list(other.shape)} here"
        if one.data != other.data:
            count = sum(a != b for a, b in zip(one.data, other.data, strict=True))
            return f"output {one.name!r} differs in {count} of {len(one.data)} bytes"
    return "the bundles are written differently"
