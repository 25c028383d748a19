"""The publisher's trial of its own job, before anybody hears of it.

In the publisher's own sandbox: the model is loaded, the first unit's work is counted, it is run,
and run again with an input moved a little; then the ringers are run.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from p2pfleet.conditioning import Conditioning, examine
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import Cid
from p2pfleet.core.model.job import Comparison, Exact, Limits, UnitTable
from p2pfleet.core.rules.comparison import FLOATS
from p2pfleet.core.rules.consent import STRANGERS_GRADES
from p2pfleet.ports import (
    ExecutionFault,
    ModelSignature,
    Packs,
    Sandbox,
    SandboxJob,
    SandboxReport,
)
from p2pfleet.ringers import PATIENCE_MS, Bench, Ringers, compute, how_many
from p2pfleet.submission import SubmitRequest

LONG_TRIAL_S = 10


class Findings(msgspec.Struct, frozen=True):
    """``warnings``: why volunteers may not agree; ``notes``: what was not tested or took long."""

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class FirstUnit(msgspec.Struct, frozen=True):
    """The first unit, by ``name``: its ``work``, how it took being run again, and how long that
    took in all."""

    name: str
    work: int
    conditioning: Conditioning
    seconds: float


_LIMIT_ADVICE = {
    "cpu": "Raise --cpu-s, or make smaller units with --split AXIS:SIZE. (If that limit is this "
    "node's own, it is unit_cpu_s in its node.toml.)",
    "memory": "Raise --memory-mb, or make smaller units with --split AXIS:SIZE. (If that limit is "
    "this node's own, it is memory_mb in its node.toml.)",
    "output": "Raise --output-mb, or make smaller units with --split AXIS:SIZE.",
    "wall": "This machine is too slow or too busy for it. Try again later, or make smaller units "
    "with --split AXIS:SIZE.",
    "killed": "The node's sandbox was ended meanwhile. Try again.",
}
_UNIT_ADVICE = "Volunteers would fail in the same way: correct the model or the input."


async def load_own(model: bytes, limits: Limits, sandbox: Sandbox, path: str) -> SandboxJob:
    """A child that has admitted and loaded the model, by the same rules as a volunteer's."""
    try:
        return await sandbox.load(model, limits)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"{path} cannot be used as a model: {_plain(fault.reason)}",
            _LIMIT_ADVICE.get(
                fault.kind,
                "Volunteers would refuse it as well. It has to be an ONNX file that onnxruntime "
                "loads within the job's limits, and keep to what protocol/volunteers.md admits.",
            ),
        ) from fault


def unconfined(report: SandboxReport) -> tuple[str, ...]:
    if report.capability.grade in STRANGERS_GRADES:
        return ()
    return (
        f"the model was tried with weaker locks than volunteers have "
        f"(grade {report.capability.grade}): publish only models that you trust. {report.reason}",
    )


def _plain(reason: str) -> str:
    """A fault's reason for the publisher, whose own child it is that speaks."""
    return reason.removeprefix('the child says: "').removesuffix('"')


def exact_floats(comparison: Comparison, signature: ModelSignature) -> bool:
    """Whether floating outputs are compared byte for byte."""
    return isinstance(comparison, Exact) and any(spec.dtype in FLOATS for spec in signature.outputs)


async def run_first(child: SandboxJob, inputs: bytes, name: str) -> FirstUnit:
    """Count and run the first unit in a child that has just loaded the model.

    Raises :class:`P2pfleetError` if it cannot be run.
    """
    started = trio.current_time()
    try:
        work = await child.count(inputs)
        found = await examine(child, inputs)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"The first unit ({name}) cannot be run: {_plain(fault.reason)}",
            _LIMIT_ADVICE.get(fault.kind, _UNIT_ADVICE),
        ) from fault
    return FirstUnit(name, work, found, trio.current_time() - started)


