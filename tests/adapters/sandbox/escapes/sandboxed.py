"""The attempts in real children: ``python -m ...escapes.sandboxed all|none [calls]``.

The argument says which namespaces there are to be; ``calls``: no attempts, but every system call
by its number. Everything is the product's own, from the pool
down to the lock-down, but for the class that would load the model. The report goes to standard
output.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from pathlib import Path
from unittest import mock

import msgspec
import trio

from p2pfleet.adapters.sandbox import SandboxConfig, SandboxPool, fork_server, open_sandbox
from p2pfleet.adapters.sandbox.job import ChildJob
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

from . import boot, outcome
from .outcome import Outcome, of_words
from .taken_over import ATTEMPTS
from .world import ARENA_BYTES, MEMORY_BYTES, WALL_MS, model_of, surroundings

IMPATIENT = frozenset({"limits.computes_on_and_on", "limits.waits_on_and_on"})
"""What may only be stopped by the wall limit, which is a short one for them."""

_LIMITS = Limits(memory_bytes=MEMORY_BYTES, cpu_ms=10_000, output_bytes=ARENA_BYTES)
_SECONDS = 100
_NUMBERS = 600
"""Beyond the highest of any kernel so far."""

_X32 = 0x4000_0000


async def main(namespaces: bool) -> None:
    """Run them all beside a child that must be unharmed in the end."""
    # On a busy machine, children that let everybody else go first would take minutes.
    config = SandboxConfig(user_namespaces=namespaces, idle=False, nice=0)
    damage: list[str] = []
    # The limit of the node's own stack is nothing that a child's may depend on.
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    with (
        mock.patch.object(fork_server, "boot", boot),
        surroundings() as around,
        trio.fail_after(_SECONDS),
    ):
        async with open_sandbox(config) as pool:
            grade = pool.report.capability.grade
            server = pool.server_pid
            sibling = await pool.load(b"", _LIMITS)
            world = around.world._replace(processes=_processes(sibling))
            names = [name for name in ATTEMPTS if name not in IMPATIENT]
            outcomes = {name: await _outcome(pool, model_of(name, world)) for name in names}
            if pool.server_pid != server:
                damage.append("the fork server has ended")
            if not await _waits(sibling):
                damage.append("another job's child has ended")
            elif os.sched_getaffinity(_host_pid(sibling)) != os.sched_getaffinity(0):
                damage.append("another job's child has been moved")
        async with open_sandbox(msgspec.structs.replace(config, load_wall_ms=WALL_MS)) as hasty:
            for name in sorted(IMPATIENT):
                outcomes[name] = await _outcome(hasty, model_of(name, world))
        damage += around.damage()
    sys.stdout.write(outcome.dump(outcomes, damage, grade))


async def every_call(namespaces: bool) -> None:
    """Make each call there is, and some that there are not, in a child of its own."""
    config = SandboxConfig(user_namespaces=namespaces, idle=False, nice=0)
    outcomes = {}
    with mock.patch.object(fork_server, "boot", boot), trio.fail_after(_SECONDS):
        async with open_sandbox(config) as pool:
            for number in (*range(_NUMBERS), -1, *range(_X32, _X32 + 3)):
                # Arguments that are good for nothing, so that no call does anything.
                source = f"got = means.syscall({number}, -1, -1, -1, -1, -1, -1)"
                outcomes[str(number)] = await _outcome(pool, source.encode())
    sys.stdout.write(outcome.dump(outcomes, [], ""))


async def _outcome(pool: SandboxPool, model: bytes) -> Outcome:
    exits: list[tuple[int, int] | None] = []
    ask = fork_server.ForkServer.exit_of

    async def ask_and_note(server: fork_server.ForkServer, child: int) -> tuple[int, int] | None:
        exits.append(await ask(server, child))
        return exits[-1]

    try:
        with mock.patch.object(fork_server.ForkServer, "exit_of", ask_and_note):
            job = await pool.load(model, _LIMITS)
    except ExecutionFault as fault:
        return _of_fault(fault, exits[-1] if exits else None)
    job.kill()
    return Outcome("broken", "", "the child is ready, as if nothing had been tried")


def _of_fault(fault: ExecutionFault, exit_: tuple[int, int] | None) -> Outcome:
    if fault.kind == "model":
        said = re.fullmatch(r'the child says: "(.*)"', fault.reason)
        return of_words(said[1] if said else fault.reason)
    if fault.kind in ("memory", "cpu", "wall"):
        return Outcome("limited", fault.kind, fault.reason)
    if exit_ is not None and exit_[0] == os.CLD_KILLED and "broke the rules" not in fault.reason:
        return Outcome("died", signal.Signals(exit_[1]).name, fault.reason)
    if "broke the rules" in fault.reason:
        return Outcome("escaped", "", f"it says what it likes: {fault.reason}")
    return Outcome("broken", "", fault.reason)


async def _waits(job: ChildJob) -> bool:
    """Whether a child that has nothing to do is still there."""
    with trio.move_on_after(0.05):
        await trio.lowlevel.wait_readable(job._pidfd)
        return False
    return True


def _host_pid(job: ChildJob) -> int:
    return int(_line("Pid", Path(f"/proc/self/fdinfo/{job._pidfd}").read_text())[0])


def _processes(sibling: ChildJob) -> tuple[int, ...]:
    """The fork server, the sibling and this process, by every number that they might go by."""
    info = Path(f"/proc/self/fdinfo/{sibling._pidfd}").read_text()
    numbers = [int(number) for number in _line("NSpid", info)]
    server = Path(f"/proc/{numbers[0]}/status").read_text()
    parent = Path(f"/proc/{_line('PPid', server)[0]}/status").read_text()
    numbers += [int(number) for number in _line("NSpid", parent)]
    numbers.append(int(_line("Pid", Path("/proc/self/status").read_text())[0]))
    return tuple(sorted(set(numbers)))


def _line(name: str, status: str) -> list[str]:
    return next(line.split()[1:] for line in status.splitlines() if line.split(":")[0] == name)


if __name__ == "__main__":
    trio.run(every_call if "calls" in sys.argv else main, sys.argv[1] == "all")
