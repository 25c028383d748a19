"""What the owner of the machine grants to one child."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pfleet.adapters.sandbox.inside.terms import Terms
from p2pfleet.core.model.job import Limits
from p2pfleet.ports import ExecutionFault

Milliseconds = Annotated[int, Meta(ge=1, le=7 * 24 * 3600 * 1000)]


class SandboxConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The owner's caps; where the manifest allows less, the manifest wins.

    How much memory a child may take in all: ``memory_bytes`` of private memory on top of the warm
    runtime (about 60 MB, most of it shared by all children), plus the model, the largest input and
    at most ``min(output_bytes, memory_bytes)`` of output in shared memory. To load a model takes
    about three times its size (a model of 32 MB: 97 MB), the smallest ones run with 2 MB.

    The number of threads is not here: it is one, because results may depend on it.
    """

    memory_bytes: Annotated[int, Meta(ge=2**20, le=2**40)] = 2 * 2**30
    """Private memory of one child."""

    cpu_ms: Milliseconds = 600_000
    """CPU time of one unit."""

    wall_factor: Annotated[int, Meta(ge=1, le=1000)] = 10
    """The wall limit of a unit: so many times its CPU limit ..."""

    wall_grace_ms: Milliseconds = 5_000
    """... and so much more ..."""

    max_wall_ms: Milliseconds = 3_600_000
    """... but never more than this. Time in which the child is frozen does not count."""

    load_cpu_ms: Milliseconds = 30_000
    """CPU time of loading a model."""

    load_wall_ms: Milliseconds = 60_000
    """Wall time of loading a model."""

    start_wall_ms: Milliseconds = 30_000
    """Wall time in which the fork server has to be warm."""

    nice: Annotated[int, Meta(ge=0, le=19)] = 19
    """How politely the children compute."""

    idle: bool = True
    """Whether they compute only where the machine has nothing else to do (SCHED_IDLE)."""

    contrib_ops: bool = False
    """Whether models may use operators of the domain com.microsoft."""

    user_namespaces: bool = True
    """Whether to use namespaces where the machine allows it; ``False`` makes the grade B."""

    def terms(self, limits: Limits, model_bytes: int) -> Terms:
        """The limits of a child for a job with ``limits`` and a model of so many bytes.

        Raises :class:`ExecutionFault` if there is no room for such a model.
        """
        memory_bytes = min(limits.memory_bytes, self.memory_bytes)
        if model_bytes > memory_bytes:
            raise ExecutionFault(
                "memory",
                f"the model of {model_bytes} bytes is larger than the memory limit of "
                f"{memory_bytes}",
            )
        return Terms(
            memory_bytes=memory_bytes,
            cpu_ms=min(limits.cpu_ms, self.cpu_ms),
            load_cpu_ms=min(self.load_cpu_ms, self.cpu_ms),
            output_bytes=limits.output_bytes,
            model_bytes=model_bytes,
            # Larger bundles could not be unpacked within the memory limit anyway.
            input_capacity=memory_bytes,
            output_capacity=min(limits.output_bytes, memory_bytes),
            nice=self.nice,
            idle=self.idle,
            contrib_ops=self.contrib_ops,
        )

    def wall_ms(self, cpu_ms: int) -> int:
        """The wall limit of a unit that may use ``cpu_ms`` of CPU time."""
        return min(self.wall_factor * cpu_ms + self.wall_grace_ms, self.max_wall_ms)