def findings(first: FirstUnit, *, floats_exact: bool, strict: bool) -> Findings:
    """What comes of running the first unit again.

    ``floats_exact``: floating outputs are compared byte for byte. Raises :class:`P2pfleetError` for
    warnings with ``strict``.
    """
    found, where = first.conditioning, f"first unit ({first.name}): "
    notes = []
    if found.verdict == "too long" and strict:
        raise P2pfleetError(
            f"The job was not published; {where}{found.sentence}.",
            "Make smaller units with --split AXIS:SIZE, or leave --strict out.",
        )
    if found.verdict in ("too long", "untested"):
        notes.append(where + found.sentence)
    if found.verdict == "steady" and floats_exact and found.shifted:
        outputs = ", ".join(repr(output) for output in found.shifted[:3])
        notes.append(
            f"{where}the last digits of {outputs} follow those of the input, and are compared byte "
            "for byte: volunteers whose processors round differently may not agree; --tolerance "
            "allows for that"
        )
    if first.seconds >= LONG_TRIAL_S:
        notes.append(
            f"testing the first unit ({first.name}) here took {first.seconds:.0f} s; running it "
            f"once takes {found.first.cpu_ms / 1000:.1f} s of processor time"
        )
    warnings = _instability(first, floats_exact, strict)
    return Findings(warnings, tuple(notes))


def _instability(first: FirstUnit, floats_exact: bool, strict: bool) -> tuple[str, ...]:
    found, name = first.conditioning, first.name
    if found.verdict in ("steady", "too long", "untested"):
        return ()
    if found.verdict == "not deterministic":
        warning = f"the job does not give the same answer twice: in the first unit ({name}), "
        advice = (
            "Volunteers could never agree on it. Take out of the model what draws at random or "
            "depends on the order of its sums."
        )
    else:
        warning = f"the answer depends on the last digits: in the first unit ({name}), "
        advice = (
            "Volunteers whose processors round differently may not agree. Put out what is coarser "
            "or smoother: scores instead of the index of the largest, rounded values, fewer steps "
            "of a chaotic simulation."
        )
        if floats_exact:
            advice += (
                " Or say how far floating outputs may differ and still be right: --tolerance, or "
                "--tolerance NAME=ABS,REL."
            )
    if strict:
        raise P2pfleetError(
            f"The job was not published: {warning}{found.sentence}.",
            f"{advice} Without --strict it is published all the same.",
        )
    return (f"{warning}{found.sentence}. {advice}",)


async def ringers_of(
    request: SubmitRequest,
    bench: Bench,
    packs: Packs,
    table: UnitTable,
    names: list[str],
    found: Conditioning,
    keep: Callable[[bytes], Cid],
) -> tuple[Ringers, Findings]:
    """The ringers of the job, and what came of running them.

    Raises :class:`P2pfleetError` if no child can be had, a pack cannot be read back, or for
    warnings with ``strict``.
    """
    asked = request.ringers
    if asked == 0 or (asked is None and request.confidence is None):
        return Ringers(), Findings()
    if found.verdict == "not deterministic":
        return Ringers(), Findings(notes=("no ringers: the answers are not the same twice",))
    count = how_many(len(table.units), asked, found.first.wall_ms)
    if not count:
        took = found.first.wall_ms / 1000
        note = f"no ringers: a unit takes {took:.0f} s here (--ringers N asks for N all the same)"
        return Ringers(), Findings(notes=(note,))
    started = trio.current_time()
    try:
        patience_ms = PATIENCE_MS if asked is None else None
        ringers = await compute(bench, packs, table, count, patience_ms, keep)
    except ExecutionFault as fault:
        raise P2pfleetError(
            f"The ringers cannot be computed: {_plain(fault.reason)}",
            _LIMIT_ADVICE.get(fault.kind, "Try again, or leave them out with --ringers 0."),
        ) from fault
    warnings = tuple(
        f"the unit {unit} ({names[unit]}) cannot be run: {_plain(reason)}. It is likely to fail at "
        "volunteers as well."
        for unit, reason in ringers.faults
    )
    if warnings and request.strict:
        raise P2pfleetError(
            f"The job was not published: {warnings[0]}",
            "Correct the model or the input. Without --strict it is published all the same.",
        )
    notes = []
    seconds = trio.current_time() - started
    if seconds >= LONG_TRIAL_S:
        notes.append(f"computing {len(ringers.ringers)} ringers here took {seconds:.0f} s")
    if not ringers.ringers:
        notes.append("no ringers: none of the units that were drawn can be run here")
    return ringers, Findings(warnings, tuple(notes))
