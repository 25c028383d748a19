"""What the node and a child agree on before the child exists."""

from __future__ import annotations

from typing import NamedTuple

INLINE_BYTES = 64 * 1024
"""Bundles up to this size travel in the message itself, larger ones through the arena."""

MAX_MESSAGE_BYTES = 160 * 1024
"""The largest message on a child's channel; fits a Unix socket's default send buffer."""

MAX_REASON_CHARS = 300

EXIT_MEMORY = 86
"""How a child ends that has no memory left even to say so."""

EXIT_UNLOCKED = 87
"""How a child ends that could not be locked down; it has not touched its model."""

OWN_FD = 3
"""The first descriptor a child does not have: 0 is its channel, 1 and 2 are /dev/null."""


class Terms(NamedTuple):
    """The limits of one child, decided by the node (the smaller of manifest and owner)."""

    memory_bytes: int
    """Private memory on top of what the warm, idle runtime already holds (about 60 MB, shared)."""

    cpu_ms: int
    """CPU time of one unit."""

    load_cpu_ms: int
    """CPU time of loading the model."""

    output_bytes: int
    """The largest output bundle."""

    model_bytes: int
    """The size of the model, which lies in its own sealed memory."""

    input_capacity: int
    """Bytes of address space for the input half of the arena."""

    output_capacity: int
    """Bytes of the output half of the arena."""

    nice: int
    """How politely it computes, 0 to 19."""

    idle: bool = True
    """Whether it computes only where the machine has nothing else to do (SCHED_IDLE)."""

    contrib_ops: bool = False
    """Whether the model may use operators of the domain com.microsoft."""
