"""The outputs that are kept here: committed to, held against commitments, and compared.

All of it reads whole outputs and hashes or measures them, so it happens in threads, a few at a
time whatever is asked for; one call is one thread's work, and ends between two outputs when the job
it is for is shut.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import Final

import trio

from p2pfleet.core.effects import CheckCommitments, Compare, MakeCommitments
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.events import CommitmentsChecked, CommitmentsMade, Event, UnitUnavailable
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, NetworkId, PeerId, cid_from_sha256
from p2pfleet.core.model.job import BlobRef, Exact
from p2pfleet.core.rules.commitment import SEED_BYTES, commitment
from p2pfleet.core.wire.messages import RevealItem
from p2pfleet.ports import BlobNotFound, Bulk, Packs
from p2pfleet.runtime.comparison import verdict

log = logging.getLogger(__name__)

READERS_AT_ONCE: Final = 2
COMPARED_AT_ONCE: Final = 4
PATIENCE_S: Final = 60.0
SLOWEST_BYTES_PER_S: Final = 16 * 1024
UNAVAILABLE: Final = "unavailable"
LOST: Final = "the output was here and is gone; the unit has to be run again"


class Candidate:
    """Another's output while it arrives: the port ``PartialBlob``, in memory.

    It never lies among the blobs that this node serves: it was given to us as one who ran the unit,
    and is not ours to hand on.
    """

    def __init__(self, ref: BlobRef) -> None:
        self.ref = ref
        self.data = bytearray()

    @property
    def present(self) -> int:
        """Bytes that are here."""
        return len(self.data)

    def write(self, data: bytes) -> None:
        """Append."""
        assert len(self.data) + len(data) <= self.ref.length
        self.data += data

    def pieces(self) -> None:
        """It grows from the front, and nobody else gets it."""

    def restart(self) -> None:
        """Throw away what is here."""
        self.data.clear()

    def finish(self) -> bool:
        """Check the hash; begin anew if it is wrong."""
        if hashlib.sha256(self.data).digest() == self.ref.sha256:
            return True
        self.restart()
        return False


def unchecked(effect: CheckCommitments) -> CommitmentsChecked:
    """The answer of who cannot read the output."""
    lost = tuple((item.unit, item.attempt, item.peer) for item in effect.items)
    return CommitmentsChecked(effect.job, effect.digest, (), (), lost)


class Outputs:
    """What this node, ``me`` in ``network``, does with the outputs in ``packs``."""

    def __init__(self, packs: Packs, bulk: Bulk, me: PeerId, network: NetworkId) -> None:
        self._packs = packs
        self._bulk = bulk
        self._me = me
        self._network = network
        self._readers = trio.CapacityLimiter(READERS_AT_ONCE)
        self._comparing = trio.Semaphore(COMPARED_AT_ONCE)

    # ---- commitments -------------------------------------------------------------------------

    async def commit(self, effect: MakeCommitments) -> list[Event]:
        """The answers to an effect: commitments to what could be read (however little that is), and
        what could not."""
        return await trio.to_thread.run_sync(self._commit, effect, limiter=self._readers)

    def _commit(self, effect: MakeCommitments) -> list[Event]:
        job, seed = effect.job, secrets.token_bytes(SEED_BYTES)
        items: list[RevealItem] = []
        made: list[bytes] = []
        lost: list[Event] = []
        for item in effect.items:
            trio.from_thread.check_cancelled()
            try:
                output = self._packs.read(cid_from_sha256(item.digest))
            except KeyError:
                lost.append(UnitUnavailable(job, item.unit, LOST))
            except P2pfleetError as error:
                lost.append(UnitUnavailable(job, item.unit, str(error)[:300]))
            else:
                items.append(item)
                made.append(
                    commitment(self._network, job, item.unit, item.attempt, self._me, seed, output)
                )
        answer = CommitmentsMade(job, seed, tuple(items), tuple(made))
        return [answer, *lost]

    async def check(self, effect: CheckCommitments) -> list[Event]:
        """The answer to an effect, also if the output is not here (any more)."""
        return await trio.to_thread.run_sync(self._check, effect, limiter=self._readers)

    def _check(self, effect: CheckCommitments) -> list[Event]:
        job, digest = effect.job, effect.digest
        try:
            output = self._packs.read(cid_from_sha256(digest))
        except (KeyError, P2pfleetError) as error:
            log.info("commitments to %s are not checked: %s", digest.hex()[:16], error)
            return [unchecked(effect)]
        good: list[tuple[int, int, PeerId]] = []
        bad: list[tuple[int, int, PeerId]] = []
        for item in effect.items:
            trio.from_thread.check_cancelled()
            right = commitment(
                self._network, job, item.unit, item.attempt, item.peer, item.seed, output
            )
            found = good if right == item.commitment else bad
            found.append((item.unit, item.attempt, item.peer))
        return [CommitmentsChecked(job, digest, tuple(good), tuple(bad))]

    # ---- comparison --------------------------------------------------------------------------

    async def compare(self, effect: Compare, comparison: Exact | Tolerance) -> str:
        """Fetch the candidate, and what ``verdict`` says of it; or that it could not be had.

        A source that only just does not stop sending is left in time, for nobody withdraws a
        comparison.
        """
        ref = effect.candidate
        async with self._comparing:
            candidate = Candidate(ref)
            try:
                if not await trio.to_thread.run_sync(self._packs.has, cid_from_sha256(ref.sha256)):
                    patience_s = PATIENCE_S + ref.length / SLOWEST_BYTES_PER_S
                    with trio.move_on_after(patience_s) as patience:
                        await self._bulk.fetch(candidate, effect.sources)
                    if patience.cancelled_caught:
                        return UNAVAILABLE
                return await trio.to_thread.run_sync(
                    self._compare, candidate, effect.own, comparison, limiter=self._readers
                )
            except (BlobNotFound, P2pfleetError, KeyError) as error:
                log.info("output %s is not compared: %s", ref.sha256.hex()[:16], error)
                return UNAVAILABLE

    def _compare(self, candidate: Candidate, own: Digest, comparison: Exact | Tolerance) -> str:
        mine = self._packs.read(cid_from_sha256(own))
        trio.from_thread.check_cancelled()
        theirs = bytes(candidate.data)
        candidate.restart()
        if not theirs:  # it was here already
            theirs = self._packs.read(cid_from_sha256(candidate.ref.sha256))
        trio.from_thread.check_cancelled()
        return verdict(theirs, mine, comparison)
