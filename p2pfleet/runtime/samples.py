"""Challenges: a keeper shows a piece of a blob that is here as well.

The piece is drawn when it is asked for, so that nobody can prepare for it, and compared with the
same bytes here. Where they differ this node's own blob is checked first: it may be its disk.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

import trio

from p2pfleet.core.effects import Challenge
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.events import ChallengeAnswered, Event
from p2pfleet.core.machines.challenges import ABSENT, GOOD, LOST, WRONG
from p2pfleet.core.model.ids import cid_from_sha256
from p2pfleet.core.model.job import BlobRef
from p2pfleet.core.rules.custody import SAMPLE_BYTES
from p2pfleet.ports import BlobNotFound, Bulk, Packs
from p2pfleet.runtime.outputs import Candidate

log = logging.getLogger(__name__)

UNASKED: Final = "unasked"
PATIENCE_S: Final = 60.0
AT_ONCE: Final = 2


class _Sample(Candidate):
    """A piece as it comes: what it has to be is known here, and nobody is blamed by the network."""

    def finish(self) -> bool:
        """Take it as it is."""
        return True


class Samples:
    """Asks for pieces, a few at a time."""

    def __init__(self, packs: Packs, bulk: Bulk) -> None:
        self._packs = packs
        self._bulk = bulk
        self._slots = trio.Semaphore(AT_ONCE)

    async def ask(self, effect: Challenge) -> list[Event]:
        """The answer to an effect."""
        async with self._slots:
            verdict = await self._ask(effect)
        if verdict != GOOD:
            log.info("%s keeps %s: %s", effect.peer.hex()[:8], effect.digest.hex()[:16], verdict)
        return [ChallengeAnswered(effect.job, effect.digest, effect.peer, verdict)]

    async def _ask(self, effect: Challenge) -> str:
        size = min(SAMPLE_BYTES, effect.length)
        offset = secrets.randbelow(effect.length - size + 1)
        own = await trio.to_thread.run_sync(self._read, effect, offset, size)
        if own is None:
            return LOST
        # Of another hash than the whole blob's, so that it is a piece of its own to everybody.
        ref = BlobRef(cid_from_sha256(effect.digest), offset, size, bytes(32))
        sample = _Sample(ref)
        with trio.move_on_after(PATIENCE_S):
            try:
                await self._bulk.fetch(sample, (effect.peer,))
            except (BlobNotFound, P2pfleetError):
                return ABSENT
            if bytes(sample.data) == own:
                return GOOD
            return await trio.to_thread.run_sync(self._whose_fault, effect)
        return ABSENT

    def _read(self, effect: Challenge, offset: int, size: int) -> bytes | None:
        place = self._packs.locate(cid_from_sha256(effect.digest))
        if place is None or place[2] != effect.length:
            return None
        path, start, _ = place
        try:
            with path.open("rb") as file:
                file.seek(start + offset)
                data = file.read(size)
        except OSError:
            return None
        return data if len(data) == size else None

    def _whose_fault(self, effect: Challenge) -> str:
        try:
            self._packs.read(cid_from_sha256(effect.digest))
        except (KeyError, P2pfleetError):
            return LOST
        return WRONG
