"""Ringers: units whose answers the publisher knows, because it ran them itself beforehand.

They are drawn when all units are packed and their number is known, by the system's randomness and
without replacement, so every set of that size is equally likely; nothing of the choice depends on
the data or their order. Each input is read back out of its pack, one at a time: memory is bounded
by the largest input, however many units there are. They run in the order in which they were drawn,
so a run that is cut short leaves a set that is as good as random.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import msgspec
import trio

from p2pfleet.core.model.ids import Cid, Digest, cid_from_sha256
from p2pfleet.core.model.job import UnitTable
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire.messages import RINGERS_MAX, OpenRingers, Ringer
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.packing import read_input
from p2pfleet.ports import Execution, ExecutionFault, Packs, SandboxJob

SHARE_PERCENT = 2
PATIENCE_MS = 30_000
"""So much sandbox time the ringers take at most that nobody asked for by number."""
FAULTS_MAX = 3


class Ringers(msgspec.Struct, frozen=True):
    """What was computed. ``faults``: (unit, why it cannot be run) of drawn units that failed."""

    ringers: tuple[Ringer, ...] = ()
    secret: bytes = b""
    wall_ms: int = 0
    faults: tuple[tuple[int, str], ...] = ()

    @property
    def blobs(self) -> tuple[Cid, ...]:
        """Their outputs, which are kept as long as the job."""
        return tuple(cid_from_sha256(ringer.digest) for ringer in self.ringers)

    @property
    def hash(self) -> Digest | None:
        """What the manifest tells of them; ``None`` without any."""
        if not self.ringers:
            return None
        return Digest(ringers_hash(OpenRingers(self.secret, self.ringers)))


class Bench:
    """The publisher's child, started anew after a unit that it died of."""

    def __init__(self, child: SandboxJob, load: Callable[[], Awaitable[SandboxJob]]) -> None:
        self.child = child
        self._load = load

    async def run(self, inputs: bytes) -> Execution:
        """Run one unit. Raises :class:`ExecutionFault`."""
        try:
            return await self.child.execute(inputs)
        except ExecutionFault as fault:
            if fault.kind != "killed":
                raise
        self.child.kill()
        self.child = await self._load()
        return await self.child.execute(inputs)

    def kill(self) -> None:
        """End the child; idempotent."""
        self.child.kill()


def how_many(units: int, asked: int | None, unit_ms: int) -> int:
    """How many ringers a job of so many units gets, one of which takes ``unit_ms`` here.

    Those ``asked`` for, as far as there are units; else 2 % of the units, at least one, as many as
    an entry can name, and never more than can be run within ``PATIENCE_MS``.
    """
    if asked is not None:
        return min(asked, units, RINGERS_MAX)
    share = -(-units * SHARE_PERCENT // 100)
    return min(max(1, share), RINGERS_MAX, PATIENCE_MS // max(1, unit_ms))


async def compute(
    bench: Bench,
    packs: Packs,
    table: UnitTable,
    count: int,
    patience_ms: int | None,
    keep: Callable[[bytes], Cid],
) -> Ringers:
    """Draw ``count`` units of ``table``, run them, and ``keep`` what they gave.

    The bytes are needed later: another answer may differ from ours in the last digits only.

    Stops after ``patience_ms`` of sandbox time (``None``: never), and after ``FAULTS_MAX`` units
    that cannot be run. Raises :class:`P2pfleetError` if a pack cannot be read back, and
    :class:`ExecutionFault` if no child can be had.
    """
    drawn = secrets.SystemRandom().sample(range(len(table.units)), count)
    found: list[Ringer] = []
    faults: list[tuple[int, str]] = []
    wall_ms = 0
    for number in drawn:
        if patience_ms is not None and wall_ms >= patience_ms:
            break
        inputs = await trio.to_thread.run_sync(read_input, packs, table, number)
        try:
            execution = await bench.run(inputs)
        except ExecutionFault as fault:
            if fault.kind == "killed":
                raise
            faults.append((number, fault.reason))
            if len(faults) >= FAULTS_MAX:
                break
            continue
        wall_ms += execution.wall_ms
        await trio.to_thread.run_sync(keep, execution.outputs)
        found.append(Ringer(number, digest_of(execution.outputs)))
    ringers = tuple(sorted(found, key=lambda ringer: ringer.unit))
    return Ringers(ringers, secrets.token_bytes(32), wall_ms, tuple(faults))
