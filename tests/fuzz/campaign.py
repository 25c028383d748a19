"""Mutants through the sandbox, several at once: any child may die, the node never.

After every round the sandbox must be as it was before: the same server, an honest model that gives
the right answer, and no process, descriptor or shared memory that was not there at the beginning.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, open_sandbox
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault, ModelSignature, TensorSpec
from tests.conformance.cases import all_cases, bundle_of
from tests.fuzz.mutants import Mutant, mutant

LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=1_000, output_bytes=16 * 2**20)
# At normal priority: on a busy machine children would otherwise wait more than they compute.
CONFIG = SandboxConfig(
    memory_bytes=256 * 2**20, load_cpu_ms=1_000, load_wall_ms=10_000, wall_factor=1,
    wall_grace_ms=9_000, idle=False, nice=0,
)  # fmt: skip
HONEST_LIMITS = Limits(memory_bytes=256 * 2**20, cpu_ms=60_000, output_bytes=16 * 2**20)
HONEST = "test_matmul_2d"
ROUND = 100
AT_ONCE = 3
MAX_INPUT_ELEMENTS = 2**20
# Several times what its limits add up to: whoever waits longer waits for nothing.
STUCK_SECONDS = 60
MAX_DEATHS_TOLD = 2000


class Death(NamedTuple):
    """A child that ended otherwise than by itself; ``number`` and the seed rebuild its mutant."""

    number: int
    kind: str
    reason: str
    phase: str
    base: str
    mutations: tuple[str, ...]
    op_types: tuple[str, ...]


class Ending(NamedTuple):
    """What became of one mutant."""

    category: str
    kind: str
    reason: str
    phase: str


class Result:
    """What a campaign saw, so far."""

    def __init__(self) -> None:
        self.models = 0
        self.rounds = 0
        self.endings: Counter[str] = Counter()
        self.deaths: list[Death] = []
        self.mistakes: list[str] = []
        """What must never happen; empty if the node held."""


async def run_campaign(
    seed: str,
    seconds: float,
    *,
    only: int | None = None,
    after_round: Callable[[Result], Awaitable[None]] | None = None,
) -> Result:
    """Mutants 0, 1, 2 ... of ``seed`` until the time is up, or mutant ``only`` alone.

    ``after_round``: called before the sandbox is looked at after a round.
    """
    all_cases()  # takes its time, which is not the campaign's
    result = Result()
    async with open_sandbox(CONFIG) as sandbox:
        server = sandbox.server_pid
        await _serve_honestly(sandbox, result)
        before = _belongings()
        deadline = time.monotonic() + seconds
        indices = iter([only]) if only is not None else itertools.count()
        while True:
            batch = list(itertools.islice(indices, ROUND))
            if not batch or (only is None and time.monotonic() >= deadline):
                break
            waiting = iter(batch)
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(_work, sandbox, seed, waiting, deadline, result, only)
            result.rounds += 1
            if after_round is not None:
                await after_round(result)
            await _serve_honestly(sandbox, result)
            if sandbox.server_pid != server:
                result.mistakes.append(f"round {result.rounds}: the server was ended")
                server = sandbox.server_pid
                before = _belongings()
            elif left := await _left_behind(before):
                result.mistakes.append(f"round {result.rounds}: left behind: {', '.join(left)}")
    if left := sorted(one for one in _belongings() if one.startswith("process")):
        result.mistakes.append(f"processes that outlived the sandbox: {', '.join(left)}")
    return result


async def _work(
    sandbox: SandboxPool,
    seed: str,
    indices: Iterator[int],
    deadline: float,
    result: Result,
    only: int | None,
) -> None:
    for index in indices:
        if only is None and time.monotonic() >= deadline:
            return
        one = mutant(seed, index)
        ending = Ending("node failed", "", "", "")
        try:
            with trio.fail_after(STUCK_SECONDS):
                ending = await _run(sandbox, one)
        except trio.TooSlowError:
            result.mistakes.append(f"index {index}: no answer within {STUCK_SECONDS} s")
        except Exception as error:  # the very thing that this looks for
            result.mistakes.append(f"index {index}: {type(error).__name__}: {error}")
        result.models += 1
        result.endings[ending.category] += 1
        if ending.category.startswith("died") and len(result.deaths) < MAX_DEATHS_TOLD:
            result.deaths.append(
                Death(
                    index,
                    ending.kind,
                    ending.reason,
                    ending.phase,
                    one.base,
                    one.mutations,
                    one.op_types,
                )
            )


async def _run(sandbox: SandboxPool, one: Mutant) -> Ending:
    phase = "load"
    try:
        job = await sandbox.load(one.model, LIMITS)
        phase = "run"
        try:
            bundle = fitting_bundle(one.feeds, job.signature)
            if bundle is None:
                return Ending("loaded, takes too large inputs", "", "", phase)
            await job.execute(bundle)
        finally:
            job.kill()
    except ExecutionFault as fault:
        return Ending(_category(fault, phase), fault.kind, fault.reason, phase)
    return Ending("ran", "", "", phase)


def _category(fault: ExecutionFault, phase: str) -> str:
    if fault.reason.startswith("the child says"):
        return f"refused at {phase}: {fault.kind}"
    if "broke the rules of its channel" in fault.reason:
        return f"died at {phase}: broke the channel's rules"
    named = re.search(r"\bSIG[A-Z0-9]+|\bsignal \d+|status \d+", fault.reason)
    return f"died at {phase}: {fault.kind}" + (f" ({named[0]})" if named else "")


def fitting_bundle(feeds: dict[str, Any], signature: ModelSignature) -> bytes | None:
    """Inputs for the model: the mutant's own where they fit, zeros elsewhere.

    ``None`` if the model wants more than is worth sending.
    """
    values = {}
    for spec in signature.inputs:
        own = feeds.get(spec.name)
        if isinstance(own, np.ndarray) and own.dtype.name == spec.dtype and _fits(spec, own.shape):
            values[spec.name] = own
            continue
        shape = tuple(1 if dim is None else dim for dim in spec.shape)
        if np.prod(shape, dtype=np.float64) > MAX_INPUT_ELEMENTS:
            return None
        values[spec.name] = np.zeros(shape, spec.dtype)
    return bundle_of(values)


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    return not spec.shape or (
        len(spec.shape) == len(shape)
        and all(want in (None, have) for want, have in zip(spec.shape, shape, strict=True))
    )


async def _serve_honestly(sandbox: SandboxPool, result: Result) -> None:
    """One job of a sane publisher: it must be served, and rightly."""
    case = next(case for case in all_cases() if case.name == HONEST)
    bundle = bundle_of(case.feeds)
    assert bundle is not None
    a, b = case.feeds.values()
    expected = (a @ b).astype(np.float32)
    try:
        with trio.fail_after(STUCK_SECONDS):
            job = await sandbox.load(case.model, HONEST_LIMITS)
            outputs = (await job.execute(bundle)).outputs
            job.kill()
    except (ExecutionFault, trio.TooSlowError) as error:
        result.mistakes.append(f"round {result.rounds}: an honest job failed: {error!r}")
        return
    found = np.frombuffer(outputs[-expected.nbytes :], np.float32).reshape(expected.shape)
    if not np.allclose(found, expected, rtol=1e-5):
        result.mistakes.append(f"round {result.rounds}: an honest job got a wrong answer")


async def _left_behind(before: Counter[str]) -> list[str]:
    """What there is now and was not ``before``, once the dead have had time to be collected."""
    left: list[str] = []
    with trio.move_on_after(5):
        while left := sorted((_belongings() - before).elements()):  # noqa: ASYNC110
            await trio.sleep(0.01)
    return left


def _belongings() -> Counter[str]:
    """The processes under this one, and its descriptors and its mappings of shared memory."""
    held: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        held[f"process {process.pid}"] += 1
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the descriptor through which the folder was read
        # A socket's number says nothing; how many there are does.
        held["descriptor of " + re.sub(r"\d+", "N", target)] += 1
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:p2pfleet" in line:
            held["mapping of " + line.split(maxsplit=5)[5]] += 1
    return held
